//! A1 to A4, A6 and A7: indices, wherever they point and whenever they change.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::thread;

use vchan::layout::{Geometry, Ring, Side};
use vchan::{Channel, Client, DomId, Error, PeerFault};

use crate::common::meddler::Meddler;
use crate::common::raw::RawPeer;
use crate::common::{LONG, World, bounded, guest, pattern};
use crate::{SHORT, SIDES, Victim, assert_poisoned, victims};

/// What a victim does next, and the index of the peer that it looks at then.
type Call = fn(&mut Channel) -> Result<(), Error>;

const READING: [Call; 3] = [
    |channel| channel.read(&mut [0; 9000]).map(drop),
    |channel| channel.recv(&mut [0; 1000]),
    |channel| channel.data_ready().map(drop),
];

const WRITING: [Call; 4] = [
    |channel| channel.write(&[0; 9000]).map(drop),
    // The page is looked at once what is known to fit does not suffice.
    |channel| {
        loop {
            channel.send(&[0; 1024])?;
        }
    },
    |channel| channel.drain(),
    |channel| channel.buffer_space().map(drop),
];

#[test]
fn fault_a01_an_index_that_claims_more_than_the_ring_holds_poisons_the_channel() {
    for side in SIDES {
        for (ring, calls) in [
            (Ring::read_by(side), &READING[..]),
            (Ring::written_by(side), &WRITING[..]),
        ] {
            let reading = ring == Ring::read_by(side);
            let offset = if reading { ring.prod() } else { ring.cons() };
            for call in calls {
                for claimed in [1025, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FBFF, u32::MAX] {
                    let mut victim = victims(1024, 1024);
                    // Rings of 1024 (left) and 2048 bytes.
                    let claimed = if ring == Ring::Right && claimed == 1025 {
                        2049
                    } else {
                        claimed
                    };
                    victim.store(offset, claimed);
                    // At once: a wait would end with another error.
                    let error = call(victim.end(side)).unwrap_err();
                    assert!(
                        matches!(error, Error::PeerFault(PeerFault::Index { found, own, size })
                            if found == claimed && (own == 0 || own == size)),
                        "{side:?} {ring:?}: {error}"
                    );
                    // Mended or not: a fault is final.
                    victim.store(offset, 0);
                    assert_poisoned(victim.end(side));
                    let Victim { world, ends, .. } = victim;
                    drop(ends);
                    world.assert_clean();
                }
            }
        }
    }
}

#[test]
fn fault_a01_a_client_refuses_indices_that_cannot_be_when_it_connects() {
    for (offset, found) in [(4, 8193), (12, 8193), (0, 1), (8, 1), (12, u32::MAX)] {
        let world = World::new();
        let mut server = world
            .server()
            .read_size(5000)
            .write_size(5000)
            .bind()
            .unwrap();
        let reference = server.pending().unwrap().handshake().ring_ref;
        let page = world.emulator.raw_page(guest(), reference).unwrap();
        page.store_index(offset, found, Ordering::Relaxed);
        let error = Client::builder(&world.dom0, guest())
            .timeout(LONG)
            .connect()
            .unwrap_err();
        assert!(
            matches!(error, Error::PeerFault(PeerFault::Index { .. })),
            "{offset}: {error}"
        );
        drop(server);
        world.assert_clean();
    }
}

#[test]
fn fault_a01_a_fault_wakes_the_direction_that_sleeps() {
    for side in SIDES {
        let mut victim = victims(1024, 1024);
        // The reader sleeps for ever; the writer meets the fault.
        victim.end(side).set_read_timeout(None);
        let Victim { world, ends, page } = victim;
        let [server, client] = ends;
        let (ours, theirs) = match side {
            Side::Server => (server, client),
            Side::Client => (client, server),
        };
        bounded(move || {
            let (mut reading, mut writing) = ours.into_split();
            let asleep = thread::spawn(move || reading.read(&mut [0; 8]));
            thread::sleep(SHORT);
            page.store_index(Ring::written_by(side).cons(), 7, Ordering::Release);
            let error = writing.write(&[0; 5000]).unwrap_err();
            assert!(matches!(error, Error::PeerFault(_)), "{error}");
            let woken = asleep.join().unwrap();
            assert!(matches!(woken, Err(Error::PeerFault(_))), "{woken:?}");
            drop(theirs);
        });
        world.assert_clean();
    }
}

#[test]
fn fault_a02_an_index_that_moves_backwards_is_a_fault() {
    for side in SIDES {
        let (read, written) = (Ring::read_by(side), Ring::written_by(side));
        // 300 bytes are there, 100 of them were read; the writer takes some back.
        for retracted in [299, 200, 100, 99, 0, u32::MAX] {
            let mut victim = victims(1024, 1024);
            victim.end(side.peer()).write_all(&[1; 300]).unwrap();
            victim.end(side).read_exact(&mut [0; 100]).unwrap();
            assert_eq!(victim.end(side).data_ready().unwrap(), 200);
            victim.store(read.prod(), retracted);
            let error = victim.end(side).data_ready().unwrap_err();
            assert!(matches!(error, Error::PeerFault(_)), "{retracted}: {error}");
            assert_poisoned(victim.end(side));
        }
        // 300 bytes were written and 200 read; the reader has not read some of them after all.
        for retracted in [199, 100, 0, u32::MAX] {
            let mut victim = victims(1024, 1024);
            victim.end(side).write_all(&[1; 300]).unwrap();
            victim.end(side.peer()).read_exact(&mut [0; 200]).unwrap();
            let space = victim.end(side).buffer_space().unwrap();
            assert_eq!(space, victim.end(side).ring_sizes().1 - 100);
            victim.store(written.cons(), retracted);
            let error = victim.end(side).buffer_space().unwrap_err();
            assert!(matches!(error, Error::PeerFault(_)), "{retracted}: {error}");
            assert_poisoned(victim.end(side));
        }
    }
}

#[test]
fn fault_a03_our_own_index_in_the_page_is_only_ever_written() {
    for side in SIDES {
        let mut victim = victims(1024, 1024);
        let (read, written) = (Ring::read_by(side), Ring::written_by(side));
        for round in 0..50u8 {
            for value in [0, 1, 700, 0x8000_0000, u32::MAX] {
                victim.end(side).write_all(&[round; 33]).unwrap();
                // The honest peer has its own idea of our index only after we publish.
                let mut there = [0; 33];
                victim.end(side.peer()).read_exact(&mut there).unwrap();
                assert_eq!(there, [round; 33]);
                victim.end(side.peer()).write_all(&[round; 21]).unwrap();
                victim.store(written.prod(), value);
                victim.store(read.cons(), value);
                assert_eq!(victim.end(side).data_ready().unwrap(), 21);
                let mut back = [0; 21];
                victim.end(side).read_exact(&mut back).unwrap();
                assert_eq!(back, [round; 21], "{value:#x}");
                let space = victim.end(side).buffer_space().unwrap();
                assert_eq!(space, victim.end(side).ring_sizes().1);
                // Publishing puts our index right again.
                victim.end(side).write_all(&[round]).unwrap();
                victim.end(side.peer()).read_exact(&mut [0]).unwrap();
                assert_eq!(victim.load(written.prod()), victim.load(written.cons()));
                assert_eq!(victim.load(read.cons()), victim.load(read.prod()));
            }
        }
    }
}

#[test]
fn fault_a04_an_index_that_changes_while_it_is_looked_at_is_taken_as_it_was_once() {
    let (mut faults, mut round) = (0, 0);
    while round < 60 || faults == 0 {
        assert!(round < 10_000, "the flipper was never met");
        round += 1;
        let mut victim = victims(1024, 1024);
        let legal = pattern(1024, round);
        victim.end(Side::Client).write_all(&legal).unwrap();
        // Looked at twice, one of these passes the check and the other is used.
        let [high, low] = [u32::MAX - 3, 1024];
        let Victim { ends, page, .. } = victim;
        let [mut server, client] = ends;
        let flipper = Meddler::new(move || {
            page.store_index(Ring::Left.prod(), high, Ordering::Relaxed);
            page.store_index(Ring::Left.prod(), low, Ordering::Relaxed);
        });
        flipper.turn();
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        server.set_nonblocking(true);
        let error = loop {
            match server.read(&mut buffer[..97]) {
                Ok(count) => {
                    received.extend_from_slice(&buffer[..count]);
                    assert!(received.len() <= legal.len(), "bytes that were never there");
                }
                Err(error) => break error,
            }
        };
        drop(flipper);
        assert_eq!(received, legal[..received.len()]);
        match error {
            Error::PeerFault(PeerFault::Index { found, .. }) => {
                assert_eq!(found, high);
                faults += 1;
            }
            Error::WouldBlock => assert_eq!(received.len(), legal.len()),
            other => panic!("{other}"),
        }
        drop(client);
    }
}

/// A victim's client, connected to a raw server whose indices begin at `start`.
fn client_of_raw(world: &World, geometry: Geometry, start: u32) -> (Channel, RawPeer) {
    let mut raw = RawPeer::serve(&world.guest, DomId::DOM0, geometry, start).unwrap();
    let client = world.client();
    assert!(raw.connected());
    (client, raw)
}

#[test]
fn fault_a06_indices_wrap_without_anybody_noticing() {
    bounded(|| {
        for start in [0xFFFF_FFF0, 0x7FFF_FFF0, u32::MAX, 0xFFFF_FBFF, 0] {
            for (left, right) in [(10, 11), (13, 12)] {
                let world = World::new();
                let geometry = Geometry::new(left, right).unwrap();
                let (client, mut raw) = client_of_raw(&world, geometry, start);
                let total = 40_000;
                let (mut reading, mut writing) = client.into_split();
                let reader = thread::spawn(move || {
                    let mut received = vec![0; total];
                    reading.read_exact(&mut received).unwrap();
                    received
                });
                let writer = thread::spawn(move || {
                    for chunk in pattern(total, 2).chunks(1000) {
                        writing.write_all(chunk).unwrap();
                    }
                    writing
                });
                let ours = pattern(total, 1);
                let (mut sent, mut received) = (0, Vec::new());
                let mut buffer = [0; 999];
                while sent < total || received.len() < total {
                    sent += raw.produce(&ours[sent..total.min(sent + 777)]);
                    let count = raw.consume(&mut buffer);
                    received.extend_from_slice(&buffer[..count]);
                }
                assert!(received == pattern(total, 2), "{start:#x}");
                assert!(reader.join().unwrap() == ours, "{start:#x}");
                let wrapped = start.checked_add(40_000).is_none();
                assert_eq!(raw.prod < start, wrapped, "{start:#x}");
                drop((writer.join().unwrap(), raw));
                world.assert_clean();
            }
        }
    });
}

#[test]
fn fault_a07_rings_exactly_full_and_exactly_empty() {
    for (read_size, write_size) in [(1024, 2048), (2048, 1024), (4096, 1 << 20)] {
        for side in SIDES {
            let mut victim = victims(read_size, write_size);
            let size = victim.end(side).ring_sizes().1;
            // Where in the ring the run begins, from the end on: it wraps by 0, 1, size - 1 bytes.
            let mut at = 0;
            for wrapped in [0, 1, size - 1] {
                let skip = (2 * size - at - if wrapped == 0 { size } else { size - wrapped })
                    .wrapping_rem(size)
                    + usize::from(wrapped == 0);
                victim.end(side).write_all(&vec![0; skip]).unwrap();
                victim
                    .end(side.peer())
                    .read_exact(&mut vec![0; skip])
                    .unwrap();
                at = (at + skip) % size;
                let full = pattern(size, wrapped as u64);
                victim.end(side).set_nonblocking(true);
                victim.end(side.peer()).set_nonblocking(true);
                let mut empty = [0; 1];
                let none = victim.end(side.peer()).read(&mut empty);
                assert!(matches!(none, Err(Error::WouldBlock)), "exactly empty");
                assert_eq!(victim.end(side).write(&full).unwrap(), size);
                assert_eq!(victim.end(side).buffer_space().unwrap(), 0);
                let more = victim.end(side).write(&[0]);
                assert!(matches!(more, Err(Error::WouldBlock)), "exactly full");
                assert_eq!(victim.end(side.peer()).data_ready().unwrap(), size);
                let mut read = vec![0; size + 1];
                assert_eq!(victim.end(side.peer()).read(&mut read).unwrap(), size);
                assert!(read[..size] == full, "wrapped by {wrapped}");
                victim.end(side).set_nonblocking(false);
                victim.end(side.peer()).set_nonblocking(false);
            }
        }
    }
}
