//! One side of a connection: liveness, arm–recheck–sleep, end of stream, close, deadlines.
//!
//! [`Link`] is what both directions share; [`Reader`] and [`Writer`] are the two directions. A
//! *step* looks at the ring once and never waits: `Ok(None)` means that there is nothing to do yet.
//! How callers of steps wait is in `waiting`; asynchronous ones do it in their poll functions
//! (`tasks`), over the same steps.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::guard::keeps;
use crate::host::{EventChannel, Host};
use crate::layout::{Live, Side};
use crate::memory::{ByteField, Region};
use crate::ring::Publish;
use crate::sync::AtomicU8;
use crate::{DomId, Error, PeerFault};

mod fault;
mod reader;
mod spin;
mod tasks;
mod waiting;
mod wakeup;
mod writer;

pub(crate) use self::spin::Patience;
pub use self::spin::Spin;
use fault::FaultCell;
pub(crate) use reader::Reader;
pub use tasks::Readiness;
pub(crate) use tasks::Tasks;
pub(crate) use waiting::{PROBE_INTERVAL, Wanted};
pub(crate) use wakeup::Wakeups;
pub(crate) use writer::Writer;

/// Whether a channel has a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// A server's channel before its client came. What is written waits in the ring.
    Waiting,
    /// Both sides are there.
    Connected,
    /// The peer has closed the channel or died. What it wrote before can still be read.
    Closed,
}

/// What is known of a connection beyond its rings. A bit once set stays, except for `OWED`.
mod known {
    /// The peer was seen there.
    pub(super) const CONNECTED: u8 = 1;
    /// The peer was seen gone.
    pub(super) const CLOSED: u8 = 2;
    /// The peer's domain is known to be gone, whatever its live byte says.
    pub(super) const DIED: u8 = 4;
    /// This side has closed the channel.
    pub(super) const SHUT: u8 = 8;
    /// The peer has broken the protocol.
    pub(super) const FAULT: u8 = 16;
    /// The peer asked for an event that the host failed to send.
    pub(super) const OWED: u8 = 32;
    /// There is nothing more to read or to write than what is in the rings.
    pub(super) const OVER: u8 = CLOSED | DIED | SHUT;
}

/// What both directions of a channel share. Dropping it closes the channel.
#[derive(Debug)]
pub(crate) struct Link {
    /// The peer's live byte in the control page, and by it the page. Dropped before `wakeups`: the host's
    /// unmap-notify uses the port.
    live: ByteField,
    wakeups: Wakeups,
    side: Side,
    peer: DomId,
    host: Host,
    /// What is known beyond the rings, as bits of [`known`]. One word, so that one load tells the
    /// usual case from all others.
    known: AtomicU8,
    fault: FaultCell,
}

impl Link {
    pub(crate) fn new(
        host: Host,
        peer: DomId,
        side: Side,
        page: &Arc<Region>,
        port: Box<dyn EventChannel>,
    ) -> Link {
        Link {
            live: ByteField::new(page, side.peer().live()),
            wakeups: Wakeups::new(port),
            side,
            peer,
            host,
            known: AtomicU8::new(0),
            fault: FaultCell::default(),
        }
    }

    #[inline]
    pub(crate) fn page(&self) -> &Arc<Region> {
        self.live.region()
    }

    pub(crate) fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    pub(crate) fn peer(&self) -> DomId {
        self.peer
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The state now. It moves only forwards: a live byte that goes back is the peer's fault.
    #[inline]
    pub(crate) fn state(&self) -> Result<State, Error> {
        let (known, byte) = self.look();
        if usual(known, byte) {
            return Ok(State::Connected);
        }
        self.judge(known, byte)
    }

    /// For who is about to write: the channel is not over, and no event is owed.
    #[inline]
    fn writable(&self) -> Result<(), Error> {
        let (known, byte) = self.look();
        if usual(known, byte) {
            return Ok(());
        }
        if self.judge(known, byte)? == State::Closed {
            return Err(self.closed());
        }
        self.settle()
    }

    /// For who is about to look at a ring: the peer is not at fault, and no event is owed.
    #[inline]
    fn sound(&self) -> Result<(), Error> {
        if self.is_sound() {
            return Ok(());
        }
        self.fault.check()?;
        self.settle()
    }

    /// Whether [`sound`](Link::sound) has nothing to do or to say.
    #[inline]
    fn is_sound(&self) -> bool {
        self.known.load(Ordering::Acquire) & (known::FAULT | known::OWED) == 0
    }

    /// What is known, and the peer's live byte.
    #[inline]
    fn look(&self) -> (u8, u8) {
        // Looked at before the byte: another thread may see the byte move on and say so in between.
        // Pairs with the release of `learn`: our load of the byte is not older than the one there.
        let known = self.known.load(Ordering::Acquire);
        // Pairs with the peer's release store when it closes: what it wrote before is visible.
        (known, self.live.load(Ordering::Acquire))
    }

    /// The state that goes with what was known and the live byte that was found then.
    #[cold]
    fn judge(&self, known: u8, byte: u8) -> Result<State, Error> {
        self.fault.check()?;
        if known & known::OVER != 0 {
            return Ok(State::Closed);
        }
        let now = match (Live::from_byte(byte), self.side) {
            (Some(Live::Gone), _) => State::Closed,
            (Some(Live::Connected), _) => State::Connected,
            (Some(Live::Waiting), Side::Server) => State::Waiting,
            _ if !keeps("live-value") => State::Closed,
            _ => return Err(self.record(PeerFault::Live(byte))),
        };
        let known = if keeps("seen-first") {
            known
        } else {
            self.known.load(Ordering::Acquire)
        };
        let back = match now {
            State::Waiting => known & (known::CONNECTED | known::CLOSED) != 0,
            State::Connected => known & known::CLOSED != 0,
            State::Closed => false,
        };
        if back && keeps("live-monotonic") {
            return Err(self.record(PeerFault::Live(byte)));
        }
        match now {
            State::Waiting => {}
            State::Connected => self.learn(known::CONNECTED),
            State::Closed => self.learn(known::CLOSED),
        }
        Ok(now)
    }

    /// The peer was seen there, and not yet seen to go.
    fn has_peer(&self) -> bool {
        let known = self.known.load(Ordering::Relaxed);
        known & (known::CONNECTED | known::CLOSED) == known::CONNECTED
    }

    /// Sets a bit of what is known.
    fn learn(&self, bit: u8) {
        if self.known.load(Ordering::Relaxed) & bit == 0 {
            self.known.fetch_or(bit, Ordering::Release);
        }
    }

    /// Makes a fault of the peer final and wakes whoever waits on this channel.
    fn record(&self, fault: PeerFault) -> Error {
        let first = self.fault.set(fault);
        self.learn(known::FAULT);
        if first {
            tracing::warn!(peer = self.peer.number(), %fault, "the peer broke the vchan protocol");
            self.wakeups.interrupt();
        }
        Error::PeerFault(fault)
    }

    /// `sender_notify_data`, `recv_notify_read`: sends the event that a publication calls for. When
    /// the host fails to, the publication stands all the same and its caller must learn of it: the
    /// event is owed until [`Link::settle`].
    #[inline]
    fn tell(&self, publish: Publish) {
        if publish == Publish::TellPeer {
            self.notify();
        }
    }

    /// The same for who has nothing left to do but to return `value`.
    #[cold]
    pub(crate) fn tell_then<T>(&self, value: T) -> Result<T, Error> {
        self.notify();
        Ok(value)
    }

    #[cold]
    fn notify(&self) {
        if let Err(error) = self.wakeups.port().notify() {
            tracing::warn!(peer = self.peer.number(), %error, "the peer was not told");
            if keeps("event-owed") {
                self.learn(known::OWED);
            }
        }
    }

    /// Sends the event that an earlier call, of either direction, could not send.
    #[cold]
    fn settle(&self) -> Result<(), Error> {
        if self.known.load(Ordering::Relaxed) & known::OWED != 0 {
            self.known.fetch_and(!known::OWED, Ordering::Relaxed);
            if let Err(error) = self.wakeups.port().notify() {
                self.learn(known::OWED);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Asks the host whether the peer's end of the event channel still exists, and remembers it
    /// when it does not.
    pub(crate) fn probe(&self) -> Result<(), Error> {
        let connected = self.has_peer();
        if connected && self.wakeups.port().is_bound()? == Some(false) && keeps("probe") {
            // An orderly close also unbinds the port, but clears the live byte first.
            let byte = self.live.load(Ordering::Acquire);
            if byte != Live::Gone.byte() {
                tracing::debug!(peer = self.peer.number(), "the peer's domain is gone");
                self.learn(known::DIED);
                self.wakeups.interrupt();
            }
        }
        Ok(())
    }

    /// Why nothing more can be written.
    fn closed(&self) -> Error {
        if self.known.load(Ordering::Relaxed) & known::DIED != 0 {
            Error::PeerDied
        } else {
            Error::Closed
        }
    }
}

/// The bytes of several buffers together. (One buffer may be named often.)
fn total_of(lens: impl Iterator<Item = usize>) -> usize {
    lens.fold(0, usize::saturating_add)
}

/// Nothing but the rings needs a look.
#[inline]
fn usual(known: u8, byte: u8) -> bool {
    known == known::CONNECTED && byte == Live::Connected.byte()
}

impl Link {
    /// Closes the channel for the peer and for whoever waits on this side; once. In the model
    /// `sender_open` and `sender_notify_closed`, and the same of the receiver.
    pub(crate) fn shut_down(&self) {
        if self.known.fetch_or(known::SHUT, Ordering::Relaxed) & known::SHUT != 0 {
            return;
        }
        // Release: whoever sees the byte sees everything written before.
        if keeps("close-tells") {
            self.page()
                .store_byte(self.side.live(), Live::Gone.byte(), Ordering::Release);
        }
        if let Err(error) = self.wakeups.port().notify() {
            tracing::debug!(%error, "the peer was not told that the channel is closed");
        }
        self.wakeups.interrupt();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shut_down();
    }
}

#[cfg(all(test, vchan_loom))]
mod models;
