//! `xenstore.h`: XenStore, with transactions.
//!
//! UNSAFETY: the functions are called from C, with handles of [`xs_open`], with strings, and with
//! buffers as long as their length says. What [`xs_read`] returns is freed by the caller.
#![allow(unsafe_code, reason = "see UNSAFETY above")]

use std::collections::BTreeMap;
use std::ffi::{c_char, c_uint, c_ulong, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use vchan::StorePath;
use vchan::host::{NodeAccess, Permissions, Store};
use vchan::xenstore::{Client, Transaction};

use crate::ffi::{CError, EINVAL, answer, behind, hand_out, take_back, text};
use crate::{domain_directory, domid};

/// The number that means "no transaction", `XBT_NULL`.
const NO_TRANSACTION: u32 = 0;

/// Behind a `struct xs_handle`: one connection.
pub struct Handle {
    store: Client,
    transactions: Mutex<Transactions>,
}

#[derive(Default)]
struct Transactions {
    open: BTreeMap<u32, Transaction>,
    last: u32,
}

impl Handle {
    fn open() -> Result<*mut Handle, CError> {
        Ok(hand_out(Handle {
            store: Client::open_at(domain_directory()?.join("xenstored"))?,
            transactions: Mutex::default(),
        }))
    }

    fn transactions(&self) -> MutexGuard<'_, Transactions> {
        self.transactions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a request, in a transaction or by itself.
    fn request<T>(
        &self,
        number: u32,
        alone: impl FnOnce(&Client) -> Result<T, vchan::StoreError>,
        within: impl FnOnce(&Transaction) -> Result<T, vchan::StoreError>,
    ) -> Result<T, CError> {
        if number == NO_TRANSACTION {
            return Ok(alone(&self.store)?);
        }
        let transactions = self.transactions();
        Ok(within(transactions.open.get(&number).ok_or(EINVAL)?)?)
    }
}

/// `struct xs_permissions`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CPermission {
    domid: c_uint,
    bits: c_uint,
}

impl CPermission {
    const READ: c_uint = 1;
    const WRITE: c_uint = 2;

    fn access(self) -> Result<NodeAccess, CError> {
        const BOTH: c_uint = CPermission::READ | CPermission::WRITE;
        match self.bits {
            0 => Ok(NodeAccess::None),
            CPermission::READ => Ok(NodeAccess::Read),
            CPermission::WRITE => Ok(NodeAccess::Write),
            BOTH => Ok(NodeAccess::Both),
            _ => Err(EINVAL.into()),
        }
    }
}

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
}

/// # Safety
/// As for [`text`].
unsafe fn path(path: *const c_char) -> Result<StorePath, CError> {
    // SAFETY: the caller's promise.
    unsafe { text(path) }?.parse().map_err(|_| EINVAL.into())
}

/// Connects to XenStore.
#[unsafe(no_mangle)]
pub extern "C" fn xs_open(_flags: c_ulong) -> *mut Handle {
    answer(Handle::open)
}

/// Closes a connection; transactions that are open are aborted.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xs_close(handle: *mut Handle) {
    // SAFETY: the caller's promise.
    unsafe { take_back(handle) };
}

/// What a node holds, from `malloc` and with a NUL behind it.
///
/// # Safety
/// `handle` is null or an open handle, `node` a string, `len` null or room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xs_read(
    handle: *mut Handle,
    transaction: u32,
    node: *const c_char,
    len: *mut c_uint,
) -> *mut c_void {
    answer(|| {
        // SAFETY: the caller's promise.
        let (handle, node) = (unsafe { behind(handle) }?, unsafe { path(node) }?);
        let value = handle.request(transaction, |store| store.read(&node), |t| t.read(&node))?;
        // SAFETY: any size may be asked for.
        let copy = unsafe { malloc(value.len() + 1) }.cast::<u8>();
        if copy.is_null() {
            return Err(Errno::NOMEM.into());
        }
        // SAFETY: `copy` has room for the value and one byte more, and is not `value`.
        unsafe { copy.copy_from_nonoverlapping(value.as_ptr(), value.len()) };
        // SAFETY: the byte behind the value is inside of `copy`.
        let end = unsafe { copy.add(value.len()) };
        // SAFETY: as above.
        unsafe { end.write(0) };
        if !len.is_null() {
            let value_len = c_uint::try_from(value.len()).map_err(|_| EINVAL)?;
            // SAFETY: the caller's promise.
            unsafe { len.write(value_len) };
        }
        Ok(copy.cast())
    })
}

/// Writes a node.
///
/// # Safety
/// `handle` is null or an open handle, `node` a string, `data` holds `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xs_write(
    handle: *mut Handle,
    transaction: u32,
    node: *const c_char,
    data: *const c_void,
    len: c_uint,
) -> bool {
    answer(|| {
        // SAFETY: the caller's promise.
        let (handle, node) = (unsafe { behind(handle) }?, unsafe { path(node) }?);
        let len = usize::try_from(len).map_err(|_| EINVAL)?;
        // SAFETY: the caller's promise.
        let value = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) };
        handle.request(
            transaction,
            |store| store.write(&node, value),
            |t| t.write(&node, value),
        )?;
        Ok(true)
    })
}

/// Removes a node and all below it.
///
/// # Safety
/// `handle` is null or an open handle, `node` a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xs_rm(handle: *mut Handle, transaction: u32, node: *const c_char) -> bool {
    answer(|| {
        // SAFETY: the caller's promise.
        let (handle, node) = (unsafe { behind(handle) }?, unsafe { path(node) }?);
        handle.request(
            transaction,
            |store| store.remove(&node),
            |t| t.remove(&node),
        )?;
        Ok(true)
    })
}

/// Sets a node's permissions: the first entry names the owner and what everybody else may do.
///
/// # Safety
/// `handle` is null or an open handle, `node` a string, `permissions` holds `count` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xs_set_permissions(
    handle: *mut Handle,
    transaction: u32,
    node: *const c_char,
    permissions: *const CPermission,
    count: c_uint,
) -> bool {
    answer(|| {
        // SAFETY: the caller's promise.
        let (handle, node) = (unsafe { behind(handle) }?, unsafe { path(node) }?);
        let count = usize::try_from(count).map_err(|_| EINVAL)?;
        // SAFETY: the caller's promise.
        let entries = unsafe { std::slice::from_raw_parts(permissions, count) };
        let (owner, domains) = entries.split_first().ok_or(EINVAL)?;
        let permissions = Permissions {
            owner: domid(owner.domid)?,
            default: owner.access()?,
            domains: domains
                .iter()
                .map(|entry| Ok((domid(entry.domid)?, entry.access()?)))
                .collect::<Result<_, CError>>()?,
        };
        handle.request(
            transaction,
            |store| store.set_permissions(&node, &permissions),
            |t| t.set_permissions(&node, &permissions),
        )?;
        Ok(true)
    })
}

/// Begins a transaction and gives its number.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xs_transaction_start(handle: *mut Handle) -> u32 {
    answer(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { behind(handle) }?;
        let transaction = handle.store.begin()?;
        let mut transactions = handle.transactions();
        transactions.last += 1;
        let number = transactions.last;
        transactions.open.insert(number, transaction);
        Ok(number)
    })
}

/// Ends a transaction; `EAGAIN` when another change got in its way.
///
/// # Safety
/// `handle` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xs_transaction_end(
    handle: *mut Handle,
    transaction: u32,
    abort: bool,
) -> bool {
    answer(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { behind(handle) }?;
        let transaction = handle
            .transactions()
            .open
            .remove(&transaction)
            .ok_or(EINVAL)?;
        if abort {
            transaction.abort();
        } else {
            transaction.commit()?;
        }
        Ok(true)
    })
}
