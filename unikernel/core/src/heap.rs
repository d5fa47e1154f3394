//! The heap, as it is configured; how it was chosen is in `docs/dependencies.md`.

use talc::DefaultBinning;
use talc::source::Manual;
use talc::sync::TalcLock;

/// An allocator that frees, joins what is free and lies side by side, and takes any number of pieces
/// of memory.
///
/// It has no memory until the runtime gives it some with `heap.lock().claim(start, length)`, which is
/// `unsafe`. When there is none left it gives a null pointer, and the program ends with a line that
/// says so.
pub type Heap = TalcLock<spin::Mutex<()>, Manual, DefaultBinning>;

/// A heap without memory, to be the `#[global_allocator]`.
#[must_use]
pub const fn heap() -> Heap {
    TalcLock::new(Manual)
}
