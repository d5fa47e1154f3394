//! The channel that users hold, and its two halves.

use alloc::sync::Arc;
use core::time::Duration;
#[cfg(feature = "std")]
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use crate::endpoint::{Link, Reader, Spin, State, Writer};
use crate::{DomId, Error};

mod handshake;
mod in_place;
mod options;
mod read_half;
mod vectored;
mod write_half;

pub use handshake::Handshake;
pub(crate) use handshake::Origin;
pub use in_place::{Peek, Reservation};
pub use read_half::ReadHalf;
pub use write_half::WriteHalf;

/// One side of a connection: a byte stream in each direction, or datagrams.
///
/// Made by [`Server`](crate::Server) or [`Client`](crate::Client). With the feature `std` it is
/// [`Read`](std::io::Read) and [`Write`](std::io::Write), as a Unix stream socket is; the inherent
/// methods of the same names return this crate's [`Error`] instead. Dropping it closes it: what was
/// written stays readable for the peer.
///
/// ```
/// # let emulator = vchan_emulator::Emulator::start()?;
/// # emulator.add_domain(vchan::DomId::DOM0)?;
/// # emulator.add_domain(vchan::DomId::new(2)?)?;
/// # let host = emulator.host(vchan::DomId::DOM0)?;
/// # let guest = emulator.host(vchan::DomId::new(2)?)?;
/// use std::io::{Read, Write};
/// use vchan::{Client, DomId, Server};
///
/// let mut server = Server::builder(&guest, DomId::DOM0).bind()?;
/// let mut ours = Client::builder(&host, DomId::new(2)?).connect()?;
/// let mut theirs = server.accept()?;
/// ours.write_all(b"hello")?;
/// let mut hello = [0; 5];
/// theirs.read_exact(&mut hello)?;
/// assert_eq!(&hello, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Channel {
    reader: ReadHalf,
    writer: WriteHalf,
}

impl Channel {
    pub(crate) fn new(reader: Reader, writer: Writer, origin: Origin) -> Channel {
        Channel {
            reader: ReadHalf::new(reader, origin),
            writer: WriteHalf::new(writer),
        }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        self.reader.reader.link()
    }

    /// The other side's domain.
    #[must_use]
    pub fn peer(&self) -> DomId {
        self.link().peer()
    }

    /// How the connection was set up.
    #[must_use]
    pub fn handshake(&self) -> Handshake {
        self.reader.origin.handshake(self.link())
    }

    /// Whether the peer is there. A peer that died without a word shows at the latest a second
    /// after somebody began to wait for it.
    ///
    /// # Errors
    /// [`Error::PeerFault`].
    pub fn state(&self) -> Result<State, Error> {
        self.link().state()
    }

    /// Asks the host whether the peer's domain still exists, then tells the [state](Channel::state).
    /// Waits do this by themselves, once a second. Who waits on the [descriptor](Channel::as_fd)
    /// instead must call it now and then: a domain that is destroyed sends no event.
    ///
    /// # Errors
    /// [`Error::PeerFault`], [`Error::Host`].
    pub fn probe(&self) -> Result<State, Error> {
        self.link().state()?;
        self.link().probe()?;
        self.link().state()
    }

    /// Closes the channel, as dropping it does: the peer reads what was written and then the end.
    /// Here, what the peer wrote can still be read, and nothing more be written.
    pub fn shutdown(&self) {
        self.link().shut_down();
    }

    /// See [`ReadHalf::data_ready`].
    ///
    /// # Errors
    /// [`Error::PeerFault`].
    pub fn data_ready(&mut self) -> Result<usize, Error> {
        self.reader.data_ready()
    }

    /// See [`WriteHalf::buffer_space`].
    ///
    /// # Errors
    /// [`Error::PeerFault`].
    pub fn buffer_space(&mut self) -> Result<usize, Error> {
        self.writer.buffer_space()
    }

    /// The sizes of the rings that this side reads and writes, in bytes.
    #[must_use]
    pub fn ring_sizes(&self) -> (usize, usize) {
        (self.reader.reader.size(), self.writer.writer.size())
    }

    /// See [`ReadHalf::bytes_read`].
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.reader.bytes_read()
    }

    /// See [`WriteHalf::bytes_written`].
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.writer.bytes_written()
    }

    /// See [`ReadHalf::read`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        self.reader.read(to)
    }

    /// See [`WriteHalf::write`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn write(&mut self, from: &[u8]) -> Result<usize, Error> {
        self.writer.write(from)
    }

    /// See [`ReadHalf::recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn recv(&mut self, to: &mut [u8]) -> Result<(), Error> {
        self.reader.recv(to)
    }

    /// See [`WriteHalf::send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn send(&mut self, from: &[u8]) -> Result<(), Error> {
        self.writer.send(from)
    }

    /// See [`WriteHalf::drain`].
    ///
    /// # Errors
    /// As there.
    pub fn drain(&mut self) -> Result<(), Error> {
        self.writer.drain()
    }

    /// See [`ReadHalf::set_read_timeout`].
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.reader.set_read_timeout(timeout);
    }

    /// See [`WriteHalf::set_write_timeout`].
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.writer.set_write_timeout(timeout);
    }

    /// Makes calls that would wait return [`Error::WouldBlock`] instead, in both directions. Only
    /// after that answer does the [descriptor](Channel::as_fd) tell when to try again.
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        self.reader.set_nonblocking(nonblocking);
        self.writer.set_nonblocking(nonblocking);
    }

    /// What calls do before they sleep, in both directions: see [`Spin`].
    pub fn set_spin(&mut self, spin: Spin) {
        self.reader.set_spin(spin);
        self.writer.set_spin(spin);
    }

    /// The two directions, so that one thread reads while another writes. The channel closes when
    /// both are dropped.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        self.link().wakeups().share();
        (self.reader, self.writer)
    }

    pub(crate) fn into_parts(self) -> (Reader, Writer, Origin) {
        (self.reader.reader, self.writer.writer, self.reader.origin)
    }
}

#[cfg(feature = "std")]
impl io::Read for Channel {
    fn read_vectored(&mut self, to: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        Ok(Channel::read_vectored(self, to)?)
    }

    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        Ok(self.reader.read(to)?)
    }
}

#[cfg(feature = "std")]
impl io::Write for Channel {
    fn write_vectored(&mut self, from: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(Channel::write_vectored(self, from)?)
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(self.writer.write(from)?)
    }

    /// Nothing to do: what was written is published already.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Readable while an event is pending. Use it after [`Error::WouldBlock`] only: that answer is what
/// asks the peer for an event.
///
/// There is one descriptor for both directions and both halves, and an event is seen by whoever takes
/// it first: a call that waits, or one that does not and finds nothing to do. So whoever waits on the
/// descriptor sees to both directions; the other half must not be used in another thread meanwhile.
///
/// # Panics
/// On a host whose event channels have no descriptors, which no host on an operating system is.
#[cfg(feature = "std")]
impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(self.link())
    }
}

#[cfg(feature = "std")]
fn descriptor(link: &Link) -> BorrowedFd<'_> {
    let descriptor = link.wakeups().port().as_fd();
    descriptor.expect("this host has no descriptors")
}
