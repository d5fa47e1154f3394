//! Streams between two threads that sleep when they must.

use anyhow::Result;
use vchan_bench::cpu::Placement;
use vchan_bench::peers::vchan::Mode;
use vchan_bench::stats::{Spread, alternate};
use vchan_bench::{Failure, Peer, workload};

use super::{Effort, Libraries, WITHOUT_C, across, messages};
use crate::goal::{Bound, Goal, Part};
use crate::subject::{Both, RING};

/// The message sizes of the matrix.
pub const SIZES: [usize; 5] = [64, 256, 1024, 4096, 65536];

/// The ring orders of the matrix.
pub fn orders(effort: Effort) -> Vec<u32> {
    match effort.quick {
        true => vec![10, 12, 16, 20],
        false => (10..=20).collect(),
    }
}

pub fn small(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let mut parts = Vec::new();
    for (what, placement, bound) in [
        ("across CPUs", across(), Bound::AtLeast(3.0, 5.0)),
        ("on one CPU", Placement::OneCpu, Bound::AtLeast(2.0, 2.5)),
    ] {
        let ratio = against_c(effort, libraries, 64, RING, placement)?;
        parts.push(Part::new(what, bound, ratio));
    }
    Ok(Goal {
        name: "two threads, blocking, 64 B stream: speed against C",
        parts,
        note: "64 KiB ring, the reader takes up to 64 KiB at a time".to_owned(),
    })
}

pub fn matrix(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let name = "every cell of {64, 256, 1 Ki, 4 Ki, 64 Ki} × {order 10 … 20}: speed against C";
    let bound = Bound::AtLeast(0.95, 1.0);
    let mut cells = Vec::new();
    for order in orders(effort) {
        for size in SIZES {
            match against_c(effort, libraries, size, 1 << order, across())? {
                Some(ratio) => cells.push((ratio, size, order)),
                None => return Ok(Goal::missing(name, WITHOUT_C, vec![("", bound)])),
            }
        }
    }
    cells.sort_by(|a, b| a.0.median.total_cmp(&b.0.median));
    let short = |(ratio, size, order): &(Spread, usize, u32)| {
        format!("{size} B in order {order}: {:.2}", ratio.median)
    };
    let lowest: Vec<String> = cells.iter().take(3).map(short).collect();
    let below = cells.iter().filter(|cell| cell.0.median < 0.95).count();
    Ok(Goal {
        name,
        parts: vec![Part::new(
            "the worst",
            bound,
            cells.first().map(|cell| cell.0),
        )],
        note: format!(
            "two threads across CPUs, blocking; {below} of {} cells below 0.95; the lowest: {}",
            cells.len(),
            lowest.join(", ")
        ),
    })
}

/// How many times faster than the C library we stream.
fn against_c(
    effort: Effort,
    libraries: &Libraries,
    size: usize,
    ring: usize,
    placement: Placement,
) -> Result<Option<Spread>> {
    let Some(theirs) = libraries.theirs(Mode::Blocking) else {
        return Ok(None);
    };
    let mut theirs = Both::new(&theirs, ring)?;
    let mut ours = Both::new(&libraries.ours(Mode::Blocking), ring)?;
    // Each fills the slice: where one is much slower, the same number would take it many times as long.
    let their_count = enough(effort, &mut theirs, size, placement)?;
    let our_count = enough(effort, &mut ours, size, placement)?;
    let ratio = alternate(
        effort.rounds,
        || stream(&mut theirs, size, their_count, placement),
        || stream(&mut ours, size, our_count, placement),
    )?;
    Ok(Some(ratio))
}

/// How many messages fill the slice.
pub fn enough<P: Peer>(
    effort: Effort,
    both: &mut Both<P>,
    size: usize,
    placement: Placement,
) -> Result<u64, Failure> {
    let mut count = 16;
    loop {
        let each = stream(both, size, count, placement)?;
        let wanted = messages(effort, each);
        if wanted <= 4 * count {
            return Ok(wanted);
        }
        count *= 4;
    }
}

/// Nanoseconds for each message of a stream.
pub fn stream<P: Peer>(
    both: &mut Both<P>,
    size: usize,
    count: u64,
    placement: Placement,
) -> Result<f64, Failure> {
    let (left, right) = both.ends();
    Ok(workload::stream(left, right, size, count, placement)?.nanoseconds_each())
}
