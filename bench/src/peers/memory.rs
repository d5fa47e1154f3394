//! Copying, and next to nothing else: what moving bytes costs at least.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{Ordering, fence};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vchan::memory::{Access, PAGE_SIZE, Region};

use crate::Failure;

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

/// What no vchan can do without: the library's own copies, two indices, and a full fence after each of
/// them. Nobody's index is looked at, no notify byte, and nothing that a peer could write is validated.
/// Any ring of this layout takes this much with these copies; by a few per cent, where its pages lie
/// matters more.
#[derive(Debug)]
pub struct Least {
    region: Region,
    mask: usize,
    prod: u32,
    cons: u32,
}

/// Where the two indices are; the ring follows in the next page.
const PROD: usize = 0;
const CONS: usize = 4;

impl Least {
    /// Rings of `capacity` bytes, a power of two.
    ///
    /// # Errors
    /// What the system says when there is no memory.
    pub fn new(capacity: usize) -> Result<Least, Failure> {
        let len = PAGE_SIZE + capacity;
        let memory =
            memfd_create("vchan-bench-least", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
        ftruncate(&memory, len as u64).map_err(io::Error::from)?;
        Ok(Least {
            region: Region::map_file(memory.as_fd(), 0, len, Access::ReadWrite)?,
            mask: capacity - 1,
            prod: 0,
            cons: 0,
        })
    }

    /// One message there, which must not go around the end.
    #[inline]
    pub fn pair(&mut self, from: &[u8], to: &mut [u8]) {
        let at = PAGE_SIZE + (self.prod as usize & self.mask);
        self.region.copy_in(at, from);
        self.prod = self.prod.wrapping_add(counted(from.len()));
        self.region.store_index(PROD, self.prod, Ordering::Release);
        fence(Ordering::SeqCst);
        let at = PAGE_SIZE + (self.cons as usize & self.mask);
        self.region.copy_out(at, to);
        self.cons = self.cons.wrapping_add(counted(to.len()));
        self.region.store_index(CONS, self.cons, Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

/// A number of bytes as an index counts them.
fn counted(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A single copy.
#[inline]
pub fn one_copy(from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(std::hint::black_box(from));
}
