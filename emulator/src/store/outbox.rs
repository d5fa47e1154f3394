//! What is yet to be sent to a client.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;

/// A client that has this many bytes waiting does not read, and is dropped.
const MOST: usize = 1 << 20;

/// Messages for one client. Any thread may add some; the client's own thread sends them.
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    wake: OwnedFd,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// There were too many: some are lost, so nothing may be sent any more.
    overflown: bool,
}

impl Outbox {
    pub(crate) fn new() -> Result<Outbox, Errno> {
        Ok(Outbox {
            waiting: Mutex::default(),
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Adds a message.
    pub(crate) fn push(&self, message: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes.len() + message.len() > MOST {
            waiting.overflown = true;
        } else {
            waiting.bytes.extend_from_slice(message);
        }
        // It cannot fail but by a full counter, which wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Readable when something was added.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Sends what the socket takes without waiting. True when nothing is left.
    ///
    /// # Errors
    /// When the client is gone, or ([`Errno::NOBUFS`]) does not read what it asked for.
    pub(crate) fn send(&self, socket: impl AsFd) -> Result<bool, Errno> {
        // The counter may be at zero; this only resets it.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        let mut waiting = self.lock();
        if waiting.overflown {
            return Err(Errno::NOBUFS);
        }
        while !waiting.bytes.is_empty() {
            match rustix::net::send(&socket, &waiting.bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => _ = waiting.bytes.drain(..sent),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
