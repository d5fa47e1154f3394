//! Control pages, keys and permissions: C's and ours, byte for byte.

use std::time::Duration;

use vchan::host::{GrantRef, NodeAccess, Permissions};
use vchan::layout::{ControlPage, Geometry};
use vchan::memory::PAGE_SIZE;
use vchan::{Client, DomId, Error, Server, StoreErrorKind};

use super::{LIMIT, World, accept, bytes, c_domain, key_path};
use crate::orders::choices;

/// The seed's session: read and write size 5000, `ring-ref` 8.
const GOLDEN: [u8; 40] = [
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x0d, 0x00, 0x0d, 0x00, 0x02, 0x01, 0x01, 0x00, 0x09, 0x00, 0x00, 0x00, 0x0a, 0x00, 0x00, 0x00,
    0x0b, 0x00, 0x00, 0x00, 0x0c, 0x00, 0x00, 0x00,
];
/// Live and notify bytes: client live, server live, client notify, server notify.
const LIVE_AND_NOTIFY: std::ops::Range<usize> = 20..24;

#[test]
fn a_c_server_shares_the_golden_page() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.c_serves(5000, 5000);
    assert_eq!(world.key(c_domain(), "ring-ref"), 8);
    let page = world.control_page(c_domain());
    assert_eq!(page[..40], GOLDEN);
    assert_eq!(page[40..], [0; PAGE_SIZE - 40]);
    // Through C's eyes too: the driver looks where we look.
    assert_eq!(world.c.page(40), GOLDEN);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn our_client_reports_the_golden_page_of_a_c_server() {
    let Some((mut world, channel)) = World::c_server(5000, 5000) else {
        return;
    };
    let handshake = channel.handshake();
    assert_eq!(handshake.page, GOLDEN);
    assert_eq!(handshake.ring_ref, GrantRef(8));
    drop(channel);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn both_servers_share_equal_pages_for_all_sizes() {
    let Some(mut world) = World::new() else {
        return;
    };
    let mut compared = 0;
    for (read_min, write_min) in choices() {
        world.c_serves(read_min, write_min);
        let theirs = world.control_page(c_domain());
        let server = world.serve(read_min, write_min);
        let ours = world.control_page(DomId::DOM0);

        // Both of them number their grants from 8 on, in the order of sharing, so not even the
        // references differ.
        let at = ours
            .iter()
            .zip(&theirs)
            .position(|(ours, theirs)| ours != theirs);
        assert_eq!(
            at, None,
            "sizes {read_min} and {write_min}: the first byte that differs"
        );
        let geometry = Geometry::for_server(read_min, write_min).unwrap();
        let page = ControlPage::parse(theirs.first_chunk().unwrap()).unwrap();
        assert_eq!(page.geometry, geometry, "sizes {read_min} and {write_min}");
        drop(server);
        world.c.run("close");
        compared += 1;
    }
    assert!(compared > 100, "only {compared} pairs of sizes");
    world.assert_clean();
}

#[test]
fn both_servers_refuse_more_than_a_mebibyte() {
    let Some(mut world) = World::new() else {
        return;
    };
    for (read_min, write_min) in [((1 << 20) + 1, 0), (0, (1 << 20) + 1)] {
        let answer = world
            .c
            .ask(&format!("server 0 data/vchan {read_min} {write_min}"));
        assert!(answer.starts_with("fail"), "{answer}");
        let server = Server::builder(&world.ours, c_domain());
        let error = server
            .read_size(read_min)
            .write_size(write_min)
            .bind()
            .unwrap_err();
        assert!(matches!(error, Error::RingTooLarge { .. }), "{error}");
    }
    world.assert_clean();
}

#[test]
fn a_client_of_either_library_leaves_the_same_live_and_notify_bytes() {
    let Some(mut world) = World::new() else {
        return;
    };
    let mut server = world.serve(5000, 5000);
    let ring_ref = GrantRef(world.key(DomId::DOM0, "ring-ref"));
    let page = world.emulator.raw_page(DomId::DOM0, ring_ref).unwrap();
    assert_eq!(bytes(&page)[LIVE_AND_NOTIFY], [2, 1, 1, 0]);
    world.c_connects();
    assert_eq!(
        bytes(&page)[LIVE_AND_NOTIFY],
        [1, 1, 1, 1],
        "a C client, our server"
    );
    let channel = accept(&mut server);
    drop((channel, server));
    world.c.run("close");

    world.c_serves(5000, 5000);
    let channel = world.connect();
    assert_eq!(
        world.c.page(24)[LIVE_AND_NOTIFY],
        [1, 1, 1, 1],
        "our client, a C server"
    );
    drop(channel);
    assert_eq!(
        world.c.page(24)[LIVE_AND_NOTIFY][..2],
        [0, 1],
        "our client has closed"
    );
    world.c.run("close");
    drop(page);
    world.assert_clean();
}

/// The header after each step of the specification's session, with the C library on both ends: if
/// the emulated host and the shim did anything but what Xen does, these would differ.
#[test]
fn two_c_libraries_go_through_the_session_of_the_specification() {
    let Some(mut world) = World::new() else {
        return;
    };
    let third = DomId::new(3).unwrap();
    world.emulator.add_domain(third).unwrap();
    let mut client = vchan_tests::driver::Driver::start(&world.emulator, third).unwrap();
    world.c.run("server 3 data/vchan 5000 5000");
    client.run("client 2 /local/domain/2/data/vchan");
    assert_eq!(world.c.page(24)[LIVE_AND_NOTIFY], [1, 1, 1, 1]);

    assert_eq!(client.ask("write 16"), "16");
    let page = world.c.page(24);
    assert_eq!(page[4..8], [0x10, 0, 0, 0], "left.prod");
    assert_eq!(page[LIVE_AND_NOTIFY], [1, 1, 0, 1]);

    let written = client.written(16);
    world.c.expect("read", 64, &written);
    let page = world.c.page(24);
    assert_eq!(page[..4], [0x10, 0, 0, 0], "left.cons");
    assert_eq!(page[LIVE_AND_NOTIFY], [1, 1, 1, 1]);

    client.run("close");
    assert_eq!(world.c.page(24)[LIVE_AND_NOTIFY], [0, 1, 1, 1]);
    assert_eq!(world.c.number("open"), 0);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn both_servers_give_the_keys_the_same_permissions() {
    let Some(mut world) = World::new() else {
        return;
    };
    let of = |owner, peer| Permissions {
        owner,
        default: NodeAccess::None,
        domains: vec![(peer, NodeAccess::Read)],
    };
    world.c_serves(0, 0);
    let server = world.serve(0, 0);
    // Dom0 may read all permissions.
    for key in ["ring-ref", "event-channel"] {
        let store = world.ours.store();
        let theirs = store.permissions(&key_path(c_domain(), key)).unwrap();
        assert_eq!(theirs, of(c_domain(), DomId::DOM0), "C, {key}");
        let ours = store.permissions(&key_path(DomId::DOM0, key)).unwrap();
        assert_eq!(ours, of(DomId::DOM0, c_domain()), "ours, {key}");
    }
    drop(server);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn both_servers_remove_their_keys_when_they_close() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.c_serves(0, 0);
    let server = world.serve(0, 0);
    drop(server);
    world.c.run("close");
    for domid in [c_domain(), DomId::DOM0] {
        for key in ["ring-ref", "event-channel"] {
            let error = world.ours.store().read(&key_path(domid, key)).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
        }
    }
    world.assert_clean();
}

/// C has room for 63 characters, of which `/event-channel` takes 14, and cuts off the rest of a key
/// without a word.
#[test]
fn a_path_of_50_characters_is_too_long_for_c_and_not_for_us() {
    let Some(mut world) = World::new() else {
        return;
    };
    let path_of = |length: usize| format!("data/vchan/{}", "x".repeat(length - 11));
    let client = |world: &World, path: &str, timeout| {
        let client = Client::builder(&world.ours, c_domain()).path(path.parse().unwrap());
        client.timeout(timeout).connect()
    };
    let just_fits = path_of(49);
    world.c.run(&format!("server 0 {just_fits} 0 0"));
    drop(client(&world, &just_fits, LIMIT).unwrap());
    world.c.run("close");

    let too_long = path_of(50);
    world.c.run(&format!("server 0 {too_long} 0 0"));
    let error = client(&world, &too_long, Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    let cut = format!("/local/domain/2/{too_long}/event-channe");
    world.ours.store().read(&cut.parse().unwrap()).unwrap();
    world.c.run("close");

    // C removes its directory and leaves the one above, which it made too.
    let above = "/local/domain/2/data/vchan".parse().unwrap();
    assert!(world.ours.store().directory(&above).unwrap().is_empty());
    world.ours.store().remove(&above).unwrap();

    // The client's path is absolute.
    let connect = |world: &mut World, length: usize| {
        let path = path_of(length - "/local/domain/0/".len());
        let server = Server::builder(&world.ours, c_domain()).path(path.parse().unwrap());
        let mut server = server.bind().unwrap();
        let answer = world.c.ask(&format!("client 0 /local/domain/0/{path}"));
        if answer == "ok" {
            drop(accept(&mut server));
            world.c.run("close");
        }
        answer
    };
    assert_eq!(connect(&mut world, 49), "ok");
    assert_ne!(connect(&mut world, 50), "ok");
    world.assert_clean();
}
