//! The same for tokio: each end is a task in a runtime of its own, in a thread of its own.

use std::io;
use std::time::Instant;

use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::runtime::{Builder, Runtime};
use vchan::Channel;

use super::{Moved, READ, RoundTrips, in_two_threads};
use crate::Failure;
use crate::cpu::Placement;
use crate::latency::Latency;
use crate::payload::Payload;

/// As [`stream`](super::stream), by `AsyncWrite` and `AsyncRead`.
///
/// # Errors
/// Those of the channels, and [`Failure::Corrupt`].
pub fn stream(
    left: Channel,
    right: Channel,
    size: usize,
    messages: u64,
    placement: Placement,
) -> Result<Moved, Failure> {
    let total = size as u64 * messages;
    let (written, read) = in_two_threads(
        placement,
        move || {
            runtime()?.block_on(async {
                let mut left = vchan::tokio::channel(left)?;
                let mut source = Payload::new(size);
                for _ in 0..messages {
                    AsyncWriteExt::write_all(&mut left, source.next(size)).await?;
                }
                left.drain().await?;
                Ok::<_, Failure>(())
            })
        },
        move || {
            runtime()?.block_on(async {
                let mut right = vchan::tokio::channel(right)?;
                let mut check = Payload::new(READ);
                let mut buffer = vec![0; READ];
                while check.total() < total {
                    match AsyncReadExt::read(&mut right, &mut buffer).await? {
                        0 => break,
                        count => check.check(&buffer[..count])?,
                    }
                }
                Ok(check.all_of(total)?)
            })
        },
    )?;
    Ok(Moved {
        arrived: read.value,
        messages,
        elapsed: read.ended - read.began.min(written.began),
    })
}

/// As [`round_trips`](super::round_trips), by `send` and `recv`.
///
/// # Errors
/// Those of the channels, and [`Failure::Corrupt`].
pub fn round_trips(
    left: Channel,
    right: Channel,
    size: usize,
    count: u64,
    placement: Placement,
) -> Result<RoundTrips, Failure> {
    let (measured, _) = in_two_threads(
        placement,
        move || {
            runtime()?.block_on(async {
                let mut left = vchan::tokio::channel(left)?;
                let (mut source, mut check) = (Payload::new(size), Payload::new(size));
                let mut arrived = vec![0; size];
                let mut latency = Latency::new();
                for _ in 0..count {
                    let message = source.next(size);
                    let sent = Instant::now();
                    left.send(message).await?;
                    left.recv(&mut arrived).await?;
                    latency.record(sent.elapsed());
                    check.check(&arrived)?;
                }
                let arrived = check.all_of(source.total())?;
                Ok::<_, Failure>(RoundTrips { latency, arrived })
            })
        },
        move || {
            runtime()?.block_on(async {
                let mut right = vchan::tokio::channel(right)?;
                let mut message = vec![0; size];
                for _ in 0..count {
                    right.recv(&mut message).await?;
                    right.send(&message).await?;
                }
                right.drain().await?;
                Ok::<_, Failure>(())
            })
        },
    )?;
    Ok(measured.value)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
