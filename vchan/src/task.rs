//! The asynchronous face, for any runtime, with or without an operating system: the same endpoints
//! and handshakes, polled.
//!
//! What it needs of a runtime is a [`Reactor`]. There is one for tokio in the module `tokio` of this
//! crate (feature `tokio`), and one for guests without an operating system in the crate
//! `unikernel-core`.
//!
//! Dropping a future of this module at any moment loses and doubles no byte: a poll either moves
//! bytes and is ready, or moves none.
//!
//! Connecting and accepting call the host as they are, like a blocking program: those calls wait for
//! nobody. XenStore is waited for as a task, so one that does not answer holds up nobody else. Two
//! things still wait for it in place: dropping a [`Server`](crate::Server) that has keys published,
//! for five seconds at most ([`Server::close_on`](crate::Server::close_on) does without), and,
//! through Linux's `/dev/xen/xenbus`, the kernel when a watch is set.

use alloc::sync::Arc;
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, ready};

use crate::channel::{Handshake, Origin};
use crate::endpoint::{PROBE_INTERVAL, Reader, State, Tasks, Wanted, Writer};
use crate::{DomId, Error};

mod datapath;
mod handshake;
mod runtime;

pub use runtime::{EventSource, Reactor, Readiness, Runtime, Sleep};

/// One side of a connection, asynchronous: a byte stream in each direction, or datagrams.
///
/// Made by [`Server::accept_on`](crate::Server::accept_on) or
/// [`ClientBuilder::connect_on`](crate::ClientBuilder::connect_on). With the feature `tokio` it is
/// tokio's `AsyncRead` and `AsyncWrite`; the inherent methods of the same names return this crate's
/// [`Error`] instead.
#[derive(Debug)]
pub struct Channel {
    read: ReadHalf,
    write: WriteHalf,
}

impl Channel {
    /// Gives a channel to a runtime. Its timeouts and its non-blocking mode no longer count.
    ///
    /// # Errors
    /// [`Error::Host`] when the runtime does not take it.
    pub fn new(channel: crate::Channel, runtime: &Runtime) -> Result<Channel, Error> {
        let (reader, writer, origin) = channel.into_parts();
        let link = Arc::clone(reader.link());
        let readiness = EventSource::watched_by(runtime, &link)?;
        let tasks = Arc::new(Tasks::new(link, readiness));
        let waiter = |wanted| Waiter {
            tasks: Arc::clone(&tasks),
            runtime: runtime.clone(),
            wanted,
            probe: None,
        };
        let read = ReadHalf {
            reader,
            origin,
            waiter: waiter(Wanted::Data),
        };
        let write = WriteHalf {
            writer,
            waiter: waiter(Wanted::Space),
        };
        Ok(Channel { read, write })
    }

    /// The other side's domain.
    #[must_use]
    pub fn peer(&self) -> DomId {
        self.read.reader.link().peer()
    }

    /// How the connection was set up.
    #[must_use]
    pub fn handshake(&self) -> Handshake {
        self.read.origin.handshake(self.read.reader.link())
    }

    /// Whether the peer is there, as [`Channel::state`](crate::Channel::state).
    ///
    /// # Errors
    /// [`Error::PeerFault`].
    pub fn state(&self) -> Result<State, Error> {
        self.read.reader.link().state()
    }

    /// Closes the channel, as dropping it does, as
    /// [`Channel::shutdown`](crate::Channel::shutdown) of the blocking face. (tokio's `shutdown` is for
    /// one direction, and does nothing here.)
    pub fn close(&self) {
        self.read.close();
    }

    /// The sizes of the rings that this side reads and writes, in bytes.
    #[must_use]
    pub fn ring_sizes(&self) -> (usize, usize) {
        (self.read.ring_size(), self.write.ring_size())
    }

    /// See [`ReadHalf::data_ready`].
    ///
    /// # Errors
    /// [`Error::PeerFault`].
    pub fn data_ready(&mut self) -> Result<usize, Error> {
        self.read.data_ready()
    }

    /// See [`WriteHalf::buffer_space`].
    ///
    /// # Errors
    /// [`Error::PeerFault`].
    pub fn buffer_space(&mut self) -> Result<usize, Error> {
        self.write.buffer_space()
    }

    /// See [`ReadHalf::bytes_read`].
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read.bytes_read()
    }

    /// See [`WriteHalf::bytes_written`].
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.write.bytes_written()
    }

    /// See [`ReadHalf::read`].
    ///
    /// # Errors
    /// As there.
    pub async fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        self.read.read(to).await
    }

    /// See [`WriteHalf::write`].
    ///
    /// # Errors
    /// As there.
    pub async fn write(&mut self, from: &[u8]) -> Result<usize, Error> {
        self.write.write(from).await
    }

    /// See [`ReadHalf::recv`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&mut self, to: &mut [u8]) -> Result<(), Error> {
        self.read.recv(to).await
    }

    /// See [`WriteHalf::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&mut self, from: &[u8]) -> Result<(), Error> {
        self.write.send(from).await
    }

    /// See [`WriteHalf::drain`].
    ///
    /// # Errors
    /// As there.
    pub async fn drain(&mut self) -> Result<(), Error> {
        self.write.drain().await
    }

    /// The two directions, for two tasks. The channel closes when both are dropped.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn halves(&mut self) -> (&mut ReadHalf, &mut WriteHalf) {
        (&mut self.read, &mut self.write)
    }
}

/// The reading half of a [`Channel`].
#[derive(Debug)]
pub struct ReadHalf {
    reader: Reader,
    origin: Origin,
    waiter: Waiter,
}

impl ReadHalf {
    /// Reads what is there, as [`ReadHalf::read`](crate::ReadHalf::read) of the blocking face: zero
    /// is the end of the stream.
    ///
    /// # Errors
    /// As there.
    pub async fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        poll_fn(|cx| self.poll_read(cx, to)).await
    }

    /// Polls [`read`](ReadHalf::read).
    ///
    /// # Errors
    /// As there.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<Result<usize, Error>> {
        self.waiter.poll(cx, || self.reader.read(to))
    }

    /// Reads exactly `to.len()` bytes or none, as
    /// [`ReadHalf::recv`](crate::ReadHalf::recv) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&mut self, to: &mut [u8]) -> Result<(), Error> {
        poll_fn(|cx| self.waiter.poll(cx, || self.reader.recv(to))).await
    }

    /// How many bytes can be read without waiting: 0 to the ring's size.
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

    /// How many bytes were read since the connection began.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.reader.total()
    }

    /// See [`Channel::close`]. A task that waits to write ends at once.
    pub fn close(&self) {
        self.waiter.tasks.shut_down();
    }
}

/// The writing half of a [`Channel`].
#[derive(Debug)]
pub struct WriteHalf {
    writer: Writer,
    waiter: Waiter,
}

impl WriteHalf {
    /// Writes as many bytes of `from` as fit, at least one, as
    /// [`WriteHalf::write`](crate::WriteHalf::write) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn write(&mut self, from: &[u8]) -> Result<usize, Error> {
        poll_fn(|cx| self.poll_write(cx, from)).await
    }

    /// Polls [`write`](WriteHalf::write).
    ///
    /// # Errors
    /// As there.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<Result<usize, Error>> {
        self.waiter.poll(cx, || self.writer.write(from))
    }

    /// Writes all of `from` in one publication, as
    /// [`WriteHalf::send`](crate::WriteHalf::send) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn send(&mut self, from: &[u8]) -> Result<(), Error> {
        poll_fn(|cx| self.waiter.poll(cx, || self.writer.send(from))).await
    }

    /// Waits until the peer has read everything.
    ///
    /// # Errors
    /// As [`WriteHalf::drain`](crate::WriteHalf::drain) of the blocking face.
    pub async fn drain(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.waiter.poll(cx, || self.writer.drained())).await
    }

    /// How many bytes can be written without waiting: 0 to the ring's size.
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

    /// How many bytes the ring has accepted since the connection began.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.writer.total()
    }

    /// See [`Channel::close`]. A task that waits to read ends at once, and may read what is there.
    ///
    /// ```
    /// use vchan::Error;
    /// use vchan::task::WriteHalf;
    ///
    /// /// Says goodbye, and ends the task that reads.
    /// async fn leave(mut writing: WriteHalf) -> Result<(), Error> {
    ///     writing.send(b"goodbye").await?;
    ///     writing.drain().await?;
    ///     writing.close();
    ///     Ok(())
    /// }
    /// ```
    pub fn close(&self) {
        self.waiter.tasks.shut_down();
    }
}

/// What one direction needs to wait: the tasks of both, and its own turn at asking whether the
/// peer's domain still exists.
struct Waiter {
    tasks: Arc<Tasks>,
    runtime: Runtime,
    wanted: Wanted,
    probe: Option<Sleep>,
}

impl Waiter {
    /// Takes steps until one has a result or there is nothing to do; then the task is woken by the
    /// next event.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut step: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Poll<Result<T, Error>> {
        ready!(self.runtime.reactor().poll_turn(cx));
        loop {
            if let Poll::Ready(done) = self.tasks.poll(self.wanted, cx.waker(), &mut step) {
                self.probe = None;
                return Poll::Ready(done);
            }
            let sleep = || self.runtime.sleep(PROBE_INTERVAL);
            ready!(self.probe.get_or_insert_with(sleep).as_mut().poll(cx));
            self.probe = None;
            self.tasks.link().probe()?;
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter")
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}
