//! A PV guest's beginning: `struct start_info` of Xen's `xen.h`.

use super::{Given, Ring, image, page_at, read, text};
use crate::machine::{Mode, PAGE, Pv};
use crate::pages::Place;
use crate::xen::Errno;
use crate::{heap, machine};

/// ```c
/// struct start_info {
///     char magic[32]; unsigned long nr_pages; unsigned long shared_info; uint32_t flags;
///     xen_pfn_t store_mfn; uint32_t store_evtchn;
///     struct { xen_pfn_t mfn; uint32_t evtchn; } console;
///     unsigned long pt_base; unsigned long nr_pt_frames; unsigned long mfn_list;
///     unsigned long mod_start; unsigned long mod_len; int8_t cmd_line[1024]; /* ... */
/// };
/// ```
#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: [u8; 32],
    page_count: usize,
    shared_info: u64,
    flags: u32,
    store_frame: u64,
    store_port: u32,
    console_frame: u64,
    console_port: u32,
    page_tables: usize,
    page_table_count: usize,
    machine_frames: usize,
    module: usize,
    module_size: usize,
    command_line: [u8; 1024],
}

/// Reads what Xen gave, and sets up mode and heap.
#[allow(unsafe_code, reason = "see UNSAFETY of `boot`")]
pub(super) fn take(at: usize) -> Result<Given, Errno> {
    // SAFETY: Xen enters a PV guest with the address of this structure.
    let info: StartInfo = unsafe { read(at) };
    let frames = core::ptr::with_exposed_provenance::<u64>(info.machine_frames);
    // SAFETY: the domain builder has put the list there; nobody changes it, as its memory is given
    // to nobody.
    let frames = unsafe { core::slice::from_raw_parts(frames, info.page_count) };
    let pv = Pv::new(frames, info.page_tables)?;
    machine::set_up(Mode::Pv(pv));

    // In this order: the program, the list of frames, this structure, the pages of XenStore and
    // console, the page tables. Below the program is nothing.
    let tables_end = info.page_tables + info.page_table_count * PAGE;
    heap::set_up([PAGE..image().start, tables_end..info.page_count * PAGE]);
    let shared_info = Place::new(1).ok_or(Errno::NOMEM)?;
    shared_info.put_machine_frame(0, info.shared_info >> 12)?;
    let command_line = at + core::mem::offset_of!(StartInfo, command_line);
    let ring = |frame, port| {
        let address = machine::address_of_machine_frame(frame)?;
        // SAFETY: the page lies between the program and the page tables, where the heap gets nothing.
        let page = unsafe { page_at(address) };
        Ok(Ring { page, port })
    };
    Ok(Given {
        shared_info: shared_info.region(),
        console: ring(info.console_frame, info.console_port)?,
        store: ring(info.store_frame, info.store_port)?,
        // SAFETY: the structure stays where it is.
        command_line: unsafe { text(command_line, info.command_line.len()) },
    })
}
