//! What the asynchronous face needs of whatever runs its tasks.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;
#[cfg(feature = "std")]
use std::os::fd::BorrowedFd;

use crate::endpoint::Link;
pub use crate::endpoint::Readiness;
use crate::host::{Ongoing, Port, Watch};
use crate::{Error, HostError};

/// A future that is ready after some time.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Something that runs tasks and wakes them: an event loop over descriptors, or over the ports of a
/// guest without an operating system.
///
/// It is asked to watch something, and when to wake; never per byte.
pub trait Reactor: Send + Sync {
    /// Watches an event channel.
    ///
    /// # Errors
    /// When the runtime does not take it.
    fn event_channel(&self, source: EventSource) -> Result<Box<dyn Readiness>, HostError>;

    /// Watches what comes from XenStore for a watch. `true` of its
    /// [`take`](Watch::take) need not be this watch's doing.
    ///
    /// # Errors
    /// When the runtime does not take it.
    fn store(&self, watch: &dyn Watch) -> Result<Box<dyn Readiness>, HostError>;

    /// Watches what comes from XenStore in answer to requests; `None` where nothing tells of that
    /// now, and they are to be looked at from time to time.
    ///
    /// # Errors
    /// When the runtime does not take it.
    fn answers(&self, ongoing: &dyn Ongoing) -> Result<Option<Box<dyn Readiness>>, HostError> {
        let _ = ongoing;
        Ok(None)
    }

    /// Is ready `duration` after this call; not before, and whenever it is polled after that.
    fn sleep(&self, duration: Duration) -> Sleep;

    /// Not ready when the task has done enough for one turn, so that a channel that always has
    /// something to do lets other tasks come to theirs; the task is woken then. Asked once before
    /// each step.
    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }
}

/// A handle on what runs the tasks. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    reactor: Arc<dyn Reactor>,
}

impl Runtime {
    /// A handle on `reactor`.
    pub fn new(reactor: impl Reactor + 'static) -> Runtime {
        Runtime {
            reactor: Arc::new(reactor),
        }
    }

    /// A future that is ready after `duration`.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.reactor.sleep(duration)
    }

    /// What `future` gives, or `None` when it takes longer than `limit`. It is dropped then.
    pub async fn timeout<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let mut sleep = self.sleep(limit);
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    pub(super) fn reactor(&self) -> &dyn Reactor {
        &*self.reactor
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

/// A channel's event channel. It stays open as long as this lives.
#[derive(Debug)]
pub struct EventSource {
    link: Arc<Link>,
}

impl EventSource {
    /// Hands a link's event channel to a runtime.
    pub(super) fn watched_by(
        runtime: &Runtime,
        link: &Arc<Link>,
    ) -> Result<Box<dyn Readiness>, Error> {
        let link = Arc::clone(link);
        Ok(runtime.reactor().event_channel(EventSource { link })?)
    }

    /// This domain's number for its end.
    #[must_use]
    pub fn port(&self) -> Port {
        self.link.wakeups().port().port()
    }

    /// As [`EventChannel::as_fd`](crate::host::EventChannel::as_fd).
    #[cfg(feature = "std")]
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.wakeups().port().as_fd()
    }
}
