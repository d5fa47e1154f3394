//! A PVH guest's beginning: `struct hvm_start_info` of Xen's `arch-x86/hvm/start_info.h`.

use unikernel_core::memory_map::{self, Piece};

use super::{Given, Ring, image, page_at, read, text};
use crate::heap;
use crate::machine::{self, Mode, PAGE};
use crate::pages::{self, Place};
use crate::xen::Errno;
use crate::xen::hvm::{Parameter, parameter};
use crate::xen::memory::Space;

/// ```c
/// struct hvm_start_info {
///     uint32_t magic, version, flags, nr_modules;
///     uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
///     uint32_t memmap_entries, reserved;
/// };
/// ```
#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: usize,
    command_line: usize,
    rsdp: usize,
    memory_map: usize,
    memory_map_entries: u32,
    reserved: u32,
}

/// ```c
/// struct hvm_memmap_table_entry { uint64_t addr; uint64_t size; uint32_t type; uint32_t reserved; };
/// ```
#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const MAGIC: u32 = 0x336e_c578;

/// `struct hvm_modlist_entry`. A unikernel has no use for modules, and leaves them alone.
const MODULE_SIZE: usize = 32;

/// The most pieces of memory that are looked at. A PVH guest has one or two.
const LONGEST_MEMORY_MAP: usize = 16;

const NO_MEMORY: Piece = Piece {
    start: 0,
    length: 0,
    kind: 0,
};

/// The most of a command line that is looked at, in bytes; Xen's toolstack gives less.
const LONGEST_COMMAND_LINE: usize = 1024;

/// Above this, below 4 GiB, are the pages of devices, of firmware and of Xen.
const HOLE_END: u64 = 0xf000_0000;

/// Reads what Xen gave, and sets up mode and heap.
#[allow(unsafe_code, reason = "see UNSAFETY of `boot`")]
pub(super) fn take(at: usize) -> Result<Given, Errno> {
    // SAFETY: Xen enters a PVH guest with the address of this structure.
    let info: StartInfo = unsafe { read(at) };
    if info.magic != MAGIC || info.version == 0 {
        return Err(Errno::INVAL);
    }
    machine::set_up(Mode::Pvh);

    let entries = (info.memory_map_entries as usize).min(LONGEST_MEMORY_MAP);
    let mut map = [NO_MEMORY; LONGEST_MEMORY_MAP];
    for (index, piece) in map.iter_mut().enumerate().take(entries) {
        // SAFETY: the list has at least so many entries.
        let entry: MemoryMapEntry =
            unsafe { read(info.memory_map + index * size_of::<MemoryMapEntry>()) };
        *piece = Piece {
            start: entry.address,
            length: entry.size,
            kind: entry.kind,
        };
    }
    let range = |start: usize, size: usize| start as u64..(start + size) as u64;
    let image = image();
    let taken = [
        range(image.start, image.len()),
        range(at, size_of::<StartInfo>()),
        range(info.command_line, LONGEST_COMMAND_LINE),
        range(info.memory_map, entries * size_of::<MemoryMapEntry>()),
        range(info.modules, info.module_count as usize * MODULE_SIZE),
    ];
    let address = |address| usize::try_from(address).expect("an address of 64 bits");
    let window = memory_map::window(&map, HOLE_END);
    let free = memory_map::free(&map, &taken, window.start);
    heap::set_up(free.map(|free| address(free.start)..address(free.end)));
    pages::set_up_window(address(window.start)..address(window.end));

    let shared_info = Place::new(1).ok_or(Errno::NOMEM)?;
    shared_info.put_xen_page(0, Space::SharedInfo)?;
    let ring = |page, port| {
        let frame = usize::try_from(parameter(page)?).map_err(|_| Errno::INVAL)?;
        // SAFETY: the domain builder puts these pages above `HOLE_END`, where neither the heap nor a
        // place ever is.
        let page = unsafe { page_at(frame * PAGE) };
        let port = u32::try_from(parameter(port)?).map_err(|_| Errno::INVAL)?;
        Ok(Ring { page, port })
    };
    Ok(Given {
        shared_info: shared_info.region(),
        console: ring(Parameter::ConsolePage, Parameter::ConsolePort)?,
        store: ring(Parameter::StorePage, Parameter::StorePort)?,
        command_line: match info.command_line {
            0 => &[],
            // SAFETY: it is there, and in what the heap does not get.
            line => unsafe { text(line, LONGEST_COMMAND_LINE) },
        },
    })
}
