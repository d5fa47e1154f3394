//! The table of goals, from the first row to those of real Xen.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use anyhow::Result;
use vchan_bench::Failure;
use vchan_bench::cpu::Placement;
use vchan_bench::peers::vchan::{Emulated, Mode, Vchan};

use crate::goal::Goal;
use crate::libxenvchan::CVchan;

mod counts;
mod latency;
mod notifications;
mod one_thread;
mod scale;
mod two_threads;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of each comparison, in which both are measured.
    pub rounds: usize,
    /// How long each measurement of a round takes, about.
    pub slice: Duration,
    /// Only a part of the matrix, and fewer repetitions of what takes long.
    pub quick: bool,
}

impl Effort {
    /// Under five minutes.
    pub const QUICK: Effort = Effort {
        rounds: 15,
        slice: Duration::from_millis(25),
        quick: true,
    };
    /// As long as it takes, about a quarter of an hour.
    pub const FULL: Effort = Effort {
        rounds: 31,
        slice: Duration::from_millis(60),
        quick: false,
    };
}

/// Both libraries on one host.
pub struct Libraries {
    host: Emulated,
    /// The same for both ends in one thread.
    one_thread: Emulated,
}

impl Libraries {
    fn start() -> Result<Libraries, Failure> {
        Ok(Libraries {
            host: Emulated::start()?,
            one_thread: Emulated::start_with_one_mapping()?,
        })
    }

    fn ours(&self, mode: Mode) -> Vchan {
        Vchan::new(self.host.clone(), mode)
    }

    fn theirs(&self, mode: Mode) -> Option<CVchan> {
        CVchan::new(self.host.clone(), mode)
    }
}

/// What was measured, and how long that took.
pub type Took = (&'static str, Duration);

/// Measures the rows whose names contain `only`, but not those of real Xen. `said` is told which row is
/// next, and how many there are.
pub fn all(
    effort: Effort,
    only: &str,
    mut said: impl FnMut(&'static str, usize),
) -> Result<(Vec<Goal>, Vec<Took>)> {
    type Measurement = fn(Effort, &Libraries) -> Result<Goal>;
    let rows: [(&'static str, Measurement); 19] = [
        ("pair, 64 B", one_thread::small),
        ("pair, 1 KiB", one_thread::medium),
        ("pair, 4 KiB", one_thread::large),
        ("pair, ≥ 16 KiB", one_thread::largest),
        ("64 B in batches of 16", one_thread::batches),
        ("zero-copy, ≥ 4 KiB", one_thread::zero_copy),
        ("instructions per pair, 64 B", counts::instructions),
        ("fences per pair, locked instructions", counts::fences),
        ("stream of 64 B, two threads", two_threads::small),
        ("every cell of the matrix", two_threads::matrix),
        ("round trip, 64 B", latency::round_trip),
        ("the adaptive default", latency::adaptive),
        ("notifications per MiB", notifications::per_mib),
        ("notifications in any cell", notifications::any_cell),
        (
            "notifications to a peer that is awake",
            notifications::awake,
        ),
        ("XenStore round trips, transactions", scale::store),
        ("100 servers at once", scale::servers),
        ("open and close", scale::again),
        ("1,000 channels", scale::channels),
    ];
    let libraries = Libraries::start()?;
    let (mut goals, mut took) = (Vec::new(), Vec::new());
    let chosen: Vec<_> = rows.iter().filter(|row| row.0.contains(only)).collect();
    for (name, measure) in &chosen {
        said(name, chosen.len());
        let since = Instant::now();
        goals.push(measure(effort, &libraries)?);
        took.push((*name, since.elapsed()));
    }
    Ok((goals, took))
}

/// How long all of it took, and what took longest, for people.
pub fn told(took: &[Took]) -> String {
    let mut longest = took.to_vec();
    longest.sort_by_key(|&(_, time)| Reverse(time));
    let total: Duration = longest.iter().map(|&(_, time)| time).sum();
    let row = |(name, time): &Took| format!("{name} {:.0} s", time.as_secs_f64());
    let rows: Vec<String> = longest.iter().take(5).map(row).collect();
    let total = total.as_secs_f64();
    format!("it took {total:.0} s, of which {}", rows.join(", "))
}

/// Why a row with the C library has no figure.
const WITHOUT_C: &str = "this program was linked without libxenvchan";

/// How many messages of about this cost fill the slice.
fn messages(effort: Effort, nanoseconds_each: f64) -> u64 {
    let slice = effort.slice.as_secs_f64() * 1e9;
    // A float that is too large becomes the largest number.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates"
    )]
    let count = (slice / nanoseconds_each) as u64;
    count.max(16)
}

/// The placement of the comparisons in two threads; where there is one processor, both are on it.
pub fn across() -> Placement {
    match Placement::Across.cpus() {
        Ok(_) => Placement::Across,
        Err(_) => Placement::OneCpu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_longest_is_named_first() {
        let seconds = [("a", 1), ("b", 9), ("c", 2), ("d", 3), ("e", 4), ("f", 5)];
        let took = seconds.map(|(name, time)| (name, Duration::from_secs(time)));
        assert_eq!(
            told(&took),
            "it took 24 s, of which b 9 s, f 5 s, e 4 s, d 3 s, c 2 s"
        );
    }
}
