//! What the asynchronous face needs of a runtime, by tokio.

use std::boxed::Box;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;

use crate::host::{Ongoing, Watch};
use crate::task::{EventSource, Reactor, Readiness, Sleep};
use crate::{Error, HostError};

/// The runtime in which a task runs when something is asked of it.
pub(super) struct Current;

impl Reactor for Current {
    fn event_channel(&self, source: EventSource) -> Result<Box<dyn Readiness>, HostError> {
        let descriptor = source.as_fd().ok_or_else(no_descriptor)?.as_raw_fd();
        registered(Port {
            _source: source,
            descriptor,
        })
    }

    fn store(&self, watch: &dyn Watch) -> Result<Box<dyn Readiness>, HostError> {
        let shared = watch.as_fd().ok_or_else(no_descriptor)?;
        // A descriptor of our own: several clients may wait on one connection.
        let own: OwnedFd = shared.as_fd().try_clone_to_owned().map_err(not_waited)?;
        registered(own)
    }

    fn answers(&self, ongoing: &dyn Ongoing) -> Result<Option<Box<dyn Readiness>>, HostError> {
        let Some(shared) = ongoing.as_fd() else {
            return Ok(None);
        };
        let own: OwnedFd = shared.try_clone_to_owned().map_err(not_waited)?;
        registered(own).map(Some)
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(::tokio::time::sleep(duration))
    }

    /// Takes part in tokio's cooperative budget.
    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(::tokio::task::coop::poll_proceed(cx)).made_progress();
        Poll::Ready(())
    }
}

/// An event channel's descriptor, which lives as long as its source.
struct Port {
    _source: EventSource,
    descriptor: RawFd,
}

impl AsRawFd for Port {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor
    }
}

impl<T: AsRawFd + Send + Sync> Readiness for AsyncFd<T> {
    fn poll_take(
        &self,
        waker: &Waker,
        take: &mut dyn FnMut() -> Result<bool, Error>,
    ) -> Poll<Result<bool, Error>> {
        let mut guard =
            ready!(self.poll_read_ready(&mut Context::from_waker(waker))).map_err(not_waited)?;
        let taken = take()?;
        if !taken {
            // Not what has come since the runtime saw it: that is readable anew.
            guard.clear_ready();
        }
        Poll::Ready(Ok(taken))
    }
}

/// Hands a descriptor to the current runtime. What is registered keeps its descriptor open as long
/// as it lives.
#[allow(
    deprecated,
    reason = "its successor is unsafe to call and not in all versions of tokio 1; both descriptors \
              that come here are owned by what is registered, which is all that it asks for"
)]
fn registered<T>(descriptor: T) -> Result<Box<dyn Readiness>, HostError>
where
    T: AsRawFd + Send + Sync + 'static,
{
    let registered = AsyncFd::with_interest(descriptor, Interest::READABLE);
    Ok(Box::new(registered.map_err(not_waited)?))
}

fn not_waited(error: io::Error) -> HostError {
    HostError::new("wait for a descriptor with tokio").because(error)
}

fn no_descriptor() -> HostError {
    HostError::new("wait with tokio").because("this host has no descriptors")
}
