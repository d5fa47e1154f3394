//! The way into Xen.
//!
//! UNSAFETY: a hypercall is a call into the page that Xen filled with code. What it reads and
//! writes is behind the pointers that are its arguments; that they fit is each caller's business.

use super::Errno;

#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe extern "C" {
    /// From `boot/entry.s`: 128 stubs of 32 bytes.
    static unikernel_hypercall_page: [u8; 4096];
}

/// The hypercalls in use, `__HYPERVISOR_*` of Xen's header `xen.h`.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(super) enum Call {
    SetTrapTable = 0,
    MmuUpdate = 1,
    MemoryOp = 12,
    UpdateVaMapping = 14,
    GrantTableOp = 20,
    SchedOp = 29,
    EventChannelOp = 32,
    HvmOp = 34,
}

/// Makes a hypercall.
///
/// # Safety
/// The arguments are what this hypercall takes; memory that it reads or writes through them is
/// valid for that.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
pub(super) unsafe fn hypercall(
    call: Call,
    first: usize,
    second: usize,
    third: usize,
    fourth: usize,
) -> Result<i64, Errno> {
    let stub = (&raw const unikernel_hypercall_page).addr() + (call as usize) * 32;
    let returned: i64;
    // SAFETY: the stub keeps all registers but those named here, by Xen's calling convention; the
    // rest is what the caller promises.
    unsafe {
        core::arch::asm!(
            "call {stub}",
            stub = in(reg) stub,
            inout("rdi") first => _,
            inout("rsi") second => _,
            inout("rdx") third => _,
            inout("r10") fourth => _,
            out("r8") _,
            out("rcx") _,
            out("r11") _,
            lateout("rax") returned,
        );
    }
    Errno::check(returned)
}

/// Makes a hypercall whose second argument is a structure that Xen reads and fills in.
///
/// # Safety
/// As for [`hypercall`]; `argument` has the layout of the public header.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
pub(super) unsafe fn operation<T>(
    call: Call,
    number: usize,
    argument: &mut T,
) -> Result<i64, Errno> {
    let argument = core::ptr::from_mut(argument).expose_provenance();
    // SAFETY: by the caller's promise.
    unsafe { hypercall(call, number, argument, 0, 0) }
}

/// What the processor, or a hypervisor in its name, says at a leaf of CPUID.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
#[allow(
    unused_unsafe,
    reason = "it is unsafe in Rust 1.88, and no more in 1.95"
)]
fn cpuid(leaf: u32) -> core::arch::x86_64::CpuidResult {
    // SAFETY: every processor with long mode has the instruction, and it changes nothing else.
    unsafe { core::arch::x86_64::__cpuid(leaf) }
}

/// Has Xen fill the hypercall page. For PVH; a PV guest is started with a page that is filled.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
pub(crate) fn set_up_page() {
    /// Xen's leaves of CPUID are at this one or, below another hypervisor's, some hundreds later.
    const FIRST: u32 = 0x4000_0000;
    let base = (FIRST..FIRST + 0x1_0000)
        .step_by(0x100)
        .find(|&leaf| {
            let found = cpuid(leaf);
            let name = [found.ebx, found.ecx, found.edx].map(u32::to_le_bytes);
            name.as_flattened() == b"XenVMMXenVMM"
        })
        .unwrap_or(FIRST);
    let register = cpuid(base + 2).ebx;
    let page = (&raw const unikernel_hypercall_page).addr();
    // SAFETY: the register is the one by which Xen is told where to put the hypercalls, and the
    // page is set aside for them.
    unsafe {
        core::arch::asm!(
            "wrmsr",
            in("ecx") register,
            in("eax") page & 0xffff_ffff,
            in("edx") page >> 32,
            options(nostack, preserves_flags),
        );
    }
}
