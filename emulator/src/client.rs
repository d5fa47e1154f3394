//! A domain's side of the sockets: the host as `vchan` sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::SocketType;
use vchan::HostError;

use crate::sockets;
use crate::wire::{Reply, Request};

mod events;
mod grants;

pub(crate) use events::EmulatedEvents;
pub(crate) use grants::EmulatedGrants;

/// A process's connection to the host that its domain lives on. When it ends, so does all that
/// the process has shared, mapped and bound.
pub(crate) struct Control {
    socket: Mutex<OwnedFd>,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("the emulated host is gone, or has destroyed this domain")]
    Gone(#[from] io::Error),
    #[error("{why}")]
    Refused {
        why: String,
        hint: String,
        stale: bool,
    },
    #[error("the emulated host answers what was not asked; is it of another version?")]
    Nonsense,
}

impl Control {
    /// Connects to the `control` socket in a domain's directory.
    pub(crate) fn join(directory: &Path) -> io::Result<Arc<Control>> {
        let socket = sockets::connect(&directory.join("control"), SocketType::SEQPACKET)?;
        Ok(Arc::new(Control {
            socket: Mutex::new(socket),
        }))
    }

    /// Sends a request and waits for the answer.
    fn call(&self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), CallError> {
        // The lock is held over both, so that answers go to those who asked.
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        sockets::send(&*socket, &request.encode(), &[])?;
        let received = sockets::receive(&*socket)?;
        let (message, descriptors) =
            received.ok_or(CallError::Gone(io::ErrorKind::UnexpectedEof.into()))?;
        match Reply::decode(&message) {
            Some(Reply::Refused { why, hint, stale }) => {
                Err(CallError::Refused { why, hint, stale })
            }
            Some(reply) => Ok((reply, descriptors)),
            None => Err(CallError::Nonsense),
        }
    }

    /// A request that undoes something: there is nobody to tell that it failed, and it only fails
    /// when the host has undone it already.
    fn undo(&self, request: &Request) {
        if let Err(error) = self.call(request) {
            tracing::debug!("{request:?}: {error}");
        }
    }
}

impl CallError {
    /// The error of a call that cannot do `doing`.
    fn doing(self, doing: impl Into<String>) -> HostError {
        let mut error = HostError::new(doing);
        let CallError::Refused { why, hint, stale } = self else {
            return error.because(self);
        };
        error = error.because(why);
        if stale {
            error = error.stale();
        }
        if hint.is_empty() {
            error
        } else {
            error.hint(hint)
        }
    }
}

/// "1 page", "2 pages", for errors.
fn pages(count: usize) -> String {
    match count {
        1 => "1 page".to_owned(),
        _ => format!("{count} pages"),
    }
}
