//! Event channels, through `/dev/xen/evtchn`.
//!
//! Each channel has a descriptor of its own, so that it can be polled alone and closing it is
//! closing the port.

use core::time::Duration;
use std::boxed::Box;
use std::format;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::string::String;
use std::sync::Arc;

use rustix::io::Errno;

use super::device::Device;
use super::life::{Life, Lives};
use super::privcmd::Privcmd;
use crate::guard::keeps;
use crate::host::{Bell, EventChannel, EventChannels, Port, Time};
use crate::{DomId, HostError, poll};

pub(super) mod calls;

/// Makes ports.
pub(super) struct PortMaker {
    device: Device,
    privcmd: Arc<Privcmd>,
    lives: Arc<Lives>,
}

impl PortMaker {
    pub(super) fn new(device: Device, privcmd: Privcmd, lives: Arc<Lives>) -> PortMaker {
        PortMaker {
            device,
            privcmd: Arc::new(privcmd),
            lives,
        }
    }

    /// `life` began before the port was bound.
    fn bound(&self, fd: OwnedFd, peer: DomId, port: u32, life: Life) -> Box<dyn EventChannel> {
        Box::new(BoundPort {
            fd: Arc::new(fd),
            life,
            peer,
            port: Port(port),
            privcmd: Arc::clone(&self.privcmd),
            bell: Bell::default(),
        })
    }
}

impl EventChannels for PortMaker {
    fn bind_unbound(&self, peer: DomId) -> Result<Box<dyn EventChannel>, HostError> {
        let life = self.lives.current();
        let fd = self.device.open_anew()?;
        let port = calls::bind_unbound_port(fd.as_fd(), peer).map_err(|errno| {
            let doing = format!("make an event channel for domain {peer}");
            explain(HostError::new(doing).because_io(errno), errno)
        })?;
        Ok(self.bound(fd, peer, port, life))
    }

    fn bind_interdomain(
        &self,
        peer: DomId,
        port: Port,
    ) -> Result<Box<dyn EventChannel>, HostError> {
        let life = self.lives.current();
        let fd = self.device.open_anew()?;
        let own = calls::bind_interdomain(fd.as_fd(), peer, port).map_err(|errno| {
            let doing = format!("bind to port {port} of domain {peer}");
            explain(HostError::new(doing).because_io(errno), errno)
        })?;
        Ok(self.bound(fd, peer, own, life))
    }

    fn now(&self) -> Time {
        poll::now()
    }

    fn pause(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn give_way(&self) -> bool {
        self.privcmd.give_way()
    }
}

fn explain(error: HostError, errno: Errno) -> HostError {
    match errno {
        Errno::INVAL | Errno::SRCH | Errno::NOENT => error.stale().hint(
            "the peer has no port there that waits for this domain: the keys in XenStore may be \
             left over from a server that died, or another client is connected",
        ),
        Errno::NOSPC => error.hint(
            "this domain has no free event channel: close some, or raise `max_event_channels` in \
             its xl configuration",
        ),
        Errno::ACCESS | Errno::PERM => {
            error.hint("Xen's security policy (XSM) forbids event channels between these domains")
        }
        _ => error,
    }
}

/// A port and the descriptor that it is bound to.
struct BoundPort {
    fd: Arc<OwnedFd>,
    life: Life,
    peer: DomId,
    port: Port,
    privcmd: Arc<Privcmd>,
    bell: Bell,
}

impl BoundPort {
    /// Whether there is certainly no domain with the peer's number. (A domain that died stays until
    /// no one maps its pages any more.)
    fn peer_is_gone(&self) -> bool {
        // No domain has a port with this number: this binds nothing, but Xen looks for the domain
        // first.
        let refused = calls::bind_interdomain(self.fd.as_fd(), self.peer, Port(u32::MAX));
        refused == Err(Errno::SRCH)
    }

    fn failed(&self, doing: &str, error: impl Into<io::Error>) -> HostError {
        let doing: String = format!("{doing} port {}", self.port);
        let error: io::Error = error.into();
        HostError::new(doing).because_io(error)
    }
}

impl EventChannel for BoundPort {
    fn port(&self) -> Port {
        self.port
    }

    fn notify(&self) -> Result<(), HostError> {
        calls::notify(self.fd.as_fd(), self.port).map_err(|errno| self.failed("notify", errno))
    }

    fn take(&self) -> Result<bool, HostError> {
        let mut events = [0; 16 * size_of::<u32>()];
        match rustix::io::read(&self.fd, &mut events) {
            Ok(count) => {
                let ports = events.get(..count).unwrap_or_default().chunks_exact(4);
                let own = self.port.0.to_ne_bytes();
                Ok(ports.into_iter().any(|port| port == own))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            // The driver's buffer of events ran over: what was lost may have been ours. The port is
            // masked if it was, and as after any event the caller unmasks it.
            Err(Errno::FBIG) => {
                calls::reset(self.fd.as_fd())
                    .map_err(|errno| self.failed("reset the overrun events of", errno))?;
                Ok(true)
            }
            Err(errno) => Err(self.failed("take the event of", errno)),
        }
    }

    fn unmask(&self) -> Result<(), HostError> {
        match rustix::io::write(&self.fd, &self.port.0.to_ne_bytes()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(self.failed("unmask", errno)),
        }
    }

    fn sleep(&self, most: Option<Duration>) -> Result<(), HostError> {
        self.bell
            .sleep(self.fd.as_fd(), most)
            .map_err(|error| self.failed("wait for", error))
    }

    fn wake(&self) {
        self.bell.ring();
    }

    fn is_bound(&self) -> Result<Option<bool>, HostError> {
        if self.life.is_over() && keeps("port-is-lost") {
            return Err(Life::lost(format_args!("port {}", self.port)));
        }
        let bound = self.privcmd.is_bound(self.port);
        // Kernels that keep guests from making hypercalls leave one thing to see: that there is no
        // domain where the other end was.
        Ok(bound.or_else(|| self.peer_is_gone().then_some(false)))
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

impl Drop for BoundPort {
    fn drop(&mut self) {
        if self.life.is_over() && keeps("lost-stays") {
            // Never closed: the driver does not survive that.
            core::mem::forget(Arc::clone(&self.fd));
        }
    }
}

#[cfg(test)]
mod tests;
