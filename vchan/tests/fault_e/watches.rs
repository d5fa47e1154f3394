//! E8: watches that fire without end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vchan::{Client, Error, StoreErrorKind};

use crate::common::{World, bounded, guest};
use crate::{PROMPT, SHORT, connect, key, path};

/// The emulated store keeps up to a megabyte for a client that reads nothing, then cuts it off.
#[test]
fn fault_e08_a_flood_that_nobody_reads() {
    bounded(|| {
        let world = World::new();
        let store = world.dom0.store();
        let cut_off = store.watch(&key("x")).unwrap();
        for _ in 0..30_000 {
            world.guest.store().write(&key("x"), b"changed").unwrap();
        }
        // What had arrived by then is not told event by event.
        let error = (0..100).find_map(|_| cut_off.take().err());
        let error = error.expect("it is cut off, and no event is older than a few calls");
        assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");

        assert_eq!(
            store.read(&key("x")).unwrap(),
            b"changed",
            "with a new connection"
        );
        let watch = store.watch(&key("x")).unwrap();
        let soon = world.dom0.events().now().after(PROMPT);
        assert!(watch.wait(Some(soon)).unwrap());
        drop((watch, cut_off));
        world.guest.store().remove(&path("data/vchan")).unwrap();
        world.assert_clean();
    });
}

/// A guest that changes its key without end keeps a client busy, and neither from its deadline nor
/// from the store.
#[test]
fn fault_e08_a_flood_that_one_waits_in() {
    bounded(|| {
        let world = World::new();
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Relaxed: only a hint to stop.
                while !ended.load(Ordering::Relaxed) {
                    world
                        .guest
                        .store()
                        .write(&key("event-channel"), b"")
                        .unwrap();
                }
            });
            let since = Instant::now();
            let error = connect(&world.dom0, Duration::from_millis(300)).unwrap_err();
            assert!(since.elapsed() < PROMPT, "{error}");
            for _ in 0..100 {
                world.dom0.store().read(&path("domid")).unwrap();
            }
            assert!(since.elapsed() < 2 * PROMPT);
            ended.store(true, Ordering::Relaxed);
        });
        world.guest.store().remove(&path("data/vchan")).unwrap();
        world.assert_clean();
    });
}

/// A client that is slower than the flood finds that its watch has fired whenever it looks.
#[test]
fn fault_e08_a_flood_that_is_faster_than_who_waits_in_it() {
    bounded(|| {
        let world = World::new();
        let client = Client::builder(&world.dom0, guest()).timeout(SHORT);
        let mut client = client.start().unwrap();
        let since = Instant::now();
        loop {
            assert!(client.attempt().unwrap().is_none());
            let key = key("event-channel");
            world.guest.store().write(&key, b"").unwrap();
            // What comes after it on the same connection has come.
            world.dom0.store().read(&path("domid")).unwrap();
            let is_over = since.elapsed() >= SHORT;
            match client.wait() {
                Ok(()) => assert!(!is_over, "its deadline has passed"),
                Err(error) => {
                    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
                    break;
                }
            }
        }
        drop(client);
        world.guest.store().remove(&path("data/vchan")).unwrap();
        world.assert_clean();
    });
}
