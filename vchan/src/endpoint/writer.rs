//! The writing direction of a channel, as steps that never wait.

use alloc::sync::Arc;
use core::ops::Deref;

use super::{Link, State, total_of, usual};
use crate::Error;
use crate::guard::keeps;
use crate::memory::{SHORT, SharedSliceMut};
use crate::ring::{Producer, Publish};

/// The writing direction of a channel.
#[derive(Debug)]
pub(crate) struct Writer {
    producer: Producer,
    link: Arc<Link>,
    /// How many bytes were written since the connection began.
    total: u64,
}

impl Writer {
    pub(crate) fn new(producer: Producer, link: Arc<Link>) -> Writer {
        Writer {
            producer,
            link,
            total: 0,
        }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn size(&self) -> usize {
        self.producer.size() as usize
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that can be written now.
    pub(crate) fn free(&mut self) -> Result<usize, Error> {
        self.link.sound()?;
        let free = self.producer.free();
        let free = free.map_err(|fault| self.link.record(fault))?;
        Ok(free as usize)
    }

    /// Writes all of `from` in the usual case, when there is nothing else to see to and no end of the
    /// ring in the way. `None`: nothing was done, and [`write`](Writer::write) or
    /// [`send`](Writer::send) must.
    ///
    /// Short messages are copied in place, so that all of this is a few dozen instructions.
    #[inline(never)]
    pub(crate) fn write_at_once(&mut self, from: &[u8]) -> Option<Publish> {
        if from.len() > SHORT {
            self.write_long_run(from)
        } else if self.producer.is_away() {
            self.write_run_away(from)
        } else {
            self.write_run::<false>(from)
        }
    }

    #[inline(never)]
    fn write_run_away(&mut self, from: &[u8]) -> Option<Publish> {
        // So that the compiler knows it here as well.
        if from.len() > SHORT {
            return None;
        }
        self.write_run::<true>(from)
    }

    #[inline(never)]
    fn write_long_run(&mut self, from: &[u8]) -> Option<Publish> {
        // So many never fit at once: the page need not be looked at.
        if from.len() > self.size() {
            return None;
        }
        match self.producer.is_away() {
            true => self.write_run::<true>(from),
            false => self.write_run::<false>(from),
        }
    }

    #[inline(always)]
    fn write_run<const AWAY: bool>(&mut self, from: &[u8]) -> Option<Publish> {
        let (known, live) = self.link.look();
        if !usual(known, live) {
            return None;
        }
        let published = match AWAY {
            true => self.producer.write_run_away(from)?,
            false => self.producer.write_run(from)?,
        };
        self.total = self.total.wrapping_add(from.len() as u64);
        Some(published)
    }

    /// Writes as much of `from` as fits. `Some(0)` only when `from` is empty.
    #[inline]
    pub(crate) fn write(&mut self, from: &[u8]) -> Result<Option<usize>, Error> {
        if from.is_empty() {
            return Ok(Some(0));
        }
        self.link.writable()?;
        let count = self.room(from.len())?.min(from.len());
        if count == 0 {
            return Ok(None);
        }
        if let Some(from) = from.get(..count) {
            self.place(0, from);
        }
        self.publish(count);
        Ok(Some(count))
    }

    /// Writes all of `from`, or nothing.
    #[inline]
    pub(crate) fn send(&mut self, from: &[u8]) -> Result<Option<()>, Error> {
        if self.fits(from.len())?.is_none() {
            return Ok(None);
        }
        self.place(0, from);
        self.publish(from.len());
        Ok(Some(()))
    }

    /// As [`write`](Writer::write), from several buffers in one publication.
    pub(crate) fn write_vectored<B>(&mut self, from: &[B]) -> Result<Option<usize>, Error>
    where
        B: Deref<Target = [u8]>,
    {
        let wanted = total_of(from.iter().map(|buffer| buffer.len()));
        if wanted == 0 {
            return Ok(Some(0));
        }
        self.link.writable()?;
        let room = self.room(wanted)?.min(wanted);
        if room == 0 {
            return Ok(None);
        }
        let count = self.place_all(from, room);
        self.publish(count);
        Ok(Some(count))
    }

    /// As [`send`](Writer::send), from several buffers.
    pub(crate) fn send_vectored<B>(&mut self, from: &[B]) -> Result<Option<()>, Error>
    where
        B: Deref<Target = [u8]>,
    {
        let size = total_of(from.iter().map(|buffer| buffer.len()));
        if self.fits(size)?.is_none() {
            return Ok(None);
        }
        let count = self.place_all(from, size);
        self.publish(count);
        Ok(Some(()))
    }

    /// Copies what of `from` goes into `room` bytes, which are known to be free; gives their number.
    fn place_all<B: Deref<Target = [u8]>>(&mut self, from: &[B], room: usize) -> usize {
        let mut placed: usize = 0;
        for buffer in from {
            let count = buffer.len().min(room.saturating_sub(placed));
            self.place(placed, buffer.get(..count).unwrap_or_default());
            placed = placed.saturating_add(count);
        }
        placed
    }

    /// Sends as many whole datagrams as fit, in one publication. `None`: not even the first fits.
    pub(crate) fn send_many<D>(&mut self, datagrams: &[D]) -> Result<Option<usize>, Error>
    where
        D: AsRef<[u8]>,
    {
        let Some(first) = datagrams.first() else {
            return Ok(Some(0));
        };
        if self.fits(first.as_ref().len())?.is_none() {
            return Ok(None);
        }
        let wanted = total_of(datagrams.iter().map(|datagram| datagram.as_ref().len()));
        // An empty one may always go; those that follow it only where one of them alone may.
        let room = if first.as_ref().is_empty() && self.link.writable().is_err() {
            0
        } else {
            self.room(wanted.min(self.size()))?
        };
        let (mut placed, mut count) = (0, 0);
        for datagram in datagrams {
            let datagram = datagram.as_ref();
            if datagram.len() > room.saturating_sub(placed) {
                break;
            }
            self.place(placed, datagram);
            placed = placed.saturating_add(datagram.len());
            count += 1;
            if !keeps("one-publication") {
                self.publish(core::mem::take(&mut placed));
            }
        }
        self.publish(placed);
        Ok(Some(count))
    }

    /// How much space there is, if it is at least `min`.
    pub(crate) fn reserve(&mut self, min: usize) -> Result<Option<usize>, Error> {
        let free = if min == 0 {
            self.link.writable()?;
            self.free()?
        } else if self.fits(min)?.is_some() {
            self.room(0)?
        } else {
            return Ok(None);
        };
        Ok(Some(self.reserved(free)))
    }

    /// How much space there is, if it is at least `min`, in the usual case, when the ring need not be
    /// looked at. `None`: [`reserve`](Writer::reserve) must.
    #[inline]
    pub(crate) fn reserve_at_once(&mut self, min: usize) -> Option<usize> {
        let (known, live) = self.link.look();
        if min == 0 || min > self.size() || !usual(known, live) {
            return None;
        }
        let free = self.producer.room_at_once(min)?;
        Some(self.reserved(free as usize))
    }

    #[inline]
    fn reserved(&self, free: usize) -> usize {
        #[cfg(vchan_mutations)]
        if !keeps("commit-publishes") {
            self.link.tell(self.producer.publish_early(free));
        }
        free
    }

    /// The next `len` bytes of space, which are known to be free.
    #[inline]
    pub(crate) fn parts(&mut self, len: usize) -> [SharedSliceMut<'_>; 2] {
        self.producer.parts(len)
    }

    /// Copies `from` into space that is known to be free, without publishing it.
    #[inline]
    pub(crate) fn place(&mut self, offset: usize, from: &[u8]) {
        self.producer.copy_in(offset, from);
    }

    /// Whether the peer has read everything that was written; an error when it never will.
    pub(crate) fn drained(&mut self) -> Result<Option<()>, Error> {
        let closed = self.link.state()? == State::Closed;
        if self.free()? == self.size() {
            return Ok(Some(()));
        }
        if closed {
            Err(self.link.closed())
        } else {
            Ok(None)
        }
    }

    /// Whether `size` bytes fit now; an error when they never will.
    #[inline]
    fn fits(&mut self, size: usize) -> Result<Option<()>, Error> {
        let max = self.size();
        if size > max && keeps("too-large") {
            return Err(Error::TooLarge { size, max });
        }
        if size == 0 {
            return Ok(Some(()));
        }
        self.link.writable()?;
        let fits = self.room(size)? >= size;
        Ok(fits.then_some(()))
    }

    /// How many bytes are known to fit; the page is looked at when fewer than `wanted` do.
    #[inline]
    fn room(&mut self, wanted: usize) -> Result<usize, Error> {
        match self.producer.room(wanted) {
            Ok(room) => Ok(room as usize),
            Err(fault) => Err(self.link.record(fault)),
        }
    }

    /// Publishes the next `len` bytes, which are in their place.
    #[inline]
    pub(crate) fn publish(&mut self, len: usize) {
        if len > 0 {
            self.link.tell(self.producer.publish(len));
            self.total = self.total.wrapping_add(len as u64);
        }
    }
}
