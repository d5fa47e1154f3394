//! Calls that a vchan has and other transports have not: many messages in one, and none copied twice.

use std::time::{Duration, Instant};

use vchan::Channel;

use super::{Moved, batches};
use crate::Failure;
use crate::payload::Payload;
use crate::peers::memory::Pages;

/// Sends `messages` of `N` bytes, `batch` in one call, each batch received in one call at once, in the
/// calling thread. The ring must have room for a batch.
///
/// # Errors
/// Those of the channels, and [`Failure::Corrupt`].
pub fn many<const N: usize>(
    left: &mut Channel,
    right: &mut Channel,
    batch: usize,
    messages: u64,
) -> Result<Moved, Failure> {
    batches(N, batch, messages, |from, to| {
        let (from, _) = from.as_chunks::<N>();
        let (to, _) = to.as_chunks_mut::<N>();
        let mut sent = 0;
        while sent < from.len() {
            sent += left.send_many(&from[sent..])?;
        }
        let mut received = 0;
        while received < to.len() {
            received += right.recv_many(&mut to[received..])?;
        }
        Ok(())
    })
}

/// Writes `messages` of `size` bytes where the other end reads them, and gives their space back without
/// reading them: one copy each. They are compared while the clock stands.
///
/// # Errors
/// Those of the channels, and [`Failure::Corrupt`].
pub fn one_copy(
    left: &mut Channel,
    right: &mut Channel,
    size: usize,
    messages: u64,
) -> Result<Moved, Failure> {
    let (_, ring) = left.ring_sizes();
    let mut ends = (left, right);
    rounds(
        (size, ring / size, messages),
        &mut ends,
        |(left, _), message| {
            let mut space = left.reserve(size)?;
            space.write_at(0, message);
            Ok(space.commit(size)?)
        },
        |(_, right), arrived| {
            right.peek(arrived.len())?.read_at(0, arrived);
            Ok(())
        },
        |(_, right)| Ok(right.peek(size)?.consume(size)?),
    )
}

/// The same with a plain buffer as large as a ring, and in pages as it is: what a copy costs there at
/// least.
///
/// # Errors
/// [`Failure::Corrupt`].
pub fn one_plain_copy(ring: usize, size: usize, messages: u64) -> Result<Moved, Failure> {
    let mut buffer = (Pages::new(ring), 0);
    rounds(
        (size, ring / size, messages),
        &mut buffer,
        |(pages, at): &mut (Pages, usize), message| {
            let place = &mut pages.bytes()[*at..*at + size];
            place.copy_from_slice(message);
            std::hint::black_box(place);
            *at += size;
            Ok(())
        },
        |(pages, at), arrived| {
            *at = 0;
            arrived.copy_from_slice(&pages.bytes()[..arrived.len()]);
            Ok(())
        },
        |_| Ok(()),
    )
}

/// Rounds of `at_once` messages that are put, looked at while the clock stands, and let go of, until
/// there were `messages` of them.
fn rounds<S>(
    (size, at_once, messages): (usize, usize, u64),
    state: &mut S,
    mut put: impl FnMut(&mut S, &[u8]) -> Result<(), Failure>,
    look: impl Fn(&mut S, &mut [u8]) -> Result<(), Failure>,
    mut let_go: impl FnMut(&mut S) -> Result<(), Failure>,
) -> Result<Moved, Failure> {
    let stretch = size * at_once;
    let (mut source, mut check) = (Payload::new(stretch), Payload::new(stretch));
    let mut arrived = vec![0; stretch];
    let mut elapsed = Duration::ZERO;
    while source.total() < messages * size as u64 {
        let sent = source.next(stretch);
        let since = Instant::now();
        for message in sent.chunks_exact(size) {
            put(state, message)?;
        }
        elapsed += since.elapsed();
        look(state, &mut arrived)?;
        check.check(&arrived)?;
        let since = Instant::now();
        for _ in 0..at_once {
            let_go(state)?;
        }
        elapsed += since.elapsed();
    }
    Ok(Moved {
        arrived: check.all_of(source.total())?,
        messages: source.total() / size as u64,
        elapsed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::vchan::Emulated;

    #[test]
    fn everything_arrives_in_batches_and_in_place() {
        let host = Emulated::start().unwrap();
        let (mut left, mut right) = host.channels(4096).unwrap();
        let moved = many::<64>(&mut left, &mut right, 16, 5000).unwrap();
        assert!(moved.bytes() >= 5000 * 64);
        let moved = one_copy(&mut left, &mut right, 1000, 100).unwrap();
        assert_eq!(moved.bytes(), 100_000);
        let moved = one_plain_copy(4096, 1000, 100).unwrap();
        assert_eq!(moved.bytes(), 100_000);
    }
}
