//! node-cli as a client and as a server, over an emulated host.

mod common;

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{
    echo, emulated_host, guest, publish, random_bytes, serve, start, start_in_dom0, swallow,
    wait_until,
};
use vchan::host::Port;
use vchan::layout::{Live, Ring, Side};
use vchan::{Channel, Client, DomId, State, StorePath};
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};

const GOLDEN: &str = "\
Client initializing: Received gntref = 8, evtchn = 4
Mapped the ring shared page:

    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    0d 00 0d 00 02 01 01 00 09 00 00 00 0a 00 00 00
    0b 00 00 00 0c 00 00 00
Correctly bound evtchn number 71
";

#[test]
fn the_golden_session_word_for_word() {
    let emulator = emulated_host();
    let server = serve(publish(&emulator), echo);
    let mut client = start_in_dom0(&emulator, &["2"]);
    client.send(b"hello from dom0\n");
    client.expect_output("HELLO FROM DOM0\n");
    let ended = client.finish();
    ended.expect_code(0);
    assert_eq!(ended.said, GOLDEN);
    server.join().unwrap();
    emulator.assert_clean();
}

#[test]
fn bytes_go_out_as_they_are_and_at_once() {
    let emulator = emulated_host();
    let server = serve(publish(&emulator), echo);
    let mut client = start_in_dom0(&emulator, &["2", "--quiet"]);
    client.send(b"no newline");
    client.expect_output("NO NEWLINE");
    client.send(b", \0 and more\r\n\n");
    client.expect_output("NO NEWLINE, \0 AND MORE\r\n\n");
    let ended = client.finish();
    ended.expect_code(0);
    assert_eq!(ended.said, "");
    server.join().unwrap();
}

#[test]
fn in_a_pipe_it_ends_once_the_answer_is_in() {
    let emulator = emulated_host();
    let (go, told) = mpsc::channel();
    let server = serve(publish(&emulator), move |channel| {
        answer_first(channel, &told);
    });
    let mut client = start_in_dom0(&emulator, &["2"]);
    client.send(b"hello\n");
    client.close_input();
    client.expect_output("HELLO\n");
    go.send(()).unwrap();
    // Without waiting for more: see the unit tests.
    client.wait().expect_code(0);
    server.join().unwrap();
}

#[test]
fn a_mebibyte_there_and_back() {
    let emulator = emulated_host();
    let server = serve(publish(&emulator), |mut channel| {
        // It closes after the last byte, so that no silence ends the session.
        let (mut left, mut buffer) = (1 << 20, vec![0; 5000]);
        while left > 0 {
            let count = channel.read(&mut buffer).unwrap();
            buffer[..count].make_ascii_uppercase();
            channel.write_all(&buffer[..count]).unwrap();
            left -= count;
        }
    });
    let mut client = start_in_dom0(&emulator, &["2", "--linger", "60"]);
    let sent = random_bytes(1 << 20);
    client.send(&sent);
    let ended = client.finish();
    ended.expect_code(0);
    assert!(
        ended.output == sent.to_ascii_uppercase(),
        "{} bytes came back, not the right ones",
        ended.output.len()
    );
    server.join().unwrap();
    emulator.assert_clean();
}

#[test]
fn it_says_what_it_waits_for_and_connects_when_the_server_comes() {
    let emulator = emulated_host();
    let mut client = start_in_dom0(&emulator, &["2"]);
    client.send(b"early\n");
    client.expect_said("node-cli: waiting for a vchan server of domain 2");
    let server = serve(publish(&emulator), echo);
    client.expect_output("EARLY\n");
    client.finish().expect_code(0);
    server.join().unwrap();
}

#[test]
fn with_a_timeout_it_gives_up_and_says_what_was_missing() {
    let emulator = emulated_host();
    let began = Instant::now();
    let ended = start_in_dom0(&emulator, &["2", "--timeout", "0.3"]).finish();
    ended.expect_failure(3, "timed out while waiting for a vchan server of domain 2");
    assert!(
        ended.said.contains("/local/domain/2/data/vchan"),
        "{ended:?}"
    );
    assert!(began.elapsed() >= Duration::from_millis(300));

    let ended = start_in_dom0(&emulator, &["-s", "2", "--timeout", "0.3"]).finish();
    ended.expect_failure(3, "timed out while waiting for a client of domain 2");
    emulator.assert_clean();
}

#[test]
fn another_path_on_both_sides() {
    let emulator = emulated_host();
    let arguments = ["-s", "2", "-n", "data/mine", "--quiet"];
    let server = start_in_dom0(&emulator, &arguments);
    let path = [
        "0",
        "--nodepath",
        "/local/domain/0/data/mine",
        "--timeout",
        "60",
    ];
    let mut client = start(&emulator, guest(), &path);
    client.send(b"over there\n");
    server.expect_output("over there\n");
    // The server ends with its client.
    client.close_input();
    client.wait().expect_code(0);
    server.finish().expect_code(0);
    emulator.assert_clean();
}

#[test]
fn a_client_that_was_killed_does_not_keep_the_next_one_out() {
    let emulator = emulated_host();
    let mut server = publish(&emulator);
    let server = std::thread::spawn(move || {
        echo(server.accept_timeout(common::LIMIT).unwrap());
        echo(server.accept_timeout(common::LIMIT).unwrap());
    });
    let mut first = start_in_dom0(&emulator, &["2"]);
    first.send(b"one\n");
    first.expect_output("ONE\n");
    first.kill();
    let mut second = start_in_dom0(&emulator, &["2"]);
    second.send(b"two\n");
    second.expect_output("TWO\n");
    second.finish().expect_code(0);
    server.join().unwrap();
    emulator.assert_clean();
}

#[test]
fn when_the_peers_domain_is_destroyed_it_ends_by_itself() {
    let emulator = emulated_host();
    let mut server = publish(&emulator);
    let mut client = start_in_dom0(&emulator, &["2"]);
    let mut channel = server.accept_timeout(common::LIMIT).unwrap();
    channel.write_all(b"hello").unwrap();
    client.expect_output("hello");
    emulator.destroy_domain(guest()).unwrap();
    // Its input stays open.
    let ended = client.wait();
    ended.expect_code(1);
    assert!(
        ended.said.contains("node-cli: the peer's domain is gone"),
        "{ended:?}"
    );
}

#[test]
fn when_the_peer_closes_it_ends_by_itself_and_says_so() {
    let emulator = emulated_host();
    let server = serve(publish(&emulator), |mut channel| {
        channel.write_all(b"bye\n").unwrap();
    });
    // Its input stays open.
    let ended = start_in_dom0(&emulator, &["2"]).wait();
    ended.expect_code(0);
    assert_eq!(ended.output, b"bye\n");
    assert!(
        ended
            .said
            .ends_with("node-cli: the peer has closed the channel\n")
    );
    server.join().unwrap();
}

#[test]
fn bytes_that_the_peer_does_not_take_are_counted() {
    let emulator = emulated_host();
    let server = serve(publish(&emulator), |mut channel| {
        let mut bytes = [0; 1000];
        channel.read_exact(&mut bytes).unwrap();
        // Until the client waits for space.
        wait_until(|| channel.data_ready().unwrap() == RING);
    });
    let mut client = start_in_dom0(&emulator, &["2"]);
    client.offer(&[b'x'; 20_000]);
    let ended = client.finish();
    ended.expect_failure(
        1,
        "the peer has closed the channel; 9192 of 20000 bytes were accepted, the last 8192 of \
         them were never read",
    );
    server.join().unwrap();
}

#[test]
fn bytes_that_never_went_into_the_ring_are_counted() {
    let emulator = emulated_host();
    let mut server = publish(&emulator);
    let mut client = start_in_dom0(&emulator, &["2"]);
    client.offer(&[b'x'; 20_000]);
    client.close_input();
    let mut channel = server.accept_timeout(common::LIMIT).unwrap();
    wait_until(|| channel.data_ready().unwrap() == RING);
    // A peer that is gone and has read everything, which leaves the client no time in between.
    let handshake = channel.handshake();
    let page = emulator.raw_page(guest(), handshake.ring_ref).unwrap();
    page.store_byte(Side::Server.live(), Live::Gone.byte(), Ordering::SeqCst);
    page.store_index(
        Ring::Left.cons(),
        u32::try_from(RING).unwrap(),
        Ordering::SeqCst,
    );
    emulator.send_event(DomId::DOM0, Port(71)).unwrap();
    client.wait().expect_failure(
        1,
        "the peer has closed the channel; 8192 of 20000 bytes were accepted\n",
    );
}

#[test]
fn what_arrived_is_printed_even_if_nothing_more_can_be_sent() {
    let emulator = emulated_host();
    let server = serve(publish(&emulator), |mut channel| {
        // As much as a pipe that nobody reads, the client's hands, and the ring hold.
        channel.write_all(&[b'y'; 65_536 + 2 * RING]).unwrap();
        wait_until(|| channel.data_ready().unwrap() == RING);
    });
    let (mut output, stdout) = std::io::pipe().unwrap();
    let (input, mut sender) = std::io::pipe().unwrap();
    let mut child = in_dom0(&emulator, &["2", "--quiet"])
        .stdin(input)
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    sender.write_all(&[b'x'; 20_000]).unwrap();
    server.join().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut printed = Vec::new();
    output.read_to_end(&mut printed).unwrap();
    assert_eq!(printed.len(), 65_536 + 2 * RING);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn bytes_that_the_peer_has_not_read_are_counted_while_input_is_open() {
    let emulator = emulated_host();
    let server = serve(publish(&emulator), |mut channel| {
        wait_until(|| channel.data_ready().unwrap() == 5);
    });
    let mut client = start_in_dom0(&emulator, &["2"]);
    client.send(b"hello");
    client.wait().expect_failure(
        1,
        "5 of 5 bytes were accepted, the last 5 of them were never read",
    );
    server.join().unwrap();
}

#[test]
fn without_an_answer_it_lingers() {
    let emulator = emulated_host();
    for (arguments, least) in [(["2"].as_slice(), 2), (&["2", "--linger=3"], 3)] {
        let server = serve(publish(&emulator), swallow);
        let began = Instant::now();
        let mut client = start_in_dom0(&emulator, arguments);
        client.send(b"hello\n");
        client.finish().expect_code(0);
        assert!(began.elapsed() >= Duration::from_secs(least));
        assert_eq!(server.join().unwrap(), b"hello\n");
    }
}

#[test]
fn with_linger_an_answer_may_be_longer_than_the_question() {
    let emulator = emulated_host();
    let server = serve(publish(&emulator), |mut channel: Channel| {
        let mut bytes = [0; 2];
        channel.read_exact(&mut bytes).unwrap();
        for piece in ["a ", "long ", "answer ", "in ", "pieces"] {
            channel.write_all(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let mut client = start_in_dom0(&emulator, &["2", "--linger", "60"]);
    client.send(b"?\n");
    let ended = client.finish();
    ended.expect_code(0);
    assert_eq!(ended.output, b"a long answer in pieces");
    server.join().unwrap();
}

#[test]
fn a_peer_that_takes_its_time_to_read_is_waited_for() {
    let emulator = emulated_host();
    let (go, told) = mpsc::channel();
    let server = serve(publish(&emulator), move |channel| {
        answer_first(channel, &told);
    });
    let mut client = start_in_dom0(&emulator, &["2", "--linger", "1"]);
    client.send(b"hello\n");
    client.close_input();
    client.expect_output("HELLO\n");
    std::thread::sleep(Duration::from_millis(2500));
    go.send(()).unwrap();
    client.wait().expect_code(0);
    server.join().unwrap();
}

#[test]
fn a_server_that_speaks_as_in_the_golden_session() {
    let emulator = emulated_host();
    let mut server = start(&emulator, guest(), &["-s", "0"]);
    let said = server.expect_said("Initialization done!\n");
    let expected = "\
Initializing Server domid=0 xs_path=data/vchan
Server: right_order = 13, left_order = 13
allocate_buffer_locations: gntref = 9
allocate_buffer_locations: gntref = 10
allocate_buffer_locations: gntref = 11
allocate_buffer_locations: gntref = 12
Writing config into the XenStore
Shared page is:

    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    0d 00 0d 00 02 01 01 00 09 00 00 00 0a 00 00 00
    0b 00 00 00 0c 00 00 00
Initialization done!
";
    assert!(said.starts_with(expected), "{said}");

    // Without anything to send it stays until its client closes.
    server.close_input();
    let mut client = connect(&emulator, "/local/domain/2/data/vchan");
    std::thread::sleep(Duration::from_millis(2500));
    client.write_all(b"are you there?").unwrap();
    server.expect_output("are you there?");
    drop(client);
    server.wait().expect_code(0);
    emulator.assert_clean();
}

#[test]
fn a_server_that_got_its_answer_ends() {
    let emulator = emulated_host();
    let mut server = start(
        &emulator,
        guest(),
        &["-s", "0", "--read-size=1", "--write-size=1"],
    );
    server.send(b"hello\n");
    server.close_input();
    let client = connect(&emulator, "/local/domain/2/data/vchan");
    assert_eq!(client.ring_sizes(), (2048, 1024));
    let (go, told) = mpsc::channel();
    let client = std::thread::spawn(move || answer_first(client, &told));
    server.expect_output("HELLO\n");
    go.send(()).unwrap();
    server.wait().expect_code(0);
    client.join().unwrap();
    emulator.assert_clean();
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let emulator = emulated_host();
    let server = serve(publish(&emulator), |mut channel: Channel| {
        while channel.write_all(&[b'y'; 4096]).is_ok() {}
    });
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = in_dom0(&emulator, &["2", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(writer)
        .spawn()
        .unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();
    drop(reader);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    server.join().unwrap();
}

/// Answers, and reads the question when it is told to, which the other side has waited for. From then
/// on that waits for an answer no longer than it was told to, and the machine may stop.
fn answer_first(mut channel: Channel, told: &mpsc::Receiver<()>) {
    channel.write_all(b"HELLO\n").unwrap();
    told.recv().unwrap();
    assert_eq!(channel.state().unwrap(), State::Connected);
    assert_eq!(swallow(channel), b"hello\n");
}

/// The size of the rings.
const RING: usize = 8192;

/// node-cli in dom0, not yet running.
fn in_dom0(emulator: &Emulator, arguments: &[&str]) -> Command {
    let mut command = common::node_cli(arguments);
    command.env(DOMAIN_VARIABLE, emulator.domain_directory(DomId::DOM0));
    command
}

/// A client in dom0, in this process.
fn connect(emulator: &Emulator, path: &str) -> Channel {
    let path: StorePath = path.parse().unwrap();
    let host = emulator.host(DomId::DOM0).unwrap();
    Client::builder(&host, guest())
        .path(path)
        .timeout(common::LIMIT)
        .connect()
        .unwrap()
}
