//! E2, E3, E4 and E11: what stands in the keys, where they are, and whose number they name.

use std::thread;
use std::time::Instant;

use vchan::host::{NodeAccess, Permissions};
use vchan::{Client, DomId, Error, InvalidPortName, PortName, Server, StoreErrorKind, StorePath};

use crate::common::{LONG, World, bounded, guest};
use crate::proxy::{Death, Proxy};
use crate::{PROMPT, SHORT, connect, key, path, talk, value};

/// Writes the keys as a server that has crashed leaves them.
fn leave_keys(world: &World, ring_ref: &[u8], event_channel: &[u8]) {
    let store = world.guest.store();
    store.write(&key("ring-ref"), ring_ref).unwrap();
    store.write(&key("event-channel"), event_channel).unwrap();
}

#[test]
fn fault_e02_keys_of_a_server_that_crashed_are_waited_out() {
    bounded(|| {
        let world = World::new();
        let mut crashed = world.server().bind().unwrap();
        let keys = crashed.pending().unwrap().handshake().clone();
        drop(crashed);
        // A grant that has ended, a port that is another's, and both.
        let mut other = Server::builder(&world.guest, crate::domid(7))
            .path(path("data/other"))
            .bind()
            .unwrap();
        let used = other.pending().unwrap().handshake().event_channel;
        for (ring_ref, port) in [
            (keys.ring_ref.0, keys.event_channel.0),
            (keys.ring_ref.0, used.0),
            (9999, 1000),
        ] {
            leave_keys(
                &world,
                ring_ref.to_string().as_bytes(),
                port.to_string().as_bytes(),
            );
            let dom0 = world.dom0.clone();
            let client = thread::spawn(move || connect(&dom0, LONG));
            let error = connect(&world.dom0, SHORT).unwrap_err();
            assert!(error.to_string().contains("to publish anew"), "{error}");
            let mut server = world.server().bind().unwrap();
            let mut client = client.join().unwrap().unwrap();
            talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
        }
        drop(other);
        world.assert_clean();
    });
}

/// At no moment does a key of the last server stand beside one of the next, or lend it its
/// permissions.
#[test]
fn fault_e02_a_server_replaces_what_was_left_without_a_mixture() {
    bounded(|| {
        let world = World::new();
        let third = crate::domid(3);
        world.emulator.add_domain(third).unwrap();
        let stranger = world.emulator.host(third).unwrap();
        let proxy = Proxy::start(&world.emulator, guest());
        for_each_step(&world, &proxy, |step| {
            let keys = ["ring-ref", "event-channel"].map(key);
            let [ring_ref, port] = keys.each_ref().map(|key| value(world.dom0.store(), key));
            let is_old = |value: &Option<String>| value.as_deref() == Some("9999");
            assert!(
                is_old(&ring_ref) || !is_old(&port),
                "{step}: {ring_ref:?} beside {port:?}"
            );
            for key in &keys {
                let seen = value(stranger.store(), key);
                assert!(seen.is_none() || is_old(&seen), "{step}: {key} is {seen:?}");
            }
        });
        drop(stranger);
        world.assert_clean();
    });
}

/// Looks at the store at each step of a server that publishes where a crashed one has left keys
/// that domain 3 may read.
fn for_each_step(world: &World, proxy: &Proxy, mut look: impl FnMut(u32)) {
    for step in 0..100 {
        leave_keys(world, b"9999", b"9999");
        for name in ["ring-ref", "event-channel"] {
            let permissions = Permissions {
                owner: guest(),
                default: NodeAccess::None,
                domains: vec![(crate::domid(3), NodeAccess::Read)],
            };
            let store = world.guest.store();
            store.set_permissions(&key(name), &permissions).unwrap();
        }
        let host = proxy.host(&world.emulator, guest());
        proxy.die_at(step, Death::BeforeRequest);
        let bound = Server::builder(&host, DomId::DOM0).bind();
        look(step);
        if bound.is_ok() {
            assert!(step > 4, "it publishes in {step} steps");
            proxy.live();
            return;
        }
        proxy.revive();
    }
    panic!("there is no end to the steps");
}

#[test]
fn fault_e03_only_plain_numbers_are_taken() {
    bounded(|| {
        let world = World::new();
        let long = vec![b'7'; 1900];
        let wrong: [&[u8]; 18] = [
            b"0",
            b"-1",
            b"+8",
            b" 8",
            b"8 ",
            b"8\n",
            b"\t8",
            b"8\0",
            b"\0",
            b"0x8",
            b"8.0",
            b"1e3",
            b"4294967296",
            b"18446744073709551617",
            b"eight",
            b"\xFF\xFE",
            "٨".as_bytes(),
            &long,
        ];
        for value in wrong {
            for (ring_ref, port) in [(value, &b"4"[..]), (b"8", value)] {
                leave_keys(&world, ring_ref, port);
                let since = Instant::now();
                let error = connect(&world.dom0, LONG).unwrap_err();
                assert!(matches!(error, Error::BadKey { .. }), "{value:?}: {error}");
                let length = error.to_string().len();
                assert!(since.elapsed() < PROMPT && length < 400, "{length}");
            }
        }
        let store = world.guest.store();
        for (absent, stands) in [("ring-ref", "event-channel"), ("event-channel", "ring-ref")] {
            for empty in [false, true] {
                store.write(&key(stands), b"8").unwrap();
                store.remove(&key(absent)).unwrap();
                if empty {
                    store.write(&key(absent), b"").unwrap();
                }
                let error = connect(&world.dom0, SHORT).unwrap_err();
                let expected = if empty {
                    "is still empty"
                } else {
                    "is not there"
                };
                let expected = format!("{absent} {expected}");
                assert!(error.to_string().contains(&expected), "{error}");
            }
        }
        store.remove(&path("data/vchan")).unwrap();
        world.assert_clean();
    });
}

#[test]
fn fault_e04_no_text_leads_out_of_a_path() {
    let long = "a".repeat(4096);
    let hostile = [
        "",
        "/",
        "..",
        ".",
        "../x",
        "a/b",
        "a//b",
        "/a",
        "a/",
        "@releaseDomain",
        "a\0b",
        "a b",
        "a.b",
        "ä",
        "a\n",
        "%2f",
        "~",
        "*",
        long.as_str(),
    ];
    for text in hostile {
        let refused = text.parse::<PortName>();
        assert!(refused.is_err(), "{text:?}");
        assert!(Error::from(refused.unwrap_err()).to_string().len() < 200);
    }
    assert_eq!("".parse::<PortName>(), Err(InvalidPortName::Empty));
    for text in [
        "",
        "..",
        "a//b",
        "a/",
        "a\0b",
        "a b",
        "data/../x",
        "ä",
        &long,
    ] {
        assert!(text.parse::<StorePath>().is_err(), "{text:?}");
        let child = path("data/vchan").child(text);
        assert!(child.is_err(), "{text:?} below a path");
    }
    for text in ["-1", "65536", "32752", "", "0x1", "1/../2", "1\0", " 1"] {
        assert!(text.parse::<DomId>().is_err(), "{text:?}");
    }
    for good in ["a", "0", "-", "_", "Console-1_b"] {
        assert_eq!(good.parse::<PortName>().unwrap().as_str(), good);
    }
}

#[test]
fn fault_e04_a_port_is_where_the_header_recommends_it() {
    bounded(|| {
        let world = World::new();
        let [one, other] = ["console-1", "other"].map(|name| name.parse::<PortName>().unwrap());
        let mut server = world.server().port(one.clone()).bind().unwrap();
        let distractor = world.server().port(other).bind().unwrap();
        let keys = path("/local/domain/2/data/vchan/0/console-1");
        assert!(value(world.dom0.store(), &keys.child("ring-ref").unwrap()).is_some());
        let builder = Client::builder(&world.dom0, guest()).timeout(LONG);
        let mut client = builder.port(one).connect().unwrap();
        talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
        drop((client, server, distractor));
        world.assert_clean();
    });
}

/// A domain that was restored has another number, and may not give its nodes to the old one.
#[test]
fn fault_e11_the_own_number_is_that_of_now() {
    bounded(|| {
        let world = World::new();
        let own = path("/local/domain/2/domid");
        let write = |number: &str| world.dom0.store().write(&own, number.as_bytes()).unwrap();
        write("7");
        assert_eq!(world.guest.domid().unwrap(), crate::domid(7));
        write("2");
        let mut server = world.server().bind().unwrap();
        let permissions = world.dom0.store().permissions(&key("ring-ref")).unwrap();
        assert_eq!(permissions.owner, guest());
        assert_eq!(world.guest.domid().unwrap(), guest(), "noted by the way");
        let mut client = world.client();
        talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
        drop((client, server));

        // What was the own number may be a peer's now, and is not refused; what is the own number
        // now is.
        write("7");
        let error = connect(&world.guest, SHORT).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        write("2");
        world.server().bind().unwrap();
        let error = connect(&world.guest, SHORT).unwrap_err();
        assert!(matches!(error, Error::OwnDomain(_)), "{error}");

        write("not a number");
        let unknowing = world.emulator.host(guest()).unwrap();
        let error = Server::builder(&unknowing, DomId::DOM0).bind().unwrap_err();
        assert!(matches!(error, Error::BadKey { .. }), "{error}");
        let missing = world.dom0.store().read(&key("ring-ref")).unwrap_err();
        assert_eq!(missing.kind, StoreErrorKind::NotFound);
        write("2");
        drop(unknowing);
        world.assert_clean();
    });
}
