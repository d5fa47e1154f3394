//! Copying, and nothing else: what moving bytes costs at least.

use vchan::memory::PAGE_SIZE;

/// Bytes go in by one copy and out by another, through a buffer of the same size as a ring.
#[derive(Debug)]
pub struct Buffer {
    bytes: Pages,
    at: usize,
}

/// Bytes that begin with a page, as those of a ring do: how fast a copy is depends on how its two sides
/// lie to each other, by up to 15 %.
#[derive(Debug)]
pub struct Pages {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Pages {
    /// `len` bytes.
    #[must_use]
    pub fn new(len: usize) -> Pages {
        let bytes = vec![0; len + PAGE_SIZE];
        let start = bytes.as_ptr().align_offset(PAGE_SIZE).min(PAGE_SIZE);
        Pages { bytes, start, len }
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl Buffer {
    /// A buffer of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Buffer {
        Buffer {
            bytes: Pages::new(capacity),
            at: 0,
        }
    }

    /// Copies `from` into the buffer, and out of it to `to`.
    ///
    /// # Panics
    /// When they are not of one length, or longer than the buffer.
    #[inline]
    pub fn through(&mut self, from: &[u8], to: &mut [u8]) {
        let size = from.len();
        if self.at + size > self.bytes.len {
            self.at = 0;
        }
        let middle = &mut self.bytes.bytes()[self.at..self.at + size];
        middle.copy_from_slice(from);
        // The second copy is of what is in memory, not of what the compiler knows to be there.
        std::hint::black_box(&mut *middle);
        to.copy_from_slice(middle);
        self.at += size;
    }
}

/// A single copy.
#[inline]
pub fn one_copy(from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(std::hint::black_box(from));
}
