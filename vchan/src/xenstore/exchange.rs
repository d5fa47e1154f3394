//! What is under way on a connection: requests, their replies, and watches. No I/O: messages go in
//! and out as values.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::task::Waker;

use super::codec::{self, Kind, Message};
use super::numbered::Numbered;
use crate::guard::keeps;
use crate::{StoreError, StoreErrorKind};

/// The most requests that may be without a reply; a bound on what a store that answers nothing can
/// make us remember.
const MOST_UNANSWERED: usize = 1024;

/// Requests, replies and watches of one connection.
#[derive(Default)]
pub(super) struct Exchange {
    /// Messages that are not sent whole yet; only the first can be sent in part.
    outgoing: VecDeque<Outgoing>,
    /// Whether a request must not be sent before the one before it is answered.
    one_at_a_time: bool,
    /// With `one_at_a_time`: the request that was sent and is not answered.
    in_flight: Option<u32>,
    requests: Numbered<Request>,
    watches: Numbered<Watched>,
    last_request: u32,
    last_watch: u64,
    failure: Option<Failure>,
}

/// A watch that is set.
#[derive(Default)]
struct Watched {
    /// Whether it has fired since it was last asked. This is all that is kept of a watch event, so
    /// that a flood of them takes no memory.
    fired: bool,
    /// Who is to be woken when it fires.
    waker: Option<Waker>,
}

impl Watched {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A message on its way out.
struct Outgoing {
    request_id: u32,
    bytes: Vec<u8>,
    sent: usize,
}

/// A request that was made.
struct Request {
    kind: Kind,
    transaction_id: u32,
    progress: Progress,
    /// Who is to be woken when it is answered.
    waker: Option<Waker>,
}

impl Request {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

enum Progress {
    /// Someone waits for the reply.
    Waiting,
    /// No one waits any more, but the reply will come and must be told from a forged one.
    Abandoned,
    /// The reply is there to be taken.
    Answered(Answer),
}

/// How a request ended.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// The payload of the reply.
    Reply(Vec<u8>),
    /// The name of the error, as `ENOENT`.
    Error(String),
    /// The kernel did not take the request: the name of the error, or what it says.
    #[cfg(feature = "std")]
    Refused(String),
}

/// Why a connection is of no further use, or why a single request failed without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: StoreErrorKind,
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn new(kind: StoreErrorKind, detail: impl Into<String>) -> Failure {
        Failure {
            kind,
            detail: detail.into(),
        }
    }

    pub(super) fn protocol(detail: impl core::fmt::Display) -> Failure {
        let detail = format!("{detail}; the connection is given up");
        Failure::new(StoreErrorKind::Protocol, detail)
    }

    /// The error of what was being done when it failed so.
    pub(super) fn during(&self, doing: impl Into<String>) -> StoreError {
        StoreError::new(self.kind, doing).detail(self.detail.clone())
    }
}

impl Exchange {
    /// With `one_at_a_time` a request is only sent when the one before it is answered.
    #[cfg(feature = "std")]
    pub(super) fn new(one_at_a_time: bool) -> Exchange {
        Exchange {
            one_at_a_time,
            ..Exchange::default()
        }
    }

    /// Why the connection is of no further use.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Gives the connection up; the first reason stays. Replies that are there can still be taken.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.outgoing.clear();
        self.failure.get_or_insert(failure);
        for watched in self.watches.values_mut() {
            watched.wake();
        }
        for request in self.requests.values_mut() {
            request.wake();
        }
    }

    // Requests.

    /// Puts a request in the queue and gives its number.
    pub(super) fn request(
        &mut self,
        kind: Kind,
        transaction_id: u32,
        payload: Vec<u8>,
    ) -> Result<u32, Failure> {
        self.enqueue(kind, transaction_id, payload, Progress::Waiting)
    }

    /// Puts a request in the queue whose reply no one will wait for. Where that cannot be, it is
    /// left out.
    pub(super) fn request_in_background(
        &mut self,
        kind: Kind,
        transaction_id: u32,
        payload: Vec<u8>,
    ) {
        _ = self.enqueue(kind, transaction_id, payload, Progress::Abandoned);
    }

    fn enqueue(
        &mut self,
        kind: Kind,
        transaction_id: u32,
        payload: Vec<u8>,
        progress: Progress,
    ) -> Result<u32, Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.requests.len() >= MOST_UNANSWERED {
            let detail = format!("{MOST_UNANSWERED} requests have no reply yet");
            return Err(Failure::new(StoreErrorKind::Unreachable, detail));
        }
        let request_id = self.free_request_id();
        let message = Message {
            kind,
            request_id,
            transaction_id,
            payload,
        };
        let bytes = message
            .encode()
            .map_err(|error| Failure::new(StoreErrorKind::Invalid, error.to_string()))?;
        self.outgoing.push_back(Outgoing {
            request_id,
            bytes,
            sent: 0,
        });
        let request = Request {
            kind,
            transaction_id,
            progress,
            waker: None,
        };
        self.requests.insert(request_id.into(), request);
        Ok(request_id)
    }

    /// A number that no request has. Zero is left out: watch events have it.
    fn free_request_id(&mut self) -> u32 {
        loop {
            self.last_request = self.last_request.wrapping_add(1);
            if self.last_request != 0 && !self.requests.contains(self.last_request.into()) {
                return self.last_request;
            }
        }
    }

    /// Takes the answer to a request, if it is there.
    pub(super) fn take_answer(&mut self, request_id: u32) -> Option<Answer> {
        let request = self.requests.get(request_id.into())?;
        if !matches!(request.progress, Progress::Answered(_)) {
            return None;
        }
        match self.requests.remove(request_id.into())?.progress {
            Progress::Answered(answer) => Some(answer),
            Progress::Waiting | Progress::Abandoned => None,
        }
    }

    /// Takes the answer to a request, if it is there, or says why there will be none.
    pub(super) fn answer_or_failure(&mut self, request_id: u32) -> Result<Option<Answer>, Failure> {
        match (self.take_answer(request_id), &self.failure) {
            (None, Some(failure)) => Err(failure.clone()),
            (answer, _) => Ok(answer),
        }
    }

    /// Wakes `waker` when a request is answered, or when the connection is given up.
    pub(super) fn register_request(&mut self, request_id: u32, waker: &Waker) {
        if let Some(request) = self.requests.get_mut(request_id.into()) {
            request.waker = Some(waker.clone());
        }
    }

    /// No one waits for this request any more. It is withdrawn if nothing of it was sent, and
    /// forgotten if its answer is there.
    pub(super) fn abandon(&mut self, request_id: u32) {
        let unsent = |out: &Outgoing| out.request_id == request_id && out.sent == 0;
        if let Some(at) = self.outgoing.iter().position(unsent) {
            self.outgoing.remove(at);
            self.requests.remove(request_id.into());
        } else if let Some(request) = self.requests.get_mut(request_id.into()) {
            let progress = core::mem::replace(&mut request.progress, Progress::Abandoned);
            if let Progress::Answered(answer) = progress {
                self.drop_answer(request_id, &answer);
            }
        }
    }

    // Sending.

    /// The bytes to send next; none while a request has to wait for its predecessor.
    pub(super) fn to_send(&self) -> Option<&[u8]> {
        if self.in_flight.is_some() {
            return None;
        }
        let first = self.outgoing.front()?;
        first.bytes.get(first.sent..)
    }

    /// The first `count` of the bytes to send were sent.
    pub(super) fn sent(&mut self, count: usize) {
        if let Some(first) = self.outgoing.front_mut() {
            first.sent = first.sent.saturating_add(count);
            if first.sent >= first.bytes.len() {
                self.in_flight = self.one_at_a_time.then_some(first.request_id);
                self.outgoing.pop_front();
            }
        }
    }

    /// The message to send next was refused as a whole.
    #[cfg(feature = "std")]
    pub(super) fn refused(&mut self, error: String) {
        if let Some(first) = self.outgoing.pop_front() {
            self.answer(first.request_id, Answer::Refused(error));
        }
    }

    // Receiving.

    /// Hands a message from the store to whom it concerns.
    ///
    /// Replies must match a request. Watch events that make no sense are ignored: they concern no
    /// one, and the store may well send one for a watch that was just removed.
    pub(super) fn deliver(&mut self, message: Message) -> Result<(), Failure> {
        if message.kind == Kind::WATCH_EVENT {
            self.deliver_watch_event(&message.payload);
            return Ok(());
        }
        let id = message.request_id;
        let Some(request) = self.requests.get(id.into()) else {
            let detail = format!("a reply to request {id}, which was not made");
            return Err(Failure::protocol(detail));
        };
        if matches!(request.progress, Progress::Answered(_)) {
            return Err(Failure::protocol(format!("two replies to request {id}")));
        }
        let (kind, transaction) = (request.kind, request.transaction_id);
        if message.transaction_id != transaction && keeps("reply-transaction") {
            return Err(Failure::protocol(format!(
                "a reply in transaction {} to a {kind} request in transaction {transaction}",
                message.transaction_id
            )));
        }
        let answer = if message.kind == kind {
            Answer::Reply(message.payload)
        } else if message.kind == Kind::ERROR {
            Answer::Error(parse_error(&message.payload)?)
        } else {
            let detail = format!("a {} reply to a {kind} request", message.kind);
            return Err(Failure::protocol(detail));
        };
        self.answer(id, answer);
        Ok(())
    }

    fn answer(&mut self, request_id: u32, answer: Answer) {
        if self.in_flight == Some(request_id) {
            self.in_flight = None;
        }
        let Some(request) = self.requests.get_mut(request_id.into()) else {
            return;
        };
        if matches!(request.progress, Progress::Waiting) {
            request.progress = Progress::Answered(answer);
            if keeps("answer-wakes") {
                request.wake();
            }
            return;
        }
        self.drop_answer(request_id, &answer);
    }

    /// Forgets a request whose answer nobody takes.
    fn drop_answer(&mut self, request_id: u32, answer: &Answer) {
        let Some(request) = self.requests.remove(request_id.into()) else {
            return;
        };
        // A transaction that began after its requester had left would stay open for ever, and a
        // domain has only a few.
        if let (Kind::TRANSACTION_START, Answer::Reply(payload)) = (request.kind, answer)
            && let Some(transaction) = parse_transaction_id(payload)
        {
            self.abort(transaction);
        }
    }

    /// Aborts a transaction without waiting for the reply.
    pub(super) fn abort(&mut self, transaction_id: u32) {
        let payload = codec::join_strings(["F"]);
        self.request_in_background(Kind::TRANSACTION_END, transaction_id, payload);
    }

    // Watches.

    /// A new watch, by its number.
    pub(super) fn add_watch(&mut self) -> u64 {
        // A counter of 64 bits does not come round.
        self.last_watch = self.last_watch.wrapping_add(1);
        self.watches.insert(self.last_watch, Watched::default());
        self.last_watch
    }

    pub(super) fn remove_watch(&mut self, watch: u64) {
        self.watches.remove(watch);
    }

    /// Whether a watch has fired since the last time asked.
    pub(super) fn take_event(&mut self, watch: u64) -> bool {
        let watched = self.watches.get_mut(watch);
        watched.is_some_and(|watched| core::mem::take(&mut watched.fired))
    }

    /// Wakes `waker` when a watch fires, or when the connection is given up.
    pub(super) fn register(&mut self, watch: u64, waker: &Waker) {
        if let Some(watched) = self.watches.get_mut(watch) {
            watched.waker = Some(waker.clone());
        }
    }

    fn deliver_watch_event(&mut self, payload: &[u8]) {
        let token = codec::watch_event(payload).map(|(_, token)| token);
        let watch = token.ok().and_then(parse_token);
        match watch.and_then(|watch| self.watches.get_mut(watch)) {
            Some(watched) => {
                watched.fired = true;
                if keeps("watch-wakes") {
                    watched.wake();
                }
            }
            None => tracing::debug!("ignoring a watch event for no watch of ours"),
        }
    }
}

/// The token by which the store names a watch in its events.
pub(super) fn token(watch: u64) -> String {
    format!("vchan-{watch}")
}

fn parse_token(token: &str) -> Option<u64> {
    token.strip_prefix("vchan-")?.parse().ok()
}

/// The number in the reply to `TRANSACTION_START`; never 0, which means no transaction.
pub(super) fn parse_transaction_id(payload: &[u8]) -> Option<u32> {
    match *codec::split_strings(payload).ok()? {
        [number] => number.parse().ok().filter(|&id| id != 0),
        _ => None,
    }
}

fn parse_error(payload: &[u8]) -> Result<String, Failure> {
    match codec::split_strings(payload).as_deref() {
        Ok([name, ..]) => Ok((*name).to_string()),
        _ => Err(Failure::protocol("an error without a name")),
    }
}
