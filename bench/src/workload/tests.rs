use super::*;
use crate::Transport;
use crate::peers::rings::Rtrb;
use crate::peers::sockets::UnixSocket;
use crate::peers::vchan::{Emulated, Mode, Vchan};
use std::io;

/// A link that damages one bit of the `nth` byte that is read.
struct Damaged<P> {
    peer: P,
    nth: u64,
    seen: u64,
}

impl<P: Peer> Peer for Damaged<P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.peer.write(bytes)
    }

    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.peer.read(to)?;
        let here = usize::try_from(self.nth.wrapping_sub(self.seen)).unwrap_or(usize::MAX);
        if let Some(byte) = to[..count].get_mut(here) {
            *byte ^= 1;
        }
        self.seen += count as u64;
        Ok(count)
    }
}

type Socket = <UnixSocket as Transport>::Peer;

fn damaged(nth: u64) -> (Damaged<Socket>, Damaged<Socket>) {
    let (left, right) = UnixSocket.connect(65536).unwrap();
    let damaged = |peer| Damaged { peer, nth, seen: 0 };
    (damaged(left), damaged(right))
}

fn is_corrupt<T>(result: Result<T, Failure>, position: u64) -> bool {
    matches!(result, Err(Failure::Corrupt(Corrupt::Byte { position: at })) if at == position)
}

#[test]
fn no_workload_has_a_result_when_a_bit_was_changed() {
    for nth in [0, 64, 6399] {
        let (mut left, mut right) = damaged(nth);
        assert!(is_corrupt(pairs(&mut left, &mut right, 64, 100), nth));
        let (mut left, mut right) = damaged(nth);
        let result = stream(&mut left, &mut right, 64, 100, Placement::Anywhere);
        assert!(is_corrupt(result, nth));
        let (mut left, right) = damaged(nth);
        let mut right = Damaged {
            nth: u64::MAX,
            ..right
        };
        let result = round_trips(&mut left, &mut right, 64, 100, Placement::Anywhere);
        assert!(is_corrupt(result, nth));
    }
}

#[test]
fn what_is_counted_is_what_was_asked_for() {
    let (mut left, mut right) = Rtrb.connect(4096).unwrap();
    let moved = pairs(&mut left, &mut right, 64, 1000).unwrap();
    assert!((1000..1256).contains(&moved.messages));
    assert_eq!(moved.bytes(), moved.messages * 64);
    let moved = stream(&mut left, &mut right, 1000, 333, Placement::Anywhere).unwrap();
    assert_eq!(moved.bytes(), 333_000);
    let trips = round_trips(&mut left, &mut right, 64, 77, Placement::Anywhere).unwrap();
    assert_eq!((trips.latency.count(), trips.bytes()), (77, 77 * 64));
}

/// A link that stands still before its `nth` message.
struct Stalled<P> {
    peer: P,
    nth: u32,
    stall: Duration,
}

impl<P: Peer> Peer for Stalled<P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.nth = self.nth.wrapping_sub(1);
        if self.nth == 0 {
            thread::sleep(self.stall);
        }
        self.peer.write(bytes)
    }

    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.peer.read(to)
    }
}

#[test]
fn in_an_open_loop_a_stall_counts_for_all_whom_it_held_up() {
    let (left, right) = UnixSocket.connect(4096).unwrap();
    let stalled = |peer, nth| Stalled {
        peer,
        nth,
        stall: Duration::from_millis(50),
    };
    let (mut left, mut right) = (stalled(left, 5), stalled(right, 0));
    let (interval, placement) = (Duration::from_millis(1), Placement::Anywhere);
    let trips = round_trips_at_rate(&mut left, &mut right, 64, 100, interval, placement).unwrap();
    assert_eq!(trips.latency.count(), 100);
    // Those that were to be sent in the first 30 ms of the 50 were at least 20 ms late.
    let late = Duration::from_nanos(trips.latency.quantile(0.72));
    assert!(late >= Duration::from_millis(20), "{late:?}");
}

#[test]
fn every_mode_of_a_vchan_moves_everything() {
    for mode in Mode::ALL {
        let transport = Vchan::new(Emulated::start().unwrap(), mode);
        // Smaller and larger messages than the ring.
        for size in [64, 1000, 5000] {
            let (mut left, mut right) = transport.connect(1024).unwrap();
            let moved = stream(&mut left, &mut right, size, 200, Placement::Anywhere).unwrap();
            assert_eq!(moved.bytes(), 200 * size as u64, "{}", transport.name());
        }
        let (mut left, mut right) = transport.connect(1024).unwrap();
        let trips = round_trips(&mut left, &mut right, 64, 50, Placement::Anywhere).unwrap();
        assert_eq!(trips.latency.count(), 50);
    }
}
