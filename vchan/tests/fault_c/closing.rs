//! C2, C3 and C12: the last bytes, the order of what is given back, and panics.

use std::io::{ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use vchan::{Channel, Client, DomId, Error, Host, Server};
use vchan_emulator::faults::{Call, Log, Verdict, gated};

use crate::SHORT;
use crate::common::steps::NOTICED;
use crate::common::{LONG, World, bounded, guest, pattern};

#[test]
fn fault_c02_what_a_peer_wrote_before_it_closed_arrives() {
    bounded(|| {
        let world = World::new();
        let mut server = world.server().read_size(2048).bind().unwrap();
        for round in 0..200 {
            server.pending().unwrap();
            let mut client = world.client();
            let mut channel = server.accept_timeout(LONG).unwrap();
            let sent = pattern(1 + 10 * round, 7);
            let reader = thread::spawn(move || {
                let mut received = Vec::new();
                channel.read_to_end(&mut received).unwrap();
                received
            });
            client.write_all(&sent).unwrap();
            drop(client);
            assert!(reader.join().unwrap() == sent, "round {round}");
        }
        drop(server);
        world.assert_clean();
    });
}

#[test]
fn fault_c03_closing_while_the_peer_reads() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client) = world.pair(4096, 4096);
        client.write_all(b"unread").unwrap();
        server.write_all(b"last words").unwrap();
        // Once, twice, and by dropping.
        client.shutdown();
        client.shutdown();
        assert!(matches!(client.write(b"x"), Err(Error::Closed)));
        let (mut mine, mut all) = (String::new(), String::new());
        client.read_to_string(&mut mine).unwrap();
        assert_eq!(mine, "last words", "what came before stays readable");
        server.set_read_timeout(Some(NOTICED));
        server.read_to_string(&mut all).unwrap();
        assert_eq!(all, "unread");
        drop(client);
        // The end of a stream is no error; writing to one who is gone is.
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        let error = server.write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        server.shutdown();
        drop(server);
        world.assert_clean();
    });
}

/// Notes the calls of a host and fails one of them.
fn noted(host: &Host, log: &Log, fail: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Host {
    let log = log.clone();
    gated(host, move |call| {
        log.note(call);
        if fail(call) {
            Verdict::Fail
        } else {
            Verdict::Pass
        }
    })
}

/// That the memory is given back before the port by which the other side hears of it.
fn assert_in_order(names: &[&str], memory: &str) {
    let last = names.iter().rposition(|name| *name == memory);
    let close = names.iter().rposition(|name| *name == "close");
    let (Some(last), Some(close)) = (last, close) else {
        panic!("{names:?}");
    };
    assert!(last < close, "{names:?}");
}

#[test]
fn fault_c12_memory_is_unmapped_before_the_port_is_closed() {
    let world = World::new();
    let (servers, clients) = (Log::default(), Log::default());
    let guest_host = noted(&world.guest, &servers, |_| false);
    let dom0 = noted(&world.dom0, &clients, |_| false);
    for halves in [false, true] {
        let mut server = Server::builder(&guest_host, DomId::DOM0).bind().unwrap();
        let client = Client::builder(&dom0, guest()).connect().unwrap();
        let channel = server.accept_timeout(LONG).unwrap();
        if halves {
            let (reading, writing) = client.into_split();
            drop(writing);
            let (other_reading, other_writing) = channel.into_split();
            drop(other_reading);
            drop((reading, other_writing, server));
        } else {
            drop((client, channel, server));
        }
        assert_in_order(&servers.names(), "unshare");
        assert_in_order(&clients.names(), "unmap");
    }
    world.assert_clean();
}

#[test]
fn fault_c12_memory_is_unmapped_before_the_port_is_closed_also_when_setting_up_fails() {
    let world = World::new();
    for failing in ["write", "set_permissions"] {
        let log = Log::default();
        let host = noted(&world.guest, &log, move |call| call.name == failing);
        let server = Server::builder(&host, DomId::DOM0).bind();
        assert!(matches!(server, Err(Error::Store(_))), "{failing}");
        assert_in_order(&log.names(), "unshare");
        assert_eq!(log.count("unshare"), 3, "{failing}");
    }
    let mut server = world.server().bind().unwrap();
    let log = Log::default();
    let host = noted(&world.dom0, &log, |call| call.name == "notify");
    let client = Client::builder(&host, guest()).connect();
    assert!(matches!(client, Err(Error::Host(_))));
    assert_in_order(&log.names(), "unmap");
    drop(server.accept_timeout(LONG).unwrap());
    drop(server);
    world.assert_clean();
}

#[test]
fn fault_c12_a_panic_in_the_users_code_closes_the_channel() {
    bounded(|| {
        let world = World::new();
        let panicked = |work: &mut dyn FnMut()| {
            catch_unwind(AssertUnwindSafe(work)).unwrap_err();
        };
        let (mut server, mut client) = world.pair(1024, 1024);
        // The channel outlives a panic between two calls.
        client.write_all(b"one").unwrap();
        panicked(&mut || {
            std::io::copy(&mut server, &mut Panicking).unwrap();
        });
        client.write_all(b"two").unwrap();
        let mut rest = [0; 3];
        server.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"two", "what was read before the panic is read");
        // One that takes the channel with it closes it, in any thread.
        let (reading, writing) = server.into_split();
        let thread = thread::spawn(move || {
            let _both = (reading, writing);
            panic!("on purpose");
        });
        thread.join().unwrap_err();
        client.set_read_timeout(Some(NOTICED));
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        // The other half's thread is woken.
        let (server, client_2) = world.pair(1024, 1024);
        let (mut reading, writing) = server.into_split();
        let reader = thread::spawn(move || reading.read(&mut [0]).unwrap());
        thread::sleep(SHORT);
        let thread = thread::spawn(move || {
            let _closes: Option<Channel> = Some(client_2);
            panic!("on purpose");
        });
        thread.join().unwrap_err();
        assert_eq!(reader.join().unwrap(), 0);
        drop((writing, client));
        world.assert_clean();
    });
}

/// A reader of the user's that panics while it is given bytes.
struct Panicking;

impl Write for Panicking {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        panic!("on purpose")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
