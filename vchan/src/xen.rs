//! The Linux host: grants, event channels and XenStore through the devices of the Xen drivers.
//!
//! | device | driver | for |
//! |---|---|---|
//! | `/dev/xen/evtchn` | `xen-evtchn` | event channels |
//! | `/dev/xen/gntalloc` | `xen-gntalloc` | sharing pages: needed by servers |
//! | `/dev/xen/gntdev` | `xen-gntdev` | mapping a peer's pages: needed by clients |
//! | `/dev/xen/privcmd` | `xen-privcmd` | asking whether the peer's domain still lives, giving way to it; optional |
//! | xenstored's socket or `/dev/xen/xenbus` | | XenStore |
//!
//! A device is opened when it is first needed, so a client can do without `xen-gntalloc`. The
//! same code serves dom0 and guests.

use std::io;
use std::path::{Path, PathBuf};

use crate::xenstore::Client;
use crate::{Error, Host, HostError};

mod device;
mod evtchn;
mod gntalloc;
mod gntdev;
mod grants;
mod ioctl;
mod life;
mod privcmd;

use device::Device;
use evtchn::PortMaker;
use grants::GrantDevices;
use life::Lives;
use privcmd::Privcmd;

/// The Xen host that this program's domain lives on.
///
/// # Errors
/// [`HostError`] when this is not a Xen domain or a device cannot be opened,
/// [`StoreError`](crate::StoreError) when XenStore cannot be reached; each says what to do.
pub fn host() -> Result<Host, Error> {
    Places::default().host()
}

/// Where Linux has what we need; different only in tests.
struct Places {
    /// Names the hypervisor, on any kernel that was built for Xen and has `/sys` mounted.
    hypervisor_type: PathBuf,
    /// The directory of the devices.
    devices: PathBuf,
    /// The most pages that all of the domain may share through gntalloc.
    gntalloc_limit: PathBuf,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            hypervisor_type: "/sys/hypervisor/type".into(),
            devices: "/dev/xen".into(),
            gntalloc_limit: "/sys/module/xen_gntalloc/parameters/limit".into(),
        }
    }
}

impl Places {
    fn host(&self) -> Result<Host, Error> {
        self.check_for_xen()?;
        let evtchn = self.device("evtchn", "xen-evtchn");
        // Nothing works without it, and here the message comes early.
        drop(evtchn.open_anew()?);
        let gntalloc = self.device("gntalloc", "xen-gntalloc");
        let gntdev = self.device("gntdev", "xen-gntdev");
        let privcmd = Privcmd::new(self.device("privcmd", "xen-privcmd"));
        let store = Client::open()?;
        let lives = Lives::new(store.clone());
        let limit = self.gntalloc_limit.clone();
        Ok(Host::new(
            GrantDevices::new(gntalloc, gntdev, limit, lives.clone()),
            PortMaker::new(evtchn, privcmd, lives),
            store,
        ))
    }

    fn device(&self, name: &str, module: &'static str) -> Device {
        Device::new(self.devices.join(name), module)
    }

    /// Tells a machine without Xen from one that only lacks a driver.
    fn check_for_xen(&self) -> Result<(), HostError> {
        if is_xen(&self.hypervisor_type) || self.devices.exists() {
            return Ok(());
        }
        let no_xen = "this is not a Xen domain (/sys/hypervisor/type is not \"xen\", and there is \
                      no /dev/xen)";
        let no_xen = io::Error::new(io::ErrorKind::Unsupported, no_xen);
        Err(HostError::new("use Xen").because_io(no_xen).hint(
            "run it in dom0 or in a guest of a Xen host, or on the emulated host for development",
        ))
    }
}

fn is_xen(hypervisor_type: &Path) -> bool {
    std::fs::read(hypervisor_type).is_ok_and(|name| name.trim_ascii() == b"xen")
}

#[cfg(test)]
mod tests;
