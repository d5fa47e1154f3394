//! A host through which a test sees, delays and fails what a channel asks for.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use vchan::host::{
    Answers, EventChannel, EventChannels, GrantRef, Grants, Ongoing, Permissions, Port, Request,
    Shared, Store, Time, UnmapNotify, Watch,
};
use vchan::memory::{Access, Region};
use vchan::{DomId, Host, HostError, StoreError, StorePath};

type Hook<T> = Mutex<Option<Box<dyn FnMut(T) + Send>>>;

/// How often a wait looks at the peer, whatever its deadline.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What was asked of the host, and what a test does in between.
#[derive(Default)]
pub struct Calls {
    pub notify: AtomicU64,
    pub take: AtomicU64,
    pub unmask: AtomicU64,
    pub sleep: AtomicU64,
    /// Looks at the clock.
    pub now: AtomicU64,
    pub give_way: AtomicU64,
    /// Sending events fails while this is set.
    pub notify_fails: AtomicBool,
    /// While this is set, nothing ends a sleep but an event, another thread or a deadline that is near:
    /// the look that every wait takes once a second makes no lost event good.
    pub never_looks: AtomicBool,
    /// While this is set, no port is the caller's own any more, as after a restore.
    pub ports_are_lost: AtomicBool,
    /// How often XenStore was waited for in place.
    pub waits_for_store: AtomicU64,
    /// Called before an event is taken.
    pub before_take: Hook<()>,
    /// Called before a sleep.
    pub before_sleep: Hook<()>,
    /// Called instead of giving the processor away, where others of this machine may have it for long.
    pub when_giving_way: Hook<()>,
    /// Called before pages are mapped, with their references.
    pub before_map: Hook<Vec<GrantRef>>,
}

impl Calls {
    /// All calls that events cause: to take, to unmask, to sleep.
    pub fn for_events(&self) -> u64 {
        self.take.load(Relaxed) + self.unmask.load(Relaxed) + self.sleep.load(Relaxed)
    }

    /// Whether there is such a hook.
    fn run<T>(hook: &Hook<T>, what: T) -> bool {
        // Taken out meanwhile: what it does may come back here.
        let taken = hook.lock().unwrap().take();
        let there = taken.is_some();
        if let Some(mut call) = taken {
            call(what);
            hook.lock().unwrap().get_or_insert(call);
        }
        there
    }
}

pub fn hook<T>(place: &Hook<T>, call: impl FnMut(T) + Send + 'static) {
    *place.lock().unwrap() = Some(Box::new(call));
}

/// `host`, watched.
pub fn watched(host: &Host) -> (Host, Arc<Calls>) {
    let calls = Arc::new(Calls::default());
    let through = || Through {
        host: host.clone(),
        calls: Arc::clone(&calls),
    };
    (Host::new(through(), through(), through()), calls)
}

struct Through {
    host: Host,
    calls: Arc<Calls>,
}

impl Grants for Through {
    fn share(
        &self,
        peer: DomId,
        pages: usize,
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Shared, HostError> {
        self.host.grants().share(peer, pages, access, notify)
    }

    fn map(
        &self,
        peer: DomId,
        references: &[GrantRef],
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Region, HostError> {
        Calls::run(&self.calls.before_map, references.to_vec());
        self.host.grants().map(peer, references, access, notify)
    }
}

impl EventChannels for Through {
    fn bind_unbound(&self, peer: DomId) -> Result<Box<dyn EventChannel>, HostError> {
        let inner = self.host.events().bind_unbound(peer)?;
        Ok(self.channel(inner))
    }

    fn bind_interdomain(
        &self,
        peer: DomId,
        port: Port,
    ) -> Result<Box<dyn EventChannel>, HostError> {
        let inner = self.host.events().bind_interdomain(peer, port)?;
        Ok(self.channel(inner))
    }

    fn now(&self) -> Time {
        self.calls.now.fetch_add(1, Relaxed);
        self.host.events().now()
    }

    fn pause(&self, duration: Duration) {
        self.host.events().pause(duration);
    }

    fn give_way(&self) -> bool {
        self.calls.give_way.fetch_add(1, Relaxed);
        Calls::run(&self.calls.when_giving_way, ()) || self.host.events().give_way()
    }
}

impl Through {
    fn channel(&self, inner: Box<dyn EventChannel>) -> Box<dyn EventChannel> {
        Box::new(WatchedChannel {
            inner,
            host: self.host.clone(),
            calls: Arc::clone(&self.calls),
        })
    }
}

struct WatchedChannel {
    inner: Box<dyn EventChannel>,
    host: Host,
    calls: Arc<Calls>,
}

impl EventChannel for WatchedChannel {
    fn port(&self) -> Port {
        self.inner.port()
    }

    fn notify(&self) -> Result<(), HostError> {
        self.calls.notify.fetch_add(1, Relaxed);
        if self.calls.notify_fails.load(Relaxed) {
            return Err(HostError::new("send an event, says the test"));
        }
        self.inner.notify()
    }

    fn take(&self) -> Result<bool, HostError> {
        self.calls.take.fetch_add(1, Relaxed);
        Calls::run(&self.calls.before_take, ());
        self.inner.take()
    }

    fn unmask(&self) -> Result<(), HostError> {
        self.calls.unmask.fetch_add(1, Relaxed);
        self.inner.unmask()
    }

    fn sleep(&self, most: Option<Duration>) -> Result<(), HostError> {
        self.calls.sleep.fetch_add(1, Relaxed);
        Calls::run(&self.calls.before_sleep, ());
        let never_looks = self.calls.never_looks.load(Relaxed);
        let most = most.filter(|most| !never_looks || *most < LOOK_INTERVAL / 2);
        self.inner.sleep(most)
    }

    fn wake(&self) {
        self.inner.wake();
    }

    fn is_bound(&self) -> Result<Option<bool>, HostError> {
        if self.calls.ports_are_lost.load(Relaxed) {
            return Err(HostError::new("look at a port, says the test"));
        }
        self.inner.is_bound()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }
}

impl Store for Through {
    fn read(&self, path: &StorePath) -> Result<Vec<u8>, StoreError> {
        self.host.store().read(path)
    }

    fn write(&self, path: &StorePath, value: &[u8]) -> Result<(), StoreError> {
        self.host.store().write(path, value)
    }

    fn remove(&self, path: &StorePath) -> Result<(), StoreError> {
        self.host.store().remove(path)
    }

    fn directory(&self, path: &StorePath) -> Result<Vec<String>, StoreError> {
        self.host.store().directory(path)
    }

    fn permissions(&self, path: &StorePath) -> Result<Permissions, StoreError> {
        self.host.store().permissions(path)
    }

    fn set_permissions(&self, path: &StorePath, to: &Permissions) -> Result<(), StoreError> {
        self.host.store().set_permissions(path, to)
    }

    fn is_domain_introduced(&self, domid: DomId) -> Result<bool, StoreError> {
        self.host.store().is_domain_introduced(domid)
    }

    fn watch(&self, path: &StorePath) -> Result<Box<dyn Watch>, StoreError> {
        self.host.store().watch(path)
    }

    fn submit(&self, requests: &[Request<'_>]) -> Box<dyn Ongoing> {
        Box::new(WatchedOngoing {
            inner: self.host.store().submit(requests),
            host: self.host.clone(),
            calls: Arc::clone(&self.calls),
        })
    }
}

struct WatchedOngoing {
    inner: Box<dyn Ongoing>,
    host: Host,
    calls: Arc<Calls>,
}

impl Ongoing for WatchedOngoing {
    fn poll(&mut self) -> Option<Answers> {
        self.inner.poll()
    }

    fn wait(&mut self, deadline: Option<Time>) -> Answers {
        // Who has no time left takes what is there.
        if deadline.is_none_or(|deadline| deadline > self.host.events().now()) {
            self.calls.waits_for_store.fetch_add(1, Relaxed);
        }
        self.inner.wait(deadline)
    }

    fn limit(&self) -> Option<Time> {
        self.inner.limit()
    }

    fn register(&mut self, waker: &Waker) {
        self.inner.register(waker);
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }
}
