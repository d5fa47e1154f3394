//! The shared state of threads, so that the models of `loom` can stand in for it.
//!
//! Built with `--cfg vchan_loom` the crate is a subject for the model checker and nothing else: its
//! atomics, locks and shared pages are loom's, and only work inside of a model.

#[cfg(not(vchan_loom))]
pub(crate) use core::hint::spin_loop as pause;
#[cfg(not(vchan_loom))]
pub(crate) use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, fence};
#[cfg(all(not(vchan_loom), feature = "std"))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(vchan_loom)]
pub(crate) use loom::hint::spin_loop as pause;
#[cfg(vchan_loom)]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, fence};
#[cfg(vchan_loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};

/// A lock for a few steps, with or without an operating system. Nobody waits while holding it.
///
/// Where there is no operating system it spins. Nothing interrupts a program there in the middle of
/// those steps, so on one processor it is always free.
#[derive(Default, Debug)]
pub(crate) struct Lock<T> {
    #[cfg(feature = "std")]
    inner: Mutex<T>,
    #[cfg(not(feature = "std"))]
    inner: spin::Mutex<T>,
}

#[cfg(feature = "std")]
impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Lock<T> {
        Lock {
            inner: Mutex::new(value),
        }
    }

    /// Whoever panicked while holding it has left nothing half done.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let locked = self.inner.lock();
        locked.unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(not(feature = "std"))]
impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Lock<T> {
        Lock {
            inner: spin::Mutex::new(value),
        }
    }

    pub(crate) fn lock(&self) -> spin::MutexGuard<'_, T> {
        self.inner.lock()
    }
}
