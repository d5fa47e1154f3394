//! What is compared in one thread.

use anyhow::{Result, bail};
use vchan_bench::peers::rings::Rtrb;
use vchan_bench::peers::vchan::{Emulated, Mode, Vchan};
use vchan_bench::workload::{self, Moved, in_place};
use vchan_bench::{Failure, Peer, Transport};

use crate::libxenvchan::CVchan;

/// The ring of the comparisons in one thread: 64 KiB.
pub const RING: usize = 64 * 1024;

/// Moves `messages` of `size` bytes by `subject`, `batch` at a time: what callgrind runs.
pub fn pairs(subject: &str, size: usize, batch: usize, messages: u64) -> Result<Moved> {
    let moved = match (subject, batch) {
        ("rust", 1) => once(&ours()?, size, messages)?,
        ("c", 1) => match CVchan::new(Emulated::start_with_one_mapping()?, Mode::Blocking) {
            Some(theirs) => once(&theirs, size, messages)?,
            None => bail!("this program was linked without libxenvchan"),
        },
        ("rust", batch) if size == 64 => {
            let (mut left, mut right) = Emulated::start_with_one_mapping()?.channels(RING)?;
            in_place::many::<64>(&mut left, &mut right, batch, messages)?
        }
        ("rtrb", 1) => once(&Rtrb, size, messages)?,
        _ => bail!("there is no {subject} in batches of {batch}"),
    };
    Ok(moved)
}

/// Our vchan, blocking, as users have it.
pub fn ours() -> Result<Vchan, Failure> {
    Ok(Vchan::new(
        Emulated::start_with_one_mapping()?,
        Mode::Blocking,
    ))
}

fn once<T: Transport>(transport: &T, size: usize, messages: u64) -> Result<Moved, Failure> {
    let (mut left, mut right) = transport.connect(RING)?;
    workload::pairs(&mut left, &mut right, size, messages)
}

/// Two ends that are connected for as long as a comparison takes.
pub struct Both<P> {
    left: P,
    right: P,
}

impl<P: Peer> Both<P> {
    /// Connects them, with rings of `capacity` bytes.
    pub fn new<T: Transport<Peer = P>>(transport: &T, capacity: usize) -> Result<Both<P>, Failure> {
        let (left, right) = transport.connect(capacity)?;
        Ok(Both { left, right })
    }

    /// How long a message of `size` bytes takes, sent and received in one thread, in nanoseconds.
    pub fn pair(&mut self, size: usize, messages: u64) -> Result<f64, Failure> {
        let moved = workload::pairs(&mut self.left, &mut self.right, size, messages)?;
        Ok(moved.nanoseconds_each())
    }

    /// The two ends.
    pub fn ends(&mut self) -> (&mut P, &mut P) {
        (&mut self.left, &mut self.right)
    }
}
