//! B3 and B5: events that nobody sent, one or very many.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use vchan::{DomId, Error};

use crate::common::{LONG, World, bounded, pattern, wait_until};
use crate::{SHORT, Spurious, ports, watched_pair};

#[test]
fn fault_b03_events_that_nobody_sent_change_nothing() {
    bounded(|| {
        let world = World::new();
        let (server, mut client) = world.pair(2048, 1024);
        let storm = Spurious::new(world, ports(&server, &client), Duration::from_micros(300));
        wait_until(|| storm.sent() > 10);
        // No wait ends before its deadline for them.
        client.set_read_timeout(Some(SHORT));
        let since = Instant::now();
        assert!(matches!(client.read(&mut [0]), Err(Error::TimedOut { .. })));
        assert!(since.elapsed() >= SHORT);
        client.set_read_timeout(Some(LONG));
        let total = 300_000;
        let ends = [(server, 1, 2), (client, 2, 1)].map(|(channel, ours, theirs)| {
            let (mut reading, mut writing) = channel.into_split();
            let writer = thread::spawn(move || {
                writing.write_all(&pattern(total, ours)).unwrap();
                writing
            });
            let reader = thread::spawn(move || {
                let mut received = vec![0; total];
                reading.read_exact(&mut received).unwrap();
                assert!(received == pattern(total, theirs));
                reading
            });
            (writer, reader)
        });
        let ends = ends.map(|(writer, reader)| (writer.join().unwrap(), reader.join().unwrap()));
        drop((storm, ends));
    });
}

#[test]
fn fault_b05_a_storm_of_events_costs_a_bounded_number_of_calls_for_each() {
    bounded(|| {
        for split in [false, true] {
            let world = World::new();
            let (server, mut client, calls) = watched_pair(&world, 1024);
            let all = ports(&server, &client)[1..].to_vec();
            let deadline = Duration::from_millis(400);
            client.set_read_timeout(Some(deadline));
            client.set_write_timeout(Some(deadline));
            let size = client.ring_sizes().1;
            client.write_all(&vec![0; size]).unwrap();
            let (mut reading, mut writing) = client.into_split();
            let before = calls.for_events();
            let storm = Spurious::new(world, all, Duration::ZERO);
            let begin = Instant::now();
            // On a busy machine it takes several waits until there was a storm.
            while storm.sent() < 3000 {
                assert!(begin.elapsed() < LONG, "only {} events", storm.sent());
                let waits = |error: Error, since: Instant| {
                    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
                    let took = since.elapsed();
                    assert!(took >= deadline && took < deadline + LONG / 2, "{took:?}");
                };
                thread::scope(|scope| {
                    let since = Instant::now();
                    if split {
                        let writing = &mut writing;
                        scope.spawn(move || waits(writing.write(&[0]).unwrap_err(), since));
                    }
                    waits(reading.read(&mut [0; 4]).unwrap_err(), since);
                });
            }
            let (sent, cost) = (storm.sent(), calls.for_events() - before);
            drop(storm);
            // An event is slept for, taken and unmasked, and leads to one more look.
            assert!(cost <= 4 * sent + 200, "{cost} calls for {sent} events");
            drop((reading, writing, server));
        }
    });
}

#[test]
fn fault_b05_events_that_come_while_nobody_waits_cost_nothing() {
    let world = World::new();
    let (mut server, mut client, calls) = watched_pair(&world, 4096);
    let before = calls.for_events();
    let port = client.handshake().port;
    for _ in 0..10_000 {
        world.emulator.send_event(DomId::DOM0, port).unwrap();
    }
    // Bytes that are there are read without a look at the events.
    server.write_all(&[1; 4000]).unwrap();
    client.read_exact(&mut [0; 4000]).unwrap();
    assert_eq!(calls.for_events(), before);
}
