//! The channel that users hold, and its two halves.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

#[cfg(feature = "std")]
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use crate::endpoint::{Link, Patience, Reader, Spin, State, Wanted, Writer};
use crate::guard::keeps;
use crate::host::{GrantRef, Port, Time};
use crate::layout::{GRANTS, Geometry};
use crate::ring::Publish;
use crate::{DomId, Error};

mod in_place;
mod vectored;

pub use in_place::{Peek, Reservation};

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

/// How a connection was set up: what was published or found in XenStore, and the control page as it
/// was then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// The control page's grant reference, from the key `ring-ref`.
    pub ring_ref: GrantRef,
    /// The server's port, from the key `event-channel`.
    pub event_channel: Port,
    /// This side's own port.
    pub port: Port,
    /// The ring orders.
    pub geometry: Geometry,
    /// The header, as it stood in the page before the client changed anything, and the grant
    /// references as they stand there now. (They have no meaning any more, so an honest peer leaves
    /// them as they are.)
    pub page: Vec<u8>,
}

/// What is kept of a [`Handshake`], in the place where the channel is; the rest is in the control
/// page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) ring_ref: GrantRef,
    pub(crate) event_channel: Port,
    pub(crate) port: Port,
    pub(crate) geometry: Geometry,
    pub(crate) header: [u8; GRANTS],
}

impl Origin {
    pub(crate) fn handshake(&self, link: &Link) -> Handshake {
        let mut page = self.header.to_vec();
        page.resize(GRANTS + 4 * self.geometry.grant_count(), 0);
        if let Some(grants) = page.get_mut(GRANTS..) {
            link.page().copy_out(GRANTS, grants);
        }
        Handshake {
            ring_ref: self.ring_ref,
            event_channel: self.event_channel,
            port: self.port,
            geometry: self.geometry,
            page,
        }
    }
}

impl Channel {
    pub(crate) fn new(reader: Reader, writer: Writer, origin: Origin) -> Channel {
        Channel {
            reader: ReadHalf {
                options: Options::new(&reader),
                reader,
                origin,
            },
            writer: WriteHalf {
                options: Options::new(&writer),
                writer,
            },
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

#[derive(Debug)]
struct Options {
    timeout: Option<Duration>,
    nonblocking: bool,
    patience: Patience,
}

/// One direction of a channel, for who waits on it.
trait Direction {
    /// What it waits for.
    const WANTED: Wanted;
    fn link(&self) -> &Arc<Link>;
    /// What it has to know to spin as it is told to.
    fn patience(&self, spin: Spin) -> Patience;
}

impl Direction for Reader {
    const WANTED: Wanted = Wanted::Data;
    fn link(&self) -> &Arc<Link> {
        Reader::link(self)
    }
    fn patience(&self, spin: Spin) -> Patience {
        self.link().patience(spin, self.size())
    }
}

impl Direction for Writer {
    const WANTED: Wanted = Wanted::Space;
    fn link(&self) -> &Arc<Link> {
        Writer::link(self)
    }
    fn patience(&self, spin: Spin) -> Patience {
        self.link().patience(spin, self.size())
    }
}

impl Options {
    fn new<D: Direction>(end: &D) -> Options {
        Options {
            timeout: None,
            nonblocking: false,
            patience: end.patience(Spin::default()),
        }
    }

    /// Takes steps in one direction until one has a result, as far as the options let it wait.
    fn run<D: Direction, T>(
        &mut self,
        end: &mut D,
        mut step: impl FnMut(&mut D) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        // Mostly there is something to do: then no clock need be read.
        if keeps("look-before-asking")
            && let Some(done) = step(end)?
        {
            return Ok(done);
        }
        self.wait(end, step)
    }

    #[cold]
    fn wait<D: Direction, T>(
        &mut self,
        end: &mut D,
        mut step: impl FnMut(&mut D) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let link = Arc::clone(end.link());
        let step = || step(end);
        if self.nonblocking {
            return link.try_for(D::WANTED, step);
        }
        let deadline = self.deadline(&link);
        link.wait_for(D::WANTED, deadline, &mut self.patience, step)
    }

    fn deadline(&self, link: &Link) -> Option<Time> {
        self.timeout
            .map(|timeout| link.host().events().now().after(timeout))
    }
}

/// The reading half of a [`Channel`].
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
    reader: Reader,
    options: Options,
    origin: Origin,
}

impl ReadHalf {
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

    /// See [`Channel::shutdown`]. A writer that waits in another thread ends at once.
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

    /// See [`Channel::set_nonblocking`].
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        self.options.nonblocking = nonblocking;
    }

    /// What calls of this half do before they sleep: see [`Spin`].
    pub fn set_spin(&mut self, spin: Spin) {
        self.options.patience = self.reader.patience(spin);
    }
}

/// The writing half of a [`Channel`].
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
    writer: Writer,
    options: Options,
}

impl WriteHalf {
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

    /// See [`Channel::shutdown`]. A reader that waits in another thread ends at once.
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

    /// See [`Channel::set_nonblocking`].
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        self.options.nonblocking = nonblocking;
    }

    /// What calls of this half do before they sleep: see [`Spin`].
    pub fn set_spin(&mut self, spin: Spin) {
        self.options.patience = self.writer.patience(spin);
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

#[cfg(feature = "std")]
fn descriptor(link: &Link) -> BorrowedFd<'_> {
    let descriptor = link.wakeups().port().as_fd();
    descriptor.expect("this host has no descriptors")
}

/// Readable while an event is pending. Use it after [`Error::WouldBlock`] only: that answer is what
/// asks the peer for an event.
///
/// # Panics
/// On a host whose event channels have no descriptors, which no host on an operating system is.
#[cfg(feature = "std")]
impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(self.link())
    }
}

/// As for [`Channel`].
#[cfg(feature = "std")]
impl AsFd for ReadHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(self.reader.link())
    }
}

/// As for [`Channel`].
#[cfg(feature = "std")]
impl AsFd for WriteHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(self.writer.link())
    }
}
