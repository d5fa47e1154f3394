//! C5 to C8 and C11: peers that never come, come twice, come back, or are oneself.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use vchan::layout::{Geometry, Ring};
use vchan::{Client, DomId, Error, Server, State};
use vchan_emulator::faults::{Log, Verdict, gated};

use crate::SHORT;
use crate::common::raw::RawPeer;
use crate::common::steps::NOTICED;
use crate::common::watched::{hook, watched};
use crate::common::{LONG, World, bounded, guest};

#[test]
fn fault_c05_a_peer_that_never_comes_and_one_that_never_reads() {
    bounded(|| {
        let world = World::new();
        let since = Instant::now();
        let timed_out = |result: Result<(), Error>, what: &str| {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::TimedOut { .. }), "{error}");
            assert!(error.to_string().contains(what), "{error}");
        };
        let connecting = Client::builder(&world.dom0, guest()).timeout(SHORT);
        timed_out(connecting.connect().map(drop), "vchan server of domain 2");
        let mut server = world.server().bind().unwrap();
        timed_out(
            server.accept_timeout(SHORT).map(drop),
            "a client of domain 0",
        );
        assert!(matches!(server.try_accept(), Err(Error::WouldBlock)));
        // One who comes and then does nothing.
        let silent = world.client();
        let mut channel = server.accept_timeout(LONG).unwrap();
        channel.set_write_timeout(Some(SHORT));
        channel.set_read_timeout(Some(SHORT));
        let size = channel.ring_sizes().1;
        channel.write_all(&vec![0; size]).unwrap();
        timed_out(channel.write(&[0]).map(drop), "the peer to read");
        timed_out(channel.send(&[0; 9]), "the peer to read");
        timed_out(channel.drain(), "the peer to read everything");
        timed_out(channel.read(&mut [0]).map(drop), "the peer to write");
        timed_out(channel.recv(&mut [0; 9]), "the peer to write");
        channel.set_nonblocking(true);
        assert!(matches!(channel.write(&[0]), Err(Error::WouldBlock)));
        assert!(matches!(channel.read(&mut [0]), Err(Error::WouldBlock)));
        assert_eq!(channel.bytes_written(), size as u64);
        assert!(since.elapsed() >= 7 * SHORT);
        drop((silent, channel, server));
        world.assert_clean();
    });
}

#[test]
fn fault_c06_a_new_domain_of_the_same_number_gets_nothing_of_its_predecessors() {
    bounded(|| {
        let world = World::new();
        let (server, mut client) = world.pair(1024, 1024);
        let (old_port, old_grant) = {
            let handshake = server.handshake();
            (handshake.event_channel, handshake.ring_ref)
        };
        world.emulator.destroy_domain(guest()).unwrap();
        world.emulator.add_domain(guest()).unwrap();
        let next = world.emulator.host(guest()).unwrap();
        // It finds no keys, and its own grant of the old number is another page.
        let keys = next.store().directory(&"data".parse().unwrap()).unwrap();
        assert!(keys.is_empty(), "{keys:?}");
        let mut server = Server::builder(&next, DomId::DOM0)
            .read_size(1024)
            .write_size(1024)
            .bind()
            .unwrap();
        let offered = server.pending().unwrap().handshake().clone();
        assert_eq!(
            (offered.event_channel, offered.ring_ref),
            (old_port, old_grant),
            "the numbers are used again"
        );
        server.pending().unwrap().write_all(b"new").unwrap();
        // The old channel ends, and gets none of the new one's events or bytes.
        client.set_read_timeout(Some(NOTICED));
        let error = client.read(&mut [0; 9]).unwrap_err();
        assert!(matches!(error, Error::PeerDied), "{error}");
        assert!(matches!(client.write(b"x"), Err(Error::PeerDied)));
        // A port that is closed with its channel cannot be bound by the new domain.
        let port = client.handshake().port;
        drop(client);
        let bound = next.events().bind_interdomain(DomId::DOM0, port);
        assert!(bound.err().unwrap().is_stale());
        let mut client = world.client();
        let mut word = [0; 3];
        client.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"new");
        drop((client, server, next));
        world.assert_clean();
    });
}

#[test]
fn fault_c07_a_second_client_waits_for_the_next_offer() {
    bounded(|| {
        let world = World::new();
        let mut server = world.server().bind().unwrap();
        let mut first = world.client();
        // The keys still lead to the first client's channel.
        let connecting = Client::builder(&world.dom0, guest()).timeout(SHORT);
        let error = connecting.connect().unwrap_err();
        assert!(error.to_string().contains("is bound already"), "{error}");
        let dom0 = world.dom0.clone();
        let second = thread::spawn(move || {
            let connecting = Client::builder(&dom0, guest()).timeout(LONG);
            connecting.connect().unwrap()
        });
        thread::sleep(SHORT);
        let mut to_first = server.accept_timeout(LONG).unwrap();
        let mut to_second = server.accept_timeout(LONG).unwrap();
        let mut second = second.join().unwrap();
        for (client, server, word) in [
            (&mut first, &mut to_first, b"one"),
            (&mut second, &mut to_second, b"two"),
        ] {
            client.write_all(word).unwrap();
            let mut got = [0; 3];
            server.read_exact(&mut got).unwrap();
            assert_eq!(&got, word);
        }
        drop((first, second, to_first, to_second, server));
        world.assert_clean();
    });
}

/// While a client reads the keys, another takes the offer and the next one is published.
#[test]
fn fault_c07_a_client_never_pairs_the_keys_of_two_offers() {
    bounded(|| {
        for nth in 0..6 {
            let world = World::new();
            let mut server = world.server().bind().unwrap();
            server.pending().unwrap();
            let turn = Arc::new(Mutex::new(Some((server, None))));
            let (log, other, taken) = (Log::default(), world.dom0.clone(), Arc::clone(&turn));
            let dom0 = gated(&world.dom0, move |call| {
                log.note(call);
                if call.name == "read" && log.count("read") == nth + 1 {
                    let first = Client::builder(&other, guest()).connect().unwrap();
                    let mut taken = taken.lock().unwrap();
                    let (server, held) = taken.as_mut().unwrap();
                    *held = Some((first, server.accept_timeout(LONG).unwrap()));
                    server.pending().unwrap();
                }
                Verdict::Pass
            });
            let connecting = Client::builder(&dom0, guest()).timeout(LONG);
            let mut client = connecting.connect().unwrap();
            drop(dom0);
            let (mut server, held) = turn.lock().unwrap().take().unwrap();
            let mut channel = server.accept_timeout(NOTICED).unwrap();
            client.write_all(b"paired").unwrap();
            let mut text = [0; 6];
            channel.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"paired", "read {nth}");
            drop((client, channel, server, held));
            world.assert_clean();
        }
    });
}

#[test]
fn fault_c08_a_link_to_oneself_is_refused() {
    let world = World::new();
    let refused = Server::builder(&world.guest, guest()).bind().unwrap_err();
    assert!(
        matches!(refused, Error::OwnDomain(domid) if domid == guest()),
        "{refused}"
    );
    let refused = Client::builder(&world.dom0, DomId::DOM0)
        .connect()
        .unwrap_err();
    assert!(
        matches!(refused, Error::OwnDomain(DomId::DOM0)),
        "{refused}"
    );
    world.assert_clean();
}

/// A server's process that is killed leaves its keys behind. The next one is given the same
/// numbers, and a client that has tried the old keys must try the new ones though they read the
/// same.
#[test]
fn fault_c11_a_restarted_server_that_publishes_the_same_numbers_is_found() {
    bounded(|| {
        let world = World::new();
        let store = world.guest.store();
        let (mut published, mut keys) = (None, Vec::new());
        {
            let mut server = world.server().bind().unwrap();
            published.replace(server.pending().unwrap().handshake().clone());
        }
        let published = published.unwrap();
        for (key, value) in [
            ("ring-ref", published.ring_ref.0),
            ("event-channel", published.event_channel.0),
        ] {
            let path = format!("data/vchan/{key}").parse().unwrap();
            store.write(&path, value.to_string().as_bytes()).unwrap();
            keys.push(path);
        }
        let dom0 = world.dom0.clone();
        let client = thread::spawn(move || {
            let client = Client::builder(&dom0, guest()).timeout(NOTICED);
            client.connect()
        });
        thread::sleep(2 * SHORT);
        let mut server = world.server().bind().unwrap();
        let offered = server.pending().unwrap().handshake().clone();
        assert_eq!(
            (offered.ring_ref, offered.event_channel),
            (published.ring_ref, published.event_channel)
        );
        let client = client.join().unwrap().unwrap();
        drop((server.accept_timeout(LONG).unwrap(), client, server));
        world.assert_clean();
    });
}

/// A client that dies before it is connected changes nothing that one could watch.
#[test]
fn fault_c11_a_port_that_a_client_let_go_of_is_tried_again() {
    bounded(|| {
        let world = World::new();
        let mut server = world.server().bind().unwrap();
        let port = server.pending().unwrap().handshake().event_channel;
        let other = world.dom0.events().bind_interdomain(guest(), port);
        let dom0 = world.dom0.clone();
        let client = thread::spawn(move || {
            let connecting = Client::builder(&dom0, guest()).timeout(NOTICED);
            connecting.connect()
        });
        thread::sleep(2 * SHORT);
        assert!(matches!(server.try_accept(), Err(Error::WouldBlock)));
        drop(other.unwrap());
        let channel = server.accept_timeout(NOTICED).unwrap();
        drop((client.join().unwrap().unwrap(), channel, server));
        world.assert_clean();
    });
}

#[test]
fn fault_c11_clients_that_come_back_to_one_server() {
    bounded(|| {
        let world = World::new();
        let mut server = world.server().read_size(1024).bind().unwrap();
        for round in 0..50_u8 {
            server.pending().unwrap();
            let mut client = world.client();
            let mut channel = server.accept_timeout(LONG).unwrap();
            // Both leave bytes unread, which the next must not see.
            channel.write_all(&[round; 9]).unwrap();
            client.write_all(&[round; 9]).unwrap();
            let mut first = [0; 3];
            client.read_exact(&mut first).unwrap();
            assert_eq!(first, [round; 3]);
            if round % 2 == 0 {
                drop((client, channel));
            } else {
                drop((channel, client));
            }
        }
        drop(server);
        world.assert_clean();
    });
}

/// A client that dies frees its port, and its server's keys still stand until that looks.
#[test]
fn fault_c11_a_client_gets_no_ring_that_another_client_has_left() {
    bounded(|| {
        let world = World::new();
        let mut server = world.server().bind().unwrap();
        let mut first = world.client();
        first.write_all(b"what the first says").unwrap();
        drop(first);
        let next = || Client::builder(&world.dom0, guest());
        let refused = next().timeout(SHORT).connect().unwrap_err();
        assert!(matches!(refused, Error::TimedOut { .. }), "{refused}");
        let mut said = Vec::new();
        let mut channel = server.accept_timeout(LONG).unwrap();
        channel.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"what the first says");
        drop(channel);
        server.pending().unwrap();
        let mut second = next().timeout(LONG).connect().unwrap();
        second.write_all(b"what the second says").unwrap();
        drop(second);
        said.clear();
        let mut channel = server.accept_timeout(LONG).unwrap();
        channel.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"what the second says");
        drop((channel, server));
        world.assert_clean();
    });
}

/// libxenvchan has servers that go on with the same rings for the next client.
#[test]
fn fault_c11_a_client_takes_over_rings_that_their_server_goes_on_with() {
    bounded(|| {
        let world = World::new();
        let geometry = Geometry::new(13, 13).unwrap();
        let raw = RawPeer::serve(&world.guest, DomId::DOM0, geometry, 0).unwrap();
        let mut first = world.client();
        first.write_all(b"unread").unwrap();
        drop(first);
        let next = |timeout| Client::builder(&world.dom0, guest()).timeout(timeout);
        // Long enough for it to be taken over, were it read.
        let refused = next(Duration::from_secs(6)).connect().unwrap_err();
        assert!(matches!(refused, Error::TimedOut { .. }), "{refused}");
        raw.store(Ring::Left.cons(), 6);
        let mut second = next(LONG).connect().unwrap();
        second.write_all(b"next").unwrap();
        assert_eq!(
            raw.control.load_index(Ring::Left.prod(), Ordering::Acquire),
            10
        );
        drop((second, raw));
        world.assert_clean();
    });
}

/// A server makes another offer just when a client has bound to the port of the one before, and the
/// page of the new one gets the number of the old.
#[test]
fn fault_c07_a_client_never_pairs_a_port_with_the_page_of_another_offer() {
    bounded(|| {
        let world = World::new();
        let guest_host = world.guest.clone();
        let bind = move || {
            let server = Server::builder(&guest_host, DomId::DOM0);
            let mut server = server.bind().unwrap();
            let numbers = server.pending().unwrap().handshake();
            (server, numbers)
        };
        let (dom0, calls) = watched(&world.dom0);
        let (sender, replaced) = std::sync::mpsc::channel();
        let (guest_host, mut first) = (world.guest.clone(), Some(bind()));
        hook(&calls.before_map, move |_| {
            let Some((server, old)) = first.take() else {
                return;
            };
            drop(server);
            let other = guest_host.events().bind_unbound(DomId::DOM0).unwrap();
            let (server, new) = bind();
            assert_eq!(new.ring_ref, old.ring_ref, "the same page again");
            assert_ne!(new.event_channel, old.event_channel, "another port");
            sender.send((server, other)).unwrap();
        });
        let client = Client::builder(&dom0, guest()).timeout(LONG);
        let mut client = client.connect().unwrap();
        let (mut server, other) = replaced.recv().unwrap();
        client.write_all(b"paired").unwrap();
        // What was tried before looks to the server like a client that came and went.
        let mut text = Vec::new();
        while text.is_empty() {
            let mut channel = server.accept_timeout(LONG).unwrap();
            let mut chunk = [0; 6];
            let count = channel.read(&mut chunk).unwrap();
            text.extend_from_slice(&chunk[..count]);
            if count == 0 {
                assert_eq!(channel.state().unwrap(), State::Closed);
                continue;
            }
            channel.write_all(b"back").unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
            assert_eq!(client.probe().unwrap(), State::Connected, "another port");
        }
        assert_eq!(text, b"paired");
        drop((client, server, other, dom0));
        world.assert_clean();
    });
}
