//! The half of a channel that writes.

use core::time::Duration;
#[cfg(feature = "std")]
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

#[cfg(feature = "std")]
use super::descriptor;
use super::options::Options;
use crate::Error;
use crate::endpoint::{Spin, Writer};
use crate::ring::Publish;

/// The writing half of a [`Channel`](crate::Channel).
///
/// It can go to another thread, and writes in one at a time:
///
/// ```compile_fail,E0596
/// fn in_two_threads(half: &vchan::WriteHalf) {
///     let _ = half.write(&[0]);
/// }
/// ```
#[derive(Debug)]
pub struct WriteHalf {
    pub(super) writer: Writer,
    pub(super) options: Options,
}

impl WriteHalf {
    pub(super) fn new(writer: Writer) -> WriteHalf {
        WriteHalf {
            options: Options::new(&writer),
            writer,
        }
    }

    /// Writes 1 to `from.len()` bytes, as many as fit, waiting until one does. Zero only for an
    /// empty `from`.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], [`Error::TimedOut`], [`Error::Closed`], [`Error::PeerDied`],
    /// [`Error::PeerFault`], [`Error::Host`]. Nothing of `from` was written then.
    #[inline]
    pub fn write(&mut self, from: &[u8]) -> Result<usize, Error> {
        let done = self.writer.write_at_once(from);
        if let Some(Publish::Quiet) = done {
            return Ok(from.len());
        }
        self.write_or_tell(done, from)
    }

    /// What is left of [`write`](WriteHalf::write) after the usual case.
    #[inline(never)]
    fn write_or_tell(&mut self, done: Option<Publish>, from: &[u8]) -> Result<usize, Error> {
        if done.is_some() {
            return self.writer.link().tell_then(from.len());
        }
        self.options
            .run(&mut self.writer, |writer| writer.write(from))
    }

    /// Writes all of `from` in one publication, waiting until it fits.
    ///
    /// # Errors
    /// As [`write`](WriteHalf::write); [`Error::TooLarge`] at once when it can never fit.
    #[inline]
    pub fn send(&mut self, from: &[u8]) -> Result<(), Error> {
        let done = self.writer.write_at_once(from);
        if let Some(Publish::Quiet) = done {
            return Ok(());
        }
        self.send_or_tell(done, from)
    }

    /// What is left of [`send`](WriteHalf::send) after the usual case.
    #[inline(never)]
    fn send_or_tell(&mut self, done: Option<Publish>, from: &[u8]) -> Result<(), Error> {
        if done.is_some() {
            return self.writer.link().tell_then(());
        }
        self.options
            .run(&mut self.writer, |writer| writer.send(from))
    }

    /// Waits until the peer has read everything.
    ///
    /// # Errors
    /// As [`write`](WriteHalf::write); [`Error::Closed`] when the peer closed without reading all.
    pub fn drain(&mut self) -> Result<(), Error> {
        self.options
            .run(&mut self.writer, Writer::drained)
            .map_err(|error| match error {
                Error::TimedOut { .. } => Error::TimedOut {
                    waiting_for: "waiting for the peer to read everything".into(),
                },
                other => other,
            })
    }

    /// How many bytes can be written without waiting: 0 to the ring's size. It can only grow until
    /// they are written.
    ///
    /// # Errors
    /// [`Error::PeerFault`].
    pub fn buffer_space(&mut self) -> Result<usize, Error> {
        self.writer.free()
    }

    /// The size in bytes of the ring that this half writes.
    #[must_use]
    pub fn ring_size(&self) -> usize {
        self.writer.size()
    }

    /// See [`Channel::shutdown`](crate::Channel::shutdown). A reader that waits in another thread ends
    /// at once.
    pub fn shutdown(&self) {
        self.writer.link().shut_down();
    }

    /// How many bytes the ring has accepted since the connection began, whatever became of a
    /// `write_all` in between.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.writer.total()
    }

    /// How long a write may wait; `None` for ever. A write that waited so long is
    /// [`Error::TimedOut`].
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.options.timeout = timeout;
    }

    /// See [`Channel::set_nonblocking`](crate::Channel::set_nonblocking).
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        self.options.nonblocking = nonblocking;
    }

    /// What calls of this half do before they sleep: see [`Spin`]. What was learnt of the peer stays.
    pub fn set_spin(&mut self, spin: Spin) {
        self.options.patience.set_spin(spin);
    }
}

#[cfg(feature = "std")]
impl io::Write for WriteHalf {
    fn write_vectored(&mut self, from: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(WriteHalf::write_vectored(self, from)?)
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(WriteHalf::write(self, from)?)
    }

    /// Nothing to do: what was written is published already.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As for [`Channel`](crate::Channel).
#[cfg(feature = "std")]
impl AsFd for WriteHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(self.writer.link())
    }
}
