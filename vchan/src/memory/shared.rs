//! Bytes that are worked on where they lie, and still only by copies.

use super::Region;

/// Some bytes of a [`Region`], to be read where they lie.
///
/// It is no `&[u8]` and gives none: the peer may change these bytes at any time, twice between two
/// looks. What a decision depends on is copied out once, and looked at in the copy.
///
/// ```compile_fail,E0608
/// fn first(bytes: vchan::memory::SharedSlice<'_>) -> u8 {
///     bytes[0]
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SharedSlice<'a> {
    region: &'a Region,
    start: usize,
    len: usize,
}

impl<'a> SharedSlice<'a> {
    #[inline]
    pub(crate) fn new(region: &'a Region, start: usize, len: usize) -> SharedSlice<'a> {
        SharedSlice { region, start, len }
    }

    /// How many bytes there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the bytes from `offset` on into `to`.
    ///
    /// # Panics
    /// When there are not so many.
    #[inline]
    pub fn read_at(&self, offset: usize, to: &mut [u8]) {
        inside(offset, to.len(), self.len);
        self.region.copy_out(self.start.wrapping_add(offset), to);
    }

    /// Where they lie, to be handed to what reads memory by itself, such as `writev`. Never make a
    /// reference to it.
    #[must_use]
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.region.base().as_ptr().wrapping_add(self.start)
    }
}

/// Some bytes of a [`Region`], to be written where they lie.
///
/// As with [`SharedSlice`], there is no way to a `&mut [u8]`: until it is published, and after, the
/// peer may read and change what is written here.
///
/// ```compile_fail,E0277
/// fn fill(bytes: vchan::memory::SharedSliceMut<'_>) {
///     fn ours(bytes: impl AsMut<[u8]>) {}
///     ours(bytes);
/// }
/// ```
#[derive(Debug)]
pub struct SharedSliceMut<'a> {
    region: &'a Region,
    start: usize,
    len: usize,
}

impl<'a> SharedSliceMut<'a> {
    #[inline]
    pub(crate) fn new(region: &'a Region, start: usize, len: usize) -> SharedSliceMut<'a> {
        SharedSliceMut { region, start, len }
    }

    /// How many bytes there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `from` to the bytes from `offset` on.
    ///
    /// # Panics
    /// When there are not so many.
    #[inline]
    pub fn write_at(&mut self, offset: usize, from: &[u8]) {
        inside(offset, from.len(), self.len);
        self.region.copy_in(self.start.wrapping_add(offset), from);
    }

    /// Where they lie, to be handed to what writes memory by itself, such as `readv`. Never make a
    /// reference to it.
    #[must_use]
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.region.base().as_ptr().wrapping_add(self.start)
    }
}

/// `len` bytes from `offset` on are among `all`.
#[inline]
fn inside(offset: usize, len: usize, all: usize) {
    let inside = offset.checked_add(len).is_some_and(|end| end <= all);
    assert!(inside, "{len} bytes at {offset} are outside of {all}");
}
