//! Sharing pages of this domain, through `/dev/xen/gntalloc`.
//!
//! UNSAFETY: each number below is paired with its structure, which holds no pointers. The driver
//! reads and writes that structure only: of `AllocGref` as many references as `count` says, which
//! is checked against the length of the array.

use std::os::fd::{AsFd, BorrowedFd};
use std::vec::Vec;

use rustix::io::Errno;

use super::ioctl::{Opcode, call, number};
use crate::DomId;
use crate::host::{GrantRef, UnmapNotify};
use crate::memory::Access;

/// The most pages that are shared or mapped at once: those of the largest ring.
pub(super) const MOST_PAGES: usize = 256;

/// `struct ioctl_gntalloc_alloc_gref`, which ends in `count` references. The number is made of the
/// size with one of them.
#[repr(C)]
struct AllocGref<const N: usize> {
    domid: u16,
    flags: u16,
    count: u32,
    index: u64,
    gref_ids: [u32; N],
}

/// `GNTALLOC_FLAG_WRITABLE`
const FLAG_WRITABLE: u16 = 1;

/// `struct ioctl_gntalloc_dealloc_gref`
#[repr(C)]
struct DeallocGref {
    index: u64,
    count: u32,
}

/// `struct ioctl_gntalloc_unmap_notify`, and `struct ioctl_gntdev_unmap_notify`, which is the same.
#[repr(C)]
struct SetUnmapNotify {
    index: u64,
    action: u32,
    event_channel_port: u32,
}

/// `UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT`
const CLEAR_BYTE_AND_SEND_EVENT: u32 = 1 | 2;

pub(super) mod numbers {
    use super::{AllocGref, DeallocGref, Opcode, SetUnmapNotify, number};

    /// `IOCTL_GNTALLOC_ALLOC_GREF`: `_IOC(_IOC_NONE, 'G', 5, ...)`
    pub(in crate::xen) const ALLOC_GREF: Opcode = number::<AllocGref<1>>(b'G', 5);
    /// `IOCTL_GNTALLOC_DEALLOC_GREF`: `_IOC(_IOC_NONE, 'G', 6, ...)`
    pub(in crate::xen) const DEALLOC_GREF: Opcode = number::<DeallocGref>(b'G', 6);
    /// `IOCTL_GNTALLOC_SET_UNMAP_NOTIFY` and `IOCTL_GNTDEV_SET_UNMAP_NOTIFY`:
    /// `_IOC(_IOC_NONE, 'G', 7, ...)`
    pub(in crate::xen) const SET_UNMAP_NOTIFY: Opcode = number::<SetUnmapNotify>(b'G', 7);
}

/// Pages that the driver has allocated and granted. Dropping this gives up the claim on them: the
/// pages then live as long as they are mapped here.
pub(super) struct Allocation<'a> {
    fd: BorrowedFd<'a>,
    /// The offset at which to `mmap` them.
    pub(super) index: u64,
    pub(super) references: Vec<GrantRef>,
}

/// Allocates `pages` pages and grants them to `peer`. More than [`MOST_PAGES`] are refused with
/// `E2BIG`.
pub(super) fn alloc_gref<'a>(
    fd: &'a impl AsFd,
    peer: DomId,
    pages: usize,
    access: Access,
) -> Result<Allocation<'a>, Errno> {
    let fd = fd.as_fd();
    let count = u32::try_from(pages).ok().filter(|_| pages <= MOST_PAGES);
    let mut argument = AllocGref::<MOST_PAGES> {
        domid: peer.number(),
        flags: match access {
            Access::ReadOnly => 0,
            Access::ReadWrite => FLAG_WRITABLE,
        },
        count: count.ok_or(Errno::TOOBIG)?,
        index: 0,
        gref_ids: [0; MOST_PAGES],
    };
    // SAFETY: the number and its structure, with room for as many references as `count` says.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    unsafe { call(fd, numbers::ALLOC_GREF, &mut argument) }?;
    let references = argument.gref_ids.into_iter().take(pages);
    Ok(Allocation {
        fd,
        index: argument.index,
        references: references.map(GrantRef).collect(),
    })
}

impl Drop for Allocation<'_> {
    fn drop(&mut self) {
        let mut argument = DeallocGref {
            index: self.index,
            // Never more than MOST_PAGES.
            count: u32::try_from(self.references.len()).unwrap_or(u32::MAX),
        };
        // SAFETY: the number and its structure.
        #[allow(unsafe_code, reason = "see UNSAFETY above")]
        let done = unsafe { call(self.fd, numbers::DEALLOC_GREF, &mut argument) };
        if let Err(errno) = done {
            tracing::warn!(%errno, "gntalloc does not take pages back");
        }
    }
}

/// Asks for the clearing of a byte and an event when the pages mapped from `index` on are unmapped.
/// For gntalloc and gntdev alike.
pub(super) fn set_unmap_notify(
    fd: BorrowedFd<'_>,
    index: u64,
    notify: UnmapNotify,
) -> Result<(), Errno> {
    let mut argument = SetUnmapNotify {
        index: index
            .checked_add(notify.offset.into())
            .ok_or(Errno::INVAL)?,
        action: CLEAR_BYTE_AND_SEND_EVENT,
        event_channel_port: notify.port.0,
    };
    // SAFETY: the number and its structure.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    unsafe { call(fd, numbers::SET_UNMAP_NOTIFY, &mut argument) }?;
    Ok(())
}
