//! Whether this domain has been restored or migrated.
//!
//! Such a domain goes on with the memory that it had, but has another number on another host
//! perhaps, and none of its event channels and grants. The drivers of Linux (6.1) do not tell the
//! programs that hold them. Worse, they do not tell themselves: closing a descriptor of
//! `/dev/xen/evtchn` whose port is lost ends in a `BUG`, which kills the program in the middle of
//! the call, and unmapping a page that is to notify such a port takes a reference away from whoever
//! has a port with that number now. So what is lost must be found out, and never given back.
//!
//! What does tell is XenStore: the kernel sets the watches of programs again in the store of the new
//! life, and a watch fires when it is set. A watch on a node that nobody changes fires a second time
//! then and only then.

use core::time::Duration;
use std::boxed::Box;
use std::sync::{Arc, Mutex, PoisonError};

use crate::host::{Store, Watch};
use crate::xenstore::Client;
use crate::{HostError, StoreError, StorePath, poll};

/// The most that a channel waits for this at its making: a store that hangs is not to hold it up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts this domain's lives, as far as they are seen.
pub(super) struct Lives {
    store: Client,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// On this domain's number. It fired when it was set, and that was taken.
    watch: Option<Box<dyn Watch>>,
    restored: u64,
}

/// The life in which something was made.
#[derive(Clone)]
pub(super) struct Life {
    lives: Arc<Lives>,
    number: u64,
}

impl Lives {
    pub(super) fn new(store: Client) -> Arc<Lives> {
        Arc::new(Lives {
            store,
            seen: Mutex::default(),
        })
    }

    /// This life, for what is made now.
    pub(super) fn current(self: &Arc<Lives>) -> Life {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.look();
        if seen.watch.is_none() {
            match self.set_watch() {
                Ok(watch) => seen.watch = watch,
                Err(error) => tracing::debug!(%error, "a restore will not be noticed"),
            }
        }
        Life {
            lives: Arc::clone(self),
            number: seen.restored,
        }
    }

    fn set_watch(&self) -> Result<Option<Box<dyn Watch>>, StoreError> {
        let Ok(own_number) = "domid".parse::<StorePath>() else {
            return Ok(None);
        };
        let store = self.store.clone().with_time_limit(PATIENCE);
        let watch = store.watch(&own_number)?;
        let deadline = poll::now().after(PATIENCE);
        Ok(watch.wait(Some(deadline))?.then_some(watch))
    }
}

impl Seen {
    /// Looks at the watch, without waiting.
    fn look(&mut self) {
        match self.watch.as_ref().map(|watch| watch.take()) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => {
                tracing::warn!("this domain was restored or migrated");
                self.restored += 1;
            }
            // The connection is at its end, as when xenstored in this very domain was restarted.
            Some(Err(_)) => self.watch = None,
        }
    }
}

impl Life {
    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        let seen = &self.lives.seen;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.look();
        seen.restored != self.number
    }

    /// What to say of `what`, which was made in a life that is over.
    pub(super) fn lost(what: impl core::fmt::Display) -> HostError {
        HostError::new(std::format!("use {what}"))
            .because("this domain was restored or migrated, and lost what it had on its old host")
            .hint("make a new channel")
    }
}

#[cfg(test)]
pub(super) mod tests;
