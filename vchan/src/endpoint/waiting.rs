//! Waiting: a step, a spin, a turn for the peer, a request for an event, a second step, a sleep.
//!
//! Who wants to wait says so with [`Link::arm`], looks again, and only then sleeps. Blocking callers
//! do that in [`Link::wait_for`] and may look for a while or give way before (`spin`); polling ones do it in
//! [`Link::try_for`], without the sleep.

use core::sync::atomic::Ordering;
use core::time::Duration;

use super::Link;
use super::spin::{Course, Patience, Spin};
use crate::Error;
use crate::guard::keeps;
use crate::host::Time;
use crate::layout::{NOTIFY_READ, NOTIFY_WRITE, Ring};
use crate::memory::full_fence;

/// How long a wait sleeps before it asks the host whether the peer's domain still exists: a domain
/// that is destroyed clears no live byte and sends no event.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(1);

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
    pub(super) fn other(self) -> Wanted {
        match self {
            Wanted::Data => Wanted::Space,
            Wanted::Space => Wanted::Data,
        }
    }
}

impl Link {
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
            if !has_slept
                && keeps("turn-before-sleep")
                && let Some(done) = self.give_way(patience, &mut step)?
            {
                return Ok(done);
            }
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
                    self.linger(wanted, patience);
                    break;
                }
            }
        }
    }

    /// Lets the peer have the processor, if that has been paying, and takes a step. The peer has not
    /// been asked for an event, and sends none.
    fn give_way<T>(
        &self,
        patience: &mut Patience,
        step: &mut impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        if !self.has_peer() || !patience.gives_way() {
            return Ok(None);
        }
        let events = self.host.events();
        let began = events.now();
        let done = match events.give_way() {
            true => step()?,
            false => None,
        };
        patience.gave_way(events.now().since(began), done.is_some());
        Ok(done)
    }

    /// What a spin looks at between two steps: what it waits for, and what else would end it: the
    /// peer's life, and what others do here (faults, closing). No ordering is needed, as the step
    /// that follows a change takes its own look.
    fn glance(&self, wanted: Wanted) -> (u32, u8, u64) {
        let index = self.peer_index(wanted);
        let (mut live, mut generation) = (0, 0);
        if keeps("spin-sees-life") {
            live = self.live.load(Ordering::Relaxed);
        }
        if keeps("spin-sees-others") {
            generation = self.wakeups.generation();
        }
        (index, live, generation)
    }

    /// Where the peer has come to. Nobody relies on it: it is loaded and judged anew by who does.
    fn peer_index(&self, wanted: Wanted) -> u32 {
        let index = match wanted {
            Wanted::Data => Ring::read_by(self.side).prod(),
            Wanted::Space => Ring::written_by(self.side).cons(),
        };
        self.page().load_index(index, Ordering::Relaxed)
    }

    /// Lets the peer get on for a moment, if that has been paying: for a call that may wait, before it
    /// takes what is there.
    pub(crate) fn linger(&self, wanted: Wanted, patience: &mut Patience) {
        patience.linger(|| self.peer_index(wanted));
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
}
