//! Where a PV guest goes on at an exception: `arch-x86/xen.h`.

use super::Errno;
use super::call::{Call, hypercall};

/// The selector of the segment in which a PV guest's code runs, `FLAT_KERNEL_CS64`.
const CODE: u16 = 0xe033;

/// ```c
/// struct trap_info { uint8_t vector; uint8_t flags; uint16_t cs; unsigned long address; };
/// ```
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Trap {
    vector: u8,
    flags: u8,
    segment: u16,
    address: usize,
}

impl Trap {
    /// What ends a table.
    pub(crate) const END: Trap = Trap {
        vector: 0,
        flags: 0,
        segment: 0,
        address: 0,
    };

    /// At exception `vector` the guest goes on at `address`.
    pub(crate) fn new(vector: u8, address: usize) -> Trap {
        Trap {
            vector,
            flags: 0,
            segment: CODE,
            address,
        }
    }
}

/// Makes `table`, which [`Trap::END`] ends, the one that counts.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn set_table(table: &[Trap]) -> Result<(), Errno> {
    if table.last().is_none_or(|last| last.address != 0) {
        return Err(Errno::INVAL);
    }
    // SAFETY: `set_trap_table` reads traps up to one without an address, which is there.
    unsafe {
        hypercall(
            Call::SetTrapTable,
            table.as_ptr().expose_provenance(),
            0,
            0,
            0,
        )
    }
    .map(drop)
}
