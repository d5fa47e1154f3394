//! Runs tasks on one processor: a queue of those that can go on, and one sleep for all the others.
//!
//! A task waits for an event on a port, for a point in time, or for another task. When none can go
//! on, the guest sleeps in the hypervisor until one of the ports has an event or the first of the
//! times has come. So it serves any number of channels at once and uses no processor time while they
//! are idle.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use spin::Mutex;
use vchan::host::{Ongoing, Port, Time, Watch};
use vchan::task::{EventSource, Reactor, Readiness, Sleep};
use vchan::{Error, HostError};

use crate::guard::keeps;

/// How many steps a task may take before the others have their turn.
const STEPS_PER_TURN: u32 = 64;

/// What the executor asks of the hypervisor.
pub trait Ports: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Time;

    /// Whether `port` has an event that nobody has taken.
    fn is_pending(&self, port: Port) -> bool;

    /// Takes the event of `port`, if there is one.
    fn clear(&self, port: Port);

    /// Sleeps until one of `ports` has an event or until `deadline`; may return earlier. An event
    /// that is there already ends it at once.
    ///
    /// `ports` can be more than one hypercall takes (128): then it is for the runtime to look at
    /// the others at intervals.
    fn sleep(&self, ports: &[Port], deadline: Option<Time>);

    /// Called after a round of tasks that are not done: a busy guest never sleeps, and yet there may
    /// be something that it must hear.
    fn heed(&self);

    /// The port over which XenStore sends its events.
    fn store(&self) -> Port;
}

/// The executor. Clones are the same executor.
///
/// It is a [`Reactor`]: `Runtime::new(executor.clone())` is the runtime of `vchan`'s asynchronous
/// face.
pub struct Executor<P> {
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    ports: P,
    ready: Arc<Queue>,
    /// All tasks that are not done, by a number.
    tasks: Mutex<BTreeMap<u64, Arc<Task>>>,
    waiting: Mutex<Waiting>,
    /// How many steps the running task has left.
    steps: AtomicU32,
}

/// The tasks that can go on.
#[derive(Default)]
struct Queue {
    tasks: Mutex<VecDeque<Arc<Task>>>,
}

#[derive(Default)]
struct Waiting {
    /// Who waits for an event on which port, by a number of its own.
    events: BTreeMap<u64, (Port, Waker)>,
    /// Who waits for which time.
    times: BTreeMap<(Time, u64), Waker>,
    last: u64,
}

impl Waiting {
    fn number(&mut self) -> u64 {
        self.last = self.last.wrapping_add(1);
        self.last
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    number: u64,
    /// `None` once it is done.
    work: Mutex<Option<Work>>,
    is_queued: AtomicBool,
    queue: Arc<Queue>,
}

impl Task {
    fn enqueue(self: &Arc<Task>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            self.queue.tasks.lock().push_back(Arc::clone(self));
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Task>) {
        self.enqueue();
    }

    fn wake_by_ref(self: &Arc<Task>) {
        self.enqueue();
    }
}

/// The task that [`Executor::block_on`] is.
struct Main {
    is_woken: AtomicBool,
}

impl Wake for Main {
    fn wake(self: Arc<Main>) {
        self.is_woken.store(true, Ordering::Release);
    }
}

impl<P: Ports> Executor<P> {
    /// An executor without tasks.
    pub fn new(ports: P) -> Executor<P> {
        Executor {
            shared: Arc::new(Shared {
                ports,
                ready: Arc::default(),
                tasks: Mutex::default(),
                waiting: Mutex::default(),
                steps: AtomicU32::new(0),
            }),
        }
    }

    /// Gives the executor a task, which runs while somebody is in [`block_on`](Executor::block_on).
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let number = self.shared.waiting.lock().number();
        let task = Arc::new(Task {
            number,
            work: Mutex::new(Some(Box::pin(work))),
            is_queued: AtomicBool::new(false),
            queue: Arc::clone(&self.shared.ready),
        });
        (self.shared.tasks.lock()).insert(number, Arc::clone(&task));
        task.enqueue();
    }

    /// Drops all tasks, but the one that calls this: what they own is closed, as at the end of the
    /// program. Otherwise tasks live until they are done, whatever becomes of the executor.
    pub fn cancel_all(&self) {
        let tasks = core::mem::take(&mut *self.shared.tasks.lock());
        for task in tasks.into_values() {
            // The one that runs now is locked.
            if let Some(mut place) = task.work.try_lock() {
                let work = place.take();
                drop(place);
                drop(work);
            }
        }
    }

    /// Runs `work` and all the tasks until `work` is done. The tasks that are not done then go on
    /// at the next call.
    ///
    /// Not to be called from a task.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let main = Arc::new(Main {
            is_woken: AtomicBool::new(true),
        });
        let waker = Waker::from(Arc::clone(&main));
        loop {
            if main.is_woken.swap(false, Ordering::AcqRel) {
                self.shared.begin_turn();
                if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return done;
                }
            }
            self.shared.run_round();
            let idle =
                !main.is_woken.load(Ordering::Acquire) && self.shared.ready.tasks.lock().is_empty();
            self.shared.look(idle);
        }
    }
}

impl<P: Ports> Shared<P> {
    fn begin_turn(&self) {
        self.steps.store(STEPS_PER_TURN, Ordering::Relaxed);
    }

    /// Runs each task that can go on now once; those that are woken meanwhile come next time.
    fn run_round(&self) {
        let round = core::mem::take(&mut *self.ready.tasks.lock());
        for task in round {
            // Before it is polled: what wakes it from here on queues it anew.
            task.is_queued.store(false, Ordering::Release);
            self.begin_turn();
            let waker = Waker::from(Arc::clone(&task));
            let mut place = task.work.lock();
            let Some(work) = &mut *place else {
                continue;
            };
            if work
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
            {
                let done = place.take();
                drop(place);
                let listed = self.tasks.lock().remove(&task.number);
                // With no lock held: what it owned may do anything when it is dropped.
                drop((done, listed));
            }
        }
    }

    /// Wakes whoever waits for what has happened; when `idle`, sleeps before until something does.
    fn look(&self, idle: bool) {
        if idle {
            let waiting = self.waiting.lock();
            let mut ports: Vec<Port> = waiting.events.values().map(|(port, _)| *port).collect();
            let first = waiting.times.first_key_value();
            let deadline = first.map(|(&(time, _), _)| time);
            drop(waiting);
            ports.sort_unstable();
            ports.dedup();
            if ports.is_empty() && deadline.is_none() {
                panic!("every task waits for another one: nothing will ever happen");
            }
            self.ports.sleep(&ports, deadline);
        } else {
            self.ports.heed();
        }
        for waker in self.happened() {
            waker.wake();
        }
    }

    /// Who waits for what has happened; they wait no more.
    fn happened(&self) -> Vec<Waker> {
        let mut waiting = self.waiting.lock();
        let mut wakers = Vec::new();
        waiting.events.retain(|_, (port, waker)| {
            let pending = self.ports.is_pending(*port);
            if pending {
                wakers.push(waker.clone());
            }
            !pending
        });
        let now = self.ports.now();
        while let Some(entry) = waiting.times.first_entry() {
            if entry.key().0 > now {
                break;
            }
            wakers.push(entry.remove());
        }
        wakers
    }
}

impl<P> Clone for Executor<P> {
    fn clone(&self) -> Executor<P> {
        Executor {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<P> fmt::Debug for Executor<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

impl<P: Ports> Reactor for Executor<P> {
    fn event_channel(&self, source: EventSource) -> Result<Box<dyn Readiness>, HostError> {
        let port = source.port();
        Ok(Box::new(self.watched(port, Some(source))))
    }

    fn store(&self, _watch: &dyn Watch) -> Result<Box<dyn Readiness>, HostError> {
        Ok(Box::new(self.watched(self.shared.ports.store(), None)))
    }

    fn answers(&self, _ongoing: &dyn Ongoing) -> Result<Option<Box<dyn Readiness>>, HostError> {
        Ok(Some(Box::new(
            self.watched(self.shared.ports.store(), None),
        )))
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(Until {
            time: self.shared.ports.now().after(duration),
            number: self.shared.waiting.lock().number(),
            shared: Arc::clone(&self.shared),
        })
    }

    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.shared.steps.load(Ordering::Relaxed);
        if left == 0 && keeps("turns") {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.shared
            .steps
            .store(left.saturating_sub(1), Ordering::Relaxed);
        Poll::Ready(())
    }
}

impl<P: Ports> Executor<P> {
    fn watched(&self, port: Port, source: Option<EventSource>) -> WatchedPort<P> {
        WatchedPort {
            port,
            number: self.shared.waiting.lock().number(),
            shared: Arc::clone(&self.shared),
            source,
        }
    }
}

/// A port that somebody may wait for.
struct WatchedPort<P: Ports> {
    port: Port,
    number: u64,
    shared: Arc<Shared<P>>,
    /// The event channel, which takes its events itself; none for XenStore's port.
    source: Option<EventSource>,
}

impl<P: Ports> Readiness for WatchedPort<P> {
    fn poll_take(
        &self,
        waker: &Waker,
        take: &mut dyn FnMut() -> Result<bool, Error>,
    ) -> Poll<Result<bool, Error>> {
        let Shared { ports, waiting, .. } = &*self.shared;
        if !ports.is_pending(self.port) {
            let entry = (self.port, waker.clone());
            let before = waiting.lock().events.insert(self.number, entry);
            // With no lock held: it may be all that was left of a task.
            drop(before);
            return Poll::Pending;
        }
        if self.source.is_none() {
            // Before the look: what comes after it is an event anew. The others that wait for this
            // port learn of what this look finds from the watches that it is for.
            ports.clear(self.port);
        }
        Poll::Ready(take())
    }
}

impl<P: Ports> Drop for WatchedPort<P> {
    fn drop(&mut self) {
        let forgotten = self.shared.waiting.lock().events.remove(&self.number);
        drop(forgotten);
    }
}

/// A future that is ready at a time.
struct Until<P: Ports> {
    time: Time,
    number: u64,
    shared: Arc<Shared<P>>,
}

impl<P: Ports> Future for Until<P> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.time <= self.shared.ports.now() {
            return Poll::Ready(());
        }
        let (key, waker) = ((self.time, self.number), cx.waker().clone());
        let before = self.shared.waiting.lock().times.insert(key, waker);
        drop(before);
        Poll::Pending
    }
}

impl<P: Ports> Drop for Until<P> {
    fn drop(&mut self) {
        let key = (self.time, self.number);
        let forgotten = self.shared.waiting.lock().times.remove(&key);
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests;
