//! A time limit that counts only while this program runs.

use core::time::Duration;

use super::Time;
use crate::guard::keeps;

/// The longest sleep while a limit runs: so much of a time counts at most in which the program is
/// stopped.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// How long somebody else may still take for something, counted in the caller's sleeps.
///
/// A program is stopped now and then: by a signal, with its guest, or with the whole machine, and then
/// whoever was to answer has perhaps been stopped as well. So a sleep counts for no more than it was to
/// last, and what lies between two sleeps does not count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Countdown {
    left: Duration,
}

/// A sleep that is to be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nap {
    since: Time,
    pub(crate) until: Time,
}

impl Countdown {
    pub(crate) fn new(left: Duration) -> Countdown {
        Countdown { left }
    }

    /// What is to be slept next; none when the time is up.
    pub(crate) fn nap(&self, now: Time) -> Option<Nap> {
        let until = now.after(self.left.min(LONGEST_SLEEP));
        (self.left > Duration::ZERO).then_some(Nap { since: now, until })
    }

    /// Counts a sleep that has ended `now`.
    pub(crate) fn slept(&mut self, nap: Nap, now: Time) {
        let mut counts = now.since(nap.since);
        if keeps("stops-do-not-count") {
            counts = counts.min(nap.until.since(nap.since));
        }
        self.left = self.left.saturating_sub(counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(250);

    /// Sleeps until the time is up, each `late`, and says how often.
    fn naps(late: Duration) -> usize {
        let mut countdown = Countdown::new(LIMIT);
        let mut now = Time(Duration::from_secs(7));
        let mut count = 0;
        while let Some(nap) = countdown.nap(now) {
            now = nap.until.after(late);
            countdown.slept(nap, now);
            count += 1;
        }
        count
    }

    #[test]
    fn a_program_that_is_stopped_has_as_many_sleeps_as_another() {
        assert_eq!(naps(Duration::ZERO), 3);
        assert_eq!(naps(Duration::from_secs(600)), 3);
    }

    #[test]
    fn a_sleep_that_ends_early_counts_for_as_long_as_it_was() {
        let mut countdown = Countdown::new(LIMIT);
        let mut now = Time(Duration::ZERO);
        let begin = now;
        while let Some(nap) = countdown.nap(now) {
            now = now.after(Duration::from_millis(1));
            countdown.slept(nap, now);
        }
        assert_eq!(now.since(begin), LIMIT);
    }
}
