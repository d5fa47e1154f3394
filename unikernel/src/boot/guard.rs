//! Pages at which nothing lies: page 0, and the page below the stack.
//!
//! A program whose stack overflows, or that follows an address of zero, ends there, as crashed.
//! Otherwise it would go on, with what it has destroyed.

use core::arch::asm;

use super::{unikernel_guard, unikernel_l2};
use crate::machine::{self, Mode, PAGE};
use crate::pages::Pages;
use crate::xen::{Errno, mmu};

/// The addresses at which nothing is to lie from now on.
pub(super) fn set_up() -> Result<(), Errno> {
    let below_stack = (&raw const unikernel_guard).addr();
    [0, below_stack]
        .into_iter()
        .try_for_each(|address| match machine::mode() {
            // SAFETY: nothing of the program lies at these pages.
            #[allow(unsafe_code, reason = "see UNSAFETY of `boot`")]
            Mode::Pv(_) => unsafe { mmu::update_va_mapping(address, 0) },
            Mode::Pvh => take_away(address),
        })
}

/// The span of a page of 2 MiB, of which `entry.s` has mapped 4 GiB.
const LARGE_PAGE: usize = 2 << 20;
/// Bit 7 of a page table entry: what it names is such a page and no table.
const IS_LARGE: u64 = 1 << 7;
/// Present and writable.
const ENTRY: usize = 3;
const ENTRIES: usize = 512;

/// Takes the page at `address` out of a PVH guest's page tables.
#[allow(unsafe_code, reason = "see UNSAFETY of `boot`")]
fn take_away(address: usize) -> Result<(), Errno> {
    let l2 = (&raw const unikernel_l2).cast::<u64>().cast_mut();
    // SAFETY: the four tables of level 2 have an entry for each 2 MiB below 4 GiB, where the program
    // lies.
    let l2_entry = unsafe { l2.add(address / LARGE_PAGE) };
    // SAFETY: it is there, and nobody refers to it.
    let entry = unsafe { l2_entry.read_volatile() };
    let table = if entry & IS_LARGE == 0 {
        usize::try_from(entry).map_err(|_| Errno::INVAL)? / PAGE * PAGE
    } else {
        let table = split(address)?;
        // SAFETY: the new table maps what was mapped.
        unsafe { l2_entry.write_volatile((table | ENTRY) as u64) };
        table
    };
    let table = core::ptr::with_exposed_provenance_mut::<u64>(table);
    // SAFETY: a table has 512 entries.
    let entry = unsafe { table.add(address / PAGE % ENTRIES) };
    // SAFETY: nothing of the program lies at the page.
    unsafe { entry.write_volatile(0) };
    // SAFETY: the same tables again; the processor forgets what it remembered of them.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags)) };
    Ok(())
}

/// A table that maps the 2 MiB around `address` as they are, in pages of 4 KiB.
#[allow(unsafe_code, reason = "see UNSAFETY of `boot`")]
fn split(address: usize) -> Result<usize, Errno> {
    let page = Pages::new(1).ok_or(Errno::NOMEM)?;
    let table = page.address();
    let entries = core::ptr::with_exposed_provenance_mut::<u64>(table);
    let first = address / LARGE_PAGE * LARGE_PAGE;
    for (index, at) in (first..first + LARGE_PAGE).step_by(PAGE).enumerate() {
        // SAFETY: the page has room for all of them, and is nobody else's.
        let entry = unsafe { entries.add(index) };
        // SAFETY: the same.
        unsafe { entry.write_volatile((at | ENTRY) as u64) };
    }
    // It is the processor's from now on.
    core::mem::forget(page);
    Ok(table)
}
