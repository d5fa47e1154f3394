//! The descriptor to the store: a Unix socket to xenstored, or the kernel's `/dev/xen/xenbus`.

use std::format;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::host::Time;
use crate::{StoreError, StoreErrorKind, poll};

/// Names the one place where the store is, for tests and unusual hosts; every client of Xen honours
/// it.
const PATH_VARIABLE: &str = "XENSTORED_PATH";

/// Where the store may be, in the order of trying: xenstored's socket (dom0 and its like), and the
/// kernel's device (everywhere).
const PLACES: [&str; 3] = [
    "/run/xenstored/socket",
    "/var/run/xenstored/socket",
    "/dev/xen/xenbus",
];

/// A non-blocking descriptor over which messages go both ways.
#[derive(Debug)]
pub(super) struct Transport {
    fd: OwnedFd,
    kind: TransportKind,
    /// Where it leads, if one can go there again.
    place: Option<PathBuf>,
}

/// What is at the other end of the descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TransportKind {
    /// xenstored, or what emulates it.
    Socket,
    /// The kernel. It takes a whole message in one write and may refuse it there and then. It never
    /// polls writable: `poll` must not ask for that.
    ///
    /// It keeps a request in the very buffer into which the next one is written, until xenstored
    /// has taken it: a second request before the reply garbles the first (seen with Linux 6.1). So
    /// there is one request at a time.
    ///
    /// `write` may sleep in the kernel, although the descriptor is non-blocking: to set and to
    /// remove a watch the kernel asks xenstored itself and waits for the answer there. No time
    /// limit of ours ends that; it lasts as long as xenstored does not answer.
    Device,
}

impl Transport {
    /// Opens the store where this host has it.
    pub(super) fn open(deadline: Time) -> Result<Transport, StoreError> {
        if let Some(path) = std::env::var_os(PATH_VARIABLE) {
            let path = Path::new(&path);
            return Transport::connect(path, deadline)
                .map_err(|error| unreachable([(path, error)], Some(PATH_VARIABLE)));
        }
        Transport::open_first(&PLACES.map(Path::new), deadline)
    }

    /// Opens the first of `places` that answers.
    pub(super) fn open_first(places: &[&Path], deadline: Time) -> Result<Transport, StoreError> {
        let mut failures = Vec::new();
        for &place in places {
            match Transport::connect(place, deadline) {
                Ok(transport) => return Ok(transport),
                Err(errno) => failures.push((place, errno)),
            }
        }
        Err(unreachable(failures, None))
    }

    /// Opens the store at `path`, a Unix socket or a device.
    pub(super) fn open_at(path: &Path, deadline: Time) -> Result<Transport, StoreError> {
        Transport::connect(path, deadline).map_err(|errno| unreachable([(path, errno)], None))
    }

    /// Takes over a descriptor that is connected to a store.
    pub(super) fn over(fd: OwnedFd, kind: TransportKind) -> io::Result<Transport> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Transport {
            fd,
            kind,
            place: None,
        })
    }

    fn connect(path: &Path, deadline: Time) -> Result<Transport, Errno> {
        let status = rustix::fs::stat(path)?;
        if FileType::from_raw_mode(status.st_mode) == FileType::Socket {
            return Ok(Transport {
                fd: connect_socket(path, deadline)?,
                kind: TransportKind::Socket,
                place: Some(path.to_owned()),
            });
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(Transport {
            fd: rustix::fs::open(path, flags, Mode::empty())?,
            kind: TransportKind::Device,
            place: Some(path.to_owned()),
        })
    }

    /// Where the store is, if this was opened by a path.
    pub(super) fn place(&self) -> Option<&Path> {
        self.place.as_deref()
    }

    pub(super) fn kind(&self) -> TransportKind {
        self.kind
    }

    /// Reads what is there; 0 is the end of the connection.
    pub(super) fn read(&self, to: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(&self.fd, to)
    }

    /// Writes as much as goes out without waiting.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self.kind {
            // Without NOSIGNAL a store that went away would kill a program that does not ignore
            // SIGPIPE.
            TransportKind::Socket => rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL),
            TransportKind::Device => rustix::io::write(&self.fd, bytes),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn connect_socket(path: &Path, deadline: Time) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            // The daemon's queue of new connections is full, which no descriptor reports.
            Err(Errno::AGAIN) if poll::now() < deadline => {
                std::thread::sleep(core::time::Duration::from_millis(10));
            }
            Err(Errno::INTR) if poll::now() < deadline => {}
            Err(errno) => return Err(errno),
            Ok(()) => return Ok(socket),
        }
    }
}

/// Says what was tried and what to do about it.
fn unreachable<'a>(
    failures: impl IntoIterator<Item = (&'a Path, Errno)>,
    variable: Option<&str>,
) -> StoreError {
    let failures: Vec<_> = failures.into_iter().collect();
    let tried: Vec<String> = failures
        .iter()
        .map(|(place, errno)| format!("{}: {}", place.display(), message(*errno)))
        .collect();
    let is_full = |(_, errno): &(_, Errno)| *errno == Errno::AGAIN;
    let is_forbidden = |errno: &Errno| matches!(*errno, Errno::ACCESS | Errno::PERM);
    let (kind, hint) = if failures.iter().any(|(_, errno)| is_forbidden(errno)) {
        (StoreErrorKind::Denied, "run this as root".to_string())
    } else if failures.iter().all(is_full) {
        let hint = "its queue of new connections is full; is xenstored busy or stuck?";
        (StoreErrorKind::TimedOut, hint.to_string())
    } else if let Some(variable) = variable {
        let hint = format!("{variable} is set: does the store that it names still run?");
        (StoreErrorKind::Unreachable, hint)
    } else {
        let hint = "in dom0: is xenstored running? in a guest: any kernel for Xen makes \
                    /dev/xen/xenbus, so is devtmpfs on /dev, and is this a Xen guest?";
        (StoreErrorKind::Unreachable, hint.to_string())
    };
    let tried = tried.join(", ");
    StoreError::new(kind, "connect to XenStore").detail(format!("tried {tried}; {hint}"))
}

/// The error as the C library words it, without the number that `io::Error` adds.
pub(super) fn message(errno: Errno) -> String {
    let text = io::Error::from(errno).to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_string(),
        None => text,
    }
}
