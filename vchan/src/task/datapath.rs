//! Several buffers in one call, and the ring's bytes in place: as in the blocking face.

use core::future::poll_fn;
use core::ops::{Deref, DerefMut};
use core::task::{Context, Poll};

use super::{Channel, ReadHalf, WriteHalf};
use crate::{Error, Peek, Reservation};

impl WriteHalf {
    /// As [`WriteHalf::write_vectored`](crate::WriteHalf::write_vectored) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn write_vectored<B>(&mut self, from: &[B]) -> Result<usize, Error>
    where
        B: Deref<Target = [u8]>,
    {
        poll_fn(|cx| self.poll_write_vectored(cx, from)).await
    }

    /// Polls [`write_vectored`](WriteHalf::write_vectored).
    ///
    /// # Errors
    /// As there.
    pub fn poll_write_vectored<B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &[B],
    ) -> Poll<Result<usize, Error>>
    where
        B: Deref<Target = [u8]>,
    {
        self.waiter.poll(cx, || self.writer.write_vectored(from))
    }

    /// As [`WriteHalf::send_vectored`](crate::WriteHalf::send_vectored) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn send_vectored<B>(&mut self, from: &[B]) -> Result<(), Error>
    where
        B: Deref<Target = [u8]>,
    {
        poll_fn(|cx| self.waiter.poll(cx, || self.writer.send_vectored(from))).await
    }

    /// As [`WriteHalf::send_many`](crate::WriteHalf::send_many) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn send_many<D: AsRef<[u8]>>(&mut self, datagrams: &[D]) -> Result<usize, Error> {
        poll_fn(|cx| self.waiter.poll(cx, || self.writer.send_many(datagrams))).await
    }

    /// As [`WriteHalf::reserve`](crate::WriteHalf::reserve) of the blocking face. What was reserved
    /// is held by no other task: a future that is dropped holds nothing.
    ///
    /// # Errors
    /// As there.
    pub async fn reserve(&mut self, min: usize) -> Result<Reservation<'_>, Error> {
        let len = poll_fn(|cx| self.waiter.poll(cx, || self.writer.reserve(min))).await?;
        Ok(Reservation::new(&mut self.writer, len))
    }
}

impl ReadHalf {
    /// As [`ReadHalf::read_vectored`](crate::ReadHalf::read_vectored) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn read_vectored<B>(&mut self, to: &mut [B]) -> Result<usize, Error>
    where
        B: DerefMut<Target = [u8]>,
    {
        poll_fn(|cx| self.waiter.poll(cx, || self.reader.read_vectored(to))).await
    }

    /// As [`ReadHalf::recv_vectored`](crate::ReadHalf::recv_vectored) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn recv_vectored<B>(&mut self, to: &mut [B]) -> Result<(), Error>
    where
        B: DerefMut<Target = [u8]>,
    {
        poll_fn(|cx| self.waiter.poll(cx, || self.reader.recv_vectored(to))).await
    }

    /// As [`ReadHalf::recv_many`](crate::ReadHalf::recv_many) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn recv_many<B: AsMut<[u8]>>(&mut self, buffers: &mut [B]) -> Result<usize, Error> {
        poll_fn(|cx| self.waiter.poll(cx, || self.reader.recv_many(buffers))).await
    }

    /// As [`ReadHalf::peek`](crate::ReadHalf::peek) of the blocking face.
    ///
    /// # Errors
    /// As there.
    pub async fn peek(&mut self, min: usize) -> Result<Peek<'_>, Error> {
        let len = poll_fn(|cx| self.waiter.poll(cx, || self.reader.peek(min))).await?;
        Ok(Peek::new(&mut self.reader, len))
    }
}

impl Channel {
    /// See [`WriteHalf::send_vectored`].
    ///
    /// # Errors
    /// As there.
    pub async fn send_vectored<B>(&mut self, from: &[B]) -> Result<(), Error>
    where
        B: Deref<Target = [u8]>,
    {
        self.write.send_vectored(from).await
    }

    /// See [`ReadHalf::recv_vectored`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv_vectored<B>(&mut self, to: &mut [B]) -> Result<(), Error>
    where
        B: DerefMut<Target = [u8]>,
    {
        self.read.recv_vectored(to).await
    }

    /// See [`WriteHalf::send_many`].
    ///
    /// # Errors
    /// As there.
    pub async fn send_many<D: AsRef<[u8]>>(&mut self, datagrams: &[D]) -> Result<usize, Error> {
        self.write.send_many(datagrams).await
    }

    /// See [`ReadHalf::recv_many`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv_many<B: AsMut<[u8]>>(&mut self, buffers: &mut [B]) -> Result<usize, Error> {
        self.read.recv_many(buffers).await
    }

    /// See [`WriteHalf::reserve`].
    ///
    /// # Errors
    /// As there.
    pub async fn reserve(&mut self, min: usize) -> Result<Reservation<'_>, Error> {
        self.write.reserve(min).await
    }

    /// See [`ReadHalf::peek`].
    ///
    /// # Errors
    /// As there.
    pub async fn peek(&mut self, min: usize) -> Result<Peek<'_>, Error> {
        self.read.peek(min).await
    }
}
