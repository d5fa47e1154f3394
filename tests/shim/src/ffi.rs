//! What all the C functions share: failure values, errno, handles.
//!
//! UNSAFETY: C callers hold this library's objects by address. A handle is valid from the function
//! that opens it to the one that closes it, which is what the C headers ask of callers.
#![allow(unsafe_code, reason = "see UNSAFETY above")]

use std::ffi::{CStr, c_char, c_int};
use std::fmt::Display;

use rustix::io::Errno;
use vchan::{HostError, StoreError, StoreErrorKind};

pub(crate) const EACCES: Errno = Errno::ACCESS;
pub(crate) const EAGAIN: Errno = Errno::AGAIN;
pub(crate) const EINVAL: Errno = Errno::INVAL;
pub(crate) const ENOSYS: Errno = Errno::NOSYS;

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

/// Why a function fails, as C learns it.
pub(crate) struct CError(Errno);

impl CError {
    /// The Xen libraries write to standard error what an errno cannot say.
    pub(crate) fn logged(errno: Errno, why: &dyn Display) -> CError {
        eprintln!("xen-shim: {why}");
        CError(errno)
    }
}

impl From<Errno> for CError {
    fn from(errno: Errno) -> CError {
        CError(errno)
    }
}

impl From<HostError> for CError {
    fn from(error: HostError) -> CError {
        let errno = if error.is_stale() { EINVAL } else { Errno::IO };
        CError::logged(errno, &error)
    }
}

impl From<StoreError> for CError {
    fn from(error: StoreError) -> CError {
        CError(match error.kind {
            StoreErrorKind::NotFound => Errno::NOENT,
            StoreErrorKind::Denied => EACCES,
            StoreErrorKind::Exists => Errno::EXIST,
            StoreErrorKind::Invalid => EINVAL,
            StoreErrorKind::Again => EAGAIN,
            StoreErrorKind::Quota => Errno::NOSPC,
            StoreErrorKind::TimedOut => Errno::TIMEDOUT,
            _ => return CError::logged(Errno::IO, &error),
        })
    }
}

/// What a C function returns when it fails.
pub(crate) trait Failure {
    /// The value that says so.
    const FAILURE: Self;
}

impl Failure for c_int {
    const FAILURE: c_int = -1;
}

impl Failure for bool {
    const FAILURE: bool = false;
}

/// A transaction number.
impl Failure for u32 {
    const FAILURE: u32 = 0;
}

impl<T> Failure for *mut T {
    const FAILURE: *mut T = std::ptr::null_mut();
}

/// Runs the body of a C function: on failure sets errno and returns the value that says so.
pub(crate) fn answer<T: Failure>(body: impl FnOnce() -> Result<T, CError>) -> T {
    body().unwrap_or_else(|CError(errno)| {
        // SAFETY: it can be called at any time.
        let current = unsafe { __errno_location() };
        // SAFETY: the address is that of the calling thread's errno, by the C library's promise.
        unsafe { current.write(errno.raw_os_error()) };
        T::FAILURE
    })
}

/// Gives a handle to C.
pub(crate) fn hand_out<T>(handle: T) -> *mut T {
    Box::into_raw(Box::new(handle))
}

/// The object behind a handle.
///
/// # Safety
/// `handle` is null or came from [`hand_out`] and was not taken back, and it is not while the
/// reference lives.
pub(crate) unsafe fn behind<'a, T>(handle: *mut T) -> Result<&'a T, CError> {
    // SAFETY: by this function's own contract; null is what `as_ref` checks for.
    unsafe { handle.as_ref() }.ok_or(EINVAL.into())
}

/// Takes a handle back from C, to close it. Nothing for null.
///
/// # Safety
/// As for [`behind`], and nobody uses the handle any more.
pub(crate) unsafe fn take_back<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: by this function's own contract, this is the box that `hand_out` leaked.
        drop(unsafe { Box::from_raw(handle) });
    }
}

/// A string that C gave.
///
/// # Safety
/// `text` is null or a string with a NUL at its end, which stays as it is while it is looked at.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, CError> {
    if text.is_null() {
        return Err(EINVAL.into());
    }
    // SAFETY: by this function's own contract.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| EINVAL.into())
}
