//! What both ends do, one after the other: made from a seed, cut down when it fails.

use std::fmt;

use vchan::layout::{Ring, Side};

/// A call of the library that does not wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Write(usize),
    Send(usize),
    Read(usize),
    Recv(usize),
    Ready,
    Space,
    Open,
}

impl Call {
    /// The ring that the call looks at when `side` makes it.
    pub(crate) fn ring(self, side: Side) -> Option<Ring> {
        match self {
            Call::Write(_) | Call::Send(_) | Call::Space => Some(Ring::written_by(side)),
            Call::Read(_) | Call::Recv(_) | Call::Ready => Some(Ring::read_by(side)),
            Call::Open => None,
        }
    }
}

impl Call {
    /// The same call with other sizes, the least first.
    pub(crate) fn smaller(self) -> Vec<Call> {
        let sizes = |call: fn(usize) -> Call, size: usize| {
            let mut sizes = vec![1, size / 2, size - size / 8];
            sizes.retain(|&smaller| smaller < size);
            sizes.dedup();
            sizes.into_iter().map(call).collect()
        };
        match self {
            Call::Write(size) => sizes(Call::Write, size),
            Call::Send(size) => sizes(Call::Send, size),
            Call::Read(size) => sizes(Call::Read, size),
            Call::Recv(size) => sizes(Call::Recv, size),
            Call::Ready | Call::Space | Call::Open => Vec::new(),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Write(size) => write!(f, "write {size}"),
            Call::Send(size) => write!(f, "send {size}"),
            Call::Read(size) => write!(f, "read {size}"),
            Call::Recv(size) => write!(f, "recv {size}"),
            Call::Ready => f.write_str("ready"),
            Call::Space => f.write_str("space"),
            Call::Open => f.write_str("open"),
        }
    }
}

/// How an end goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leave {
    Close,
    /// The process ends without closing.
    Exit,
    /// By SIGKILL.
    Kill,
}

/// One step of one end. The server is there from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Connect,
    Call(Side, Call),
    Leave(Side, Leave),
}

impl Step {
    /// Whose step it is.
    pub(crate) fn side(self) -> Side {
        match self {
            Step::Connect => Side::Client,
            Step::Call(side, _) | Step::Leave(side, _) => side,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |side: &Side| match side {
            Side::Server => "server",
            Side::Client => "client",
        };
        match self {
            Step::Connect => f.write_str("client: connect"),
            Step::Call(side, call) => write!(f, "{}: {call}", name(side)),
            Step::Leave(side, Leave::Close) => write!(f, "{}: close", name(side)),
            Step::Leave(side, Leave::Exit) => write!(f, "{}: exit without close", name(side)),
            Step::Leave(side, Leave::Kill) => write!(f, "{}: killed", name(side)),
        }
    }
}

/// The orders of the left and the right ring.
pub(crate) type Orders = (u8, u8);

/// Steps, and the channel they happen on. What does not apply (a call of an end that is gone) is
/// passed over, so that any part of a sequence is one too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sequence {
    pub(crate) seed: u64,
    pub(crate) orders: Orders,
    /// Where the indices begin, where the server is C's: it alone keeps them in the page only.
    pub(crate) first_index: u32,
    pub(crate) steps: Vec<Step>,
}

impl Sequence {
    pub(crate) fn from_seed(seed: u64, orders: Orders) -> Sequence {
        // Other steps for other orders, not the same ones in other rings.
        let mut random = Random(seed);
        random.0 ^= u64::from(orders.0) << 40 | u64::from(orders.1) << 32;
        // Half of them wrap soon.
        let first_index = if random.chance(50) {
            let before = random.below(2 << orders.0.max(orders.1));
            u32::MAX - u32::try_from(before).unwrap()
        } else {
            0
        };
        let mut author = Author {
            random,
            capacity: [1 << orders.0, 1 << orders.1],
            used: [0, 0],
            gone: [false, false],
        };
        Sequence {
            seed,
            orders,
            first_index,
            steps: author.write(),
        }
    }

    /// A ring's size in bytes.
    pub(crate) fn capacity(&self, ring: Ring) -> usize {
        match ring {
            Ring::Left => 1 << self.orders.0,
            Ring::Right => 1 << self.orders.1,
        }
    }

    /// Where the bytes that `side` writes begin, see [`vchan_tests::pattern`]. Others every time:
    /// a ring's old contents must not look right.
    pub(crate) fn outgoing_seed(&self, side: Side) -> u64 {
        self.seed.wrapping_mul(2).wrapping_add(side as u64)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, right) = self.orders;
        writeln!(
            f,
            "seed {}, orders {left} (left) and {right} (right), first index of a C server {:#x}:",
            self.seed, self.first_index
        )?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {number:3}  {step}")?;
        }
        Ok(())
    }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Knows how full the rings are, so as to choose sizes that matter.
struct Author {
    random: Random,
    /// Of the left and the right ring.
    capacity: [usize; 2],
    used: [usize; 2],
    /// Server and client.
    gone: [bool; 2],
}

impl Author {
    fn write(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.random.chance(50) {
            for _ in 0..self.random.below(10) {
                self.call(&mut steps, Side::Server);
            }
        }
        // Hardly ever before anybody came.
        if self.random.chance(4) {
            self.leave(&mut steps, Side::Server);
            return steps;
        }
        steps.push(Step::Connect);
        for _ in 0..10 + self.random.below(70) {
            let side = self.side();
            self.call(&mut steps, side);
        }
        let first = self.side();
        self.leave(&mut steps, first);
        for _ in 0..self.random.below(20) {
            self.call(&mut steps, first.peer());
        }
        if self.random.chance(50) {
            self.leave(&mut steps, first.peer());
        }
        steps
    }

    fn side(&mut self) -> Side {
        if self.random.chance(50) {
            Side::Server
        } else {
            Side::Client
        }
    }

    fn leave(&mut self, steps: &mut Vec<Step>, side: Side) {
        let leave = match self.random.below(10) {
            0..6 => Leave::Close,
            6..8 => Leave::Exit,
            _ => Leave::Kill,
        };
        self.gone[side as usize] = true;
        steps.push(Step::Leave(side, leave));
    }

    fn call(&mut self, steps: &mut Vec<Step>, side: Side) {
        let (out, back) = (
            Ring::written_by(side) as usize,
            Ring::read_by(side) as usize,
        );
        let free = self.capacity[out] - self.used[out];
        let used = self.used[back];
        let closed = self.gone[side.peer() as usize];
        let call = match self.random.below(100) {
            kind @ 0..40 => {
                let size = self.size(free, self.capacity[out]);
                let fits = if kind < 22 { size.min(free) } else { size };
                if fits <= free && !closed {
                    self.used[out] += fits;
                }
                if kind < 22 {
                    Call::Write(size)
                } else {
                    Call::Send(size)
                }
            }
            kind @ 40..80 => {
                let size = self.size(used, self.capacity[back]);
                let there = if kind < 62 { size.min(used) } else { size };
                if there <= used {
                    self.used[back] -= there;
                }
                if kind < 62 {
                    Call::Read(size)
                } else {
                    Call::Recv(size)
                }
            }
            80..87 => Call::Ready,
            87..94 => Call::Space,
            _ => Call::Open,
        };
        steps.push(Step::Call(side, call));
    }

    /// A size near one of the edges, or any. `now` is what fits or is there at this moment.
    fn size(&mut self, now: usize, ring: usize) -> usize {
        match self.random.below(100) {
            0..6 => 0,
            6..14 => 1,
            14..22 => now.saturating_sub(1),
            22..34 => now,
            34..42 => now + 1,
            42..45 => ring - 1,
            45..49 => ring,
            49..53 => ring + 1,
            53..60 => 1 + self.random.below(100),
            60..85 => 1 + self.random.below(now.max(1)),
            _ => 1 + self.random.below(ring),
        }
    }
}
