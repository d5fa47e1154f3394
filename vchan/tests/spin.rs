//! Spinning: what ends it, and what the peer notices of it.

mod common;

use std::io::{Read, Write};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::raw::RawPeer;
use common::watched::{hook, watched};
use common::{LONG, World, bounded, guest, wait_until};
use vchan::layout::{Geometry, NOTIFY_WRITE, Ring};
use vchan::{Channel, Client, DomId, Error, PeerFault, Server, Spin};

const SHORT: Duration = Duration::from_millis(100);

fn busy(world: &World) -> (Channel, Channel) {
    let (mut server, mut client) = world.pair(4096, 4096);
    server.set_spin(Spin::Always);
    client.set_spin(Spin::Always);
    (server, client)
}

#[test]
fn who_never_sleeps_needs_no_event() {
    bounded(|| {
        let world = World::new();
        let (guest_host, guests) = watched(&world.guest);
        let (host, hosts) = watched(&world.dom0);
        let mut server = Server::builder(&guest_host, DomId::DOM0)
            .spin(Spin::Always)
            .bind()
            .unwrap();
        let client = Client::builder(&host, guest()).spin(Spin::Always);
        let mut client = client.connect().unwrap();
        let mut echo = server.accept().unwrap();
        let echo = thread::spawn(move || {
            let mut message = [0; 64];
            while echo.recv(&mut message).is_ok() {
                echo.send(&message).unwrap();
            }
        });
        let mut exchange = |count: u8| {
            for nth in 0..count {
                let mut answer = [0; 64];
                client.send(&[nth; 64]).unwrap();
                client.recv(&mut answer).unwrap();
                assert_eq!(answer, [nth; 64]);
            }
        };
        // Either side is asked for its first event before the other has begun to spin.
        exchange(1);
        let calls =
            || [&guests, &hosts].map(|calls| (calls.notify.load(Relaxed), calls.for_events()));
        let before = calls();
        exchange(200);
        assert_eq!(calls(), before, "(notify, for events) of guest and dom0");
        drop(client);
        echo.join().unwrap();
    });
}

/// In many guests each look is a system call, and a sleep has no other that it could do without.
#[test]
fn who_sleeps_looks_at_the_clock_once_and_without_a_time_limit_never() {
    bounded(|| {
        let world = World::new();
        let (guest_host, calls) = watched(&world.guest);
        let mut server = Server::builder(&guest_host, DomId::DOM0)
            .spin(Spin::Never)
            .bind()
            .unwrap();
        let mut client = world.client();
        let mut reader = server.accept().unwrap();
        let mut messages = |timeout: Option<Duration>| {
            const COUNT: u8 = 20;
            let sleeps = || calls.sleep.load(Relaxed);
            let (looks_before, sleeps_before) = (calls.now.load(Relaxed), sleeps());
            reader.set_read_timeout(timeout);
            thread::scope(|scope| {
                scope.spawn(|| {
                    for nth in 0..COUNT {
                        let mut message = [0; 64];
                        reader.recv(&mut message).unwrap();
                        assert_eq!(message, [nth; 64]);
                    }
                });
                for nth in 0..COUNT {
                    let before = sleeps_before + u64::from(nth);
                    wait_until(|| sleeps() > before);
                    client.send(&[nth; 64]).unwrap();
                }
            });
            let looks = calls.now.load(Relaxed) - looks_before;
            (looks, sleeps() - sleeps_before + u64::from(COUNT))
        };
        let (looks, _) = messages(None);
        assert_eq!(looks, 0);
        // Each call that waits also looks once to know when its time will be up.
        let (looks, most) = messages(Some(LONG));
        assert!(looks > 0 && looks <= most, "{looks} looks");
    });
}

#[test]
fn a_spin_ends_at_its_deadline_and_has_asked_for_nothing() {
    bounded(|| {
        let world = World::new();
        let (guest_host, calls) = watched(&world.guest);
        let mut server = Server::builder(&guest_host, DomId::DOM0).bind().unwrap();
        let mut client = world.client();
        let mut server = server.accept().unwrap();
        client.set_spin(Spin::Always);
        // Takes the request away that a client makes when it connects.
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        let before = calls.notify.load(Relaxed);
        client.set_read_timeout(Some(SHORT));
        let since = Instant::now();
        assert!(matches!(client.read(&mut [0]), Err(Error::TimedOut { .. })));
        assert!(since.elapsed() >= SHORT);
        server.write_all(b"y").unwrap();
        assert_eq!(calls.notify.load(Relaxed), before);
    });
}

#[test]
fn a_spin_ends_with_the_peer() {
    bounded(|| {
        let world = World::new();
        let (server, mut client) = busy(&world);
        let reader = thread::spawn(move || client.read(&mut [0]).unwrap());
        thread::sleep(SHORT);
        drop(server);
        assert_eq!(reader.join().unwrap(), 0);

        let (mut server, client) = busy(&world);
        let writer = thread::spawn(move || server.write_all(&[0; 100_000]).unwrap_err());
        thread::sleep(SHORT);
        drop(client);
        assert_eq!(
            writer.join().unwrap().kind(),
            std::io::ErrorKind::BrokenPipe
        );
        world.assert_clean();
    });
}

#[test]
fn a_spin_ends_with_the_peers_domain() {
    bounded(|| {
        let world = World::new();
        let (server, mut client) = busy(&world);
        let reader = thread::spawn(move || client.read(&mut [0]).unwrap_err());
        thread::sleep(SHORT);
        world.emulator.destroy_domain(guest()).unwrap();
        assert!(matches!(reader.join().unwrap(), Error::PeerDied));
        drop(server);
    });
}

#[test]
fn a_spin_ends_when_another_thread_closes() {
    bounded(|| {
        let world = World::new();
        let (server, client) = busy(&world);
        let (mut reading, writing) = client.into_split();
        let reader = thread::spawn(move || reading.read(&mut [0]).unwrap());
        thread::sleep(SHORT);
        writing.shutdown();
        assert_eq!(reader.join().unwrap(), 0);
        drop((server, writing));
        world.assert_clean();
    });
}

/// A peer that the test is, with a ring of `size` bytes to the client that it gives.
fn raw_server(world: &World, size: usize) -> (RawPeer, Channel) {
    let geometry = Geometry::for_server(4096, size).unwrap();
    let mut raw = RawPeer::serve(&world.guest, DomId::DOM0, geometry, 0).unwrap();
    let client = world.client();
    assert!(raw.connected());
    let asked = raw.side.asked_of_us();
    raw.control.clear_bits(asked, NOTIFY_WRITE, SeqCst);
    (raw, client)
}

fn assert_at_fault(error: &Error) {
    let fault = Error::PeerFault(PeerFault::Index {
        found: 12345,
        own: 0,
        size: 4096,
    });
    assert_eq!(error.to_string(), fault.to_string());
}

#[test]
fn a_fault_found_by_one_half_ends_the_spin_of_the_other() {
    bounded(|| {
        let world = World::new();
        let (raw, mut client) = raw_server(&world, 4096);
        client.set_spin(Spin::Always);
        let (mut reading, mut writing) = client.into_split();
        let reader = thread::spawn(move || reading.read(&mut [0]).unwrap_err());
        thread::sleep(SHORT);
        raw.store(Ring::Left.cons(), 12345);
        assert_at_fault(&writing.buffer_space().unwrap_err());
        assert_at_fault(&reader.join().unwrap());
    });
}

#[test]
fn a_peer_that_goes_on_writing_does_not_make_a_spin_longer() {
    bounded(|| {
        let world = World::new();
        let size = 1 << 20;
        let (raw, mut client) = raw_server(&world, size);
        let victim = thread::spawn(move || client.recv(&mut vec![0; size]));
        // A byte at a time: each is a change to look at, none is enough. The spin is over when the
        // client asks for an event.
        let asked = || raw.control.load_byte(raw.side.asked_of_us(), SeqCst) & NOTIFY_WRITE != 0;
        let since = Instant::now();
        let mut prod = 0;
        while !asked() && since.elapsed() < LONG / 2 {
            if prod < (1 << 20) - 1 {
                prod += 1;
                raw.store(Ring::Right.prod(), prod);
            }
            for _ in 0..100 {
                std::hint::spin_loop();
            }
        }
        assert!(asked(), "it spins on after {prod} bytes");
        raw.store(Ring::Right.prod(), 1 << 20);
        raw.port.notify().unwrap();
        victim.join().unwrap().unwrap();
    });
}

#[test]
fn nobody_spins_for_a_client_that_has_not_come() {
    bounded(|| {
        let world = World::new();
        let (guest_host, calls) = watched(&world.guest);
        let mut server = Server::builder(&guest_host, DomId::DOM0)
            .spin(Spin::Always)
            .bind()
            .unwrap();
        let pending = server.pending().unwrap();
        pending.set_read_timeout(Some(SHORT));
        // Its time may be up before it comes to sleep, on a machine that stops. Who spins never does.
        while calls.sleep.load(Relaxed) == 0 {
            let waited = pending.read(&mut [0]);
            assert!(matches!(waited, Err(Error::TimedOut { .. })));
        }
    });
}

#[test]
fn bytes_arrive_in_order_whatever_both_sides_do() {
    bounded(|| {
        for ours in [Spin::Never, Spin::Adaptive, Spin::Always] {
            for theirs in [Spin::Never, Spin::Adaptive, Spin::Always] {
                let world = World::new();
                let (mut server, mut client) = world.pair(1024, 1024);
                server.set_spin(ours);
                client.set_spin(theirs);
                let bytes = common::pattern(100_000, 8);
                let sent = bytes.clone();
                let writer = thread::spawn(move || {
                    for piece in sent.chunks(100) {
                        server.write_all(piece).unwrap();
                    }
                });
                let mut received = Vec::new();
                client.read_to_end(&mut received).unwrap();
                assert!(received == bytes, "{ours:?} {theirs:?}");
                writer.join().unwrap();
                drop(client);
                world.assert_clean();
            }
        }
    });
}

/// A peer on the same processor can do nothing while this side spins, and is interrupted by it when it
/// sleeps and is woken up: it gets a turn.
#[test]
fn a_peer_that_uses_its_turns_sends_and_gets_no_event() {
    bounded(|| {
        let world = World::new();
        let (guest_host, calls) = watched(&world.guest);
        let mut server = Server::builder(&guest_host, DomId::DOM0).bind().unwrap();
        let mut client = world.client();
        let mut reader = server.accept().unwrap();
        reader.set_read_timeout(Some(Duration::from_millis(1)));
        hook(&calls.when_giving_way, move |()| {
            client.write_all(&[7; 64]).unwrap();
        });
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let (notified, slept) = (count(&calls.notify), count(&calls.sleep));
        let mut too_late = 0;
        let mut arrived = 0;
        while arrived < 100 {
            let mut message = [0; 64];
            match reader.recv(&mut message) {
                Ok(()) => arrived += 1,
                // A turn took so long that the next waits had none: the machine stood still.
                Err(Error::TimedOut { .. }) if too_late < 10_000 => too_late += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(count(&calls.give_way), 100, "one turn for each message");
        assert_eq!(count(&calls.notify), notified);
        // An event that was asked for in one wait may end the sleep of a later one.
        assert!(count(&calls.sleep) - slept <= 2 * too_late);
        // Who is to do nothing before it sleeps gives no turns away, either.
        reader.set_spin(Spin::Never);
        assert!(matches!(reader.read(&mut [0]), Err(Error::TimedOut { .. })));
        assert_eq!(count(&calls.give_way), 100);
    });
}

/// It shows in nothing but how fast a stream is, and in what a half says of itself to people.
#[test]
fn a_call_lets_a_peer_that_has_moved_get_on_before_it_takes_what_is_there() {
    bounded(|| {
        let world = World::new();
        let (mut server, client) = world.pair(4096, 4096);
        let (mut reader, _writer) = client.into_split();
        let seen = |reader: &vchan::ReadHalf, index: u32| {
            let said = format!("{reader:?}");
            assert!(said.contains(&format!("seen: {index} ")), "{said}");
        };
        seen(&reader, 0);
        let mut all = [0; 4096];
        for nth in 1..=3 {
            server.write_all(&[7; 64]).unwrap();
            assert_eq!(reader.read(&mut all).unwrap(), 64);
            seen(&reader, nth * 64);
        }
        // Who does not wait for anything does not wait for that.
        reader.set_nonblocking(true);
        server.write_all(&[7; 64]).unwrap();
        assert_eq!(reader.read(&mut all).unwrap(), 64);
        seen(&reader, 3 * 64);
    });
}

#[test]
fn being_told_how_to_spin_forgets_nothing_of_the_peer() {
    bounded(|| {
        let world = World::new();
        let (guest_host, calls) = watched(&world.guest);
        let mut server = Server::builder(&guest_host, DomId::DOM0).bind().unwrap();
        let _client = world.client();
        let mut reader = server.accept().unwrap();
        reader.set_read_timeout(Some(Duration::from_millis(1)));
        let mut wait = || {
            assert!(matches!(reader.read(&mut [0]), Err(Error::TimedOut { .. })));
            reader.set_spin(Spin::Never);
            reader.set_spin(Spin::Adaptive);
        };
        // An idle peer uses none of its turns: they come after 1, 2, 4, 8 waits.
        (0..16).for_each(|_| wait());
        let turns = calls.give_way.load(Relaxed);
        assert!((1..=4).contains(&turns), "{turns} turns");
    });
}
