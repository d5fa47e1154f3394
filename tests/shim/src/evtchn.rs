//! `xenevtchn.h`: event channels.
//!
//! One handle has any number of ports and one descriptor, which is readable while an event of an
//! unmasked port is pending. Here that descriptor is an epoll set of the ports' own.
//!
//! UNSAFETY: the functions are called from C, with handles of [`xenevtchn_open`].
#![allow(unsafe_code, reason = "see UNSAFETY above")]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{Timespec, epoll};
use rustix::fs::OFlags;
use rustix::io::retry_on_intr;
use vchan::host::{EventChannel, Port};

use crate::ffi::{CError, EAGAIN, EINVAL, answer, behind, hand_out, take_back};
use crate::{domid, host};

/// Behind a `xenevtchn_handle`.
pub struct Handle {
    ready: OwnedFd,
    ports: Mutex<BTreeMap<u32, Arc<dyn EventChannel>>>,
}

/// The port's own descriptor, which every host that the C programs run on has.
fn descriptor(channel: &dyn EventChannel) -> Result<BorrowedFd<'_>, CError> {
    channel.as_fd().ok_or(EINVAL.into())
}

impl Handle {
    fn ports(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<dyn EventChannel>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self, port: u32) -> Result<Arc<dyn EventChannel>, CError> {
        self.ports().get(&port).cloned().ok_or(EINVAL.into())
    }

    fn add(&self, channel: Box<dyn EventChannel>) -> Result<c_int, CError> {
        let Port(port) = channel.port();
        let data = epoll::EventData::new_u64(port.into());
        epoll::add(
            &self.ready,
            descriptor(&*channel)?,
            data,
            epoll::EventFlags::IN,
        )?;
        self.ports().insert(port, Arc::from(channel));
        c_int::try_from(port).map_err(|_| EINVAL.into())
    }

    /// The next port with an event, as reading the real descriptor gives it.
    fn pending(&self) -> Result<u32, CError> {
        let nonblocking = rustix::fs::fcntl_getfl(&self.ready)?.contains(OFlags::NONBLOCK);
        let timeout = nonblocking.then(Timespec::default);
        let mut ready = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }];
        loop {
            // The kernel goes on reading the real descriptor after a stop and a start.
            let wait = || epoll::wait(&self.ready, &mut ready, timeout.as_ref());
            if retry_on_intr(wait)? == 0 {
                return Err(EAGAIN.into());
            }
            let [event] = ready;
            let port = u32::try_from(event.data.u64()).map_err(|_| EINVAL)?;
            // Another thread may have taken the event or unbound the port: then look again.
            if let Ok(channel) = self.channel(port)
                && channel.take()?
            {
                return Ok(port);
            }
        }
    }
}

/// Opens a handle.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_open(_logger: *mut c_void, _flags: c_uint) -> *mut Handle {
    answer(|| {
        host()?;
        Ok(hand_out(Handle {
            ready: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            ports: Mutex::default(),
        }))
    })
}

/// Closes a handle and its ports.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenevtchn_close(handle: *mut Handle) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { take_back(handle) };
    0
}

/// The descriptor that is readable while an event is pending.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenevtchn_fd(handle: *mut Handle) -> c_int {
    // SAFETY: the caller's promise.
    answer(|| Ok(unsafe { behind(handle) }?.ready.as_raw_fd()))
}

/// Sends an event.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenevtchn_notify(handle: *mut Handle, port: u32) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { behind(handle) }?;
        handle.channel(port)?.notify()?;
        Ok(0)
    })
}

/// Allocates a port that `peer` may bind.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenevtchn_bind_unbound_port(handle: *mut Handle, peer: u32) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { behind(handle) }?;
        handle.add(host()?.events().bind_unbound(domid(peer)?)?)
    })
}

/// Binds a new port to `remote_port` of `peer`.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenevtchn_bind_interdomain(
    handle: *mut Handle,
    peer: u32,
    remote_port: u32,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { behind(handle) }?;
        let host = host()?;
        handle.add(
            host.events()
                .bind_interdomain(domid(peer)?, Port(remote_port))?,
        )
    })
}

/// Closes a port.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenevtchn_unbind(handle: *mut Handle, port: u32) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { behind(handle) }?;
        let channel = handle.ports().remove(&port).ok_or(EINVAL)?;
        epoll::delete(&handle.ready, descriptor(&*channel)?)?;
        Ok(0)
    })
}

/// Waits for an event and gives its port, which is masked from then on.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenevtchn_pending(handle: *mut Handle) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let port = unsafe { behind(handle) }?.pending()?;
        c_int::try_from(port).map_err(|_| EINVAL.into())
    })
}

/// Lets a port's events through.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenevtchn_unmask(handle: *mut Handle, port: u32) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { behind(handle) }?;
        handle.channel(port)?.unmask()?;
        Ok(0)
    })
}
