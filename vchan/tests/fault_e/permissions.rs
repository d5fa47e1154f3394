//! E5 and E6: who can read the keys, and who can have written them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vchan::host::{NodeAccess, Permissions};
use vchan::xenstore::codec::Kind;
use vchan::{Channel, Client, DomId, Error, Host, Server, StoreErrorKind, StorePath};

use crate::common::{LONG, World, bounded, guest, wait_until};
use crate::proxy::{Death, Proxy};
use crate::{domid, key, path, talk, value};

/// Bindings while a third domain looks.
const ROUNDS: u32 = 300;

#[test]
fn fault_e05_a_third_domain_that_polls_never_reads_a_key() {
    bounded(|| {
        let world = World::new();
        world.emulator.add_domain(domid(3)).unwrap();
        let stranger = world.emulator.host(domid(3)).unwrap();
        let (ended, keys) = (
            AtomicBool::new(false),
            ["ring-ref", "event-channel"].map(key),
        );
        let looks = thread::scope(|scope| {
            let polling = scope.spawn(|| {
                let mut looks = 0;
                // Relaxed: only a hint to stop.
                while !ended.load(Ordering::Relaxed) {
                    for key in &keys {
                        match stranger.store().read(key) {
                            Err(error) => assert_eq!(error.kind, StoreErrorKind::Denied),
                            Ok(value) => panic!("domain 3 reads {value:?}"),
                        }
                        looks += 1;
                    }
                }
                looks
            });
            let expected = Permissions {
                owner: guest(),
                default: NodeAccess::None,
                domains: vec![(DomId::DOM0, NodeAccess::Read)],
            };
            let as_expected = (0..ROUNDS).all(|_| {
                let _server = world.server().bind().unwrap();
                let set = |key| world.guest.store().permissions(key).unwrap();
                keys.iter().all(|key| set(key) == expected)
            });
            ended.store(true, Ordering::Relaxed);
            assert!(as_expected, "the permissions are others");
            polling.join().unwrap()
        });
        assert!(looks > ROUNDS, "it has hardly looked: {looks}");
        drop(stranger);
        world.assert_clean();
    });
}

/// A directory outside of all domains' own, in which `writers` may write.
fn shared_directory(world: &World, writers: &[DomId]) -> StorePath {
    let directory = path("/links");
    let store = world.dom0.store();
    store.write(&directory, b"").unwrap();
    let permissions = Permissions {
        owner: DomId::DOM0,
        default: NodeAccess::None,
        domains: writers
            .iter()
            .map(|&domid| (domid, NodeAccess::Both))
            .collect(),
    };
    store.set_permissions(&directory, &permissions).unwrap();
    directory.child("echo").unwrap()
}

fn connect_at(host: &Host, path: &StorePath) -> Result<Channel, Error> {
    let builder = Client::builder(host, guest()).path(path.clone());
    builder.timeout(LONG).connect()
}

#[test]
fn fault_e06_keys_of_a_third_domain_are_refused() {
    bounded(|| {
        let world = World::new();
        world.emulator.add_domain(domid(3)).unwrap();
        let stranger = world.emulator.host(domid(3)).unwrap();
        let base = shared_directory(&world, &[guest(), domid(3)]);
        for name in ["ring-ref", "event-channel"] {
            let key = base.child(name).unwrap();
            stranger.store().write(&key, b"8").unwrap();
            let open = Permissions {
                owner: domid(3),
                default: NodeAccess::Read,
                domains: Vec::new(),
            };
            stranger.store().set_permissions(&key, &open).unwrap();
        }
        let error = connect_at(&world.dom0, &base).unwrap_err();
        assert!(matches!(error, Error::ForeignKey { .. }), "{error}");
        for part in [
            "/links/echo/ring-ref",
            "domain 2",
            "domain 3, which owns it,",
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }

        // Nor may one publish over them.
        let refused = Server::builder(&world.guest, DomId::DOM0)
            .path(base)
            .bind()
            .unwrap_err();
        assert!(matches!(refused, Error::Store(ref error) if error.kind == StoreErrorKind::Denied));
        world.dom0.store().remove(&path("/links")).unwrap();
        drop(stranger);
        world.assert_clean();
    });
}

#[test]
fn fault_e06_keys_that_a_third_domain_may_write_are_refused() {
    bounded(|| {
        let world = World::new();
        world.emulator.add_domain(domid(3)).unwrap();
        let base = shared_directory(&world, &[guest()]);
        let mut server = world.server().path(base.clone()).bind().unwrap();
        let port = base.child("event-channel").unwrap();
        let good = world.guest.store().permissions(&port).unwrap();
        for (default, domains, who) in [
            (NodeAccess::Both, Vec::new(), "every domain"),
            (
                NodeAccess::None,
                vec![(domid(3), NodeAccess::Write)],
                "domain 3",
            ),
        ] {
            let (owner, store) = (guest(), world.guest.store());
            let open = Permissions {
                owner,
                default,
                domains,
            };
            store.set_permissions(&port, &open).unwrap();
            let error = connect_at(&world.dom0, &base).unwrap_err();
            assert!(matches!(error, Error::ForeignKey { .. }), "{error}");
            assert!(error.to_string().contains(who), "{error}");
        }
        world.guest.store().set_permissions(&port, &good).unwrap();
        let mut client = connect_at(&world.dom0, &base).unwrap();
        talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
        drop((client, server));
        assert_eq!(
            value(world.dom0.store(), &base),
            None,
            "nothing of it stays"
        );
        world.dom0.store().remove(&path("/links")).unwrap();
        world.assert_clean();
    });
}

/// Below the server's own directory nobody else can write, and nothing is asked.
#[test]
fn fault_e06_the_usual_path_costs_no_question() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, DomId::DOM0);
        let server = world.server().bind().unwrap();
        let host = proxy.host(&world.emulator, DomId::DOM0);
        let client = Client::builder(&host, guest())
            .timeout(LONG)
            .connect()
            .unwrap();
        let expected = [Kind::READ; 4];
        assert_eq!(
            proxy.requests(),
            expected,
            "domid, both keys, the first again"
        );
        drop((client, server, host));
        world.assert_clean();
    });
}

#[test]
fn fault_e05_permissions_that_the_store_did_not_set_are_set_again() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, DomId::DOM0);
        let host = proxy.host(&world.emulator, DomId::DOM0);
        let late = domid(5);
        let mut server = Server::builder(&host, late).bind().unwrap();
        // What the server has set is lost: the domain was not there. It sees that there is one now,
        // with its second question, and is not to get any further.
        world.emulator.add_domain(late).unwrap();
        proxy.die_at(2, Death::BeforeRequest);
        let accepting = thread::spawn(move || drop(server.accept_timeout(LONG).unwrap()));
        wait_until(|| !proxy.is_alive());
        proxy.revive();
        let client = Client::builder(&world.emulator.host(late).unwrap(), DomId::DOM0)
            .timeout(LONG)
            .connect();
        accepting.join().unwrap();
        drop((client.unwrap(), host, proxy));
        world.emulator.destroy_domain(late).unwrap();
        world.assert_clean();
    });
}
