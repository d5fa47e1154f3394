//! Sending and receiving in one thread: what the calls cost, with nobody to wait for.

use anyhow::Result;
use vchan_bench::peers::memory::{Buffer, Least};
use vchan_bench::peers::rings::Rtrb;
use vchan_bench::peers::vchan::{Mode, Vchan};
use vchan_bench::stats::{Spread, alternate};
use vchan_bench::workload::{self, in_place};

use super::{Effort, Libraries, messages};
use crate::goal::{Bound, Goal, Part};
use crate::libxenvchan::CVchan;
use crate::subject::{Both, RING};

const NOTE: &str = "one thread, 64 KiB ring, send and recv of one message; the ring has one address, as buffers have";

pub fn small(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let parts = vec![
        against_c(effort, libraries, 64, Bound::AtLeast(3.0, 5.0))?,
        against_rtrb(effort, libraries, 64, Bound::AtLeast(0.65, 1.0))?,
    ];
    with_least(
        effort,
        libraries,
        64,
        goal("send+recv pair, 64 KiB ring, 64 B: speed", parts),
    )
}

pub fn medium(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let parts = vec![
        against_c(effort, libraries, 1024, Bound::AtLeast(2.0, 2.7))?,
        against_rtrb(effort, libraries, 1024, Bound::AtLeast(0.85, 1.0))?,
    ];
    with_least(effort, libraries, 1024, goal("the same at 1 KiB", parts))
}

pub fn large(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let parts = vec![
        against_c(effort, libraries, 4096, Bound::AtLeast(1.25, 1.35))?,
        against_rtrb(effort, libraries, 4096, Bound::AtLeast(0.93, 1.0))?,
        against_copies(effort, libraries, 4096, Bound::AtLeast(0.88, 0.95))?,
    ];
    with_least(effort, libraries, 4096, goal("the same at 4 KiB", parts))
}

pub fn largest(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    const SIZES: [usize; 3] = [16 << 10, 32 << 10, 64 << 10];
    let (mut against, mut copies) = (Vec::new(), Vec::new());
    for size in SIZES {
        against.push(against_c(
            effort,
            libraries,
            size,
            Bound::AtLeast(0.97, 1.05),
        )?);
        copies.push(against_copies(
            effort,
            libraries,
            size,
            Bound::AtLeast(0.95, 0.98),
        )?);
    }
    let parts = [worst(against), worst(copies)]
        .into_iter()
        .flatten()
        .collect();
    let mut goal = goal("the same at ≥ 16 KiB", parts);
    goal.note = "the worst of 16, 32 and 64 KiB".to_owned();
    Ok(goal)
}

pub fn batches(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let (mut left, mut right) = libraries.one_thread.channels(RING)?;
    let mut ours =
        |count| Ok(in_place::many::<64>(&mut left, &mut right, 16, count)?.nanoseconds_each());
    let mut theirs = Both::new(&Rtrb, RING)?;
    let count = messages(effort, ours(1000)?);
    let ratio = alternate(effort.rounds, || theirs.pair(64, count), || ours(count))?;
    let part = Part::new("against rtrb", Bound::AtLeast(1.0, 1.3), ratio);
    let mut goal = goal("64 B in batches of 16: speed", vec![part]);
    goal.note =
        "send_many and recv_many of 16, against 16 times push and pop of rtrb, which has no \
                 messages"
            .to_owned();
    Ok(goal)
}

pub fn zero_copy(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let mut parts = Vec::new();
    for size in [4096, 16384] {
        let (mut left, mut right) = libraries.one_thread.channels(RING)?;
        let mut ours =
            |count| Ok(in_place::one_copy(&mut left, &mut right, size, count)?.nanoseconds_each());
        let count = messages(effort, ours(1000)?);
        let copies = || Ok(in_place::one_plain_copy(RING, size, count)?.nanoseconds_each());
        let ratio = alternate(effort.rounds, copies, || ours(count))?;
        parts.push(Part::new(
            "against one memcpy",
            Bound::AtLeast(0.90, 0.97),
            ratio,
        ));
    }
    let mut goal = goal(
        "zero-copy (reserve/commit, peek/consume), ≥ 4 KiB: speed",
        worst(parts).into_iter().collect(),
    );
    goal.note = "written in place, read by nobody while the clock runs; the worst of 4 and 16 KiB"
        .to_owned();
    Ok(goal)
}

fn goal(name: &'static str, parts: Vec<Part>) -> Goal {
    Goal {
        name,
        parts,
        note: NOTE.to_owned(),
    }
}

/// Says beside the figures what could be had at most on this processor.
fn with_least(effort: Effort, libraries: &Libraries, size: usize, mut goal: Goal) -> Result<Goal> {
    let Some(theirs) = CVchan::new(libraries.one_thread.clone(), Mode::Blocking) else {
        return Ok(goal);
    };
    let mut theirs = Both::new(&theirs, RING)?;
    let mut ring = Least::new(RING)?;
    let mut least = |count| {
        let moved = workload::batches(size, 1, count, |from, to| {
            ring.pair(from, to);
            Ok(())
        })?;
        Ok(moved.nanoseconds_each())
    };
    let count = messages(effort, least(1000)?);
    let ratio = alternate(effort.rounds, || theirs.pair(size, count), || least(count))?;
    goal.note = format!(
        "{}; a loop of the two copies, two indices and two fences, which looks at nothing and \
         validates nothing, is at {ratio} of C",
        goal.note,
    );
    Ok(goal)
}

fn against_c(effort: Effort, libraries: &Libraries, size: usize, bound: Bound) -> Result<Part> {
    let what = "against C";
    let Some(theirs) = CVchan::new(libraries.one_thread.clone(), Mode::Blocking) else {
        return Ok(Part::new(what, bound, None));
    };
    let mut theirs = Both::new(&theirs, RING)?;
    let theirs = move |count| theirs.pair(size, count);
    let ratio = speed(effort, libraries, size, theirs)?;
    Ok(Part::new(what, bound, ratio))
}

fn against_rtrb(effort: Effort, libraries: &Libraries, size: usize, bound: Bound) -> Result<Part> {
    let mut theirs = Both::new(&Rtrb, RING)?;
    let ratio = speed(effort, libraries, size, move |count| {
        theirs.pair(size, count)
    })?;
    Ok(Part::new("against rtrb", bound, ratio))
}

fn against_copies(
    effort: Effort,
    libraries: &Libraries,
    size: usize,
    bound: Bound,
) -> Result<Part> {
    let mut buffer = Buffer::new(RING);
    let theirs = move |count| {
        let moved = workload::batches(size, 1, count, |from, to| {
            buffer.through(from, to);
            Ok(())
        })?;
        Ok(moved.nanoseconds_each())
    };
    let ratio = speed(effort, libraries, size, theirs)?;
    Ok(Part::new("against 2×memcpy", bound, ratio))
}

/// How many times faster we are than `theirs`, which measures the nanoseconds of a message.
fn speed(
    effort: Effort,
    libraries: &Libraries,
    size: usize,
    mut theirs: impl FnMut(u64) -> Result<f64, vchan_bench::Failure>,
) -> Result<Spread> {
    let mut ours = Both::new(
        &Vchan::new(libraries.one_thread.clone(), Mode::Blocking),
        RING,
    )?;
    let count = messages(effort, ours.pair(size, 1000)?);
    // The time of one is the speed of the other.
    Ok(alternate(
        effort.rounds,
        || theirs(count),
        || ours.pair(size, count),
    )?)
}

/// The part with the lowest figure.
fn worst(parts: Vec<Part>) -> Option<Part> {
    let figure = |part: &Part| part.value.map_or(f64::NEG_INFINITY, |value| value.median);
    parts
        .into_iter()
        .min_by(|a, b| figure(a).total_cmp(&figure(b)))
}
