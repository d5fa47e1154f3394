//! XenStore over the ring that every guest is born with.
//!
//! The page is that of Xen's public header `io/xs_wire.h`: 1024 bytes of requests, 1024 of replies,
//! four indices, and the fields by which a guest begins its connection anew (`docs/misc/
//! xenstore-ring.txt`). The messages are `vchan`'s: [`StoreRing`] is the [`Wire`] of its
//! [`WireClient`](vchan::xenstore::WireClient).

use core::sync::atomic::Ordering;

use vchan::HostError;
use vchan::host::Time;
use vchan::memory::Region;
use vchan::xenstore::Wire;

use crate::guard::keeps;
use crate::track::{Impossible, Layout, Track};

const REQUESTS: Layout = Layout {
    start: 0,
    size: 1024,
    consumer: 2048,
    producer: 2052,
};

const REPLIES: Layout = Layout {
    start: 1024,
    size: 1024,
    consumer: 2056,
    producer: 2060,
};

/// Where xenstored says what it can do.
const SERVER_FEATURES: usize = 2064;

/// It can begin a connection anew (`XENSTORE_SERVER_FEATURE_RECONNECTION`).
const RECONNECTION: u32 = 1;

/// Where the state of the connection is.
const CONNECTION: usize = 2068;

/// Both sides use the ring (`XENSTORE_CONNECTED`).
const CONNECTED: u32 = 0;

/// The guest asks to begin anew (`XENSTORE_RECONNECT`), and uses nothing until it is connected.
const RECONNECT: u32 = 1;

/// The event channel between the guest and xenstored, and the guest's clock.
pub trait StoreEvents: Send + Sync + 'static {
    /// Tells xenstored that something in the page has changed.
    ///
    /// # Errors
    /// When the hypervisor refuses.
    fn notify(&self) -> Result<(), HostError>;

    /// Sleeps until xenstored sends an event or until `deadline`, and takes the event; may return
    /// earlier. One that came since the last call ends it at once.
    ///
    /// # Errors
    /// When the hypervisor refuses.
    fn wait(&self, deadline: Option<Time>) -> Result<(), HostError>;

    /// The time now.
    fn now(&self) -> Time;
}

/// The guest's end of the ring.
#[derive(Debug)]
pub struct StoreRing<E> {
    page: Region,
    requests: Track,
    replies: Track,
    events: E,
}

impl<E: StoreEvents> StoreRing<E> {
    /// The ring in `page`, one page that is readable and writable. It goes on where an earlier stage
    /// of the boot has left it.
    #[must_use]
    pub fn new(page: Region, events: E) -> StoreRing<E> {
        StoreRing {
            requests: Track::producer(&page, REQUESTS),
            replies: Track::consumer(&page, REPLIES),
            page,
            events,
        }
    }

    /// While a connection begins anew, neither side uses the ring.
    fn connected(&self, doing: &str) -> Result<(), HostError> {
        let connection = self.page.load_index(CONNECTION, Ordering::Acquire);
        if connection != CONNECTED && keeps("store-connected") {
            let why = "its connection has not begun anew yet";
            return Err(HostError::new(doing).because(why));
        }
        Ok(())
    }

    /// What was moved, once xenstored knows of it.
    fn moved(&self, moved: Result<usize, Impossible>, doing: &str) -> Result<usize, HostError> {
        let count = moved.map_err(|fault| HostError::new(doing).because(fault))?;
        if count > 0 {
            self.events.notify()?;
        }
        Ok(count)
    }
}

impl<E: StoreEvents> Wire for StoreRing<E> {
    fn receive(&self, to: &mut [u8]) -> Result<usize, HostError> {
        let doing = "read from XenStore's ring";
        self.connected(doing)?;
        self.moved(self.replies.read(&self.page, to), doing)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, HostError> {
        let doing = "write to XenStore's ring";
        self.connected(doing)?;
        self.moved(self.requests.write(&self.page, bytes), doing)
    }

    fn wait(&self, deadline: Option<Time>) -> Result<(), HostError> {
        self.events.wait(deadline)
    }

    /// Asks xenstored to forget all of this connection and waits until it has. It sets all indices
    /// to 0 then, and forgets the watches and transactions.
    fn reconnect(&self, deadline: Time) -> Result<(), HostError> {
        let doing = "begin the connection to XenStore anew";
        let features = self.page.load_index(SERVER_FEATURES, Ordering::Acquire);
        if features & RECONNECTION == 0 {
            let error = HostError::new(doing).because("xenstored cannot");
            return Err(error.hint("destroy this domain and create it again"));
        }
        self.page
            .store_index(CONNECTION, RECONNECT, Ordering::Release);
        self.events.notify()?;
        while self.page.load_index(CONNECTION, Ordering::Acquire) != CONNECTED {
            if deadline <= self.events.now() {
                return Err(HostError::new(doing).because("xenstored has not answered in time"));
            }
            self.events.wait(Some(deadline))?;
        }
        self.requests.reset();
        self.replies.reset();
        Ok(())
    }

    fn now(&self) -> Time {
        self.events.now()
    }
}

#[cfg(test)]
mod tests;
