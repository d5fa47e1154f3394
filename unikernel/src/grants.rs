//! Grant tables: sharing one's own pages, and mapping others'.
//!
//! The entries are those of version 1 of Xen's header `grant_table.h`.
//!
//! UNSAFETY: a region must not outlive the pages that it is over. Each is made here together with
//! what keeps its pages: a [`Share`] or a [`Mapping`], whose parts go only when it is dropped.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::Ordering;

use vchan::host::{GrantRef, Grants, Shared, UnmapNotify};
use vchan::memory::{Access, Region};
use vchan::{DomId, HostError};

use crate::cell::OneCpu;
use crate::machine::{self, Mode, PAGE};
use crate::pages::{Pages, Place, region};
use crate::xen::grant::Refusal;
use crate::xen::memory::Space;
use crate::xen::{Errno, event, grant};

/// The size of `grant_entry_v1_t`: flags, domain, frame.
const ENTRY_SIZE: usize = 8;
const ENTRIES_PER_FRAME: usize = PAGE / ENTRY_SIZE;

/// `GTF_permit_access`, and the mask of all types.
const PERMIT_ACCESS: u32 = 1;
const TYPE: u8 = 3;
const READ_ONLY: u32 = 1 << 2;
/// Xen sets these while the peer has the page mapped: `GTF_reading`, `GTF_writing`.
const IN_USE: u8 = 1 << 3 | 1 << 4;

/// Who shares what, and what is kept back. A share's pages go when the last of them does.
type Book = Arc<OneCpu<RefCell<unikernel_core::grants::Grants<Table, Arc<Pages>>>>>;

/// The grant table of this domain, and mapping others' pages.
#[derive(Clone)]
pub(crate) struct GrantTable {
    book: Book,
}

impl GrantTable {
    /// The table, of which nothing is used yet.
    pub(crate) fn new() -> GrantTable {
        let table = Table { frames: Vec::new() };
        let book = unikernel_core::grants::Grants::new(table);
        GrantTable {
            book: Arc::new(OneCpu::new(RefCell::new(book))),
        }
    }

    /// How many pages are kept back at this moment; the others are given back to the heap.
    pub(crate) fn kept_back(&self) -> usize {
        let mut book = self.book.borrow_mut();
        book.reclaim();
        book.kept_back()
    }
}

impl fmt::Debug for GrantTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrantTable")
    }
}

impl Grants for GrantTable {
    fn share(
        &self,
        peer: DomId,
        pages: usize,
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Shared, HostError> {
        let doing = || HostError::new(format!("share {pages} pages with domain {peer}"));
        let memory = Pages::new(pages);
        // Perhaps what is needed was only kept back.
        let memory = memory.or_else(|| {
            self.book.borrow_mut().reclaim();
            Pages::new(pages)
        });
        let memory = Arc::new(memory.ok_or_else(|| no_memory(doing()))?);
        let base = memory.address();
        let mut share = Share {
            book: Arc::clone(&self.book),
            references: Vec::with_capacity(pages),
            memory: Arc::clone(&memory),
            notify: None,
        };
        // Where one fails, those that are shared by then are ended.
        for index in 0..pages {
            let frame = memory.frame(index).ok_or_else(|| no_memory(doing()))?;
            let reference = self.book.borrow_mut().share(peer, frame, access);
            let reference = reference.map_err(|error| doing().because(error))?;
            share.references.push(reference);
        }
        share.notify = notify;
        let references = share.references.clone();
        // SAFETY: the share has these pages until it is dropped; nobody else refers to them.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        let region = unsafe { region(base, pages, Access::ReadWrite, Box::new(share)) };
        Ok(Shared { references, region })
    }

    fn map(
        &self,
        peer: DomId,
        references: &[GrantRef],
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Region, HostError> {
        let count = references.len();
        let doing = || HostError::new(format!("map {count} pages of domain {peer}"));
        if notify.is_some() && access == Access::ReadOnly {
            return Err(doing().because("a byte to clear at the end must be writable"));
        }
        let place = Place::new(count).ok_or_else(|| no_memory(doing()))?;
        let base = place.address(0);
        let mut mapping = Mapping {
            place: Some(place),
            base,
            handles: Vec::with_capacity(count),
            notify: None,
        };
        // Where one fails, those that are mapped by then are unmapped again.
        for reference in references {
            mapping.add(peer, *reference, access).map_err(|refusal| {
                let error = doing().because(format!("grant {reference}: {refusal}"));
                if refusal.is_stale() {
                    error.stale()
                } else {
                    error
                }
            })?;
        }
        mapping.notify = notify;
        // SAFETY: the mapping has this place, with something mapped at each page of it, until it is
        // dropped; nobody else refers to it.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        let region = unsafe { region(base, count, access, Box::new(mapping)) };
        Ok(region)
    }
}

fn no_memory(error: HostError) -> HostError {
    error
        .because("there is not so much memory left side by side")
        .hint("give the domain more, with memory= in its configuration")
}

/// The table itself, as far as it is mapped.
struct Table {
    frames: Vec<Region>,
}

impl Table {
    /// The page of the table with an entry, and the entry's place in it.
    fn entry(&self, reference: GrantRef) -> (&Region, usize) {
        let index = reference.0 as usize;
        let frame = &self.frames[index / ENTRIES_PER_FRAME];
        (frame, index % ENTRIES_PER_FRAME * ENTRY_SIZE)
    }

    /// Has Xen add page `index` to the table, and maps it.
    fn map_frame(index: usize) -> Result<Region, Refusal> {
        let place = Place::new(1).ok_or(Errno::NOMEM)?;
        match machine::mode() {
            Mode::Pv(_) => {
                let mut machine_frames = vec![0; index + 1];
                grant::set_up_table(&mut machine_frames)?;
                place.put_machine_frame(0, machine_frames[index])?;
            }
            Mode::Pvh => {
                let index = u32::try_from(index).map_err(|_| Errno::INVAL)?;
                place.put_xen_page(0, Space::GrantTable(index))?;
            }
        }
        Ok(place.region())
    }
}

impl unikernel_core::grants::GrantTable for Table {
    fn frames(&self) -> u32 {
        // Xen's limit is far below the greatest number.
        u32::try_from(self.frames.len()).unwrap_or(u32::MAX)
    }

    fn add_frame(&mut self) -> Result<(), HostError> {
        let doing = || HostError::new("add to the grant table");
        let most = grant::most_frames().map_err(|refusal| doing().because(refusal))?;
        if self.frames() >= most {
            let most = most as usize * ENTRIES_PER_FRAME;
            return Err(doing()
                .because(format!("all of its {most} entries are used"))
                .hint(
                    "give the domain a greater one, with max_grant_frames= in its configuration",
                ));
        }
        let frame = Table::map_frame(self.frames.len());
        self.frames
            .push(frame.map_err(|refusal| doing().because(refusal))?);
        Ok(())
    }

    fn grant(&mut self, reference: GrantRef, peer: DomId, frame: u64, access: Access) {
        let (page, at) = self.entry(reference);
        // 16 TiB of memory, which is what entries of version 1 can name.
        let Ok(frame) = u32::try_from(frame) else {
            panic!("frame {frame:#x} cannot be granted");
        };
        page.store_index(at + 4, frame, Ordering::Relaxed);
        let flags = match access {
            Access::ReadOnly => PERMIT_ACCESS | READ_ONLY,
            Access::ReadWrite => PERMIT_ACCESS,
        };
        // Xen sees the frame before it sees that the entry is valid.
        page.store_index(
            at,
            flags | u32::from(peer.number()) << 16,
            Ordering::Release,
        );
    }

    /// From now on a peer that does not have the page mapped cannot map it. (One that has may do so
    /// once more: Xen looks at the entry for the first mapping only. Its bits are set until the last.)
    fn end(&mut self, reference: GrantRef) -> bool {
        let (page, at) = self.entry(reference);
        // In one step: Xen sets its bits, in one step too, only while the type is valid.
        page.clear_bits(at, TYPE, Ordering::AcqRel) & IN_USE == 0
    }
}

/// Pages that are shared.
struct Share {
    book: Book,
    references: Vec<GrantRef>,
    memory: Arc<Pages>,
    notify: Option<UnmapNotify>,
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(notify) = self.notify {
            clear(self.memory.address(), notify);
            tell(notify);
        }
        let mut book = self.book.borrow_mut();
        // The lowest last: it is the next to be used.
        while let Some(reference) = self.references.pop() {
            book.end(reference, Arc::clone(&self.memory));
        }
    }
}

/// Pages of others that are mapped.
struct Mapping {
    place: Option<Place>,
    base: usize,
    handles: Vec<u32>,
    notify: Option<UnmapNotify>,
}

impl Mapping {
    /// Maps one page more.
    fn add(&mut self, peer: DomId, reference: GrantRef, access: Access) -> Result<(), Refusal> {
        if let Some(place) = &self.place {
            let index = self.handles.len();
            let handle = place.put_granted(index, peer.number(), reference.0, access)?;
            self.handles.push(handle);
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        if let Some(notify) = self.notify {
            clear(self.base, notify);
        }
        let mut mapped = self.handles.iter().enumerate();
        let unmapped = mapped.try_for_each(|(index, &handle)| {
            // SAFETY: the region over it is being dropped, and this is what it keeps to the end.
            #[allow(unsafe_code, reason = "see UNSAFETY above")]
            unsafe {
                place.take_granted(index, handle)
            }
        });
        // A place at which something may still lie is not used again.
        match unmapped {
            Ok(()) => drop(place),
            Err(_) => core::mem::forget(place),
        }
        if let Some(notify) = self.notify {
            tell(notify);
        }
    }
}

/// Clears the byte that an [`UnmapNotify`] names, in the page at `base`, which is about to go.
fn clear(base: usize, notify: UnmapNotify) {
    // SAFETY: the page is still there, of one's own or mapped for writing, and this region is gone
    // before it.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    let page = unsafe { region(base, 1, Access::ReadWrite, Box::new(())) };
    page.store_byte(notify.offset.into(), 0, Ordering::Release);
}

/// Sends the event that an [`UnmapNotify`] asks for.
fn tell(notify: UnmapNotify) {
    // The port may be gone: then there is nobody to tell.
    let _ = event::send(notify.port.0);
}
