//! B8 and B10: two directions that wait at the same time.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use vchan::layout::{Geometry, Ring};
use vchan::{Client, DomId, Error, ReadHalf, WriteHalf};

use crate::common::raw::RawPeer;
use crate::common::watched::{Calls, watched};
use crate::common::{LONG, World, bounded, bounded_by, guest, pattern};
use crate::{SHORT, watched_pair};

#[test]
fn fault_b08_what_one_thread_does_ends_the_wait_of_another_at_once() {
    /// Nothing but the other thread ends a wait here: there is no deadline, and no look after a
    /// second.
    fn halves(world: &World) -> (ReadHalf, WriteHalf, RawPeer, Arc<Calls>) {
        let geometry = Geometry::for_server(4096, 4096).unwrap();
        let mut raw = RawPeer::serve(&world.guest, DomId::DOM0, geometry, 0).unwrap();
        let (dom0, calls) = watched(&world.dom0);
        let client = Client::builder(&dom0, guest()).connect().unwrap();
        assert!(raw.connected());
        calls.never_looks.store(true, Relaxed);
        let (reading, writing) = client.into_split();
        (reading, writing, raw, calls)
    }
    /// Waits until a thread has gone to sleep for the second time: the split ends the first sleep.
    fn asleep(calls: &Calls) {
        while calls.sleep.load(Relaxed) < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(SHORT);
    }
    bounded(|| {
        let world = World::new();
        for _ in 0..3 {
            let (mut reading, writing, raw, calls) = halves(&world);
            let reader = thread::spawn(move || reading.read(&mut [0; 8]).unwrap());
            asleep(&calls);
            writing.shutdown();
            assert_eq!(reader.join().unwrap(), 0);
            drop((raw, writing));

            let (reading, mut writing, raw, calls) = halves(&world);
            let writer = thread::spawn(move || writing.write_all(&[0; 5000]).unwrap_err());
            asleep(&calls);
            reading.shutdown();
            let error = writer.join().unwrap();
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
            drop((raw, reading));

            let (mut reading, mut writing, raw, calls) = halves(&world);
            let reader = thread::spawn(move || reading.read(&mut [0; 8]).unwrap_err());
            asleep(&calls);
            raw.store(Ring::Left.cons(), 7);
            let found = writing.write(&[0; 5000]);
            assert!(matches!(found, Err(Error::PeerFault(_))));
            assert!(matches!(reader.join().unwrap(), Error::PeerFault(_)));
        }
        world.assert_clean();
    });
}

#[test]
fn fault_b08_a_deadline_of_one_direction_does_not_take_the_others_event() {
    bounded(|| {
        let world = World::new();
        let (mut server, client, calls) = watched_pair(&world, 1024);
        calls.never_looks.store(true, Relaxed);
        let size = client.ring_sizes().1;
        let (mut reading, mut writing) = client.into_split();
        for round in 0..60u64 {
            writing.write_all(&vec![3; size]).unwrap();
            reading.set_read_timeout(Some(Duration::from_millis(round % 5)));
            // The reader comes and goes, as leader or as follower, while the writer sleeps.
            let blocked = thread::spawn(move || {
                writing.write_all(&[4; 4]).unwrap();
                writing
            });
            for _ in 0..3 {
                let error = reading.read(&mut [0]).unwrap_err();
                assert!(matches!(error, Error::TimedOut { .. }), "{error}");
            }
            server.read_exact(&mut vec![0; size]).unwrap();
            let error = reading.read(&mut [0]).unwrap_err();
            assert!(matches!(error, Error::TimedOut { .. }), "{error}");
            writing = blocked.join().unwrap();
            server.read_exact(&mut [0; 4]).unwrap();
        }
    });
}

#[test]
fn fault_b10_two_that_write_into_full_rings_both_have_their_deadline() {
    bounded_by(LONG, || {
        let world = World::new();
        let (server, client) = world.pair(2048, 1024);
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let threads = [(server, 1), (client, 2)].map(|(mut channel, seed)| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                channel.set_write_timeout(Some(SHORT));
                let size = channel.ring_sizes().1;
                let data = pattern(size + 1000, seed);
                let since = Instant::now();
                let error = channel.write_all(&data).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
                assert!(since.elapsed() >= SHORT && since.elapsed() < LONG);
                assert_eq!(channel.bytes_written(), size as u64, "what was accepted");
                barrier.wait();
                // Reading frees both.
                let theirs = channel.ring_sizes().0;
                let mut read = vec![0; theirs];
                channel.read_exact(&mut read).unwrap();
                assert!(read == pattern(theirs + 1000, 3 - seed)[..theirs]);
                barrier.wait();
                channel.write_all(&data[size..]).unwrap();
                channel.read_exact(&mut [0; 1000]).unwrap();
                channel
            })
        });
        let ends = threads.map(|thread| thread.join().unwrap());
        drop(ends);
        world.assert_clean();
    });
}
