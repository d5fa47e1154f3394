//! Fields of the control page and the bytes of a ring, each found and checked once.
//!
//! UNSAFETY: as in `mapped`, whose pointers these are. They stay valid because each holds its
//! region, and no access needs another check: where they lie never changes.

use alloc::sync::Arc;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::{Region, SharedSlice, SharedSliceMut, copy};

/// An index in the control page.
#[derive(Debug)]
pub(crate) struct IndexField {
    cell: NonNull<AtomicU32>,
    _region: Arc<Region>,
}

// SAFETY: what it points to is shared memory that any thread may access, and atomically.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Send for IndexField {}
// SAFETY: as for `Send`.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Sync for IndexField {}

impl IndexField {
    /// The index at `offset`.
    ///
    /// # Panics
    /// When it is not inside the region or not aligned, or the region is read-only.
    pub(crate) fn new(region: &Arc<Region>, offset: usize) -> IndexField {
        region.must_be_writable();
        IndexField {
            cell: NonNull::from(region.index(offset)),
            _region: Arc::clone(region),
        }
    }

    /// Loads it, once.
    #[inline]
    pub(crate) fn load(&self, order: Ordering) -> u32 {
        u32::from_le(self.cell().load(order))
    }

    /// Stores it.
    #[inline]
    pub(crate) fn store(&self, value: u32, order: Ordering) {
        self.cell().store(value.to_le(), order);
    }

    #[inline]
    fn cell(&self) -> &AtomicU32 {
        // SAFETY: the region, which is still mapped, gave out a reference to it.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            self.cell.as_ref()
        }
    }
}

/// A live byte or a notify byte in the control page.
#[derive(Debug)]
pub(crate) struct ByteField {
    cell: NonNull<AtomicU8>,
    region: Arc<Region>,
}

// SAFETY: as for `IndexField`.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Send for ByteField {}
// SAFETY: as for `IndexField`.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Sync for ByteField {}

impl ByteField {
    /// The byte at `offset`.
    ///
    /// # Panics
    /// When it is not inside the region, or the region is read-only.
    pub(crate) fn new(region: &Arc<Region>, offset: usize) -> ByteField {
        region.must_be_writable();
        ByteField {
            cell: NonNull::from(region.byte(offset)),
            region: Arc::clone(region),
        }
    }

    /// Where it lies.
    #[inline]
    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Loads it, once.
    #[inline]
    pub(crate) fn load(&self, order: Ordering) -> u8 {
        self.cell().load(order)
    }

    /// Clears bits and gives the byte as it was, in one step.
    #[inline]
    pub(crate) fn clear_bits(&self, bits: u8, order: Ordering) -> u8 {
        self.cell().fetch_and(!bits, order)
    }

    #[inline]
    fn cell(&self) -> &AtomicU8 {
        // SAFETY: the region, which is still mapped, gave out a reference to it.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            self.cell.as_ref()
        }
    }
}

/// The data bytes of a ring.
#[derive(Debug)]
pub(crate) struct RingBytes {
    /// Where the first byte lies.
    base: NonNull<u8>,
    /// A power of two, and the same once more as what a place is compared with.
    size: u32,
    end: usize,
    /// What of an index is a place: one less than the size.
    mask: u32,
    /// The same place as `base`, for who asks the region.
    start: usize,
    region: Arc<Region>,
}

// SAFETY: the bytes are accessed through `copy`, which is made for memory that others change.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Send for RingBytes {}
// SAFETY: as for `Send`.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Sync for RingBytes {}

impl RingBytes {
    /// The `size` bytes from `start` on.
    ///
    /// # Panics
    /// When they are not inside the region, or `size` is no power of two.
    pub(crate) fn new(region: Arc<Region>, start: usize, size: u32) -> RingBytes {
        assert!(size.is_power_of_two(), "the size of a ring");
        RingBytes {
            base: region.at(start, size as usize),
            size,
            end: size as usize,
            mask: size - 1,
            start,
            region,
        }
    }

    /// How many bytes there are.
    #[inline]
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// The `len` bytes, at most as many as there are, from the free-running `index` on.
    #[inline]
    pub(crate) fn parts(&self, index: u32, len: usize) -> [SharedSlice<'_>; 2] {
        let at = self.offset(index);
        let first = len.min(self.size as usize - at);
        [
            SharedSlice::new(&self.region, self.start + at, first),
            SharedSlice::new(&self.region, self.start, (len - first).min(at)),
        ]
    }

    /// The same bytes, for who writes them.
    ///
    /// # Panics
    /// When the region is read-only.
    pub(crate) fn for_writing(self) -> RingSpace {
        self.region.must_be_writable();
        RingSpace {
            bytes: self,
            away: false,
        }
    }

    /// Copies to `to` from the free-running `index`, if there is something to copy that does not go
    /// around the end of the ring. False: nothing was done.
    #[inline(always)]
    pub(crate) fn copy_out_run(&self, index: u32, to: &mut [u8]) -> bool {
        let run = self.run(index, to.len());
        run.is_some_and(|from| copy::from_shared(from, to))
    }

    /// Copies to `to` from the free-running `index`.
    ///
    /// # Panics
    /// When it is longer than the ring.
    #[inline]
    pub(crate) fn copy_out(&self, index: u32, to: &mut [u8]) {
        if !self.copy_out_run(index, to) {
            self.copy_out_around(index, to);
        }
    }

    #[cold]
    fn copy_out_around(&self, index: u32, to: &mut [u8]) {
        let at = self.offset(index);
        match to.split_at_mut_checked(self.size as usize - at) {
            None => self.region.copy_out(self.start + at, to),
            Some((head, tail)) => {
                assert!(tail.len() <= at, "longer than the ring");
                self.region.copy_out(self.start + at, head);
                self.region.copy_out(self.start, tail);
            }
        }
    }

    /// Where `len` bytes from the free-running `index` on lie, if they do not go around the end.
    #[inline]
    fn run(&self, index: u32, len: usize) -> Option<NonNull<u8>> {
        let at = self.offset(index);
        // A slice is not so long that this wraps.
        if at + len > self.end {
            return None;
        }
        // SAFETY: `at` is less than `size`, and all of these bytes are inside of the region.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        Some(unsafe { self.base.add(at) })
    }

    /// How far behind the start the free-running `index` points.
    #[inline]
    fn offset(&self, index: u32) -> usize {
        (index & self.mask) as usize
    }
}

/// The data bytes of a ring, for the side that writes them.
#[derive(Debug)]
pub(crate) struct RingSpace {
    bytes: RingBytes,
    /// They are in the cache of another processor, most likely: there the peer reads them while this
    /// side writes.
    away: bool,
}

/// So far ahead of what is written now lies what is fetched from there: several short messages, and
/// half of the smallest ring.
const AHEAD: u32 = 512;

impl RingSpace {
    /// How many bytes there are.
    #[inline]
    pub(crate) fn size(&self) -> u32 {
        self.bytes.size
    }

    /// The `len` bytes, at most as many as there are, from the free-running `index` on.
    #[inline]
    pub(crate) fn parts_mut(&mut self, index: u32, len: usize) -> [SharedSliceMut<'_>; 2] {
        let (region, start) = (&self.bytes.region, self.bytes.start);
        let at = self.bytes.offset(index);
        let first = len.min(self.bytes.size as usize - at);
        [
            SharedSliceMut::new(region, start + at, first),
            SharedSliceMut::new(region, start, (len - first).min(at)),
        ]
    }

    /// Whether the bytes are in the cache of another processor, most likely.
    #[inline]
    pub(crate) fn is_away(&self) -> bool {
        self.away
    }

    /// Says where the peer reads: elsewhere and now, or on this processor or later.
    #[inline]
    pub(crate) fn set_away(&mut self, away: bool) {
        self.away = away;
    }

    /// Copies `from` to the free-running `index`, if there is something to copy that does not go
    /// around the end of the ring. False: nothing was done.
    #[inline(always)]
    pub(crate) fn copy_in_run(&self, index: u32, from: &[u8]) -> bool {
        let run = self.bytes.run(index, from.len());
        run.is_some_and(|to| copy::to_shared(from, to))
    }

    /// The same when the bytes are in another cache: what will be written soon is fetched, unless the
    /// peer has still to read there. So many bytes are `free` from `index` on.
    #[inline(always)]
    pub(crate) fn copy_in_run_away(&self, index: u32, from: &[u8], free: u32) -> bool {
        if free as usize >= AHEAD as usize + from.len()
            && let Some(ahead) = self.bytes.run(index.wrapping_add(AHEAD), 0)
        {
            copy::fetch_to_write(ahead, from.len());
        }
        let run = self.bytes.run(index, from.len());
        run.is_some_and(|to| copy::to_shared_away(from, to))
    }

    /// Copies `from` to the free-running `index`, from which on so many bytes are `free`.
    ///
    /// # Panics
    /// When it is longer than the ring.
    #[inline]
    pub(crate) fn copy_in(&self, index: u32, from: &[u8], free: u32) {
        let done = match self.away {
            true => self.copy_in_run_away(index, from, free),
            false => self.copy_in_run(index, from),
        };
        if !done {
            self.copy_in_around(index, from);
        }
    }

    #[cold]
    fn copy_in_around(&self, index: u32, from: &[u8]) {
        let RingBytes {
            region,
            start,
            size,
            ..
        } = &self.bytes;
        let at = self.bytes.offset(index);
        match from.split_at_checked(*size as usize - at) {
            None => region.copy_in(start + at, from),
            Some((head, tail)) => {
                assert!(tail.len() <= at, "longer than the ring");
                region.copy_in(start + at, head);
                region.copy_in(*start, tail);
            }
        }
    }
}
