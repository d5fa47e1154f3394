//! The asynchronous face on tokio: the module [`task`](crate::task), with tokio as its runtime.
//!
//! [`Channel`] is `AsyncRead` and `AsyncWrite`; datagrams are [`Channel::send`] and
//! [`Channel::recv`]. Dropping a future at any moment loses and doubles no byte. A runtime with its
//! I/O and time drivers enabled is needed.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let emulator = vchan_emulator::Emulator::start()?;
//! # emulator.add_domain(vchan::DomId::DOM0)?;
//! # emulator.add_domain(vchan::DomId::new(2)?)?;
//! # let host = emulator.host(vchan::DomId::DOM0)?;
//! # let guest = emulator.host(vchan::DomId::new(2)?)?;
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use vchan::{Client, DomId, Server};
//!
//! let mut server = Server::builder(&guest, DomId::DOM0).bind()?;
//! let connect = Client::builder(&host, DomId::new(2)?).connect_async();
//! let (ours, theirs) = tokio::join!(connect, server.accept_async());
//! let (mut ours, mut theirs) = (ours?, theirs?);
//! ours.write_all(b"hello").await?;
//! let mut hello = [0; 5];
//! theirs.read_exact(&mut hello).await?;
//! assert_eq!(&hello, b"hello");
//! # Ok(())
//! # })
//! # }
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::task::Runtime;
pub use crate::task::{Channel, ReadHalf, WriteHalf};
use crate::{ClientBuilder, Error, Server, ServerBuilder};

mod reactor;

/// Tokio as the runtime of the asynchronous face: whichever runtime a task runs in.
#[must_use]
pub fn runtime() -> Runtime {
    Runtime::new(reactor::Current)
}

/// Gives a channel to the current tokio runtime. Its timeouts and its non-blocking mode no longer
/// count.
///
/// # Errors
/// [`Error::Host`] when the runtime does not take its descriptor.
pub fn channel(channel: crate::Channel) -> Result<Channel, Error> {
    Channel::new(channel, &runtime())
}

impl ServerBuilder {
    /// Shares the pages and publishes them, as [`ServerBuilder::bind_on`] on tokio.
    ///
    /// # Errors
    /// As there.
    pub async fn bind_async(self) -> Result<Server, Error> {
        self.bind_on(&runtime()).await
    }
}

impl Server {
    /// Waits for a client, as [`Server::accept_on`] on tokio.
    ///
    /// # Errors
    /// As there.
    pub async fn accept_async(&mut self) -> Result<Channel, Error> {
        self.accept_on(&runtime()).await
    }

    /// Takes the keys back and ends the server, as [`Server::close_on`] on tokio.
    ///
    /// # Errors
    /// As there.
    pub async fn close_async(self) -> Result<(), Error> {
        self.close_on(&runtime()).await
    }
}

impl ClientBuilder {
    /// Connects, waiting until the server has published, as [`ClientBuilder::connect_on`] on tokio.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_async(self) -> Result<Channel, Error> {
        self.connect_on(&runtime()).await
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The buffer may hold bytes that were never written: they are set before anyone sees them
        // as bytes. tokio remembers what is initialised, so this is paid once per buffer.
        let to = buffer.initialize_unfilled();
        let count = ready!(ReadHalf::poll_read(self.get_mut(), cx, to))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        WriteHalf::poll_write(self.get_mut(), cx, from).map_err(io::Error::from)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        WriteHalf::poll_write_vectored(self.get_mut(), cx, from).map_err(io::Error::from)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing to do: what was written is published already.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing to do: a vchan cannot be closed in one direction. It closes when both halves are
    /// dropped or with [`WriteHalf::close`], and what was written stays readable. So
    /// `copy_bidirectional` ends when the peer closes, not before.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (read, _) = self.get_mut().halves();
        AsyncRead::poll_read(Pin::new(read), cx, buffer)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (_, write) = self.get_mut().halves();
        AsyncWrite::poll_write(Pin::new(write), cx, from)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (_, write) = self.get_mut().halves();
        AsyncWrite::poll_write_vectored(Pin::new(write), cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (_, write) = self.get_mut().halves();
        Pin::new(write).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (_, write) = self.get_mut().halves();
        Pin::new(write).poll_shutdown(cx)
    }
}
