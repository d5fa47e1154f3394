//! Round trips.

use std::time::Duration;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use vchan_bench::cpu::Placement;
use vchan_bench::peers::sockets::Eventfd;
use vchan_bench::peers::vchan::{Mode, VchanPeer};
use vchan_bench::stats::{Spread, alternate};
use vchan_bench::{Failure, Peer, Transport, workload};

use super::{Effort, Libraries, across, messages, two_threads};
use crate::goal::{Bound, Goal, Part};
use crate::subject::{Both, RING};

const SIZE: usize = 64;

pub fn round_trip(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let spinning = match libraries.theirs(Mode::Spin) {
        None => None,
        Some(theirs) => {
            let mut ours = Both::new(&libraries.ours(Mode::Spin), RING)?;
            let mut theirs = Both::new(&theirs, RING)?;
            let count = enough(effort, |count| median(&mut theirs, count))?;
            Some(alternate(
                effort.rounds,
                || median(&mut ours, count),
                || median(&mut theirs, count),
            )?)
        }
    };
    let mut ours = Both::new(&libraries.ours(Mode::Sleep), RING)?;
    let count = enough(effort, |count| median(&mut ours, count))?;
    let blocking: Spread = alternate(
        effort.rounds,
        || median(&mut ours, count),
        || eventfd(count),
    )?;
    Ok(Goal {
        name: "64 B round trip: time",
        parts: vec![
            Part::new(
                "spinning, against C spinning",
                Bound::AtMost(0.70, 0.45),
                spinning,
            ),
            Part::new(
                "sleeping, against an eventfd ping-pong",
                Bound::AtMost(1.10, 1.05),
                blocking,
            ),
        ],
        note: "across CPUs; the median of up to 2,000 round trips in each round".to_owned(),
    })
}

pub fn adaptive(effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let mut default = Both::new(&libraries.ours(Mode::Blocking), RING)?;
    let mut spinning = Both::new(&libraries.ours(Mode::Spin), RING)?;
    let mut sleeping = Both::new(&libraries.ours(Mode::Sleep), RING)?;
    let trips = enough(effort, |count| median(&mut default, count))?;
    let round_trip = alternate(
        effort.rounds,
        || median(&mut default, trips),
        || median(&mut spinning, trips),
    )?;
    let count = two_threads::enough(effort, &mut sleeping, SIZE, Placement::OneCpu)?;
    let throughput = alternate(
        effort.rounds,
        || two_threads::stream(&mut sleeping, SIZE, count, Placement::OneCpu),
        || two_threads::stream(&mut default, SIZE, count, Placement::OneCpu),
    )?;
    Ok(Goal {
        name: "the adaptive default, all three at once",
        parts: vec![
            Part::new(
                "cross-CPU round trip against pure spin",
                Bound::AtMost(3.0, 3.0),
                round_trip,
            ),
            Part::new(
                "one-CPU throughput against no spin",
                Bound::AtLeast(0.90, 0.90),
                throughput,
            ),
            Part::count(
                "CPU of an idle channel, %",
                Bound::AtMost(0.5, 0.5),
                idle(&mut default)?,
            ),
        ],
        note: "64 B, 64 KiB ring".to_owned(),
    })
}

/// How much of a CPU a reader takes that waits for three seconds, in percent.
fn idle(both: &mut Both<VchanPeer>) -> Result<f64, Failure> {
    const SILENCE: Duration = Duration::from_secs(3);
    let (left, right) = both.ends();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let before = processor_time();
            let mut arrived = [0; SIZE];
            right.recv(&mut arrived)?;
            Ok::<_, Failure>(processor_time() - before)
        });
        std::thread::sleep(SILENCE);
        left.send(&[1; SIZE])?;
        let used = reader.join().map_err(|_| Failure::Panic)??;
        Ok(100.0 * used.as_secs_f64() / SILENCE.as_secs_f64())
    })
}

/// What this thread has used of the processors.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is negative on this clock.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How many round trips fill four slices, but no more than say what there is to say. `median` measures so
/// many.
fn enough(
    effort: Effort,
    mut median: impl FnMut(u64) -> Result<f64, Failure>,
) -> Result<u64, Failure> {
    const FEWEST: u64 = 200;
    let each = median(FEWEST)?;
    Ok((4 * messages(effort, each)).clamp(FEWEST, 2000))
}

/// The median round trip in nanoseconds.
fn median<P: Peer>(both: &mut Both<P>, count: u64) -> Result<f64, Failure> {
    let (left, right) = both.ends();
    let trips = workload::round_trips(left, right, SIZE, count, across())?;
    Ok(trips.latency.quantile(0.5) as f64)
}

/// The same of two eventfds.
fn eventfd(count: u64) -> Result<f64, Failure> {
    let (mut left, mut right) = Eventfd.connect(0)?;
    let one = 1_u64.to_ne_bytes();
    let latency = workload::signals(&mut left, &mut right, one, count, across())?;
    Ok(latency.quantile(0.5) as f64)
}
