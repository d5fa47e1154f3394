//! E7, E10 and E12: collisions, quotas, and what is very large or no text.

use std::time::Instant;

use vchan::host::Store;
use vchan::xenstore::Client;
use vchan::{Error, PortName, Server, StoreError, StoreErrorKind};
use vchan_emulator::Limits;

use crate::common::{LONG, World, bounded, guest};
use crate::{PROMPT, connect, path};

fn store_of(world: &World) -> Client {
    let place = world.emulator.domain_directory(guest()).join("xenstored");
    Client::open_at(place).unwrap()
}

#[test]
fn fault_e07_a_transaction_that_always_collides_is_given_up() {
    bounded(|| {
        let world = World::new();
        let (store, node) = (store_of(&world), path("data/node"));
        let since = Instant::now();
        let mut tries = 0;
        let error = store.transaction(|transaction| {
            tries += 1;
            transaction.write(&node, b"ours")?;
            world.guest.store().write(&node, b"theirs")
        });
        let error = error.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Again, "{error}");
        assert!(error.to_string().contains("20 times"), "{error}");
        assert!(tries == 20 && since.elapsed() < PROMPT, "{tries}");
        assert_eq!(world.guest.store().read(&node).unwrap(), b"theirs");
        // None of them is left open, however many there were.
        for _ in 0..30 {
            drop(store.begin().unwrap());
        }
        store.remove(&node).unwrap();
        drop(store);
        world.assert_clean();
    });
}

fn port(number: usize) -> PortName {
    format!("port-{number}").parse().unwrap()
}

#[test]
fn fault_e10_a_hundred_servers_fit_into_the_default_quotas() {
    bounded(|| {
        let world = World::new();
        let bind = |number| {
            world
                .server()
                .read_size(1024)
                .write_size(1024)
                .port(port(number))
                .bind()
        };
        let servers: Vec<Server> = (0..100).map(|number| bind(number).unwrap()).collect();
        let listed = world
            .dom0
            .store()
            .directory(&path("/local/domain/2/data/vchan/0"));
        assert_eq!(listed.unwrap().len(), 100);
        drop(servers);
        world.assert_clean();
    });
}

fn quota(error: Error) -> StoreError {
    match error {
        Error::Store(error) if error.kind == StoreErrorKind::Quota => error,
        other => panic!("not a quota: {other}"),
    }
}

/// With one node more at a time, until all fit.
#[test]
fn fault_e10_a_quota_of_nodes_is_named_and_nothing_is_left() {
    bounded(|| {
        let world = World::new();
        let mut refusals = 0;
        for nodes in 0..20 {
            let mut limits = Limits::default();
            limits.store_nodes = nodes;
            world.emulator.set_limits(limits);
            match world.server().port(port(1)).bind() {
                Err(error) => {
                    let error = quota(error);
                    assert!(error.to_string().contains("--entry-nb"), "{error}");
                    world.emulator.assert_clean();
                    refusals += 1;
                }
                Ok(server) => {
                    assert!(refusals > 3, "after {refusals} refusals");
                    drop(server);
                    world.emulator.assert_clean();
                    return;
                }
            }
        }
        panic!("it never fits");
    });
}

#[test]
fn fault_e10_other_quotas_are_named() {
    bounded(|| {
        let world = World::new();
        let mut limits = Limits::default();
        limits.store_watches = 0;
        limits.store_transactions = 0;
        limits.store_permissions = 1;
        world.emulator.set_limits(limits);

        let store = store_of(&world);
        let watch = store.watch(&path("data/a")).unwrap();
        let error = store.watch(&path("data/b")).err().unwrap();
        assert_eq!(error.kind, StoreErrorKind::Quota);
        assert!(error.to_string().contains("--watch-nb"), "{error}");
        // A client that cannot watch says so instead of waiting for nothing.
        let waiting = vchan::Client::builder(&world.guest, crate::domid(7)).timeout(LONG);
        let error = quota(waiting.connect().unwrap_err());
        assert!(error.to_string().contains("--watch-nb"), "{error}");

        let transaction = store.begin().unwrap();
        let error = store.begin().unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Quota);
        assert!(error.to_string().contains("--transaction"), "{error}");
        let error = quota(world.server().bind().unwrap_err());
        assert!(error.to_string().contains("--perm-nb"), "{error}");
        drop((transaction, watch, store));
        world.assert_clean();
    });
}

#[test]
fn fault_e10_a_place_where_one_may_not_write() {
    bounded(|| {
        let world = World::new();
        for place in ["/tool/vchan", "/local/domain/0/data/vchan"] {
            let error = world.server().path(path(place)).bind().unwrap_err();
            let is_denied =
                matches!(&error, Error::Store(why) if why.kind == StoreErrorKind::Denied);
            assert!(is_denied && error.to_string().contains(place), "{error}");
            world.emulator.assert_clean();
        }
    });
}

#[test]
fn fault_e12_large_directories_empty_and_binary_values() {
    bounded(|| {
        let world = World::new();
        let (store, directory) = (world.dom0.store(), path("/many"));
        let mut names = Vec::new();
        for number in 0..1500_u32 {
            let name = format!("child-{number:04}");
            let node = directory.child(&name).unwrap();
            store
                .write(&node, &[number.to_le_bytes()[0], 0, 0xFF, b'\n'])
                .unwrap();
            names.push(name);
        }
        let mut listed = store.directory(&directory).unwrap();
        listed.sort();
        assert_eq!(listed, names, "more than four messages' worth");
        assert_eq!(
            store.read(&directory.child("child-0007").unwrap()).unwrap(),
            b"\x07\0\xFF\n"
        );
        assert_eq!(store.read(&directory).unwrap(), b"");
        let every: Vec<u8> = (0..=255).collect();
        store.write(&directory, &every).unwrap();
        assert_eq!(store.read(&directory).unwrap(), every);
        store.remove(&directory).unwrap();

        // A crowd beside the keys is no obstacle, nor is a value in the directory above them; but
        // that is left as it is.
        let base = path("/local/domain/2/data/vchan");
        for number in 0..100 {
            store
                .write(&base.child(&format!("other-{number}")).unwrap(), b"\0")
                .unwrap();
        }
        let server = world.server().bind().unwrap();
        let client = connect(&world.dom0, LONG).unwrap();
        drop((client, server));
        assert_eq!(store.directory(&base).unwrap().len(), 100);
        store.remove(&base).unwrap();
        world.assert_clean();
    });
}
