//! Page tables of a PV guest, which only Xen may change: `xen.h`.

use super::DOMID_SELF;
use super::Errno;
use super::call::{Call, hypercall};

/// Flush what the processor remembers of this address: `UVMF_INVLPG`.
const FLUSH_ONE: usize = 2;

/// Makes the page table entry of `address` into `entry`.
///
/// # Safety
/// What lies at `address` may be replaced by what `entry` names.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) unsafe fn update_va_mapping(address: usize, entry: u64) -> Result<(), Errno> {
    let entry = usize::try_from(entry).map_err(|_| Errno::INVAL)?;
    // SAFETY: it reads no memory of ours; the rest is the caller's promise.
    unsafe { hypercall(Call::UpdateVaMapping, address, entry, FLUSH_ONE, 0) }.map(drop)
}

/// ```c
/// struct mmu_update { uint64_t ptr; uint64_t val; };
/// ```
#[repr(C)]
struct MmuUpdate {
    entry: u64,
    value: u64,
}

/// Makes the page table entry at machine address `entry` into `value`.
///
/// # Safety
/// What lies at the addresses behind that entry may be replaced.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) unsafe fn update_entry(entry: u64, value: u64) -> Result<(), Errno> {
    let request = MmuUpdate { entry, value };
    let request = (&raw const request).expose_provenance();
    // SAFETY: `mmu_update` reads one request; the rest is the caller's promise.
    unsafe { hypercall(Call::MmuUpdate, request, 1, 0, DOMID_SELF.into()) }.map(drop)
}
