//! One side of a connection: liveness, arm–recheck–sleep, end of stream, close, deadlines.
//!
//! [`Link`] is what both directions share; [`Reader`] and [`Writer`] are the two directions. A
//! *step* looks at the ring once and never waits: `Ok(None)` means that there is nothing to do yet.
//! Who wants to wait says so with [`Link::arm`], looks again, and only then sleeps; blocking callers
//! do that in [`Link::wait_for`], asynchronous ones in their poll functions, over the same steps.
//! Blocking callers may look for a while before (`spin`).

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use core::time::Duration;

use crate::guard::keeps;
use crate::host::{EventChannel, Host, Time};
use crate::layout::{Live, NOTIFY_READ, NOTIFY_WRITE, Ring, Side};
use crate::memory::{ByteField, Region, full_fence};
use crate::ring::Publish;
use crate::sync::AtomicU8;
use crate::{DomId, Error, PeerFault};

mod fault;
mod reader;
mod spin;
mod tasks;
mod wakeup;
mod writer;

use self::spin::Course;
pub(crate) use self::spin::Patience;
pub use self::spin::Spin;
use fault::FaultCell;
pub(crate) use reader::Reader;
pub use tasks::Readiness;
pub(crate) use tasks::Tasks;
pub(crate) use wakeup::Wakeups;
pub(crate) use writer::Writer;

/// How long a wait sleeps before it asks the host whether the peer's domain still exists: a domain
/// that is destroyed clears no live byte and sends no event.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(1);

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

/// What a sleeper wants to be told by the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// More bytes to read.
    Data,
    /// More space to write.
    Space,
}

impl Wanted {
    /// What asks the peer to tell us of it.
    fn bit(self) -> u8 {
        match self {
            Wanted::Data => NOTIFY_WRITE,
            Wanted::Space => NOTIFY_READ,
        }
    }

    /// The deadline of a wait has passed.
    fn timed_out(self) -> Error {
        let waiting_for = match self {
            Wanted::Data => "waiting for the peer to write",
            Wanted::Space => "waiting for the peer to read",
        };
        Error::TimedOut {
            waiting_for: waiting_for.into(),
        }
    }

    /// What the other direction waits for.
    fn other(self) -> Wanted {
        match self {
            Wanted::Data => Wanted::Space,
            Wanted::Space => Wanted::Data,
        }
    }
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

    /// `sender_request_notify`, `recv_got_len`: asks the peer to send an event once it has done what
    /// is wanted. The caller must look again after this before it sleeps: the peer may have done it
    /// just before.
    pub(crate) fn arm(&self, wanted: Wanted) {
        let asked = self.side.peer().asked_of_us();
        self.page().set_bits(asked, wanted.bit(), Ordering::Relaxed);
        // Pairs with the fence of `ring::Control::publish`: either the peer sees the bit, or we see
        // its index when we look again.
        if keeps("arm-fence") {
            full_fence();
        }
    }

    /// Takes the request back, as nobody is going to sleep: the peer is spared an event, and we are.
    /// (It may have taken the request already.)
    fn disarm(&self, wanted: Wanted) {
        if keeps("disarm") {
            self.page().clear_bits(
                self.side.peer().asked_of_us(),
                wanted.bit(),
                Ordering::Relaxed,
            );
        }
    }

    /// What the direction of a ring of this size has to know to spin.
    pub(crate) fn patience(&self, spin: Spin, ring: usize) -> Patience {
        Patience::new(spin, self.side, ring)
    }

    /// Takes steps until one has a result; spins before, and sleeps between them.
    pub(crate) fn wait_for<T>(
        &self,
        wanted: Wanted,
        deadline: Option<Time>,
        patience: &mut Patience,
        mut step: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let clock = self.host.events();
        let endless = patience.budget().is_none();
        let (mut has_slept, mut began) = (false, None);
        loop {
            // Once a call, so that a peer cannot make it spin again and again.
            if (!has_slept || endless)
                && let Some(done) = self.spin(wanted, deadline, patience, &mut step)?
            {
                return Ok(done);
            }
            let Some(most) = self.longest_sleep(deadline) else {
                return Err(wanted.timed_out());
            };
            if !has_slept && patience.times_the_sleep() {
                began = Some(clock.now());
            }
            let seen = self.wakeups.generation();
            self.arm(wanted);
            // `sender_recheck_len`, `recv_recheck_len`.
            if keeps("arm-recheck")
                && let Some(done) = step()?
            {
                self.disarm(wanted);
                return Ok(done);
            }
            self.sleep_at_most(seen, most)?;
            has_slept = true;
            if let Some(done) = step()? {
                patience.slept(began.map(|began| clock.now().since(began)));
                return Ok(done);
            }
        }
    }

    /// Takes a step, and one more whenever something has changed, until one has a result or the
    /// patience is at its end. The peer has not been asked for an event, and sends none.
    fn spin<T>(
        &self,
        wanted: Wanted,
        deadline: Option<Time>,
        patience: &mut Patience,
        step: &mut impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let budget = patience.budget();
        if budget == Some(Duration::ZERO) {
            return step();
        }
        let mut course = Course::new(self.host.events(), budget, deadline);
        let mut probe_at = PROBE_INTERVAL;
        loop {
            let seen = self.glance(wanted);
            if let Some(done) = step()? {
                patience.found(course.taken());
                return Ok(Some(done));
            }
            if !self.has_peer() {
                // Nobody is there who could answer soon.
                return Ok(None);
            }
            loop {
                if !course.go_on() {
                    patience.missed();
                    return Ok(None);
                }
                if course.taken() >= probe_at {
                    probe_at = course.taken() + PROBE_INTERVAL;
                    self.probe()?;
                }
                if self.glance(wanted) != seen {
                    patience.linger(|| self.glance(wanted).0.wrapping_sub(seen.0) as usize);
                    break;
                }
            }
        }
    }

    /// What a spin looks at between two steps: what it waits for, and what else would end it: the
    /// peer's life, and what others do here (faults, closing). No ordering is needed, as the step
    /// that follows a change takes its own look.
    fn glance(&self, wanted: Wanted) -> (u32, u8, u64) {
        let index = match wanted {
            Wanted::Data => Ring::read_by(self.side).prod(),
            Wanted::Space => Ring::written_by(self.side).cons(),
        };
        let index = self.page().load_index(index, Ordering::Relaxed);
        let (mut live, mut generation) = (0, 0);
        if keeps("spin-sees-life") {
            live = self.live.load(Ordering::Relaxed);
        }
        if keeps("spin-sees-others") {
            generation = self.wakeups.generation();
        }
        (index, live, generation)
    }

    /// Takes one step without waiting. When there is nothing to do, the peer is asked for an event,
    /// so that the descriptor becomes readable once there is.
    pub(crate) fn try_for<T>(
        &self,
        wanted: Wanted,
        mut step: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        if keeps("look-before-asking")
            && let Some(done) = step()?
        {
            return Ok(done);
        }
        // First the old event, then the request for a new one: the other way round the new one
        // could be taken for the old.
        if keeps("take-before-arm") {
            self.wakeups.take()?;
            self.arm(wanted);
        } else {
            self.arm(wanted);
            self.wakeups.take()?;
        }
        step()?.ok_or(Error::WouldBlock)
    }

    /// Sleeps until something may have happened since `seen` was the generation. False: the deadline
    /// has passed.
    pub(crate) fn sleep(&self, seen: u64, deadline: Option<Time>) -> Result<bool, Error> {
        let Some(most) = self.longest_sleep(deadline) else {
            return Ok(false);
        };
        self.sleep_at_most(seen, most)?;
        Ok(true)
    }

    /// How long a wait may sleep before it looks again: who has no peer yet knows best. `None`: the
    /// deadline has passed.
    ///
    /// The only look at the clock for a sleep, and there is none without a deadline: in many guests
    /// each is a system call.
    fn longest_sleep(&self, deadline: Option<Time>) -> Option<Duration> {
        let Some(deadline) = deadline else {
            return Some(PROBE_INTERVAL);
        };
        let left = deadline.since(self.host.events().now());
        if left.is_zero() && keeps("deadline") {
            None
        } else if keeps("look-at-intervals") && self.has_peer() {
            Some(left.min(PROBE_INTERVAL))
        } else {
            Some(left)
        }
    }

    /// `sender_blocked`, `recv_await_data`: sleeps until something may have happened since `seen`
    /// was the generation, at most so long. What ends a sleep without an event may be the end of the
    /// peer.
    fn sleep_at_most(&self, seen: u64, most: Duration) -> Result<(), Error> {
        if !self.wakeups.sleep(seen, most)? {
            self.probe()?;
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
