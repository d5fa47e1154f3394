//! Unmap-notify: what the host does for a peer when pages go.

use std::sync::atomic::Ordering;

use vchan::host::{Port, UnmapNotify};
use vchan::memory::{Access, Region};
use vchan::{DomId, Host};
use vchan_emulator::Emulator;

const RW: Access = Access::ReadWrite;

fn domid(number: u16) -> DomId {
    DomId::new(number).unwrap()
}

fn world() -> (Emulator, Host, Host) {
    let emulator = Emulator::start().unwrap();
    let [dom0, guest] = [0, 1].map(|number| {
        emulator.add_domain(domid(number)).unwrap();
        emulator.host(domid(number)).unwrap()
    });
    (emulator, dom0, guest)
}

fn byte(region: &Region, offset: usize) -> u8 {
    region.load_byte(offset, Ordering::SeqCst)
}

#[test]
fn the_notice_of_an_unmapping_clears_the_byte_and_sends_the_event() {
    let (emulator, dom0, guest) = world();
    let server = guest.events().bind_unbound(DomId::DOM0).unwrap();
    let shared = guest.grants().share(DomId::DOM0, 1, RW, None).unwrap();
    let client = dom0
        .events()
        .bind_interdomain(domid(1), server.port())
        .unwrap();
    let notify = UnmapNotify {
        offset: 20,
        port: client.port(),
    };
    let mapped = dom0
        .grants()
        .map(domid(1), &shared.references, RW, Some(notify))
        .unwrap();
    mapped.copy_in(18, &[9; 5]);
    // As on Linux, the notice keeps the port open until it is given.
    drop(client);
    assert_eq!(server.is_bound().unwrap(), Some(true));
    assert!(!server.take().unwrap());
    drop(mapped);
    let mut around = [0; 5];
    shared.region.copy_out(18, &mut around);
    assert_eq!(around, [9, 9, 0, 9, 9]);
    assert!(server.take().unwrap());
    assert_eq!(server.is_bound().unwrap(), Some(false));
    drop((server, shared));
    emulator.assert_clean();
}

#[test]
fn the_end_of_a_share_gives_its_notice_too() {
    let (_emulator, dom0, guest) = world();
    let server = guest.events().bind_unbound(DomId::DOM0).unwrap();
    let notify = UnmapNotify {
        offset: 21,
        port: server.port(),
    };
    let shared = guest
        .grants()
        .share(DomId::DOM0, 1, RW, Some(notify))
        .unwrap();
    shared.region.store_byte(21, 1, Ordering::SeqCst);
    let client = dom0
        .events()
        .bind_interdomain(domid(1), server.port())
        .unwrap();
    let mapped = dom0
        .grants()
        .map(domid(1), &shared.references, RW, None)
        .unwrap();
    assert!(client.take().unwrap(), "the event that comes with binding");
    client.unmask().unwrap();
    drop(shared);
    assert_eq!(byte(&mapped, 21), 0);
    assert!(client.take().unwrap());
}

#[test]
fn a_notice_needs_a_port_and_a_byte_of_the_page() {
    let (emulator, _dom0, guest) = world();
    let port = guest.events().bind_unbound(DomId::DOM0).unwrap();
    for (offset, number) in [(21, 99), (4096, port.port().0)] {
        let notify = Some(UnmapNotify {
            offset,
            port: Port(number),
        });
        assert!(
            guest.grants().share(DomId::DOM0, 1, RW, notify).is_err(),
            "{offset}"
        );
    }
    drop(port);
    emulator.assert_clean();
}
