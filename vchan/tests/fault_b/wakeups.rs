//! B1, B2, B4 and B6: no wake-up is lost, and none stays masked.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vchan::{Channel, Client, DomId, Error, Server};

use crate::common::watched::{hook, watched};
use crate::common::{LONG, World, bounded, guest};
use crate::{readable, watched_pair};

/// A connected pair that hangs for good when it loses an event: server, client.
fn pair_that_never_looks(world: &World) -> (Channel, Channel) {
    let hosts = [&world.guest, &world.dom0].map(|host| {
        let (host, calls) = watched(host);
        calls.never_looks.store(true, Relaxed);
        host
    });
    let [guest_host, dom0] = hosts;
    let mut server = Server::builder(&guest_host, DomId::DOM0)
        .read_size(1024)
        .write_size(1024)
        .bind()
        .unwrap();
    let client = Client::builder(&dom0, guest()).timeout(LONG).connect();
    (server.accept().unwrap(), client.unwrap())
}

#[test]
fn fault_b01_no_wake_up_is_lost_between_two_threads() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client) = pair_that_never_looks(&world);
        let rounds = 20_000u32;
        let echo = thread::spawn(move || {
            let mut word = [0; 4];
            for _ in 0..rounds {
                server.read_exact(&mut word).unwrap();
                server.write_all(&word).unwrap();
            }
            server
        });
        for round in 0..rounds {
            client.write_all(&round.to_le_bytes()).unwrap();
            let mut word = [0; 4];
            client.read_exact(&mut word).unwrap();
            assert_eq!(word, round.to_le_bytes());
        }
        drop(echo.join().unwrap());
    });
}

#[test]
fn fault_b02_bytes_that_come_just_before_the_sleep_end_it() {
    bounded(|| {
        let world = World::new();
        let (server, mut client, calls) = watched_pair(&world, 1024);
        let server = Arc::new(Mutex::new(server));
        // One that went unnoticed would be waited for in vain.
        calls.never_looks.store(true, Relaxed);
        // The last thing before the client sleeps: the server writes. It was asked for an event
        // before the client looked a last time.
        hook(&calls.before_sleep, {
            let server = Arc::clone(&server);
            move |()| {
                server.lock().unwrap().write_all(b"now").unwrap();
            }
        });
        for _ in 0..200 {
            let mut now = [0; 3];
            client.read_exact(&mut now).unwrap();
            assert_eq!(&now, b"now");
        }
        assert!(calls.sleep.load(Relaxed) >= 200);
        calls.before_sleep.lock().unwrap().take();

        // The same for space.
        let size = client.ring_sizes().1;
        client.write_all(&vec![7; size]).unwrap();
        hook(&calls.before_sleep, {
            let server = Arc::clone(&server);
            move |()| {
                server.lock().unwrap().read_exact(&mut [0; 5]).unwrap();
            }
        });
        for _ in 0..200 {
            client.write_all(&[7; 5]).unwrap();
        }
        calls.before_sleep.lock().unwrap().take();
    });
}

#[test]
fn fault_b02_a_poller_is_told_of_bytes_that_came_while_it_asked() {
    let world = World::new();
    let (server, mut client, calls) = watched_pair(&world, 1024);
    client.set_nonblocking(true);
    let server = Arc::new(Mutex::new(server));
    let writing = Arc::clone(&server);
    let mut first = true;
    // Four of ten bytes come, with an event, while the client is about to take old events.
    hook(&calls.before_take, move |()| {
        if std::mem::take(&mut first) {
            writing.lock().unwrap().write_all(b"four").unwrap();
        }
    });
    let mut whole = [0; 10];
    assert!(matches!(client.recv(&mut whole), Err(Error::WouldBlock)));
    // That was seen; what comes now must be told.
    server.lock().unwrap().write_all(b"andsix").unwrap();
    assert!(readable(client.as_fd(), LONG / 2), "the event was lost");
    client.recv(&mut whole).unwrap();
    assert_eq!(&whole, b"fourandsix");
}

#[test]
fn fault_b04_many_notifications_are_one_event_and_everything_is_read() {
    let world = World::new();
    let (mut server, mut client, calls) = watched_pair(&world, 4096);
    client.set_nonblocking(true);
    for round in 0..50u8 {
        assert!(matches!(client.read(&mut [0; 8]), Err(Error::WouldBlock)));
        for _ in 0..10 {
            server.write_all(&[round; 30]).unwrap();
            let port = client.handshake().port;
            world.emulator.send_event(vchan::DomId::DOM0, port).unwrap();
        }
        assert!(readable(client.as_fd(), LONG / 2));
        let before = calls.unmask.load(Relaxed);
        let mut all = Vec::new();
        let mut buffer = [0; 64];
        let end = loop {
            match client.read(&mut buffer) {
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) => break error,
            }
        };
        assert!(matches!(end, Error::WouldBlock));
        assert_eq!(all, [round; 300]);
        assert_eq!(calls.unmask.load(Relaxed) - before, 1, "one event");
        assert!(!readable(client.as_fd(), Duration::ZERO), "and no second");
    }
}

#[test]
fn fault_b06_after_every_event_the_next_one_comes_through() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client, calls) = watched_pair(&world, 1024);
        client.set_nonblocking(true);
        let (takes, unmasks) = (calls.take.load(Relaxed), calls.unmask.load(Relaxed));
        for round in 0..500u16 {
            assert!(matches!(client.read(&mut [0; 2]), Err(Error::WouldBlock)));
            server.write_all(&round.to_le_bytes()).unwrap();
            assert!(
                readable(client.as_fd(), LONG / 2),
                "masked after {round} events"
            );
            let mut word = [0; 2];
            assert_eq!(client.read(&mut word).unwrap(), 2);
            assert_eq!(word, round.to_le_bytes());
        }
        let taken = calls.take.load(Relaxed) - takes;
        let unmasked = calls.unmask.load(Relaxed) - unmasks;
        assert!((499..=taken).contains(&unmasked), "{unmasked} of {taken}");
    });
}
