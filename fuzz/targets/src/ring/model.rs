//! What a channel must do, said plainly: no caches of what need not be cached, no threads, and one
//! look at the page for each step.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use vchan::layout::{ControlPage, Geometry, Ring, Side};
use vchan::memory::Region;
use vchan::{PeerFault, State};

use super::peer::{Act, pattern};
use super::{places, wanted_by};
use crate::machine::{Machine, Peer, What};

mod call;
mod rules;

pub(super) use call::{Call, Outcome};

/// One ring, as the side under test and an honest peer know it.
pub(super) struct Direction {
    pub(super) ring: Ring,
    /// Where its bytes are in memory, and how many.
    pub(super) at: usize,
    pub(super) size: u32,
    /// Our own index.
    pub(super) own: u32,
    /// The peer's index as it was when it was last accepted.
    pub(super) known: u32,
    /// The peer's index as an honest peer has it.
    pub(super) honest: u32,
    /// How many bytes have gone into it, and out of it.
    pub(super) put: u64,
    pub(super) taken: u64,
    /// Nobody has changed bytes in it that were not theirs.
    pub(super) intact: bool,
}

pub(super) struct Model {
    pub(super) side: Side,
    pub(super) machine: Option<Machine>,
    pub(super) memory: Option<Region>,
    /// What we read, and what we write.
    pub(super) reading: Direction,
    pub(super) writing: Direction,
    /// What the bytes of the ring that we write are.
    pub(super) shadow: Vec<u8>,
    pub(super) fault: Option<PeerFault>,
    pub(super) died: bool,
    /// This side has closed the channel.
    shut: bool,
    /// The end of the stream was met.
    sealed: bool,
    pub(super) seen: State,
    /// The peer has kept to the protocol.
    pub(super) honest: bool,
    /// The other end of the port is bound.
    pub(super) bound: bool,
    pub(super) patience: Option<Duration>,
    pub(super) later: VecDeque<Act>,
    call: Option<Call>,
    /// The channel has looked at the ring since something changed.
    has_looked: bool,
    /// The notify byte that we clear, and the rest of the header but our own indices.
    asked: u8,
    header: [u8; 24],
    sent: u64,
    since: Duration,
    sleeps: u64,
    acts: u64,
}

impl Direction {
    fn new(ring: Ring) -> Direction {
        Direction {
            ring,
            at: 0,
            size: 0,
            own: 0,
            known: 0,
            honest: 0,
            put: 0,
            taken: 0,
            intact: true,
        }
    }
}

impl Model {
    pub(super) fn new(side: Side) -> Model {
        Model {
            side,
            machine: None,
            memory: None,
            reading: Direction::new(Ring::read_by(side)),
            writing: Direction::new(Ring::written_by(side)),
            shadow: Vec::new(),
            fault: None,
            died: false,
            shut: false,
            sealed: false,
            seen: State::Waiting,
            honest: true,
            bound: true,
            patience: None,
            later: VecDeque::new(),
            call: None,
            has_looked: false,
            asked: 0,
            header: [0; 24],
            sent: 0,
            since: Duration::ZERO,
            sleeps: 0,
            acts: 0,
        }
    }

    // Setting up.

    pub(super) fn attach(&mut self, machine: Machine) {
        self.memory = Some(machine.memory());
        self.machine = Some(machine);
    }

    /// The machine knows us as the peer: one of the two must let go.
    pub(super) fn detach(&mut self) {
        (self.memory, self.machine) = (None, None);
    }

    pub(super) fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("attached")
    }

    pub(super) fn memory(&self) -> &Region {
        self.memory.as_ref().expect("attached")
    }

    pub(super) fn place(&mut self, geometry: Geometry) {
        let [left, right] = places(geometry);
        for direction in [&mut self.reading, &mut self.writing] {
            direction.at = if direction.ring == Ring::Left {
                left
            } else {
                right
            };
            direction.size = geometry.order(direction.ring).bytes();
        }
        self.shadow = vec![0; self.writing.size as usize];
    }

    /// The server's page, as its client finds it.
    pub(super) fn share(&mut self, page: &ControlPage) {
        self.memory().copy_in(0, &page.build());
        self.peer_is_live();
        self.memory().store_byte(Side::Client.live(), 2, SeqCst);
    }

    /// How a client finds a ring.
    pub(super) fn start(&mut self, ring: Ring, cons: u32, used: u32) {
        let prod = cons.wrapping_add(used);
        self.memory().store_index(ring.cons(), cons, SeqCst);
        self.memory().store_index(ring.prod(), prod, SeqCst);
        if ring == self.reading.ring {
            self.reading.own = cons;
            (self.reading.known, self.reading.honest) = (prod, prod);
            // The bytes there are not of our making.
            self.reading.intact = used == 0;
        } else {
            self.writing.own = prod;
            (self.writing.known, self.writing.honest) = (cons, cons);
            self.writing.intact = used == 0;
        }
    }

    pub(super) fn peer_is_live(&mut self) {
        let live = self.side.peer().live();
        self.memory().store_byte(live, 1, SeqCst);
    }

    pub(super) fn seen(&mut self, state: State) {
        self.seen = state;
    }

    pub(super) fn begin(&mut self) {
        let sent = self.machine().state().sent;
        self.sent = sent;
    }

    /// The bytes to write next.
    pub(super) fn next_bytes(&self, len: usize) -> Vec<u8> {
        pattern(self.writing.put, len)
    }

    // Around a call.

    pub(super) fn before(&mut self, call: Call) {
        self.call = Some(call);
        self.has_looked = true;
        self.note_page();
        let (since, sleeps) = {
            let state = self.machine().state();
            (state.now, state.sleeps)
        };
        (self.since, self.sleeps, self.acts) = (since, sleeps, 0);
    }

    /// Holds what the call did against what it had to do. `bytes` are those that it read or wrote.
    pub(super) fn after(&mut self, outcome: &Outcome, bytes: &[u8]) {
        let call = self.call.take().expect("a call was made");
        let read_from = self.reading.own;
        let waiting = match self.patience {
            None => Outcome::WouldBlock,
            Some(_) => Outcome::TimedOut,
        };
        let expected = match self.step(call) {
            Ok(done) => done.map_or(waiting, Outcome::Done),
            Err(ends) => ends,
        };
        assert_eq!(*outcome, expected, "{call:?}");
        if self.honest {
            assert!(!matches!(outcome, Outcome::Fault(_)), "an honest peer's");
        }
        match call {
            Call::Read(_) | Call::Recv(_) => {
                let there = self.ring_bytes(&self.reading, read_from, bytes.len());
                assert!(there == bytes, "not the bytes of the ring");
                if self.reading.intact && self.honest {
                    let wanted = pattern(self.reading.taken, bytes.len());
                    assert!(wanted == bytes, "not what the peer wrote");
                }
                self.reading.taken += bytes.len() as u64;
            }
            Call::Write(_) | Call::Send(_) => {
                // The ring turned so that it ends with the last byte that was written.
                let end = (self.writing.own % self.writing.size) as usize;
                self.shadow.rotate_left(end);
                let first = self.shadow.len() - bytes.len();
                self.shadow[first..].copy_from_slice(bytes);
                self.shadow.rotate_right(end);
                self.check_written();
                self.writing.put += bytes.len() as u64;
            }
            _ => {}
        }
        self.check_page(call, outcome, !bytes.is_empty());
        self.check_host(outcome);
    }

    /// The channel is closed.
    pub(super) fn ended(&mut self) {
        self.check_written();
        let was_shut = self.shut;
        self.shut_down();
        assert_eq!(
            self.machine().state().sent,
            self.sent,
            "the peer is told once"
        );
        let live = self.memory().load_byte(self.side.live(), SeqCst);
        // Once it is closed, the byte is nothing to us.
        assert!(live == 0 || was_shut, "it is closed");
    }

    fn shut_down(&mut self) {
        if !self.shut {
            self.shut = true;
            self.sent += 1;
            self.header[self.side.live()] = 0;
        }
    }

    // What is left of the page and the host.

    fn note_page(&mut self) {
        let mut header = [0; 24];
        self.memory().copy_out(0, &mut header);
        self.asked = header[self.side.asked_of_us()];
        self.header = header;
    }

    fn check_page(&mut self, call: Call, outcome: &Outcome, moved: bool) {
        let mut header = [0; 24];
        self.memory().copy_out(0, &mut header);
        let own = match call {
            Call::Read(_) | Call::Recv(_) => Some((self.reading.ring.cons(), self.reading.own)),
            Call::Write(_) | Call::Send(_) => Some((self.writing.ring.prod(), self.writing.own)),
            _ => None,
        };
        if let (Some((at, index)), true) = (own, moved) {
            self.header[at..at + 4].copy_from_slice(&index.to_le_bytes());
        }
        self.header[self.side.asked_of_us()] = self.asked;
        let armed = self.side.peer().asked_of_us();
        if let Some(bit) = wanted_by(call) {
            // Who had no time to sleep need not have asked. And when the peer wipes the request out,
            // it is made again only if there is time to sleep again.
            let slept = self.patience.is_some_and(|patience| !patience.is_zero()) && self.acts == 0;
            if *outcome == Outcome::WouldBlock || *outcome == Outcome::TimedOut && slept {
                assert!(header[armed] & bit != 0, "the peer was not asked");
            }
            // Whether it was asked on the way does not matter.
            self.header[armed] |= header[armed] & bit;
        }
        assert_eq!(header, self.header, "the control page after {call:?}");
    }

    /// The ring that we write holds what we wrote, and else what it held before.
    fn check_written(&self) {
        let ring = self.ring_bytes(&self.writing, 0, self.shadow.len());
        assert!(ring == self.shadow, "the ring that is written");
    }

    fn check_host(&mut self, outcome: &Outcome) {
        let state = self.machine().state();
        assert_eq!(state.sent, self.sent, "events to the peer");
        assert!(!state.masked, "no event could come");
        let passed = state.now - self.since;
        match outcome {
            Outcome::WouldBlock => assert!(!state.pending, "the old event would wake"),
            Outcome::TimedOut => assert_eq!(Some(passed), self.patience),
            _ => {}
        }
        assert!(
            passed <= self.patience.unwrap_or_default(),
            "later than it may"
        );
        let sleeps = state.sleeps - self.sleeps;
        let most = 2 * self.acts + 2 * passed.as_secs() + 8;
        assert!(sleeps <= most, "{sleeps} sleeps, {} acts", self.acts);
    }

    /// `len` bytes of a ring from a free-running index on.
    pub(super) fn ring_bytes(&self, of: &Direction, index: u32, len: usize) -> Vec<u8> {
        let size = of.size as usize;
        assert!(len <= size);
        let start = (index % of.size) as usize;
        let mut bytes = vec![0; len];
        let (head, tail) = bytes.split_at_mut(len.min(size - start));
        self.memory().copy_out(of.at + start, head);
        self.memory().copy_out(of.at, tail);
        bytes
    }
}

impl Peer for Model {
    fn asleep(&mut self) -> bool {
        let call = self.call.expect("only calls sleep");
        if self.has_looked {
            assert_eq!(self.step(call), Ok(None), "asleep with something to do");
            if let Some(bit) = wanted_by(call).filter(|_| self.acts == 0) {
                let armed = self.side.peer().asked_of_us();
                let armed = self.memory().load_byte(armed, SeqCst);
                assert!(armed & bit != 0, "asleep, and nobody was asked to wake us");
            }
        }
        self.has_looked = true;
        let Some(act) = self.later.pop_front() else {
            return false;
        };
        self.acts += 1;
        self.act(act);
        self.note_page();
        let wakes = self.machine().state().pending;
        self.has_looked = wakes;
        true
    }

    fn is_bound(&mut self) -> Option<bool> {
        if self.call.is_none() {
            // Before any call: a client that connects looks whether the port is that of the page.
            assert_eq!((self.side, self.seen), (Side::Client, State::Waiting));
            return Some(self.bound);
        }
        if self.call == Some(Call::Probe) {
            self.state().expect("it was looked at before");
        }
        assert_eq!(self.seen, State::Connected, "nobody is there to be gone");
        let live = self.memory().load_byte(self.side.peer().live(), SeqCst);
        self.died |= !self.bound && live != 0;
        Some(self.bound)
    }

    fn grants(&mut self, _: What) -> bool {
        true
    }
}

pub(super) fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("a ring's size")
}
