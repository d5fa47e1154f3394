//! A XenStore client over any way for bytes to go, for guests without an operating system.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::task::Waker;
use core::time::Duration;

use super::batch::{self, Batch};
use super::carrier::{Carrier, Dial};
use super::codec::{Decoder, Kind};
use super::exchange::{Answer, Exchange, Failure};
use super::requests::Requests;
use crate::guard::keeps;
use crate::host::{Ongoing, Permissions, Request, Store, Time, Watch};
use crate::sync::Lock;
use crate::{DomId, HostError, StoreError, StoreErrorKind, StorePath};

/// How often in a row the wire is read at most before the program goes on.
const MOST_READS: usize = 64;

/// The way of bytes to XenStore and back, as the ring that every Xen guest is born with.
pub trait Wire: Send + Sync + 'static {
    /// Takes what has arrived, as much as `to` holds; 0 when there is nothing now.
    ///
    /// # Errors
    /// When the store breaks the rules of the wire, or ended it. Nothing more is taken then until
    /// [`reconnect`](Wire::reconnect).
    fn receive(&self, to: &mut [u8]) -> Result<usize, HostError>;

    /// Sends as much of `bytes` as there is room for; 0 when there is none now.
    ///
    /// # Errors
    /// As [`receive`](Wire::receive).
    fn send(&self, bytes: &[u8]) -> Result<usize, HostError>;

    /// Sleeps until something may have arrived or room may have come, or until `deadline`; may
    /// return earlier. What comes after the last `receive` or `send` ends it, also when it came
    /// before this call.
    ///
    /// # Errors
    /// As [`receive`](Wire::receive).
    fn wait(&self, deadline: Option<Time>) -> Result<(), HostError>;

    /// Begins anew, until `deadline` at most: nothing of what went over it before arrives any more,
    /// and the store knows of no watch and no transaction.
    ///
    /// # Errors
    /// When that cannot be done, or not in time.
    fn reconnect(&self, deadline: Time) -> Result<(), HostError>;

    /// The time on the clock of the deadlines.
    fn now(&self) -> Time;
}

/// A XenStore client for programs with one thread, over a [`Wire`].
///
/// It behaves as [`Client`](crate::xenstore::Client) does, from which it differs in how it waits:
/// whoever waits reads what comes, for all that wait. So while one call waits, no other one may, as
/// in a program without threads; tasks of one thread may share it.
#[derive(Debug)]
pub struct WireClient<W> {
    shared: Arc<Shared<W>>,
    limit: Duration,
}

/// What clones have in common.
#[derive(Debug)]
struct Shared<W> {
    wire: Arc<W>,
    /// The last session, which may have broken.
    session: Lock<Arc<Session<W>>>,
}

impl<W: Wire> WireClient<W> {
    /// How long a request may take unless [`with_time_limit`](WireClient::with_time_limit) says
    /// otherwise.
    pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(5);

    /// A client over `wire`.
    pub fn new(wire: W) -> WireClient<W> {
        let wire = Arc::new(wire);
        let session = Lock::new(Arc::new(Session::new(&wire)));
        WireClient {
            shared: Arc::new(Shared { wire, session }),
            limit: WireClient::<W>::DEFAULT_TIME_LIMIT,
        }
    }

    /// The same client with another time limit for each request. A request whose time is up fails
    /// with [`StoreErrorKind::TimedOut`]; the store may still carry it out. The time in which the
    /// guest is stopped while it waits does not count.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> WireClient<W> {
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

    fn requests(&self) -> Requests<Session<W>> {
        Requests {
            connection: self.session(),
            transaction_id: 0,
            limit: self.limit,
        }
    }

    /// The session, begun anew if the last one has broken.
    fn session(&self) -> Result<Arc<Session<W>>, Failure> {
        let last = Arc::clone(&*self.shared.session.lock());
        last.pump();
        if last.state.lock().exchange.failure().is_none() {
            return Ok(last);
        }
        let wire = &self.shared.wire;
        let deadline = wire.now().after(self.limit);
        wire.reconnect(deadline).map_err(lost)?;
        tracing::info!("connected to XenStore anew");
        let session = Arc::new(Session::new(wire));
        *self.shared.session.lock() = Arc::clone(&session);
        Ok(session)
    }
}

impl<W> Clone for WireClient<W> {
    fn clone(&self) -> WireClient<W> {
        WireClient {
            shared: Arc::clone(&self.shared),
            limit: self.limit,
        }
    }
}

impl<W: Wire> Store for WireClient<W> {
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
        Box::new(Batch::new(self, requests))
    }
}

impl<W: Wire> Dial for WireClient<W> {
    type Carrier = Session<W>;

    /// To begin anew is a matter of the wire and of its own time limit.
    fn usable(&self, _deadline: Time) -> Result<Arc<Session<W>>, Failure> {
        self.session()
    }

    fn limit(&self) -> Duration {
        self.limit
    }

    fn now(&self) -> Time {
        self.shared.wire.now()
    }
}

/// The wire from one beginning to its end. One that has failed does not touch the wire any more: it
/// may be another session's by then.
pub(super) struct Session<W> {
    wire: Arc<W>,
    state: Lock<State>,
}

#[derive(Default)]
struct State {
    exchange: Exchange,
    decoder: Decoder,
}

impl<W: Wire> Session<W> {
    fn new(wire: &Arc<W>) -> Session<W> {
        Session {
            wire: Arc::clone(wire),
            state: Lock::default(),
        }
    }

    /// Sends what can be sent and delivers what has arrived, without waiting. False: there may be
    /// more.
    fn pump(&self) -> bool {
        let mut state = self.state.lock();
        let pumped = match state.exchange.failure() {
            Some(_) if keeps("broken-stays-broken") => Ok(true),
            _ => pump(&*self.wire, &mut state),
        };
        pumped.unwrap_or_else(|failure| {
            tracing::debug!(reason = %failure.detail, "the connection to XenStore is given up");
            state.exchange.fail(failure);
            true
        })
    }

    /// Waits until `take` gives something or until `deadline`.
    fn wait<T>(
        &self,
        deadline: Option<Time>,
        mut take: impl FnMut(&mut Exchange) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        loop {
            let drained = self.pump();
            let mut state = self.state.lock();
            if let Some(taken) = take(&mut state.exchange) {
                return Ok(Some(taken));
            }
            if let Some(failure) = state.exchange.failure() {
                return Err(failure.clone());
            }
            drop(state);
            if deadline.is_some_and(|deadline| deadline <= self.wire.now()) {
                return Ok(None);
            }
            if drained && let Err(error) = self.wire.wait(deadline) {
                self.fail(lost(error));
            }
        }
    }
}

fn pump(wire: &impl Wire, state: &mut State) -> Result<bool, Failure> {
    // What has arrived before the wire broke was said all the same: so it is read first, and what
    // that calls for is sent after it.
    let sent = flush(wire, state);
    let drained = drain(wire, state)?;
    sent?;
    flush(wire, state)?;
    Ok(drained)
}

fn flush(wire: &impl Wire, state: &mut State) -> Result<(), Failure> {
    while let Some(bytes) = state.exchange.to_send() {
        match wire.send(bytes).map_err(lost)? {
            0 => break,
            count => state.exchange.sent(count),
        }
    }
    Ok(())
}

fn drain(wire: &impl Wire, state: &mut State) -> Result<bool, Failure> {
    let mut bytes = [0; 1024];
    for _ in 0..MOST_READS {
        let count = wire.receive(&mut bytes).map_err(lost)?;
        if count == 0 {
            return Ok(true);
        }
        state.decoder.push(bytes.get(..count).unwrap_or_default());
        while let Some(message) = state.decoder.next_message().map_err(Failure::protocol)? {
            state.exchange.deliver(message)?;
        }
    }
    Ok(false)
}

impl<W: Wire> Carrier for Session<W> {
    fn queue(&self, kind: Kind, transaction_id: u32, payload: Vec<u8>) -> Result<u32, Failure> {
        (self.state.lock().exchange).request(kind, transaction_id, payload)
    }

    fn push(&self) -> bool {
        self.pump()
    }

    fn take_answer(&self, id: u32) -> Result<Option<Answer>, Failure> {
        self.state.lock().exchange.answer_or_failure(id)
    }

    fn wait_answer_until(&self, id: u32, deadline: Time) -> Result<Option<Answer>, Failure> {
        self.wait(Some(deadline), |exchange| exchange.take_answer(id))
    }

    fn register_request(&self, id: u32, waker: &Waker) {
        self.state.lock().exchange.register_request(id, waker);
    }

    fn abandon(&self, id: u32) {
        self.state.lock().exchange.abandon(id);
    }

    fn now(&self) -> Time {
        self.wire.now()
    }

    fn fail(&self, failure: Failure) {
        self.state.lock().exchange.fail(failure);
    }

    fn add_watch(&self) -> u64 {
        self.state.lock().exchange.add_watch()
    }

    fn forget_watch(&self, watch: u64) {
        self.state.lock().exchange.remove_watch(watch);
    }

    fn remove_watch(&self, watch: u64, unwatch: Vec<u8>) {
        let mut state = self.state.lock();
        state.exchange.remove_watch(watch);
        state
            .exchange
            .request_in_background(Kind::UNWATCH, 0, unwatch);
        drop(state);
        self.pump();
    }

    fn take_event(&self, watch: u64) -> Result<bool, Failure> {
        let drained = self.pump();
        let mut state = self.state.lock();
        if state.exchange.take_event(watch) {
            return Ok(true);
        }
        match state.exchange.failure() {
            Some(failure) => Err(failure.clone()),
            // What is left unread may be for this watch, and nothing would tell of it again. To say
            // "fired" once too often does no harm.
            None => Ok(!drained),
        }
    }

    fn wait_event(&self, watch: u64, deadline: Option<Time>) -> Result<bool, Failure> {
        let fired = self.wait(deadline, |exchange| {
            exchange.take_event(watch).then_some(())
        });
        Ok(fired?.is_some())
    }

    fn register(&self, watch: u64, waker: &Waker) {
        self.state.lock().exchange.register(watch, waker);
    }
}

impl<W> fmt::Debug for Session<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

fn lost(error: HostError) -> Failure {
    Failure::new(StoreErrorKind::Unreachable, error.to_string())
}
