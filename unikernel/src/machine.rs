//! The two ways of being a guest, as far as they differ once the guest runs.
//!
//! In both an address is a physical address is 4096 times a frame number. A PV guest's frames are
//! mapped through Xen, and others know them by their machine frames.
//!
//! UNSAFETY: page tables say what lies at an address. They are only changed here and in `pages`,
//! at addresses where nothing of the program lies.

use core::cell::Cell;
use core::ops::Range;

use crate::cell::OneCpu;
use crate::xen::{Errno, mmu};

pub(crate) const PAGE: usize = vchan::memory::PAGE_SIZE;

/// How the guest is virtualised, and what it must know for that.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    Pv(Pv),
    Pvh,
}

/// A PV guest's view of its memory.
#[derive(Clone, Copy)]
pub(crate) struct Pv {
    /// The machine frame of each frame: Xen's `mfn_list`.
    pub machine_frames: &'static [u64],
    /// The address of the top page table.
    pub page_tables: usize,
    /// Below this address all memory is mapped.
    pub mapped_end: usize,
    /// From this address on there is none, or it is used for page tables.
    pub memory_end: usize,
    /// The table of level 2 that was made last, and for which GiB.
    made: Option<(usize, usize)>,
}

static MODE: OneCpu<Cell<Mode>> = OneCpu::new(Cell::new(Mode::Pvh));

/// To be called once, first of all.
pub(crate) fn set_up(mode: Mode) {
    MODE.set(mode);
}

pub(crate) fn mode() -> Mode {
    MODE.get()
}

/// The number by which Xen knows the memory at `address`: the machine frame of a PV guest, the
/// guest frame of a PVH guest.
pub(crate) fn frame_at(address: usize) -> Option<u64> {
    let frame = address / PAGE;
    match mode() {
        Mode::Pv(pv) => pv.machine_frames.get(frame).copied(),
        Mode::Pvh => u64::try_from(frame).ok(),
    }
}

/// Present, writable, for the user as well, accessed, dirty: as all entries of a PV guest.
const ENTRY: u64 = 0x67;
/// The bits of an entry that are the machine address.
const FRAME_BITS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: usize = 512;
/// How much one table of the lowest level maps.
const L1_SPAN: usize = PAGE * ENTRIES;

/// An entry for the machine frame `frame`.
pub(crate) fn entry(frame: u64) -> u64 {
    frame << 12 | ENTRY
}

/// The beginning of `range` that can be used, mapped if it was not: at least `least` bytes, if
/// there are so many.
pub(crate) fn map_memory(range: &Range<usize>, least: usize) -> Option<Range<usize>> {
    let Mode::Pv(mut pv) = mode() else {
        return Some(range.clone());
    };
    let wanted = range.start.saturating_add(least).saturating_add(PAGE);
    while pv.mapped_end < wanted.min(range.end) && pv.mapped_end < pv.memory_end {
        pv.map_more().ok()?;
        MODE.set(Mode::Pv(pv));
    }
    let end = range.end.min(pv.mapped_end).min(pv.memory_end);
    (range.start < end).then_some(range.start..end)
}

/// A page in which page tables are made before they are ones.
#[repr(C, align(4096))]
struct Workbench([u64; ENTRIES]);

impl Pv {
    /// The view of a guest whose frames are `machine_frames`, with its top page table at
    /// `page_tables`.
    pub(crate) fn new(machine_frames: &'static [u64], page_tables: usize) -> Result<Pv, Errno> {
        let mut pv = Pv {
            machine_frames,
            page_tables,
            mapped_end: 0,
            memory_end: machine_frames.len() * PAGE,
            made: None,
        };
        // The domain builder has mapped whole tables of the lowest level.
        while let Some(l2) = pv.builders_l2(pv.mapped_end)?
            && read_entry(l2, pv.mapped_end >> 21) & 1 != 0
        {
            pv.mapped_end += L1_SPAN;
        }
        Ok(pv)
    }

    /// Maps the next 2 MiB. The tables for that are taken from the end of memory.
    fn map_more(&mut self) -> Result<(), Errno> {
        let at = self.mapped_end;
        let l2 = match (self.builders_l2(at)?, self.made) {
            (_, Some((gib, l2))) if gib == at >> 30 => l2,
            (Some(l2), _) => l2,
            (None, _) => self.make_l2(at)?,
        };
        let table = self.take_page()?;
        let mut entries = [0; ENTRIES];
        for (slot, address) in entries.iter_mut().zip((at..self.memory_end).step_by(PAGE)) {
            *slot = entry(self.machine_frame(address)?);
        }
        self.make_table(table, entries)?;
        self.set_entry(l2, at >> 21, table)?;
        self.mapped_end = at + L1_SPAN;
        Ok(())
    }

    /// The table of level 2 for `address`, if the domain builder has made it: those are mapped.
    fn builders_l2(&self, address: usize) -> Result<Option<usize>, Errno> {
        let Some(l3) = table_behind(self.page_tables, address >> 39)? else {
            return Ok(None);
        };
        match self.made {
            Some((gib, _)) if gib <= address >> 30 => Ok(None),
            _ => table_behind(l3, address >> 30),
        }
    }

    fn make_l2(&mut self, address: usize) -> Result<usize, Errno> {
        let l3 = table_behind(self.page_tables, address >> 39)?.ok_or(Errno::INVAL)?;
        let table = self.take_page()?;
        self.make_table(table, [0; ENTRIES])?;
        self.set_entry(l3, address >> 30, table)?;
        self.made = Some((address >> 30, table));
        Ok(table)
    }

    /// The last page of memory, which is not mapped; it is no memory from now on.
    fn take_page(&mut self) -> Result<usize, Errno> {
        let page = self.memory_end - PAGE;
        if page < self.mapped_end {
            return Err(Errno::NOMEM);
        }
        self.memory_end = page;
        Ok(page)
    }

    fn machine_frame(&self, address: usize) -> Result<u64, Errno> {
        let frame = self.machine_frames.get(address / PAGE);
        frame.copied().ok_or(Errno::INVAL)
    }

    /// Fills the page at `address`, which is not mapped, with `entries`.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    fn make_table(&self, address: usize, entries: [u64; ENTRIES]) -> Result<(), Errno> {
        static WORKBENCH: OneCpu<Cell<Workbench>> = OneCpu::new(Cell::new(Workbench([0; ENTRIES])));
        let bench = WORKBENCH.as_ptr();
        let own = entry(self.machine_frame(bench.addr())?);
        // SAFETY: nothing is on the workbench.
        unsafe { mmu::update_va_mapping(bench.addr(), entry(self.machine_frame(address)?)) }?;
        // SAFETY: a whole page, mapped for writing.
        unsafe { bench.write_volatile(Workbench(entries)) };
        // SAFETY: gives the workbench its own page back.
        unsafe { mmu::update_va_mapping(bench.addr(), own) }
    }

    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    fn set_entry(&self, table: usize, index: usize, to: usize) -> Result<(), Errno> {
        let at = (self.machine_frame(table)? << 12) + (index % ENTRIES * 8) as u64;
        // SAFETY: the entry was empty: nothing lies behind it.
        unsafe { mmu::update_entry(at, entry(self.machine_frame(to)?)) }
    }
}

/// Entry `index` of the table at `table`, one of the domain builder's.
fn read_entry(table: usize, index: usize) -> u64 {
    let at = core::ptr::with_exposed_provenance::<u64>(table + index % ENTRIES * 8);
    // SAFETY: the builder's page tables are mapped, for reading; the entry is inside of the table.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    unsafe {
        at.read_volatile()
    }
}

/// The table that entry `index` of the table at `table` names.
fn table_behind(table: usize, index: usize) -> Result<Option<usize>, Errno> {
    let entry = read_entry(table, index);
    if entry & 1 == 0 {
        return Ok(None);
    }
    address_of_machine_frame((entry & FRAME_BITS) >> 12).map(Some)
}

/// The own frame that is machine frame `machine_frame`: a PV guest may read Xen's table of them.
fn frame_of_machine_frame(machine_frame: u64) -> Result<usize, Errno> {
    /// `MACH2PHYS_VIRT_START`
    const TABLE: usize = 0xffff_8000_0000_0000;
    let index = usize::try_from(machine_frame).map_err(|_| Errno::INVAL)?;
    let at = core::ptr::with_exposed_provenance::<u64>(TABLE + index * 8);
    // SAFETY: Xen maps the table for all PV guests, with an entry for every machine frame that there
    // is; this one was given to us by Xen.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    let frame = unsafe { at.read_volatile() };
    usize::try_from(frame).map_err(|_| Errno::INVAL)
}

/// The address of the own page that is machine frame `machine_frame`.
pub(crate) fn address_of_machine_frame(machine_frame: u64) -> Result<usize, Errno> {
    frame_of_machine_frame(machine_frame).map(|frame| frame * PAGE)
}
