//! Finding each other: keys, permissions, waiting, reconnecting, and keys that lead nowhere.

mod common;

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use common::{GUEST, LONG, World, bounded, guest};
use vchan::host::{GrantRef, NodeAccess, Permissions, Port};
use vchan::layout::{Order, Ring};
use vchan::memory::Access;
use vchan::{
    Channel, Client, DomId, Error, Host, PeerFault, Server, State, StoreErrorKind, StorePath,
};

const SHORT: Duration = Duration::from_millis(60);

fn key(name: &str) -> StorePath {
    format!("/local/domain/{GUEST}/data/vchan/{name}")
        .parse()
        .unwrap()
}

fn connect(host: &Host, timeout: Duration) -> Result<Channel, Error> {
    Client::builder(host, guest()).timeout(timeout).connect()
}

#[test]
fn golden_page_is_shared_byte_for_byte_and_the_keys_name_it() {
    let world = World::new();
    let mut server = world
        .server()
        .read_size(5000)
        .write_size(5000)
        .bind()
        .unwrap();
    let golden = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
        0x0d, 0, 0x0d, 0, 2, 1, 1, 0, 9, 0, 0, 0, 0x0a, 0, 0, 0, //
        0x0b, 0, 0, 0, 0x0c, 0, 0, 0,
    ];
    let handshake = server.pending().unwrap().handshake().clone();
    assert_eq!(handshake.page, golden);
    let store = world.dom0.store();
    assert_eq!(store.read(&key("ring-ref")).unwrap(), b"8");
    assert_eq!(store.read(&key("event-channel")).unwrap(), b"4");
    let page = world
        .emulator
        .raw_page(guest(), handshake.ring_ref)
        .unwrap();
    let bytes = |len| {
        let mut bytes = vec![0; len];
        page.copy_out(0, &mut bytes);
        bytes
    };
    let whole = bytes(4096);
    assert_eq!(whole[..40], golden);
    assert!(
        whole[40..].iter().all(|&byte| byte == 0),
        "nothing else leaks to the peer"
    );

    let mut client = world.client();
    assert_eq!(
        client.handshake().page,
        golden,
        "the client sees the page as it was"
    );
    assert_eq!(client.handshake().port, Port(71));
    assert_eq!(
        bytes(24)[16..],
        [0x0d, 0, 0x0d, 0, 1, 1, 1, 1],
        "client is live and wants data"
    );
    client.write_all(&[b'x'; 16]).unwrap();
    assert_eq!(bytes(24)[4..8], [0x10, 0, 0, 0], "left.prod");
    assert_eq!(
        bytes(24)[20..],
        [1, 1, 0, 1],
        "the server's request was taken"
    );
    let mut channel = server.accept().unwrap();
    channel.read_exact(&mut [0; 16]).unwrap();
    assert_eq!(bytes(24)[..4], [0x10, 0, 0, 0], "left.cons");
    drop(client);
    assert_eq!(bytes(24)[20], 0, "client gone");
}

/// ocaml-vchan's client does so, and libxenvchan's server lets it.
#[test]
fn a_client_may_map_both_rings_writable() {
    let world = World::new();
    let mut server = world
        .server()
        .read_size(5000)
        .write_size(5000)
        .bind()
        .unwrap();
    let page = server.pending().unwrap().handshake().page.clone();
    for grants in page[24..].chunks(8) {
        let grant = |bytes: &[u8]| GrantRef(u32::from_le_bytes(bytes.try_into().unwrap()));
        let ring = [grant(&grants[..4]), grant(&grants[4..])];
        let mapped = world
            .dom0
            .grants()
            .map(guest(), &ring, Access::ReadWrite, None);
        assert!(mapped.is_ok(), "{ring:?}");
    }
}

#[test]
fn only_the_peer_may_read_the_keys() {
    let world = World::new();
    let third = DomId::new(3).unwrap();
    world.emulator.add_domain(third).unwrap();
    let stranger = world.emulator.host(third).unwrap();
    let server = world.server().bind().unwrap();
    for name in ["ring-ref", "event-channel"] {
        let expected = Permissions {
            owner: guest(),
            default: NodeAccess::None,
            domains: vec![(DomId::DOM0, NodeAccess::Read)],
        };
        assert_eq!(
            world.dom0.store().permissions(&key(name)).unwrap(),
            expected,
            "{name}"
        );
        let refused = stranger.store().read(&key(name)).unwrap_err();
        assert_eq!(refused.kind, StoreErrorKind::Denied);
    }
    let refused = connect(&stranger, SHORT).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("may not be read by this domain"),
        "{refused}"
    );
    drop((server, stranger));
    world.assert_clean();
}

#[test]
fn a_client_waits_for_its_server() {
    bounded(|| {
        let world = World::new();
        let dom0 = world.dom0.clone();
        let client = thread::spawn(move || connect(&dom0, LONG).unwrap());
        thread::sleep(SHORT);
        let mut server = world.server().bind().unwrap();
        let mut ours = server.accept_timeout(LONG).unwrap();
        let mut theirs = client.join().unwrap();
        theirs.write_all(b"found").unwrap();
        ours.read_exact(&mut [0; 5]).unwrap();
        drop((ours, theirs, server));
        world.assert_clean();
    });
}

#[test]
fn waiting_for_a_server_or_a_client_ends_by_its_deadline_and_says_for_what() {
    let world = World::new();
    let since = Instant::now();
    let error = connect(&world.dom0, SHORT).unwrap_err();
    assert!(since.elapsed() >= SHORT && since.elapsed() < LONG);
    let text = error.to_string();
    assert!(
        text.contains("/local/domain/2/data/vchan/ring-ref is not there"),
        "{text}"
    );

    let mut server = world.server().bind().unwrap();
    let error = server.accept_timeout(SHORT).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("waiting for a client of domain 0"),
        "{error}"
    );
    assert!(matches!(server.try_accept(), Err(Error::WouldBlock)));
    let client = world.client();
    assert!(
        server.accept_timeout(LONG).is_ok(),
        "the offer still stands"
    );
    drop((client, server));
    world.assert_clean();
}

#[test]
fn each_client_has_fresh_pages_and_finds_nothing_of_its_predecessor() {
    let world = World::new();
    let mut server = world
        .server()
        .read_size(1024)
        .write_size(1024)
        .bind()
        .unwrap();
    for round in 0..20u8 {
        server.pending().unwrap();
        let mut client = world.client();
        let mut channel = server.accept_timeout(LONG).unwrap();
        let gone = world.dom0.store().read(&key("ring-ref")).unwrap_err();
        assert_eq!(
            gone.kind,
            StoreErrorKind::NotFound,
            "a second client cannot attach"
        );
        channel.write_all(&[round; 7]).unwrap();
        client.write_all(&[round; 9]).unwrap();
        assert_eq!(client.data_ready().unwrap(), 7, "round {round}");
        assert_eq!(channel.data_ready().unwrap(), 9, "round {round}");
    }
    drop(server);
    world.assert_clean();
}

#[test]
fn a_client_that_came_and_went_is_accepted_with_what_it_wrote() {
    let world = World::new();
    let mut server = world.server().bind().unwrap();
    let mut client = world.client();
    client.write_all(b"in a hurry").unwrap();
    drop(client);
    let mut channel = server.accept_timeout(LONG).unwrap();
    let mut text = String::new();
    channel.read_to_string(&mut text).unwrap();
    assert_eq!(text, "in a hurry");
    assert_eq!(channel.state().unwrap(), State::Closed);
}

#[test]
fn a_client_whose_domain_is_created_after_the_server_published_gets_in() {
    bounded(|| {
        let emulator = vchan_emulator::Emulator::start().unwrap();
        let late = DomId::new(5).unwrap();
        emulator.add_domain(guest()).unwrap();
        let host = emulator.host(guest()).unwrap();
        let mut server = Server::builder(&host, late).bind().unwrap();
        let accepting = thread::spawn(move || server.accept_timeout(LONG).map(|_| ()));
        thread::sleep(SHORT);
        emulator.add_domain(late).unwrap();
        let client = connect(&emulator.host(late).unwrap(), LONG).unwrap();
        accepting.join().unwrap().unwrap();
        drop(client);
    });
}

#[test]
fn any_path_will_do_and_nothing_of_it_stays() {
    let world = World::new();
    for (path, from_client) in [
        ("data/vchan/0/echo", "data/vchan/0/echo"),
        ("data/link_1-a", "/local/domain/2/data/link_1-a"),
        ("/local/domain/2/data/x/y/z", "/local/domain/2/data/x/y/z"),
    ] {
        let mut server = world.server().path(path.parse().unwrap()).bind().unwrap();
        let client = Client::builder(&world.dom0, guest())
            .path(from_client.parse().unwrap())
            .timeout(LONG)
            .connect()
            .unwrap();
        drop((server.accept_timeout(LONG).unwrap(), client));
        let base: StorePath = path.parse().unwrap();
        let left = world.guest.store().read(&base.child("ring-ref").unwrap());
        assert_eq!(left.unwrap_err().kind, StoreErrorKind::NotFound);
    }
}

#[test]
fn keys_of_another_server_are_left_alone() {
    let world = World::new();
    let server = world.server().bind().unwrap();
    world
        .guest
        .store()
        .write(&"data/vchan/ring-ref".parse().unwrap(), b"99")
        .unwrap();
    drop(server);
    assert_eq!(world.dom0.store().read(&key("ring-ref")).unwrap(), b"99");
}

#[test]
fn rings_that_no_vchan_has_are_refused_at_once() {
    let world = World::new();
    let most = Order::MAX.bytes() as usize;
    for (read, write) in [(most + 1, 0), (0, most + 1), (usize::MAX, usize::MAX)] {
        let refused = world
            .server()
            .read_size(read)
            .write_size(write)
            .bind()
            .unwrap_err();
        assert!(
            matches!(refused, Error::RingTooLarge { max, .. } if max == most),
            "{refused}"
        );
    }
    world.assert_clean();
}

#[test]
fn keys_that_are_not_there_yet_are_waited_for() {
    let world = World::new();
    let store = world.guest.store();
    let (ring_ref, port) = (
        "data/vchan/ring-ref".parse().unwrap(),
        "data/vchan/event-channel".parse().unwrap(),
    );
    for (half, expected) in [
        (vec![(&ring_ref, "8")], "event-channel is not there"),
        (vec![(&port, "4")], "ring-ref is not there"),
        (
            vec![(&ring_ref, ""), (&port, "")],
            "ring-ref is still empty",
        ),
        (
            vec![(&ring_ref, "8"), (&port, "")],
            "event-channel is still empty",
        ),
    ] {
        for (key, value) in half {
            store.write(key, value.as_bytes()).unwrap();
        }
        let error = connect(&world.dom0, SHORT).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        store.remove(&"data/vchan".parse().unwrap()).unwrap();
    }
}

#[test]
fn keys_that_cannot_be_right_are_refused_with_what_they_hold() {
    let world = World::new();
    let store = world.guest.store();
    for (ring_ref, port, blamed) in [
        ("eight", "4", "eight"),
        ("8", "-4", "-4"),
        ("8", " 4", " 4"),
        ("+8", "4", "+8"),
        ("0", "4", "\"0\""),
        ("8", "4294967296", "4294967296"),
        ("99999999999999999999999999999999999999999999", "4", "9999"),
        ("8\n", "4", "8\\n"),
    ] {
        store
            .write(&"data/vchan/ring-ref".parse().unwrap(), ring_ref.as_bytes())
            .unwrap();
        store
            .write(
                &"data/vchan/event-channel".parse().unwrap(),
                port.as_bytes(),
            )
            .unwrap();
        let error = connect(&world.dom0, LONG).unwrap_err();
        assert!(matches!(error, Error::BadKey { .. }), "{error}");
        assert!(error.to_string().contains(blamed), "{error}");
    }
    drop(world.guest.store().remove(&"data/vchan".parse().unwrap()));
    world.assert_clean();
}

#[test]
fn keys_left_over_from_a_server_that_is_gone_are_waited_out() {
    bounded(|| {
        let world = World::new();
        let store = world.guest.store();
        store
            .write(&"data/vchan/ring-ref".parse().unwrap(), b"800")
            .unwrap();
        store
            .write(&"data/vchan/event-channel".parse().unwrap(), b"400")
            .unwrap();
        let error = connect(&world.dom0, SHORT).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("to publish anew"), "{error}");

        let dom0 = world.dom0.clone();
        let client = thread::spawn(move || connect(&dom0, LONG).unwrap());
        thread::sleep(SHORT);
        let mut server = world.server().bind().unwrap();
        let channel = server.accept_timeout(LONG).unwrap();
        drop((client.join().unwrap(), channel, server));
        world.assert_clean();
    });
}

/// Connects to a server whose shared page `spoil` has changed first.
fn connect_to_spoiled(spoil: impl Fn(&vchan::memory::Region)) -> (Result<Channel, Error>, World) {
    let world = World::new();
    let mut server = world
        .server()
        .read_size(5000)
        .write_size(5000)
        .bind()
        .unwrap();
    let reference = server.pending().unwrap().handshake().ring_ref;
    spoil(&world.emulator.raw_page(guest(), reference).unwrap());
    let connected = connect(&world.dom0, SHORT);
    drop(server);
    (connected, world)
}

#[test]
fn pages_that_are_no_control_pages_are_refused_and_nothing_stays_mapped() {
    let (blank, world) = connect_to_spoiled(|page| page.copy_in(0, &[0; 4096]));
    let error = blank.unwrap_err();
    assert!(error.to_string().contains("all zeros"), "{error}");
    world.assert_clean();
    let rows = include_str!("../../tests/vectors/orders.csv");
    let mut refused = 0;
    for row in rows.lines().filter(|row| row.starts_with("client-refuses")) {
        let mut columns = row
            .split(',')
            .skip(3)
            .map(|order| order.parse::<u16>().unwrap_or(0));
        let (left, right) = (columns.next().unwrap(), columns.next().unwrap());
        let (connected, world) = connect_to_spoiled(|page| {
            page.copy_in(16, &left.to_le_bytes());
            page.copy_in(18, &right.to_le_bytes());
        });
        let error = connected.unwrap_err();
        assert!(matches!(error, Error::Page(_)), "{row}: {error}");
        assert!(error.to_string().contains("orders"), "{row}: {error}");
        world.assert_clean();
        refused += 1;
    }
    assert_eq!(refused, 8, "rows of the table");
}

#[test]
fn grants_and_indices_that_cannot_be_are_refused_and_nothing_stays_mapped() {
    let (connected, world) = connect_to_spoiled(|page| page.copy_in(24, &777u32.to_le_bytes()));
    let error = connected.unwrap_err();
    assert!(
        matches!(error, Error::TimedOut { .. }),
        "a server can mend it: {error}"
    );
    world.assert_clean();
    for ring in [Ring::Left, Ring::Right] {
        let (connected, world) = connect_to_spoiled(|page| {
            page.copy_in(ring.prod(), &8193u32.to_le_bytes());
        });
        let error = connected.unwrap_err();
        assert!(
            matches!(error, Error::PeerFault(PeerFault::Index { .. })),
            "{error}"
        );
        world.assert_clean();
    }
    let (connected, world) = connect_to_spoiled(|page| page.copy_in(21, &[0]));
    assert!(
        matches!(connected.unwrap_err(), Error::TimedOut { .. }),
        "the server is gone"
    );
    world.assert_clean();
}

#[test]
fn a_fault_of_the_peer_is_final_for_both_directions() {
    let world = World::new();
    let (mut server, mut client) = world.pair(5000, 5000);
    let page = world
        .emulator
        .raw_page(guest(), client.handshake().ring_ref)
        .unwrap();
    client.write_all(b"fine").unwrap();
    page.copy_in(Ring::Left.prod(), &0xFFFF_FFFFu32.to_le_bytes());
    let mut buffer = [0; 16];
    for _ in 0..2 {
        let error = server.read(&mut buffer).unwrap_err();
        assert!(matches!(
            error,
            Error::PeerFault(PeerFault::Index {
                found: u32::MAX,
                ..
            })
        ));
    }
    assert!(matches!(server.write(b"x"), Err(Error::PeerFault(_))));
    assert!(matches!(server.state(), Err(Error::PeerFault(_))));
    assert!(matches!(server.data_ready(), Err(Error::PeerFault(_))));
    drop((server, client));
    world.assert_clean();
}

#[test]
fn a_live_byte_without_meaning_is_the_peers_fault() {
    for (byte, at_client) in [(2u8, true), (3, true), (255, true), (2, false), (7, false)] {
        let world = World::new();
        let (server, client) = world.pair(1024, 1024);
        let page = world
            .emulator
            .raw_page(guest(), client.handshake().ring_ref)
            .unwrap();
        assert_eq!(server.state().unwrap(), State::Connected);
        page.copy_in(if at_client { 21 } else { 20 }, &[byte]);
        let state = if at_client {
            client.state()
        } else {
            server.state()
        };
        let error = state.unwrap_err();
        assert!(matches!(error, Error::PeerFault(PeerFault::Live(found)) if found == byte));
    }
}
