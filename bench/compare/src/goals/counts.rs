//! Counts: they do not depend on how busy the machine is, or only by how often somebody sleeps.

use std::env;

use anyhow::Result;
use vchan_bench::counting::Count;
use vchan_bench::cpu::Placement;
use vchan_bench::peers::vchan::Mode;
use vchan_bench::stats::Spread;
use vchan_bench::{Failure, Transport, workload};

use super::two_threads::{SIZES, orders};
use super::{Effort, Libraries, WITHOUT_C, across};
use crate::callgrind;
use crate::goal::{Bound, Goal, Part};
use crate::subject::RING;

const MIB: u64 = 1 << 20;

pub fn instructions(_effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let program = env::current_exe()?;
    let ours = callgrind::count(&program, "rust", 64, 1)?.instructions;
    let rtrb = callgrind::count(&program, "rtrb", 64, 1)?.instructions;
    let c = match libraries.theirs(Mode::Blocking) {
        Some(_) => Some(callgrind::count(&program, "c", 64, 1)?.instructions),
        None => None,
    };
    let theirs = c.map_or_else(|| "?".to_owned(), |c| format!("{c:.0}"));
    let against_c = c.and_then(|c| Spread::of(vec![ours / c]));
    Ok(Goal {
        name: "instructions per 64 B pair (callgrind)",
        parts: vec![
            Part::new("against C", Bound::AtMost(0.75, 0.65), against_c),
            Part::count("against rtrb", Bound::AtMost(0.90, 0.80), ours / rtrb),
        ],
        note: format!("ours {ours:.0}, C {theirs}, rtrb {rtrb:.0}"),
    })
}

pub fn fences(_effort: Effort, _libraries: &Libraries) -> Result<Goal> {
    const BATCH: usize = 16;
    let program = env::current_exe()?;
    let single = callgrind::count(&program, "rust", 64, 1)?;
    let batch = callgrind::count(&program, "rust", 64, BATCH)?;
    let aim = 1.0 + 2.0 / BATCH as f64;
    let none = Bound::AtMost(0.0, 0.0);
    Ok(Goal {
        name: "while the peer has not armed, per pair",
        parts: vec![
            Part::count("full fences", Bound::AtMost(2.0, 2.0), single.fences),
            Part::count(
                "full fences in batches of 16",
                Bound::AtMost(2.0, aim),
                batch.fences,
            ),
            Part::count(
                "locked read-modify-writes",
                none,
                single.locked + batch.locked,
            ),
        ],
        note: "of the instructions that callgrind saw executed".to_owned(),
    })
}

pub fn notifications(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let mut ratios = Vec::new();
    let mut large = Vec::new();
    for _ in 0..repetitions(effort) {
        let ours = ours(libraries, 64, RING, 16 * MIB, across())?;
        let (left, right) = libraries.ours(Mode::Blocking).connect(1 << 20)?;
        large.push(counted(libraries, left, right, 4096, 64 * MIB, across())?.0);
        if let Some(theirs) = theirs(libraries, 64, RING, 16 * MIB, across())? {
            ratios.push(ours / theirs);
        }
    }
    Ok(Goal {
        name: "notifications per MiB, across CPUs",
        parts: vec![
            Part::new(
                "64 B stream, against C",
                Bound::AtMost(0.1, 0.05),
                Spread::of(ratios),
            ),
            Part::new(
                "1 MiB ring, 4 KiB writes",
                Bound::AtMost(1.0, 0.2),
                Spread::of(large),
            ),
        ],
        note: "how often the two sleep depends on the machine; blocking".to_owned(),
    })
}

pub fn any_cell(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let name = "notifications in any cell";
    let bounds = [Bound::AtMost(1.0, 1.0), Bound::AtMost(f64::INFINITY, 1.0)];
    let (mut allowed, mut plain) = (0.0_f64, 0.0_f64);
    let mut worst = String::new();
    for order in orders(effort) {
        for size in SIZES {
            let bytes = (4 << order).max(MIB);
            let (mut our_counts, mut their_counts) = (Vec::new(), Vec::new());
            // Who is woken sometimes runs at once and sometimes later: one run says little.
            for _ in 0..repetitions(effort) {
                let (ring, one_cpu) = (1 << order, Placement::OneCpu);
                our_counts.push(ours(libraries, size, ring, bytes, one_cpu)?);
                their_counts.extend(theirs(libraries, size, ring, bytes, one_cpu)?);
            }
            let (ours, theirs) = (Spread::of(our_counts), Spread::of(their_counts));
            let (Some(ours), Some(theirs)) = (ours, theirs) else {
                let bounds = vec![("", bounds[0]), ("", bounds[1])];
                return Ok(Goal::missing(name, WITHOUT_C, bounds));
            };
            let (ours, theirs) = (ours.median, theirs.median);
            let part = ours / (1.05 * theirs + 0.2);
            if part >= allowed {
                allowed = part;
                worst = format!("{size} B in order {order}, {ours:.2} to {theirs:.2} per MiB");
            }
            plain = plain.max(ours / theirs.max(0.01));
        }
    }
    Ok(Goal {
        name,
        parts: vec![
            Part::count("against 1.05 × C + 0.2 per MiB", bounds[0], allowed),
            Part::count("against C", bounds[1], plain),
        ],
        note: format!("on one CPU, medians; the worst cell: {worst}"),
    })
}

pub fn awake(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let mut parts = Vec::new();
    for _ in 0..repetitions(effort) {
        let (mut left, mut right) = libraries.ours(Mode::Blocking).connect(RING)?;
        let before = sum(libraries);
        let bytes = 64 * MIB;
        let _ = workload::stream(&mut left, &mut right, 64, bytes / 64, across())?;
        let count = sum(libraries).since(before);
        parts.push(100.0 * count.awake as f64 / count.notifications.max(1) as f64);
    }
    Ok(Goal {
        name: "notifications sent while the peer is awake, %",
        parts: vec![Part::new("", Bound::AtMost(5.0, 1.0), Spread::of(parts))],
        note:
            "64 B stream across CPUs, blocking: of those that were sent while the other domain was \
               not waiting for an event"
                .to_owned(),
    })
}

fn repetitions(effort: Effort) -> usize {
    if effort.quick { 5 } else { 15 }
}

/// Notifications per MiB of both sides together.
fn ours(
    libraries: &Libraries,
    size: usize,
    ring: usize,
    bytes: u64,
    placement: Placement,
) -> Result<f64, Failure> {
    let (left, right) = libraries.ours(Mode::Blocking).connect(ring)?;
    Ok(counted(libraries, left, right, size, bytes, placement)?.0)
}

fn theirs(
    libraries: &Libraries,
    size: usize,
    ring: usize,
    bytes: u64,
    placement: Placement,
) -> Result<Option<f64>, Failure> {
    let Some(theirs) = libraries.theirs(Mode::Blocking) else {
        return Ok(None);
    };
    let (left, right) = theirs.connect(ring)?;
    let (notifications, _) = counted(libraries, left, right, size, bytes, placement)?;
    Ok(Some(notifications))
}

/// Notifications and system calls per MiB.
fn counted<P: vchan_bench::Peer>(
    libraries: &Libraries,
    mut left: P,
    mut right: P,
    size: usize,
    bytes: u64,
    placement: Placement,
) -> Result<(f64, f64), Failure> {
    let before = sum(libraries);
    let moved = workload::stream(&mut left, &mut right, size, bytes / size as u64, placement)?;
    let count = sum(libraries).since(before);
    let per_mib = |count: u64| count as f64 * MIB as f64 / moved.bytes() as f64;
    Ok((per_mib(count.notifications), per_mib(count.system_calls)))
}

fn sum(libraries: &Libraries) -> Count {
    let [left, right] = libraries.host.counts();
    left.now() + right.now()
}
