//! What a Xen host gives a domain: grants, event channels and XenStore.
//!
//! These traits know nothing of vchan. They are implemented for Linux (the `xen` module), for the
//! emulated host (crate `vchan-emulator`), and can be for a guest without an operating system.
//! They are called to set up, to sleep and to notify, never per byte.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::task::Waker;
use core::time::Duration;

#[cfg(feature = "std")]
use std::os::fd::BorrowedFd;

#[cfg(feature = "std")]
pub use crate::bell::Bell;

use crate::memory::{Access, Region};
use crate::{DomId, HostError, StoreError, StorePath};

mod countdown;
mod handle;
mod requests;

pub(crate) use countdown::Countdown;
pub use handle::Host;
pub use requests::{Answers, Ongoing, Reply, Request};
pub(crate) use requests::{one_after_another, other_answer};

/// A grant reference: the number under which a domain shares one page with another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GrantRef(pub u32);

/// A port: a domain's own number for its end of an event channel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Port(pub u32);

impl fmt::Display for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time on the host's monotonic clock, as the time since some fixed moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Time(pub Duration);

impl Time {
    /// This time plus `duration`; the far future where that overflows.
    #[must_use]
    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(duration))
    }

    /// How long after `earlier` this time is; zero when it is before.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What the host does when a page is unmapped or its user dies, so that the other side learns of
/// it: clear the byte at `offset` of the region's first page, then send an event on `port`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnmapNotify {
    /// Offset of the byte in the region, below 4096.
    pub offset: u16,
    /// The caller's own port.
    pub port: Port,
}

/// Pages that this domain shares with another, and how the other names them.
#[derive(Debug)]
pub struct Shared {
    /// One reference a page, in the region's order.
    pub references: Vec<GrantRef>,
    /// The pages, mapped for reading and writing. Dropping it ends the grants.
    pub region: Region,
}

/// Grant tables: sharing memory with another domain.
pub trait Grants: Send + Sync {
    /// Shares `pages` fresh pages with `peer`, all bytes zero; `access` is what the peer may do.
    /// The pages stay shared until the returned region is dropped; a page that the peer still maps
    /// then is not reused.
    ///
    /// # Errors
    /// When the domain may not share that many pages, with the limit and how to raise it.
    fn share(
        &self,
        peer: DomId,
        pages: usize,
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Shared, HostError>;

    /// Maps pages that `peer` shares with this domain, side by side in the order of `references`.
    /// All or none are mapped; dropping the region unmaps them.
    ///
    /// # Errors
    /// When the peer has not granted one of them to this domain with this access: then the error
    /// is [stale](HostError::stale).
    fn map(
        &self,
        peer: DomId,
        references: &[GrantRef],
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Region, HostError>;
}

/// Event channels: making, binding, and the clock that their waits are measured by.
pub trait EventChannels: Send + Sync {
    /// Allocates a port that `peer` may bind. Events flow once it has.
    ///
    /// # Errors
    /// When no port is free or the host refuses.
    fn bind_unbound(&self, peer: DomId) -> Result<Box<dyn EventChannel>, HostError>;

    /// Binds a new port to `port` of `peer`. The new port has one event pending at once.
    ///
    /// # Errors
    /// When the peer has no such unbound port for this domain: then the error is
    /// [stale](HostError::stale).
    fn bind_interdomain(&self, peer: DomId, port: Port)
    -> Result<Box<dyn EventChannel>, HostError>;

    /// The time now.
    fn now(&self) -> Time;

    /// Sleeps for `duration`, whatever events come meanwhile.
    fn pause(&self, duration: Duration);

    /// Lets other domains have this processor first, if any waits for it. False: this host cannot, and
    /// has done nothing.
    fn give_way(&self) -> bool {
        false
    }
}

/// One end of an event channel. Dropping it closes the port.
///
/// Events coalesce: any number of notifications before a [`take`](EventChannel::take) is one
/// event. Any event may be spurious. A port is masked from the moment its event is taken until
/// [`unmask`](EventChannel::unmask): meanwhile events are remembered, not delivered.
pub trait EventChannel: Send + Sync {
    /// This domain's number for its end.
    fn port(&self) -> Port;

    /// Sends an event to the other end. Succeeds silently when there is no other end (any more).
    ///
    /// # Errors
    /// When the host refuses: never the peer's doing.
    fn notify(&self) -> Result<(), HostError>;

    /// Takes the pending event, if there is one, without waiting; the port is masked then.
    ///
    /// # Errors
    /// When the host fails.
    fn take(&self) -> Result<bool, HostError>;

    /// Lets events through again after a successful [`take`](EventChannel::take).
    ///
    /// # Errors
    /// When the host fails.
    fn unmask(&self) -> Result<(), HostError>;

    /// Sleeps until an event is pending, no longer than `most`; may return earlier. Takes nothing.
    /// One thread sleeps at a time.
    ///
    /// # Errors
    /// When the host fails.
    fn sleep(&self, most: Option<Duration>) -> Result<(), HostError>;

    /// Ends the sleep that another thread is in or about to begin. It is called once before there
    /// is another thread, so that a host may prepare for it: see [`Bell`].
    ///
    /// Where programs have no threads there is nothing to do. Elsewhere, without it, a thread
    /// learns within a second what another has done to their channel.
    fn wake(&self) {}

    /// Whether another end is bound to this port. `None` where the host does not tell.
    ///
    /// # Errors
    /// When the host fails.
    fn is_bound(&self) -> Result<Option<bool>, HostError>;

    /// A descriptor that polls readable while an event is pending. `None` on a host without
    /// descriptors.
    #[cfg(feature = "std")]
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Who may do what with a XenStore node: its owner, what everyone else may do, and exceptions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permissions {
    /// The owner, who may do everything.
    pub owner: DomId,
    /// What domains that are not named may do.
    pub default: NodeAccess,
    /// What single domains may do instead.
    pub domains: Vec<(DomId, NodeAccess)>,
}

/// What a domain may do with a XenStore node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeAccess {
    /// Nothing; letter `n` on the wire.
    None,
    /// Read; `r`.
    Read,
    /// Write; `w`.
    Write,
    /// Read and write; `b`.
    Both,
}

/// XenStore, as far as finding each other needs it. A relative path lies below the caller's own
/// domain path. Every request has a time limit of its own.
pub trait Store: Send + Sync {
    /// What a node holds.
    ///
    /// # Errors
    /// [`NotFound`](crate::StoreErrorKind::NotFound),
    /// [`Denied`](crate::StoreErrorKind::Denied), and the failures of the connection.
    fn read(&self, path: &StorePath) -> Result<Vec<u8>, StoreError>;

    /// Writes a node, making it and its parents where they are missing.
    ///
    /// # Errors
    /// As [`read`](Store::read), and [`Quota`](crate::StoreErrorKind::Quota).
    fn write(&self, path: &StorePath, value: &[u8]) -> Result<(), StoreError>;

    /// Removes a node and all below it. A node that is not there is no error.
    ///
    /// # Errors
    /// As [`read`](Store::read).
    fn remove(&self, path: &StorePath) -> Result<(), StoreError>;

    /// The names of a node's children.
    ///
    /// # Errors
    /// As [`read`](Store::read).
    fn directory(&self, path: &StorePath) -> Result<Vec<alloc::string::String>, StoreError>;

    /// A node's permissions.
    ///
    /// # Errors
    /// As [`read`](Store::read).
    fn permissions(&self, path: &StorePath) -> Result<Permissions, StoreError>;

    /// Sets a node's permissions. Those for a domain that does not exist are lost.
    ///
    /// # Errors
    /// As [`read`](Store::read).
    fn set_permissions(
        &self,
        path: &StorePath,
        permissions: &Permissions,
    ) -> Result<(), StoreError>;

    /// Whether a domain with this number exists now.
    ///
    /// # Errors
    /// [`Denied`](crate::StoreErrorKind::Denied) in guests, as xenstored tells only dom0, and the
    /// failures of the connection.
    fn is_domain_introduced(&self, domid: DomId) -> Result<bool, StoreError>;

    /// Watches a node (which need not exist) and all below it.
    ///
    /// # Errors
    /// As [`read`](Store::read), and [`Quota`](crate::StoreErrorKind::Quota).
    fn watch(&self, path: &StorePath) -> Result<Box<dyn Watch>, StoreError>;

    /// Makes `requests` and does not wait for the answers. The store carries them out in this
    /// order; when one fails, it goes on with the next.
    ///
    /// Where requests can be under way at the same time, this costs the time of one answer, not of
    /// all. By default they are made one after another, and are answered when this returns.
    fn submit(&self, requests: &[Request<'_>]) -> Box<dyn Ongoing> {
        one_after_another(self, requests)
    }
}

/// A watch on a XenStore node. It fires once when set and at every change after; changes
/// coalesce. Dropping it removes it. It ends with the connection to the store and fails from then
/// on: set a new one.
pub trait Watch: Send + Sync {
    /// Whether it has fired since the last time asked; does not wait.
    ///
    /// # Errors
    /// When the connection to the store is lost.
    fn take(&self) -> Result<bool, StoreError>;

    /// Sleeps until it fires or until `deadline`, and takes that: false means the deadline.
    ///
    /// # Errors
    /// When the connection to the store is lost.
    fn wait(&self, deadline: Option<Time>) -> Result<bool, StoreError>;

    /// Wakes `waker` once [`take`](Watch::take) may have something new to say, because somebody has
    /// read it from the store meanwhile: the answers to other requests come the same way. It takes
    /// the place of the waker before it. To be called before `take` is.
    ///
    /// This alone reads nothing: an asynchronous waiter also waits for what comes from the store.
    fn register(&self, waker: &Waker);

    /// A descriptor that becomes readable (edge) when something arrives from the store, perhaps for
    /// this watch: call [`take`](Watch::take) then. `None` on a host without descriptors.
    #[cfg(feature = "std")]
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
