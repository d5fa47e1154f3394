//! The echo session with `tests/c/vchan-peer.c`, the program that real Xen runs too.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use vchan::{Client, DomId, Host, Server};
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};
use vchan_tests::c_library;
use vchan_tests::pattern::{Pattern, checksum};

use super::{LIMIT, accept, bounded, c_domain};

/// A process that is killed when the test is over, however.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn world() -> (Emulator, Host) {
    let emulator = Emulator::start().unwrap();
    for domid in [DomId::DOM0, c_domain()] {
        emulator.add_domain(domid).unwrap();
    }
    let ours = emulator.host(DomId::DOM0).unwrap();
    (emulator, ours)
}

fn peer(emulator: &Emulator, arguments: &[&str]) -> Option<Command> {
    let mut command = Command::new(c_library::peer()?);
    command
        .env(DOMAIN_VARIABLE, emulator.domain_directory(c_domain()))
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    Some(command)
}

#[test]
fn a_c_echo_server_answers_our_client() {
    let (emulator, ours) = world();
    let arguments = ["echo", "server", "0", "data/vchan", "-k", "1"];
    let Some(mut command) = peer(&emulator, &arguments) else {
        return;
    };
    let mut c = Killed(command.spawn().unwrap());
    let channel = Client::builder(&ours, c_domain())
        .timeout(LIMIT)
        .connect()
        .unwrap();
    let mut channel = bounded(channel);
    channel.write_all(b"hello from dom0\n").unwrap();
    let mut answer = [0; 16];
    channel.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HELLO FROM DOM0\n");
    drop((channel, ours));
    assert!(c.0.wait().unwrap().success());
    emulator.assert_clean();
}

#[test]
fn our_echo_server_answers_a_c_client_as_a_stream() {
    our_echo_server_answers_a_c_client(&[], 65536);
}

#[test]
fn our_echo_server_answers_a_c_client_with_datagrams() {
    our_echo_server_answers_a_c_client(&["-d", "1000"], 1000);
}

/// Its `bulk` mode sends a million pseudo-random bytes and compares the answer.
fn our_echo_server_answers_a_c_client(options: &[&str], chunk: usize) {
    let (emulator, ours) = world();
    let mut arguments = vec![
        "bulk",
        "client",
        "0",
        "/local/domain/0/data/vchan",
        "-n",
        "1000000",
    ];
    arguments.extend(options);
    let Some(mut command) = peer(&emulator, &arguments) else {
        return;
    };
    let mut server = Server::builder(&ours, c_domain()).bind().unwrap();
    let mut c = Killed(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut channel = accept(&mut server);
    let mut bytes = vec![0; chunk];
    let mut echoed = Vec::new();
    loop {
        let count = channel.read(&mut bytes).unwrap();
        if count == 0 {
            break;
        }
        let answer = &mut bytes[..count];
        answer.make_ascii_uppercase();
        channel.write_all(answer).unwrap();
        echoed.extend_from_slice(answer);
    }
    let mut line = String::new();
    c.0.stdout
        .take()
        .unwrap()
        .read_to_string(&mut line)
        .unwrap();
    assert!(c.0.wait().unwrap().success());
    let expected = Pattern::from_seed(1).bytes(1_000_000).to_ascii_uppercase();
    assert!(echoed == expected);
    let sum = checksum(&expected);
    assert_eq!(
        line,
        format!("bulk: ok sent=1000000 received=1000000 fnv1a={sum}\n")
    );
    drop((channel, server, ours));
    emulator.assert_clean();
}
