//! The programs with which real Xen is measured, on the emulated host: every link moves what it is
//! told to, and no wrong byte is called fast. Without the C library its links are skipped.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use vchan::{Client, DomId, StorePath};
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};
use vchan_tests::c_library;

/// What every answer must come within: far more than any takes.
const LIMIT: Duration = Duration::from_secs(60);
const PATH: &str = "/local/domain/2/data/load";

fn rust() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rust-load"))
}

fn guest() -> DomId {
    DomId::new(2).unwrap()
}

fn emulated_host() -> Emulator {
    let emulator = Emulator::start().unwrap();
    for domid in [DomId::DOM0, guest()] {
        emulator.add_domain(domid).unwrap();
    }
    emulator
}

/// A process of one of the domains. Dropping it kills it.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    fn start(emulator: &Emulator, domid: DomId, program: &Path, arguments: &[&str]) -> Process {
        let mut child = Command::new(program)
            .env(DOMAIN_VARIABLE, emulator.domain_directory(domid))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Process {
            input: child.stdin.take(),
            child,
            lines,
        }
    }

    fn server(emulator: &Emulator, program: &Path) -> Process {
        Process::start(
            emulator,
            guest(),
            program,
            &["server", "0", "data/load", "16"],
        )
    }

    #[track_caller]
    fn answer(&self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap()
    }

    #[track_caller]
    fn exit_code(&mut self) -> Option<i32> {
        self.input = None;
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Moves something over a link, and looks at what the two ends say.
fn every_load(server: &Path, client: &Path) {
    let emulator = emulated_host();
    let mut server = Process::server(&emulator, server);
    let mut client = Process::start(&emulator, DomId::DOM0, client, &["client", "2", PATH]);
    assert_eq!(client.answer(), "connected");
    for (load, messages) in [
        ("stream 64", 5000),
        ("stream 65536", 9),
        ("trips 64", 20),
        ("stream-asleep 64", 5000),
        ("trips-asleep 64", 20),
    ] {
        let input = client.input.as_mut().unwrap();
        writeln!(input, "{load} {messages}").unwrap();
        let answer = client.answer();
        let numbers: Vec<u64> = answer
            .strip_prefix("ok ")
            .unwrap_or_else(|| panic!("{load}: {answer}"))
            .split(' ')
            .map(|number| number.parse().unwrap())
            .collect();
        let [nanoseconds, notifications, calls] = numbers[..] else {
            panic!("{load}: {answer}");
        };
        assert!(nanoseconds > 0, "{load}: {answer}");
        assert!(notifications <= calls, "{load}: {answer}");
    }
    assert_eq!(client.exit_code(), Some(0));
    assert_eq!(server.exit_code(), Some(0));
    emulator.assert_clean();
}

#[test]
fn rust_and_rust() {
    every_load(rust(), rust());
}

#[test]
fn c_and_c() {
    if let Some(c) = c_library::load() {
        every_load(c, c);
    }
}

#[test]
fn rust_serves_c() {
    if let Some(c) = c_library::load() {
        every_load(rust(), c);
    }
}

#[test]
fn c_serves_rust() {
    if let Some(c) = c_library::load() {
        every_load(c, rust());
    }
}

/// A client that asks for a message of 64 bytes to be compared, and sends another one.
fn wrong_byte(server: &Path, code: i32) {
    let emulator = emulated_host();
    let mut server = Process::server(&emulator, server);
    let ours = emulator.host(DomId::DOM0).unwrap();
    let path: StorePath = PATH.parse().unwrap();
    let client = Client::builder(&ours, guest()).path(path).timeout(LIMIT);
    let mut channel = client.connect().unwrap();
    channel.set_read_timeout(Some(LIMIT));
    let mut request = [0; 24];
    (request[0], request[8], request[16]) = (2, 64, 1);
    channel.send(&request).unwrap();
    channel.send(&[0; 64]).unwrap();
    assert!(
        channel.recv(&mut [0; 24]).is_err(),
        "a wrong byte is acknowledged"
    );
    assert_eq!(server.exit_code(), Some(code));
}

#[test]
fn our_server_finds_a_wrong_byte() {
    wrong_byte(rust(), 2);
}

#[test]
fn c_finds_a_wrong_byte() {
    if let Some(c) = c_library::load() {
        wrong_byte(c, 1);
    }
}
