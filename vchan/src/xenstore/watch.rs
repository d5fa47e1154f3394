//! A watch on a node.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Waker;
#[cfg(feature = "std")]
use std::os::fd::BorrowedFd;

use super::carrier::Carrier;
use super::{codec, exchange};
use crate::host::{Time, Watch};
use crate::{StoreError, StorePath};

/// A watch that is set; dropping it removes it.
///
/// The store names a watch by its token, so it does not matter whether the paths in its events are
/// absolute or relative.
pub(super) struct NodeWatch<C: Carrier> {
    connection: Arc<C>,
    watch: u64,
    path: StorePath,
}

impl<C: Carrier> NodeWatch<C> {
    pub(super) fn new(connection: Arc<C>, watch: u64, path: StorePath) -> NodeWatch<C> {
        NodeWatch {
            connection,
            watch,
            path,
        }
    }
}

impl<C: Carrier> Watch for NodeWatch<C> {
    fn take(&self) -> Result<bool, StoreError> {
        self.connection
            .take_event(self.watch)
            .map_err(|failure| failure.during(format!("watch {}", self.path)))
    }

    fn wait(&self, deadline: Option<Time>) -> Result<bool, StoreError> {
        self.connection
            .wait_event(self.watch, deadline)
            .map_err(|failure| failure.during(format!("watch {}", self.path)))
    }

    fn register(&self, waker: &Waker) {
        self.connection.register(self.watch, waker);
    }

    /// The descriptor of the whole connection. All watches share it, and any thread that waits for
    /// the store may read from it: each edge (something has arrived) is a reason to call
    /// [`take`](Watch::take), and no level is.
    #[cfg(feature = "std")]
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_fd()
    }
}

impl<C: Carrier> Drop for NodeWatch<C> {
    fn drop(&mut self) {
        let unwatch = watch_payload(self.path.as_str(), self.watch);
        self.connection.remove_watch(self.watch, unwatch);
    }
}

/// The payload that names a watch, for `WATCH` and `UNWATCH`.
pub(super) fn watch_payload(path: &str, watch: u64) -> Vec<u8> {
    codec::join_strings([path, &exchange::token(watch)])
}
