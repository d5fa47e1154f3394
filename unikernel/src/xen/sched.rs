//! Waiting and ending: `sched.h`.

use super::Errno;
use super::call::{Call, hypercall, operation};

const YIELD: usize = 0;
const SHUTDOWN: usize = 2;
const POLL: usize = 3;

/// Why the domain ends. The numbers are those of `SHUTDOWN_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Reason {
    PowerOff = 0,
    Reboot = 1,
    Crash = 3,
}

/// ```c
/// struct sched_shutdown { unsigned int reason; };
/// ```
#[repr(C)]
struct SchedShutdown {
    reason: u32,
}

/// Ends the domain.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn shutdown(reason: Reason) -> ! {
    let mut argument = SchedShutdown {
        reason: reason as u32,
    };
    loop {
        // SAFETY: `SCHEDOP_shutdown` takes this structure. It does not return.
        let _ = unsafe { operation(Call::SchedOp, SHUTDOWN, &mut argument) };
    }
}

/// Lets other domains that wait for this processor have it first.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn give_way() {
    // SAFETY: `SCHEDOP_yield` takes no argument. It cannot fail.
    let _ = unsafe { hypercall(Call::SchedOp, YIELD, 0, 0, 0) };
}

/// ```c
/// struct sched_poll { evtchn_port_t *ports; unsigned int nr_ports; uint64_t timeout; };
/// ```
#[repr(C)]
struct SchedPoll {
    ports: *const u32,
    count: u32,
    /// System time in nanoseconds; 0 is never.
    timeout: u64,
}

/// The most ports that one call waits for.
pub(crate) const MOST_PORTS: usize = 128;

/// Sleeps until one of `ports` is pending, masked or not, or until the system time is `timeout`
/// nanoseconds (0: for ever). Returns earlier now and then.
///
/// # Errors
/// `EINVAL` for more than [`MOST_PORTS`], or for a port that is none.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn poll(ports: &[u32], timeout: u64) -> Result<(), Errno> {
    let argument = SchedPoll {
        ports: ports.as_ptr(),
        count: u32::try_from(ports.len()).map_err(|_| Errno::INVAL)?,
        timeout,
    };
    let argument = (&raw const argument).expose_provenance();
    // SAFETY: `SCHEDOP_poll` takes this structure and reads `count` ports.
    unsafe { hypercall(Call::SchedOp, POLL, argument, 0, 0) }.map(drop)
}
