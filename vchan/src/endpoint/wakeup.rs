//! Bringing one event to everyone who waits for it.
//!
//! A channel has one event channel, but its reader and its writer may wait at the same time, in two
//! threads. Whoever takes an event advances the *generation*; a sleeper says which generation it has
//! seen, so an event that the other took a moment ago is not lost to it. One sleeper (the leader)
//! watches the event channel, the others wait for the leader; when it leaves, the next takes over.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::Ordering;
use core::time::Duration;

use crate::HostError;
use crate::guard::keeps;
use crate::host::EventChannel;
use crate::sync::AtomicU64;

/// An event channel and everyone who waits on it.
pub(crate) struct Wakeups {
    port: Box<dyn EventChannel>,
    generation: AtomicU64,
    #[cfg(feature = "std")]
    seat: seat::Seat,
}

impl Wakeups {
    pub(super) fn new(port: Box<dyn EventChannel>) -> Wakeups {
        Wakeups {
            port,
            generation: AtomicU64::new(0),
            #[cfg(feature = "std")]
            seat: seat::Seat::default(),
        }
    }

    pub(crate) fn port(&self) -> &dyn EventChannel {
        &*self.port
    }

    /// From now on, two threads may use this.
    pub(crate) fn share(&self) {
        self.port.wake();
    }

    /// The number of wake-ups so far. To be read before looking at the rings.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes a pending event for all who wait. Does not wait.
    fn take_event(&self) -> Result<bool, HostError> {
        if !self.port.take()? {
            return Ok(false);
        }
        // Everyone looks at the rings after this, so the next event may come now.
        if keeps("unmask") {
            self.port.unmask()?;
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(true)
    }

    /// The same, for a caller that polls the descriptor itself.
    pub(crate) fn take_polled(&self) -> Result<bool, HostError> {
        self.take_event()
    }
}

#[cfg(not(feature = "std"))]
impl Wakeups {
    /// Takes a pending event, if there is one.
    pub(crate) fn take(&self) -> Result<(), HostError> {
        self.take_event().map(|_| ())
    }

    /// Without threads nobody else waits.
    pub(super) fn interrupt(&self) {}

    /// Sleeps until the generation is no longer `seen`, at most so long; may return earlier. False:
    /// nothing has happened.
    pub(super) fn sleep(&self, seen: u64, most: Duration) -> Result<bool, HostError> {
        if self.generation() != seen {
            return Ok(true);
        }
        self.port.sleep(Some(most))?;
        self.take_event()
    }
}

#[cfg(feature = "std")]
impl Wakeups {
    /// Takes a pending event, unless a leader is there, who will.
    pub(crate) fn take(&self) -> Result<(), HostError> {
        let seat = self.seat.lock();
        if !seat.taken() {
            self.take_event().map(|_| ())
        } else {
            Ok(())
        }
    }

    /// Makes all who wait look again.
    pub(super) fn interrupt(&self) {
        let mut seat = self.seat.lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        seat.call_followers();
        // A leader that has not fallen asleep yet will find the bell rung.
        if seat.taken() && keeps("bell") {
            self.port.wake();
        }
    }

    /// Sleeps until the generation is no longer `seen`, at most so long; may return earlier. False:
    /// nothing has happened.
    pub(super) fn sleep(&self, seen: u64, most: Duration) -> Result<bool, HostError> {
        let seat = self.seat.lock();
        if self.generation() != seen && keeps("generation") {
            return Ok(true);
        }
        if seat.taken() {
            // The leader tells what happens. When it has left, whoever asks next leads.
            seat.follow(most);
        } else {
            // Dropping it wakes the followers, also when an error ends this early.
            let _lead = seat.lead();
            self.port.sleep(Some(most))?;
            self.take_event()?;
        }
        Ok(self.generation() != seen)
    }
}

impl fmt::Debug for Wakeups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wakeups")
            .field("port", &self.port.port())
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Who watches the event channel.
#[cfg(feature = "std")]
mod seat {
    use std::sync::PoisonError;
    use std::time::Duration;

    use crate::guard::keeps;
    use crate::sync::{Condvar, Mutex, MutexGuard};

    #[derive(Default)]
    pub(super) struct Seat {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        taken: bool,
        /// Somebody has followed since followers were called last: to wake them is a system call,
        /// even if there are none.
        followed: bool,
    }

    impl Seat {
        pub(super) fn lock(&self) -> Locked<'_> {
            // Nothing panics while it is held; a poisoned state would still be right.
            Locked {
                state: self.state.lock().unwrap_or_else(PoisonError::into_inner),
                seat: self,
            }
        }
    }

    pub(super) struct Locked<'a> {
        state: MutexGuard<'a, State>,
        seat: &'a Seat,
    }

    impl<'a> Locked<'a> {
        pub(super) fn taken(&self) -> bool {
            self.state.taken
        }

        pub(super) fn call_followers(&mut self) {
            if core::mem::take(&mut self.state.followed) {
                self.seat.changed.notify_all();
            }
        }

        /// Waits until the leader has something to tell or leaves, at most for `time`.
        pub(super) fn follow(mut self, time: Duration) {
            self.state.followed = true;
            let waited = self.seat.changed.wait_timeout(self.state, time);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }

        /// Takes the seat, which must be free.
        pub(super) fn lead(mut self) -> Leading<'a> {
            self.state.taken = true;
            Leading { seat: self.seat }
        }
    }

    /// The seat is taken while this lives.
    pub(super) struct Leading<'a> {
        seat: &'a Seat,
    }

    impl Drop for Leading<'_> {
        fn drop(&mut self) {
            let mut seat = self.seat.lock();
            seat.state.taken = false;
            if keeps("hand-over") {
                seat.call_followers();
            }
        }
    }
}
