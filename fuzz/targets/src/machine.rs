//! A host in this process, small and quick, with a clock that only moves when someone sleeps.
//!
//! It has no rules of its own about who may do what: it hands out pages and ports, keeps count of
//! them, and lets the target act in the peer's place whenever the code under test sleeps.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vchan::host::{EventChannel, EventChannels, GrantRef, Grants, Port, Shared, Time, UnmapNotify};
use vchan::memory::{Access, PAGE_SIZE, Region};
use vchan::{DomId, HostError};

/// How many pages there are.
pub const PAGES: usize = 600;

/// The host.
#[derive(Clone)]
pub struct Machine {
    memory: Arc<OwnedFd>,
    state: Arc<Mutex<State>>,
    peer: Arc<Mutex<dyn Peer>>,
}

/// What the other side does while this one sleeps.
pub trait Peer: Send {
    /// This side sleeps on its port. True when something was done, and the sleep is over.
    fn asleep(&mut self) -> bool;

    /// Whether the other end of the port is bound, as the host tells.
    fn is_bound(&mut self) -> Option<bool>;

    /// Whether a page or a port of the other side is there.
    fn grants(&mut self, what: What) -> bool;
}

/// What a client asks for by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A page to map.
    Page(GrantRef),
    /// A port to bind.
    Port(Port),
}

/// What is in use, and what was done.
#[derive(Debug, Default)]
pub struct State {
    /// The time that has passed, in sleep.
    pub now: Duration,
    /// Pages given out by `share`.
    pub shared: usize,
    /// Regions that are mapped or shared now.
    pub regions: usize,
    /// Ports that are open now.
    pub ports: usize,
    /// Everything that was ever asked of the host by number.
    pub asked: Vec<What>,
    /// An event waits to be taken.
    pub pending: bool,
    /// The port is masked.
    pub masked: bool,
    /// How many events were sent to the other side.
    pub sent: u64,
    /// How often this side went to sleep.
    pub sleeps: u64,
}

impl Machine {
    /// A machine whose memory is all zero.
    pub fn new(peer: Arc<Mutex<dyn Peer>>) -> Machine {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        let memory = memfd_create("vchan-fuzz", MemfdFlags::CLOEXEC).expect("memfd_create");
        ftruncate(&memory, (PAGES * PAGE_SIZE) as u64).expect("ftruncate");
        Machine {
            memory: Arc::new(memory),
            state: Arc::default(),
            peer,
        }
    }

    /// What is in use.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// All memory, as the other side has it.
    pub fn memory(&self) -> Region {
        Region::map_file(self.memory.as_fd(), 0, PAGES * PAGE_SIZE, Access::ReadWrite)
            .expect("mmap")
    }

    /// Where in [`memory`](Machine::memory) the page of a grant reference lies.
    pub fn offset(reference: GrantRef) -> Option<usize> {
        let page = usize::try_from(reference.0).ok()?.checked_sub(1)?;
        (page < PAGES).then_some(page * PAGE_SIZE)
    }

    fn region(&self, first: usize, count: usize, access: Access) -> Region {
        let at = (first * PAGE_SIZE) as u64;
        let region = Region::map_file(self.memory.as_fd(), at, count * PAGE_SIZE, access);
        self.state().regions += 1;
        let state = Arc::clone(&self.state);
        let unmapped = OnDrop(move || lock(&state).regions -= 1);
        region.expect("mmap").then_drop(Box::new(unmapped))
    }

    fn open(&self, port: Port) -> Box<dyn EventChannel> {
        self.state().ports += 1;
        Box::new(OpenPort {
            machine: self.clone(),
            port,
        })
    }
}

impl Grants for Machine {
    fn share(
        &self,
        _: DomId,
        pages: usize,
        _: Access,
        _: Option<UnmapNotify>,
    ) -> Result<Shared, HostError> {
        let first = self.state().shared;
        if first + pages > PAGES {
            return Err(HostError::new("share more pages than there are"));
        }
        self.state().shared += pages;
        let number = |page: usize| GrantRef(u32::try_from(page + 1).unwrap_or(0));
        Ok(Shared {
            references: (first..first + pages).map(number).collect(),
            region: self.region(first, pages, Access::ReadWrite),
        })
    }

    /// Pages that lie side by side can be mapped, no others.
    fn map(
        &self,
        _: DomId,
        references: &[GrantRef],
        access: Access,
        _: Option<UnmapNotify>,
    ) -> Result<Region, HostError> {
        let refused = || HostError::new("map a page that is not there").stale();
        let mut pages = Vec::new();
        for &reference in references {
            self.state().asked.push(What::Page(reference));
            let offset = Machine::offset(reference).ok_or_else(refused)?;
            if !lock(&self.peer).grants(What::Page(reference)) {
                return Err(refused());
            }
            pages.push(offset / PAGE_SIZE);
        }
        let first = *pages.first().ok_or_else(refused)?;
        if !pages.iter().copied().eq(first..first + pages.len()) {
            return Err(refused());
        }
        Ok(self.region(first, pages.len(), access))
    }
}

impl EventChannels for Machine {
    fn bind_unbound(&self, _: DomId) -> Result<Box<dyn EventChannel>, HostError> {
        Ok(self.open(Port(7)))
    }

    fn bind_interdomain(&self, _: DomId, port: Port) -> Result<Box<dyn EventChannel>, HostError> {
        self.state().asked.push(What::Port(port));
        if !lock(&self.peer).grants(What::Port(port)) {
            return Err(HostError::new("bind a port that is not there").stale());
        }
        self.state().pending = true;
        Ok(self.open(Port(8)))
    }

    fn now(&self) -> Time {
        Time(self.state().now)
    }

    /// The time goes by at once.
    fn pause(&self, duration: Duration) {
        self.state().now += duration;
    }
}

struct OpenPort {
    machine: Machine,
    port: Port,
}

impl EventChannel for OpenPort {
    fn port(&self) -> Port {
        self.port
    }

    fn notify(&self) -> Result<(), HostError> {
        self.machine.state().sent += 1;
        Ok(())
    }

    fn take(&self) -> Result<bool, HostError> {
        let mut state = self.machine.state();
        let taken = state.pending && !state.masked;
        if taken {
            (state.pending, state.masked) = (false, true);
        }
        Ok(taken)
    }

    fn unmask(&self) -> Result<(), HostError> {
        self.machine.state().masked = false;
        Ok(())
    }

    /// An event ends it, or something that the other side does, or time goes on.
    fn sleep(&self, most: Option<Duration>) -> Result<(), HostError> {
        let mut state = self.machine.state();
        assert!(!state.masked, "asleep with the port masked");
        state.sleeps += 1;
        if state.pending {
            return Ok(());
        }
        drop(state);
        if lock(&self.machine.peer).asleep() {
            return Ok(());
        }
        let Some(most) = most else {
            panic!("a sleep that nothing ends");
        };
        self.machine.state().now += most;
        Ok(())
    }

    fn is_bound(&self) -> Result<Option<bool>, HostError> {
        Ok(lock(&self.machine.peer).is_bound())
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        self.machine.state().ports -= 1;
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Locks what a panic may have poisoned: the panic is reported all the same.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
