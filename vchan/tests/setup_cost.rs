//! What setting up costs at XenStore: requests and round trips, counted on the wire. The relay of
//! these tests passes no request of a round trip on before all are there, so whoever waits for an
//! answer in between never gets it.

mod common;

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use vchan::xenstore::codec::Kind;
use vchan::{Channel, Client, ClientBuilder, DomId, Error, Host, PortName, Server, StorePath};

use common::proxy::Proxy;
use common::watched::watched;
use common::{LONG, World, bounded, guest};

/// All that a server asks that knows its own domain's number.
const SERVER: [Kind; 5] = [
    Kind::DIRECTORY,
    Kind::WRITE,
    Kind::SET_PERMS,
    Kind::WRITE,
    Kind::SET_PERMS,
];

/// The same of a client.
const CLIENT: [Kind; 3] = [Kind::READ; 3];

fn bind(host: &Host, port: &str) -> Server {
    let port: PortName = port.parse().unwrap();
    let builder = Server::builder(host, DomId::DOM0).port(port);
    builder.bind().unwrap()
}

fn connect(host: &Host, how: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Channel {
    let builder = Client::builder(host, guest()).timeout(LONG);
    how(builder).connect().unwrap()
}

#[test]
fn a_server_opens_in_three_round_trips_and_the_next_in_two() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, guest());
        let host = proxy.host(&world.emulator, guest());
        proxy.expect_trips(&[1, 1, 4]);
        let first = bind(&host, "first");
        let asked = proxy.trips_made();
        assert_eq!((asked[0], &asked[1..]), (Kind::READ, &SERVER[..]));

        proxy.expect_trips(&[1, 4]);
        let second = bind(&host, "second");
        assert_eq!(proxy.trips_made(), SERVER);
        drop((first, second, host));
        world.assert_clean();
    });
}

#[test]
fn a_server_that_finds_keys_of_another_removes_them_in_one_more() {
    bounded(|| {
        let world = World::new();
        let left = |name: &str| format!("data/vchan/{name}").parse::<StorePath>().unwrap();
        for name in ["ring-ref", "event-channel"] {
            world.guest.store().write(&left(name), b"9999").unwrap();
        }
        let proxy = Proxy::start(&world.emulator, guest());
        let host = proxy.host(&world.emulator, guest());
        proxy.expect_trips(&[1, 1, 2, 4]);
        let server = Server::builder(&host, DomId::DOM0).bind().unwrap();
        let asked = proxy.trips_made();
        assert_eq!(asked[2..4], [Kind::RM; 2]);
        drop((server, host));
        world.assert_clean();
    });
}

#[test]
fn a_client_opens_in_two_round_trips_and_the_next_in_one() {
    bounded(|| {
        let world = World::new();
        let mut server = world.server().bind().unwrap();
        let proxy = Proxy::start(&world.emulator, DomId::DOM0);
        let host = proxy.host(&world.emulator, DomId::DOM0);
        for trips in [&[1, 3][..], &[3], &[3]] {
            proxy.expect_trips(trips);
            let client = connect(&host, |builder| builder);
            let asked = proxy.trips_made();
            assert_eq!(asked[trips.len() - 1..], CLIENT, "{trips:?}");
            drop((client, server.accept_timeout(LONG).unwrap()));
            server.pending().unwrap();
        }
        drop((server, host));
        world.assert_clean();
    });
}

/// The number of its own domain, which is part of the path; or who can have written the keys.
#[test]
fn a_client_needs_no_more_than_two_wherever_the_keys_are() {
    bounded(|| {
        let world = World::new();
        let port: PortName = "one".parse().unwrap();
        let elsewhere: StorePath = "/local/domain/0/links".parse().unwrap();
        let store = world.dom0.store();
        store.write(&elsewhere, b"").unwrap();
        let permissions = vchan::host::Permissions {
            owner: DomId::DOM0,
            default: vchan::host::NodeAccess::None,
            domains: vec![(guest(), vchan::host::NodeAccess::Both)],
        };
        store.set_permissions(&elsewhere, &permissions).unwrap();
        let base = elsewhere.child("echo").unwrap();
        let servers = [
            world.server().port(port.clone()).bind().unwrap(),
            world.server().path(base.clone()).bind().unwrap(),
        ];
        let proxy = Proxy::start(&world.emulator, DomId::DOM0);
        let host = proxy.host(&world.emulator, DomId::DOM0);
        proxy.expect_trips(&[1, 3]);
        let first = connect(&host, |builder| builder.port(port));
        assert_eq!(proxy.trips_made()[1..], CLIENT);
        proxy.expect_trips(&[5]);
        let second = connect(&host, |builder| builder.path(base));
        assert_eq!(proxy.trips_made()[3..], [Kind::GET_PERMS; 2]);
        drop((first, second, servers, host));
        store.remove(&elsewhere).unwrap();
        world.assert_clean();
    });
}

#[test]
fn a_server_that_waits_wakes_up_only_to_see_to_its_keys() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, guest());
        let (host, calls) = watched(&proxy.host(&world.emulator, guest()));
        host.set_renewal_interval(LONG * 10);
        let mut server = bind(&host, "idle");
        let asked = proxy.requests();
        // Longer than everybody's usual intervals.
        let waited = server.accept_timeout(Duration::from_secs(3));
        assert!(matches!(waited, Err(Error::TimedOut { .. })), "{waited:?}");
        assert_eq!(proxy.requests(), asked);
        let sleeps = calls.sleep.load(Relaxed);
        assert!(sleeps < 3, "it woke up {sleeps} times");

        // Another domain than dom0 may not have existed when the keys were made.
        let peer = DomId::new(9).unwrap();
        let mut for_another = Server::builder(&host, peer).bind().unwrap();
        let asked = proxy.requests().len();
        let until = Instant::now() + LONG;
        while proxy.requests().len() == asked {
            assert!(Instant::now() < until, "nobody looks after the keys");
            let waited = for_another.accept_timeout(Duration::from_millis(100));
            assert!(matches!(waited, Err(Error::TimedOut { .. })), "{waited:?}");
        }
        drop((server, for_another, host));
        world.assert_clean();
    });
}
