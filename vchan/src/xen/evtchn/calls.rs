//! The calls of `xen/evtchn.h`.
//!
//! UNSAFETY: each number below is paired with its structure, which holds no pointers: the driver
//! reads that structure and nothing else.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::DomId;
use crate::host::Port;
use crate::xen::ioctl::{call, number};

/// `struct ioctl_evtchn_bind_interdomain`
#[repr(C)]
struct BindInterdomain {
    remote_domain: u32,
    remote_port: u32,
}

/// `struct ioctl_evtchn_bind_unbound_port`
#[repr(C)]
struct BindUnboundPort {
    remote_domain: u32,
}

/// `struct ioctl_evtchn_notify`
#[repr(C)]
struct Notify {
    port: u32,
}

pub(in crate::xen) mod numbers {
    use super::{BindInterdomain, BindUnboundPort, Notify, number};
    use crate::xen::ioctl::Opcode;

    /// `IOCTL_EVTCHN_BIND_INTERDOMAIN`: `_IOC(_IOC_NONE, 'E', 1, ...)`
    pub(in crate::xen) const BIND_INTERDOMAIN: Opcode = number::<BindInterdomain>(b'E', 1);
    /// `IOCTL_EVTCHN_BIND_UNBOUND_PORT`: `_IOC(_IOC_NONE, 'E', 2, ...)`
    pub(in crate::xen) const BIND_UNBOUND_PORT: Opcode = number::<BindUnboundPort>(b'E', 2);
    /// `IOCTL_EVTCHN_NOTIFY`: `_IOC(_IOC_NONE, 'E', 4, ...)`
    pub(in crate::xen) const NOTIFY: Opcode = number::<Notify>(b'E', 4);
    /// `IOCTL_EVTCHN_RESET`: `_IOC(_IOC_NONE, 'E', 5, 0)`
    pub(in crate::xen) const RESET: Opcode = number::<()>(b'E', 5);
}

/// Binds a new port, which is given back, to `port` of `peer`.
pub(super) fn bind_interdomain(fd: BorrowedFd<'_>, peer: DomId, port: Port) -> Result<u32, Errno> {
    let mut argument = BindInterdomain {
        remote_domain: peer.number().into(),
        remote_port: port.0,
    };
    // SAFETY: the number and its structure.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    unsafe {
        call(fd, numbers::BIND_INTERDOMAIN, &mut argument)
    }
}

/// Makes a port, which is given back, that `peer` may bind to.
pub(super) fn bind_unbound_port(fd: BorrowedFd<'_>, peer: DomId) -> Result<u32, Errno> {
    let mut argument = BindUnboundPort {
        remote_domain: peer.number().into(),
    };
    // SAFETY: the number and its structure.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    unsafe {
        call(fd, numbers::BIND_UNBOUND_PORT, &mut argument)
    }
}

/// Sends an event to the other end of `port`.
pub(super) fn notify(fd: BorrowedFd<'_>, port: Port) -> Result<(), Errno> {
    let mut argument = Notify { port: port.0 };
    // SAFETY: the number and its structure.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    unsafe { call(fd, numbers::NOTIFY, &mut argument) }?;
    Ok(())
}

/// Empties the driver's buffer of events, and clears its having run over.
pub(super) fn reset(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: this number takes no argument; the driver does not look at the pointer.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    unsafe { call(fd, numbers::RESET, &mut ()) }?;
    Ok(())
}
