//! Event channels, and waiting for them: `SCHEDOP_poll`, and `SCHEDOP_yield` before.
//!
//! Nothing ever interrupts the guest: no callback is registered, and an event is a bit that is set.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use unikernel_core::clock::poll_until;
use unikernel_core::executor::Ports;
use vchan::host::{EventChannel, EventChannels, Port, Time};
use vchan::{DomId, HostError};

use crate::cell::OneCpu;
use crate::power;
use crate::shared_info;
use crate::xen::{Errno, event, sched};

/// The event channels of this domain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Events;

impl EventChannels for Events {
    fn bind_unbound(&self, peer: DomId) -> Result<Box<dyn EventChannel>, HostError> {
        let port = event::alloc_unbound(peer.number()).map_err(|errno| {
            HostError::new(format!("allocate an event channel for domain {peer}")).because(errno)
        })?;
        Ok(Box::new(Bound(port)))
    }

    fn bind_interdomain(
        &self,
        peer: DomId,
        port: Port,
    ) -> Result<Box<dyn EventChannel>, HostError> {
        let bound = event::bind_interdomain(peer.number(), port.0).map_err(|errno| {
            let error = HostError::new(format!("bind port {port} of domain {peer}")).because(errno);
            // What Xen says of a domain or a port that is not there, or not for us.
            match errno {
                Errno::INVAL | Errno::SRCH | Errno::NOENT => error.stale(),
                _ => error,
            }
        })?;
        Ok(Box::new(Bound(bound)))
    }

    fn now(&self) -> Time {
        shared_info::now()
    }

    fn pause(&self, duration: Duration) {
        let deadline = self.now().after(duration);
        while self.now() < deadline {
            poll(&[], Some(deadline));
        }
    }

    fn give_way(&self) -> bool {
        sched::give_way();
        true
    }
}

/// A port of this domain.
#[derive(Debug)]
struct Bound(u32);

impl EventChannel for Bound {
    fn port(&self) -> Port {
        Port(self.0)
    }

    fn notify(&self) -> Result<(), HostError> {
        event::send(self.0).map_err(|errno| self.failed("send an event on", errno))
    }

    fn take(&self) -> Result<bool, HostError> {
        Ok(shared_info::take_pending(self.0))
    }

    /// Nothing to do: no event is delivered, each is asked for.
    fn unmask(&self) -> Result<(), HostError> {
        Ok(())
    }

    fn sleep(&self, most: Option<Duration>) -> Result<(), HostError> {
        let deadline = most.map(|most| shared_info::now().after(most));
        wait(&[self.0], deadline)
    }

    fn is_bound(&self) -> Result<Option<bool>, HostError> {
        let bound = event::is_interdomain(self.0);
        bound
            .map(Some)
            .map_err(|errno| self.failed("ask for the state of", errno))
    }
}

impl Bound {
    fn failed(&self, doing: &str, errno: Errno) -> HostError {
        HostError::new(format!("{doing} port {}", self.0)).because(errno)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // It can only be closed already.
        let _ = event::close(self.0);
        shared_info::take_pending(self.0);
    }
}

/// Hears what the toolstack wishes, without waiting. It costs next to nothing where there is nothing
/// new from XenStore.
///
/// # Errors
/// When the domain is to shut down.
pub(crate) fn heed() -> Result<(), HostError> {
    if let Some(port) = power::port() {
        take_of_store(port);
    }
    if UNHEARD.replace(false) {
        power::obey()
    } else {
        power::still_wanted()
    }
}

/// Sleeps until one of `ports` is pending or until `deadline`; may return earlier. Meanwhile the
/// wishes of the toolstack are heard.
///
/// # Errors
/// When the domain is to shut down.
pub(crate) fn wait(ports: &[u32], deadline: Option<Time>) -> Result<(), HostError> {
    let store = power::port();
    let came = store.is_some_and(take_of_store);
    power::obey()?;
    // What came from XenStore has been read now, and may be what the caller waits for.
    if came || ports.iter().any(|&port| shared_info::is_pending(port)) {
        return Ok(());
    }
    let mut all: Vec<u32> = store.into_iter().collect();
    all.extend_from_slice(ports);
    poll(&all, deadline);
    power::obey()
}

/// Whether an event of XenStore's port was taken since a task looked at the port. What it announced
/// may have been for that task.
static STORE_EVENT_TAKEN: OneCpu<Cell<bool>> = OneCpu::new(Cell::new(false));

/// Whether one was taken since a busy program last heard what the toolstack wishes.
static UNHEARD: OneCpu<Cell<bool>> = OneCpu::new(Cell::new(false));

/// Takes an event of XenStore's port.
pub(crate) fn take_of_store(port: u32) -> bool {
    let taken = shared_info::take_pending(port);
    if taken {
        STORE_EVENT_TAKEN.set(true);
        UNHEARD.set(true);
    }
    taken
}

/// What the executor of asynchronous tasks asks of Xen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExecutorPorts;

impl Ports for ExecutorPorts {
    fn now(&self) -> Time {
        shared_info::now()
    }

    fn is_pending(&self, port: Port) -> bool {
        let taken = port == self.store() && STORE_EVENT_TAKEN.get();
        taken || shared_info::is_pending(port.0)
    }

    fn clear(&self, port: Port) {
        if port == self.store() {
            take_of_store(port.0);
            STORE_EVENT_TAKEN.set(false);
        } else {
            shared_info::take_pending(port.0);
        }
    }

    fn heed(&self) {
        // That the domain is to shut down, the main task is told.
        let _ = heed();
    }

    fn sleep(&self, ports: &[Port], deadline: Option<Time>) {
        if ports.iter().any(|&port| self.is_pending(port)) {
            return;
        }
        // Nobody waits for that.
        STORE_EVENT_TAKEN.set(false);
        let ports: Vec<u32> = ports.iter().map(|port| port.0).collect();
        // That the domain is to shut down, the main task is told.
        let _ = wait(&ports, deadline);
    }

    fn store(&self) -> Port {
        Port(power::port().unwrap_or_default())
    }
}

/// How long is waited at a time for more ports than Xen takes at once.
const TURN: Duration = Duration::from_millis(10);

/// Sleeps until one of `ports` is pending or until `deadline`; may return earlier.
pub(crate) fn poll(ports: &[u32], deadline: Option<Time>) {
    let (ports, deadline) = match ports.get(..sched::MOST_PORTS) {
        // The others are looked at after a moment.
        Some(first) if first.len() < ports.len() => {
            let soon = shared_info::now().after(TURN);
            (
                first,
                Some(deadline.map_or(soon, |deadline| deadline.min(soon))),
            )
        }
        _ => (ports, deadline),
    };
    // It fails for a port that is none any more: then there is nothing to wait for.
    let _ = sched::poll(ports, poll_until(deadline));
}
