//! Shared state of a program that runs on one processor.
//!
//! UNSAFETY: `Sync` means that several threads may use a value at once. Here there are none: the
//! guest has one virtual processor and asks for no interrupts, so nothing runs between two
//! instructions of a program but the next one. What remains are calls that enter a value again while
//! it is in use: a `RefCell` inside notices those.
//!
//! An exception does come in between (see `boot::fault`), and nothing goes on after it. What is said
//! then needs few values: whether the guest is PV, which never changes once exceptions are told; cells
//! that are set once; and the console, which is a `RefCell`.

/// A value of the only thread that there is.
pub(crate) struct OneCpu<T>(T);

// SAFETY: there is no second thread to share it with, or to send it to; see above.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl<T> Sync for OneCpu<T> {}
// SAFETY: the same.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl<T> Send for OneCpu<T> {}

impl<T> OneCpu<T> {
    pub(crate) const fn new(value: T) -> OneCpu<T> {
        OneCpu(value)
    }
}

impl<T> core::ops::Deref for OneCpu<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
