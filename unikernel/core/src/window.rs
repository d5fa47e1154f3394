//! Addresses that are handed out in pieces and come back.

use alloc::vec::Vec;
use core::ops::Range;

/// Addresses that nobody uses, as ranges that neither touch nor overlap, in ascending order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Window {
    free: Vec<Range<usize>>,
}

impl Window {
    /// Nothing is free.
    #[must_use]
    pub const fn new() -> Window {
        Window { free: Vec::new() }
    }

    /// Takes `size` addresses side by side, the lowest there are.
    ///
    /// ```
    /// use unikernel_core::window::Window;
    ///
    /// let mut window = Window::new();
    /// window.give(0x1000..0x4000);
    /// assert_eq!(window.take(0x1000), Some(0x1000..0x2000));
    /// assert_eq!(window.take(0x3000), None);
    /// window.give(0x1000..0x2000);
    /// assert_eq!(window.take(0x3000), Some(0x1000..0x4000));
    /// ```
    pub fn take(&mut self, size: usize) -> Option<Range<usize>> {
        let index = self.free.iter().position(|free| free.len() >= size)?;
        let free = self.free.get_mut(index)?;
        let taken = free.start..free.start + size;
        free.start = taken.end;
        if free.start == free.end {
            self.free.remove(index);
        }
        Some(taken)
    }

    /// Adds addresses that are not free, or makes those free again that were taken.
    pub fn give(&mut self, addresses: Range<usize>) {
        if addresses.is_empty() {
            return;
        }
        let index = (self.free).partition_point(|free| free.start < addresses.start);
        let touches_next = (self.free.get(index)).is_some_and(|next| next.start == addresses.end);
        let before = index
            .checked_sub(1)
            .filter(|&before| self.free[before].end == addresses.start);
        match (before, touches_next) {
            (Some(before), true) => {
                let next = self.free.remove(index);
                self.free[before].end = next.end;
            }
            (Some(before), false) => self.free[before].end = addresses.end,
            (None, true) => self.free[index].start = addresses.start,
            (None, false) => self.free.insert(index, addresses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is taken and given back: nothing is handed out twice, and in the end there is
        /// one piece again.
        #[test]
        fn pieces_never_overlap_and_join_again(steps in prop::collection::vec((any::<bool>(), 1..40_usize), 0..200)) {
            let all = 1000..3000;
            let mut window = Window::new();
            window.give(all.clone());
            let mut taken: Vec<Range<usize>> = Vec::new();
            for (take, number) in steps {
                if take {
                    if let Some(piece) = window.take(number) {
                        prop_assert_eq!(piece.len(), number);
                        prop_assert!(all.start <= piece.start && piece.end <= all.end);
                        for other in &taken {
                            prop_assert!(piece.end <= other.start || other.end <= piece.start);
                        }
                        taken.push(piece);
                    }
                } else if !taken.is_empty() {
                    window.give(taken.swap_remove(number % taken.len()));
                }
                for pair in window.free.windows(2) {
                    prop_assert!(pair[0].end < pair[1].start, "{:?}", window);
                }
            }
            for piece in taken {
                window.give(piece);
            }
            prop_assert_eq!(window.take(all.len()), Some(all));
        }
    }

    #[test]
    fn there_is_an_end() {
        let mut window = Window::new();
        assert_eq!(window.take(1), None);
        window.give(10..20);
        assert_eq!(window.take(11), None);
        assert_eq!(window.take(10), Some(10..20));
        assert_eq!(window.take(1), None);
    }
}
