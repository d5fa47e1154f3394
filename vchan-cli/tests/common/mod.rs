//! An emulated host, its two domains, and node-cli running in one of them.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vchan::{Channel, DomId, Host, Server};
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};

/// Nothing here takes so long, even on a machine that is busy with other things or stops for a while.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The domain of the golden session.
pub fn guest() -> DomId {
    DomId::new(2).unwrap()
}

/// An emulated host with dom0 and domain 2.
pub fn emulated_host() -> Emulator {
    let emulator = Emulator::start().unwrap();
    emulator.add_domain(DomId::DOM0).unwrap();
    emulator.add_domain(guest()).unwrap();
    emulator
}

/// The echo guest's vchan, published in domain 2.
pub fn publish(emulator: &Emulator) -> Server {
    let host: Host = emulator.host(guest()).unwrap();
    Server::builder(&host, DomId::DOM0)
        .read_size(5000)
        .write_size(5000)
        .bind()
        .unwrap()
}

/// Accepts one client and does something with it. What is published goes with the server.
pub fn serve<T: Send + 'static>(
    mut server: Server,
    with: impl FnOnce(Channel) -> T + Send + 'static,
) -> JoinHandle<T> {
    thread::spawn(move || {
        let channel = server.accept_timeout(LIMIT).unwrap();
        drop(server);
        with(channel)
    })
}

/// Answers in capitals until the client has closed.
pub fn echo(mut channel: Channel) {
    let mut buffer = [0; 4096];
    loop {
        let count = channel.read(&mut buffer).unwrap();
        if count == 0 {
            return;
        }
        buffer[..count].make_ascii_uppercase();
        if let Err(error) = channel.write_all(&buffer[..count]) {
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
        }
    }
}

/// Reads until the client has closed.
pub fn swallow(mut channel: Channel) -> Vec<u8> {
    let mut bytes = Vec::new();
    channel.read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "it has not come to that");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Pseudo-random bytes, the same in every run.
pub fn random_bytes(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.flat_map(u64::to_le_bytes).take(size).collect()
}

/// node-cli with this command line, not yet in any domain.
pub fn node_cli(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node-cli"));
    command.args(arguments).env_remove(DOMAIN_VARIABLE);
    command
}

/// node-cli running in `domid` of the emulated host.
pub fn start(emulator: &Emulator, domid: DomId, arguments: &[&str]) -> Program {
    let mut command = node_cli(arguments);
    command.env(DOMAIN_VARIABLE, emulator.domain_directory(domid));
    Program::start(command)
}

/// node-cli running in dom0.
pub fn start_in_dom0(emulator: &Emulator, arguments: &[&str]) -> Program {
    start(emulator, DomId::DOM0, arguments)
}

/// A running program. It is killed when this is dropped.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Captured,
    said: Captured,
}

/// What a program did.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub output: Vec<u8>,
    pub said: String,
}

impl Program {
    pub fn start(mut command: Command) -> Program {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Program {
            input: child.stdin.take(),
            output: Captured::of(child.stdout.take().unwrap()),
            said: Captured::of(child.stderr.take().unwrap()),
            child,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Sends, whether the program takes it or not.
    pub fn offer(&mut self, bytes: &[u8]) {
        let _ = self.input.as_mut().unwrap().write_all(bytes);
    }

    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until standard output is `expected`, so far.
    #[track_caller]
    pub fn expect_output(&self, expected: &str) {
        let seen = self.output.wait(|bytes| bytes == expected.as_bytes());
        assert_eq!(String::from_utf8_lossy(&seen), expected, "{self:?}");
    }

    /// Waits until standard error contains `expected`.
    #[track_caller]
    pub fn expect_said(&self, expected: &str) -> String {
        let seen = self
            .said
            .wait(|bytes| String::from_utf8_lossy(bytes).contains(expected));
        let seen = String::from_utf8_lossy(&seen).into_owned();
        assert!(seen.contains(expected), "no {expected:?} in {seen:?}");
        seen
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end. Standard input stays as it is.
    #[track_caller]
    pub fn wait(&mut self) -> Ended {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "still running: {self:?}");
            thread::sleep(Duration::from_millis(5));
        };
        Ended {
            status,
            output: self.output.all(),
            said: String::from_utf8(self.said.all()).unwrap(),
        }
    }

    /// Closes standard input and waits for the end.
    #[track_caller]
    pub fn finish(mut self) -> Ended {
        self.close_input();
        self.wait()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |captured: &Captured| {
            String::from_utf8_lossy(&captured.state.0.lock().unwrap().bytes).into_owned()
        };
        f.debug_struct("Program")
            .field("output", &text(&self.output))
            .field("said", &text(&self.said))
            .finish_non_exhaustive()
    }
}

impl Ended {
    #[track_caller]
    pub fn expect_code(&self, code: i32) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
    }

    /// A failure that says `part`, and puts nothing on standard output.
    #[track_caller]
    pub fn expect_failure(&self, code: i32, part: &str) {
        self.expect_code(code);
        assert!(self.said.contains(part), "no {part:?} in {:?}", self.said);
        assert!(self.output.is_empty(), "{self:?}");
    }
}

/// What comes out of a pipe, collected by a thread.
struct Captured {
    state: Arc<(Mutex<Bytes>, Condvar)>,
}

#[derive(Default)]
struct Bytes {
    bytes: Vec<u8>,
    over: bool,
}

impl Captured {
    fn of(mut pipe: impl Read + Send + 'static) -> Captured {
        let state = Arc::new((Mutex::new(Bytes::default()), Condvar::new()));
        let (ours, mut buffer) = (Arc::clone(&state), vec![0; 64 * 1024]);
        thread::spawn(move || {
            loop {
                let count = pipe.read(&mut buffer).unwrap_or(0);
                let mut so_far = ours.0.lock().unwrap();
                so_far.bytes.extend_from_slice(&buffer[..count]);
                so_far.over = count == 0;
                ours.1.notify_all();
                if so_far.over {
                    return;
                }
            }
        });
        Captured { state }
    }

    /// Waits until there is what is expected, or until it can no longer come.
    fn wait(&self, expected: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let so_far = self.state.0.lock().unwrap();
        let (so_far, _) = self
            .state
            .1
            .wait_timeout_while(so_far, LIMIT, |so_far| {
                !so_far.over && !expected(&so_far.bytes)
            })
            .unwrap();
        so_far.bytes.clone()
    }

    fn all(&self) -> Vec<u8> {
        self.wait(|_| false)
    }
}
