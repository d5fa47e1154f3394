//! The victim: it moves bytes in every mode and keeps account of what its peer may no longer do.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use vchan::{Channel, Error, ReadHalf, State, WriteHalf};

use super::Random;
use super::common::LONG;

/// How much later than its deadline a call may end: machines are busy, or stop for a while.
const GRACE: Duration = Duration::from_secs(20);

/// How the victim waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Blocking,
    /// Non-blocking, with poll on the descriptor.
    Polling,
    Tokio,
    /// Blocking, one thread for each direction.
    Threads,
}

enum End {
    Whole(Channel),
    Halves(ReadHalf, WriteHalf),
    Tokio(vchan::tokio::Channel),
}

pub struct Victim<'a> {
    end: End,
    mode: Mode,
    runtime: &'a Runtime,
    /// For messages.
    what: String,
    calls: u64,
    fault: bool,
    ended: bool,
    closed: bool,
}

/// What the victim may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Read(usize),
    Recv(usize),
    Write(usize),
    Send(usize),
    SendMany(usize),
    RecvMany(usize),
    InPlaceOut(usize),
    InPlaceIn(usize),
    Drain,
    Look,
}

impl<'a> Victim<'a> {
    pub fn new(channel: Channel, mode: Mode, runtime: &'a Runtime, what: String) -> Victim<'a> {
        let end = match mode {
            Mode::Tokio => {
                let _context = runtime.enter();
                End::Tokio(vchan::tokio::channel(channel).unwrap())
            }
            Mode::Threads => {
                let (reading, writing) = channel.into_split();
                End::Halves(reading, writing)
            }
            Mode::Blocking | Mode::Polling => End::Whole(channel),
        };
        Victim {
            end,
            mode,
            runtime,
            what,
            calls: 0,
            fault: false,
            ended: false,
            closed: false,
        }
    }

    pub fn calls(&self) -> u64 {
        self.calls
    }

    pub fn met_a_fault(&self) -> bool {
        self.fault
    }

    /// Moves what the peer lets pass unharmed: every byte arrives.
    pub fn exchange(&mut self, ours: &[u8], theirs: &[u8]) {
        let (mut sent, mut received) = (0, Vec::new());
        let mut buffer = [0; 1300];
        let since = Instant::now();
        if let End::Halves(reading, writing) = &mut self.end {
            reading.set_read_timeout(Some(LONG));
            writing.set_write_timeout(Some(LONG));
            received = vec![0; theirs.len()];
            thread::scope(|scope| {
                scope.spawn(|| io::Write::write_all(writing, ours).unwrap());
                io::Read::read_exact(reading, &mut received).unwrap();
            });
            assert!(received == theirs, "{}", self.what);
            return;
        }
        while sent < ours.len() || received.len() < theirs.len() {
            // Neither direction waits for the other.
            if sent < ours.len() {
                let most = ours.len().min(sent + 1700);
                if let Some(count) = self.honest(|this| this.write(&ours[sent..most])) {
                    sent += count;
                }
            }
            let left = theirs.len() - received.len();
            if left > 0 {
                let most = left.min(buffer.len());
                if let Some(count) = self.honest(|this| this.read(&mut buffer[..most])) {
                    assert!(count > 0, "the end, too early: {}", self.what);
                    received.extend_from_slice(&buffer[..count]);
                }
            }
            assert!(theirs.starts_with(&received), "{}", self.what);
            assert!(since.elapsed() < LONG, "no progress: {}", self.what);
        }
    }

    /// A call while the peer keeps to the protocol.
    fn honest(&mut self, call: impl FnOnce(&mut Self) -> Result<usize, Error>) -> Option<usize> {
        match self.timed(Duration::from_millis(2), call) {
            Ok(count) => Some(count),
            Err(Error::TimedOut { .. } | Error::WouldBlock) => None,
            Err(error) => panic!("{error}: {}", self.what),
        }
    }

    /// An honest peer waits until we have read everything, and closes.
    pub fn expect_the_end(&mut self) {
        let since = Instant::now();
        loop {
            let mut buffer = [0; 8];
            let read = self.timed(Duration::from_millis(50), |this| this.read(&mut buffer));
            match read {
                Ok(0) => return,
                Err(Error::TimedOut { .. } | Error::WouldBlock) => {}
                other => panic!("{other:?} after the last byte: {}", self.what),
            }
            assert!(since.elapsed() < LONG, "no end: {}", self.what);
        }
    }

    /// Does something, whatever the peer does meanwhile. False: there is nothing left to try.
    pub fn act(&mut self, random: &mut Random) -> bool {
        let len = random.pick(&[1, 2, 7, 16, 100, 1023, 1024, 1025, 4096, 5000]);
        let act = match random.below(14) {
            10 => Act::SendMany(len),
            11 => Act::RecvMany(len),
            12 => Act::InPlaceOut(len),
            13 => Act::InPlaceIn(len),
            0..=2 => Act::Read(len),
            3 => Act::Recv(len),
            4..=6 => Act::Write(len),
            7 => Act::Send(len),
            8 => Act::Look,
            _ => Act::Drain,
        };
        let limit = Duration::from_micros(random.pick(&[0, 10, 100, 1000]));
        if self.mode == Mode::Threads && random.below(2) == 0 {
            self.both(len, limit);
        } else {
            let done = self.timed(limit, |this| this.perform(act));
            self.account(act, &done);
        }
        if self.fault {
            // Final, for all.
            for act in [Act::Read(8), Act::Write(8), Act::Look, Act::Send(8)] {
                let done = self.timed(limit, |this| this.perform(act));
                self.account(act, &done);
            }
            return false;
        }
        !(self.ended && self.closed)
    }

    /// Reads and writes at the same time, in two threads.
    fn both(&mut self, len: usize, limit: Duration) {
        let End::Halves(reading, writing) = &mut self.end else {
            return;
        };
        reading.set_read_timeout(Some(limit));
        writing.set_write_timeout(Some(limit));
        let since = Instant::now();
        let (read, written) = thread::scope(|scope| {
            let read = scope.spawn(|| reading.read(&mut vec![0; len]));
            let written = writing.write(&vec![0x77; len]);
            (read.join().unwrap(), written)
        });
        assert!(since.elapsed() < limit + GRACE, "late: {}", self.what);
        // Whichever looked first, both end with it; each may have been done before.
        let before = self.fault;
        self.account(Act::Read(len), &read);
        self.fault = before;
        self.account(Act::Write(len), &written);
        self.fault |= matches!(read, Err(Error::PeerFault(_)));
    }

    fn timed<T>(
        &mut self,
        limit: Duration,
        call: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.calls += 1;
        match &mut self.end {
            End::Whole(channel) => {
                channel.set_nonblocking(self.mode == Mode::Polling);
                channel.set_read_timeout(Some(limit));
                channel.set_write_timeout(Some(limit));
            }
            End::Halves(reading, writing) => {
                reading.set_read_timeout(Some(limit));
                writing.set_write_timeout(Some(limit));
            }
            End::Tokio(_) => {}
        }
        let since = Instant::now();
        let done = call(self);
        if matches!(done, Err(Error::WouldBlock)) {
            self.poll(limit);
        }
        assert!(since.elapsed() < limit + GRACE, "late: {}", self.what);
        done
    }

    /// Waits for the descriptor, as after every `WouldBlock`.
    fn poll(&self, limit: Duration) {
        if let End::Whole(channel) = &self.end {
            let timeout = rustix::time::Timespec::try_from(limit).unwrap();
            let fd = channel.as_fd();
            let flags = rustix::event::PollFlags::IN;
            let mut polled = [rustix::event::PollFd::new(&fd, flags)];
            rustix::event::poll(&mut polled, Some(&timeout)).unwrap();
        }
    }

    /// What an answer says about the peer, and that it does not take back what earlier ones said.
    fn account(&mut self, act: Act, done: &Result<usize, Error>) {
        let what = &self.what;
        if self.fault {
            assert!(
                matches!(done, Err(Error::PeerFault(_))),
                "{act:?} gives {done:?} after a fault: {what}"
            );
        }
        let reads = matches!(act, Act::Read(_));
        if self.ended && reads {
            assert!(
                matches!(done, Ok(0) | Err(Error::PeerFault(_))),
                "{done:?} after the end: {what}"
            );
        }
        let writes = matches!(
            act,
            Act::Write(_) | Act::Send(_) | Act::SendMany(_) | Act::InPlaceOut(_)
        );
        if self.closed && writes {
            let closed = matches!(
                done,
                Err(Error::Closed | Error::PeerFault(_) | Error::TooLarge { .. })
            );
            assert!(closed, "{act:?} gives {done:?} after the close: {what}");
        }
        match done {
            Ok(0) if reads => self.ended = true,
            Ok(_) => {}
            Err(Error::PeerFault(_)) => self.fault = true,
            Err(Error::Closed) => self.closed = true,
            Err(
                Error::TimedOut { .. }
                | Error::WouldBlock
                | Error::TooLarge { .. }
                | Error::EndOfStream { .. },
            ) => {}
            Err(other) => panic!("{act:?}: {other}: {what}"),
        }
    }

    fn perform(&mut self, act: Act) -> Result<usize, Error> {
        match act {
            Act::Read(len) => self.read(&mut vec![0; len]),
            Act::Write(len) => self.write(&vec![0x55; len]),
            Act::Recv(len) => self.recv(&mut vec![0; len]).map(|()| len),
            Act::Send(len) => self.send(&vec![0x66; len]).map(|()| len),
            Act::SendMany(len) => self.send_many(&[&[1; 9][..], &vec![0x77; len], &[2; 40]]),
            Act::RecvMany(len) => self.recv_many(&mut [vec![0; 9], vec![0; len], vec![0; 40]]),
            Act::InPlaceOut(len) => self.write_in_place(len),
            Act::InPlaceIn(len) => self.read_in_place(len),
            Act::Drain => self.drain().map(|()| 0),
            Act::Look => self.look(),
        }
    }

    fn look(&mut self) -> Result<usize, Error> {
        let bounds = match &mut self.end {
            End::Whole(channel) => {
                let sizes = channel.ring_sizes();
                let ready = channel.data_ready()?;
                let space = channel.buffer_space()?;
                let state = channel.state()?;
                Some((ready, space, sizes, state))
            }
            End::Halves(reading, writing) => {
                let sizes = (reading.ring_size(), writing.ring_size());
                Some((
                    reading.data_ready()?,
                    writing.buffer_space()?,
                    sizes,
                    State::Connected,
                ))
            }
            End::Tokio(channel) => {
                channel.state()?;
                None
            }
        };
        if let Some((ready, space, sizes, state)) = bounds {
            assert!(ready <= sizes.0 && space <= sizes.1, "{}", self.what);
            assert!(state != State::Waiting, "{}", self.what);
        }
        Ok(1)
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        match &mut self.end {
            End::Whole(channel) => channel.read(to),
            End::Halves(reading, _) => reading.read(to),
            End::Tokio(channel) => within(self.runtime, channel.read(to)),
        }
    }

    fn write(&mut self, from: &[u8]) -> Result<usize, Error> {
        match &mut self.end {
            End::Whole(channel) => channel.write(from),
            End::Halves(_, writing) => writing.write(from),
            End::Tokio(channel) => within(self.runtime, channel.write(from)),
        }
    }

    fn recv(&mut self, to: &mut [u8]) -> Result<(), Error> {
        match &mut self.end {
            End::Whole(channel) => channel.recv(to),
            End::Halves(reading, _) => reading.recv(to),
            End::Tokio(channel) => within(self.runtime, channel.recv(to)),
        }
    }

    fn send(&mut self, from: &[u8]) -> Result<(), Error> {
        match &mut self.end {
            End::Whole(channel) => channel.send(from),
            End::Halves(_, writing) => writing.send(from),
            End::Tokio(channel) => within(self.runtime, channel.send(from)),
        }
    }

    fn send_many(&mut self, datagrams: &[&[u8]]) -> Result<usize, Error> {
        match &mut self.end {
            End::Whole(channel) => channel.send_many(datagrams),
            End::Halves(_, writing) => writing.send_many(datagrams),
            End::Tokio(channel) => within(self.runtime, channel.send_many(datagrams)),
        }
    }

    fn recv_many(&mut self, buffers: &mut [Vec<u8>]) -> Result<usize, Error> {
        match &mut self.end {
            End::Whole(channel) => channel.recv_many(buffers),
            End::Halves(reading, _) => reading.recv_many(buffers),
            End::Tokio(channel) => within(self.runtime, channel.recv_many(buffers)),
        }
    }

    /// Fills all the space there is, and commits a part of it.
    fn write_in_place(&mut self, min: usize) -> Result<usize, Error> {
        let mut space = match &mut self.end {
            End::Whole(channel) => channel.reserve(min)?,
            End::Halves(_, writing) => writing.reserve(min)?,
            End::Tokio(channel) => within(self.runtime, channel.reserve(min))?,
        };
        assert!(space.len() >= min, "{}", self.what);
        for mut part in space.parts() {
            part.write_at(0, &vec![0x88; part.len()]);
        }
        space.commit(min).map(|()| min)
    }

    /// Looks at everything there is twice, and consumes a part of it.
    fn read_in_place(&mut self, min: usize) -> Result<usize, Error> {
        let there = match &mut self.end {
            End::Whole(channel) => channel.peek(min)?,
            End::Halves(reading, _) => reading.peek(min)?,
            End::Tokio(channel) => within(self.runtime, channel.peek(min))?,
        };
        let mut copy = vec![0; there.len()];
        there.read_at(0, &mut copy);
        for part in there.parts() {
            part.read_at(0, &mut copy[..part.len()]);
        }
        let count = there.len().min(min);
        there.consume(count).map(|()| count)
    }

    fn drain(&mut self) -> Result<(), Error> {
        match &mut self.end {
            End::Whole(channel) => channel.drain(),
            End::Halves(_, writing) => writing.drain(),
            End::Tokio(channel) => within(self.runtime, channel.drain()),
        }
    }
}

/// Runs `work` with a short deadline.
fn within<T, E: Into<io::Error>>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    let deadline = Duration::from_micros(300);
    let done = runtime.block_on(async { tokio::time::timeout(deadline, work).await });
    let Ok(done) = done else {
        return Err(Error::TimedOut {
            waiting_for: "what the test wants".into(),
        });
    };
    done.map_err(|error| {
        let error: io::Error = error.into();
        match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(other) => panic!("{other}"),
        }
    })
}
