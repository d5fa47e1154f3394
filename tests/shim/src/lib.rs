//! The 27 Xen functions that libxenvchan calls, over the emulated host.
//!
//! A C program linked with Debian's unmodified `libxenvchan.a` and with this static library runs in
//! a domain of the emulated host, which the environment names as for every other program. The
//! functions are those of the public headers `xenevtchn.h`, `xengnttab.h` and `xenstore.h`, and
//! behave as these describe, on nothing but `vchan::host` and `vchan::xenstore`.
//!
//! Link with `-Wl,--wrap=munmap`: libxenvchan unmaps granted pages by `munmap`, see `grants`.

mod evtchn;
mod ffi;
mod grants;
mod xs;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use vchan::{DomId, Host};
use vchan_emulator::DOMAIN_VARIABLE;

use ffi::{CError, EACCES, EINVAL};

/// A domain as this process sees it.
#[derive(Clone)]
struct Domain {
    host: Host,
    directory: PathBuf,
}

thread_local! {
    /// The domain of a thread that is not to belong to that of the process.
    static OWN: RefCell<Option<Domain>> = const { RefCell::new(None) };
}

/// Runs `body`, during which this thread belongs to the domain of `host`, whose directory is
/// `directory`: so that one program can have both ends of a vchan. What is opened meanwhile stays in
/// that domain.
pub fn within<T>(host: &Host, directory: &Path, body: impl FnOnce() -> T) -> T {
    let domain = Domain {
        host: host.clone(),
        directory: directory.to_owned(),
    };
    let before = OWN.replace(Some(domain));
    let value = body();
    OWN.set(before);
    value
}

/// The domain that this thread belongs to.
fn own_domain() -> Option<Domain> {
    OWN.with_borrow(Option::clone)
}

/// The host of this thread's domain; that of the process is joined at the first use.
fn host() -> Result<Host, CError> {
    static HOST: Mutex<Option<Host>> = Mutex::new(None);
    if let Some(domain) = own_domain() {
        return Ok(domain.host);
    }
    let mut joined = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(host) = &*joined {
        return Ok(host.clone());
    }
    let host = vchan_emulator::join(&domain_directory()?)
        .map_err(|error| CError::logged(EACCES, &error))?;
    Ok(joined.insert(host).clone())
}

/// The directory through which the emulated domain is joined.
fn domain_directory() -> Result<PathBuf, CError> {
    if let Some(domain) = own_domain() {
        return Ok(domain.directory);
    }
    let missing = || CError::logged(EACCES, &format!("{DOMAIN_VARIABLE} is not set"));
    std::env::var_os(DOMAIN_VARIABLE)
        .map(PathBuf::from)
        .ok_or_else(missing)
}

fn domid(number: u32) -> Result<DomId, CError> {
    let number = u16::try_from(number).map_err(|_| CError::from(EINVAL))?;
    DomId::new(number).map_err(|_| EINVAL.into())
}
