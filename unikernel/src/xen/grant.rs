//! Grant tables: `grant_table.h`.

use core::fmt;

use super::call::{Call, hypercall};
use super::{DOMID_SELF, Errno};

const MAP_GRANT_REF: usize = 0;
const UNMAP_GRANT_REF: usize = 1;
const SETUP_TABLE: usize = 2;
const QUERY_SIZE: usize = 6;

/// `GNTMAP_host_map`, `GNTMAP_readonly`.
const HOST_MAP: u32 = 1 << 1;
const READ_ONLY: u32 = 1 << 2;

/// Why a grant operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The hypercall itself.
    Call(Errno),
    /// `GNTST_*`.
    Status(i16),
}

impl Refusal {
    /// The domain or the grant is not there, or not for this domain.
    pub(crate) fn is_stale(self) -> bool {
        matches!(self, Refusal::Status(-2 | -3 | -8))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Refusal::Call(errno) => return errno.fmt(f),
            Refusal::Status(-2) => "no such domain",
            Refusal::Status(-3) => "no such grant reference",
            Refusal::Status(-5) => "bad address to map at",
            Refusal::Status(-8) => "permission denied",
            Refusal::Status(-9) => "the granted page is of no use",
            Refusal::Status(-12) => "not now, try again",
            Refusal::Status(-13) => "Xen has no more room for mappings",
            Refusal::Status(other) => return write!(f, "grant status {other}"),
        };
        f.write_str(text)
    }
}

impl core::error::Error for Refusal {}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal::Call(errno)
    }
}

/// A structure of the header, with the status that Xen leaves in it.
trait Operation {
    const NUMBER: usize;
    fn status(&self) -> i16;
}

#[allow(unsafe_code, reason = "a hypercall")]
/// # Safety
/// `argument` has the layout that its number asks for, and the consequences are the caller's.
unsafe fn perform<T: Operation>(argument: &mut T) -> Result<(), Refusal> {
    let pointer = core::ptr::from_mut(argument).expose_provenance();
    // SAFETY: one structure of the right kind; the rest is the caller's promise.
    unsafe { hypercall(Call::GrantTableOp, T::NUMBER, pointer, 1, 0) }.map_err(Refusal::Call)?;
    match argument.status() {
        0.. => Ok(()),
        status => Err(Refusal::Status(status)),
    }
}

/// ```c
/// struct gnttab_map_grant_ref {
///     uint64_t host_addr; uint32_t flags; grant_ref_t ref; domid_t dom;
///     int16_t status; grant_handle_t handle; uint64_t dev_bus_addr;
/// };
/// ```
#[repr(C)]
struct MapGrantRef {
    host_address: u64,
    flags: u32,
    reference: u32,
    domain: u16,
    status: i16,
    handle: u32,
    device_bus_address: u64,
}

impl Operation for MapGrantRef {
    const NUMBER: usize = MAP_GRANT_REF;
    fn status(&self) -> i16 {
        self.status
    }
}

/// Maps a page of `domain` at `address` and gives the handle of the mapping.
///
/// # Safety
/// What lies at `address` may be replaced.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) unsafe fn map(
    domain: u16,
    reference: u32,
    address: u64,
    read_only: bool,
) -> Result<u32, Refusal> {
    let mut argument = MapGrantRef {
        host_address: address,
        flags: HOST_MAP | if read_only { READ_ONLY } else { 0 },
        reference,
        domain,
        status: 0,
        handle: 0,
        device_bus_address: 0,
    };
    // SAFETY: the right structure; the rest is the caller's promise.
    unsafe { perform(&mut argument) }?;
    Ok(argument.handle)
}

/// ```c
/// struct gnttab_unmap_grant_ref {
///     uint64_t host_addr; uint64_t dev_bus_addr; grant_handle_t handle; int16_t status;
/// };
/// ```
#[repr(C)]
struct UnmapGrantRef {
    host_address: u64,
    device_bus_address: u64,
    handle: u32,
    status: i16,
}

impl Operation for UnmapGrantRef {
    const NUMBER: usize = UNMAP_GRANT_REF;
    fn status(&self) -> i16 {
        self.status
    }
}

/// Ends the mapping `handle` at `address`. Nothing lies there afterwards.
///
/// # Safety
/// Nothing of the mapping is in use any more.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) unsafe fn unmap(address: u64, handle: u32) -> Result<(), Refusal> {
    let mut argument = UnmapGrantRef {
        host_address: address,
        device_bus_address: 0,
        handle,
        status: 0,
    };
    // SAFETY: the right structure; the rest is the caller's promise.
    unsafe { perform(&mut argument) }
}

/// ```c
/// struct gnttab_setup_table {
///     domid_t dom; uint32_t nr_frames; int16_t status; xen_pfn_t *frame_list;
/// };
/// ```
#[repr(C)]
struct SetupTable {
    domain: u16,
    frame_count: u32,
    status: i16,
    frames: *mut u64,
}

impl Operation for SetupTable {
    const NUMBER: usize = SETUP_TABLE;
    fn status(&self) -> i16 {
        self.status
    }
}

/// Makes the own table at least `frames.len()` pages long and tells their machine frames.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn set_up_table(frames: &mut [u64]) -> Result<(), Refusal> {
    let mut argument = SetupTable {
        domain: DOMID_SELF,
        frame_count: u32::try_from(frames.len()).map_err(|_| Refusal::Call(Errno::INVAL))?,
        status: 0,
        frames: frames.as_mut_ptr(),
    };
    // SAFETY: the right structure; Xen writes `frame_count` numbers.
    unsafe { perform(&mut argument) }
}

/// ```c
/// struct gnttab_query_size {
///     domid_t dom; uint32_t nr_frames; uint32_t max_nr_frames; int16_t status;
/// };
/// ```
#[repr(C)]
struct QuerySize {
    domain: u16,
    frame_count: u32,
    most_frames: u32,
    status: i16,
}

impl Operation for QuerySize {
    const NUMBER: usize = QUERY_SIZE;
    fn status(&self) -> i16 {
        self.status
    }
}

/// The most pages that the own table may have.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn most_frames() -> Result<u32, Refusal> {
    let mut argument = QuerySize {
        domain: DOMID_SELF,
        frame_count: 0,
        most_frames: 0,
        status: 0,
    };
    // SAFETY: the right structure.
    unsafe { perform(&mut argument) }?;
    Ok(argument.most_frames)
}
