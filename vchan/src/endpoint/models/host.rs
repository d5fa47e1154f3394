//! The host that the models run on: event channels, a clock, and nothing else.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::task::{Poll, Waker};
use core::time::Duration;

use loom::sync::atomic::AtomicBool;

use crate::endpoint::Readiness;
use crate::host::{
    EventChannel, EventChannels, GrantRef, Grants, Host, Port, Shared, Store, Time, UnmapNotify,
    Watch,
};
use crate::memory::{Access, Region};
use crate::sync::{Condvar, Mutex};
use crate::{DomId, Error, HostError, StoreError, StorePath};

/// One direction of an event channel: the events that one end has not taken yet.
#[derive(Default)]
pub(super) struct Line {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Default)]
struct LineState {
    pending: bool,
    masked: bool,
    /// Ends every sleep: the clock has struck.
    struck: bool,
    /// Ends one sleep.
    rung: bool,
    /// Woken by the next event.
    waker: Option<Waker>,
}

impl Line {
    fn post(&self) {
        let mut state = self.state.lock().unwrap();
        state.pending = true;
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether an event came that was not taken yet.
    pub(super) fn is_pending(&self) -> bool {
        self.state.lock().unwrap().pending
    }

    fn strike(&self) {
        self.state.lock().unwrap().struck = true;
        self.changed.notify_all();
    }
}

struct ModelChannel {
    ours: Arc<Line>,
    theirs: Arc<Line>,
}

impl EventChannel for ModelChannel {
    fn port(&self) -> Port {
        Port(1)
    }

    fn notify(&self) -> Result<(), HostError> {
        self.theirs.post();
        Ok(())
    }

    fn take(&self) -> Result<bool, HostError> {
        let mut state = self.ours.state.lock().unwrap();
        let taken = state.pending && !state.masked;
        if taken {
            (state.pending, state.masked) = (false, true);
        }
        Ok(taken)
    }

    fn unmask(&self) -> Result<(), HostError> {
        self.ours.state.lock().unwrap().masked = false;
        self.ours.changed.notify_all();
        Ok(())
    }

    fn sleep(&self, _most: Option<Duration>) -> Result<(), HostError> {
        let mut state = self.ours.state.lock().unwrap();
        while !state.struck && !state.rung && (state.masked || !state.pending) {
            state = self.ours.changed.wait(state).unwrap();
        }
        state.rung = false;
        Ok(())
    }

    fn wake(&self) {
        self.ours.state.lock().unwrap().rung = true;
        self.ours.changed.notify_all();
    }

    fn is_bound(&self) -> Result<Option<bool>, HostError> {
        Ok(None)
    }
}

/// A runtime that knows of the event when it comes, and keeps one waker as tokio does.
impl Readiness for Arc<Line> {
    fn poll_take(
        &self,
        waker: &Waker,
        take: &mut dyn FnMut() -> Result<bool, Error>,
    ) -> Poll<Result<bool, Error>> {
        {
            let mut state = self.state.lock().unwrap();
            if !state.pending {
                state.waker = Some(waker.clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(take())
    }
}

/// A host that has a clock, and nothing else that an endpoint would ask for.
struct ModelHost {
    struck: Arc<AtomicBool>,
}

impl EventChannels for ModelHost {
    fn bind_unbound(&self, _: DomId) -> Result<Box<dyn EventChannel>, HostError> {
        unreachable!("a model is bound already")
    }

    fn bind_interdomain(&self, _: DomId, _: Port) -> Result<Box<dyn EventChannel>, HostError> {
        unreachable!("a model is bound already")
    }

    fn now(&self) -> Time {
        let struck = self.struck.load(Ordering::SeqCst);
        Time(if struck { DEADLINE } else { Duration::ZERO })
    }

    fn pause(&self, _duration: Duration) {
        unreachable!("nothing is set up in a model");
    }

    fn give_way(&self) -> bool {
        loom::thread::yield_now();
        true
    }
}

/// When the clock has struck; before, it stands at zero.
pub(super) const DEADLINE: Duration = Duration::from_millis(1);

struct Nothing;

impl Grants for Nothing {
    fn share(
        &self,
        _: DomId,
        _: usize,
        _: Access,
        _: Option<UnmapNotify>,
    ) -> Result<Shared, HostError> {
        unreachable!("a model has its pages already")
    }

    fn map(
        &self,
        _: DomId,
        _: &[GrantRef],
        _: Access,
        _: Option<UnmapNotify>,
    ) -> Result<Region, HostError> {
        unreachable!("a model has its pages already")
    }
}

impl Store for Nothing {
    fn read(&self, _: &StorePath) -> Result<Vec<u8>, StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn write(&self, _: &StorePath, _: &[u8]) -> Result<(), StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn remove(&self, _: &StorePath) -> Result<(), StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn directory(&self, _: &StorePath) -> Result<Vec<alloc::string::String>, StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn permissions(&self, _: &StorePath) -> Result<crate::host::Permissions, StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn set_permissions(
        &self,
        _: &StorePath,
        _: &crate::host::Permissions,
    ) -> Result<(), StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn is_domain_introduced(&self, _: DomId) -> Result<bool, StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn watch(&self, _: &StorePath) -> Result<Box<dyn Watch>, StoreError> {
        unreachable!("an endpoint asks no store")
    }
}

/// What a host has: a clock, and the event channel of the one connection.
pub(super) struct Clock {
    struck: Arc<AtomicBool>,
    lines: [Arc<Line>; 2],
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock {
            struck: Arc::new(AtomicBool::new(false)),
            lines: [Arc::new(Line::default()), Arc::new(Line::default())],
        }
    }

    /// A host that goes by this clock.
    pub(super) fn host(&self) -> Host {
        let struck = Arc::clone(&self.struck);
        Host::new(Nothing, ModelHost { struck }, Nothing)
    }

    /// One end, 0 or 1, of the event channel.
    pub(super) fn port(&self, end: usize) -> Box<dyn EventChannel> {
        Box::new(ModelChannel {
            ours: Arc::clone(&self.lines[end]),
            theirs: Arc::clone(&self.lines[1 - end]),
        })
    }

    /// The events for that end.
    pub(super) fn line(&self, end: usize) -> &Arc<Line> {
        &self.lines[end]
    }

    pub(super) fn strike(&self) {
        self.struck.store(true, Ordering::SeqCst);
        self.lines.iter().for_each(|line| line.strike());
    }
}
