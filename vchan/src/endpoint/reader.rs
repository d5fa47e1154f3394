//! The reading direction of a channel, as steps that never wait.

use alloc::sync::Arc;
use core::ops::DerefMut;

use super::{Link, State, total_of};
use crate::Error;
use crate::guard::keeps;
use crate::memory::{SHORT, SharedSlice};
use crate::ring::{Consumer, Publish};

/// The reading direction of a channel.
#[derive(Debug)]
pub(crate) struct Reader {
    consumer: Consumer,
    link: Arc<Link>,
    /// How many bytes were read since the connection began.
    total: u64,
}

impl Reader {
    pub(crate) fn new(consumer: Consumer, link: Arc<Link>) -> Reader {
        Reader {
            consumer,
            link,
            total: 0,
        }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn size(&self) -> usize {
        self.consumer.size() as usize
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that can be read now.
    pub(crate) fn ready(&mut self) -> Result<usize, Error> {
        self.link.sound()?;
        let ready = self.consumer.ready();
        let ready = ready.map_err(|fault| self.link.record(fault))?;
        Ok(ready as usize)
    }

    /// Fills `to` in the usual case, when there is nothing else to see to and no end of the ring in
    /// the way. `None`: nothing was done, and [`read`](Reader::read) or [`recv`](Reader::recv) must.
    ///
    /// Short messages are copied in place, so that all of this is a few dozen instructions.
    #[inline(never)]
    pub(crate) fn read_at_once(&mut self, to: &mut [u8]) -> Option<Publish> {
        if to.len() <= SHORT {
            self.read_run(to)
        } else {
            self.read_long_run(to)
        }
    }

    #[inline(never)]
    fn read_long_run(&mut self, to: &mut [u8]) -> Option<Publish> {
        // So many are never there: the page need not be looked at.
        if to.len() > self.size() {
            return None;
        }
        self.read_run(to)
    }

    #[inline(always)]
    fn read_run(&mut self, to: &mut [u8]) -> Option<Publish> {
        if !self.link.is_sound() {
            return None;
        }
        let published = self.consumer.read_run(to)?;
        self.total = self.total.wrapping_add(to.len() as u64);
        Some(published)
    }

    /// Reads what is there, up to the length of `to`. `Some(0)` is the end of the stream.
    #[inline]
    pub(crate) fn read(&mut self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        if to.is_empty() {
            return Ok(Some(0));
        }
        let Some(count) = self.some(to.len())? else {
            return Ok(None);
        };
        if let Some(to) = to.get_mut(..count) {
            self.fetch(0, to);
        }
        self.release(count);
        Ok(Some(count))
    }

    /// Reads exactly the length of `to`, or nothing.
    #[inline]
    pub(crate) fn recv(&mut self, to: &mut [u8]) -> Result<Option<()>, Error> {
        if self.all(to.len())?.is_none() {
            return Ok(None);
        }
        self.fetch(0, to);
        self.release(to.len());
        Ok(Some(()))
    }

    /// As [`read`](Reader::read), into several buffers.
    pub(crate) fn read_vectored<B>(&mut self, to: &mut [B]) -> Result<Option<usize>, Error>
    where
        B: DerefMut<Target = [u8]>,
    {
        let most = total_of(to.iter().map(|buffer| buffer.len()));
        if most == 0 {
            return Ok(Some(0));
        }
        let Some(held) = self.some(most)? else {
            return Ok(None);
        };
        let count = self.fetch_all(to, held);
        self.release(count);
        Ok(Some(count))
    }

    /// As [`recv`](Reader::recv), into several buffers.
    pub(crate) fn recv_vectored<B>(&mut self, to: &mut [B]) -> Result<Option<()>, Error>
    where
        B: DerefMut<Target = [u8]>,
    {
        let wanted = total_of(to.iter().map(|buffer| buffer.len()));
        if self.all(wanted)?.is_none() {
            return Ok(None);
        }
        let count = self.fetch_all(to, wanted);
        self.release(count);
        Ok(Some(()))
    }

    /// Copies into `to` what goes there of the next `held` bytes; gives their number.
    fn fetch_all<B: DerefMut<Target = [u8]>>(&self, to: &mut [B], held: usize) -> usize {
        let mut fetched: usize = 0;
        for buffer in to {
            let count = buffer.len().min(held.saturating_sub(fetched));
            self.fetch(fetched, buffer.get_mut(..count).unwrap_or_default());
            fetched = fetched.saturating_add(count);
        }
        fetched
    }

    /// Receives as many datagrams as are there, each as long as its buffer, and gives their space
    /// back in one publication. `None`: not even the first is there.
    pub(crate) fn recv_many<B>(&mut self, buffers: &mut [B]) -> Result<Option<usize>, Error>
    where
        B: AsMut<[u8]>,
    {
        let Some(first) = buffers.first_mut() else {
            return Ok(Some(0));
        };
        let first = first.as_mut().len();
        if self.all(first)?.is_none() {
            return Ok(None);
        }
        let wanted = total_of(buffers.iter_mut().map(|buffer| buffer.as_mut().len()));
        // An empty one is always there; those that follow it only where one of them alone may be.
        let held = if first == 0 && self.link.sound().is_err() {
            0
        } else {
            self.held(wanted.min(self.size()))?
        };
        let (mut fetched, mut count) = (0, 0);
        for buffer in &mut *buffers {
            let buffer = buffer.as_mut();
            if buffer.len() > held.saturating_sub(fetched) {
                break;
            }
            self.fetch(fetched, buffer);
            fetched = fetched.saturating_add(buffer.len());
            count += 1;
        }
        if count == buffers.len() || keeps("space-is-given-back") {
            self.release(fetched);
        }
        Ok(Some(count))
    }

    /// How many bytes are there, if it is at least `min`; none at the end of the stream.
    pub(crate) fn peek(&mut self, min: usize) -> Result<Option<usize>, Error> {
        let there = if min == 0 {
            self.ready()?
        } else {
            match self.all(min) {
                Ok(Some(())) => self.held(0)?,
                Ok(None) => return Ok(None),
                Err(Error::EndOfStream { buffered: 0, .. }) => 0,
                Err(error) => return Err(error),
            }
        };
        Ok(Some(self.peeked(there)))
    }

    /// How many bytes are there, if it is at least `min`, in the usual case. `None`:
    /// [`peek`](Reader::peek) must tell.
    #[inline]
    pub(crate) fn peek_at_once(&mut self, min: usize) -> Option<usize> {
        if min == 0 || min > self.size() || !self.link.is_sound() {
            return None;
        }
        let there = self.consumer.held_at_once(min)?;
        Some(self.peeked(there as usize))
    }

    #[inline]
    fn peeked(&self, there: usize) -> usize {
        #[cfg(vchan_mutations)]
        if !keeps("consume-publishes") {
            self.link.tell(self.consumer.publish_early(there));
        }
        there
    }

    /// The next `len` bytes, which are known to be there.
    #[inline]
    pub(crate) fn parts(&self, len: usize) -> [SharedSlice<'_>; 2] {
        self.consumer.parts(len)
    }

    /// Copies bytes that are known to be there, without giving their space back.
    #[inline]
    pub(crate) fn fetch(&self, offset: usize, to: &mut [u8]) {
        self.consumer.copy_out(offset, to);
    }

    /// How many of the next `most` bytes, which are not none, are there: at least one, and zero only
    /// at the end of the stream.
    #[inline]
    fn some(&mut self, most: usize) -> Result<Option<usize>, Error> {
        self.link.sound()?;
        match self.held(most)? {
            0 => self.none(most),
            held => Ok(Some(held.min(most))),
        }
    }

    #[cold]
    fn none(&mut self, most: usize) -> Result<Option<usize>, Error> {
        if self.link.state()? != State::Closed {
            return Ok(None);
        }
        if !keeps("final-check") {
            return Ok(Some(0));
        }
        // `recv_final_check`: the peer may have written between our look at the ring and at its
        // live byte; after that byte no more comes.
        self.seal()?;
        match self.held(most)? {
            0 => match self.link.closed() {
                Error::PeerDied => Err(Error::PeerDied),
                _ => Ok(Some(0)),
            },
            held => Ok(Some(held.min(most))),
        }
    }

    /// Whether the next `wanted` bytes are there; an error when they never will be.
    #[inline]
    fn all(&mut self, wanted: usize) -> Result<Option<()>, Error> {
        let max = self.size();
        if wanted > max {
            return Err(Error::TooLarge { size: wanted, max });
        }
        if wanted == 0 {
            return Ok(Some(()));
        }
        self.link.sound()?;
        if self.held(wanted)? >= wanted {
            return Ok(Some(()));
        }
        self.too_few(wanted)
    }

    #[cold]
    fn too_few(&mut self, wanted: usize) -> Result<Option<()>, Error> {
        if self.link.state()? != State::Closed {
            return Ok(None);
        }
        self.seal()?;
        let buffered = self.held(wanted)?;
        if buffered >= wanted {
            return Ok(Some(()));
        }
        Err(match self.link.closed() {
            Error::PeerDied if buffered == 0 => Error::PeerDied,
            _ => Error::EndOfStream { buffered, wanted },
        })
    }

    /// After the peer's close: what is in the ring now is all that there will ever be.
    fn seal(&mut self) -> Result<(), Error> {
        let sealed = self.consumer.seal();
        sealed.map_err(|fault| self.link.record(fault))
    }

    /// How many bytes are known to be there; the page is looked at when fewer than `wanted` are.
    #[inline]
    fn held(&mut self, wanted: usize) -> Result<usize, Error> {
        match self.consumer.held(wanted) {
            Ok(held) => Ok(held as usize),
            Err(fault) => Err(self.link.record(fault)),
        }
    }

    /// Gives the space of the next `len` bytes back, which are known to be there.
    #[inline]
    pub(crate) fn release(&mut self, len: usize) {
        if len > 0 {
            self.link.tell(self.consumer.publish(len));
            self.total = self.total.wrapping_add(len as u64);
        }
    }
}
