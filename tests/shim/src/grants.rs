//! `xengnttab.h`: pages that are shared (`xengntshr_*`) and pages that are mapped (`xengnttab_*`).
//!
//! The real libraries hand out plain addresses, and the kernel learns from `munmap` that a mapping
//! ends. libxenvchan relies on that: it unmaps its rings by `munmap` and only the control page by
//! the library. So [`__wrap_munmap`] stands before the C library's `munmap` (`-Wl,--wrap=munmap`)
//! and ends what was mapped here; everything else passes through.
//!
//! UNSAFETY: the functions are called from C, with handles of the two `open` functions and with
//! arrays as long as their count says. Addresses that C gives back are only looked up.
#![allow(unsafe_code, reason = "see UNSAFETY above")]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vchan::host::{GrantRef, Port, UnmapNotify};
use vchan::memory::{Access, PAGE_SIZE, Region};

use crate::ffi::{CError, EINVAL, ENOSYS, answer, behind, hand_out, take_back};
use crate::{domid, host};

/// `PROT_WRITE` of `sys/mman.h`.
const PROT_WRITE: c_int = 2;

/// Behind a `xengntshr_handle` and a `xengnttab_handle`: what was mapped through it ends with it.
pub struct Handle {
    id: u64,
}

impl Handle {
    fn open() -> Result<*mut Handle, CError> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        host()?;
        let id = LAST.fetch_add(1, Ordering::Relaxed);
        Ok(hand_out(Handle { id }))
    }

    /// Keeps a region for C and gives its address.
    fn keep(&self, region: Region) -> *mut c_void {
        let base = region.base().as_ptr();
        regions().insert((base.addr(), self.id), region);
        base.cast()
    }

    /// Ends the mapping of `count` pages at `address`.
    fn end(&self, address: *mut c_void, count: u32) -> Result<c_int, CError> {
        let len = PAGE_SIZE * usize::try_from(count).map_err(|_| EINVAL)?;
        let region = take(address.addr(), len, Some(self.id))?.ok_or(EINVAL)?;
        drop(region);
        Ok(0)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Unmapping comes back here through `__wrap_munmap`, so the lock is let go first.
        let ours: Vec<Region> = {
            let mut regions = regions();
            let (ours, others) = std::mem::take(&mut *regions)
                .into_iter()
                .partition(|&((_, handle), _)| handle == self.id);
            *regions = others;
            ours.into_values().collect()
        };
        drop(ours);
    }
}

/// The regions that C knows by their addresses, until it unmaps them, and the handles that they were
/// mapped through. (A host may give both ends of a program one address.)
type Regions = BTreeMap<(usize, u64), Region>;

fn regions() -> MutexGuard<'static, Regions> {
    static REGIONS: Mutex<Regions> = Mutex::new(BTreeMap::new());
    REGIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the region at `address`, whose length must be `len`, out of the table, that of a handle if one is
/// named. `None` when the address is not one of ours, or not of that handle.
fn take(address: usize, len: usize, of: Option<u64>) -> Result<Option<Region>, CError> {
    let mut regions = regions();
    let handles = match of {
        Some(handle) => handle..=handle,
        None => 0..=u64::MAX,
    };
    let mut here = regions.range((address, *handles.start())..=(address, *handles.end()));
    let Some((&place, region)) = here.next() else {
        return Ok(None);
    };
    // libxenvchan never unmaps a part.
    if region.len() != len {
        return Err(EINVAL.into());
    }
    Ok(regions.remove(&place))
}

fn access(writable: bool) -> Access {
    if writable {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    }
}

/// Both or neither of offset and port; -1 is neither. The real libraries also know one of them.
fn unmap_notify(offset: u32, port: u32) -> Result<Option<UnmapNotify>, CError> {
    const NONE: u32 = u32::MAX;
    match (offset, port) {
        (NONE, NONE) => Ok(None),
        (NONE, _) | (_, NONE) => Err(ENOSYS.into()),
        (offset, port) => Ok(Some(UnmapNotify {
            offset: u16::try_from(offset).map_err(|_| EINVAL)?,
            port: Port(port),
        })),
    }
}

/// Shares pages and writes their references to `references`.
///
/// # Safety
/// `handle` is null or open, and `references` has room for `pages` numbers.
unsafe fn share(
    handle: *mut Handle,
    peer: u32,
    pages: usize,
    references: *mut u32,
    writable: bool,
    notify: Option<UnmapNotify>,
) -> Result<*mut c_void, CError> {
    // SAFETY: the caller's promise.
    let handle = unsafe { behind(handle) }?;
    let host = host()?;
    let shared = host
        .grants()
        .share(domid(peer)?, pages, access(writable), notify)?;
    // SAFETY: the caller's promise; C has not initialised them, so nothing is read.
    let room =
        unsafe { std::slice::from_raw_parts_mut(references.cast::<MaybeUninit<u32>>(), pages) };
    for (to, GrantRef(reference)) in room.iter_mut().zip(shared.references) {
        to.write(reference);
    }
    Ok(handle.keep(shared.region))
}

/// Maps the pages that `references` name.
///
/// # Safety
/// `handle` is null or open, and `references` holds `pages` numbers.
unsafe fn map(
    handle: *mut Handle,
    peer: u32,
    references: *const u32,
    pages: usize,
    protection: c_int,
    notify: Option<UnmapNotify>,
) -> Result<*mut c_void, CError> {
    // SAFETY: the caller's promise.
    let handle = unsafe { behind(handle) }?;
    // libxenvchan passes the list where it stands in the shared page: read each number once.
    let references: Vec<GrantRef> = (0..pages)
        .map(|at| {
            // SAFETY: the caller's promise.
            let reference = unsafe { references.add(at) };
            // SAFETY: as above; another domain may change it meanwhile.
            GrantRef(unsafe { reference.read_volatile() })
        })
        .collect();
    let access = access(protection & PROT_WRITE != 0);
    let region = host()?
        .grants()
        .map(domid(peer)?, &references, access, notify)?;
    Ok(handle.keep(region))
}

/// Opens a handle for sharing.
#[unsafe(no_mangle)]
pub extern "C" fn xengntshr_open(_logger: *mut c_void, _flags: c_uint) -> *mut Handle {
    answer(Handle::open)
}

/// Closes a handle and ends what was shared through it.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xengntshr_close(handle: *mut Handle) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { take_back(handle) };
    0
}

/// Shares fresh pages.
///
/// # Safety
/// `handle` is null or an open handle, `references` has room for `count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xengntshr_share_pages(
    handle: *mut Handle,
    peer: u32,
    count: c_int,
    references: *mut u32,
    writable: c_int,
) -> *mut c_void {
    answer(|| {
        let pages = usize::try_from(count).map_err(|_| EINVAL)?;
        // SAFETY: the caller's promise.
        unsafe { share(handle, peer, pages, references, writable != 0, None) }
    })
}

/// Shares a fresh page, and tells the peer when that ends.
///
/// # Safety
/// `handle` is null or an open handle, `reference` has room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xengntshr_share_page_notify(
    handle: *mut Handle,
    peer: u32,
    reference: *mut u32,
    writable: c_int,
    notify_offset: u32,
    notify_port: u32,
) -> *mut c_void {
    answer(|| {
        let notify = unmap_notify(notify_offset, notify_port)?;
        // SAFETY: the caller's promise.
        unsafe { share(handle, peer, 1, reference, writable != 0, notify) }
    })
}

/// Ends what one call has shared.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xengntshr_unshare(
    handle: *mut Handle,
    address: *mut c_void,
    count: u32,
) -> c_int {
    // SAFETY: the caller's promise.
    answer(|| unsafe { behind(handle) }?.end(address, count))
}

/// Opens a handle for mapping.
#[unsafe(no_mangle)]
pub extern "C" fn xengnttab_open(_logger: *mut c_void, _flags: c_uint) -> *mut Handle {
    answer(Handle::open)
}

/// Closes a handle and unmaps what was mapped through it.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xengnttab_close(handle: *mut Handle) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { take_back(handle) };
    0
}

/// Maps pages of one domain side by side.
///
/// # Safety
/// `handle` is null or an open handle, `references` holds `count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xengnttab_map_domain_grant_refs(
    handle: *mut Handle,
    count: u32,
    peer: u32,
    references: *const u32,
    protection: c_int,
) -> *mut c_void {
    answer(|| {
        let pages = usize::try_from(count).map_err(|_| EINVAL)?;
        // SAFETY: the caller's promise.
        unsafe { map(handle, peer, references, pages, protection, None) }
    })
}

/// Maps a page, and tells the peer when that ends.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xengnttab_map_grant_ref_notify(
    handle: *mut Handle,
    peer: u32,
    reference: u32,
    protection: c_int,
    notify_offset: u32,
    notify_port: u32,
) -> *mut c_void {
    answer(|| {
        let notify = unmap_notify(notify_offset, notify_port)?;
        // SAFETY: the caller's promise; `reference` is one number.
        unsafe { map(handle, peer, &raw const reference, 1, protection, notify) }
    })
}

/// Unmaps what one call has mapped.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xengnttab_unmap(
    handle: *mut Handle,
    address: *mut c_void,
    count: u32,
) -> c_int {
    // SAFETY: the caller's promise.
    answer(|| unsafe { behind(handle) }?.end(address, count))
}

unsafe extern "C" {
    /// The C library's `munmap`, by `-Wl,--wrap=munmap`.
    fn __real_munmap(address: *mut c_void, len: usize) -> c_int;
}

/// What every call of `munmap` in the linked program comes to, by `-Wl,--wrap=munmap`.
///
/// # Safety
/// As for `munmap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_munmap(address: *mut c_void, len: usize) -> c_int {
    answer(|| match take(address.addr(), len, None)? {
        // Dropping the region unmaps it, by coming here again with nothing in the table.
        Some(region) => {
            drop(region);
            Ok(0)
        }
        // SAFETY: the caller's promise.
        None => match unsafe { __real_munmap(address, len) } {
            0 => Ok(0),
            _ => Err(EINVAL.into()),
        },
    })
}
