//! What is measured.

use std::sync::Barrier;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::cpu::{self, Placement};
use crate::latency::Latency;
use crate::payload::{Arrived, Corrupt, Payload};
use crate::peers::memory::Pages;
use crate::{Failure, Peer};

pub mod asynchronous;
pub mod in_place;
pub mod in_turn;
pub mod setup;

/// The buffer of a reader that takes what is there.
const READ: usize = 64 * 1024;
/// About how many bytes are moved between two looks at the clock.
const STRETCH: usize = 16 * 1024;

/// Messages that were moved and found to be right.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Moved {
    arrived: Arrived,
    messages: u64,
    elapsed: Duration,
}

impl Moved {
    /// How many bytes arrived.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.arrived.bytes()
    }

    /// How long it took.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.elapsed
    }

    /// How long each message took.
    #[must_use]
    pub fn nanoseconds_each(self) -> f64 {
        self.elapsed.as_secs_f64() * 1e9 / self.messages as f64
    }

    /// Messages a second.
    #[must_use]
    pub fn rate(self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// Bytes a second.
    #[must_use]
    pub fn throughput(self) -> f64 {
        self.bytes() as f64 / self.elapsed.as_secs_f64()
    }
}

/// Sends `messages` of `size` bytes from `left` to `right`, each received at once, all in the calling
/// thread: the cost of the calls, without any waiting. The number of messages is rounded up.
///
/// # Errors
/// Those of the peers, and [`Failure::Corrupt`].
pub fn pairs<P: Peer>(
    left: &mut P,
    right: &mut P,
    size: usize,
    messages: u64,
) -> Result<Moved, Failure> {
    batches(size, 1, messages, |sent, arrived| {
        pair(left, right, sent, arrived)
    })
}

/// One message there. Alone in a function, so that its instructions can be counted apart.
#[inline(always)]
fn pair<P: Peer>(
    left: &mut P,
    right: &mut P,
    sent: &[u8],
    arrived: &mut [u8],
) -> Result<(), Failure> {
    left.send(sent)?;
    right.recv(arrived)?;
    Ok(())
}

/// Moves `messages` of `size` bytes by calls of `step`, which takes `batch` of them in one run of
/// bytes, in the calling thread. The clock is stopped while what arrived is checked.
///
/// # Errors
/// Those of `step`, and [`Failure::Corrupt`].
pub fn batches(
    size: usize,
    batch: usize,
    messages: u64,
    mut step: impl FnMut(&[u8], &mut [u8]) -> Result<(), Failure>,
) -> Result<Moved, Failure> {
    let run = size * batch;
    let stretch = run * (STRETCH / run).max(4);
    let mut source = Payload::new(stretch);
    let mut check = Payload::new(stretch);
    // Where the allocator puts it would be another place in each run, and another figure.
    let mut arrived = Pages::new(stretch);
    let arrived = arrived.bytes();
    let mut elapsed = Duration::ZERO;
    while source.total() < messages * size as u64 {
        let sent = source.next(stretch);
        elapsed += timed(sent, arrived, run, &mut step)?;
        check.check(arrived)?;
    }
    Ok(Moved {
        arrived: check.all_of(source.total())?,
        messages: source.total() / size as u64,
        elapsed,
    })
}

/// The part of [`batches`] that the clock sees, and the only one whose instructions are counted.
#[inline(never)]
fn timed(
    sent: &[u8],
    arrived: &mut [u8],
    run: usize,
    step: &mut impl FnMut(&[u8], &mut [u8]) -> Result<(), Failure>,
) -> Result<Duration, Failure> {
    let since = Instant::now();
    for (from, to) in sent.chunks_exact(run).zip(arrived.chunks_exact_mut(run)) {
        step(from, to)?;
    }
    Ok(since.elapsed())
}

/// Streams `messages` of `size` bytes from `left` to `right`, a thread each, while the reader takes
/// what is there, up to 64 KiB, and checks it.
///
/// # Errors
/// Those of the peers, and [`Failure::Corrupt`].
pub fn stream<P: Peer>(
    left: &mut P,
    right: &mut P,
    size: usize,
    messages: u64,
    placement: Placement,
) -> Result<Moved, Failure> {
    let total = size as u64 * messages;
    let (written, read) = in_two_threads(
        placement,
        || -> Result<Payload, Failure> {
            let mut source = Payload::new(size);
            for _ in 0..messages {
                left.write(source.next(size))?;
            }
            Ok(source)
        },
        || {
            let mut check = Payload::new(READ);
            let mut buffer = vec![0; READ];
            let mut result = Ok(());
            let mut count = 0;
            while count < total {
                let most = usize::try_from(total - count).unwrap_or(READ).min(READ);
                let arrived = match right.read(&mut buffer[..most])? {
                    0 => break,
                    arrived => arrived,
                };
                // What is wrong is remembered while the rest is taken: the writer must end.
                result = result.and(check.check(&buffer[..arrived]));
                count += arrived as u64;
            }
            result?;
            Ok(check.all_of(total)?)
        },
    )?;
    Ok(Moved {
        arrived: read.value,
        messages,
        elapsed: read.ended - read.began.min(written.began),
    })
}

/// Round trips that were measured one by one, and whose answers were right.
#[derive(Clone, Debug)]
#[must_use]
pub struct RoundTrips {
    /// How long each took.
    pub latency: Latency,
    arrived: Arrived,
}

impl RoundTrips {
    /// How many bytes came back.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.arrived.bytes()
    }
}

/// Sends a message, waits for its echo, sends the next (closed loop).
///
/// # Errors
/// Those of the peers, and [`Failure::Corrupt`].
pub fn round_trips<P: Peer>(
    left: &mut P,
    right: &mut P,
    size: usize,
    count: u64,
    placement: Placement,
) -> Result<RoundTrips, Failure> {
    ping_pong(left, right, size, count, placement, None)
}

/// Sends a message every `interval`, or as soon as the answer to the last one came when that is
/// later, and counts the time from when it *was to be* sent (open loop): a stall counts for all the
/// messages that it held up.
///
/// # Errors
/// Those of the peers, and [`Failure::Corrupt`].
pub fn round_trips_at_rate<P: Peer>(
    left: &mut P,
    right: &mut P,
    size: usize,
    count: u64,
    interval: Duration,
    placement: Placement,
) -> Result<RoundTrips, Failure> {
    ping_pong(left, right, size, count, placement, Some(interval))
}

fn ping_pong<P: Peer>(
    left: &mut P,
    right: &mut P,
    size: usize,
    count: u64,
    placement: Placement,
    interval: Option<Duration>,
) -> Result<RoundTrips, Failure> {
    let (measured, _) = in_two_threads(
        placement,
        || echoed(left, size, count, interval),
        || -> Result<(), Failure> {
            let mut message = vec![0; size];
            for _ in 0..count {
                right.recv(&mut message)?;
                right.send(&message)?;
            }
            Ok(())
        },
    )?;
    Ok(measured.value)
}

/// The asking end of [`round_trips`], where the other end is elsewhere; with an `interval` that of
/// [`round_trips_at_rate`].
///
/// # Errors
/// Those of the peer, and [`Failure::Corrupt`].
pub fn echoed<P: Peer>(
    peer: &mut P,
    size: usize,
    count: u64,
    interval: Option<Duration>,
) -> Result<RoundTrips, Failure> {
    let (mut source, mut check) = (Payload::new(size), Payload::new(size));
    let mut arrived = vec![0; size];
    let mut latency = Latency::new();
    // What is wrong is remembered while the rest is taken: the other end must end as well.
    let mut result = Ok(());
    let mut intended = Instant::now();
    for _ in 0..count {
        let message = source.next(size);
        match interval {
            Some(interval) => {
                intended += interval;
                sleep_until(intended);
            }
            None => intended = Instant::now(),
        }
        peer.send(message)?;
        peer.recv(&mut arrived)?;
        latency.record(intended.elapsed());
        result = result.and(check.check(&arrived));
    }
    result?;
    let arrived = check.all_of(source.total())?;
    Ok(RoundTrips { latency, arrived })
}

/// The sending end of a stream whose reader is elsewhere. The reader compares what arrives, and
/// answers once all has, with 24 bytes: how many bytes it found to be right, and two numbers of its
/// own, which are returned.
///
/// # Errors
/// Those of the peer, and [`Failure::Corrupt`].
pub fn acknowledged<P: Peer>(
    peer: &mut P,
    size: usize,
    messages: u64,
) -> Result<(Moved, [u64; 2]), Failure> {
    let mut source = Payload::new(size);
    let mut answer = [[0; 8]; 3];
    let since = Instant::now();
    for _ in 0..messages {
        peer.write(source.next(size))?;
    }
    peer.recv(answer.as_flattened_mut())?;
    let elapsed = since.elapsed();
    let [right, first, second] = answer.map(u64::from_le_bytes);
    let moved = Moved {
        arrived: source.all_of(right)?,
        messages,
        elapsed,
    };
    Ok((moved, [first, second]))
}

/// How long it takes to wake a thread that wakes this one, with `signal` as what both write: nothing
/// else arrives, so nothing else is checked.
///
/// # Errors
/// Those of the peers, and [`Failure::Corrupt`].
pub fn signals<P: Peer, const N: usize>(
    left: &mut P,
    right: &mut P,
    signal: [u8; N],
    count: u64,
    placement: Placement,
) -> Result<Latency, Failure> {
    let (measured, _) = in_two_threads(
        placement,
        || {
            let mut latency = Latency::new();
            let mut result = Ok(());
            for nth in 0..count {
                let mut arrived = [0; N];
                let sent = Instant::now();
                left.send(&signal)?;
                left.recv(&mut arrived)?;
                latency.record(sent.elapsed());
                if arrived != signal {
                    let position = nth * N as u64;
                    result = result.and(Err(Corrupt::Byte { position }));
                }
            }
            result?;
            Ok(latency)
        },
        || -> Result<(), Failure> {
            for _ in 0..count {
                right.recv(&mut [0; N])?;
                right.send(&signal)?;
            }
            Ok(())
        },
    )?;
    Ok(measured.value)
}

/// Sleeps while there is long to go, then looks at the clock: a sleep alone is late by tens of
/// microseconds.
fn sleep_until(moment: Instant) {
    const COARSE: Duration = Duration::from_micros(200);
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > COARSE {
            thread::sleep(left - COARSE);
        } else {
            std::hint::spin_loop();
        }
    }
}

/// What a thread found, and when it worked.
struct Timed<T> {
    value: T,
    began: Instant,
    ended: Instant,
}

/// Runs both at the same time, where `placement` says.
fn in_two_threads<A: Send, B: Send>(
    placement: Placement,
    first: impl FnOnce() -> Result<A, Failure> + Send,
    second: impl FnOnce() -> Result<B, Failure> + Send,
) -> Result<(Timed<A>, Timed<B>), Failure> {
    let [first_cpu, second_cpu] = placement.cpus()?;
    let start = &Barrier::new(2);
    thread::scope(|scope| {
        let first = scope.spawn(move || timed_thread(first_cpu, start, first));
        let second = scope.spawn(move || timed_thread(second_cpu, start, second));
        let (first, second) = (joined(first), joined(second));
        Ok((first?, second?))
    })
}

fn timed_thread<T>(
    cpu: Option<usize>,
    start: &Barrier,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<Timed<T>, Failure> {
    let pinned = cpu::pin(cpu);
    start.wait();
    pinned?;
    let began = Instant::now();
    let value = work()?;
    let ended = Instant::now();
    Ok(Timed {
        value,
        began,
        ended,
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, Failure>>) -> Result<T, Failure> {
    thread.join().map_err(|_| Failure::Panic)?
}

#[cfg(test)]
mod tests;
