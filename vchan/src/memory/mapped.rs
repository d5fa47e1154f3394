//! Shared pages that are mapped.
//!
//! UNSAFETY: the bytes of a [`Region`] are shared with another domain, which may change any of
//! them at any time. So no reference to them is ever made: indices and flags are single atomic
//! loads and stores, data is copied by `copy` with accesses that the compiler can neither split,
//! repeat nor reason about, and what was copied is the only thing the rest of the crate looks at.

use alloc::boxed::Box;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::{Access, copy};

/// Memory shared with another domain: mapped here, and changed by the other side at will.
///
/// Every access is bounds-checked against the length of the mapping; one outside of it is a bug in
/// the caller and panics. (The offsets come from checked geometry, never from the peer.)
///
/// Its bytes can be copied, not borrowed:
///
/// ```compile_fail,E0277
/// fn borrowed(region: &vchan::memory::Region) -> &[u8] {
///     fn bytes(of: &impl AsRef<[u8]>) -> &[u8] { of.as_ref() }
///     bytes(region)
/// }
/// ```
///
/// ```compile_fail,E0608
/// fn borrowed(region: &vchan::memory::Region) -> &u8 {
///     &region[0]
/// }
/// ```
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    access: Access,
    /// Keeps the memory mapped. The field order is the drop order: unmap, then tell the host.
    _mapping: Box<dyn Send + Sync>,
    _after_unmap: Option<Box<dyn Send + Sync>>,
}

// SAFETY: a `Region` owns its mapping, which is valid in every thread, and it hands out no
// references to the memory: all access is atomic or through `copy`.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Send for Region {}
// SAFETY: as for `Send`: concurrent calls only do atomic accesses or the copies of `copy`, which
// are made for memory that others change meanwhile.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes of `file`, shared, from `offset` on.
    ///
    /// # Errors
    /// What `mmap` says.
    #[cfg(feature = "std")]
    pub fn map_file(
        file: std::os::fd::BorrowedFd<'_>,
        offset: u64,
        len: usize,
        access: Access,
    ) -> std::io::Result<Region> {
        use std::os::fd::AsRawFd;
        let mut options = memmap2::MmapOptions::new();
        options.offset(offset).len(len);
        let mapping = match access {
            Access::ReadWrite => options.map_raw(file.as_raw_fd())?,
            Access::ReadOnly => options.map_raw_read_only(file.as_raw_fd())?,
        };
        let base = NonNull::new(mapping.as_mut_ptr())
            .ok_or_else(|| std::io::Error::other("mmap gave a null address"))?;
        Ok(Region {
            base,
            len,
            access,
            _mapping: Box::new(mapping),
            _after_unmap: None,
        })
    }

    /// Memory that is mapped by other means, for hosts without an operating system.
    ///
    /// # Safety
    /// `base` is page-aligned, and `len` bytes from it are readable (writable too with
    /// [`Access::ReadWrite`]) until `mapping` is dropped. Nothing in this program holds a reference
    /// to them.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        len: usize,
        access: Access,
        mapping: Box<dyn Send + Sync>,
    ) -> Region {
        Region {
            base,
            len,
            access,
            _mapping: mapping,
            _after_unmap: None,
        }
    }

    /// Drops `guard` right after the memory is unmapped, before what was given here earlier.
    #[must_use]
    pub fn then_drop(mut self, guard: Box<dyn Send + Sync>) -> Region {
        self._after_unmap = Some(match self._after_unmap.take() {
            None => guard,
            // The fields of a tuple are dropped in order.
            Some(earlier) => Box::new((guard, earlier)),
        });
        self
    }

    /// The length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the region begins in this process, for code outside of this crate that has to be given
    /// an address. What lies there may change at any time: never make a reference to it.
    #[must_use]
    #[inline]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Copies the bytes from `offset` on into `to`. The peer may change them meanwhile: every byte
    /// is one that stood there at some moment.
    ///
    /// # Panics
    /// When the range is not inside the region.
    #[inline]
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        copy::from_shared(from, to);
    }

    /// Copies `from` to the bytes from `offset` on.
    ///
    /// # Panics
    /// When the range is not inside the region, or the region is read-only.
    #[inline]
    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        self.must_be_writable();
        let to = self.at(offset, from.len());
        copy::to_shared(from, to);
    }

    /// Loads the little-endian index at `offset`, once.
    ///
    /// # Panics
    /// When it is not inside the region or not aligned.
    #[must_use]
    #[inline]
    pub fn load_index(&self, offset: usize, order: Ordering) -> u32 {
        u32::from_le(self.index(offset).load(order))
    }

    /// Stores the little-endian index at `offset`.
    ///
    /// # Panics
    /// When it is not inside the region or not aligned, or the region is read-only.
    #[inline]
    pub fn store_index(&self, offset: usize, value: u32, order: Ordering) {
        self.must_be_writable();
        self.index(offset).store(value.to_le(), order);
    }

    /// Loads the byte at `offset`, once.
    ///
    /// # Panics
    /// When it is not inside the region.
    #[must_use]
    #[inline]
    pub fn load_byte(&self, offset: usize, order: Ordering) -> u8 {
        self.byte(offset).load(order)
    }

    /// Stores the byte at `offset`.
    ///
    /// # Panics
    /// When it is not inside the region, or the region is read-only.
    #[inline]
    pub fn store_byte(&self, offset: usize, value: u8, order: Ordering) {
        self.must_be_writable();
        self.byte(offset).store(value, order);
    }

    /// Sets bits of the byte at `offset` and gives the byte as it was, in one step.
    ///
    /// # Panics
    /// When it is not inside the region, or the region is read-only.
    #[inline]
    pub fn set_bits(&self, offset: usize, bits: u8, order: Ordering) -> u8 {
        self.must_be_writable();
        self.byte(offset).fetch_or(bits, order)
    }

    /// Clears bits of the byte at `offset` and gives the byte as it was, in one step.
    ///
    /// # Panics
    /// When it is not inside the region, or the region is read-only.
    #[inline]
    pub fn clear_bits(&self, offset: usize, bits: u8, order: Ordering) -> u8 {
        self.must_be_writable();
        self.byte(offset).fetch_and(!bits, order)
    }

    /// A pointer to `len` bytes at `offset`, after checking that they lie in the region.
    #[inline]
    pub(super) fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(
            inside,
            "{len} bytes at {offset} are outside of a region of {}",
            self.len
        );
        // SAFETY: `offset` is at most `self.len`, so the result is in or at the end of the mapping.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            self.base.add(offset)
        }
    }

    #[inline]
    pub(super) fn index(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "an index is aligned to its size");
        let at = self.at(offset, 4).cast::<u32>();
        // SAFETY: the four bytes are mapped while `self` lives, `base` is page-aligned and `offset`
        // a multiple of four, and every access to shared memory in this program is atomic or
        // through `copy`. A load from a read-only mapping is a plain load on every target we know.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            AtomicU32::from_ptr(at.as_ptr())
        }
    }

    #[inline]
    pub(super) fn byte(&self, offset: usize) -> &AtomicU8 {
        let at = self.at(offset, 1);
        // SAFETY: as for `index`; a byte needs no alignment.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            AtomicU8::from_ptr(at.as_ptr())
        }
    }

    /// What is written must be writable.
    #[inline]
    pub(super) fn must_be_writable(&self) {
        assert!(
            self.access == Access::ReadWrite,
            "write to a read-only mapping"
        );
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("len", &self.len)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::memory::PAGE_SIZE;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn memory(len: usize) -> File {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, len as u64).unwrap();
        File::from(fd)
    }

    #[test]
    fn two_mappings_of_one_page_see_each_other() {
        let file = memory(PAGE_SIZE);
        let map = |access| Region::map_file(file.as_fd(), 0, PAGE_SIZE, access).unwrap();
        let (ours, theirs) = (map(Access::ReadWrite), map(Access::ReadOnly));
        ours.store_index(8, 0x0102_0304, Ordering::Release);
        let mut bytes = [0; 4];
        theirs.copy_out(8, &mut bytes);
        assert_eq!(bytes, [4, 3, 2, 1], "indices are little-endian");
        assert_eq!(theirs.load_index(8, Ordering::Acquire), 0x0102_0304);
        assert_eq!(ours.set_bits(20, 3, Ordering::Relaxed), 0);
        assert_eq!(ours.clear_bits(20, 1, Ordering::Relaxed), 3);
        assert_eq!(theirs.load_byte(20, Ordering::Relaxed), 2);
    }

    #[test]
    fn copies_of_every_length_and_alignment_arrive_whole() {
        const ROOM: usize = 2 * PAGE_SIZE;
        let file = memory(ROOM);
        let region = Region::map_file(file.as_fd(), 0, ROOM, Access::ReadWrite).unwrap();
        let numbers = 1..=5000u32;
        let source: Vec<u8> = numbers
            .map(|i| i.wrapping_mul(0x9E37_79B1).to_be_bytes()[0])
            .collect();
        let around = [512, 1024, 2048, 4096].map(|len| len - 1..=len + 1);
        for len in (0..=300).chain(around.into_iter().flatten()) {
            for at in 0..33 {
                region.copy_in(0, &[0xAA; ROOM]);
                let from = &source[at..at + len];
                region.copy_in(64 + at, from);
                let mut back = vec![0x55; ROOM];
                region.copy_out(0, &mut back);
                assert_eq!(&back[64 + at..64 + at + len], from, "{len} bytes at {at}");
                assert!(
                    back[..64 + at].iter().all(|&b| b == 0xAA),
                    "{len} at {at}: before"
                );
                assert!(
                    back[64 + at + len..].iter().all(|&b| b == 0xAA),
                    "{len} at {at}: after"
                );
                let mut out = vec![0x55; len + 2];
                region.copy_out(64 + at, &mut out[1..=len]);
                assert_eq!(&out[1..=len], from);
                assert_eq!((out[0], out[len + 1]), (0x55, 0x55));
            }
        }
    }

    #[test]
    fn long_copies_arrive_whole_wherever_their_sides_lie_in_a_page() {
        const LEN: usize = 5 * PAGE_SIZE + 77;
        let file = memory(8 * PAGE_SIZE);
        let region = Region::map_file(file.as_fd(), 0, 8 * PAGE_SIZE, Access::ReadWrite).unwrap();
        let bytes: Vec<u8> = (0..LEN)
            .map(|i| (i * 7 + i / 251).to_le_bytes()[0])
            .collect();
        let mut private = vec![0; LEN + 2 * PAGE_SIZE];
        let page = private.as_ptr().align_offset(PAGE_SIZE);
        for behind in [
            0,
            1,
            15,
            16,
            31,
            32,
            63,
            64,
            65,
            PAGE_SIZE - 16,
            PAGE_SIZE - 1,
        ] {
            private.fill(0x55);
            private[page + behind..page + behind + LEN].copy_from_slice(&bytes);
            for (to, from) in [
                (behind, page + behind),
                (0, page + behind),
                (behind + 9, page + behind),
            ] {
                region.copy_in(0, &[0xAA; 8 * PAGE_SIZE]);
                region.copy_in(to, &private[from..from + LEN]);
                let mut out = vec![0x55; LEN + 2 * PAGE_SIZE];
                let start = out.as_ptr().align_offset(PAGE_SIZE) + behind;
                region.copy_out(to, &mut out[start..start + LEN]);
                assert_eq!(out[start..start + LEN], bytes, "{behind} {to}");
                assert!(out[..start].iter().all(|&byte| byte == 0x55));
                assert!(out[start + LEN..].iter().all(|&byte| byte == 0x55));
                let mut after = [0; 8];
                region.copy_out(to + LEN, &mut after);
                assert_eq!(after, [0xAA; 8], "{behind} {to}: after");
            }
        }
    }

    #[test]
    fn guards_are_dropped_after_the_unmapping_the_last_first() {
        struct Noted(
            &'static str,
            std::sync::Arc<std::sync::Mutex<Vec<&'static str>>>,
        );
        impl Drop for Noted {
            fn drop(&mut self) {
                self.1.lock().unwrap().push(self.0);
            }
        }
        let order = std::sync::Arc::<std::sync::Mutex<Vec<&str>>>::default();
        let note = |name| Noted(name, std::sync::Arc::clone(&order));
        let file = memory(PAGE_SIZE);
        let mut region = Region::map_file(file.as_fd(), 0, PAGE_SIZE, Access::ReadOnly).unwrap();
        let mapping = core::mem::replace(&mut region._mapping, Box::new(()));
        region._mapping = Box::new((mapping, note("mapping")));
        drop(
            region
                .then_drop(Box::new(note("host")))
                .then_drop(Box::new(note("gate"))),
        );
        assert_eq!(*order.lock().unwrap(), ["mapping", "gate", "host"]);
    }

    #[test]
    fn nothing_outside_of_the_region_can_be_reached() {
        let file = memory(PAGE_SIZE);
        let region = Region::map_file(file.as_fd(), 0, PAGE_SIZE, Access::ReadOnly).unwrap();
        let refused =
            |what: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(what).is_err();
        let region = std::panic::AssertUnwindSafe(region);
        assert!(refused(&|| region.copy_out(PAGE_SIZE - 1, &mut [0; 2])));
        assert!(refused(&|| region.copy_out(usize::MAX, &mut [0; 2])));
        assert!(refused(
            &|| _ = region.load_index(PAGE_SIZE - 3, Ordering::Relaxed)
        ));
        assert!(refused(&|| _ = region.load_index(2, Ordering::Relaxed)));
        assert!(refused(&|| region.copy_in(0, &[1])));
        assert!(refused(&|| region.store_byte(0, 1, Ordering::Relaxed)));
    }
}
