//! What lies between a client's requests and the bytes.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Waker;
use core::time::Duration;
#[cfg(feature = "std")]
use std::os::fd::BorrowedFd;

use super::codec::{Kind, Malformed};
use super::exchange::{Answer, Failure};
use crate::StoreErrorKind;
use crate::host::{Countdown, Time};

/// Carries requests to the store and brings back answers and watch events: one connection, from its
/// beginning to its end.
pub(super) trait Carrier: Send + Sync + 'static {
    // Requests, each by the number that `queue` gives.

    /// Takes a request to be sent.
    fn queue(&self, kind: Kind, transaction_id: u32, payload: Vec<u8>) -> Result<u32, Failure>;

    /// Sends what can be sent and delivers what has arrived, without waiting. False: there may be
    /// more.
    fn push(&self) -> bool;

    /// The answer to a request, if it was delivered.
    fn take_answer(&self, id: u32) -> Result<Option<Answer>, Failure>;

    /// Waits for the answer to a request until `deadline`, `None` means that; takes it at least if it
    /// is there.
    fn wait_answer_until(&self, id: u32, deadline: Time) -> Result<Option<Answer>, Failure>;

    /// Waits for the answer to a request; `None` means that the time is up.
    fn wait_answer(&self, id: u32, limit: &mut Countdown) -> Result<Option<Answer>, Failure> {
        loop {
            let now = self.now();
            let Some(nap) = limit.nap(now) else {
                return self.wait_answer_until(id, now);
            };
            let answer = self.wait_answer_until(id, nap.until)?;
            limit.slept(nap, self.now());
            if answer.is_some() {
                return Ok(answer);
            }
        }
    }

    /// Wakes `waker` when a request is answered, whoever reads it.
    fn register_request(&self, id: u32, waker: &Waker);

    /// Nobody waits for the answer to a request any more.
    fn abandon(&self, id: u32);

    /// Makes a request and waits for its answer, at most for `limit`.
    fn request(
        &self,
        kind: Kind,
        transaction_id: u32,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let id = self.queue(kind, transaction_id, payload)?;
        self.push();
        self.wait_answer(id, &mut Countdown::new(limit))?
            .ok_or_else(|| {
                self.abandon(id);
                no_answer(limit)
            })
    }

    /// The time on the clock of the deadlines.
    fn now(&self) -> Time;

    /// Gives the connection up: all that wait and all that come later learn why.
    fn fail(&self, failure: Failure);

    /// Gives it up because of a reply that makes no sense: what comes next from such a store is not to
    /// be trusted either.
    fn malformed(&self, malformed: Malformed) -> Failure {
        let failure = Failure::protocol(malformed);
        self.fail(failure.clone());
        failure
    }

    // Watches, by the number that `add_watch` gives.

    fn add_watch(&self) -> u64;

    /// Forgets a watch that the store does not have.
    fn forget_watch(&self, watch: u64);

    /// Removes a watch here and in the store, without waiting for the store's word.
    fn remove_watch(&self, watch: u64, unwatch: Vec<u8>);

    /// Whether a watch has fired since the last time asked, without waiting.
    fn take_event(&self, watch: u64) -> Result<bool, Failure>;

    /// Waits until a watch fires or until `deadline`; false means the deadline.
    fn wait_event(&self, watch: u64, deadline: Option<Time>) -> Result<bool, Failure>;

    /// Wakes `waker` when a watch has fired, whoever reads it.
    fn register(&self, watch: u64, waker: &Waker);

    /// See [`Watch::as_fd`](crate::host::Watch::as_fd).
    #[cfg(feature = "std")]
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A client, as far as it gives connections.
pub(super) trait Dial: Clone + Send + Sync + 'static {
    type Carrier: Carrier;

    /// The connection, made anew if the last one has broken. While the store has no room for one,
    /// that is waited for until `deadline`, and then it is [`StoreErrorKind::TimedOut`].
    fn usable(&self, deadline: Time) -> Result<Arc<Self::Carrier>, Failure>;

    /// How long a request may take.
    fn limit(&self) -> Duration;

    /// The time on the clock of the deadlines.
    fn now(&self) -> Time;
}

/// For a request whose time is up.
pub(super) fn no_answer(limit: Duration) -> Failure {
    let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let detail = format!("none within {milliseconds} ms; is xenstored busy or stuck?");
    Failure::new(StoreErrorKind::TimedOut, detail)
}
