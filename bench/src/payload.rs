//! The bytes that are sent, and the check of those that arrive.
//!
//! Both ends know an endless sequence: a pseudo-random period, again and again. Its length is no
//! power of two, so a ring's worth of bytes that is lost, repeated or stale shows at once. Every byte
//! is compared.

use std::sync::Arc;

/// How many different bytes there are before they repeat: small enough to stay near the processor.
const PERIOD: usize = 255 * 64;

/// The sequence, to be sent or compared in pieces of at most a given length.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The period, and its beginning once more so that pieces lie in one run.
    bytes: Arc<[u8]>,
    /// The place in the period of the next byte.
    at: usize,
    total: u64,
}

/// What arrived is not what was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Corrupt {
    /// Another byte than the one that was sent.
    #[error("byte {position} of the stream is not the one that was sent")]
    Byte {
        /// Its place in the stream.
        position: u64,
    },
    /// Fewer or more bytes than were sent.
    #[error("{arrived} bytes arrived of {sent}")]
    Count {
        /// How many came.
        arrived: u64,
        /// How many were sent.
        sent: u64,
    },
}

/// Bytes that have arrived as they were sent. Made by [`Payload::all_of`] alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Arrived {
    bytes: u64,
}

impl Arrived {
    /// How many.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// These and those.
    pub fn and(self, other: Arrived) -> Arrived {
        Arrived {
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Payload {
    /// The sequence from its beginning, for pieces of up to `longest` bytes.
    #[must_use]
    pub fn new(longest: usize) -> Payload {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        });
        let period: Vec<u8> = words.flat_map(u64::to_le_bytes).take(PERIOD).collect();
        let bytes = period.iter().copied().cycle().take(PERIOD + longest);
        Payload {
            bytes: bytes.collect(),
            at: 0,
            total: 0,
        }
    }

    /// The next `count` bytes, which are then behind.
    ///
    /// # Panics
    /// When that is more than the longest piece.
    #[inline]
    pub fn next(&mut self, count: usize) -> &[u8] {
        let from = self.at;
        self.skip(count);
        &self.bytes[from..from + count]
    }

    /// How many bytes are behind.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Compares `arrived` with the next bytes, which are then behind.
    ///
    /// # Errors
    /// When they differ.
    #[inline]
    pub fn check(&mut self, arrived: &[u8]) -> Result<(), Corrupt> {
        let longest = self.bytes.len() - PERIOD;
        for piece in arrived.chunks(longest.max(1)) {
            let expected = &self.bytes[self.at..self.at + piece.len()];
            if piece != expected {
                return Err(self.difference(piece, expected));
            }
            self.skip(piece.len());
        }
        Ok(())
    }

    /// The proof that all of `sent` bytes were compared.
    ///
    /// # Errors
    /// When there were fewer or more.
    pub fn all_of(&self, sent: u64) -> Result<Arrived, Corrupt> {
        let arrived = self.total;
        if arrived == sent {
            Ok(Arrived { bytes: arrived })
        } else {
            Err(Corrupt::Count { arrived, sent })
        }
    }

    #[inline]
    fn skip(&mut self, count: usize) {
        self.total += count as u64;
        self.at += count;
        if self.at >= PERIOD {
            self.at %= PERIOD;
        }
    }

    #[cold]
    fn difference(&self, found: &[u8], expected: &[u8]) -> Corrupt {
        let same = found.iter().zip(expected).take_while(|(a, b)| a == b);
        Corrupt::Byte {
            position: self.total + same.count() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_passes_however_it_is_cut() {
        let (mut sent, mut seen) = (Payload::new(4096), Payload::new(100));
        for size in (1..2000).cycle().take(5000) {
            seen.check(sent.next(size)).unwrap();
        }
        assert_eq!(seen.all_of(sent.total()).unwrap().bytes(), sent.total());
    }

    #[test]
    fn one_wrong_bit_is_found_and_named() {
        for at in [0, 1, 63, 64, 999] {
            let mut bytes = Payload::new(1000).next(1000).to_vec();
            bytes[at] ^= 0x10;
            let wrong = Payload::new(64).check(&bytes);
            assert_eq!(
                wrong,
                Err(Corrupt::Byte {
                    position: at as u64
                })
            );
        }
    }

    #[test]
    fn what_is_lost_repeated_or_stale_is_found() {
        for ring in (6..=20).map(|order| 1 << order) {
            let mut sequence = Payload::new(ring);
            let first = sequence.next(ring).to_vec();
            let second = sequence.next(ring).to_vec();
            assert!(Payload::new(64).check(&second).is_err(), "lost {ring}");
            let mut seen = Payload::new(64);
            seen.check(&first).unwrap();
            assert!(seen.check(&first).is_err(), "repeated {ring}");
        }
    }

    #[test]
    fn fewer_bytes_than_were_sent_are_no_result() {
        let mut seen = Payload::new(64);
        seen.check(Payload::new(64).next(64)).unwrap();
        let (arrived, sent) = (64, 128);
        assert_eq!(seen.all_of(128), Err(Corrupt::Count { arrived, sent }));
    }
}
