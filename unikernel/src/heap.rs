//! The heap: all memory that is left when the guest has started.
//!
//! The allocator is `talc`; this is where it gets its memory from.
//!
//! UNSAFETY: whoever hands out memory must own it. The ranges are the guest's memory less what the
//! domain builder and the linker have put there, each handed out once.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::RefCell;
use core::ops::Range;
use core::ptr::NonNull;

use talc::TalcCell;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

use crate::cell::OneCpu;
use crate::machine;

#[allow(unsafe_code, reason = "see UNSAFETY above")]
#[global_allocator]
static HEAP: Heap = Heap(OneCpu::new(TalcCell::new(Memory)));

struct Heap(OneCpu<TalcCell<Memory>>);

// SAFETY: all of it is `talc`'s, which keeps to the rules.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the caller's promise.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: by the caller's promise.
        unsafe { self.0.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: by the caller's promise.
        unsafe { self.0.realloc(at, layout, size) }
    }
}

/// How many bytes are in use.
pub(crate) fn used() -> usize {
    HEAP.0.counters().allocated_bytes
}

/// The memory that the heap has yet to take.
static LEFT: OneCpu<RefCell<Left>> = OneCpu::new(RefCell::new(Left {
    ranges: [const { 0..0 }; RANGES],
    heap_end: None,
}));

/// How many separate ranges of memory are looked after.
pub(crate) const RANGES: usize = 8;

struct Left {
    ranges: [Range<usize>; RANGES],
    /// Where the range that is being taken has got to.
    heap_end: Option<NonNull<u8>>,
}

/// Says which addresses the heap may have. Those of a PV guest that are not mapped yet are mapped
/// when the heap gets there.
pub(crate) fn set_up(ranges: impl IntoIterator<Item = Range<usize>>) {
    let mut left = LEFT.borrow_mut();
    for (place, range) in left.ranges.iter_mut().zip(ranges) {
        *place = range;
    }
}

/// Where `talc` gets memory from.
#[derive(Debug)]
struct Memory;

// SAFETY: `acquire` uses no allocator but the one that it was given.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Source for Memory {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let mut left = LEFT.borrow_mut();
        let left = &mut *left;
        for range in &mut left.ranges {
            if range.start >= range.end {
                continue;
            }
            let Some(piece) = machine::map_memory(range, layout.size()) else {
                *range = 0..0;
                left.heap_end = None;
                continue;
            };
            let begin = core::ptr::with_exposed_provenance_mut::<u8>(piece.start);
            left.heap_end = match left.heap_end {
                // SAFETY: `piece` is mapped memory right after the heap that ends there.
                Some(end) => Some(unsafe {
                    talc.extend(end, core::ptr::with_exposed_provenance_mut(piece.end))
                }),
                // SAFETY: `piece` is mapped memory that nobody else has.
                None => unsafe { talc.claim(begin, piece.len()) },
            };
            range.start = piece.end;
            if range.start >= range.end {
                left.heap_end = None;
            }
            return Ok(());
        }
        Err(())
    }
}
