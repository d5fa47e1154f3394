//! Vchans over an emulated host.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vchan::{Channel, Client, DomId, Error, Host, Server, Spin, StorePath};
use vchan_emulator::{Emulator, Limits};

use crate::counting::{Counts, counted_beside};
use crate::one_mapping::one_mapping;
use crate::peer::read_exact;
use crate::{Failure, Peer, Polled, Transport};

/// Who does not come, or polls, for so long waits in vain: then there is an error. Calls that wait have
/// no time limit, as the C library has none.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the ends wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Calls wait as the library does unless told otherwise: they look for a while as far as that
    /// pays, then sleep.
    Blocking,
    /// Calls sleep at once when they have to wait.
    Sleep,
    /// Calls never sleep.
    Spin,
    /// Calls do not wait; the ends poll the channel's descriptor, as an event loop does.
    NonBlocking,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 4] = [Mode::Blocking, Mode::Sleep, Mode::Spin, Mode::NonBlocking];

    /// As it is named in tables and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Blocking => "blocking",
            Mode::Sleep => "sleep",
            Mode::Spin => "spin",
            Mode::NonBlocking => "non-blocking",
        }
    }
}

/// An emulated host with two domains, of which the left is dom0.
#[derive(Clone)]
pub struct Emulated {
    emulator: Arc<Emulator>,
    left: Host,
    right: Host,
    /// What the left and the right domain asked of the host.
    counts: [Counts; 2],
}

impl Emulated {
    /// Starts one.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> Result<Emulated, Failure> {
        Emulated::start_with(|hosts| hosts.map(|(_, host)| host))
    }

    /// Starts one whose domains have what they share at the same address: for what is compared in one
    /// thread with plain memory.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_with_one_mapping() -> Result<Emulated, Failure> {
        Emulated::start_with(one_mapping)
    }

    fn start_with(
        as_used: impl FnOnce([(DomId, Host); 2]) -> [Host; 2],
    ) -> Result<Emulated, Failure> {
        let emulator = Emulator::start()?;
        let mut limits = Limits::default();
        // Several channels with the largest rings at a time.
        limits.granted_pages = 1 << 20;
        emulator.set_limits(limits);
        let [left, right] = Emulated::domids();
        emulator.add_domain(left)?;
        emulator.add_domain(right)?;
        let (hosts, counts) = counted_beside(&emulator.host(left)?, &emulator.host(right)?);
        let [left_host, right_host] = hosts;
        let [left, right] = as_used([(left, left_host), (right, right_host)]);
        Ok(Emulated {
            emulator: Arc::new(emulator),
            left,
            right,
            counts,
        })
    }

    /// The host's two domains.
    ///
    /// # Panics
    /// Never: the numbers are good ones.
    #[must_use]
    pub fn domids() -> [DomId; 2] {
        [DomId::DOM0, DomId::new(2).expect("a good number")]
    }

    /// The host.
    #[must_use]
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// The host as the left and the right domain see it.
    #[must_use]
    pub fn hosts(&self) -> [&Host; 2] {
        [&self.left, &self.right]
    }

    /// What the left and the right domain asked of the host.
    #[must_use]
    pub fn counts(&self) -> &[Counts; 2] {
        &self.counts
    }

    /// A server in the right domain and a client in the left: first the client's channel.
    ///
    /// # Errors
    /// When they do not find each other.
    pub fn channels(&self, capacity: usize) -> Result<(Channel, Channel), Failure> {
        let [left, right] = Emulated::domids();
        let path: StorePath = "data/bench".parse().map_err(Error::from)?;
        let mut server = Server::builder(&self.right, left)
            .path(path.clone())
            .read_size(capacity)
            .write_size(capacity)
            .bind()?;
        let client = Client::builder(&self.left, right)
            .path(path)
            .timeout(PATIENCE)
            .connect()?;
        Ok((client, server.accept_timeout(PATIENCE)?))
    }
}

/// A vchan whose ends wait in one of the ways.
#[derive(Clone)]
pub struct Vchan {
    host: Emulated,
    mode: Mode,
}

impl Vchan {
    /// Channels on `host`.
    #[must_use]
    pub fn new(host: Emulated, mode: Mode) -> Vchan {
        Vchan { host, mode }
    }

    /// The host on which they are.
    #[must_use]
    pub fn host(&self) -> &Emulated {
        &self.host
    }
}

impl Transport for Vchan {
    type Peer = VchanPeer;

    fn name(&self) -> String {
        format!("vchan, {}", self.mode.name())
    }

    fn connect(&self, capacity: usize) -> Result<(VchanPeer, VchanPeer), Failure> {
        let (left, right) = self.host.channels(capacity)?;
        Ok((
            VchanPeer::new(left, self.mode),
            VchanPeer::new(right, self.mode),
        ))
    }
}

/// An end of a vchan.
#[derive(Debug)]
pub struct VchanPeer {
    channel: Channel,
}

impl VchanPeer {
    /// An end that waits as `mode` says.
    #[must_use]
    pub fn new(channel: Channel, mode: Mode) -> VchanPeer {
        let mut peer = VchanPeer { channel };
        peer.set_mode(mode);
        peer
    }

    /// Makes it wait in another way.
    pub fn set_mode(&mut self, mode: Mode) {
        self.channel.set_nonblocking(mode == Mode::NonBlocking);
        self.channel.set_spin(match mode {
            Mode::Blocking | Mode::NonBlocking => Spin::default(),
            Mode::Sleep => Spin::Never,
            Mode::Spin => Spin::Always,
        });
    }

    /// The channel.
    pub fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Makes a call, again and again while it would block.
    #[inline]
    fn call<T>(&mut self, mut call: impl FnMut(&mut Channel) -> Result<T, Error>) -> io::Result<T> {
        loop {
            match call(&mut self.channel) {
                Err(Error::WouldBlock) => self.wait()?,
                other => return other.map_err(io::Error::from),
            }
        }
    }

    /// Sends a message that could not be sent at once: again and again while the call would block,
    /// and as a stream when it does not fit into the ring.
    #[cold]
    fn send_after(&mut self, error: Error, message: &[u8]) -> io::Result<()> {
        match error {
            Error::WouldBlock => self.wait()?,
            Error::TooLarge { .. } => return self.write(message),
            other => return Err(other.into()),
        }
        self.send(message)
    }

    /// Receives a message likewise.
    #[cold]
    fn recv_after(&mut self, error: Error, to: &mut [u8]) -> io::Result<()> {
        match error {
            Error::WouldBlock => self.wait()?,
            Error::TooLarge { .. } => return read_exact(self, to),
            other => return Err(other.into()),
        }
        self.recv(to)
    }

    fn wait(&mut self) -> io::Result<()> {
        let patience = Timespec::try_from(PATIENCE).ok();
        let mut ready = [PollFd::new(&self.channel, PollFlags::IN)];
        match poll(&mut ready, patience.as_ref())? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

impl Peer for VchanPeer {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.call(|channel| channel.write(bytes))?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.call(|channel| channel.read(to))
    }

    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self.channel.send(message) {
            Ok(()) => Ok(()),
            Err(error) => self.send_after(error, message),
        }
    }

    #[inline]
    fn recv(&mut self, to: &mut [u8]) -> io::Result<()> {
        match self.channel.recv(to) {
            Ok(()) => Ok(()),
            Err(error) => self.recv_after(error, to),
        }
    }
}

/// In the mode [`NonBlocking`](Mode::NonBlocking).
impl Polled for VchanPeer {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        unless_blocked(self.channel.write(bytes))
    }

    fn try_read(&mut self, to: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked(self.channel.read(to))
    }
}

fn unless_blocked(result: Result<usize, Error>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(Error::WouldBlock) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
