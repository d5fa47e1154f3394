//! Mapping pages that other domains share, through `/dev/xen/gntdev`.
//!
//! UNSAFETY: each number below is paired with its structure, which holds no pointers. The driver
//! reads and writes that structure only: of `MapGrantRef` as many references as `count` says,
//! which is checked against the length of the array.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::gntalloc::MOST_PAGES;
use super::ioctl::{Opcode, call, number};
use crate::DomId;
use crate::host::GrantRef;

/// `struct ioctl_gntdev_grant_ref`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ForeignGrant {
    domid: u32,
    reference: u32,
}

/// `struct ioctl_gntdev_map_grant_ref`, which ends in `count` references. The number is made of the
/// size with one of them.
#[repr(C)]
struct MapGrantRef<const N: usize> {
    count: u32,
    pad: u32,
    index: u64,
    refs: [ForeignGrant; N],
}

/// `struct ioctl_gntdev_unmap_grant_ref`
#[repr(C)]
struct UnmapGrantRef {
    index: u64,
    count: u32,
    pad: u32,
}

pub(super) mod numbers {
    use super::{MapGrantRef, Opcode, UnmapGrantRef, number};

    /// `IOCTL_GNTDEV_MAP_GRANT_REF`: `_IOC(_IOC_NONE, 'G', 0, ...)`
    pub(in crate::xen) const MAP_GRANT_REF: Opcode = number::<MapGrantRef<1>>(b'G', 0);
    /// `IOCTL_GNTDEV_UNMAP_GRANT_REF`: `_IOC(_IOC_NONE, 'G', 1, ...)`
    pub(in crate::xen) const UNMAP_GRANT_REF: Opcode = number::<UnmapGrantRef>(b'G', 1);
}

/// Grants that the driver is ready to map. Drop it after the memory is unmapped: the driver keeps
/// the grants until then.
pub(super) struct Grants {
    fd: Arc<OwnedFd>,
    /// The offset at which to `mmap` them.
    pub(super) index: u64,
    count: u32,
}

/// Prepares grants of `peer` for mapping, side by side. More than [`MOST_PAGES`] are refused with
/// `E2BIG`. Whether they exist shows at `mmap`.
pub(super) fn map_grant_ref(
    fd: Arc<OwnedFd>,
    peer: DomId,
    references: &[GrantRef],
) -> Result<Grants, Errno> {
    let mut refs = [ForeignGrant::default(); MOST_PAGES];
    let fits = references.len() <= refs.len();
    let count = u32::try_from(references.len()).ok().filter(|_| fits);
    for (slot, reference) in refs.iter_mut().zip(references) {
        *slot = ForeignGrant {
            domid: peer.number().into(),
            reference: reference.0,
        };
    }
    let mut argument = MapGrantRef::<MOST_PAGES> {
        count: count.ok_or(Errno::TOOBIG)?,
        pad: 0,
        index: 0,
        refs,
    };
    // SAFETY: the number and its structure, with room for as many references as `count` says.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    unsafe { call(fd.as_fd(), numbers::MAP_GRANT_REF, &mut argument) }?;
    Ok(Grants {
        fd,
        index: argument.index,
        count: argument.count,
    })
}

impl Drop for Grants {
    fn drop(&mut self) {
        let mut argument = UnmapGrantRef {
            index: self.index,
            count: self.count,
            pad: 0,
        };
        // SAFETY: the number and its structure.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        let done = unsafe { call(self.fd.as_fd(), numbers::UNMAP_GRANT_REF, &mut argument) };
        if let Err(errno) = done {
            tracing::warn!(%errno, "gntdev does not let go of grants");
        }
    }
}
