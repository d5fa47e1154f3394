//! Pages: of one's own that others may map, and places where others' pages are mapped.
//!
//! UNSAFETY: a page that another domain sees is only ever touched through a [`Region`], which is made
//! for that; what lies at a [`Place`] changes by hypercalls, while no region is there.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::boxed::Box;
use core::alloc::Layout;
use core::cell::RefCell;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::ptr::NonNull;

use unikernel_core::window::Window;
use vchan::memory::{Access, Region};

use crate::cell::OneCpu;
use crate::machine::{self, Mode, PAGE, frame_at};
use crate::xen::memory::{Space, add_to_physmap};
use crate::xen::{Errno, grant, mmu};

/// Pages of one's own, side by side, zero to begin with. Dropping them gives them back to the heap.
#[derive(Debug)]
pub(crate) struct Pages {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Send for Pages {}
// SAFETY: it gives out addresses only.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl Sync for Pages {}

impl Pages {
    /// `None`: the heap has not so many side by side.
    pub(crate) fn new(count: usize) -> Option<Pages> {
        let layout = Layout::from_size_align(count.checked_mul(PAGE)?, PAGE).ok()?;
        if layout.size() == 0 {
            return None;
        }
        // SAFETY: the size is not zero.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base)?;
        base.as_ptr().expose_provenance();
        Some(Pages { base, layout })
    }

    pub(crate) fn address(&self) -> usize {
        self.base.addr().get()
    }

    /// The number by which Xen knows page `index`.
    pub(crate) fn frame(&self, index: usize) -> Option<u64> {
        frame_at(self.address() + index * PAGE)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it came from there, with this layout.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            dealloc(self.base.as_ptr(), self.layout);
        }
    }
}

/// The addresses of a PVH guest that have no memory, from which places are taken.
static WINDOW: OneCpu<RefCell<Window>> = OneCpu::new(RefCell::new(Window::new()));

/// Says where a PVH guest has no memory.
pub(crate) fn set_up_window(addresses: Range<usize>) {
    WINDOW.borrow_mut().give(addresses);
}

/// Page addresses, side by side, at which pages of others can be put. Those of a PV guest are taken
/// from its own memory, which comes back there afterwards; a PVH guest has addresses without memory.
#[derive(Debug)]
pub(crate) struct Place {
    base: usize,
    count: usize,
    own: Option<Pages>,
}

impl Place {
    /// `None`: there is no room.
    pub(crate) fn new(count: usize) -> Option<Place> {
        if let Mode::Pv(_) = machine::mode() {
            let own = Pages::new(count)?;
            let base = own.address();
            let own = Some(own);
            let place = Place { base, count, own };
            place.empty().ok()?;
            return Some(place);
        }
        let size = count.checked_mul(PAGE)?;
        let base = WINDOW.borrow_mut().take(size)?.start;
        let own = None;
        Some(Place { base, count, own })
    }

    pub(crate) fn address(&self, index: usize) -> usize {
        assert!(
            index < self.count,
            "a place of {} pages has no page {index}",
            self.count
        );
        self.base + index * PAGE
    }

    /// Takes a PV guest's own memory away from here, also from what the processor remembers. Xen
    /// flushes nothing when it puts a granted page over another one: until the next switch of
    /// address spaces the program would go on reading and writing its own memory.
    fn empty(&self) -> Result<(), Errno> {
        (0..self.count).try_for_each(|index| {
            // SAFETY: a place is there for this, and has no region yet.
            #[allow(unsafe_code, reason = "see UNSAFETY above")]
            unsafe {
                mmu::update_va_mapping(self.address(index), 0)
            }
        })
    }

    /// Puts a machine frame at page `index`, for PV: one of Xen's, or the place's own.
    pub(crate) fn put_machine_frame(&self, index: usize, frame: u64) -> Result<(), Errno> {
        let address = self.address(index);
        // SAFETY: a place is there for this, and has no region: not yet, or, in `restore`, no more.
        // So nothing of the program lies at the address.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            mmu::update_va_mapping(address, machine::entry(frame))
        }
    }

    /// Puts one of Xen's pages at page `index`, for PVH.
    pub(crate) fn put_xen_page(&self, index: usize, page: Space) -> Result<(), Errno> {
        let frame = self.address(index) / PAGE;
        // SAFETY: a place is there for this, has no memory and no region yet.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            add_to_physmap(page, frame as u64)
        }
    }

    /// Maps a page that `domain` grants at page `index`.
    pub(crate) fn put_granted(
        &self,
        index: usize,
        domain: u16,
        reference: u32,
        access: Access,
    ) -> Result<u32, grant::Refusal> {
        let read_only = access == Access::ReadOnly;
        // SAFETY: a place is there for this, and has no region yet.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            grant::map(domain, reference, self.address(index) as u64, read_only)
        }
    }

    /// Ends what [`put_granted`](Place::put_granted) did.
    ///
    /// # Safety
    /// No region is there any more.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    pub(crate) unsafe fn take_granted(
        &self,
        index: usize,
        handle: u32,
    ) -> Result<(), grant::Refusal> {
        // SAFETY: by the caller's promise.
        unsafe { grant::unmap(self.address(index) as u64, handle) }
    }

    /// Access to what was put here, at every page, for ever.
    pub(crate) fn region(self) -> Region {
        let (base, count) = (self.base, self.count);
        let keeper = Box::new(ManuallyDrop::new(self));
        // SAFETY: the place is never dropped, so what lies there stays, and nobody else has it.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        unsafe {
            region(base, count, Access::ReadWrite, keeper)
        }
    }

    /// A PV guest's own memory comes back to where others' pages were.
    fn restore(&self) -> Result<(), Errno> {
        (0..self.count).try_for_each(|index| {
            let frame = frame_at(self.address(index)).ok_or(Errno::INVAL)?;
            self.put_machine_frame(index, frame)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match &self.own {
            None => (WINDOW.borrow_mut()).give(self.base..self.base + self.count * PAGE),
            Some(_) if self.restore().is_ok() => {}
            // Then these addresses are of no use any more.
            Some(_) => core::mem::forget(self.own.take()),
        }
    }
}

/// Access to the `count` pages at `base`.
///
/// # Safety
/// They are there until `keeper` is dropped, for writing too with [`Access::ReadWrite`], and nothing
/// else of the program refers to them.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
pub(crate) unsafe fn region(
    base: usize,
    count: usize,
    access: Access,
    keeper: Box<dyn Send + Sync>,
) -> Region {
    let base = core::ptr::with_exposed_provenance_mut(base);
    let base = NonNull::new(base).expect("no page lies at address 0");
    // SAFETY: by the caller's promise.
    unsafe { Region::from_raw(base, count * PAGE, access, keeper) }
}
