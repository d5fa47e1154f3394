//! The part of a guest without an operating system that touches no machine: rings, tables and queues
//! in ordinary memory, which any machine can test. The runtime beside it has the rest: how the guest
//! boots, and the calls to the hypervisor.
//!
//! Nothing here is `unsafe`. Shared pages are [`Region`](vchan::memory::Region)s, which the runtime
//! makes of its addresses and a test of any memory; what the hypervisor does for a guest is a trait
//! of a few functions, which a test implements as it likes.
//!
//! The backends (of the console, of XenStore) run in another domain. What they put into a shared page
//! is looked at once and validated, as the library does with a vchan's peer.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod clock;
pub mod command_line;
pub mod console;
pub mod executor;
pub mod grants;
pub mod heap;
pub mod memory_map;
pub mod store;
pub mod window;

mod guard;
mod track;
