//! The only raw access to shared pages.

use core::sync::atomic::Ordering;

use crate::sync::fence;

mod copy;
#[cfg(not(vchan_loom))]
mod fields;
mod mapped;
#[cfg(vchan_loom)]
mod model;
mod shared;

pub(crate) use copy::SHORT;
#[cfg(not(vchan_loom))]
pub(crate) use fields::{ByteField, IndexField, RingBytes, RingSpace};
#[cfg(not(vchan_loom))]
pub use mapped::Region;
#[cfg(vchan_loom)]
pub use model::Region;
#[cfg(vchan_loom)]
pub(crate) use model::{ByteField, IndexField, RingBytes, RingSpace};
pub use shared::{SharedSlice, SharedSliceMut};

/// The size of a page on Xen, in bytes.
pub const PAGE_SIZE: usize = 4096;

/// What may be done with shared pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// The one full fence of the protocol: what was stored before it is visible before anything is
/// loaded after it (StoreLoad), on both sides.
#[inline]
pub fn full_fence() {
    fence(Ordering::SeqCst);
}
