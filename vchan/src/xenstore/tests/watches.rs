//! Watches: events at any moment, in any number, for anyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use super::*;
use crate::host::Store;
use crate::{StoreErrorKind, poll};

fn soon() -> Option<crate::host::Time> {
    Some(poll::now().after(Duration::from_millis(30)))
}

fn patiently() -> Option<crate::host::Time> {
    Some(poll::now().after(PATIENCE))
}

#[test]
fn a_watch_fires_when_set_and_after_each_change() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            assert_eq!(strings(&watch)[0], "data/x");
            store.ok(&watch);
            store.event(&watch);
            let read = store.expect(Kind::READ);
            store.event(&watch);
            store.event(&watch);
            store.reply(&read, b"");
            let unwatch = store.expect(Kind::UNWATCH);
            assert_eq!(unwatch.payload, watch.payload);
            store.ok(&unwatch);
            let read = store.expect(Kind::READ);
            store.reply(&read, b"");
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            assert!(watch.wait(patiently()).unwrap());
            assert!(!watch.wait(soon()).unwrap());
            assert!(!watch.take().unwrap());
            client.read(&path("data/x")).unwrap();
            assert!(watch.take().unwrap(), "two changes are one event");
            assert!(!watch.take().unwrap());
            drop(watch);
            client.read(&path("data/x")).unwrap();
        },
    );
}

#[test]
fn fault_e08_an_event_before_the_reply_that_sets_the_watch() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.event(&watch);
            store.ok(&watch);
            store.next();
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            assert!(watch.take().unwrap());
        },
    );
}

#[test]
fn fault_e08_events_that_concern_no_one_are_ignored() {
    play(
        |store| {
            let read = store.expect(Kind::READ);
            for payload in [
                &b""[..],
                b"data/x\0",
                b"data/x\0vchan-99\0",
                b"data/x\0vchan-\0",
                b"data/x\0vchan-99999999999999999999\0",
                b"data/x\0something else\0",
                b"\xFF\xFF\0\xFE\0",
                b"data/x\0vchan-1",
            ] {
                let event = Message {
                    payload: payload.to_vec(),
                    ..watch_event(&read)
                };
                store.send(&event);
            }
            store.reply(&read, b"value");
        },
        |client| assert_eq!(client.read(&path("data/x")).unwrap(), b"value"),
    );
}

#[test]
fn fault_e08_a_flood_of_events_takes_neither_memory_nor_other_replies() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            let read = store.expect(Kind::READ);
            let many = watch_event(&watch).encode().unwrap().repeat(1000);
            for _ in 0..100 {
                store.send_bytes(&many);
            }
            store.reply(&read, b"value");
            store.next();
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            assert_eq!(client.read(&path("data/x")).unwrap(), b"value");
            assert!(watch.take().unwrap());
            assert!(!watch.take().unwrap());
        },
    );
}

#[test]
fn fault_e08_an_event_for_a_watch_that_was_removed() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            let unwatch = store.expect(Kind::UNWATCH);
            store.event(&watch);
            store.error(&unwatch, "ENOENT");
            let read = store.expect(Kind::READ);
            store.reply(&read, b"value");
        },
        |client| {
            drop(client.watch(&path("data/x")).unwrap());
            assert_eq!(client.read(&path("data/x")).unwrap(), b"value");
        },
    );
}

#[test]
fn each_watch_has_its_own_events() {
    play(
        |store| {
            let first = store.expect(Kind::WATCH);
            store.ok(&first);
            let second = store.expect(Kind::WATCH);
            store.ok(&second);
            assert_ne!(first.payload, second.payload, "the same path, two tokens");
            store.event(&second);
            store.next();
        },
        |client| {
            let first = client.watch(&path("data/x")).unwrap();
            let second = client.watch(&path("data/x")).unwrap();
            assert!(second.wait(patiently()).unwrap());
            assert!(!first.take().unwrap());
        },
    );
}

#[test]
fn a_watch_that_the_store_refuses() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.error(&watch, "E2BIG");
            assert!(store.next().is_none(), "there is nothing to remove");
        },
        |client| {
            let error = client.watch(&path("data/x")).err().unwrap();
            assert_eq!(error.kind, StoreErrorKind::Quota);
        },
    );
}

#[test]
fn a_watch_that_is_set_too_late_is_removed() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            let unwatch = store.expect(Kind::UNWATCH);
            assert_eq!(watch.payload, unwatch.payload);
        },
        |client| {
            let hasty = client.with_time_limit(Duration::from_millis(20));
            let error = hasty.watch(&path("data/x")).err().unwrap();
            assert_eq!(error.kind, StoreErrorKind::TimedOut);
        },
    );
}

#[test]
fn fault_e01_a_watch_on_a_store_that_died() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            store.event(&watch);
            store.socket.shutdown(std::net::Shutdown::Both).unwrap();
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            assert!(watch.wait(patiently()).unwrap(), "what came before counts");
            let error = watch.wait(None).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Unreachable);
            let error = watch.take().unwrap_err();
            assert!(error.to_string().contains("watch data/x"), "{error}");
        },
    );
}

/// Remembers that it was woken.
#[derive(Default)]
pub(super) struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Woken {
    pub(super) fn waker() -> (Arc<Woken>, Waker) {
        let woken = Arc::new(Woken::default());
        (Arc::clone(&woken), Waker::from(woken))
    }

    pub(super) fn is(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn a_task_is_woken_by_an_event_that_another_request_reads() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            let read = store.expect(Kind::READ);
            store.event(&watch);
            store.reply(&read, b"");
            store.next();
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            let (woken, waker) = Woken::waker();
            watch.register(&waker);
            assert!(!watch.take().unwrap());
            // From here on nothing of the event is left in the descriptor.
            client.read(&path("data/y")).unwrap();
            assert!(woken.is());
            assert!(watch.take().unwrap());
        },
    );
}

#[test]
fn a_task_is_woken_when_the_connection_is_lost() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            store.expect(Kind::READ);
            store.socket.shutdown(std::net::Shutdown::Both).unwrap();
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            let (woken, waker) = Woken::waker();
            watch.register(&waker);
            client.read(&path("data/y")).unwrap_err();
            assert!(woken.is());
            assert!(watch.take().is_err());
        },
    );
}

#[test]
fn the_descriptor_tells_of_events() {
    use rustix::event::{PollFd, PollFlags};
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            thread::sleep(Duration::from_millis(20));
            store.event(&watch);
            store.next();
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            let fd = watch.as_fd().unwrap();
            let mut descriptors = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            poll::until(&mut descriptors, patiently()).unwrap();
            assert!(watch.take().unwrap());
        },
    );
}
