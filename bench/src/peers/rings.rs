//! Rings between two threads of one process: no pages to share, no peer to distrust, nobody to wake.
//! Where there is nothing to read or no space, they look again at once.

use std::io;

use ringbuf::HeapRb;
use ringbuf::traits::{Consumer as _, Producer as _, Split as _};

use crate::{Failure, Peer, Transport};

/// The crate `rtrb`.
#[derive(Clone, Copy, Debug)]
pub struct Rtrb;

/// An end of a pair of `rtrb` rings.
#[derive(Debug)]
pub struct RtrbPeer {
    producer: rtrb::Producer<u8>,
    consumer: rtrb::Consumer<u8>,
}

impl Transport for Rtrb {
    type Peer = RtrbPeer;

    fn name(&self) -> String {
        "rtrb".to_owned()
    }

    fn connect(&self, capacity: usize) -> Result<(RtrbPeer, RtrbPeer), Failure> {
        let there = rtrb::RingBuffer::new(capacity);
        let back = rtrb::RingBuffer::new(capacity);
        let left = RtrbPeer {
            producer: there.0,
            consumer: back.1,
        };
        let right = RtrbPeer {
            producer: back.0,
            consumer: there.1,
        };
        Ok((left, right))
    }
}

impl Peer for RtrbPeer {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            (_, bytes) = self.producer.push_partial_slice(bytes);
            if bytes.is_empty() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
    }

    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let (taken, _) = self.consumer.pop_partial_slice(to);
            if !taken.is_empty() {
                return Ok(taken.len());
            }
            std::hint::spin_loop();
        }
    }

    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        while self.producer.push_entire_slice(message).is_err() {
            std::hint::spin_loop();
        }
        Ok(())
    }

    #[inline]
    fn recv(&mut self, to: &mut [u8]) -> io::Result<()> {
        while self.consumer.pop_entire_slice(to).is_err() {
            std::hint::spin_loop();
        }
        Ok(())
    }
}

/// The crate `ringbuf`.
#[derive(Clone, Copy, Debug)]
pub struct Ringbuf;

/// An end of a pair of `ringbuf` rings.
pub struct RingbufPeer {
    producer: ringbuf::HeapProd<u8>,
    consumer: ringbuf::HeapCons<u8>,
}

impl Transport for Ringbuf {
    type Peer = RingbufPeer;

    fn name(&self) -> String {
        "ringbuf".to_owned()
    }

    fn connect(&self, capacity: usize) -> Result<(RingbufPeer, RingbufPeer), Failure> {
        let there = HeapRb::new(capacity).split();
        let back = HeapRb::new(capacity).split();
        let left = RingbufPeer {
            producer: there.0,
            consumer: back.1,
        };
        let right = RingbufPeer {
            producer: back.0,
            consumer: there.1,
        };
        Ok((left, right))
    }
}

impl Peer for RingbufPeer {
    #[inline]
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let count = self.producer.push_slice(bytes);
            bytes = &bytes[count..];
            if bytes.is_empty() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
    }

    #[inline]
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.consumer.pop_slice(to) {
                0 => std::hint::spin_loop(),
                count => return Ok(count),
            }
        }
    }
}
