//! Bringing one event to the task that reads and the task that writes.
//!
//! This is the asynchronous counterpart of the leader and its followers in `wakeup`, for any
//! runtime: what it needs of one is the [`Readiness`] of the event channel.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use core::task::{Poll, Waker};

use super::{Link, Wanted};
use crate::Error;
use crate::guard::keeps;
use crate::sync::Lock;

/// A runtime's view of something that tells of events: an event channel, or the connection to
/// XenStore.
pub trait Readiness: Send + Sync {
    /// Calls `take` if an event may be pending and gives its answer; otherwise wakes `waker` once
    /// one may be. When `take` finds none, the next call waits for a new one.
    ///
    /// Only the waker of the last call is kept.
    ///
    /// # Errors
    /// Those of `take`, and [`Error::Host`] when the runtime fails.
    fn poll_take(
        &self,
        waker: &Waker,
        take: &mut dyn FnMut() -> Result<bool, Error>,
    ) -> Poll<Result<bool, Error>>;
}

/// The tasks that wait on a channel.
///
/// A runtime keeps one waker for the event channel; it is always ours, and wakes both tasks. So a
/// task that is dropped or goes elsewhere takes nothing from the other.
pub(crate) struct Tasks {
    /// Dropped before `link`: a port is closed when no runtime looks at it any more.
    readiness: Box<dyn Readiness>,
    link: Arc<Link>,
    wakers: Arc<Wakers>,
    waker: Waker,
}

impl Tasks {
    pub(crate) fn new(link: Arc<Link>, readiness: Box<dyn Readiness>) -> Tasks {
        let wakers = Arc::new(Wakers::default());
        let waker = Waker::from(Arc::clone(&wakers));
        Tasks {
            readiness,
            link,
            wakers,
            waker,
        }
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Closes the channel for the peer, and for the tasks that wait on this side.
    pub(crate) fn shut_down(&self) {
        self.link.shut_down();
        self.wakers.wake_by_ref();
    }

    /// Takes steps until one has a result or there is nothing to do; then `waker` is woken when
    /// there may be.
    pub(crate) fn poll<T>(
        &self,
        wanted: Wanted,
        waker: &Waker,
        mut step: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Poll<Result<T, Error>> {
        // A fault of the peer ends the other direction too, and that may be asleep.
        let mut step = || step().inspect_err(|_| self.wakers.wake_one(wanted.other()));
        loop {
            if let Some(done) = step()? {
                return Poll::Ready(Ok(done));
            }
            // The waker is in its place before the peer is asked: the other direction may take the
            // event that comes of it at any moment from then on, and wakes whoever stands there.
            self.wakers.register(wanted, waker);
            self.link.arm(wanted);
            if keeps("poll-recheck")
                && let Some(done) = step()?
            {
                return Poll::Ready(Ok(done));
            }
            let mut take = || Ok(self.link.wakeups().take_polled()?);
            let Poll::Ready(taken) = self.readiness.poll_take(&self.waker, &mut take) else {
                return Poll::Pending;
            };
            if taken? && keeps("wake-other") {
                self.wakers.wake_one(wanted.other());
            }
        }
    }
}

/// The task that waits to read and the one that waits to write.
#[derive(Default)]
struct Wakers {
    reader: Lock<Option<Waker>>,
    writer: Lock<Option<Waker>>,
}

impl Wakers {
    fn register(&self, direction: Wanted, waker: &Waker) {
        let mut place = self.place(direction).lock();
        match &mut *place {
            Some(known) => known.clone_from(waker),
            empty => *empty = Some(waker.clone()),
        }
    }

    fn wake_one(&self, direction: Wanted) {
        let waker = self.place(direction).lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn place(&self, direction: Wanted) -> &Lock<Option<Waker>> {
        match direction {
            Wanted::Data => &self.reader,
            Wanted::Space => &self.writer,
        }
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_one(Wanted::Data);
        self.wake_one(Wanted::Space);
    }
}
