//! A domain that is destroyed says nothing to anybody.

use std::sync::atomic::Ordering;

use vchan::DomId;
use vchan::host::{GrantRef, UnmapNotify};
use vchan::memory::Access;
use vchan_emulator::Emulator;

const RW: Access = Access::ReadWrite;

fn domid(number: u16) -> DomId {
    DomId::new(number).unwrap()
}

fn emulator() -> Emulator {
    let emulator = Emulator::start().unwrap();
    emulator.add_domain(DomId::DOM0).unwrap();
    emulator.add_domain(domid(1)).unwrap();
    emulator
}

#[test]
fn what_it_had_mapped_is_unmapped_without_notice() {
    let emulator = emulator();
    let (dom0, guest) = (
        emulator.host(DomId::DOM0).unwrap(),
        emulator.host(domid(1)).unwrap(),
    );
    let ours = dom0.events().bind_unbound(domid(1)).unwrap();
    let shared = dom0.grants().share(domid(1), 1, RW, None).unwrap();
    let theirs = guest
        .events()
        .bind_interdomain(DomId::DOM0, ours.port())
        .unwrap();
    let notify = UnmapNotify {
        offset: 20,
        port: theirs.port(),
    };
    let mapped = guest
        .grants()
        .map(DomId::DOM0, &shared.references, RW, Some(notify))
        .unwrap();
    mapped.store_byte(20, 1, Ordering::SeqCst);
    emulator.destroy_domain(domid(1)).unwrap();
    // Nor when its processes notice and tidy up.
    drop((mapped, theirs));
    assert_eq!(shared.region.load_byte(20, Ordering::SeqCst), 1);
    assert!(!ours.take().unwrap());
    assert_eq!(ours.is_bound().unwrap(), Some(false));
    drop((shared, ours));
    emulator.assert_clean();
}

#[test]
fn what_others_have_mapped_of_it_stays_but_cannot_be_mapped_anew() {
    let emulator = emulator();
    let (dom0, guest) = (
        emulator.host(DomId::DOM0).unwrap(),
        emulator.host(domid(1)).unwrap(),
    );
    let theirs = guest.events().bind_unbound(DomId::DOM0).unwrap();
    let shared = guest.grants().share(DomId::DOM0, 1, RW, None).unwrap();
    shared.region.copy_in(0, b"old");
    let ours = dom0
        .events()
        .bind_interdomain(domid(1), theirs.port())
        .unwrap();
    let notify = UnmapNotify {
        offset: 1,
        port: ours.port(),
    };
    let mapped = dom0
        .grants()
        .map(domid(1), &shared.references, RW, Some(notify))
        .unwrap();
    emulator.destroy_domain(domid(1)).unwrap();
    emulator.add_domain(domid(1)).unwrap();
    let gone = dom0.grants().map(domid(1), &[GrantRef(8)], RW, None);
    assert!(gone.unwrap_err().is_stale());

    // The next domain of that number shares under the same reference, and that is another page.
    let next = emulator.host(domid(1)).unwrap();
    let fresh = next.grants().share(DomId::DOM0, 1, RW, None).unwrap();
    assert_eq!(fresh.references, [GrantRef(8)]);
    let mut bytes = [0; 3];
    mapped.copy_out(0, &mut bytes);
    assert_eq!(&bytes, b"old");
    drop((mapped, ours));
    fresh.region.copy_out(0, &mut bytes);
    assert_eq!(bytes, [0; 3]);
    // What the old domain's process drops does not end what is the new one's.
    drop((shared, theirs));
    assert!(
        dom0.grants()
            .map(domid(1), &fresh.references, RW, None)
            .is_ok()
    );
    drop(fresh);
    emulator.assert_clean();
}

#[test]
fn domains_come_and_go_in_quick_succession() {
    let emulator = emulator();
    let dom0 = emulator.host(DomId::DOM0).unwrap();
    for _ in 0..50 {
        emulator.destroy_domain(domid(1)).unwrap();
        emulator.add_domain(domid(1)).unwrap();
        let guest = emulator.host(domid(1)).unwrap();
        let shared = guest.grants().share(DomId::DOM0, 2, RW, None).unwrap();
        let _mapped = dom0
            .grants()
            .map(domid(1), &shared.references, RW, None)
            .unwrap();
        guest
            .store()
            .write(&"data/key".parse().unwrap(), b"x")
            .unwrap();
    }
    emulator.destroy_domain(domid(1)).unwrap();
    emulator.assert_clean();
}

#[test]
fn a_host_that_ends_while_it_is_used_is_an_error_to_its_users() {
    let emulator = emulator();
    let directory = emulator.directory().to_owned();
    let dom0 = emulator.host(DomId::DOM0).unwrap();
    let shared = dom0.grants().share(domid(1), 1, RW, None).unwrap();
    let port = dom0.events().bind_unbound(domid(1)).unwrap();
    let watch = dom0.store().watch(&"/local".parse().unwrap()).unwrap();
    drop(emulator);
    assert!(!directory.exists());
    assert!(dom0.grants().share(domid(1), 1, RW, None).is_err());
    assert!(port.is_bound().is_err());
    assert!(
        port.notify().is_ok(),
        "as on Xen, where nobody may be at the other end"
    );
    assert!(dom0.store().read(&"name".parse().unwrap()).is_err());
    shared
        .region
        .copy_in(0, b"the pages stay while they are mapped");
    drop((shared, port, watch));
}
