//! Several buffers in one call: of one message, or one message each.

use core::ops::{Deref, DerefMut};

use super::{Channel, ReadHalf, WriteHalf};
use crate::Error;

impl WriteHalf {
    /// As [`write`](WriteHalf::write), from several buffers one after the other: header and payload
    /// need not be copied together first. What fits is published at once.
    ///
    /// Buffers are [`IoSlice`](std::io::IoSlice), `&[u8]`, `Vec<u8>`. (`Write::write_vectored` is
    /// this one too.)
    ///
    /// # Errors
    /// As [`write`](WriteHalf::write).
    pub fn write_vectored<B: Deref<Target = [u8]>>(&mut self, from: &[B]) -> Result<usize, Error> {
        self.options
            .run(&mut self.writer, |writer| writer.write_vectored(from))
    }

    /// As [`send`](WriteHalf::send), one datagram from several buffers.
    ///
    /// # Errors
    /// As [`send`](WriteHalf::send).
    pub fn send_vectored<B: Deref<Target = [u8]>>(&mut self, from: &[B]) -> Result<(), Error> {
        self.options
            .run(&mut self.writer, |writer| writer.send_vectored(from))
    }

    /// Sends datagrams, each of them whole, in one publication: one fence and at most one event for
    /// all. Waits until the first one fits, and takes as many more as fit then, as `sendmmsg` does on
    /// a socket with a full buffer. Gives their number; zero only for no datagrams.
    ///
    /// ```
    /// # let emulator = vchan_emulator::Emulator::start()?;
    /// # emulator.add_domain(vchan::DomId::DOM0)?;
    /// # emulator.add_domain(vchan::DomId::new(2)?)?;
    /// # let host = emulator.host(vchan::DomId::DOM0)?;
    /// # let guest = emulator.host(vchan::DomId::new(2)?)?;
    /// # let mut server = vchan::Server::builder(&guest, vchan::DomId::DOM0).bind()?;
    /// # let mut ours = vchan::Client::builder(&host, vchan::DomId::new(2)?).connect()?;
    /// # let mut theirs = server.accept()?;
    /// let measured = [[1; 8], [2; 8], [3; 8]];
    /// let mut sent = 0;
    /// while sent < measured.len() {
    ///     sent += ours.send_many(&measured[sent..])?;
    /// }
    /// let mut arrived = [[0; 8]; 16];
    /// assert_eq!(theirs.recv_many(&mut arrived)?, 3);
    /// assert_eq!(arrived[..3], measured);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`send`](WriteHalf::send) for the first datagram. One that can never fit ends the call
    /// before it, and is the error of the next.
    pub fn send_many<D: AsRef<[u8]>>(&mut self, datagrams: &[D]) -> Result<usize, Error> {
        self.options
            .run(&mut self.writer, |writer| writer.send_many(datagrams))
    }
}

impl ReadHalf {
    /// As [`read`](ReadHalf::read), into several buffers one after the other.
    ///
    /// Buffers are [`IoSliceMut`](std::io::IoSliceMut), `&mut [u8]`, `Vec<u8>`. (`Read::read_vectored`
    /// is this one too.)
    ///
    /// # Errors
    /// As [`read`](ReadHalf::read).
    pub fn read_vectored<B: DerefMut<Target = [u8]>>(
        &mut self,
        to: &mut [B],
    ) -> Result<usize, Error> {
        self.options
            .run(&mut self.reader, |reader| reader.read_vectored(to))
    }

    /// As [`recv`](ReadHalf::recv), one datagram into several buffers.
    ///
    /// # Errors
    /// As [`recv`](ReadHalf::recv).
    pub fn recv_vectored<B: DerefMut<Target = [u8]>>(&mut self, to: &mut [B]) -> Result<(), Error> {
        self.options
            .run(&mut self.reader, |reader| reader.recv_vectored(to))
    }

    /// Receives datagrams, one into each buffer and each exactly as long as its buffer, and gives
    /// their space back in one publication. Waits for the first one, and takes as many more as are
    /// there, as `recvmmsg` does with `MSG_WAITFORONE`. Gives their number; zero only for no buffers.
    ///
    /// See [`send_many`](WriteHalf::send_many) for an example. Where a datagram's length is in its
    /// header, [`peek`](ReadHalf::peek) does the same.
    ///
    /// # Errors
    /// As [`recv`](ReadHalf::recv) for the first datagram.
    pub fn recv_many<B: AsMut<[u8]>>(&mut self, buffers: &mut [B]) -> Result<usize, Error> {
        self.options
            .run(&mut self.reader, |reader| reader.recv_many(buffers))
    }
}

impl Channel {
    /// See [`ReadHalf::read_vectored`].
    ///
    /// # Errors
    /// As there.
    pub fn read_vectored<B: DerefMut<Target = [u8]>>(
        &mut self,
        to: &mut [B],
    ) -> Result<usize, Error> {
        self.reader.read_vectored(to)
    }

    /// See [`WriteHalf::write_vectored`].
    ///
    /// # Errors
    /// As there.
    pub fn write_vectored<B: Deref<Target = [u8]>>(&mut self, from: &[B]) -> Result<usize, Error> {
        self.writer.write_vectored(from)
    }

    /// See [`ReadHalf::recv_vectored`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_vectored<B: DerefMut<Target = [u8]>>(&mut self, to: &mut [B]) -> Result<(), Error> {
        self.reader.recv_vectored(to)
    }

    /// See [`WriteHalf::send_vectored`].
    ///
    /// # Errors
    /// As there.
    pub fn send_vectored<B: Deref<Target = [u8]>>(&mut self, from: &[B]) -> Result<(), Error> {
        self.writer.send_vectored(from)
    }

    /// See [`ReadHalf::recv_many`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_many<B: AsMut<[u8]>>(&mut self, buffers: &mut [B]) -> Result<usize, Error> {
        self.reader.recv_many(buffers)
    }

    /// See [`WriteHalf::send_many`].
    ///
    /// # Errors
    /// As there.
    pub fn send_many<D: AsRef<[u8]>>(&mut self, datagrams: &[D]) -> Result<usize, Error> {
        self.writer.send_many(datagrams)
    }
}
