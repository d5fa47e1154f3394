//! Events: how many are sent, and to whom. That depends on how often somebody sleeps, and so, where both
//! ends run at the same time, on the machine.

use std::time::{Duration, Instant};

use anyhow::Result;
use vchan_bench::counting::Count;
use vchan_bench::cpu::Placement;
use vchan_bench::peers::vchan::Mode;
use vchan_bench::stats::Spread;
use vchan_bench::workload::{self, in_turn};
use vchan_bench::{Failure, Peer, Polled, Transport};

use super::two_threads::{SIZES, orders};
use super::{Effort, Libraries, WITHOUT_C, across};
use crate::goal::{Bound, Goal, Part};
use crate::subject::RING;

const MIB: u64 = 1 << 20;

pub fn per_mib(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let mut ratios = Vec::new();
    let mut large = Vec::new();
    for _ in 0..repetitions(effort) {
        let stream = |peers| streamed(libraries, peers, 64, 16 * MIB, across());
        let ours = stream(libraries.ours(Mode::Blocking).connect(RING)?)?;
        let peers = libraries.ours(Mode::Blocking).connect(1 << 20)?;
        large.push(streamed(libraries, peers, 4096, 64 * MIB, across())?.per_mib());
        if let Some(theirs) = libraries.theirs(Mode::Blocking) {
            let peers = theirs.connect(RING)?;
            let theirs = streamed(libraries, peers, 64, 16 * MIB, across())?;
            ratios.push(ours.per_mib() / theirs.per_mib());
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
    const ALLOWED: Bound = Bound::AtMost(1.0, 1.0);
    const FEWER: Bound = Bound::AtMost(f64::INFINITY, 1.0);
    let name = "notifications in any cell";
    let [mut allowed, mut turns, mut scheduled] = [(); 3].map(|()| Worst::default());
    for order in orders(effort) {
        for size in SIZES {
            let cell = (size, order);
            let Some((ours, theirs)) = taking_turns(libraries, cell)? else {
                let parts = [ALLOWED, FEWER, FEWER].map(|bound| ("", bound));
                return Ok(Goal::missing(name, WITHOUT_C, parts.to_vec()));
            };
            allowed.note(cell, ours, 1.05 * theirs + 0.2);
            turns.note(cell, ours, theirs);
            if let Some((ours, theirs)) = on_one_cpu(effort, libraries, cell)? {
                scheduled.note(cell, ours, theirs);
            }
        }
    }
    Ok(Goal {
        name,
        parts: vec![
            Part::count(
                "taking turns: against 1.05 × C + 0.2 per MiB",
                ALLOWED,
                allowed.ratio,
            ),
            Part::count("taking turns: against C", FEWER, turns.ratio),
            Part::count("on one CPU: against C", FEWER, scheduled.ratio),
        ],
        note: format!(
            "the worst cells; taking turns, an end does what it can before the other does, and every run \
             counts the same ({}); on one CPU, the system decides after each event who runs, so sums of {} \
             rounds are compared ({})",
            turns.which,
            repetitions(effort),
            scheduled.which
        ),
    })
}

/// The cell with the largest ratio.
#[derive(Default)]
struct Worst {
    ratio: f64,
    which: String,
}

impl Worst {
    fn note(&mut self, (size, order): (usize, u32), ours: f64, theirs: f64) {
        let ratio = ours / theirs.max(0.01);
        if ratio >= self.ratio {
            let which = format!("{size} B in order {order}, {ours:.2} to {theirs:.2} per MiB");
            *self = Worst { ratio, which };
        }
    }
}

/// The notifications per MiB of both libraries, where neither end runs at the same time as the other.
fn taking_turns(
    libraries: &Libraries,
    (size, order): (usize, u32),
) -> Result<Option<(f64, f64)>, Failure> {
    let Some(theirs) = libraries.theirs(Mode::NonBlocking) else {
        return Ok(None);
    };
    let bytes = MIB.max(8 << order);
    let theirs = in_turns(libraries, theirs.connect(1 << order)?, size, bytes)?;
    let ours = libraries.ours(Mode::NonBlocking).connect(1 << order)?;
    let ours = in_turns(libraries, ours, size, bytes)?;
    Ok(Some((ours.per_mib(), theirs.per_mib())))
}

/// The same of rounds that alternate, where the system decides which end runs. A connection's
/// first MiB is not like the next, as the two learn how to wait: so much is sent that it hardly counts.
fn on_one_cpu(
    effort: Effort,
    libraries: &Libraries,
    (size, order): (usize, u32),
) -> Result<Option<(f64, f64)>, Failure> {
    let Some(theirs) = libraries.theirs(Mode::Blocking) else {
        return Ok(None);
    };
    let ours = libraries.ours(Mode::Blocking);
    let bytes = (64 << order).max(4 * MIB);
    let (mut our_sum, mut their_sum) = (Sent::default(), Sent::default());
    for _ in 0..repetitions(effort) {
        let peers = ours.connect(1 << order)?;
        our_sum += streamed(libraries, peers, size, bytes, Placement::OneCpu)?;
        let peers = theirs.connect(1 << order)?;
        their_sum += streamed(libraries, peers, size, bytes, Placement::OneCpu)?;
    }
    Ok(Some((our_sum.per_mib(), their_sum.per_mib())))
}

/// Streams, whose ends hardly ever sleep, and questions that come seldom enough for both to sleep before
/// each: so there are notifications to speak of, and those that meet a peer which is just about to sleep.
pub fn awake(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    const STREAMS: [(usize, u32); 5] = [(64, 10), (64, 12), (64, 16), (4096, 12), (4096, 20)];
    const INTERVAL: Duration = Duration::from_millis(1);
    let transport = libraries.ours(Mode::Blocking);
    let mut cases = Vec::new();
    for (size, order) in STREAMS {
        let (mut left, mut right) = transport.connect(1 << order)?;
        // A new page asks for an event of the first message, whether or not anybody sleeps.
        let _ = workload::stream(&mut left, &mut right, size, 1, across())?;
        let (mut sent, since) = (Sent::default(), Instant::now());
        while since.elapsed() < 20 * effort.slice {
            let messages = 16 * MIB / size as u64;
            sent += counted(libraries, || {
                Ok(workload::stream(&mut left, &mut right, size, messages, across())?.bytes())
            })?;
        }
        cases.push((format!("{size} B, order {order}"), sent));
    }
    let (mut left, mut right) = transport.connect(RING)?;
    let _ = workload::round_trips(&mut left, &mut right, 64, 1, across())?;
    let sent = counted(libraries, || {
        let (left, right) = (&mut left, &mut right);
        let trips = workload::round_trips_at_rate(left, right, 64, 300, INTERVAL, across())?;
        Ok(2 * trips.bytes())
    })?;
    cases.push(("64 B every millisecond".to_owned(), sent));
    let mut sum = Sent::default();
    let mut each = Vec::new();
    for (name, sent) in cases {
        let Count {
            awake,
            notifications,
            ..
        } = sent.count;
        let mib = sent.bytes / MIB;
        each.push(format!("{name}, {awake} of {notifications} in {mib} MiB"));
        sum += sent;
    }
    let Count {
        awake,
        notifications,
        ..
    } = sum.count;
    Ok(Goal {
        name: "notifications sent while the peer is awake, %",
        parts: vec![Part::count(
            "",
            Bound::AtMost(5.0, 1.0),
            100.0 * awake as f64 / notifications.max(1) as f64,
        )],
        note: format!(
            "across CPUs, blocking: of those after the first message, {awake} of {notifications} were \
             sent while the other domain was not waiting for an event: {}",
            each.join("; ")
        ),
    })
}

fn repetitions(effort: Effort) -> usize {
    if effort.quick { 5 } else { 15 }
}

/// How many bytes crossed, and what both sides asked of the host for it.
#[derive(Clone, Copy, Default)]
struct Sent {
    bytes: u64,
    count: Count,
}

impl Sent {
    /// Notifications per MiB.
    fn per_mib(self) -> f64 {
        self.count.notifications as f64 * MIB as f64 / self.bytes as f64
    }
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Sent) {
        self.bytes += other.bytes;
        self.count = self.count + other.count;
    }
}

fn streamed<P: Peer>(
    libraries: &Libraries,
    (mut left, mut right): (P, P),
    size: usize,
    bytes: u64,
    placement: Placement,
) -> Result<Sent, Failure> {
    let messages = bytes / size as u64;
    counted(libraries, || {
        Ok(workload::stream(&mut left, &mut right, size, messages, placement)?.bytes())
    })
}

fn in_turns<P: Polled>(
    libraries: &Libraries,
    (mut left, mut right): (P, P),
    size: usize,
    bytes: u64,
) -> Result<Sent, Failure> {
    let messages = bytes / size as u64;
    counted(libraries, || {
        let moved = in_turn::stream(&mut left, &mut right, size, messages)?;
        Ok(moved.arrived.bytes())
    })
}

/// Counts what is asked of the host while so many bytes cross as `work` says in the end.
fn counted(
    libraries: &Libraries,
    work: impl FnOnce() -> Result<u64, Failure>,
) -> Result<Sent, Failure> {
    let sum = || {
        let [left, right] = libraries.host.counts();
        left.now() + right.now()
    };
    let before = sum();
    let bytes = work()?;
    let count = sum().since(before);
    Ok(Sent { bytes, count })
}
