//! Processes that send nonsense, or reach for what is not theirs, and many at once.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use vchan::DomId;
use vchan::host::UnmapNotify;
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

/// A process that speaks to the control socket by itself.
struct Raw(OwnedFd);

impl Raw {
    fn new(emulator: &Emulator, number: u16) -> Raw {
        let path = emulator.domain_directory(domid(number)).join("control");
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Raw(socket)
    }

    /// The answer to a message; empty when the connection was dropped instead.
    fn ask(&self, message: &[u8]) -> Vec<u8> {
        let mut answer = vec![0; 1 << 16];
        rustix::net::send(&self.0, message, SendFlags::NOSIGNAL).unwrap();
        let (length, _) =
            rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty()).unwrap_or((0, 0));
        answer.truncate(length);
        answer
    }
}

#[test]
fn nonsense_ends_the_connection_and_nothing_else() {
    let emulator = emulator();
    let host = emulator.host(domid(1)).unwrap();
    for message in [&[][..], &[200], &[0; 3], &[2; 100], &[0xFF; 60_000]] {
        assert!(
            Raw::new(&emulator, 1).ask(message).is_empty(),
            "{} bytes",
            message.len()
        );
    }
    assert!(host.events().bind_unbound(DomId::DOM0).is_ok());
    emulator.assert_clean();
}

#[test]
fn one_process_cannot_undo_what_another_did() {
    let emulator = emulator();
    let (dom0, guest) = (
        emulator.host(DomId::DOM0).unwrap(),
        emulator.host(domid(1)).unwrap(),
    );
    let port = guest.events().bind_unbound(DomId::DOM0).unwrap();
    let shared = guest.grants().share(DomId::DOM0, 1, RW, None).unwrap();
    let mapped = dom0
        .grants()
        .map(domid(1), &shared.references, RW, None)
        .unwrap();
    let before = emulator.leftovers();
    let (of_guest, of_dom0) = (Raw::new(&emulator, 1), Raw::new(&emulator, 0));
    for id in 0..40u64 {
        for what in [1, 3] {
            let message = [&[what][..], &id.to_le_bytes()].concat();
            assert!(!of_guest.ask(&message).is_empty());
            assert!(!of_dom0.ask(&message).is_empty());
        }
        let close = [&[6][..], &id.to_le_bytes()[..4]].concat();
        assert!(!of_guest.ask(&close).is_empty());
    }
    assert_eq!(emulator.leftovers(), before);
    drop((of_guest, of_dom0, port, shared, mapped));
    emulator.assert_clean();
}

#[test]
fn many_threads_of_many_processes_leave_nothing_behind() {
    let emulator = emulator();
    std::thread::scope(|scope| {
        for nth in 0..4u8 {
            let (dom0, guest) = (
                emulator.host(DomId::DOM0).unwrap(),
                emulator.host(domid(1)).unwrap(),
            );
            scope.spawn(move || {
                for round in 0..100u8 {
                    let theirs = guest.events().bind_unbound(DomId::DOM0).unwrap();
                    let notify = |port| Some(UnmapNotify { offset: 7, port });
                    let shared = guest
                        .grants()
                        .share(DomId::DOM0, 3, RW, notify(theirs.port()))
                        .unwrap();
                    let ours = dom0
                        .events()
                        .bind_interdomain(domid(1), theirs.port())
                        .unwrap();
                    let mapped = dom0
                        .grants()
                        .map(domid(1), &shared.references, RW, notify(ours.port()))
                        .unwrap();
                    let key = format!("data/{nth}/{round}").parse().unwrap();
                    guest.store().write(&key, &[round]).unwrap();
                    shared.region.store_byte(4096, round, Ordering::SeqCst);
                    theirs.notify().unwrap();
                    ours.sleep(None).unwrap();
                    assert!(ours.take().unwrap());
                    assert_eq!(mapped.load_byte(4096, Ordering::SeqCst), round);
                    guest.store().remove(&key).unwrap();
                    if round % 2 == 0 {
                        drop((shared, theirs));
                    }
                }
                guest
                    .store()
                    .remove(&format!("data/{nth}").parse().unwrap())
                    .unwrap();
            });
        }
    });
    emulator.assert_clean();
}
