//! Setting up connections.

use std::time::{Duration, Instant};

use crate::payload::Payload;
use crate::{Failure, Peer, Transport};

/// How long it takes until a pair of ends is connected and has exchanged one message, on average over
/// `count` pairs, each of which is closed before the next.
///
/// # Errors
/// Those of the transport, and [`Failure::Corrupt`].
pub fn connections<T: Transport>(
    transport: &T,
    capacity: usize,
    count: u32,
) -> Result<Duration, Failure> {
    const SIZE: usize = 8;
    let (mut source, mut check) = (Payload::new(SIZE), Payload::new(SIZE));
    let since = Instant::now();
    for _ in 0..count {
        let (mut left, mut right) = transport.connect(capacity)?;
        let mut arrived = [0; SIZE];
        left.send(source.next(SIZE))?;
        right.recv(&mut arrived)?;
        check.check(&arrived)?;
    }
    let elapsed = since.elapsed();
    let _ = check.all_of(source.total())?;
    Ok(elapsed / count.max(1))
}
