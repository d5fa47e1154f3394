//! Several requests under way at once.
//!
//! On a socket they are sent together, and answered in one round trip. The kernel's device takes
//! them one at a time, each when the one before it is answered.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::task::Waker;
#[cfg(feature = "std")]
use std::os::fd::BorrowedFd;

use super::carrier::{Carrier, Dial, no_answer};
use super::encoding::{self, Encoded, NoReply};
use super::exchange::{Answer, Failure};
use super::watch::{NodeWatch, watch_payload};
use crate::host::{Answers, Countdown, Ongoing, Reply, Request, Time, Watch, other_answer};
use crate::{StoreError, StoreErrorKind, StorePath};

/// Requests that were made together.
pub(super) struct Batch<D: Dial> {
    client: D,
    since: Time,
    /// None as long as the store has no room for another connection.
    connection: Option<Arc<D::Carrier>>,
    asked: Vec<Asked>,
    /// Who is to be woken when there may be something to do.
    waker: Option<Waker>,
}

/// Sets a watch and waits for it.
pub(super) fn watch(client: &impl Dial, path: &StorePath) -> Result<Box<dyn Watch>, StoreError> {
    let answers = Batch::new(client, &[Request::Watch(path)]).wait(None);
    let answer = answers.into_iter().next();
    answer.unwrap_or_else(|| Err(other_answer()))?.watch()
}

/// One of them.
struct Asked {
    encoded: Encoded,
    /// What is to be watched, if that is the request.
    watched: Option<StorePath>,
    progress: Progress,
}

enum Progress {
    Unsent,
    /// By its number, with that of the watch that it is to set.
    Sent(u32, Option<u64>),
    Answered(Result<Reply, StoreError>),
    HandedOut,
}

impl<D: Dial> Batch<D> {
    pub(super) fn new(client: &D, requests: &[Request<'_>]) -> Batch<D> {
        let since = client.now();
        let mut batch = Batch {
            client: client.clone(),
            since,
            connection: None,
            asked: requests.iter().copied().map(Asked::new).collect(),
            waker: None,
        };
        // Nor is a place in the store's queue of new connections waited for.
        batch.send(since);
        batch
    }

    /// Sends what is not sent, over a new connection if it must be, for which it waits until
    /// `deadline`.
    fn send(&mut self, deadline: Time) {
        if self.connection.is_some() {
            return;
        }
        match self.client.usable(deadline) {
            Ok(connection) => {
                for asked in &mut self.asked {
                    asked.send(&*connection);
                }
                connection.push();
                self.connection = Some(connection);
            }
            // There may be room a little later.
            Err(failure) if failure.kind == StoreErrorKind::TimedOut => {}
            Err(failure) => self.fail(&failure),
        }
    }

    fn fail(&mut self, failure: &Failure) {
        for asked in &mut self.asked {
            if matches!(asked.progress, Progress::Unsent | Progress::Sent(..)) {
                asked.fail(failure);
            }
        }
    }

    fn hand_out(&mut self) -> Answers {
        let failure = no_answer(self.client.limit());
        let missing = |asked: &Asked| Err(failure.during(asked.encoded.doing.as_str()));
        let hand_out =
            |asked: &mut Asked| match mem::replace(&mut asked.progress, Progress::HandedOut) {
                Progress::Answered(answer) => answer,
                _ => missing(asked),
            };
        self.asked.iter_mut().map(hand_out).collect()
    }

    /// Nobody waits for the rest any more.
    fn abandon(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        for asked in &mut self.asked {
            if let Progress::Sent(id, watch) = asked.progress {
                connection.abandon(id);
                asked.progress = Progress::HandedOut;
                if let (Some(watch), Some(path)) = (watch, &asked.watched) {
                    // The store may still set it.
                    connection.remove_watch(watch, watch_payload(path.as_str(), watch));
                }
            }
        }
    }
}

impl<D: Dial> Ongoing for Batch<D> {
    fn poll(&mut self) -> Option<Answers> {
        let now = self.client.now();
        self.send(now);
        if let Some(connection) = self.connection.clone() {
            let drained = connection.push();
            for asked in &mut self.asked {
                if let Some((id, watch)) = asked.sent() {
                    asked.receive(&connection, watch, connection.take_answer(id));
                }
            }
            // No edge tells of what is left.
            if !drained && let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
        let is_answered = |asked: &Asked| matches!(asked.progress, Progress::Answered(_));
        (self.asked.iter().all(is_answered)).then(|| self.hand_out())
    }

    fn wait(&mut self, deadline: Option<Time>) -> Answers {
        let now = self.client.now();
        // From now: it does not count how long this program was stopped since it made the requests.
        let limit = now.after(self.client.limit());
        let deadline = deadline.map_or(limit, |deadline| deadline.min(limit));
        self.send(deadline);
        if let Some(connection) = self.connection.clone() {
            let mut limit = Countdown::new(deadline.since(now));
            for asked in &mut self.asked {
                if let Some((id, watch)) = asked.sent() {
                    let answer = connection.wait_answer(id, &mut limit);
                    asked.receive(&connection, watch, answer);
                }
            }
        }
        self.abandon();
        self.hand_out()
    }

    fn limit(&self) -> Option<Time> {
        Some(self.since.after(self.client.limit()))
    }

    fn register(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
        if let Some(connection) = &self.connection {
            for asked in &self.asked {
                if let Progress::Sent(id, _) = asked.progress {
                    connection.register_request(id, waker);
                }
            }
        }
    }

    #[cfg(feature = "std")]
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref()?.as_fd()
    }
}

impl<D: Dial> Drop for Batch<D> {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Asked {
    fn new(request: Request<'_>) -> Asked {
        Asked {
            encoded: encoding::encode(request),
            watched: match request {
                Request::Watch(path) => Some(path.clone()),
                _ => None,
            },
            progress: Progress::Unsent,
        }
    }

    fn send(&mut self, connection: &impl Carrier) {
        // The first event may come before the reply: the watch must be known by then.
        let watch = self.watched.as_ref().map(|_| connection.add_watch());
        let payload = match (&self.watched, watch) {
            (Some(path), Some(watch)) => watch_payload(path.as_str(), watch),
            _ => mem::take(&mut self.encoded.payload),
        };
        match connection.queue(self.encoded.kind, 0, payload) {
            Ok(id) => self.progress = Progress::Sent(id, watch),
            Err(failure) => {
                watch
                    .into_iter()
                    .for_each(|watch| connection.forget_watch(watch));
                self.fail(&failure);
            }
        }
    }

    /// Its number and that of its watch, if it has been sent and has no answer yet.
    fn sent(&self) -> Option<(u32, Option<u64>)> {
        match self.progress {
            Progress::Sent(id, watch) => Some((id, watch)),
            _ => None,
        }
    }

    /// Takes the answer, if it is there.
    fn receive(
        &mut self,
        connection: &Arc<impl Carrier>,
        watch: Option<u64>,
        answer: Result<Option<Answer>, Failure>,
    ) {
        let reply = match answer {
            Ok(None) => return,
            Ok(Some(answer)) => encoding::decode(self.encoded.kind, answer, &self.encoded.doing),
            Err(failure) => {
                watch
                    .into_iter()
                    .for_each(|watch| connection.forget_watch(watch));
                return self.fail(&failure);
            }
        };
        self.progress = Progress::Answered(match (reply, watch, self.watched.take()) {
            (Ok(_), Some(watch), Some(path)) => {
                let watch = NodeWatch::new(Arc::clone(connection), watch, path);
                Ok(Reply::Watch(Box::new(watch)))
            }
            (Ok(reply), ..) => Ok(reply),
            (Err(why), watch, _) => {
                watch
                    .into_iter()
                    .for_each(|watch| connection.forget_watch(watch));
                Err(match why {
                    NoReply::Error(error) => error,
                    NoReply::Malformed(malformed) => connection
                        .malformed(malformed)
                        .during(self.encoded.doing.as_str()),
                })
            }
        });
    }

    fn fail(&mut self, failure: &Failure) {
        let error = failure.during(self.encoded.doing.as_str());
        self.progress = Progress::Answered(Err(error));
    }
}
