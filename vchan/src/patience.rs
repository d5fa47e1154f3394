//! How a caller waits for XenStore: in place, or as a task.
//!
//! The handshake is written once, as asynchronous functions over a [`Patience`]. A blocking caller
//! waits inside of the poll, so that one poll comes to the end ([`at_once`]); a task is woken when
//! answers have come.

use alloc::boxed::Box;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use crate::host::{Answers, Host, Ongoing, Reply, Request, Time, other_answer};
use crate::{Error, StoreError};

/// A way to wait for XenStore.
pub(crate) trait Patience: Sync {
    /// The answers to what was asked `now`, when they have come or when there is no more time for
    /// them.
    fn answers(
        &self,
        ongoing: Box<dyn Ongoing>,
        now: Time,
    ) -> impl Future<Output = Result<Answers, Error>> + Send;

    /// The same for what may as well be left undone: for a second at most.
    fn brief(&self, now: Time) -> Self;
}

/// How long the store is waited for though the caller's time is up: longer than a store that is well
/// ever needs.
const GRACE: Duration = Duration::from_secs(1);

/// Until when to wait for an answer of the store in a call that is to end by `deadline`: so that a call
/// with no time at all still does what can be done at once, and that nothing is left half done because
/// this program, and perhaps the store with it, was stopped between two questions.
pub(crate) fn with_grace(deadline: Option<Time>, now: Time) -> Option<Time> {
    deadline.map(|deadline| deadline.max(now.after(GRACE)))
}

/// Until when to wait for what may as well be left undone.
pub(crate) fn brief(deadline: Option<Time>, now: Time) -> Time {
    let brief = now.after(GRACE);
    deadline.map_or(brief, |deadline| deadline.min(brief))
}

/// Waits in place.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Blocking {
    /// By when the call is to end; `None` leaves it to the store's own limit.
    pub(crate) deadline: Option<Time>,
}

impl Patience for Blocking {
    async fn answers(&self, mut ongoing: Box<dyn Ongoing>, now: Time) -> Result<Answers, Error> {
        Ok(ongoing.wait(with_grace(self.deadline, now)))
    }

    fn brief(&self, now: Time) -> Blocking {
        let deadline = Some(brief(self.deadline, now));
        Blocking { deadline }
    }
}

/// Makes several requests at once and gives the answer to each.
pub(crate) async fn ask<const N: usize>(
    host: &Host,
    patience: &impl Patience,
    requests: [Request<'_>; N],
) -> Result<[Result<Reply, StoreError>; N], Error> {
    let answers = ask_all(host, patience, &requests).await?;
    Ok(answers.try_into().map_err(|_: Answers| other_answer())?)
}

/// The same, where their number is not known beforehand.
pub(crate) async fn ask_all(
    host: &Host,
    patience: &impl Patience,
    requests: &[Request<'_>],
) -> Result<Answers, Error> {
    let ongoing = host.store().submit(requests);
    let answers = patience.answers(ongoing, host.events().now()).await?;
    if answers.len() == requests.len() {
        Ok(answers)
    } else {
        Err(other_answer().into())
    }
}

/// Makes several requests at once, each of which must succeed.
pub(crate) async fn have_done(
    host: &Host,
    patience: &impl Patience,
    requests: &[Request<'_>],
) -> Result<(), Error> {
    for done in ask_all(host, patience, requests).await? {
        done?;
    }
    Ok(())
}

/// What a future gives that waits in place.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("who waits in place is never woken"),
    }
}
