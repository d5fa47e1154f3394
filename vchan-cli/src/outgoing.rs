//! From standard input to the other side.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vchan::{Error, WriteHalf};

use crate::failure::Undelivered;

/// The writing half of the channel, and how far standard input has come.
///
/// The lock is held while a write waits, never while standard input is read: so somebody else can
/// see what became of the bytes once the channel is at its end, where no write waits any longer.
#[derive(Debug)]
pub struct Outgoing {
    writer: Mutex<WriteHalf>,
    /// The size of the ring, in bytes.
    ring: usize,
    /// How many bytes were read from standard input. Only ever counted up, before they are
    /// written.
    taken: AtomicU64,
}

/// Why not everything went out.
#[derive(Debug)]
pub enum Interrupted {
    /// Standard input cannot be read.
    Input(io::Error),
    /// The channel does not take more.
    Channel(Error),
}

impl Outgoing {
    pub fn new(writer: WriteHalf, ring: usize) -> Outgoing {
        Outgoing {
            writer: Mutex::new(writer),
            ring,
            taken: AtomicU64::new(0),
        }
    }

    /// Sends all of `input`, each piece as soon as it is there, and waits until the other side has
    /// read it. Returns how many bytes there were.
    pub fn copy_from(&self, mut input: impl Read) -> Result<u64, Interrupted> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Interrupted::Input(error)),
            };
            self.taken.fetch_add(count as u64, Ordering::Relaxed);
            self.send(buffer.get(..count).unwrap_or_default())
                .map_err(Interrupted::Channel)?;
        }
        self.lock().drain().map_err(Interrupted::Channel)?;
        Ok(self.taken.load(Ordering::Relaxed))
    }

    fn send(&self, mut bytes: &[u8]) -> Result<(), Error> {
        let mut writer = self.lock();
        while !bytes.is_empty() {
            let count = writer.write(bytes)?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// What the other side has not taken or not read, for a channel that is at its end.
    pub fn undelivered(&self) -> Option<Undelivered> {
        let mut writer = self.lock();
        // A ring that cannot be looked into (the peer's fault) says nothing about the bytes in it.
        let unread = writer
            .buffer_space()
            .map_or(0, |space| self.ring.saturating_sub(space) as u64);
        let undelivered = Undelivered {
            taken: self.taken.load(Ordering::Relaxed),
            accepted: writer.bytes_written(),
            unread,
        };
        (undelivered.accepted < undelivered.taken || unread > 0).then_some(undelivered)
    }

    fn lock(&self) -> MutexGuard<'_, WriteHalf> {
        // The counters hold whatever became of another thread.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
