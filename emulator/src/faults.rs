//! Faults on purpose: a host whose every call asks a gate first.
//!
//! The gate sees each call before it happens and numbers it. It may let it pass, make it fail, or
//! do something else first: kill the process, stop it, destroy its domain. A test that does so at
//! the first call, then at the second, and so on until a run completes untouched has tried every
//! step.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use vchan::host::{
    EventChannel, EventChannels, GrantRef, Grants, Permissions, Port, Shared, Store, Time,
    UnmapNotify, Watch,
};
use vchan::memory::{Access, Region};
use vchan::{DomId, Host, HostError, StoreError, StoreErrorKind, StorePath};

/// A call that is about to happen.
#[derive(Clone, Debug)]
pub struct Call {
    /// How many calls came before it on this host.
    pub nth: u64,
    /// What it is: the name of a method of [`vchan::host`], or, for what a drop undoes, `unshare`,
    /// `unmap`, `close` (of a port) and `unwatch`.
    pub name: &'static str,
}

/// What becomes of a [`Call`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It happens.
    Pass,
    /// It does not happen, and its caller gets an error. (What a drop undoes cannot fail.)
    Fail,
}

/// The same host, with `gate` asked before each call. Reading the clock is no call.
pub fn gated(host: &Host, gate: impl Fn(&Call) -> Verdict + Send + Sync + 'static) -> Host {
    let gate = Arc::new(Gate {
        ask: Box::new(gate),
        calls: AtomicU64::new(0),
    });
    let gated = || Gated {
        host: host.clone(),
        gate: Arc::clone(&gate),
    };
    Host::new(gated(), gated(), gated())
}

/// The calls of a gated host so far, by name. Clones share one list.
#[derive(Clone, Default, Debug)]
pub struct Log {
    names: Arc<Mutex<Vec<&'static str>>>,
}

impl Log {
    /// Notes a call; for use in a gate.
    pub fn note(&self, call: &Call) {
        self.lock().push(call.name);
    }

    /// The names so far, in order.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.lock().clone()
    }

    /// How often `name` is among them.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.lock().iter().filter(|it| **it == name).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<&'static str>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Gate {
    ask: Box<dyn Fn(&Call) -> Verdict + Send + Sync>,
    calls: AtomicU64,
}

impl Gate {
    fn ask(&self, name: &'static str) -> Verdict {
        let nth = self.calls.fetch_add(1, Ordering::Relaxed);
        (self.ask)(&Call { nth, name })
    }

    fn host(&self, name: &'static str) -> Result<(), HostError> {
        match self.ask(name) {
            Verdict::Pass => Ok(()),
            Verdict::Fail => Err(HostError::new(name).because(ON_PURPOSE)),
        }
    }

    fn store(&self, name: &'static str) -> Result<(), StoreError> {
        match self.ask(name) {
            Verdict::Pass => Ok(()),
            Verdict::Fail => Err(StoreError::new(StoreErrorKind::Quota, name).detail(ON_PURPOSE)),
        }
    }
}

/// Why a call fails that a gate stops.
const ON_PURPOSE: &str = "a fault on purpose";

/// A part of a host, or what came from one, behind a gate.
struct Gated {
    host: Host,
    gate: Arc<Gate>,
}

/// Asks the gate when dropped.
struct OnDrop {
    name: &'static str,
    gate: Arc<Gate>,
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.gate.ask(self.name);
    }
}

impl Gated {
    /// The region, whose end the gate sees right after it is unmapped, before the host does.
    fn region(&self, region: Region, name: &'static str) -> Region {
        let gate = Arc::clone(&self.gate);
        region.then_drop(Box::new(OnDrop { name, gate }))
    }

    fn channel(&self, channel: Box<dyn EventChannel>) -> Box<dyn EventChannel> {
        let gate = Arc::clone(&self.gate);
        Box::new(GatedChannel {
            _close: OnDrop {
                name: "close",
                gate,
            },
            channel,
            gate: Arc::clone(&self.gate),
        })
    }
}

impl Grants for Gated {
    fn share(
        &self,
        peer: DomId,
        pages: usize,
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Shared, HostError> {
        self.gate.host("share")?;
        let Shared { references, region } =
            self.host.grants().share(peer, pages, access, notify)?;
        let region = self.region(region, "unshare");
        Ok(Shared { references, region })
    }

    fn map(
        &self,
        peer: DomId,
        references: &[GrantRef],
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Region, HostError> {
        self.gate.host("map")?;
        let region = self.host.grants().map(peer, references, access, notify)?;
        Ok(self.region(region, "unmap"))
    }
}

impl EventChannels for Gated {
    fn bind_unbound(&self, peer: DomId) -> Result<Box<dyn EventChannel>, HostError> {
        self.gate.host("bind_unbound")?;
        Ok(self.channel(self.host.events().bind_unbound(peer)?))
    }

    fn bind_interdomain(
        &self,
        peer: DomId,
        port: Port,
    ) -> Result<Box<dyn EventChannel>, HostError> {
        self.gate.host("bind_interdomain")?;
        Ok(self.channel(self.host.events().bind_interdomain(peer, port)?))
    }

    fn now(&self) -> Time {
        self.host.events().now()
    }

    fn pause(&self, duration: Duration) {
        self.host.events().pause(duration);
    }

    fn give_way(&self) -> bool {
        // Where it is refused, nothing was done.
        self.gate.host("give_way").is_ok() && self.host.events().give_way()
    }
}

struct GatedChannel {
    /// Dropped first: the gate is asked before the port is closed.
    _close: OnDrop,
    channel: Box<dyn EventChannel>,
    gate: Arc<Gate>,
}

impl EventChannel for GatedChannel {
    fn port(&self) -> Port {
        self.channel.port()
    }

    fn notify(&self) -> Result<(), HostError> {
        self.gate.host("notify")?;
        self.channel.notify()
    }

    fn take(&self) -> Result<bool, HostError> {
        self.gate.host("take")?;
        self.channel.take()
    }

    fn unmask(&self) -> Result<(), HostError> {
        self.gate.host("unmask")?;
        self.channel.unmask()
    }

    fn sleep(&self, most: Option<Duration>) -> Result<(), HostError> {
        self.gate.host("sleep")?;
        self.channel.sleep(most)
    }

    /// Not of the host's doing, so no call that fails.
    fn wake(&self) {
        self.channel.wake();
    }

    fn is_bound(&self) -> Result<Option<bool>, HostError> {
        self.gate.host("is_bound")?;
        self.channel.is_bound()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_fd()
    }
}

impl Store for Gated {
    fn read(&self, path: &StorePath) -> Result<Vec<u8>, StoreError> {
        self.gate.store("read")?;
        self.host.store().read(path)
    }

    fn write(&self, path: &StorePath, value: &[u8]) -> Result<(), StoreError> {
        self.gate.store("write")?;
        self.host.store().write(path, value)
    }

    fn remove(&self, path: &StorePath) -> Result<(), StoreError> {
        self.gate.store("remove")?;
        self.host.store().remove(path)
    }

    fn directory(&self, path: &StorePath) -> Result<Vec<String>, StoreError> {
        self.gate.store("directory")?;
        self.host.store().directory(path)
    }

    fn permissions(&self, path: &StorePath) -> Result<Permissions, StoreError> {
        self.gate.store("permissions")?;
        self.host.store().permissions(path)
    }

    fn set_permissions(
        &self,
        path: &StorePath,
        permissions: &Permissions,
    ) -> Result<(), StoreError> {
        self.gate.store("set_permissions")?;
        self.host.store().set_permissions(path, permissions)
    }

    fn is_domain_introduced(&self, domid: DomId) -> Result<bool, StoreError> {
        self.gate.store("is_domain_introduced")?;
        self.host.store().is_domain_introduced(domid)
    }

    fn watch(&self, path: &StorePath) -> Result<Box<dyn Watch>, StoreError> {
        self.gate.store("watch")?;
        let gate = Arc::clone(&self.gate);
        Ok(Box::new(GatedWatch {
            _unwatch: OnDrop {
                name: "unwatch",
                gate,
            },
            watch: self.host.store().watch(path)?,
            gate: Arc::clone(&self.gate),
        }))
    }
}

struct GatedWatch {
    _unwatch: OnDrop,
    watch: Box<dyn Watch>,
    gate: Arc<Gate>,
}

impl Watch for GatedWatch {
    fn take(&self) -> Result<bool, StoreError> {
        self.gate.store("take_watch")?;
        self.watch.take()
    }

    fn wait(&self, deadline: Option<Time>) -> Result<bool, StoreError> {
        self.gate.store("wait")?;
        self.watch.wait(deadline)
    }

    fn register(&self, waker: &Waker) {
        self.watch.register(waker);
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_fd()
    }
}
