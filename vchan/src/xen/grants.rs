//! Sharing memory with another domain: gntalloc for our pages, gntdev for theirs.
//!
//! UNSAFETY: the kernel is given advice about a mapping by its address; a mapping is put into another
//! hull.

use core::time::Duration;
use std::boxed::Box;
use std::format;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::string::String;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::Advice;

use super::device::Device;
use super::life::{Life, Lives};
use super::{gntalloc, gntdev};
use crate::guard::keeps;
use crate::host::{GrantRef, Grants, Shared, UnmapNotify};
use crate::memory::{Access, PAGE_SIZE, Region};
use crate::{DomId, HostError};

/// How often, and how far apart, a mapping is tried while Xen fetches a page of the peer's that is
/// paged out.
const MOST_TRIES: usize = 200;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// The two devices, each opened when it is first needed.
pub(super) struct GrantDevices {
    gntalloc: Device,
    gntdev: Device,
    /// Holds gntalloc's limit, and can be written to raise it.
    limit: PathBuf,
    lives: Arc<Lives>,
}

impl GrantDevices {
    pub(super) fn new(
        gntalloc: Device,
        gntdev: Device,
        limit: PathBuf,
        lives: Arc<Lives>,
    ) -> GrantDevices {
        GrantDevices {
            gntalloc,
            gntdev,
            limit,
            lives,
        }
    }

    fn cannot_share(&self, peer: DomId, pages: usize, errno: Errno) -> HostError {
        let error =
            HostError::new(format!("share {pages} pages with domain {peer}")).because_io(errno);
        match errno {
            Errno::NOSPC => error.hint(self.how_to_raise_the_limit()),
            Errno::TOOBIG => error.hint(format!("at most {} at once", gntalloc::MOST_PAGES)),
            Errno::NOMEM => error.hint("this domain is out of memory or of grant table entries"),
            _ => error,
        }
    }

    fn how_to_raise_the_limit(&self) -> String {
        let limit = std::fs::read_to_string(&self.limit);
        let limit = limit.as_deref().map_or("1024 by default", str::trim);
        let path = self.limit.display();
        format!(
            "all programs of this domain together may share {limit} pages through gntalloc, and a \
             channel takes up to 513: close some, or raise it as root with `echo 8192 > {path}`; \
             if that does not help, Xen's own limit is reached (`max_grant_frames` in the xl \
             configuration)"
        )
    }
}

impl Grants for GrantDevices {
    fn share(
        &self,
        peer: DomId,
        pages: usize,
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Shared, HostError> {
        let life = self.lives.current();
        let fd = self.gntalloc.open()?;
        let cannot = |errno| self.cannot_share(peer, pages, errno);
        // Dropped at the end, in success and in failure: after that only the mapping keeps the
        // pages, so even a killed process leaves none behind.
        let allocation = gntalloc::alloc_gref(&fd, peer, pages, access).map_err(cannot)?;
        let length = pages.checked_mul(PAGE_SIZE);
        let length = length.ok_or_else(|| cannot(Errno::TOOBIG))?;
        let region = Region::map_file(fd.as_fd(), allocation.index, length, Access::ReadWrite);
        let region = region.map_err(|error| cannot(errno(&error)))?;
        keep_from_children(&region);
        // The driver gives zeroed pages, and this costs little: nothing of another program's must
        // ever reach the peer.
        for page in 0..pages {
            region.copy_in(page.saturating_mul(PAGE_SIZE), &[0; PAGE_SIZE]);
        }
        let references = allocation.references.clone();
        let region = match notify {
            None => region,
            Some(notify) => {
                gntalloc::set_unmap_notify(fd.as_fd(), allocation.index, notify)
                    .map_err(|errno| cannot_notify(notify, errno))?;
                for_life(region, Access::ReadWrite, life)
            }
        };
        Ok(Shared { references, region })
    }

    fn map(
        &self,
        peer: DomId,
        references: &[GrantRef],
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Region, HostError> {
        let life = self.lives.current();
        let fd = self.gntdev.open()?;
        let cannot = |errno| cannot_map(peer, references, errno);
        // This refuses a number of grants, not a single one of them.
        let grants = gntdev::map_grant_ref(fd.clone(), peer, references).map_err(cannot)?;
        let length = references.len().checked_mul(PAGE_SIZE);
        let length = length.ok_or_else(|| cannot(Errno::TOOBIG))?;
        let index = grants.index;
        let map = || Region::map_file(fd.as_fd(), index, length, access);
        let region = retried(map).map_err(|error| not_granted(cannot(errno(&error)), &error))?;
        keep_from_children(&region);
        // From here on a failure unmaps first and lets go of the grants then.
        let region = region.then_drop(Box::new(grants));
        if let Some(notify) = notify {
            gntalloc::set_unmap_notify(fd.as_fd(), index, notify)
                .map_err(|errno| cannot_notify(notify, errno))?;
        }
        Ok(for_life(region, access, life))
    }
}

/// A mapping that stays when this life is over: to unmap it then would do harm.
struct OfLife {
    region: Arc<Region>,
    life: Life,
}

impl Drop for OfLife {
    fn drop(&mut self) {
        if self.life.is_over() && keeps("lost-stays-mapped") {
            core::mem::forget(Arc::clone(&self.region));
        }
    }
}

fn for_life(region: Region, access: Access, life: Life) -> Region {
    let (base, len) = (region.base(), region.len());
    let region = Arc::new(region);
    // SAFETY: `base` and `len` are those of a mapping with this access, which lasts at least as long
    // as what is given here.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    unsafe {
        Region::from_raw(base, len, access, Box::new(OfLife { region, life }))
    }
}

/// Maps again while the driver says to.
fn retried(map: impl Fn() -> io::Result<Region>) -> io::Result<Region> {
    for _ in 1..MOST_TRIES {
        match map() {
            Err(error) if errno(&error) == Errno::AGAIN => std::thread::sleep(BETWEEN_TRIES),
            result => return result,
        }
    }
    map()
}

fn cannot_map(peer: DomId, references: &[GrantRef], errno: Errno) -> HostError {
    let which = match references {
        [one] => format!("grant {one}"),
        [first, .., last] => format!(
            "{} grants (the first is {first}, the last {last})",
            references.len()
        ),
        [] => String::from("no grants"),
    };
    let error = HostError::new(format!("map {which} of domain {peer}")).because_io(errno);
    match errno {
        Errno::NOMEM | Errno::NOSPC => {
            error.hint("this domain is out of memory or of map tracking entries")
        }
        Errno::TOOBIG => error.hint(format!("at most {} at once", gntalloc::MOST_PAGES)),
        _ => error,
    }
}

/// Marks the failure of a mapping as the peer's, unless it was for want of memory: the driver says
/// EINVAL when Xen has refused a grant, whatever the reason.
fn not_granted(error: HostError, cause: &io::Error) -> HostError {
    if matches!(errno(cause), Errno::NOMEM | Errno::NOSPC) {
        return error;
    }
    error.stale().hint(
        "the peer has not granted that to this domain, or no longer: the keys in XenStore may be \
         stale, left over from a server that died",
    )
}

/// A child process does not get the memory: it would keep the grants after we have ended them, and
/// the peer would not learn of our end.
fn keep_from_children(region: &Region) {
    let base = region.base().as_ptr().cast();
    // SAFETY: the range is that of a whole mapping of our own, and this advice changes nothing for
    // the process that gives it.
    #[allow(unsafe_code, reason = "see UNSAFETY above")]
    let done = unsafe { rustix::mm::madvise(base, region.len(), Advice::LinuxDontFork) };
    if let Err(errno) = done {
        tracing::debug!(%errno, "children will share the memory");
    }
}

fn cannot_notify(notify: UnmapNotify, errno: Errno) -> HostError {
    let port = notify.port;
    HostError::new(format!(
        "ask for an event on port {port} when memory is unmapped"
    ))
    .because_io(errno)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::life::tests::{endless_lives, life_and_store};
    use std::string::ToString;

    fn domain_2() -> DomId {
        DomId::new(2).unwrap()
    }

    #[test]
    fn fault_d01_the_limit_is_named_with_how_to_raise_it() {
        let path = std::env::temp_dir().join(format!("vchan-limit-{}", std::process::id()));
        std::fs::write(&path, "77\n").unwrap();
        let device = || Device::new("/nonexistent".into(), "none");
        let devices = GrantDevices::new(device(), device(), path.clone(), endless_lives());
        let error = devices.cannot_share(domain_2(), 3, Errno::NOSPC);
        assert_eq!(error.io_kind(), io::ErrorKind::StorageFull);
        let error = error.to_string();
        std::fs::remove_file(&path).unwrap();
        for words in [
            "3 pages with domain 2",
            " 77 pages",
            "echo 8192 > ",
            "max_grant_frames",
        ] {
            assert!(error.contains(words), "{error}");
        }
        let error = devices
            .cannot_share(domain_2(), 3, Errno::NOSPC)
            .to_string();
        assert!(error.contains("1024 by default"), "{error}");
    }

    #[test]
    fn fault_c09_a_page_of_an_earlier_life_stays_mapped() {
        let (life, mut store) = life_and_store();
        let page = || {
            let file = rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&file, PAGE_SIZE as u64).unwrap();
            let page = Region::map_file(file.as_fd(), 0, PAGE_SIZE, Access::ReadWrite).unwrap();
            for_life(page, Access::ReadWrite, life.clone())
        };
        let is_mapped = |base: usize| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let start = format!("{base:x}-");
            maps.lines()
                .any(|line| line.starts_with(&start) && line.contains("memfd:page"))
        };
        let given_back = page();
        given_back.copy_in(100, b"page");
        let base = given_back.base().as_ptr() as usize;
        assert!(is_mapped(base));
        drop(given_back);
        assert!(!is_mapped(base));

        let lost = page();
        let base = lost.base().as_ptr() as usize;
        store.restore();
        drop(lost);
        assert!(is_mapped(base));
    }

    #[test]
    fn a_grant_that_cannot_be_mapped_may_be_stale() {
        let references = [GrantRef(8), GrantRef(9)];
        let failure =
            |errno: Errno| not_granted(cannot_map(domain_2(), &references, errno), &errno.into());
        assert!(!failure(Errno::NOMEM).is_stale());
        let error = failure(Errno::INVAL);
        assert!(error.is_stale());
        let error = error.to_string();
        for words in ["map 2 grants", "first is 8", "last 9", "domain 2", "stale"] {
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn fault_d05_mapping_is_tried_again_a_bounded_number_of_times() {
        let tries = core::cell::Cell::new(0);
        let refuse = |errno: Errno| {
            let tries = &tries;
            move || {
                tries.set(tries.get() + 1);
                Err(errno.into())
            }
        };
        let error = retried(refuse(Errno::AGAIN)).unwrap_err();
        assert_eq!((errno(&error), tries.take()), (Errno::AGAIN, MOST_TRIES));
        let error = retried(refuse(Errno::INVAL)).unwrap_err();
        assert_eq!((errno(&error), tries.take()), (Errno::INVAL, 1));
    }
}
