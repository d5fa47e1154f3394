//! One ring's two ends: [`Producer`] and [`Consumer`].
//!
//! Each end keeps its own index private: the copy in the page is only ever written, so the peer
//! cannot change it under us. The peer's index is cached; it is loaded only when the cached one does
//! not suffice, once per decision, and every loaded value is validated against what is known. Nothing
//! here waits, and whether the peer must be told is a return value: it is the caller who sends events.
//!
//! Comments name the steps of the published TLA+ model of vchan (talex5/spec-vchan) by its labels;
//! docs/DESIGN.md says what that model assumes and this code does not.
#![warn(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used
)]

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::PeerFault;
use crate::guard::keeps;
use crate::layout::{NOTIFY_READ, NOTIFY_WRITE, Ring, Side};
use crate::memory::{
    ByteField, IndexField, Region, RingBytes, RingSpace, SharedSlice, SharedSliceMut, full_fence,
};

mod index;

use index::Indices;

/// Where the data bytes of one ring are.
#[derive(Clone, Debug)]
pub struct Bytes {
    /// The pages that hold them.
    pub region: Arc<Region>,
    /// Where they begin in the region.
    pub start: usize,
    /// How many there are: a power of two, 1024 to 1 MiB.
    pub size: u32,
}

/// A number of bytes as an index counts them. Ours are never larger than a ring.
#[inline]
fn counted(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// What publishing an index found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a peer that asked for an event and gets none sleeps for ever"]
pub enum Publish {
    /// The peer has not asked to be told.
    Quiet,
    /// The peer has asked: send it an event now.
    TellPeer,
}

/// The fields of the control page by which one end of a ring and the peer's work together.
#[derive(Debug)]
struct Control {
    /// Only ever written by this end.
    own: IndexField,
    /// Only ever written by the peer.
    theirs: IndexField,
    /// What the peer wants to be told: it sets bits, this side clears them.
    asked: ByteField,
}

impl Control {
    fn new(page: &Arc<Region>, side: Side, own: usize, theirs: usize) -> Control {
        Control {
            own: IndexField::new(page, own),
            theirs: IndexField::new(page, theirs),
            asked: ByteField::new(page, side.asked_of_us()),
        }
    }

    /// Loads the peer's index, once. Pairs with the release store of its `publish`.
    #[inline]
    fn load_peer_index(&self) -> u32 {
        let acquire = if keeps("refresh-acquire") {
            Ordering::Acquire
        } else {
            Ordering::Relaxed
        };
        self.theirs.load(acquire)
    }

    /// Makes our index visible, then looks whether the peer waits for just that.
    #[inline]
    fn publish(&self, value: u32, event: u8) -> Publish {
        // Pairs with the acquire load of the peer's `refresh`: whoever sees the index sees the
        // bytes (producer) or may overwrite them (consumer).
        let release = if keeps("publish-release") {
            Ordering::Release
        } else {
            Ordering::Relaxed
        };
        self.own.store(value, release);
        // Pairs with the fence between arming and re-checking in `endpoint`: either the peer sees
        // this index, or we see its bit.
        if keeps("publish-fence") {
            full_fence();
        }
        if !keeps("one-fence") {
            full_fence();
        }
        // `sender_check_notify_data`, `recv_check_notify_read`.
        if self.asked.load(Ordering::Relaxed) & event == 0 && keeps("test-before-clear") {
            return Publish::Quiet;
        }
        self.take_request(event)
    }

    /// Takes the request for `event` back, which the peer has just made. One locked instruction.
    #[cold]
    fn take_request(&self, event: u8) -> Publish {
        // Two threads of ours may both get here for different bits; each clears only its own.
        let taken = if keeps("clear-own-bit") { event } else { 0xFF };
        match self.asked.clear_bits(taken, Ordering::Relaxed) & event {
            0 if keeps("tell-who-asked") => Publish::Quiet,
            _ => Publish::TellPeer,
        }
    }
}

/// The writing end of a ring.
#[derive(Debug)]
pub struct Producer {
    bytes: RingSpace,
    control: Control,
    /// Our prod: everything below it is published; the page's copy does not count. The peer's cons
    /// as last accepted; it may have moved on.
    indices: Indices<u32>,
}

impl Producer {
    /// The end by which `side` writes; it goes on where the page's indices stand.
    ///
    /// # Errors
    /// When those indices cannot be.
    pub fn new(page: Arc<Region>, side: Side, bytes: Bytes) -> Result<Producer, PeerFault> {
        let ring = Ring::written_by(side);
        let control = Control::new(&page, side, ring.prod(), ring.cons());
        let prod = control.own.load(Ordering::Relaxed);
        let found = control.load_peer_index();
        let indices = Indices::new(prod, found, bytes.size);
        let indices = indices.ok_or(PeerFault::Index {
            found,
            own: prod,
            size: bytes.size,
        })?;
        Ok(Producer {
            bytes: RingBytes::new(bytes.region, bytes.start, bytes.size).for_writing(),
            control,
            indices,
        })
    }

    /// The ring's size in bytes.
    #[must_use]
    #[inline]
    pub fn size(&self) -> u32 {
        self.bytes.size()
    }

    /// How many bytes fit now; the peer can only make it more.
    ///
    /// # Errors
    /// When the peer's index cannot be.
    pub fn free(&mut self) -> Result<u32, PeerFault> {
        let found = self.control.load_peer_index();
        if !self.indices.accept_cons(found) {
            let (own, size) = (self.indices.prod(), self.size());
            return Err(PeerFault::Index { found, own, size });
        }
        let free = self.indices.free();
        // Neither caught up with nor run into: both are at work at this moment.
        if keeps("who-is-away") {
            self.bytes.set_away(0 < free && free < self.size());
        }
        Ok(free)
    }

    /// How many bytes are known to fit. The page is looked at, once, when fewer than `wanted` do.
    ///
    /// # Errors
    /// When the peer's index cannot be.
    #[inline]
    pub fn room(&mut self, wanted: usize) -> Result<u32, PeerFault> {
        let free = self.indices.free();
        if wanted <= free as usize {
            return Ok(free);
        }
        self.free()
    }

    /// Copies `from` into the ring, `offset` bytes after what is published, without publishing it.
    ///
    /// # Panics
    /// When it does not fit into the space that is known to be free.
    #[inline]
    pub fn copy_in(&mut self, offset: usize, from: &[u8]) {
        let free = self.indices.free();
        let end = offset.saturating_add(from.len());
        assert!(end <= free as usize, "written over data");
        let offset = counted(offset);
        let index = self.indices.prod().wrapping_add(offset);
        self.bytes.copy_in(index, from, free.saturating_sub(offset));
    }

    /// The next `len` bytes of free space, to be written in place.
    ///
    /// # Panics
    /// When so many are not known to be free.
    #[inline]
    pub fn parts(&mut self, len: usize) -> [SharedSliceMut<'_>; 2] {
        assert!(len <= self.indices.free() as usize, "written over data");
        self.bytes.parts_mut(self.indices.prod(), len)
    }

    /// `sender_write_data`: publishes the next `len` bytes, which
    /// [`copy_in`](Producer::copy_in) has placed.
    ///
    /// # Panics
    /// When it is more than is known to be free.
    #[inline]
    pub fn publish(&mut self, len: usize) -> Publish {
        assert!(len <= self.indices.free() as usize, "published over data");
        self.advance(len)
    }

    /// Whether the peer is at work on the ring elsewhere: [`write_run_away`](Producer::write_run_away)
    /// is for that.
    #[inline(always)]
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.bytes.is_away()
    }

    /// Copies `from` in and publishes it, if that is simple: it is not empty, known to fit, and does
    /// not go around the end of the ring. `None`: nothing was done.
    #[inline(always)]
    pub fn write_run(&mut self, from: &[u8]) -> Option<Publish> {
        let done = from.len() <= self.indices.free() as usize
            && self.bytes.copy_in_run(self.indices.prod(), from);
        done.then(|| self.advance(from.len()))
    }

    /// The same, and fetches the space that is written next.
    #[inline(always)]
    pub fn write_run_away(&mut self, from: &[u8]) -> Option<Publish> {
        let free = self.indices.free();
        let done = from.len() <= free as usize
            && self.bytes.copy_in_run_away(self.indices.prod(), from, free);
        done.then(|| self.advance(from.len()))
    }

    /// How many bytes are known to fit, if it is at least `wanted`. The page is not looked at.
    #[inline(always)]
    #[must_use]
    pub fn room_at_once(&self, wanted: usize) -> Option<u32> {
        let free = self.indices.free();
        (wanted <= free as usize).then_some(free)
    }

    /// Publishes bytes and goes on writing them: what a missing guard would do, see `guard`.
    #[cfg(vchan_mutations)]
    pub fn publish_early(&self, len: usize) -> Publish {
        let early = self.indices.prod().wrapping_add(counted(len));
        self.control.publish(early, NOTIFY_WRITE)
    }

    #[inline]
    fn advance(&mut self, len: usize) -> Publish {
        self.indices.written(counted(len));
        self.control.publish(self.indices.prod(), NOTIFY_WRITE)
    }
}

/// The reading end of a ring.
#[derive(Debug)]
pub struct Consumer {
    bytes: RingBytes,
    control: Control,
    /// Our cons: everything below it is read; the page's copy does not count. The peer's prod as
    /// last accepted; it may have moved on.
    indices: Indices<u32>,
    /// The peer's index is not looked at any more.
    sealed: bool,
}

impl Consumer {
    /// The end by which `side` reads; it goes on where the page's indices stand.
    ///
    /// # Errors
    /// When those indices cannot be.
    pub fn new(page: Arc<Region>, side: Side, bytes: Bytes) -> Result<Consumer, PeerFault> {
        let ring = Ring::read_by(side);
        let control = Control::new(&page, side, ring.cons(), ring.prod());
        let cons = control.own.load(Ordering::Relaxed);
        let found = control.load_peer_index();
        let indices = Indices::new(found, cons, bytes.size);
        let indices = indices.ok_or(PeerFault::Index {
            found,
            own: cons,
            size: bytes.size,
        })?;
        Ok(Consumer {
            bytes: RingBytes::new(bytes.region, bytes.start, bytes.size),
            control,
            indices,
            sealed: false,
        })
    }

    /// The ring's size in bytes.
    #[must_use]
    #[inline]
    pub fn size(&self) -> u32 {
        self.bytes.size()
    }

    /// How many bytes can be read now; the peer can only make it more.
    ///
    /// # Errors
    /// When the peer's index cannot be.
    pub fn ready(&mut self) -> Result<u32, PeerFault> {
        if self.sealed {
            return Ok(self.indices.used());
        }
        let found = self.control.load_peer_index();
        if !self.indices.accept_prod(found) {
            let (own, size) = (self.indices.cons(), self.size());
            return Err(PeerFault::Index { found, own, size });
        }
        Ok(self.indices.used())
    }

    /// Takes a last look at the peer's index: what is in the ring now is all that will ever be read
    /// from it, whatever the peer still writes.
    ///
    /// # Errors
    /// When the peer's index cannot be.
    pub fn seal(&mut self) -> Result<(), PeerFault> {
        self.ready()?;
        self.sealed = keeps("end-is-final");
        Ok(())
    }

    /// How many bytes are known to be there. The page is looked at, once, when fewer than `wanted`
    /// are.
    ///
    /// # Errors
    /// When the peer's index cannot be.
    #[inline]
    pub fn held(&mut self, wanted: usize) -> Result<u32, PeerFault> {
        let used = self.indices.used();
        if wanted <= used as usize {
            return Ok(used);
        }
        self.ready()
    }

    /// Copies bytes out of the ring into `to`, beginning `offset` bytes after what was given back.
    ///
    /// # Panics
    /// When so many are not known to be there.
    #[inline]
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) {
        let end = offset.saturating_add(to.len());
        assert!(end <= self.indices.used() as usize, "read free space");
        let index = self.indices.cons().wrapping_add(counted(offset));
        self.bytes.copy_out(index, to);
    }

    /// The next `len` bytes, to be read in place.
    ///
    /// # Panics
    /// When so many are not known to be there.
    #[inline]
    pub fn parts(&self, len: usize) -> [SharedSlice<'_>; 2] {
        assert!(len <= self.indices.used() as usize, "read free space");
        self.bytes.parts(self.indices.cons(), len)
    }

    /// `recv_read_data`: gives the space of the next `len` bytes back, which
    /// [`copy_out`](Consumer::copy_out) has taken.
    ///
    /// # Panics
    /// When so many are not known to be there.
    #[inline]
    pub fn publish(&mut self, len: usize) -> Publish {
        assert!(len <= self.indices.used() as usize, "gave free space back");
        self.advance(len)
    }

    /// Copies the next bytes out to `to` and gives their space back, if that is simple: `to` is not
    /// empty, so many are there, and they do not go around the end of the ring. `None`: nothing was
    /// done.
    #[inline(always)]
    pub fn read_run(&mut self, to: &mut [u8]) -> Option<Publish> {
        if !self.has(counted(to.len())) {
            return None;
        }
        let done = self.bytes.copy_out_run(self.indices.cons(), to);
        done.then(|| self.advance(to.len()))
    }

    /// How many bytes are known to be there, if it is at least `wanted`. The page is looked at, once,
    /// when fewer are. `None`: there are not so many, or [`held`](Consumer::held) has more to say.
    #[inline(always)]
    pub fn held_at_once(&mut self, wanted: usize) -> Option<u32> {
        self.has(counted(wanted)).then(|| self.indices.used())
    }

    #[inline(always)]
    fn has(&mut self, wanted: u32) -> bool {
        // A reader that keeps up looks at the page each time.
        wanted <= self.indices.used()
            || !self.sealed
                && self
                    .indices
                    .accept_prod_for(wanted, self.control.load_peer_index())
    }

    /// Gives space back and goes on reading there: what a missing guard would do, see `guard`.
    #[cfg(vchan_mutations)]
    pub fn publish_early(&self, len: usize) -> Publish {
        let early = self.indices.cons().wrapping_add(counted(len));
        self.control.publish(early, NOTIFY_READ)
    }

    #[inline]
    fn advance(&mut self, len: usize) -> Publish {
        self.indices.read(counted(len));
        self.control.publish(self.indices.cons(), NOTIFY_READ)
    }
}

#[cfg(test)]
mod tests;
