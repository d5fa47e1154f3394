//! What the other side does: what the protocol lets it do, and anything else that one can do to a
//! page.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::SeqCst;

use arbitrary::Arbitrary;
use vchan::layout::{NOTIFY_READ, NOTIFY_WRITE, Ring};

use super::model::{Model, len32};

/// One act of the peer. The first ones are an honest peer's.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Act {
    Produce(u16),
    Consume(u16),
    Arm {
        data: bool,
        space: bool,
    },
    Event,
    Close,
    /// The domain is gone, without a word.
    Die,
    Index {
        which: Which,
        value: Value,
    },
    Live {
        of_ours: bool,
        value: u8,
    },
    Notify {
        of_ours: bool,
        value: u8,
    },
    Order {
        left: bool,
        value: u16,
    },
    Data {
        written_by_us: bool,
        at: u16,
        len: u8,
        byte: u8,
    },
}

/// An index, by who owns it.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Which {
    TheirProducer,
    TheirConsumer,
    OurProducer,
    OurConsumer,
}

/// What an index becomes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Value {
    Raw(u32),
    /// Relative to our own index of that ring.
    FromOwn(i16),
    /// Relative to what was last accepted.
    FromKnown(i16),
    /// Relative to our own index, a ring's size away.
    RingAway(i8),
    RingBack(i8),
}

impl Model {
    pub(super) fn later(&mut self, act: Act) {
        self.later.push_back(act);
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Produce(len) => self.produce(usize::from(len)),
            Act::Consume(len) => self.consume(usize::from(len)),
            Act::Arm { data, space } => {
                let wanted = [(data, NOTIFY_WRITE), (space, NOTIFY_READ)];
                let bits = (wanted.iter().filter(|(wanted, _)| *wanted)).map(|(_, bit)| bit);
                let bits = bits.fold(0, |all, bit| all | bit);
                let at = self.side.asked_of_us();
                self.memory().set_bits(at, bits, SeqCst);
            }
            Act::Event => self.event(),
            Act::Close => {
                let at = self.side.peer().live();
                self.memory().store_byte(at, 0, SeqCst);
                self.bound = false;
                self.event();
            }
            Act::Die => self.bound = false,
            Act::Index { which, value } => self.set_index(which, value),
            // A peer may change its own byte; what it does to ours must not matter.
            Act::Live { of_ours, value } => {
                let of = if of_ours { self.side } else { self.side.peer() };
                self.memory().store_byte(of.live(), value, SeqCst);
                self.honest &= of_ours;
            }
            Act::Notify { of_ours, value } => {
                let of = if of_ours { self.side } else { self.side.peer() };
                self.memory().store_byte(of.asked_of_us(), value, SeqCst);
            }
            Act::Order { left, value } => {
                let at = if left { 16 } else { 18 };
                self.memory().copy_in(at, &value.to_le_bytes());
            }
            Act::Data {
                written_by_us,
                at,
                len,
                byte,
            } => {
                let ring = if written_by_us {
                    &mut self.writing
                } else {
                    &mut self.reading
                };
                ring.intact = false;
                let size = ring.size as usize;
                let start = usize::from(at) % size;
                let end = (start + usize::from(len)).min(size);
                let bytes = vec![byte; end - start];
                let place = ring.at + start;
                if written_by_us {
                    self.shadow[start..end].copy_from_slice(&bytes);
                }
                self.memory().copy_in(place, &bytes);
            }
        }
    }

    /// An event arrives.
    fn event(&mut self) {
        self.machine().state().pending = true;
    }

    /// Sends an event if the notify byte that we set asks for it, as an honest peer does.
    fn tell(&mut self, bit: u8) {
        let asked = self.side.peer().asked_of_us();
        if self.memory().clear_bits(asked, bit, SeqCst) & bit != 0 {
            self.event();
        }
    }

    fn produce(&mut self, len: usize) {
        let ring = &self.reading;
        let used = ring.honest.wrapping_sub(ring.own);
        let Some(free) = ring.size.checked_sub(used) else {
            // Its indices were changed: it no longer knows what it does.
            return;
        };
        let len = len.min(free as usize);
        let size = ring.size as usize;
        let start = (ring.honest % ring.size) as usize;
        let bytes = pattern(ring.put, len);
        let (head, tail) = bytes.split_at(len.min(size - start));
        self.memory().copy_in(ring.at + start, head);
        self.memory().copy_in(ring.at, tail);
        let index = ring.honest.wrapping_add(len32(len));
        self.memory().store_index(ring.ring.prod(), index, SeqCst);
        self.reading.honest = index;
        self.reading.put += len as u64;
        self.tell(NOTIFY_WRITE);
    }

    fn consume(&mut self, len: usize) {
        let ring = &self.writing;
        let used = ring.own.wrapping_sub(ring.honest);
        if used > ring.size {
            return;
        }
        let len = len.min(used as usize);
        if ring.intact {
            let there = self.ring_bytes(ring, ring.honest, len);
            assert!(there == pattern(ring.taken, len), "not what we wrote");
        }
        let index = ring.honest.wrapping_add(len32(len));
        self.memory().store_index(ring.ring.cons(), index, SeqCst);
        self.writing.honest = index;
        self.writing.taken += len as u64;
        self.tell(NOTIFY_READ);
    }

    fn set_index(&mut self, which: Which, value: Value) {
        let (ring, offset): (_, fn(Ring) -> usize) = match which {
            Which::TheirProducer => (&self.reading, Ring::prod),
            Which::OurConsumer => (&self.reading, Ring::cons),
            Which::TheirConsumer => (&self.writing, Ring::cons),
            Which::OurProducer => (&self.writing, Ring::prod),
        };
        let near = |from: u32, by: i32| from.wrapping_add_signed(by);
        let value = match value {
            Value::Raw(value) => value,
            Value::FromOwn(by) => near(ring.own, by.into()),
            Value::FromKnown(by) => near(ring.known, by.into()),
            Value::RingAway(by) => near(ring.own.wrapping_add(ring.size), by.into()),
            Value::RingBack(by) => near(ring.own.wrapping_sub(ring.size), by.into()),
        };
        let offset = offset(ring.ring);
        self.memory().store_index(offset, value, SeqCst);
        // Our own indices in the page are for the peer to read: what it writes there changes
        // nothing.
        self.honest &= matches!(which, Which::OurProducer | Which::OurConsumer);
    }
}

/// The bytes of a stream from a position on, at most as many as two rings hold. They repeat after a
/// prime number of them, so that no ring's size goes by unnoticed.
pub(super) fn pattern(from: u64, len: usize) -> Vec<u8> {
    const PERIOD: u64 = 65_521;
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let byte = |at: u64| {
            (at % PERIOD)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .to_le_bytes()[7]
        };
        (0..PERIOD + (2 << 13)).map(byte).collect()
    });
    let start = usize::try_from(from % PERIOD).expect("below the period");
    bytes[start..start + len].to_vec()
}
