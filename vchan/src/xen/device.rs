//! Opening the device files of the Xen drivers.

use std::format;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::HostError;

/// A device file, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Device {
    path: PathBuf,
    /// The kernel module that makes it.
    module: &'static str,
    opened: Mutex<Option<Arc<OwnedFd>>>,
}

impl Device {
    pub(super) fn new(path: PathBuf, module: &'static str) -> Device {
        Device {
            path,
            module,
            opened: Mutex::new(None),
        }
    }

    /// The one descriptor that all share. A device that could not be opened is tried again the next
    /// time: its module may have been loaded meanwhile.
    pub(super) fn open(&self) -> Result<Arc<OwnedFd>, HostError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fd) = &*opened {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(self.open_anew()?);
        *opened = Some(Arc::clone(&fd));
        Ok(fd)
    }

    /// A descriptor of the caller's own. Never inherited by other programs: what is granted, mapped
    /// and bound would live on in them.
    pub(super) fn open_anew(&self) -> Result<OwnedFd, HostError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|errno| self.cannot_open(errno))
    }

    fn cannot_open(&self, errno: Errno) -> HostError {
        let error = HostError::new(format!("open {}", self.path.display())).because_io(errno);
        match errno {
            Errno::NOENT | Errno::NXIO | Errno::NODEV => error.hint(format!(
                "load the kernel module that makes it: `modprobe {}`",
                self.module
            )),
            Errno::ACCESS | Errno::PERM => error.hint("run this as root"),
            Errno::MFILE | Errno::NFILE => {
                error.hint("each channel needs a few descriptors: raise `ulimit -n`")
            }
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::string::ToString;

    #[test]
    fn fault_d06_each_failure_to_open_says_what_to_do() {
        let device = Device::new("/dev/xen/gntdev".into(), "xen-gntdev");
        for (errno, kind, what) in [
            (Errno::NOENT, ErrorKind::NotFound, "modprobe xen-gntdev"),
            (Errno::NODEV, ErrorKind::Other, "modprobe xen-gntdev"),
            (Errno::ACCESS, ErrorKind::PermissionDenied, "as root"),
            (Errno::PERM, ErrorKind::PermissionDenied, "as root"),
            (Errno::MFILE, ErrorKind::Other, "ulimit -n"),
            (Errno::IO, ErrorKind::Other, "Input/output error"),
        ] {
            let error = device.cannot_open(errno);
            assert_eq!(error.io_kind(), kind);
            let error = error.to_string();
            assert!(
                error.starts_with("cannot open /dev/xen/gntdev: "),
                "{error}"
            );
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_device_is_opened_once_and_not_inherited() {
        let device = Device::new("/dev/null".into(), "null");
        let first = device.open().unwrap();
        assert!(Arc::ptr_eq(&first, &device.open().unwrap()));
        let flags = rustix::io::fcntl_getfd(&*first).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
