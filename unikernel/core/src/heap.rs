//! The heap, as it is configured; how it was chosen is in `docs/dependencies.md`.

use talc::DefaultBinning;
use talc::source::Manual;
use talc::sync::TalcLock;

/// An allocator that frees, joins what is free and lies side by side, and takes any number of pieces
/// of memory.
///
/// It has no memory until it is given some with `heap.lock().claim(start, length)`, which is `unsafe`.
/// When there is none left it gives a null pointer.
///
/// The runtime has the same allocator with the same bins, without a lock, as there is one processor,
/// and with a source of its own: it claims memory, or extends what it has claimed, when none is left.
/// That part is tried on Xen only.
pub type Heap = TalcLock<spin::Mutex<()>, Manual, DefaultBinning>;

/// A heap without memory, to be the `#[global_allocator]`.
#[must_use]
pub const fn heap() -> Heap {
    TalcLock::new(Manual)
}
