//! What lies at a guest's physical addresses, for PVH: `memory.h`.

use super::call::{Call, operation};
use super::{DOMID_SELF, Errno};

const ADD_TO_PHYSMAP: usize = 7;

/// A page of Xen's that a guest may see, `XENMAPSPACE_*` and its index.
#[derive(Clone, Copy)]
pub(crate) enum Space {
    SharedInfo,
    GrantTable(u32),
}

/// ```c
/// struct xen_add_to_physmap {
///     domid_t domid; uint16_t size; unsigned int space; xen_ulong_t idx; xen_pfn_t gpfn;
/// };
/// ```
#[repr(C)]
struct AddToPhysmap {
    domain: u16,
    size: u16,
    space: u32,
    index: u64,
    frame: u64,
}

/// Puts a page of Xen's at guest frame `frame`.
///
/// # Safety
/// Nothing else lies at `frame`.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) unsafe fn add_to_physmap(space: Space, frame: u64) -> Result<(), Errno> {
    let (space, index) = match space {
        Space::SharedInfo => (0, 0),
        Space::GrantTable(index) => (1, u64::from(index)),
    };
    let mut argument = AddToPhysmap {
        domain: DOMID_SELF,
        size: 0,
        space,
        index,
        frame,
    };
    // SAFETY: `XENMEM_add_to_physmap` takes this structure; what it does to the guest's memory is
    // what the caller promises to bear.
    unsafe { operation(Call::MemoryOp, ADD_TO_PHYSMAP, &mut argument) }.map(drop)
}
