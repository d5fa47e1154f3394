//! The host itself: starting it, its domains, and what a test does behind their backs.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vchan::host::{GrantRef, Port};
use vchan::memory::Region;
use vchan::{DomId, Host, HostError};

use crate::Limits;
use crate::machine::Refusal;
use crate::server::{self, Server};

/// How long [`Emulator::assert_clean`] waits for processes that have just ended to be cleaned up
/// after: at once, but for a machine that is busy or stops for a while.
const QUIET_WITHIN: Duration = Duration::from_secs(60);

/// An emulated Xen host. It runs in threads of this process until dropped.
///
/// ```
/// use vchan::DomId;
/// use vchan::memory::Access;
/// use vchan_emulator::Emulator;
///
/// let guest = DomId::new(2)?;
/// let emulator = Emulator::start()?;
/// emulator.add_domain(DomId::DOM0)?;
/// emulator.add_domain(guest)?;
/// let (ours, theirs) = (emulator.host(DomId::DOM0)?, emulator.host(guest)?);
///
/// let shared = theirs.grants().share(DomId::DOM0, 1, Access::ReadWrite, None)?;
/// let mapped = ours.grants().map(guest, &shared.references, Access::ReadWrite, None)?;
/// mapped.copy_in(0, b"hello");
/// let mut bytes = [0; 5];
/// shared.region.copy_out(0, &mut bytes);
/// assert_eq!(&bytes, b"hello");
///
/// drop((shared, mapped));
/// emulator.assert_clean();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Emulator {
    server: Arc<Server>,
    directory: PathBuf,
    /// The directory was made by us, for us.
    temporary: bool,
}

impl Emulator {
    /// Starts a host in a directory of its own, which goes when the host does. It has no domains
    /// yet, not even dom0.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn start() -> Result<Emulator, HostError> {
        let directory = temporary_directory().map_err(|error| {
            let place = std::env::temp_dir();
            HostError::new(format!("make a directory in {}", place.display())).because(error)
        })?;
        Ok(Emulator::serve(directory, true))
    }

    /// Starts a host in `directory`, which is made where it is missing, and which stays.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn start_at(directory: impl Into<PathBuf>) -> Result<Emulator, HostError> {
        let directory = directory.into();
        std::fs::create_dir_all(&directory).map_err(|error| {
            HostError::new(format!("make the directory {}", directory.display())).because(error)
        })?;
        Ok(Emulator::serve(directory, false))
    }

    /// The host's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory through which a domain's processes use this host: its path is what
    /// [`join`](crate::join) and the environment variable
    /// [`VCHAN_EMULATED_DOMAIN`](crate::DOMAIN_VARIABLE) take. In it, `xenstored` is a socket that
    /// XenStore tools can use (`XENSTORED_PATH`).
    #[must_use]
    pub fn domain_directory(&self, domid: DomId) -> PathBuf {
        self.server.domain_directory(domid)
    }

    /// Brings a domain into being.
    ///
    /// # Errors
    /// When it exists already, or its sockets cannot be made.
    pub fn add_domain(&self, domid: DomId) -> Result<(), HostError> {
        self.server.add_domain(domid)
    }

    /// Destroys a domain as `xl destroy` does: its processes are cut off, its grants end, its
    /// event channels' other ends become unbound, its nodes vanish, and no peer is told (but for
    /// the watches on `@releaseDomain`). What others have mapped of it stays mapped. The number can
    /// be used again at once.
    ///
    /// # Errors
    /// When there is no such domain.
    pub fn destroy_domain(&self, domid: DomId) -> Result<(), HostError> {
        self.server.destroy_domain(domid)
    }

    /// The host as a process of a domain sees it. Each call is a process of its own: what it has
    /// shared, mapped and bound is undone, with the notices that were asked for, when the last
    /// clone of the handle and all that came from it are dropped.
    ///
    /// # Errors
    /// When there is no such domain.
    pub fn host(&self, domid: DomId) -> Result<Host, HostError> {
        crate::join(&self.domain_directory(domid))
    }

    /// Makes an event arrive at a port that nobody has sent.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn send_event(&self, domid: DomId, port: Port) -> Result<(), HostError> {
        let sent = self.server.machine().send_event(domid, port.0);
        sent.map_err(|refusal| refusal.into_error("send an event"))
    }

    /// A page that `domid` shares, to be looked at by a checker, or changed as by a hostile peer.
    /// It is neither a grant nor a mapping in the host's books.
    ///
    /// # Errors
    /// When there is no such grant.
    pub fn raw_page(&self, domid: DomId, grant: GrantRef) -> Result<Region, HostError> {
        let page = self.server.machine().raw_page(domid, grant.0);
        page.map_err(|refusal| refusal.into_error("look at a shared page"))
    }

    /// Sets what each domain may use from now on. What it uses already stays.
    pub fn set_limits(&self, limits: Limits) {
        self.server.set_limits(limits);
    }

    /// What is granted, mapped, bound, watched, or published beyond what the domains began with,
    /// one line each. Empty when all is tidy.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        self.server.leftovers()
    }

    /// Fails the test that leaves anything behind.
    ///
    /// # Panics
    /// With all [`leftovers`](Emulator::leftovers), when there are any. (Processes that have just
    /// ended are given some seconds to be cleaned up after.)
    #[track_caller]
    pub fn assert_clean(&self) {
        let since = Instant::now();
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(
                since.elapsed() < QUIET_WITHIN,
                "left behind on the emulated host:\n  {}",
                left.join("\n  ")
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn serve(directory: PathBuf, temporary: bool) -> Emulator {
        Emulator {
            server: Arc::new(Server::new(directory.clone(), Limits::default())),
            directory,
            temporary,
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.server.stop();
        if self.temporary {
            server::remove(&self.directory);
        }
    }
}

impl Refusal {
    pub(crate) fn into_error(self, doing: impl Into<String>) -> HostError {
        let error = HostError::new(doing).because(self.why);
        if self.hint.is_empty() {
            error
        } else {
            error.hint(self.hint)
        }
    }
}

/// A new directory that nobody else can look into.
fn temporary_directory() -> io::Result<PathBuf> {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("emulated-xen-{}-{nth}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Ok(directory),
            // Left by an earlier process of this number that was killed, or by one in a container.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}
