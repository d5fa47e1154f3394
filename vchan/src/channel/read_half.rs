//! The half of a channel that reads.

use core::time::Duration;
#[cfg(feature = "std")]
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use super::Origin;
#[cfg(feature = "std")]
use super::descriptor;
use super::options::Options;
use crate::Error;
use crate::endpoint::{Reader, Spin};
use crate::ring::Publish;

/// The reading half of a [`Channel`](crate::Channel).
///
/// It can go to another thread, and reads in one at a time:
///
/// ```compile_fail,E0596
/// fn in_two_threads(half: &vchan::ReadHalf) {
///     let _ = half.read(&mut [0]);
/// }
/// ```
#[derive(Debug)]
pub struct ReadHalf {
    pub(super) reader: Reader,
    pub(super) options: Options,
    pub(super) origin: Origin,
}

impl ReadHalf {
    pub(super) fn new(reader: Reader, origin: Origin) -> ReadHalf {
        ReadHalf {
            options: Options::new(&reader),
            reader,
            origin,
        }
    }

    /// Reads what is there, 1 to `to.len()` bytes, waiting for the first. Zero is the end of the
    /// stream: the peer has closed, and everything it wrote has been read. (Zero also for an empty
    /// `to`, at once.)
    ///
    /// # Errors
    /// [`Error::WouldBlock`], [`Error::TimedOut`], [`Error::PeerDied`] once all is read,
    /// [`Error::PeerFault`], [`Error::Host`].
    #[inline]
    pub fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        let done = self.reader.read_at_once(to);
        if let Some(Publish::Quiet) = done {
            return Ok(to.len());
        }
        self.read_or_tell(done, to)
    }

    /// What is left of [`read`](ReadHalf::read) after the usual case.
    #[inline(never)]
    fn read_or_tell(&mut self, done: Option<Publish>, to: &mut [u8]) -> Result<usize, Error> {
        if done.is_some() {
            return self.reader.link().tell_then(to.len());
        }
        self.options.run(&mut self.reader, |reader| reader.read(to))
    }

    /// Reads exactly `to.len()` bytes or none, waiting until so many are there. The stream has no
    /// boundaries of its own: both sides must know how long a datagram is.
    ///
    /// # Errors
    /// As [`read`](ReadHalf::read); [`Error::TooLarge`] at once when the ring can never hold so
    /// many; [`Error::EndOfStream`] when the peer closed before, and the bytes stay readable.
    #[inline]
    pub fn recv(&mut self, to: &mut [u8]) -> Result<(), Error> {
        let done = self.reader.read_at_once(to);
        if let Some(Publish::Quiet) = done {
            return Ok(());
        }
        self.recv_or_tell(done, to)
    }

    /// What is left of [`recv`](ReadHalf::recv) after the usual case.
    #[inline(never)]
    fn recv_or_tell(&mut self, done: Option<Publish>, to: &mut [u8]) -> Result<(), Error> {
        if done.is_some() {
            return self.reader.link().tell_then(());
        }
        self.options.run(&mut self.reader, |reader| reader.recv(to))
    }

    /// How many bytes can be read without waiting: 0 to the ring's size. It can only grow until
    /// they are read.
    ///
    /// # Errors
    /// [`Error::PeerFault`].
    pub fn data_ready(&mut self) -> Result<usize, Error> {
        self.reader.ready()
    }

    /// The size in bytes of the ring that this half reads.
    #[must_use]
    pub fn ring_size(&self) -> usize {
        self.reader.size()
    }

    /// See [`Channel::shutdown`](crate::Channel::shutdown). A writer that waits in another thread ends
    /// at once.
    pub fn shutdown(&self) {
        self.reader.link().shut_down();
    }

    /// How many bytes were read since the connection began.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.reader.total()
    }

    /// How long a read may wait; `None` for ever. A read that waited so long is
    /// [`Error::TimedOut`].
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
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
impl io::Read for ReadHalf {
    fn read_vectored(&mut self, to: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        Ok(ReadHalf::read_vectored(self, to)?)
    }

    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        Ok(ReadHalf::read(self, to)?)
    }
}

/// As for [`Channel`](crate::Channel).
#[cfg(feature = "std")]
impl AsFd for ReadHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(self.reader.link())
    }
}
