//! What is compared: two ends that exchange bytes.

use std::io;

use crate::Failure;

/// One end of a link that carries bytes both ways.
///
/// All calls wait, in whatever way the [`Transport`] is about: asleep, spinning, or not at all where
/// there is nothing to wait for.
pub trait Peer: Send {
    /// Writes all of `bytes`, in as many pieces as need be.
    ///
    /// # Errors
    /// When the other end is gone.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Reads 1 to `to.len()` bytes, what is there; zero at the end.
    ///
    /// # Errors
    /// As for [`write`](Peer::write).
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize>;

    /// Sends a message, which the link can hold whole.
    ///
    /// # Errors
    /// As for [`write`](Peer::write).
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.write(message)
    }

    /// Receives a message of `to.len()` bytes.
    ///
    /// # Errors
    /// As for [`write`](Peer::write).
    #[inline]
    fn recv(&mut self, to: &mut [u8]) -> io::Result<()> {
        read_exact(self, to)
    }
}

/// An end whose calls need not wait: for one thread that has both ends.
pub trait Polled: Peer {
    /// Writes what fits now; `None` when that is nothing, and the other end is asked for an event.
    ///
    /// # Errors
    /// As for [`write`](Peer::write).
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>>;

    /// Reads what is there now, likewise.
    ///
    /// # Errors
    /// As for [`write`](Peer::write).
    fn try_read(&mut self, to: &mut [u8]) -> io::Result<Option<usize>>;
}

/// A way of moving bytes between two threads of this process.
pub trait Transport: Sync {
    /// Its ends.
    type Peer: Peer;

    /// Its name in tables.
    fn name(&self) -> String;

    /// Two connected ends, with room for `capacity` bytes (a power of two, 1 KiB to 1 MiB) in each
    /// direction where that can be chosen.
    ///
    /// # Errors
    /// [`Failure::Missing`] where this machine has no such thing.
    fn connect(&self, capacity: usize) -> Result<(Self::Peer, Self::Peer), Failure>;
}

/// Reads until `to` is full.
#[inline]
pub(crate) fn read_exact<P: Peer + ?Sized>(peer: &mut P, to: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while let Some(rest) = to.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match peer.read(rest)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => at += count,
        }
    }
    Ok(())
}
