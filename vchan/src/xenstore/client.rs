//! The XenStore client.

use core::fmt;
use core::time::Duration;
use std::boxed::Box;
use std::format;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use super::batch::{self, Batch};
use super::carrier::Dial;
use super::codec::{self, Kind, Malformed};
use super::connection::Connection;
use super::exchange::Failure;
use super::requests::Requests;
use super::transport::{Transport, TransportKind};
use crate::guard::keeps;
use crate::host::{Ongoing, Permissions, Request, Store, Time, Watch, one_after_another};
use crate::{DomId, StoreError, StoreErrorKind, StorePath, poll};

/// A connection to XenStore, and a time limit for the requests made through it.
///
/// It may be used by any number of threads at once. Clones share the connection and cost nothing.
///
/// When the connection breaks (xenstored was stopped or restarted), all that wait for it fail at
/// once with [`StoreErrorKind::Unreachable`], or [`Protocol`](StoreErrorKind::Protocol) when the
/// store sent what it must not send. A request is never repeated: whether it was carried out is
/// not known. The next one connects anew to where the store was. While nothing answers there it
/// fails at once, too. Watches and transactions do not survive the connection in which they began:
/// they keep failing, and one sets or begins new ones. A watch fires once when it is set, so
/// nothing is missed by that.
///
/// A client that was made [`over`](Client::over) a socket cannot connect anew.
///
/// Reading and writing nodes is in [`Store`], which this implements. Deadlines count on
/// `CLOCK_MONOTONIC`.
///
/// Requests of different threads overlap on a socket. Over `/dev/xen/xenbus` they queue, as the
/// kernel takes one at a time; it also takes 16 bytes less per request than the 4096 of the
/// protocol.
///
/// ```no_run
/// use vchan::host::Store;
/// use vchan::xenstore::Client;
///
/// let store = Client::open()?;
/// let name = store.read(&"name".parse()?)?;
/// println!("this domain is called {}", String::from_utf8_lossy(&name));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    limit: Duration,
}

/// What clones have in common.
struct Shared {
    /// Where to connect anew, if one can.
    place: Option<PathBuf>,
    /// The last connection, which may have broken.
    connection: Mutex<Arc<Connection>>,
}

impl Client {
    /// How long a request may take unless [`with_time_limit`](Client::with_time_limit) says
    /// otherwise.
    pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(5);

    /// Connects to this host's store: where `XENSTORED_PATH` says, if it is set; otherwise through
    /// the socket `/run/xenstored/socket` or `/var/run/xenstored/socket`, otherwise through the
    /// kernel's `/dev/xen/xenbus`.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unreachable`] and [`Denied`](StoreErrorKind::Denied), with what was tried
    /// and what a person can do about it.
    pub fn open() -> Result<Client, StoreError> {
        let deadline = poll::now().after(Client::DEFAULT_TIME_LIMIT);
        Client::new(Transport::open(deadline)?)
    }

    /// Connects to the store at `path`, a Unix socket or a device like `/dev/xen/xenbus`.
    ///
    /// # Errors
    /// As [`open`](Client::open).
    pub fn open_at(path: impl AsRef<Path>) -> Result<Client, StoreError> {
        let deadline = poll::now().after(Client::DEFAULT_TIME_LIMIT);
        Client::new(Transport::open_at(path.as_ref(), deadline)?)
    }

    /// Speaks to the store at the other end of `socket`. The socket becomes non-blocking.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unreachable`] when the system is out of descriptors.
    pub fn over(socket: UnixStream) -> Result<Client, StoreError> {
        let transport = Transport::over(socket.into(), TransportKind::Socket);
        Client::new(transport.map_err(no_connection)?)
    }

    pub(super) fn new(transport: Transport) -> Result<Client, StoreError> {
        let place = transport.place().map(Path::to_owned);
        let connection = Connection::new(transport).map_err(|errno| no_connection(errno.into()))?;
        let connection = Mutex::new(Arc::new(connection));
        Ok(Client {
            shared: Arc::new(Shared { place, connection }),
            limit: Client::DEFAULT_TIME_LIMIT,
        })
    }

    /// The same connection with another time limit for each request. A request whose time is up
    /// fails with [`StoreErrorKind::TimedOut`]; the store may still carry it out. The time in which
    /// this program is stopped while it waits does not count.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Client {
        self.limit = limit;
        self
    }

    /// Makes an empty node, and its parents where they are missing. One that is there already is
    /// left as it is.
    ///
    /// # Errors
    /// [`StoreErrorKind::Denied`], [`Quota`](StoreErrorKind::Quota), and the failures of the
    /// connection.
    pub fn make_directory(&self, path: &StorePath) -> Result<(), StoreError> {
        self.requests().make_directory(path)
    }

    /// A domain's own directory, `/local/domain/<domid>`, whether or not there is such a domain.
    ///
    /// # Errors
    /// The failures of the connection.
    pub fn domain_path(&self, domid: DomId) -> Result<StorePath, StoreError> {
        let doing = format!("ask for the path of domain {domid}");
        let payload = codec::join_strings([domid.to_string()]);
        let requests = self.requests();
        let reply = requests.ask(Kind::GET_DOMAIN_PATH, payload, &doing)?;
        let path = match codec::split_strings(&reply).as_deref() {
            Ok([path]) => path.parse().ok(),
            _ => None,
        };
        path.ok_or_else(|| {
            let expected = "the path of a domain";
            requests.malformed(Malformed { expected }, doing)
        })
    }

    /// Requests outside of any transaction.
    pub(super) fn requests(&self) -> Requests<Connection> {
        Requests {
            connection: self.usable(poll::now().after(self.limit)),
            transaction_id: 0,
            limit: self.limit,
        }
    }
}

impl Dial for Client {
    type Carrier = Connection;

    fn usable(&self, deadline: Time) -> Result<Arc<Connection>, Failure> {
        let last = self.shared.last();
        match &self.shared.place {
            Some(place) if !last.is_usable() => self.shared.replace(&last, place, deadline),
            // Where it has broken it says so itself.
            _ => Ok(last),
        }
    }

    fn limit(&self) -> Duration {
        self.limit
    }

    fn now(&self) -> Time {
        poll::now()
    }
}

impl Shared {
    fn last(&self) -> Arc<Connection> {
        Arc::clone(&self.lock())
    }

    /// Connects anew, for all clones. Nobody waits for a thread that does.
    fn replace(
        &self,
        broken: &Arc<Connection>,
        place: &Path,
        deadline: Time,
    ) -> Result<Arc<Connection>, Failure> {
        let made = Transport::open_at(place, deadline).and_then(|transport| {
            Connection::new(transport).map_err(|errno| no_connection(errno.into()))
        });
        // A store that may not be used any more is out of reach like one that is not there; a node
        // that may not be read is another matter.
        let made = made.map_err(|error| {
            let kind = match error.kind {
                StoreErrorKind::TimedOut => StoreErrorKind::TimedOut,
                _ => StoreErrorKind::Unreachable,
            };
            Failure::new(kind, error.into_detail())
        })?;
        let mut last = self.lock();
        // Another thread may have been faster.
        if Arc::ptr_eq(&last, broken) {
            tracing::info!(place = %place.display(), "connected to XenStore anew");
            *last = Arc::new(made);
        }
        Ok(Arc::clone(&last))
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Connection>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Client {
    fn read(&self, path: &StorePath) -> Result<Vec<u8>, StoreError> {
        self.requests().read(path)
    }

    fn write(&self, path: &StorePath, value: &[u8]) -> Result<(), StoreError> {
        self.requests().write(path, value)
    }

    fn remove(&self, path: &StorePath) -> Result<(), StoreError> {
        self.requests().remove(path)
    }

    fn directory(&self, path: &StorePath) -> Result<Vec<String>, StoreError> {
        self.requests().directory(path)
    }

    fn permissions(&self, path: &StorePath) -> Result<Permissions, StoreError> {
        self.requests().permissions(path)
    }

    fn set_permissions(
        &self,
        path: &StorePath,
        permissions: &Permissions,
    ) -> Result<(), StoreError> {
        self.requests().set_permissions(path, permissions)
    }

    fn is_domain_introduced(&self, domid: DomId) -> Result<bool, StoreError> {
        let request = Request::IsDomainIntroduced(domid);
        self.requests().make(request)?.introduced()
    }

    fn watch(&self, path: &StorePath) -> Result<Box<dyn Watch>, StoreError> {
        batch::watch(self, path)
    }

    fn submit(&self, requests: &[Request<'_>]) -> Box<dyn Ongoing> {
        if keeps("one-round-trip") {
            Box::new(Batch::new(self, requests))
        } else {
            one_after_another(self, requests)
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("time_limit", &self.limit)
            .finish_non_exhaustive()
    }
}

fn no_connection(error: std::io::Error) -> StoreError {
    let kind = StoreErrorKind::Unreachable;
    StoreError::new(kind, "connect to XenStore").detail(error.to_string())
}
