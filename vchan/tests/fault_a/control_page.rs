//! A8 to A11 and A14: orders, grants, and pages that are no control pages.

use std::io::{Read, Write};

use vchan::layout::{Geometry, InvalidPage};
use vchan::memory::PAGE_SIZE;
use vchan::{Client, DomId, Error};

use crate::common::raw::RawPeer;
use crate::common::watched::{hook, watched};
use crate::common::{LONG, World, guest, pattern};
use crate::{SIDES, connect_to, victims};

fn set_orders(raw: &RawPeer, left: u16, right: u16) {
    raw.control.copy_in(16, &left.to_le_bytes());
    raw.control.copy_in(18, &right.to_le_bytes());
}

#[test]
fn fault_a08_orders_that_cannot_be_are_refused_before_any_ring_is_mapped() {
    let orders = [0, 1, 9, 10, 11, 12, 20, 21, 31, 32, 63, 64, 266, 0xFFFF];
    let mut refused = 0;
    for left in orders {
        for right in orders {
            let range = 10..=20;
            let legal = range.contains(&left)
                && range.contains(&right)
                && (left, right) != (10, 10)
                && (left, right) != (11, 11)
                && (left, right) != (10, 20)
                && (left, right) != (20, 10);
            assert_eq!(Geometry::new(left, right).is_ok(), legal, "{left} {right}");
            // As a client meets them: a choice of the table, the rest is the same code.
            if legal || !(left == right || left == 12 || right == 10) {
                continue;
            }
            let (connected, maps, world) = connect_to(|raw| set_orders(raw, left, right));
            let error = connected.unwrap_err();
            assert!(
                matches!(error, Error::Page(InvalidPage::Geometry(_))),
                "{left} {right}: {error}"
            );
            assert_eq!(maps, [1], "the control page and nothing else");
            world.assert_clean();
            refused += 1;
        }
    }
    assert!(refused > 20);
}

#[test]
fn fault_a09_orders_that_change_after_the_handshake_mean_nothing() {
    for (left, right) in [(10, 11), (12, 12), (20, 20), (0, 0), (0xFFFF, 0xFFFF)] {
        let mut victim = victims(5000, 5000);
        victim.page.copy_in(16, &u16::to_le_bytes(left));
        victim.page.copy_in(18, &u16::to_le_bytes(right));
        for round in 0..5 {
            for side in SIDES {
                let data = pattern(8192, round);
                victim.end(side).write_all(&data).unwrap();
                let mut read = vec![0; 8192];
                victim.end(side.peer()).recv(&mut read).unwrap();
                assert!(read == data, "{left} {right}");
                assert_eq!(victim.end(side).ring_sizes(), (8192, 8192));
            }
        }
    }
}

#[test]
fn fault_a09_orders_that_change_during_the_handshake_mean_nothing() {
    let world = World::new();
    let geometry = Geometry::new(12, 13).unwrap();
    let mut raw = RawPeer::serve(&world.guest, DomId::DOM0, geometry, 0).unwrap();
    let (dom0, calls) = watched(&world.dom0);
    let reference = world
        .guest
        .store()
        .read(&"data/vchan/ring-ref".parse().unwrap());
    let reference: u32 = String::from_utf8(reference.unwrap())
        .unwrap()
        .parse()
        .unwrap();
    let page = world
        .emulator
        .raw_page(guest(), vchan::host::GrantRef(reference))
        .unwrap();
    let mut maps = 0;
    hook(&calls.before_map, move |_| {
        maps += 1;
        // The control page is mapped and copied; now come the rings.
        if maps == 2 {
            page.copy_in(16, &20u16.to_le_bytes());
            page.copy_in(18, &20u16.to_le_bytes());
            page.copy_in(24, &[0xFF; 400]);
        }
    });
    let mut client = Client::builder(&dom0, guest())
        .timeout(LONG)
        .connect()
        .unwrap();
    assert!(raw.connected());
    assert_eq!(client.ring_sizes(), (8192, 4096));
    client.write_all(&pattern(4096, 5)).unwrap();
    let mut read = vec![0; 4096];
    assert_eq!(raw.consume(&mut read), 4096);
    assert!(read == pattern(4096, 5));
    raw.produce(&pattern(8192, 6));
    let mut read = vec![0; 8192];
    client.read_exact(&mut read).unwrap();
    assert!(read == pattern(8192, 6));
}

#[test]
fn fault_a10_a_list_of_grants_that_would_run_into_a_ring_is_refused() {
    for left in 10u16..=20 {
        for right in 10u16..=20 {
            let pages = |order: u16| {
                if order < 12 {
                    0
                } else {
                    1usize << (order - 12)
                }
            };
            let end = 24 + 4 * (pages(left) + pages(right));
            let first_ring = match (left, right) {
                (10, _) | (_, 10) => 1024,
                (11, _) | (_, 11) => 2048,
                _ => PAGE_SIZE,
            };
            let apart = left != right || left > 11;
            let legal = end <= first_ring && apart;
            assert_eq!(Geometry::new(left, right).is_ok(), legal, "{left} {right}");
        }
    }
    // 24 + 4 * 256 is 1048: into the ring at 1024.
    for (left, right) in [(10, 20), (20, 10)] {
        let (connected, maps, world) = connect_to(|raw| set_orders(raw, left, right));
        let error = connected.unwrap_err();
        assert!(error.to_string().contains("list of grants"), "{error}");
        assert_eq!(maps, [1]);
        world.assert_clean();
    }
}

#[test]
fn fault_a11_grants_that_cannot_be_mapped_are_refused_and_nothing_stays_mapped() {
    let own = |raw: &RawPeer, nth: usize| raw.load(24 + 4 * nth);
    type Spoil<'a> = &'a dyn Fn(&RawPeer);
    let set = |raw: &RawPeer, nth: usize, value: u32| raw.store(24 + 4 * nth, value);
    let spoils: [(&str, Spoil<'_>); 7] = [
        ("the same twice", &|raw| set(raw, 1, own(raw, 0))),
        ("reference 0", &|raw| set(raw, 0, 0)),
        ("a reserved reference", &|raw| set(raw, 3, 7)),
        ("the control page", &|raw| set(raw, 2, 8)),
        ("more than 16 bits", &|raw| set(raw, 1, 0x1_0000)),
        ("all bits", &|raw| set(raw, 3, u32::MAX)),
        ("the other ring's", &|raw| set(raw, 0, own(raw, 2))),
    ];
    for (what, spoil) in spoils {
        let (connected, maps, world) = connect_to(spoil);
        let error = connected.unwrap_err();
        // A server can mend it by publishing anew, so it is waited for.
        assert!(matches!(error, Error::TimedOut { .. }), "{what}: {error}");
        assert!(maps.len() >= 2, "{what}: the rings were tried");
        world.assert_clean();
    }
}

#[test]
fn fault_a11_grants_that_change_between_two_mappings_mean_nothing() {
    let world = World::new();
    let mut server = world
        .server()
        .read_size(8192)
        .write_size(8192)
        .bind()
        .unwrap();
    let handshake = server.pending().unwrap().handshake().clone();
    let page = world
        .emulator
        .raw_page(guest(), handshake.ring_ref)
        .unwrap();
    let (dom0, calls) = watched(&world.dom0);
    let (sender, mapped) = std::sync::mpsc::channel();
    hook(&calls.before_map, move |references| {
        if references.len() > 1 {
            page.copy_in(24, &[0xFF; 16]);
        }
        sender.send(references).unwrap();
    });
    let client = Client::builder(&dom0, guest())
        .timeout(LONG)
        .connect()
        .unwrap();
    let mapped: Vec<u32> = mapped
        .try_iter()
        .flatten()
        .map(|reference| reference.0)
        .collect();
    let listed = handshake.page[24..].chunks_exact(4);
    let listed: Vec<u32> = listed
        .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(mapped[0], handshake.ring_ref.0);
    assert_eq!(mapped[1..], listed);
    drop((client, server));
    world.assert_clean();
}

#[test]
fn fault_a14_a_page_of_zeros_or_ones_is_no_control_page() {
    for (byte, what) in [(0, "zeros"), (0xFF, "ones")] {
        let (connected, maps, world) = connect_to(|raw| raw.control.copy_in(0, &[byte; PAGE_SIZE]));
        let error = connected.unwrap_err();
        assert!(
            matches!(error, Error::Page(InvalidPage::Blank(found)) if found == what),
            "{error}"
        );
        assert_eq!(maps, [1]);
        world.assert_clean();
    }
}
