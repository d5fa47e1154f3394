//! A process in which one library does what a test asks for, step by step: the C library in
//! `tests/c/driver.c`, ours in `tests/src/bin/rust-driver.rs`.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vchan::DomId;
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};

use crate::c_library;
use crate::pattern::{Pattern, checksum};

/// What every answer must come within: far more than any takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A driver as a process of an emulated domain. Dropping it kills it.
pub struct Driver {
    child: Child,
    /// Until the process is told to end.
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
    /// What it and its library complain about, shown when the test fails.
    complaints: Option<JoinHandle<String>>,
    /// What it writes next.
    outgoing: Pattern,
}

impl Driver {
    /// Starts the C library's; `None` when there is no C library, see [`c_library`].
    #[must_use]
    pub fn start(emulator: &Emulator, domid: DomId) -> Option<Driver> {
        let program = c_library::driver()?;
        Some(Driver::start_program(program, emulator, domid))
    }

    /// Starts the driver that `program` is.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_program(program: &Path, emulator: &Emulator, domid: DomId) -> Driver {
        let mut child = Command::new(program)
            .env(DOMAIN_VARIABLE, emulator.domain_directory(domid))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the driver starts");
        let commands = child.stdin.take();
        let output = child.stdout.take().expect("standard output is a pipe");
        let mut errors = child.stderr.take().expect("standard error is a pipe");
        let complaints = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Driver {
            child,
            commands,
            answers,
            complaints: Some(complaints),
            outgoing: Pattern::from_seed(1),
        }
    }

    /// Gives a command without waiting for its answer.
    pub fn tell(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("standard input is a pipe");
        writeln!(commands, "{command}").expect("the driver reads commands");
    }

    /// The answer to the oldest command that has none yet.
    ///
    /// # Panics
    /// When it does not come, or the process ended.
    #[track_caller]
    pub fn answer(&mut self) -> String {
        self.try_answer().unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_answer(&mut self) -> Result<String, String> {
        self.answers
            .recv_timeout(LIMIT)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => format!("the driver did not answer in {LIMIT:?}"),
                RecvTimeoutError::Disconnected => "the driver has ended".to_owned(),
            })
    }

    /// Whether the last command is still being worked on after `time`.
    pub fn is_busy_for(&mut self, time: Duration) -> bool {
        matches!(
            self.answers.recv_timeout(time),
            Err(RecvTimeoutError::Timeout)
        )
    }

    /// Gives a command and waits for its answer.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    /// As [`ask`](Driver::ask), for who has more to say about a driver that gives no answer.
    ///
    /// # Errors
    /// In words, where `ask` panics.
    pub fn try_ask(&mut self, command: &str) -> Result<String, String> {
        let commands = self.commands.as_mut().ok_or("the driver was told to end")?;
        writeln!(commands, "{command}")
            .map_err(|error| format!("the driver has ended: {error}"))?;
        self.try_answer()
    }

    /// A command that must succeed.
    #[track_caller]
    pub fn run(&mut self, command: &str) {
        assert_eq!(self.ask(command), "ok", "{command}");
    }

    /// A command whose answer is a number.
    #[track_caller]
    pub fn number(&mut self, command: &str) -> i64 {
        let answer = self.ask(command);
        answer
            .parse()
            .unwrap_or_else(|_| panic!("{command}: {answer}"))
    }

    /// `read` or `recv`, which must give exactly `expected`.
    #[track_caller]
    pub fn expect(&mut self, call: &str, size: usize, expected: &[u8]) {
        let answer = self.ask(&format!("{call} {size}"));
        assert_eq!(answer, received(expected), "{call} {size}");
    }

    /// The first `count` bytes of the control page.
    #[track_caller]
    pub fn page(&mut self, count: usize) -> Vec<u8> {
        let hex = self.ask(&format!("page {count}"));
        let byte = |at: usize| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok();
        (0..count)
            .map(|at| byte(at).unwrap_or_else(|| panic!("page: {hex}")))
            .collect()
    }

    /// The next `count` bytes that it writes. To be asked for once they are written.
    pub fn written(&mut self, count: usize) -> Vec<u8> {
        self.outgoing.bytes(count)
    }

    /// Ends the process at once, by SIGKILL.
    pub fn kill(mut self) {
        self.end();
    }

    /// Lets the process end as a program does that forgets to close.
    #[track_caller]
    pub fn exit_without_close(mut self) {
        self.commands.take();
        let status = self.child.wait().expect("the driver can be waited for");
        assert!(status.success(), "{status}");
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let complaints = self.complaints.take().map(JoinHandle::join);
        if let Some(Ok(text)) = complaints
            && thread::panicking()
        {
            eprint!("{text}");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end();
    }
}

/// How the driver answers a `read` or `recv` that gives `bytes`.
#[must_use]
pub fn received(bytes: &[u8]) -> String {
    format!("{} {}", bytes.len(), checksum(bytes))
}
