//! Giving way to a peer on the same processor.
//!
//! There the peer does nothing while this side looks. And who sleeps is woken up by the first message,
//! takes the processor from who wrote it, and finds no second one: every few messages cost a wake-up. A
//! turn given away lets the peer come as far as it can, and nobody has asked for an event meanwhile.
//! But the processor may go to somebody else, or to nobody; so it is learnt whether turns pay.

use core::time::Duration;

use crate::guard::keeps;

/// A turn that took longer was not the peer's alone: it filled the largest ring in less. Whoever else
/// had the processor may have it for milliseconds again, which a hundred turns that pay do not earn.
const LONGEST: Duration = Duration::from_micros(500);
/// How many waits lie between two turns in vain, at most.
const RAREST: u16 = 1024;
/// The same after a turn that others had, and after one more before that is made up for.
const AFTER_OTHERS: u16 = 64;
const AFTER_OTHERS_AGAIN: u16 = 8192;

/// How often one direction gives way, learnt from what became of it.
#[derive(Debug)]
pub(super) struct Turns {
    /// How many waits lie between two turns. Each that pays halves it, each in vain doubles it, and
    /// those that others had make it long at once.
    interval: u16,
    /// How many of them are still to come.
    left: u16,
}

impl Turns {
    pub(super) const fn new() -> Turns {
        Turns {
            interval: 1,
            left: 1,
        }
    }

    /// Whether this wait begins with a turn of the peer's.
    pub(super) fn is_due(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// The turn is over, after this `time`. There is something to do now, or it was in vain.
    pub(super) fn ended(&mut self, time: Duration, something_to_do: bool) {
        self.interval = if !keeps("turns-become-rare") {
            1
        } else if time > LONGEST {
            match self.interval {
                1 => AFTER_OTHERS,
                _ => AFTER_OTHERS_AGAIN,
            }
        } else if something_to_do {
            (self.interval / 2).max(1)
        } else {
            self.interval.saturating_mul(2).min(RAREST)
        };
        self.left = self.interval;
    }
}

#[cfg(all(test, not(vchan_loom)))]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(1);

    /// How many of so many waits begin with a turn, of which each ends so.
    fn turns(turns: &mut Turns, waits: u32, time: Duration, something_to_do: bool) -> usize {
        let taken = (0..waits).filter(|_| {
            let due = turns.is_due();
            if due {
                turns.ended(time, something_to_do);
            }
            due
        });
        taken.count()
    }

    #[test]
    fn a_peer_that_uses_its_turns_gets_one_in_each_wait() {
        let mut all = Turns::new();
        assert_eq!(turns(&mut all, 100, SHORT, true), 100);
    }

    #[test]
    fn turns_in_vain_become_rare() {
        let mut all = Turns::new();
        let most = 10 + 100_000 / usize::from(RAREST);
        assert!(turns(&mut all, 100_000, SHORT, false) <= most);
    }

    #[test]
    fn turns_that_others_take_become_rare() {
        let mut all = Turns::new();
        let slice = Duration::from_millis(3);
        // Two of three are short all the same, and pay.
        let mut times = [slice, SHORT, SHORT].into_iter().cycle();
        let taken = (0..100_000).filter(|_| {
            let due = all.is_due();
            if due {
                all.ended(times.next().unwrap(), true);
            }
            due
        });
        assert!(taken.count() <= 10 + 3 * 100_000 / usize::from(AFTER_OTHERS_AGAIN));
    }

    #[test]
    fn one_turn_that_others_take_is_soon_made_up_for() {
        let mut all = Turns::new();
        let slice = Duration::from_millis(3);
        assert_eq!(turns(&mut all, 1, slice, true), 1);
        turns(&mut all, 2 * u32::from(AFTER_OTHERS), SHORT, true);
        assert_eq!(turns(&mut all, 100, SHORT, true), 100, "again each time");
    }

    #[test]
    fn a_peer_that_comes_to_this_processor_is_noticed() {
        let mut all = Turns::new();
        turns(&mut all, 100_000, SHORT, false);
        let most = 2 * u32::from(RAREST);
        assert!(turns(&mut all, most, SHORT, true) >= 10);
        assert_eq!(turns(&mut all, 100, SHORT, true), 100, "now each time");
    }
}
