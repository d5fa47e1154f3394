//! Copying, and nothing else: what moving bytes costs at least.

/// Bytes go in by one copy and out by another, through a buffer of the same size as a ring.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    at: usize,
}

impl Buffer {
    /// A buffer of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Buffer {
        Buffer {
            bytes: vec![0; capacity],
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
        if self.at + size > self.bytes.len() {
            self.at = 0;
        }
        let middle = &mut self.bytes[self.at..self.at + size];
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
