//! Joining a host that runs in this process or another.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vchan::{Error, Host, HostError};

use crate::client::{Control, EmulatedEvents, EmulatedGrants};

/// The environment variable that names the directory of the domain whose process this is.
pub const DOMAIN_VARIABLE: &str = "VCHAN_EMULATED_DOMAIN";

/// How long the emulated store may take for a request. It answers at once, but the machine may stop
/// for longer than a real host would be given.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Joins an emulated host as a process of the domain whose directory is `directory`
/// ([`Emulator::domain_directory`](crate::Emulator::domain_directory)).
///
/// # Errors
/// When no host serves that directory.
pub fn join(directory: &Path) -> Result<Host, HostError> {
    let cannot = || HostError::new(format!("join the emulated domain {}", directory.display()));
    let control = Control::join(directory).map_err(|error| {
        cannot()
            .because(error)
            .hint("is the emulated host running, and does the domain exist?")
    })?;
    let store = vchan::xenstore::Client::open_at(directory.join("xenstored"))
        .map_err(|error| cannot().because(error))?
        .with_time_limit(STORE_ANSWERS_WITHIN);
    let grants = EmulatedGrants {
        control: Arc::clone(&control),
    };
    Ok(Host::new(grants, EmulatedEvents { control }, store))
}

/// The host that this program's domain lives on: the emulated one that the environment variable
/// [`DOMAIN_VARIABLE`] names a domain of, otherwise Xen itself.
///
/// # Errors
/// As [`join`], or as [`vchan::xen::host`].
pub fn host_from_environment() -> Result<Host, Error> {
    match std::env::var_os(DOMAIN_VARIABLE) {
        Some(directory) => Ok(join(Path::new(&directory))?),
        None => vchan::xen::host(),
    }
}
