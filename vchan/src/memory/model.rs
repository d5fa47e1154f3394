//! Shared pages as the model checker sees them: each index, flag and byte is one of loom's cells.
//!
//! Both ends of a model hold the same cells, so every order that the orderings and fences of the
//! real code allow is tried, and a byte that is read before its index was published is a data race
//! that loom reports.
//!
//! UNSAFETY: loom's cell hands out raw pointers; it checks at run time that their uses are ordered,
//! which is the point of the model.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use loom::cell::UnsafeCell;

use super::{Access, SharedSlice, SharedSliceMut, mapped};
use crate::layout::GRANTS;
use crate::sync::{AtomicU8, AtomicU32};

/// Memory shared with another domain: mapped, or a model's.
pub struct Region {
    backing: Backing,
    _after: Option<Box<dyn Send + Sync>>,
}

enum Backing {
    Mapped(mapped::Region),
    Model(Arc<Cells>),
}

/// A control page with a few bytes of ring behind its header.
struct Cells {
    indices: [AtomicU32; 4],
    flags: [AtomicU8; 4],
    data: Vec<UnsafeCell<u8>>,
}

/// Offset of the first flag byte, the client's live byte.
const FLAGS: usize = 20;

// SAFETY: loom checks every use of the cells; nothing else is shared.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Send for Cells {}
// SAFETY: as for `Send`.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Sync for Cells {}

impl Region {
    /// Two ends of one model: a header whose indices are `start`, and `bytes` bytes of ring data.
    pub(crate) fn model(start: u32, bytes: usize) -> (Region, Region) {
        let cells = Arc::new(Cells {
            indices: core::array::from_fn(|_| AtomicU32::new(start)),
            flags: [2, 1, 1, 0].map(AtomicU8::new),
            data: (0..bytes).map(|_| UnsafeCell::new(0)).collect(),
        });
        let end = |cells| Region {
            backing: Backing::Model(cells),
            _after: None,
        };
        (end(Arc::clone(&cells)), end(cells))
    }

    /// As for mapped pages.
    ///
    /// # Errors
    /// As for mapped pages.
    pub fn map_file(
        file: std::os::fd::BorrowedFd<'_>,
        offset: u64,
        len: usize,
        access: Access,
    ) -> std::io::Result<Region> {
        let region = mapped::Region::map_file(file, offset, len, access)?;
        Ok(Region {
            backing: Backing::Mapped(region),
            _after: None,
        })
    }

    /// As for mapped pages.
    ///
    /// # Safety
    /// As for mapped pages.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        len: usize,
        access: Access,
        mapping: Box<dyn Send + Sync>,
    ) -> Region {
        // SAFETY: what the caller promises is what is asked for.
        let region = unsafe { mapped::Region::from_raw(base, len, access, mapping) };
        Region {
            backing: Backing::Mapped(region),
            _after: None,
        }
    }

    /// Drops `guard` when the region is dropped.
    #[must_use]
    pub fn then_drop(mut self, guard: Box<dyn Send + Sync>) -> Region {
        self._after = Some(guard);
        self
    }

    /// The length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        match &self.backing {
            Backing::Mapped(region) => region.len(),
            Backing::Model(cells) => GRANTS + cells.data.len(),
        }
    }

    /// As for mapped pages; a model has no address.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        match &self.backing {
            Backing::Mapped(region) => region.base(),
            Backing::Model(_) => NonNull::dangling(),
        }
    }

    /// As for mapped pages.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) {
        match &self.backing {
            Backing::Mapped(region) => region.copy_out(offset, to),
            Backing::Model(cells) => {
                for (cell, to) in cells.bytes(offset).zip(to) {
                    // SAFETY: loom has just checked that no write is concurrent with this.
                    #[allow(unsafe_code, reason = "see UNSAFETY above")]
                    let byte = cell.with(|byte| unsafe { *byte });
                    *to = byte;
                }
            }
        }
    }

    /// As for mapped pages.
    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        match &self.backing {
            Backing::Mapped(region) => region.copy_in(offset, from),
            Backing::Model(cells) => {
                for (cell, from) in cells.bytes(offset).zip(from) {
                    // SAFETY: loom has just checked that no other access is concurrent with this.
                    #[allow(unsafe_code, reason = "see UNSAFETY above")]
                    cell.with_mut(|byte| unsafe { *byte = *from });
                }
            }
        }
    }

    /// As for mapped pages.
    #[must_use]
    pub fn load_index(&self, offset: usize, order: Ordering) -> u32 {
        match &self.backing {
            Backing::Mapped(region) => region.load_index(offset, order),
            Backing::Model(cells) => cells.indices[offset / 4].load(order),
        }
    }

    /// As for mapped pages.
    pub fn store_index(&self, offset: usize, value: u32, order: Ordering) {
        match &self.backing {
            Backing::Mapped(region) => region.store_index(offset, value, order),
            Backing::Model(cells) => cells.indices[offset / 4].store(value, order),
        }
    }

    /// As for mapped pages.
    #[must_use]
    pub fn load_byte(&self, offset: usize, order: Ordering) -> u8 {
        match &self.backing {
            Backing::Mapped(region) => region.load_byte(offset, order),
            Backing::Model(cells) => cells.flags[offset - FLAGS].load(order),
        }
    }

    /// As for mapped pages.
    pub fn store_byte(&self, offset: usize, value: u8, order: Ordering) {
        match &self.backing {
            Backing::Mapped(region) => region.store_byte(offset, value, order),
            Backing::Model(cells) => cells.flags[offset - FLAGS].store(value, order),
        }
    }

    /// As for mapped pages.
    pub fn set_bits(&self, offset: usize, bits: u8, order: Ordering) -> u8 {
        match &self.backing {
            Backing::Mapped(region) => region.set_bits(offset, bits, order),
            Backing::Model(cells) => cells.flags[offset - FLAGS].fetch_or(bits, order),
        }
    }

    /// As for mapped pages.
    pub fn clear_bits(&self, offset: usize, bits: u8, order: Ordering) -> u8 {
        match &self.backing {
            Backing::Mapped(region) => region.clear_bits(offset, bits, order),
            Backing::Model(cells) => cells.flags[offset - FLAGS].fetch_and(!bits, order),
        }
    }
}

impl Cells {
    fn bytes(&self, offset: usize) -> impl Iterator<Item = &UnsafeCell<u8>> {
        self.data.iter().skip(offset - GRANTS)
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// An index in the control page.
#[derive(Debug)]
pub(crate) struct IndexField {
    region: Arc<Region>,
    offset: usize,
}

impl IndexField {
    pub(crate) fn new(region: &Arc<Region>, offset: usize) -> IndexField {
        let region = Arc::clone(region);
        IndexField { region, offset }
    }

    pub(crate) fn load(&self, order: Ordering) -> u32 {
        self.region.load_index(self.offset, order)
    }

    pub(crate) fn store(&self, value: u32, order: Ordering) {
        self.region.store_index(self.offset, value, order);
    }
}

/// A live byte or a notify byte in the control page.
#[derive(Debug)]
pub(crate) struct ByteField {
    region: Arc<Region>,
    offset: usize,
}

impl ByteField {
    pub(crate) fn new(region: &Arc<Region>, offset: usize) -> ByteField {
        let region = Arc::clone(region);
        ByteField { region, offset }
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(crate) fn load(&self, order: Ordering) -> u8 {
        self.region.load_byte(self.offset, order)
    }

    pub(crate) fn clear_bits(&self, bits: u8, order: Ordering) -> u8 {
        self.region.clear_bits(self.offset, bits, order)
    }
}

/// The data bytes of a ring.
#[derive(Debug)]
pub(crate) struct RingBytes {
    region: Arc<Region>,
    start: usize,
    size: u32,
}

impl RingBytes {
    pub(crate) fn new(region: Arc<Region>, start: usize, size: u32) -> RingBytes {
        RingBytes {
            region,
            start,
            size,
        }
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// The `len` bytes, at most as many as there are, from the free-running `index` on.
    pub(crate) fn parts(&self, index: u32, len: usize) -> [SharedSlice<'_>; 2] {
        let at = (index & (self.size - 1)) as usize;
        let first = len.min(self.size as usize - at);
        [
            SharedSlice::new(&self.region, self.start + at, first),
            SharedSlice::new(&self.region, self.start, (len - first).min(at)),
        ]
    }

    pub(crate) fn for_writing(self) -> RingSpace {
        RingSpace(self)
    }

    pub(crate) fn copy_out_run(&self, index: u32, to: &mut [u8]) -> bool {
        self.copy_out(index, to);
        !to.is_empty()
    }

    pub(crate) fn copy_out(&self, index: u32, to: &mut [u8]) {
        let at = (index & (self.size - 1)) as usize;
        let (head, tail) = to.split_at_mut(to.len().min(self.size as usize - at));
        self.region.copy_out(self.start + at, head);
        self.region.copy_out(self.start, tail);
    }
}

/// The data bytes of a ring, for the side that writes them.
#[derive(Debug)]
pub(crate) struct RingSpace(RingBytes);

impl RingSpace {
    pub(crate) fn size(&self) -> u32 {
        self.0.size
    }

    /// The `len` bytes, at most as many as there are, from the free-running `index` on.
    pub(crate) fn parts_mut(&mut self, index: u32, len: usize) -> [SharedSliceMut<'_>; 2] {
        let (region, start) = (&self.0.region, self.0.start);
        let at = (index & (self.0.size - 1)) as usize;
        let first = len.min(self.0.size as usize - at);
        [
            SharedSliceMut::new(region, start + at, first),
            SharedSliceMut::new(region, start, (len - first).min(at)),
        ]
    }

    pub(crate) fn is_away(&self) -> bool {
        false
    }

    pub(crate) fn set_away(&mut self, _away: bool) {}

    pub(crate) fn copy_in_run(&self, index: u32, from: &[u8]) -> bool {
        self.copy_in_run_away(index, from, 0)
    }

    pub(crate) fn copy_in_run_away(&self, index: u32, from: &[u8], free: u32) -> bool {
        self.copy_in(index, from, free);
        !from.is_empty()
    }

    pub(crate) fn copy_in(&self, index: u32, from: &[u8], _free: u32) {
        let at = (index & (self.0.size - 1)) as usize;
        let (head, tail) = from.split_at(from.len().min(self.0.size as usize - at));
        self.0.region.copy_in(self.0.start + at, head);
        self.0.region.copy_in(self.0.start, tail);
    }
}
