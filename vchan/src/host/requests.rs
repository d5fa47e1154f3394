//! Several requests to XenStore at once.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::task::Waker;

#[cfg(feature = "std")]
use std::os::fd::BorrowedFd;

use super::{Permissions, Store, Time, Watch};
use crate::{DomId, StoreError, StoreErrorKind, StorePath};

/// A request to XenStore, to be made together with others; see [`Store::submit`]. Each is the method
/// of [`Store`] of the same name.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// What a node holds: [`Reply::Value`].
    Read(&'a StorePath),
    /// Writes a node: [`Reply::Done`].
    Write(&'a StorePath, &'a [u8]),
    /// Removes a node and all below it: [`Reply::Done`], also when it is not there.
    Remove(&'a StorePath),
    /// The names of a node's children: [`Reply::Names`].
    Directory(&'a StorePath),
    /// A node's permissions: [`Reply::Permissions`].
    Permissions(&'a StorePath),
    /// Sets a node's permissions: [`Reply::Done`].
    SetPermissions(&'a StorePath, &'a Permissions),
    /// Whether a domain exists: [`Reply::Introduced`].
    IsDomainIntroduced(DomId),
    /// Watches a node: [`Reply::Watch`].
    Watch(&'a StorePath),
}

/// What XenStore answers to a [`Request`] that it has carried out.
#[non_exhaustive]
pub enum Reply {
    /// It is done.
    Done,
    /// What the node holds.
    Value(Vec<u8>),
    /// The names of the children; none when they are too many to be told in one message, some
    /// hundreds at least.
    Names(Option<Vec<String>>),
    /// The node's permissions.
    Permissions(Permissions),
    /// Whether the domain exists.
    Introduced(bool),
    /// The watch that was set.
    Watch(Box<dyn Watch>),
}

/// The answers to several requests, in their order.
pub type Answers = Vec<Result<Reply, StoreError>>;

/// Requests that are under way. Dropping it forgets them; the store may still carry them out.
pub trait Ongoing: Send + Sync {
    /// The answers, once all are there. Does not wait, and does not give up, either: that is for the
    /// caller to do, with [`wait`](Ongoing::wait) after the [`limit`](Ongoing::limit). To be called no
    /// more after it has given them.
    fn poll(&mut self) -> Option<Answers>;

    /// Waits until all answers are there, at most until `deadline` and until the
    /// [`limit`](Ongoing::limit): those that are missing then are
    /// [`TimedOut`](StoreErrorKind::TimedOut). The time in which this program is stopped while it
    /// waits need not count.
    fn wait(&mut self, deadline: Option<Time>) -> Answers;

    /// When the time limit of the requests ends; `None` where none is needed.
    fn limit(&self) -> Option<Time>;

    /// Wakes `waker` when a request is answered, whoever reads it, and when there is more to do at
    /// once; only the last waker given. To be called before [`poll`](Ongoing::poll).
    fn register(&mut self, waker: &Waker);

    /// A descriptor that becomes readable (edge) when something arrives from the store, perhaps an
    /// answer to these: call [`poll`](Ongoing::poll) then. `None` while there is nothing to wait
    /// for but time, as when the store has no room yet for another connection.
    #[cfg(feature = "std")]
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Request<'_> {
    /// Makes this request by itself.
    fn make(self, store: &(impl Store + ?Sized)) -> Result<Reply, StoreError> {
        Ok(match self {
            Request::Read(path) => Reply::Value(store.read(path)?),
            Request::Write(path, value) => {
                store.write(path, value)?;
                Reply::Done
            }
            Request::Remove(path) => {
                store.remove(path)?;
                Reply::Done
            }
            Request::Directory(path) => Reply::Names(Some(store.directory(path)?)),
            Request::Permissions(path) => Reply::Permissions(store.permissions(path)?),
            Request::SetPermissions(path, permissions) => {
                store.set_permissions(path, permissions)?;
                Reply::Done
            }
            Request::IsDomainIntroduced(domid) => {
                Reply::Introduced(store.is_domain_introduced(domid)?)
            }
            Request::Watch(path) => Reply::Watch(store.watch(path)?),
        })
    }
}

impl Reply {
    /// What the node holds, where that was asked.
    pub(crate) fn value(self) -> Result<Vec<u8>, StoreError> {
        match self {
            Reply::Value(value) => Ok(value),
            _ => Err(other_answer()),
        }
    }

    /// The permissions, where they were asked.
    pub(crate) fn permissions(self) -> Result<Permissions, StoreError> {
        match self {
            Reply::Permissions(permissions) => Ok(permissions),
            _ => Err(other_answer()),
        }
    }

    /// The names of the children, where they were asked.
    pub(crate) fn names(self) -> Result<Option<Vec<String>>, StoreError> {
        match self {
            Reply::Names(names) => Ok(names),
            _ => Err(other_answer()),
        }
    }

    /// Whether the domain exists, where that was asked.
    pub(crate) fn introduced(self) -> Result<bool, StoreError> {
        match self {
            Reply::Introduced(exists) => Ok(exists),
            _ => Err(other_answer()),
        }
    }

    /// The watch, where one was to be set.
    pub(crate) fn watch(self) -> Result<Box<dyn Watch>, StoreError> {
        match self {
            Reply::Watch(watch) => Ok(watch),
            _ => Err(other_answer()),
        }
    }
}

/// For a [`Store`] that does not keep to its contract.
pub(crate) fn other_answer() -> StoreError {
    StoreError::new(
        StoreErrorKind::Protocol,
        "tell one XenStore answer from another",
    )
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Done => f.write_str("Done"),
            Reply::Value(value) => f.debug_tuple("Value").field(value).finish(),
            Reply::Names(names) => f.debug_tuple("Names").field(names).finish(),
            Reply::Permissions(permissions) => {
                f.debug_tuple("Permissions").field(permissions).finish()
            }
            Reply::Introduced(exists) => f.debug_tuple("Introduced").field(exists).finish(),
            Reply::Watch(_) => f.write_str("Watch"),
        }
    }
}

/// Makes requests one after another.
pub(crate) fn one_after_another(
    store: &(impl Store + ?Sized),
    requests: &[Request<'_>],
) -> Box<dyn Ongoing> {
    let answers = requests.iter().map(|request| request.make(store)).collect();
    Box::new(Answered(Some(answers)))
}

/// Requests that all have been answered.
struct Answered(Option<Answers>);

impl Ongoing for Answered {
    fn poll(&mut self) -> Option<Answers> {
        self.0.take()
    }

    fn wait(&mut self, _deadline: Option<Time>) -> Answers {
        self.0.take().unwrap_or_default()
    }

    fn limit(&self) -> Option<Time> {
        None
    }

    fn register(&mut self, _waker: &Waker) {}
}
