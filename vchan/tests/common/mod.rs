//! What the tests of this folder share: an emulated host with two domains.
#![allow(dead_code, reason = "each test file uses some of it")]

pub mod proxy;
pub mod raw;
pub mod watched;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vchan::{Channel, Client, DomId, Host, Server, ServerBuilder};
use vchan_emulator::Emulator;

pub mod meddler;
pub mod process;
pub mod steps;

/// The guest's number in all tests, as in the README's session.
pub const GUEST: u16 = 2;

/// A time that every test's wait ends by, and that no correct wait comes near, also where the machine
/// stops for some seconds in the middle of it.
pub const LONG: Duration = Duration::from_secs(30);

/// An emulated host with dom0 (the client's side) and a guest (the server's side).
pub struct World {
    pub emulator: Emulator,
    pub dom0: Host,
    pub guest: Host,
}

impl World {
    pub fn new() -> World {
        let emulator = Emulator::start().unwrap();
        emulator.add_domain(DomId::DOM0).unwrap();
        emulator.add_domain(guest()).unwrap();
        let (dom0, guest) = (
            emulator.host(DomId::DOM0).unwrap(),
            emulator.host(guest()).unwrap(),
        );
        World {
            emulator,
            dom0,
            guest,
        }
    }

    pub fn server(&self) -> ServerBuilder {
        Server::builder(&self.guest, DomId::DOM0)
    }

    pub fn client(&self) -> Channel {
        Client::builder(&self.dom0, guest())
            .timeout(LONG)
            .connect()
            .unwrap()
    }

    /// A connected pair: the server's end, then the client's.
    pub fn pair(&self, read_size: usize, write_size: usize) -> (Channel, Channel) {
        let mut server = self
            .server()
            .read_size(read_size)
            .write_size(write_size)
            .bind()
            .unwrap();
        let client = self.client();
        (server.accept_timeout(LONG).unwrap(), client)
    }

    /// Nothing is left behind.
    pub fn assert_clean(self) {
        self.emulator.assert_clean();
    }
}

pub fn guest() -> DomId {
    DomId::new(GUEST).unwrap()
}

/// Runs `work` in a thread and demands that it ends.
pub fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    bounded_by(4 * LONG, work)
}

/// The same, in a time of the test's own.
pub fn bounded_by<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || sender.send(work()));
    match receiver.recv_timeout(limit) {
        Ok(done) => done,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err())
        }
    }
}

/// Waits for what another thread or process is about to do.
#[track_caller]
pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < LONG, "it has not come to that");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Bytes that differ from their neighbours and between seeds.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
