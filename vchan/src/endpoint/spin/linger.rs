//! Letting the peer get on before taking what it has done.
//!
//! A reader that takes each message at once, and a writer that sends another at once, pass the line
//! with the indices back and forth: of a stream of small messages, that is most of the cost. When
//! the reader looks away for a moment, the writer has the line to itself, and much is there
//! afterwards. So it is for a reader that has waited, and for one that comes back and finds little:
//! it would stay as close behind the writer for ever. The same holds for space. Of a single answer
//! the moment is lost; so it is learnt whether more usually follows, and how soon it is enough.

use crate::guard::keeps;
use crate::sync::pause;

/// How many pauses a trial takes: some hundred nanoseconds.
const TRIAL: u16 = 16;
/// How many pauses are ever made: a few microseconds, a small part of what a wake-up costs.
const MOST: u16 = 128;
/// How many chances are passed up between two trials, at most.
const RAREST: u16 = 1024;

/// How long one direction lingers, learnt from what became of it.
#[derive(Debug)]
pub(super) struct Lingering {
    /// With so many bytes nothing is gained by more: both sides can work at once on the rest.
    enough: usize,
    /// For how many pauses.
    pauses: u16,
    /// How many chances lie between two trials, of which each doubles it that shows nothing.
    interval: u16,
    /// How many of them are still to come.
    left: u16,
    /// The peer's index as it was last looked at here.
    seen: u32,
}

impl Lingering {
    /// For a ring of this size.
    pub(super) const fn new(ring: usize) -> Lingering {
        Lingering {
            enough: ring / 4,
            pauses: TRIAL,
            interval: 1,
            left: 1,
            seen: 0,
        }
    }

    /// The peer's index is of interest again, and `look` tells it: any number, as the peer writes it.
    /// If it has moved a little since the last visit, it is given time to move on.
    pub(super) fn visit(&mut self, look: impl Fn() -> u32) {
        let before = core::mem::replace(&mut self.seen, look());
        let moved = |now: u32| now.wrapping_sub(before) as usize;
        if !(1..self.enough).contains(&moved(self.seen)) || !self.is_due() {
            return;
        }
        pause_often(self.pauses / 2);
        let half = look();
        pause_often(self.pauses / 2);
        self.seen = look();
        self.learn(moved(self.seen), self.seen != half);
    }

    fn is_due(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// So much was there in the end, and `lately` whether the second half brought some of it.
    fn learn(&mut self, moved: usize, lately: bool) {
        if !lately && self.pauses <= TRIAL {
            self.pauses = TRIAL;
            if keeps("lingering-becomes-rare") {
                self.interval = self.interval.saturating_mul(2).min(RAREST);
            }
        } else {
            self.interval = 1;
            if !lately || moved >= self.enough {
                self.pauses = (self.pauses / 2).max(2);
            } else if moved < self.enough / 2 {
                self.pauses = self.pauses.saturating_mul(2).min(MOST);
            }
        }
        self.left = self.interval;
    }
}

fn pause_often(count: u16) {
    for _ in 0..if cfg!(vchan_loom) { 1 } else { count } {
        pause();
    }
}

#[cfg(all(test, not(vchan_loom)))]
mod tests {
    use core::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    /// A peer that has moved its index by `first` when it is looked at, and by what `more` gives
    /// before each look after that. How many looks there were.
    fn chance(lingering: &mut Lingering, first: u32, more: impl Fn() -> u32) -> usize {
        let looks = Cell::new(0);
        let index = Cell::new(lingering.seen.wrapping_add(first));
        lingering.visit(|| {
            if looks.replace(looks.get() + 1) > 0 {
                index.set(index.get().wrapping_add(more()));
            }
            index.get()
        });
        looks.get()
    }

    #[test]
    fn a_single_answer_is_hardly_ever_kept_waiting() {
        let mut lingering = Lingering::new(65536);
        let chances = 100_000;
        let lingered = (0..chances).filter(|_| chance(&mut lingering, 64, || 0) > 1);
        assert!(lingered.count() <= 10 + chances / usize::from(RAREST));
    }

    #[test]
    fn an_answer_in_two_parts_is_hardly_ever_kept_waiting() {
        let mut lingering = Lingering::new(65536);
        let lingered = (0..100_000).filter(|_| {
            let parts = Cell::new(64);
            chance(&mut lingering, 64, || parts.take()) > 1
        });
        assert!(lingered.count() <= 10 + 100_000 / usize::from(RAREST));
    }

    #[test]
    fn a_stream_is_given_time_until_a_part_of_the_ring_is_there() {
        let mut lingering = Lingering::new(65536);
        for _ in 0..100 {
            assert_eq!(chance(&mut lingering, 64, || 1000), 3);
        }
        assert_eq!(lingering.pauses, MOST);
        // From now on the peer is faster.
        for _ in 0..100 {
            chance(&mut lingering, 64, || 20_000);
        }
        assert_eq!(lingering.pauses, 2);
        assert_eq!(chance(&mut lingering, 65536 / 4, || 0), 1, "that is enough");
    }

    #[test]
    fn who_finds_nothing_new_does_not_linger() {
        let mut lingering = Lingering::new(65536);
        for _ in 0..100 {
            assert_eq!(chance(&mut lingering, 64, || 1000), 3);
            assert_eq!(chance(&mut lingering, 0, || 1000), 1);
        }
    }

    #[test]
    fn a_stream_that_begins_after_single_answers_is_noticed() {
        let mut lingering = Lingering::new(65536);
        for _ in 0..100_000 {
            chance(&mut lingering, 64, || 0);
        }
        let chances = (1..).take_while(|_| chance(&mut lingering, 64, || 1000) == 1);
        assert!(chances.count() < usize::from(RAREST));
        assert_eq!(chance(&mut lingering, 64, || 1000), 3, "now each time");
    }

    proptest! {
        #[test]
        fn whatever_the_index_is_there_are_few_pauses_and_looks(
            ring in 10u32..=20,
            found in prop::collection::vec((any::<u32>(), any::<u32>()), 0..200),
        ) {
            let mut lingering = Lingering::new(1 << ring);
            for (first, more) in found {
                prop_assert!(chance(&mut lingering, first, || more) <= 3);
                prop_assert!((2..=MOST).contains(&lingering.pauses));
            }
        }
    }
}
