//! The machine's memory map, and what of it may be the heap. It allocates nothing: it comes first.

use core::ops::Range;

use vchan::memory::PAGE_SIZE;

/// The type of memory that may be used (`XEN_HVM_MEMMAP_TYPE_RAM`, and RAM of the E820 map).
pub const RAM: u32 = 1;

/// A piece of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its first address.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What it is: [`RAM`], or a number for something else.
    pub kind: u32,
}

impl Piece {
    fn range(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.length)
    }
}

/// The pages below `limit` that are memory and that nothing in `taken` touches, as ranges that do not
/// overlap.
///
/// Pieces may overlap and come in any order: what a piece of another kind covers is not used, and
/// no page is given twice.
///
/// ```
/// use unikernel_core::memory_map::{Piece, RAM, free};
///
/// let map = [Piece { start: 0, length: 0x40_0000, kind: RAM }];
/// let image = 0x10_0000..0x12_3456;
/// let taken = [image];
/// let mut ranges = free(&map, &taken, 1 << 32);
/// assert_eq!(ranges.next(), Some(0x1000..0x10_0000));
/// assert_eq!(ranges.next(), Some(0x12_4000..0x40_0000));
/// assert_eq!(ranges.next(), None);
/// ```
///
/// Page 0 is left out: an address of zero means none.
pub fn free<'a>(
    map: &'a [Piece],
    taken: &'a [Range<u64>],
    limit: u64,
) -> impl Iterator<Item = Range<u64>> + 'a {
    Free {
        map,
        taken,
        limit,
        next: 0,
        rest: 0..0,
    }
}

/// How much of the addresses below a hole is left to others' pages, also where there would be memory.
const LEAST_WINDOW: u64 = 64 << 20;

/// The span of a large page.
const LARGE_PAGE: u64 = 2 << 20;

/// The addresses above all memory and below `hole_end`, at which pages of others can be put. There are
/// always some: what memory lies there, in a guest of nearly 4 GiB, is not to be used.
///
/// ```
/// use unikernel_core::memory_map::{Piece, RAM, window};
///
/// let map = [Piece { start: 0, length: 0x20_1000, kind: RAM }];
/// assert_eq!(window(&map, 0xf000_0000), 0x40_0000..0xf000_0000);
/// ```
#[must_use]
pub fn window(map: &[Piece], hole_end: u64) -> Range<u64> {
    let latest = hole_end.saturating_sub(LEAST_WINDOW);
    let memory = map.iter().filter(|piece| piece.kind == RAM);
    let ends = memory.map(|piece| piece.range().end.min(latest));
    let memory_end = ends.max().unwrap_or_default();
    memory_end.next_multiple_of(LARGE_PAGE)..hole_end
}

/// What [`free`] goes through.
struct Free<'a> {
    map: &'a [Piece],
    taken: &'a [Range<u64>],
    limit: u64,
    /// How many pieces have been begun.
    next: usize,
    /// What of the last one is still to be looked at.
    rest: Range<u64>,
}

impl Free<'_> {
    /// The first that makes something of the rest unusable.
    fn blocker(&self) -> Option<Range<u64>> {
        let mut first: Option<Range<u64>> = None;
        let mut consider = |range: Range<u64>| {
            let Range { start, end } = self.rest;
            let is_ahead = range.start < range.end && range.start < end && range.end > start;
            if is_ahead && first.as_ref().is_none_or(|first| range.start < first.start) {
                first = Some(range);
            }
        };
        for (n, piece) in self.map.iter().enumerate() {
            // What an earlier piece has given is not given again.
            if piece.kind != RAM || n + 1 < self.next {
                consider(piece.range());
            }
        }
        for range in self.taken {
            consider(range.clone());
        }
        first
    }
}

impl Iterator for Free<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        loop {
            let Range { start, end } = self.rest;
            if end.saturating_sub(start) < PAGE {
                // Less than a page is left.
                let piece = self.map.get(self.next)?;
                self.next += 1;
                if piece.kind == RAM {
                    self.rest = first_page(piece.start)..piece.range().end.min(self.limit);
                }
                continue;
            }
            let blocker = self.blocker().unwrap_or(end..end);
            self.rest.start = first_page(blocker.end);
            let gap = start..blocker.start & !(PAGE - 1);
            if gap.start < gap.end {
                return Some(gap);
            }
        }
    }
}

const PAGE: u64 = PAGE_SIZE as u64;

/// The first page that begins at `address` or above it, page 0 aside. The end of the address space
/// where there is none.
fn first_page(address: u64) -> u64 {
    match address.checked_next_multiple_of(PAGE) {
        Some(start) => start.max(PAGE),
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn ram(start: u64, length: u64) -> Piece {
        Piece {
            start,
            length,
            kind: RAM,
        }
    }

    #[test]
    fn the_map_of_a_small_guest() {
        let map = [
            ram(0, 0x20_0000),
            Piece {
                start: 0xFC00_0000,
                length: 0x400_0000,
                kind: 2,
            },
        ];
        let taken = [
            0x10_0000..0x11_8000,
            0x11_7800..0x11_9001,
            0x1F_F000..0x20_0000,
        ];
        let free: Vec<_> = free(&map, &taken, 1 << 32).collect();
        assert_eq!(free, [0x1000..0x10_0000, 0x11_A000..0x1F_F000]);
    }

    #[test]
    fn a_guest_full_of_memory_has_room_for_pages_of_others() {
        const HOLE_END: u64 = 0xf000_0000;
        let above = ram(1 << 32, 1 << 32);
        for low_end in [0xefff_f000, HOLE_END, 0xfc00_0000] {
            let map = [ram(0, low_end), above];
            let window = window(&map, HOLE_END);
            assert_eq!(window, HOLE_END - LEAST_WINDOW..HOLE_END);
            let mut heap = free(&map, &[], window.start);
            assert_eq!((heap.next(), heap.next()), (Some(PAGE..window.start), None));
        }
        assert_eq!(window(&[], HOLE_END), 0..HOLE_END);
    }

    #[test]
    fn what_cannot_be_is_no_memory() {
        let map = [
            ram(u64::MAX - 10, 100),
            ram(u64::MAX - 0x5000, u64::MAX),
            ram(0x5000, 0),
            ram(0x6001, 0xFFE),
        ];
        assert_eq!(free(&map, &[], u64::MAX).count(), 1);
        assert_eq!(free(&map, &[], 1 << 32).count(), 0);
    }

    proptest! {
        /// Nothing is taken from a guest whose memory ends below.
        #[test]
        fn who_has_less_memory_has_all_of_it_and_all_addresses_above(
            map in prop::collection::vec((0..64_u64, 0..64_u64, 1..3_u32), 0..6),
        ) {
            const HOLE_END: u64 = 0xf000_0000;
            let piece = |(start, length, kind): (u64, u64, u32)| Piece {
                start: start << 20,
                length: (length << 20) + 0x3000,
                kind,
            };
            let map: Vec<_> = map.into_iter().map(piece).collect();
            let window = window(&map, HOLE_END);
            let heap: Vec<_> = free(&map, &[], window.start).collect();
            let all: Vec<_> = free(&map, &[], HOLE_END).collect();
            prop_assert_eq!(heap, all);
            let memory = map.iter().filter(|piece| piece.kind == RAM);
            let end = memory.map(|piece| piece.range().end).max().unwrap_or(0);
            prop_assert!(window.start >= end && window.start - end < LARGE_PAGE);
        }

        #[test]
        fn exactly_the_free_pages_are_given_and_none_twice(
            map in prop::collection::vec((0..20_000_u64, 0..20_000_u64, 1..3_u32), 0..6),
            taken in prop::collection::vec((0..20_000_u64, 0..9_000_u64), 0..5),
            limit in 0..50_000_u64,
        ) {
            let map: Vec<_> = map
                .into_iter()
                .map(|(start, length, kind)| Piece { start, length, kind })
                .collect();
            let taken: Vec<_> = taken.into_iter().map(|(start, len)| start..start + len).collect();
            let given: Vec<_> = free(&map, &taken, limit).collect();
            for page in 0..16 {
                let all = page * PAGE..(page + 1) * PAGE;
                let overlaps = |range: &Range<u64>| {
                    range.start < range.end && range.start < all.end && range.end > all.start
                };
                // Whole pages of one piece: two that only meet in a page do not make it usable.
                let in_ram = map.iter().any(|piece| {
                    let range = piece.range();
                    piece.kind == RAM && range.start <= all.start && range.end >= all.end
                });
                let others = map.iter().filter(|piece| piece.kind != RAM).map(Piece::range);
                let blocked = others.chain(taken.iter().cloned()).any(|range| overlaps(&range));
                let usable = page > 0 && in_ram && !blocked && all.end <= limit;
                let times = given.iter().filter(|range| overlaps(range)).count();
                prop_assert!(times <= 1, "page {} {} times", page, times);
                if times == 1 {
                    prop_assert!(usable, "page {} is not free", page);
                }
                // An earlier piece that covers a page in part keeps it from a later one; no real
                // map has that.
                let torn = map.iter().any(|piece| {
                    let range = piece.range();
                    overlaps(&range) && !(range.start <= all.start && range.end >= all.end)
                });
                if usable && !torn {
                    prop_assert_eq!(times, 1, "page {} is lost", page);
                }
            }
            for range in given {
                prop_assert!(range.start % PAGE == 0 && range.end % PAGE == 0);
            }
        }
    }
}
