//! Event channels: `event_channel.h`.

use super::call::{Call, operation};
use super::{DOMID_SELF, Errno};

const BIND_INTERDOMAIN: usize = 0;
const CLOSE: usize = 3;
const SEND: usize = 4;
const STATUS: usize = 5;
const ALLOC_UNBOUND: usize = 6;

/// ```c
/// struct evtchn_alloc_unbound { domid_t dom, remote_dom; evtchn_port_t port; };
/// ```
#[repr(C)]
struct AllocUnbound {
    domain: u16,
    remote_domain: u16,
    port: u32,
}

/// A new port that `remote_domain` may bind.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn alloc_unbound(remote_domain: u16) -> Result<u32, Errno> {
    let mut argument = AllocUnbound {
        domain: DOMID_SELF,
        remote_domain,
        port: 0,
    };
    // SAFETY: `EVTCHNOP_alloc_unbound` takes this structure.
    unsafe { operation(Call::EventChannelOp, ALLOC_UNBOUND, &mut argument) }?;
    Ok(argument.port)
}

/// ```c
/// struct evtchn_bind_interdomain {
///     domid_t remote_dom; evtchn_port_t remote_port; evtchn_port_t local_port;
/// };
/// ```
#[repr(C)]
struct BindInterdomain {
    remote_domain: u16,
    remote_port: u32,
    local_port: u32,
}

/// A new port bound to `remote_port` of `remote_domain`.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn bind_interdomain(remote_domain: u16, remote_port: u32) -> Result<u32, Errno> {
    let mut argument = BindInterdomain {
        remote_domain,
        remote_port,
        local_port: 0,
    };
    // SAFETY: `EVTCHNOP_bind_interdomain` takes this structure.
    unsafe { operation(Call::EventChannelOp, BIND_INTERDOMAIN, &mut argument) }?;
    Ok(argument.local_port)
}

/// ```c
/// struct evtchn_close { evtchn_port_t port; };
/// struct evtchn_send { evtchn_port_t port; };
/// ```
#[repr(C)]
struct Port {
    port: u32,
}

/// Closes a port.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn close(port: u32) -> Result<(), Errno> {
    // SAFETY: `EVTCHNOP_close` takes this structure.
    unsafe { operation(Call::EventChannelOp, CLOSE, &mut Port { port }) }.map(drop)
}

/// Sends an event to the other end of a port; without another end nothing happens.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn send(port: u32) -> Result<(), Errno> {
    // SAFETY: `EVTCHNOP_send` takes this structure.
    unsafe { operation(Call::EventChannelOp, SEND, &mut Port { port }) }.map(drop)
}

/// ```c
/// struct evtchn_status {
///     domid_t dom; evtchn_port_t port; uint32_t status; uint32_t vcpu;
///     union { struct { domid_t dom; evtchn_port_t port; } interdomain; /* and others */ } u;
/// };
/// ```
#[repr(C)]
struct Status {
    domain: u16,
    port: u32,
    status: u32,
    vcpu: u32,
    details: [u32; 2],
}

/// Whether another domain's port is bound to `port`.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn is_interdomain(port: u32) -> Result<bool, Errno> {
    const INTERDOMAIN: u32 = 2;
    let mut argument = Status {
        domain: DOMID_SELF,
        port,
        status: 0,
        vcpu: 0,
        details: [0; 2],
    };
    // SAFETY: `EVTCHNOP_status` takes this structure.
    unsafe { operation(Call::EventChannelOp, STATUS, &mut argument) }?;
    Ok(argument.status == INTERDOMAIN)
}
