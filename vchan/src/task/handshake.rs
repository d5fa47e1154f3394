//! Connecting and accepting: the steps of the blocking face, with waits that let others run.

use alloc::boxed::Box;
use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;

use super::{Channel, EventSource, Readiness, Runtime};
use crate::host::{Answers, Countdown, Host, Ongoing, Time, Watch};
use crate::patience::{Patience, brief, with_grace};
use crate::{ClientBuilder, Error, Server, ServerBuilder};

/// How often a task looks for answers where nothing tells of them, as while the store has no room for
/// another connection.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Waits for XenStore as a task.
struct InTask<'a> {
    runtime: &'a Runtime,
    host: Host,
    /// By when the call is to end; `None` leaves it to the store's own limit.
    deadline: Option<Time>,
}

impl<'a> InTask<'a> {
    /// For a call that is to end by `deadline`.
    fn within(deadline: Option<Time>, host: &Host, runtime: &'a Runtime) -> InTask<'a> {
        InTask {
            runtime,
            host: host.clone(),
            deadline,
        }
    }
}

impl Patience for InTask<'_> {
    async fn answers(&self, mut ongoing: Box<dyn Ongoing>, now: Time) -> Result<Answers, Error> {
        let deadline = with_grace(self.deadline, now);
        let ends = [deadline, ongoing.limit()].into_iter().flatten().min();
        let mut limit = Countdown::new(ends.map_or(Duration::MAX, |end| end.since(now)));
        loop {
            // Those of a store that waits in place are there.
            if let Some(answers) = ongoing.poll() {
                return Ok(answers);
            }
            let Some(nap) = limit.nap(self.now()) else {
                return Ok(ongoing.wait(Some(self.now())));
            };
            let pause = nap.until.since(self.now());
            match self.runtime.reactor().answers(&*ongoing)? {
                Some(readiness) => {
                    let answered = self.answered(&mut *ongoing, &*readiness, pause).await?;
                    if let Some(answers) = answered {
                        return Ok(answers);
                    }
                }
                None => self.runtime.sleep(pause.min(LOOK_INTERVAL)).await,
            }
            limit.slept(nap, self.now());
        }
    }

    fn brief(&self, now: Time) -> Self {
        InTask {
            runtime: self.runtime,
            host: self.host.clone(),
            deadline: Some(brief(self.deadline, now)),
        }
    }
}

impl InTask<'_> {
    fn now(&self) -> Time {
        self.host.events().now()
    }

    /// Waits until all is answered, at most for `pause`; `None` means that.
    async fn answered(
        &self,
        ongoing: &mut dyn Ongoing,
        readiness: &dyn Readiness,
        pause: Duration,
    ) -> Result<Option<Answers>, Error> {
        let mut over = self.runtime.sleep(pause);
        poll_fn(|cx| {
            // Others read from the store, too, and may read what this waits for.
            ongoing.register(cx.waker());
            let mut answers = ongoing.poll();
            while answers.is_none() {
                let mut look = || {
                    answers = ongoing.poll();
                    Ok(answers.is_some())
                };
                match readiness.poll_take(cx.waker(), &mut look) {
                    Poll::Ready(looked) => _ = looked?,
                    Poll::Pending => return over.as_mut().poll(cx).map(|()| Ok(None)),
                }
            }
            Poll::Ready(Ok(answers))
        })
        .await
    }
}

impl ServerBuilder {
    /// Shares the pages and publishes them, as [`ServerBuilder::bind`], in a task of `runtime`.
    ///
    /// # Errors
    /// As there.
    pub async fn bind_on(self, runtime: &Runtime) -> Result<Server, Error> {
        let patience = InTask::within(None, self.host(), runtime);
        self.bind_with(&patience).await
    }
}

impl Server {
    /// The channel that the next client will have, as [`Server::pending`], in a task of `runtime`.
    ///
    /// # Errors
    /// As there.
    pub async fn pending_on(&mut self, runtime: &Runtime) -> Result<&mut crate::Channel, Error> {
        let patience = InTask::within(None, self.host(), runtime);
        self.pending_with(&patience).await
    }

    /// Waits for a client, as [`Server::accept`], in a task of `runtime`.
    ///
    /// Cancelling it loses no client: the channel stays on offer.
    ///
    /// # Errors
    /// As there.
    pub async fn accept_on(&mut self, runtime: &Runtime) -> Result<Channel, Error> {
        loop {
            let patience = InTask::within(None, self.host(), runtime);
            if let Some(channel) = self.accepted(&patience).await? {
                return Channel::new(channel, runtime);
            }
            let Some(channel) = self.on_offer() else {
                continue;
            };
            let link = channel.link();
            let readiness = EventSource::watched_by(runtime, link)?;
            // Then it is time to look whether the client's domain has come to exist, or what the
            // store says.
            let now = self.host().events().now();
            let mut look = runtime.sleep(self.pause(now).since(now));
            poll_fn(|cx| {
                let mut take = || Ok(link.wakeups().take_polled()?);
                match readiness.poll_take(cx.waker(), &mut take) {
                    Poll::Ready(taken) => Poll::Ready(taken.map(drop)),
                    Poll::Pending => look.as_mut().poll(cx).map(Ok),
                }
            })
            .await?;
        }
    }

    /// Takes the keys back and ends the server, as dropping it does, in a task of `runtime`: without
    /// waiting in place for a XenStore that does not answer.
    ///
    /// # Errors
    /// [`Error::Store`] when the keys could not be removed.
    pub async fn close_on(mut self, runtime: &Runtime) -> Result<(), Error> {
        let patience = InTask::within(None, self.host(), runtime);
        self.withdraw(&patience).await
    }
}

impl ClientBuilder {
    /// Connects, waiting until the server has published, as [`ClientBuilder::connect`], in a task of
    /// `runtime`.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_on(self, runtime: &Runtime) -> Result<Channel, Error> {
        let (host, deadline) = (self.host().clone(), self.deadline());
        let patience = || InTask::within(deadline, &host, runtime);
        let mut client = self.start_with(deadline, &patience()).await?;
        loop {
            if let Some(channel) = client.attempt_with(&patience()).await? {
                return Channel::new(channel, runtime);
            }
            client.look_at_deadline()?;
            let until = client.wait_until();
            let last = until == deadline;
            let fired = match client.watch(&patience()).await {
                Ok(watch) => {
                    let rest = until.map(|until| until.since(host.events().now()));
                    fired(watch, runtime, rest).await
                }
                Err(error) => Err(error),
            };
            match fired {
                Ok(false) if last => return Err(client.timed_out()),
                // The watch has fired, or it is time to try again.
                Ok(_) => {}
                Err(error) => {
                    client.bear(error)?;
                    runtime.sleep(client.outage_pause()?).await;
                }
            }
        }
    }
}

/// Waits until a watch has fired, at most for `limit`; false means the limit.
async fn fired(
    watch: &dyn Watch,
    runtime: &Runtime,
    limit: Option<Duration>,
) -> Result<bool, Error> {
    let readiness = runtime.reactor().store(watch)?;
    let mut over = limit.map(|limit| runtime.sleep(limit));
    poll_fn(|cx| {
        // Others read from the store, too, and may read what this watch waits for.
        watch.register(cx.waker());
        let mut fired = watch.take()?;
        while !fired {
            match readiness.poll_take(cx.waker(), &mut || Ok(watch.take()?)) {
                Poll::Ready(taken) => fired = taken?,
                Poll::Pending => {
                    return match &mut over {
                        Some(over) => over.as_mut().poll(cx).map(|()| Ok(false)),
                        None => Poll::Pending,
                    };
                }
            }
        }
        Poll::Ready(Ok(true))
    })
    .await
}
