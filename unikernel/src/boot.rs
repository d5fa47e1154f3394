//! From Xen's entry to the first safe line.
//!
//! UNSAFETY: here the guest reads what the domain builder left in its memory, once, before the heap
//! takes the rest. The structures are those of Xen's public headers.

use alloc::boxed::Box;
use core::ops::Range;

use vchan::memory::{Access, Region};

use crate::machine::PAGE;
use crate::pages::region;
use crate::xen::sched;

mod fault;
mod guard;
mod pv;
mod pvh;

#[allow(unsafe_code, reason = "see UNSAFETY above")]
mod entry {
    core::arch::global_asm!(include_str!("boot/entry.s"));
}

#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe extern "C" {
    /// From `unikernel.ld`.
    static unikernel_begin: u8;
    static unikernel_end: u8;
    /// From `entry.s`: the page below the stack, where exceptions are entered, and the end of their
    /// stack.
    static unikernel_guard: [u8; PAGE];
    static unikernel_exceptions: u8;
    static unikernel_fault_stack_end: u8;
    /// A PVH guest's tables of level 2, four side by side.
    static unikernel_l2: [u64; 4 * PAGE / 8];
}

/// What a guest is given to begin with.
pub(crate) struct Given {
    /// The page that Xen shares with the guest.
    pub shared_info: Region,
    pub console: Ring,
    pub store: Ring,
    /// What `extra=` says, as it is.
    pub command_line: &'static [u8],
}

/// A page that is shared with a daemon in dom0, and the port by which it is told.
pub(crate) struct Ring {
    pub page: Region,
    pub port: u32,
}

/// Where `entry.s` leads to.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
extern "C" fn unikernel_boot(start_info: usize, is_pvh: u32) -> ! {
    let given = if is_pvh == 0 {
        pv::take(start_info)
    } else {
        crate::xen::set_up_page();
        pvh::take(start_info)
    };
    let guarded = |given| {
        guard::set_up()?;
        fault::set_up()?;
        Ok(given)
    };
    match given.and_then(guarded) {
        Ok(given) => crate::guest::live(given),
        // There is nothing yet to say it with.
        Err(_) => sched::shutdown(sched::Reason::Crash),
    }
}

/// The addresses of the program itself.
fn image() -> Range<usize> {
    (&raw const unikernel_begin).addr()..(&raw const unikernel_end).addr()
}

/// The page at `address`, which is shared with dom0 for as long as the guest lives.
///
/// # Safety
/// The domain builder has set the page aside for this; the heap does not have it.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe fn page_at(address: usize) -> Region {
    // SAFETY: by the caller's promise, it is there for as long as the guest lives, and nobody refers
    // to it.
    unsafe { region(address, 1, Access::ReadWrite, Box::new(())) }
}

/// Reads a `T` at `address`.
///
/// # Safety
/// A `T` is there, or anything that may be taken for one.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe fn read<T: Copy>(address: usize) -> T {
    // SAFETY: by the caller's promise.
    unsafe { core::ptr::with_exposed_provenance::<T>(address).read_unaligned() }
}

/// The text at `address`, up to a zero byte or `most` bytes.
///
/// # Safety
/// It is there and stays there.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe fn text(address: usize, most: usize) -> &'static [u8] {
    let begin = core::ptr::with_exposed_provenance::<u8>(address);
    // SAFETY: by the caller's promise.
    let all = unsafe { core::slice::from_raw_parts(begin, most) };
    all.split(|&byte| byte == 0).next().unwrap_or_default()
}
