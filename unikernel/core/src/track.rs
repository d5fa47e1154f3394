//! One direction of a ring of bytes in a page that is shared with a backend.

use core::sync::atomic::{AtomicU32, Ordering};

use vchan::memory::{Region, full_fence};

use crate::guard::keeps;

/// Where one direction lies in its page. Indices count bytes for ever and wrap around; a byte's place
/// is its index modulo the size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Where the bytes begin.
    pub(crate) start: usize,
    /// How many there are: a power of two.
    pub(crate) size: u32,
    /// Where the consumer's index is.
    pub(crate) consumer: usize,
    /// Where the producer's index is.
    pub(crate) producer: usize,
}

/// The backend's index claims more bytes than the ring has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the backend's index {theirs:#x} is impossible next to {ours:#x} in a ring of {size} bytes"
)]
pub struct Impossible {
    /// What it wrote.
    pub theirs: u32,
    /// The guest's own index.
    pub ours: u32,
    /// The ring's size in bytes.
    pub size: u32,
}

/// The guest's end of one direction. Its own index is private: the one in the page is only written,
/// after a first look at where an earlier stage of the boot has left it.
#[derive(Debug)]
pub(crate) struct Track {
    layout: Layout,
    own: AtomicU32,
}

impl Track {
    /// The end that writes.
    pub(crate) fn producer(page: &Region, layout: Layout) -> Track {
        let own = page.load_index(layout.producer, Ordering::Relaxed);
        Track {
            layout,
            own: AtomicU32::new(own),
        }
    }

    /// The end that reads.
    pub(crate) fn consumer(page: &Region, layout: Layout) -> Track {
        let own = page.load_index(layout.consumer, Ordering::Relaxed);
        Track {
            layout,
            own: AtomicU32::new(own),
        }
    }

    /// Begins anew at index 0, where the backend has set both indices.
    pub(crate) fn reset(&self) {
        self.own.store(0, Ordering::Relaxed);
    }

    /// Writes as much of `from` as there is room for.
    pub(crate) fn write(&self, page: &Region, from: &[u8]) -> Result<usize, Impossible> {
        let Layout { size, .. } = self.layout;
        let own = self.own.load(Ordering::Relaxed);
        // Acquire: the backend has read what we now write over.
        let theirs = page.load_index(self.layout.consumer, Ordering::Acquire);
        let used = self.within(theirs, own, own.wrapping_sub(theirs))?;
        let count = from.len().min((size - used) as usize);
        let [first, second] = self.places(own, count);
        let (head, tail) = from.split_at(first.1);
        page.copy_in(first.0, head);
        page.copy_in(second.0, tail.get(..second.1).unwrap_or_default());
        self.publish(page, self.layout.producer, own, count);
        Ok(count)
    }

    /// Reads what is there, as much as `to` holds.
    pub(crate) fn read(&self, page: &Region, to: &mut [u8]) -> Result<usize, Impossible> {
        let own = self.own.load(Ordering::Relaxed);
        // Acquire: the bytes before the index are there.
        let theirs = page.load_index(self.layout.producer, Ordering::Acquire);
        let ready = self.within(theirs, own, theirs.wrapping_sub(own))?;
        let count = to.len().min(ready as usize);
        let [first, second] = self.places(own, count);
        let (head, tail) = to.split_at_mut(first.1);
        page.copy_out(first.0, head);
        page.copy_out(second.0, tail.get_mut(..second.1).unwrap_or_default());
        self.publish(page, self.layout.consumer, own, count);
        Ok(count)
    }

    /// How many bytes lie between the two indices, if that can be.
    fn within(&self, theirs: u32, ours: u32, between: u32) -> Result<u32, Impossible> {
        let size = self.layout.size;
        if between > size {
            if keeps("backend-index") {
                return Err(Impossible { theirs, ours, size });
            }
            return Ok(size);
        }
        Ok(between)
    }

    /// Where `count` bytes from an index on lie: a piece up to the end of the ring, and one from its
    /// beginning. Offset and length.
    fn places(&self, index: u32, count: usize) -> [(usize, usize); 2] {
        let Layout { start, size, .. } = self.layout;
        let at = index % size;
        let first = count.min((size - at) as usize);
        [(start + at as usize, first), (start, count - first)]
    }

    fn publish(&self, page: &Region, at: usize, own: u32, count: usize) {
        // It is at most the ring's size.
        let count = u32::try_from(count).unwrap_or(0);
        let own = own.wrapping_add(count);
        self.own.store(own, Ordering::Relaxed);
        // Release: what was copied comes before its index.
        page.store_index(at, own, Ordering::Release);
        // Before the backend is told, and before the next look at its index.
        full_fence();
    }
}

#[cfg(test)]
pub(crate) mod tests;
