//! The echo guest as an ordinary program, on an emulated host.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vchan::host::Host;
use vchan::layout::Ring;
use vchan::{Channel, Client, DomId, Error, HostError};
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};

/// Nothing here takes so long, even on a machine that is busy with other things or stops for a while.
const LIMIT: Duration = Duration::from_secs(60);

const GOLDEN: &[&str] = &[
    "Initializing Server domid=0 xs_path=data/vchan",
    "Server: right_order = 13, left_order = 13",
    "allocate_buffer_locations: gntref = 9",
    "allocate_buffer_locations: gntref = 10",
    "allocate_buffer_locations: gntref = 11",
    "allocate_buffer_locations: gntref = 12",
    "Writing config into the XenStore",
    "Shared page is:",
    "",
    "    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
    "    0d 00 0d 00 02 01 01 00 09 00 00 00 0a 00 00 00",
    "    0b 00 00 00 0c 00 00 00",
    "Initialization done!",
];

#[test]
fn it_publishes_word_for_word_and_answers_in_capitals() {
    let guest = Guest::start();
    for expected in GOLDEN {
        assert_eq!(guest.console_line(), *expected);
    }
    let mut client = guest.connect();
    let said = "hello from dom0, äöü \0\n".as_bytes();
    assert_eq!(exchange(&mut client, said), said.to_ascii_uppercase());

    // And anew for the next client.
    drop(client);
    assert_eq!(guest.console_line(), GOLDEN[0]);
    while guest.console_line() != GOLDEN[GOLDEN.len() - 1] {}
}

#[test]
fn clients_come_and_go() {
    let guest = Guest::start();
    for nth in 0..10 {
        let mut client = guest.connect();
        assert_eq!(exchange(&mut client, b"next"), b"NEXT", "client {nth}");
        // Every other one leaves while the guest waits for it to read.
        if nth % 2 == 1 {
            client.write_all(&vec![b'x'; 2 * RING]).unwrap();
            wait_until(|| client.buffer_space().unwrap() == RING);
        }
    }
    // Nothing that it takes for an error of the host, after which it would pause.
    for complaint in guest.complaints() {
        assert_eq!(complaint, Error::Closed.to_string());
    }
}

/// Allows a number of answers.
struct Allowance(usize);

impl echo_guest::Console for Allowance {
    fn print(&mut self, _text: fmt::Arguments<'_>) {}

    fn note(&mut self, _line: fmt::Arguments<'_>) {}

    fn may_go_on(&mut self) -> Result<(), HostError> {
        self.0 = self.0.saturating_sub(1);
        match self.0 {
            0 => Err(HostError::new("go on").because("that was enough")),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_server_that_is_to_end_does_so_though_its_client_goes_on() {
    let emulator = Emulator::start().unwrap();
    let (dom0, domain) = (DomId::DOM0, DomId::new(2).unwrap());
    emulator.add_domain(dom0).unwrap();
    emulator.add_domain(domain).unwrap();
    let host = emulator.host(domain).unwrap();
    let server = thread::spawn(move || {
        let Err(error) = echo_guest::Serving::default().run(&host, &mut Allowance(3));
        error.to_string()
    });
    let dom0 = emulator.host(dom0).unwrap();
    let mut client = Client::builder(&dom0, domain)
        .timeout(LIMIT)
        .connect()
        .unwrap();
    let mut answers = 0;
    let mut answer = [0; 4];
    // The server does not wait for its client to be done, and closes the channel.
    while client.write_all(b"more").is_ok() && client.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"MORE");
        answers += 1;
        assert!(answers <= 3, "it goes on");
    }
    assert_eq!(answers, 3);
    assert!(server.join().unwrap().contains("that was enough"));
}

#[test]
fn a_client_may_write_far_more_than_the_rings_hold_before_it_reads() {
    let guest = Guest::start();
    let mut client = guest.connect();
    let sent: Vec<u8> = (0..=255_u8).cycle().take(200_000).collect();
    let expected = sent.to_ascii_uppercase();
    // So that the next answer fits only in part.
    let (first, rest) = sent.split_at(3000);
    client.write_all(first).unwrap();
    wait_until(|| client.data_ready().unwrap() == first.len());
    let (mut reader, mut writer) = client.into_split();
    let rest = rest.to_vec();
    let writing = thread::spawn(move || writer.write_all(&rest));
    // Until nothing fits any more: the rings and what the guest holds are full.
    thread::sleep(Duration::from_millis(200));
    let mut got = vec![0; expected.len()];
    reader.read_exact(&mut got).unwrap();
    assert!(got == expected, "not what was sent");
    writing.join().unwrap().unwrap();
}

#[test]
fn a_client_that_breaks_the_protocol_harms_only_itself() {
    let guest = Guest::start();
    for _ in 0..4 {
        let mut client = guest.connect();
        assert_eq!(exchange(&mut client, b"still fine"), b"STILL FINE");
        let handshake = client.handshake();
        let page = guest
            .emulator
            .raw_page(guest_domid(), handshake.ring_ref)
            .unwrap();
        page.store_index(Ring::Left.prod(), 0x7fff_ffff, Ordering::SeqCst);
        // The event that makes the guest look.
        let port = handshake.event_channel;
        guest.emulator.send_event(guest_domid(), port).unwrap();
        assert!(matches!(client.read(&mut [0; 1]), Ok(0)));
    }
    assert_eq!(exchange(&mut guest.connect(), b"next"), b"NEXT");
    // Nothing that it takes for an error of the host, after which it would pause.
    let complaints = guest.complaints();
    assert_eq!(complaints.len(), 4, "{complaints:?}");
    for complaint in complaints {
        assert!(
            complaint.contains("broke the vchan protocol"),
            "{complaint}"
        );
    }
}

#[test]
fn without_any_host_it_says_what_to_do() {
    let ended = program().env_remove(DOMAIN_VARIABLE).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).unwrap();
    for part in [
        "neither a Xen host nor an emulated one can be used here",
        DOMAIN_VARIABLE,
        "as root",
    ] {
        assert!(said.contains(part), "no {part:?} in {said:?}");
    }
    assert!(ended.stdout.is_empty());
}

/// The size of the rings.
const RING: usize = 8192;

#[test]
fn it_says_what_it_is_and_takes_no_arguments() {
    for (argument, code) in [("--help", 0), ("-h", 0), ("--domain=3", 2), ("2", 2)] {
        let ended = program().arg(argument).output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{argument}");
        let said = if code == 0 {
            ended.stdout
        } else {
            ended.stderr
        };
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("Usage: echo-guest"), "{said}");
        assert_eq!(said.contains(argument), code != 0, "{said}");
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "it has not come to that");
        thread::sleep(Duration::from_millis(1));
    }
}

fn exchange(client: &mut Channel, bytes: &[u8]) -> Vec<u8> {
    client.write_all(bytes).unwrap();
    let mut answer = vec![0; bytes.len()];
    client.read_exact(&mut answer).unwrap();
    answer
}

fn guest_domid() -> DomId {
    DomId::new(2).unwrap()
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_echo-guest"))
}

/// The echo guest, in domain 2 of a host of its own.
struct Guest {
    child: Child,
    console: Receiver<String>,
    said: Option<JoinHandle<String>>,
    dom0: Host,
    emulator: Emulator,
}

impl Guest {
    fn start() -> Guest {
        let emulator = Emulator::start().unwrap();
        emulator.add_domain(DomId::DOM0).unwrap();
        emulator.add_domain(guest_domid()).unwrap();
        let mut child = program()
            .env(DOMAIN_VARIABLE, emulator.domain_directory(guest_domid()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut errors = child.stderr.take().unwrap();
        let said = thread::spawn(move || {
            let mut said = String::new();
            errors.read_to_string(&mut said).unwrap();
            said
        });
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, console) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Guest {
            child,
            console,
            said: Some(said),
            dom0: emulator.host(DomId::DOM0).unwrap(),
            emulator,
        }
    }

    /// What it has said on standard error, but for the coming and going of clients. Ends it.
    fn complaints(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let said = self.said.take().unwrap().join().unwrap();
        let lines = said
            .lines()
            .map(|line| line.strip_prefix("echo-guest: ").unwrap());
        let complaints = lines.filter(|line| !line.starts_with("domain 0 has "));
        complaints.map(str::to_owned).collect()
    }

    fn console_line(&self) -> String {
        self.console.recv_timeout(LIMIT).unwrap()
    }

    fn connect(&self) -> Channel {
        let mut channel = Client::builder(&self.dom0, guest_domid())
            .timeout(LIMIT)
            .connect()
            .unwrap();
        channel.set_read_timeout(Some(LIMIT));
        channel.set_write_timeout(Some(LIMIT));
        channel
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
