//! Asking Xen whether a port has another end, and giving way to other domains, through
//! `/dev/xen/privcmd`.
//!
//! UNSAFETY: a hypercall takes the address of its argument as a number and reads and writes there.
//! The argument lies in a page of our own that is locked into memory, of which `EVTCHNOP_status`
//! touches 24 bytes. The other hypercall made here, `SCHEDOP_yield`, has no argument.

use core::mem::size_of;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;
use rustix::io::Errno;

use super::device::Device;
use super::ioctl::{Opcode, call, number};
use crate::host::Port;
use crate::memory::PAGE_SIZE;

/// `struct privcmd_hypercall`
#[repr(C)]
struct Hypercall {
    op: u64,
    arg: [u64; 5],
}

/// `IOCTL_PRIVCMD_HYPERCALL`: `_IOC(_IOC_NONE, 'P', 0, ...)`
pub(super) const HYPERCALL: Opcode = number::<Hypercall>(b'P', 0);

/// `__HYPERVISOR_event_channel_op`
const EVENT_CHANNEL_OP: u64 = 32;
/// `EVTCHNOP_status`
const STATUS: u64 = 5;

/// `__HYPERVISOR_sched_op`
const SCHED_OP: u64 = 29;
/// `SCHEDOP_yield`
const YIELD: u64 = 0;

/// The size of `struct evtchn_status`, and where its fields lie: a `u16` domid, a `u32` port, and
/// the `u32` status that Xen fills in. Others follow that we do not need.
const STATUS_SIZE: usize = 24;
const DOM: usize = 0;
const PORT: usize = 4;
const STATUS_FIELD: usize = 8;

/// `DOMID_SELF`
const DOMID_SELF: u16 = 0x7FF0;
/// `EVTCHNSTAT_interdomain`: there is another end. Every other state of one of our ports means that
/// there is none: `EVTCHNSTAT_unbound` (1) before a peer binds and after it has closed its end or
/// died.
const INTERDOMAIN: u32 = 2;

/// How often Xen is asked when it cannot get at the page. Being locked does not keep the kernel from
/// moving a page to elsewhere in memory, which is over soon.
const MOST_TRIES: usize = 10;

/// Makes hypercalls.
pub(super) struct Privcmd {
    device: Device,
    /// The page for the argument; made when first needed, never if that fails.
    page: Mutex<Page>,
}

enum Page {
    NotTried,
    Unusable,
    Ready(Ready),
}

struct Ready {
    fd: Arc<OwnedFd>,
    memory: MmapMut,
}

impl Privcmd {
    pub(super) fn new(device: Device) -> Privcmd {
        Privcmd {
            device,
            page: Mutex::new(Page::NotTried),
        }
    }

    /// Whether `port`, one of this domain's, has another end. `None` where Xen does not tell: the
    /// device is missing, forbidden, or forbids this hypercall.
    pub(super) fn is_bound(&self, port: Port) -> Option<bool> {
        let mut page = self.page();
        let Page::Ready(ready) = &mut *page else {
            return None;
        };
        match ready.status(port) {
            Ok(status) => Some(status == INTERDOMAIN),
            Err(errno) => {
                tracing::debug!(%errno, "Xen does not tell the status of a port");
                if matches!(
                    errno,
                    Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::NOTTY
                ) {
                    // It will say so every time.
                    *page = Page::Unusable;
                }
                None
            }
        }
    }

    /// Lets other domains have this virtual processor's real one first. False where Xen cannot be told:
    /// the device is missing, forbidden, or forbids this hypercall.
    pub(super) fn give_way(&self) -> bool {
        // The lock is not held meanwhile: other threads need not wait for the turn of others to end.
        let Some(fd) = self.descriptor() else {
            return false;
        };
        let mut hypercall = Hypercall {
            op: SCHED_OP,
            arg: [YIELD, 0, 0, 0, 0],
        };
        // SAFETY: the number and its structure. The hypercall that it describes accesses no memory.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        let made = unsafe { call(fd.as_fd(), HYPERCALL, &mut hypercall) };
        made.is_ok()
    }

    fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        match &*self.page() {
            Page::Ready(ready) => Some(Arc::clone(&ready.fd)),
            _ => None,
        }
    }

    /// The page, made if it can be.
    fn page(&self) -> MutexGuard<'_, Page> {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*page, Page::NotTried) {
            *page = self.prepare();
        }
        page
    }

    fn prepare(&self) -> Page {
        let fd = match self.device.open() {
            Ok(fd) => fd,
            Err(error) => {
                tracing::debug!(%error, "no hypercalls can be made");
                return Page::Unusable;
            }
        };
        match locked_page() {
            Ok(memory) => Page::Ready(Ready { fd, memory }),
            Err(error) => {
                tracing::debug!(%error, "no page for hypercalls");
                Page::Unusable
            }
        }
    }
}

/// A page of its own that is in memory and stays there.
fn locked_page() -> io::Result<MmapMut> {
    let memory = MmapMut::map_anon(PAGE_SIZE)?;
    memory.lock()?;
    Ok(memory)
}

impl Ready {
    fn status(&mut self, port: Port) -> Result<u32, Errno> {
        let mut tries = 1;
        loop {
            match self.ask(port) {
                Err(Errno::FAULT) if tries < MOST_TRIES => tries += 1,
                result => return result,
            }
        }
    }

    fn ask(&mut self, port: Port) -> Result<u32, Errno> {
        // Writing it anew each time also brings in the page, and makes it ours alone after a fork.
        let mut argument = [0; STATUS_SIZE];
        put(&mut argument, DOM, &DOMID_SELF.to_ne_bytes());
        put(&mut argument, PORT, &port.0.to_ne_bytes());
        put(&mut self.memory, 0, &argument);

        let address = self.memory.as_mut_ptr().expose_provenance();
        let mut hypercall = Hypercall {
            op: EVENT_CHANNEL_OP,
            arg: [STATUS, address as u64, 0, 0, 0],
        };
        // SAFETY: the number and its structure. The hypercall that it describes accesses
        // `STATUS_SIZE` bytes at `address`, which are in the page that `self.memory` owns; no
        // reference to them exists meanwhile, and the provenance is exposed.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe { call(self.fd.as_fd(), HYPERCALL, &mut hypercall) }?;
        let status = self.memory.get(STATUS_FIELD..).unwrap_or_default();
        let status = status.first_chunk().ok_or(Errno::FAULT)?;
        Ok(u32::from_ne_bytes(*status))
    }
}

/// Puts `bytes` at `offset`, where there is room for them.
fn put(memory: &mut [u8], offset: usize, bytes: &[u8]) {
    let end = offset.saturating_add(bytes.len());
    if let Some(place) = memory.get_mut(offset..end) {
        place.copy_from_slice(bytes);
    }
}

const _: () = assert!(size_of::<Hypercall>() == 48);
