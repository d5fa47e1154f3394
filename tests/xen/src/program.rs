//! A child process whose every wait has a limit.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

type Shared = Arc<Mutex<Vec<u8>>>;

/// By how much the limits are exceeded before that counts as a failure. They are written down for a
/// machine that does nothing else, and are there for what never ends, not for what is slow.
pub const LENIENCE: u32 = 4;

/// When a wait that may take `limit` has failed.
pub fn latest(limit: Duration) -> Instant {
    Instant::now() + limit * LENIENCE
}

/// A running program. Dropping it kills it.
pub struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    stdout: Shared,
    stderr: Shared,
    /// How much of standard output was given out as lines.
    lines_end: usize,
    readers: Vec<JoinHandle<()>>,
}

/// How a program ended and what it said.
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Ended {
    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Itself, or an error that shows what the program said.
    pub fn successful(self, what: &str) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let said = format!("{}{}", tail(&self.stdout), tail(&self.stderr));
        bail!("{what}: {}\n{said}", self.status)
    }
}

impl Program {
    /// Starts `command` with all three standard streams in our hands.
    pub fn start(mut command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let (stdout, stderr) = (Shared::default(), Shared::default());
        let mut readers = Vec::new();
        if let Some(from) = child.stdout.take() {
            readers.push(collect(from, &stdout));
        }
        if let Some(from) = child.stderr.take() {
            readers.push(collect(from, &stderr));
        }
        Ok(Self {
            name,
            input: child.stdin.take(),
            child,
            stdout,
            stderr,
            lines_end: 0,
            readers,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        input
            .write_all(bytes)
            .with_context(|| format!("writing to {}", self.name))?;
        Ok(input.flush()?)
    }

    /// Writes to its standard input from a thread, then closes it.
    pub fn send_all_and_close(&mut self, bytes: Vec<u8>) {
        if let Some(mut input) = self.input.take() {
            // If the program ends early, its status tells; the write error adds nothing.
            std::thread::spawn(move || input.write_all(&bytes));
        }
    }

    /// Waits until standard output holds `text`.
    pub fn expect_output(&mut self, text: &str, limit: Duration) -> Result<()> {
        let buffer = Arc::clone(&self.stdout);
        self.expect(&buffer, text, limit)
    }

    /// Waits until standard error holds `text`.
    pub fn expect_error_output(&mut self, text: &str, limit: Duration) -> Result<()> {
        let buffer = Arc::clone(&self.stderr);
        self.expect(&buffer, text, limit)
    }

    /// Waits until standard output has a whole line that starts with `beginning`; returns the rest.
    pub fn expect_line(&mut self, beginning: &str, limit: Duration) -> Result<String> {
        let until = latest(limit);
        let buffer = Arc::clone(&self.stdout);
        loop {
            let bytes = contents(&buffer);
            let text = String::from_utf8_lossy(&bytes);
            let whole = text
                .split_inclusive('\n')
                .filter_map(|l| l.strip_suffix('\n'));
            if let Some(rest) = whole.filter_map(|l| l.strip_prefix(beginning)).next() {
                return Ok(rest.to_owned());
            }
            // Fails when it has ended or when time is up.
            let rest = until.saturating_duration_since(Instant::now());
            let step = rest.min(Duration::from_millis(50));
            if step.is_zero() || self.child.try_wait()?.is_some() {
                self.expect(&buffer, beginning, step)?;
            }
            std::thread::sleep(step);
        }
    }

    /// The next line of standard output, which must come within `limit`.
    pub fn next_line(&mut self, limit: Duration) -> Result<String> {
        let until = latest(limit);
        loop {
            let ended = self.child.try_wait()?;
            let bytes = contents(&self.stdout);
            let rest = bytes.get(self.lines_end..).unwrap_or_default();
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                self.lines_end += length + 1;
                let line = rest.get(..length).unwrap_or_default();
                return Ok(String::from_utf8_lossy(line).into_owned());
            }
            if let Some(status) = ended {
                bail!("{} ended ({status})\n{}", self.name, self.said());
            }
            if Instant::now() > until {
                let seconds = (limit * LENIENCE).as_secs();
                bail!(
                    "{} said nothing for {seconds} s\n{}",
                    self.name,
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for `time`, in which it must neither end nor write to standard output.
    pub fn stays_silent(&mut self, time: Duration) -> Result<()> {
        let before = contents(&self.stdout).len();
        let until = Instant::now() + time;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status})\n{}", self.name, self.said());
            }
            if contents(&self.stdout).len() != before {
                bail!("{} said something\n{}", self.name, self.said());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn expect(&mut self, buffer: &Shared, text: &str, limit: Duration) -> Result<()> {
        let until = latest(limit);
        loop {
            let ended = self.child.try_wait()?;
            if contains(&contents(buffer), text.as_bytes()) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!(
                    "{} ended ({status}) before it said {text:?}\n{}",
                    self.name,
                    self.said()
                );
            }
            if Instant::now() > until {
                bail!(
                    "{} did not say {text:?} within {} s\n{}",
                    self.name,
                    (limit * LENIENCE).as_secs(),
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it with SIGKILL, which no program can prepare for.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Closes its input and waits for its end.
    pub fn finish(mut self, limit: Duration) -> Result<Ended> {
        self.input = None;
        self.wait(limit)
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<Ended> {
        let until = latest(limit);
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > until {
                bail!(
                    "{} still runs after {} s\n{}",
                    self.name,
                    (limit * LENIENCE).as_secs(),
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(Ended {
            status,
            stdout: contents(&self.stdout),
            stderr: contents(&self.stderr),
        })
    }

    fn said(&self) -> String {
        format!(
            "{}{}",
            tail(&contents(&self.stdout)),
            tail(&contents(&self.stderr))
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end with `input`, within `limit`.
pub fn run(words: &[&str], input: &[u8], limit: Duration) -> Result<Ended> {
    let (program, arguments) = words.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let mut program = Program::start(command)?;
    program.send_all_and_close(input.to_vec());
    program.wait(limit)
}

fn collect(mut from: impl Read + Send + 'static, into: &Shared) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut chunk = vec![0; 65536];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            if let (Ok(mut into), Some(bytes)) = (into.lock(), chunk.get(..n)) {
                into.extend_from_slice(bytes);
            }
        }
    })
}

/// The end of what was said: it may have been megabytes of test data.
fn tail(bytes: &[u8]) -> String {
    const MOST: usize = 1500;
    let from = bytes.len().saturating_sub(MOST);
    let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
    if from == 0 {
        text.into_owned()
    } else {
        format!("({from} bytes before) {text}\n")
    }
}

fn contents(buffer: &Shared) -> Vec<u8> {
    buffer.lock().map(|bytes| bytes.clone()).unwrap_or_default()
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}
