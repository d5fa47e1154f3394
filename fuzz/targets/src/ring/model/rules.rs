//! The rules: what one look at the page means.

use std::sync::atomic::Ordering::SeqCst;

use vchan::layout::{NOTIFY_READ, NOTIFY_WRITE, Side};
use vchan::{PeerFault, State};

use super::{Call, Direction, Model, Outcome, len32};

impl Model {
    /// One look at the page for a call. `Ok(None)`: nothing can be done yet.
    pub(super) fn step(&mut self, call: Call) -> Result<Option<usize>, Outcome> {
        match call {
            Call::DataReady => self.ready().map(|ready| Some(ready as usize)),
            Call::BufferSpace => self.free().map(|free| Some(free as usize)),
            Call::Shutdown => {
                self.shut_down();
                Ok(Some(0))
            }
            // Whether the peer has died is found out while the host is asked.
            Call::State | Call::Probe => self.state().map(|state| Some(state as usize)),
            Call::Read(0) | Call::Write(0) => Ok(Some(0)),
            Call::Read(len) => match self.take(len.into())? {
                0 if self.state()? != State::Closed => Ok(None),
                0 => {
                    self.seal()?;
                    match self.take(len.into())? {
                        0 if self.died => Err(Outcome::PeerDied),
                        count => Ok(Some(count)),
                    }
                }
                count => Ok(Some(count)),
            },
            Call::Recv(len) => self.recv(len.into()),
            Call::Write(len) => {
                self.must_be_open()?;
                match self.put(len.into())? {
                    0 => Ok(None),
                    count => Ok(Some(count)),
                }
            }
            Call::Send(len) => self.send(len.into()),
            Call::ReadVectored(_)
            | Call::WriteVectored(_)
            | Call::RecvInPlace(_)
            | Call::SendInPlace(_) => self.step(call.plain()),
            Call::Drain => {
                let closed = self.state()? == State::Closed;
                if self.free()? == self.writing.size {
                    return Ok(Some(0));
                }
                if closed { Err(self.closed()) } else { Ok(None) }
            }
        }
    }

    fn recv(&mut self, len: usize) -> Result<Option<usize>, Outcome> {
        let size = self.reading.size as usize;
        if len > size {
            return Err(Outcome::TooLarge(len, size));
        }
        if len == 0 {
            return Ok(Some(0));
        }
        let ready = self.known_ready(len)? as usize;
        if ready >= len {
            return self.take(len).map(Some);
        }
        if self.state()? != State::Closed {
            return Ok(None);
        }
        self.seal()?;
        if self.died && ready == 0 {
            Err(Outcome::PeerDied)
        } else {
            Err(Outcome::EndOfStream(ready, len))
        }
    }

    /// Who has met the end of the stream reads nothing that is written after it.
    fn seal(&mut self) -> Result<(), Outcome> {
        self.ready()?;
        self.sealed = true;
        Ok(())
    }

    fn send(&mut self, len: usize) -> Result<Option<usize>, Outcome> {
        let size = self.writing.size as usize;
        if len > size {
            return Err(Outcome::TooLarge(len, size));
        }
        if len == 0 {
            return Ok(Some(0));
        }
        self.must_be_open()?;
        if (self.known_free(len)? as usize) < len {
            return Ok(None);
        }
        self.put(len).map(Some)
    }

    /// The peer's state; it only goes on, never back.
    pub(super) fn state(&mut self) -> Result<State, Outcome> {
        self.check_fault()?;
        if self.seen == State::Closed || self.died || self.shut {
            return Ok(State::Closed);
        }
        let byte = self.memory().load_byte(self.side.peer().live(), SeqCst);
        let now = match byte {
            0 => State::Closed,
            1 => State::Connected,
            2 if self.side == Side::Server => State::Waiting,
            _ => return Err(self.broken(PeerFault::Live(byte))),
        };
        if (self.seen, now) == (State::Connected, State::Waiting) {
            return Err(self.broken(PeerFault::Live(byte)));
        }
        self.seen = now;
        Ok(now)
    }

    fn must_be_open(&mut self) -> Result<(), Outcome> {
        match self.state()? {
            State::Closed => Err(self.closed()),
            _ => Ok(()),
        }
    }

    fn closed(&self) -> Outcome {
        if self.died {
            Outcome::PeerDied
        } else {
            Outcome::Closed
        }
    }

    /// How many bytes can be read: never more than the ring has, never fewer than before.
    fn ready(&mut self) -> Result<u32, Outcome> {
        self.check_fault()?;
        if self.sealed {
            return Ok(self.reading.known.wrapping_sub(self.reading.own));
        }
        let found = self.memory().load_index(self.reading.ring.prod(), SeqCst);
        let Direction {
            own, known, size, ..
        } = self.reading;
        let (before, now) = (known.wrapping_sub(own), found.wrapping_sub(own));
        if now < before || now > size {
            return Err(self.broken(PeerFault::Index { found, own, size }));
        }
        self.reading.known = found;
        Ok(now)
    }

    /// How many bytes can be written: never more than the ring has, never fewer than before.
    fn free(&mut self) -> Result<u32, Outcome> {
        self.check_fault()?;
        let found = self.memory().load_index(self.writing.ring.cons(), SeqCst);
        let Direction {
            own, known, size, ..
        } = self.writing;
        let (before, now) = (own.wrapping_sub(known), own.wrapping_sub(found));
        if now > before {
            return Err(self.broken(PeerFault::Index { found, own, size }));
        }
        self.writing.known = found;
        Ok(size - now)
    }

    /// The page need not be looked at for bytes that are known to be there.
    fn known_ready(&mut self, len: usize) -> Result<u32, Outcome> {
        self.check_fault()?;
        let ready = self.reading.known.wrapping_sub(self.reading.own);
        if (ready as usize) < len {
            return self.ready();
        }
        Ok(ready)
    }

    /// The same for space.
    fn known_free(&mut self, len: usize) -> Result<u32, Outcome> {
        let free = self.writing.size - self.writing.own.wrapping_sub(self.writing.known);
        if (free as usize) < len {
            return self.free();
        }
        Ok(free)
    }

    fn take(&mut self, len: usize) -> Result<usize, Outcome> {
        let ready = self.known_ready(len)?;
        let count = len.min(ready as usize);
        self.reading.own = self.reading.own.wrapping_add(len32(count));
        self.publish(count, NOTIFY_READ);
        Ok(count)
    }

    fn put(&mut self, len: usize) -> Result<usize, Outcome> {
        let free = self.known_free(len)?;
        let count = len.min(free as usize);
        self.writing.own = self.writing.own.wrapping_add(len32(count));
        self.publish(count, NOTIFY_WRITE);
        Ok(count)
    }

    /// The peer hears of it if it has asked, once for each time that it asks.
    fn publish(&mut self, count: usize, bit: u8) {
        if count > 0 && self.asked & bit != 0 {
            self.asked &= !bit;
            self.sent += 1;
        }
    }

    fn check_fault(&self) -> Result<(), Outcome> {
        self.fault
            .map_or(Ok(()), |fault| Err(Outcome::Fault(fault)))
    }

    /// The first fault stays.
    fn broken(&mut self, fault: PeerFault) -> Outcome {
        Outcome::Fault(*self.fault.get_or_insert(fault))
    }
}
