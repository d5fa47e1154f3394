//! A12 and A13: live and notify bytes.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vchan::layout::{NOTIFY_READ, NOTIFY_WRITE, Side};
use vchan::{Client, Error, PeerFault, State};

use crate::common::watched::watched;
use crate::common::{LONG, World, bounded, guest, pattern, wait_until};
use crate::{SIDES, Victim, assert_poisoned, connect_to, victims};

#[test]
fn fault_a12_every_value_of_a_live_byte_has_one_meaning() {
    for side in SIDES {
        for byte in 0..=255u8 {
            let mut victim = victims(1024, 1024);
            let expected = match byte {
                0 => Ok(State::Closed),
                1 => Ok(State::Connected),
                _ => Err(()),
            };
            // A value that comes before anybody has looked, and one that comes after.
            if byte % 2 == 0 {
                assert_eq!(victim.end(side).state().unwrap(), State::Connected);
            } else {
                victim.end(side).write_all(b"seen").unwrap();
            }
            victim
                .page
                .store_byte(side.peer().live(), byte, Ordering::Release);
            match expected {
                Ok(state) => assert_eq!(victim.end(side).state().unwrap(), state),
                Err(()) => {
                    let error = victim.end(side).state().unwrap_err();
                    assert!(
                        matches!(error, Error::PeerFault(PeerFault::Live(found)) if found == byte),
                        "{side:?} {byte}: {error}"
                    );
                    victim
                        .page
                        .store_byte(side.peer().live(), 1, Ordering::Release);
                    assert_poisoned(victim.end(side));
                }
            }
        }
    }
}

#[test]
fn fault_a12_a_peer_that_closed_stays_closed() {
    for side in SIDES {
        for later in [1, 2, 3, 255] {
            let mut victim = victims(1024, 1024);
            victim.end(side.peer()).write_all(b"last").unwrap();
            let live = side.peer().live();
            victim.page.store_byte(live, 0, Ordering::Release);
            assert_eq!(victim.end(side).state().unwrap(), State::Closed);
            victim.page.store_byte(live, later, Ordering::Release);
            assert_eq!(victim.end(side).state().unwrap(), State::Closed);
            assert!(matches!(victim.end(side).write(b"x"), Err(Error::Closed)));
            let mut last = [0; 8];
            assert_eq!(victim.end(side).read(&mut last).unwrap(), 4);
            assert_eq!(victim.end(side).read(&mut last).unwrap(), 0);
            // It goes on to write: the end was the end.
            victim.end(side.peer()).write_all(b"more").unwrap();
            assert_eq!(victim.end(side).read(&mut last).unwrap(), 0, "{later}");
            assert_eq!(victim.end(side).data_ready().unwrap(), 0);
            let recv = victim.end(side).recv(&mut last[..2]);
            assert!(
                matches!(recv, Err(Error::EndOfStream { buffered: 0, .. })),
                "{recv:?}"
            );
        }
    }
}

#[test]
fn fault_a12_our_own_live_byte_means_nothing_to_us() {
    for side in SIDES {
        let mut victim = victims(1024, 1024);
        for byte in [0, 2, 77, 255] {
            victim.page.store_byte(side.live(), byte, Ordering::Release);
            assert_eq!(victim.end(side).state().unwrap(), State::Connected);
            victim.end(side).write_all(b"alive").unwrap();
            victim.page.store_byte(side.live(), 1, Ordering::Release);
            victim.end(side.peer()).read_exact(&mut [0; 5]).unwrap();
        }
    }
}

#[test]
fn fault_a12_a_client_waits_for_another_server_when_the_live_byte_is_not_one() {
    for byte in [0, 2, 3, 255] {
        let (connected, _, world) =
            connect_to(|raw| raw.control.store_byte(21, byte, Ordering::Relaxed));
        let error = connected.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{byte}: {error}");
        world.assert_clean();
    }
}

#[test]
fn fault_a12_a_server_that_meets_a_wrong_live_byte_serves_the_next_client() {
    let world = World::new();
    let mut server = world.server().bind().unwrap();
    for byte in [3, 128, 255] {
        let reference = server.pending().unwrap().handshake().ring_ref;
        let page = world.emulator.raw_page(guest(), reference).unwrap();
        page.store_byte(20, byte, Ordering::Release);
        let error = server.accept_timeout(LONG).unwrap_err();
        assert!(
            matches!(error, Error::PeerFault(PeerFault::Live(found)) if found == byte),
            "{error}"
        );
        server.pending().unwrap();
        let mut client = world.client();
        let mut channel = server.accept_timeout(LONG).unwrap();
        client.write_all(b"honest").unwrap();
        channel.read_exact(&mut [0; 6]).unwrap();
    }
    drop(server);
    world.assert_clean();
}

#[test]
fn fault_a12_two_threads_that_look_while_the_client_comes_see_no_fault() {
    let world = World::new();
    for _ in 0..50 {
        let mut server = world.server().bind().unwrap();
        let waiting = server.pending().unwrap();
        let reference = waiting.handshake().ring_ref;
        let page = world.emulator.raw_page(guest(), reference).unwrap();
        let looks = || {
            let since = Instant::now();
            while waiting.state().unwrap() != State::Connected {
                assert!(since.elapsed() < LONG);
            }
        };
        thread::scope(|scope| {
            scope.spawn(looks);
            scope.spawn(looks);
            thread::sleep(Duration::from_millis(2));
            page.store_byte(20, 1, Ordering::Release);
        });
    }
    world.assert_clean();
}

#[test]
fn fault_a13_notify_bits_of_any_value_change_nothing_but_the_number_of_events() {
    bounded(|| {
        for side in SIDES {
            let Victim { page, ends, world } = victims(2048, 1024);
            let stop = Arc::new(AtomicBool::new(false));
            let scribbler = thread::spawn({
                let stop = Arc::clone(&stop);
                move || {
                    let mut value = 1u8;
                    while !stop.load(Ordering::Relaxed) {
                        // The two bytes at random: also 0, all ones, and bits without a meaning.
                        value = value.wrapping_mul(73).wrapping_add(41);
                        page.store_byte(Side::Client.asked_of_us(), value, Ordering::Relaxed);
                        page.store_byte(
                            Side::Server.asked_of_us(),
                            value.rotate_left(3),
                            Ordering::Relaxed,
                        );
                        // A request that is wiped out costs at most the interval of the looks.
                        page.set_bits(Side::Client.asked_of_us(), 3, Ordering::Relaxed);
                        page.set_bits(Side::Server.asked_of_us(), 3, Ordering::Relaxed);
                        thread::yield_now();
                    }
                }
            });
            // Some twenty waits: each may be one whose request is wiped out.
            let total = 20_000;
            let [server, client] = ends;
            let (mut from, mut to) = match side {
                Side::Server => (server, client),
                Side::Client => (client, server),
            };
            let writer = thread::spawn(move || {
                from.write_all(&pattern(total, 4)).unwrap();
                from.drain().unwrap();
                from
            });
            let mut received = vec![0; total];
            to.read_exact(&mut received).unwrap();
            assert!(received == pattern(total, 4));
            drop((writer.join().unwrap(), to));
            stop.store(true, Ordering::Relaxed);
            scribbler.join().unwrap();
            world.assert_clean();
        }
    });
}

#[test]
fn fault_a13_a_request_for_an_event_that_the_peer_wipes_out_costs_a_second_at_most() {
    bounded(|| {
        for side in SIDES {
            let mut victim = victims(1024, 1024);
            let Victim { ends, page, .. } = &mut victim;
            let [server, client] = ends;
            let (ours, theirs) = match side {
                Side::Server => (server, client),
                Side::Client => (client, server),
            };
            let size = ours.ring_sizes().1;
            // Once the victim has asked, and is about to sleep: no event goes out for what follows.
            let wipe_out = |asked_for| {
                let requests = side.peer().asked_of_us();
                wait_until(|| page.load_byte(requests, Ordering::Relaxed) & asked_for != 0);
                page.store_byte(requests, 0, Ordering::Relaxed);
            };
            thread::scope(|scope| {
                let waiting = scope.spawn(move || {
                    let since = Instant::now();
                    ours.read_exact(&mut [0; 4]).unwrap();
                    ours.write_all(&vec![0; size + 4]).unwrap();
                    since.elapsed()
                });
                wipe_out(NOTIFY_WRITE);
                theirs.write_all(b"four").unwrap();
                wipe_out(NOTIFY_READ);
                theirs.read_exact(&mut vec![0; size]).unwrap();
                // A wait that looks only at its deadline takes twice as long, each.
                assert!(waiting.join().unwrap() < LONG / 2);
            });
        }
    });
}

#[test]
fn fault_a13_bits_that_are_always_set_cost_one_event_for_each_publication() {
    let world = World::new();
    let (dom0, calls) = watched(&world.dom0);
    let mut server = world.server().bind().unwrap();
    let mut client = Client::builder(&dom0, guest())
        .timeout(LONG)
        .connect()
        .unwrap();
    let mut channel = server.accept_timeout(LONG).unwrap();
    let page = world
        .emulator
        .raw_page(guest(), client.handshake().ring_ref)
        .unwrap();
    let before = calls.notify.load(Ordering::Relaxed);
    for _ in 0..100 {
        page.store_byte(Side::Client.asked_of_us(), 0xFF, Ordering::Relaxed);
        client.write_all(b"x").unwrap();
        let left = page.load_byte(Side::Client.asked_of_us(), Ordering::Relaxed);
        assert_eq!(left, !NOTIFY_WRITE, "only the own bit is cleared");
    }
    assert_eq!(calls.notify.load(Ordering::Relaxed) - before, 100);
    channel.read_exact(&mut [0; 100]).unwrap();
}
