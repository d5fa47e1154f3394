//! A million bytes each way at the same time, with checksums.

use std::sync::atomic::Ordering;

use vchan::Channel;
use vchan::host::GrantRef;
use vchan::layout::Ring;
use vchan_tests::pattern::{Pattern, checksum};

use super::{Mode, World, c_domain, exchange};

const MILLION: usize = 1_000_000;

#[test]
fn a_million_bytes_each_way_as_a_stream_with_a_c_server() {
    let Some((world, channel)) = World::c_server(5000, 5000) else {
        return;
    };
    a_million_each_way(world, channel, Mode::Stream, 3000);
}

#[test]
fn a_million_bytes_each_way_as_a_stream_with_a_c_client() {
    let Some((world, channel)) = World::c_client(5000, 5000) else {
        return;
    };
    a_million_each_way(world, channel, Mode::Stream, 3000);
}

#[test]
fn a_million_bytes_each_way_as_datagrams_with_a_c_server() {
    let Some((world, channel)) = World::c_server(5000, 5000) else {
        return;
    };
    a_million_each_way(world, channel, Mode::Datagram, 1500);
}

#[test]
fn a_million_bytes_each_way_as_datagrams_with_a_c_client() {
    let Some((world, channel)) = World::c_client(5000, 5000) else {
        return;
    };
    a_million_each_way(world, channel, Mode::Datagram, 1500);
}

#[test]
fn a_million_bytes_each_way_in_the_smallest_rings() {
    let Some((world, channel)) = World::c_client(0, 0) else {
        return;
    };
    a_million_each_way(world, channel, Mode::Stream, 3000);
}

#[test]
fn a_million_bytes_each_way_as_datagrams_of_a_whole_ring() {
    let Some((world, channel)) = World::c_server(4096, 4096) else {
        return;
    };
    a_million_each_way(world, channel, Mode::Datagram, 4096);
}

/// C keeps its indices in the page only, so a fresh server's can be set to just below 2^32.
#[test]
fn a_million_bytes_each_way_while_the_indices_wrap() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.c_serves(5000, 5000);
    let ring_ref = GrantRef(world.key(c_domain(), "ring-ref"));
    let page = world.emulator.raw_page(c_domain(), ring_ref).unwrap();
    for ring in [Ring::Left, Ring::Right] {
        let nearly = u32::MAX - 100_000;
        page.store_index(ring.cons(), nearly, Ordering::Relaxed);
        page.store_index(ring.prod(), nearly, Ordering::Relaxed);
    }
    drop(page);
    let channel = world.connect();
    a_million_each_way(world, channel, Mode::Stream, 3000);
}

fn a_million_each_way(mut world: World, channel: Channel, mode: Mode, chunk: usize) {
    let bytes = Pattern::from_seed(2).bytes(MILLION);
    world.c.tell(&format!(
        "exchange {MILLION} {MILLION} {chunk} {}",
        mode.name()
    ));
    let mut halves = channel.into_split();
    let read = exchange(&mut halves, &bytes, MILLION, chunk, mode);
    assert_eq!(
        world.c.answer(),
        format!(
            "sent={MILLION} received={MILLION} checksum={}",
            checksum(&bytes)
        )
    );
    assert!(
        read == world.c.written(MILLION),
        "what C wrote is what we read"
    );
    assert_eq!(
        (halves.0.bytes_read(), halves.1.bytes_written()),
        (1_000_000, 1_000_000)
    );
    drop(halves);
    world.c.run("close");
    world.assert_clean();
}
