//! Every pair of ring orders that a server can choose.

use vchan::Channel;
use vchan::layout::{Geometry, Ring, Side};
use vchan_tests::pattern::{Pattern, checksum};

use super::{LIMIT, Mode, World, accept, exchange};

/// Sizes that make a server choose each pair of orders once, and those at the edges of the table.
pub(crate) fn choices() -> impl Iterator<Item = (usize, usize)> {
    let small = [(1024, 2048), (2048, 1024)].into_iter();
    let left_small = (12..=20).map(|right| (2048, 1 << right));
    let right_small = (12..=20).map(|left| (1 << left, 2048));
    let large = (12..=20).flat_map(|left| (12..=20).map(move |right| (1 << left, 1 << right)));
    let edges = [
        (0, 0),
        (1024, 1024),
        (1025, 1025),
        (1024, 2049),
        (2048, 2048),
        (2049, 2048),
        (4096, 4097),
        (4097, 0),
        (5000, 5000),
    ];
    small
        .chain(left_small)
        .chain(right_small)
        .chain(large)
        .chain(edges)
}

#[test]
fn the_choices_are_all_pairs_that_a_server_can_make() {
    let mut pairs: Vec<(u8, u8)> = choices()
        .map(|(read_min, write_min)| {
            let geometry = Geometry::for_server(read_min, write_min).unwrap();
            (
                geometry.order(Ring::Left).number(),
                geometry.order(Ring::Right).number(),
            )
        })
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    // 10/11, 11/10, 11 with 12 to 20 on either side, 12 to 20 with 12 to 20.
    assert_eq!(pairs.len(), 2 + 9 + 9 + 81);
}

#[test]
fn a_c_server_with_every_pair_of_orders() {
    let Some(mut world) = World::new() else {
        return;
    };
    for (read_min, write_min) in choices() {
        world.c_serves(read_min, write_min);
        let channel = world.connect();
        fill_and_exchange(&mut world, channel, Side::Client, (read_min, write_min));
    }
    world.assert_clean();
}

#[test]
fn a_c_client_with_every_pair_of_orders() {
    let Some(mut world) = World::new() else {
        return;
    };
    for (read_min, write_min) in choices() {
        let mut server = world.serve(read_min, write_min);
        world.c_connects();
        let channel = accept(&mut server);
        fill_and_exchange(&mut world, channel, Side::Server, (read_min, write_min));
    }
    world.assert_clean();
}

/// Fills both rings to the last byte, empties them, then sends a ring and a half each way in calls
/// that wrap at odd places; closes both ends.
fn fill_and_exchange(world: &mut World, mut channel: Channel, side: Side, sizes: (usize, usize)) {
    let geometry = Geometry::for_server(sizes.0, sizes.1).unwrap();
    let size = |ring| geometry.order(ring).bytes() as usize;
    let (reads, writes) = (size(Ring::read_by(side)), size(Ring::written_by(side)));
    assert_eq!(channel.ring_sizes(), (reads, writes), "{sizes:?}");
    let c = &mut world.c;
    c.run("seed 1");
    let mut theirs = Pattern::from_seed(1);
    let mut ours = Pattern::from_seed(2);

    assert_eq!(
        c.number("space"),
        i64::try_from(reads).unwrap(),
        "{sizes:?}"
    );
    // One more than fits: the ring takes all but that one.
    assert_eq!(
        c.ask(&format!("write {}", reads + 1)),
        format!("{reads}"),
        "{sizes:?}"
    );
    assert_eq!(c.number("space"), 0, "{sizes:?}");
    assert_eq!(channel.data_ready().unwrap(), reads, "{sizes:?}");
    let mut read = vec![0; reads];
    channel.recv(&mut read).unwrap();
    assert!(
        read == theirs.bytes(reads),
        "{sizes:?}: a ring full of C's bytes"
    );

    let full = ours.bytes(writes + 1);
    assert_eq!(channel.write(&full).unwrap(), writes, "{sizes:?}");
    assert_eq!(channel.buffer_space().unwrap(), 0, "{sizes:?}");
    c.expect("read", writes + 1, &full[..writes]);

    let (out, back) = (writes + writes / 2, reads + reads / 2);
    let bytes = ours.bytes(out);
    c.tell(&format!("exchange {back} {out} 1000 stream"));
    let mut halves = channel.into_split();
    let read = exchange(&mut halves, &bytes, back, 777, Mode::Stream);
    assert!(read == theirs.bytes(back), "{sizes:?}: what C wrote");
    let answer = format!("sent={back} received={out} checksum={}", checksum(&bytes));
    assert_eq!(c.answer(), answer, "{sizes:?}");

    c.run("close");
    let mut rest = [0];
    halves.0.set_read_timeout(Some(LIMIT));
    assert_eq!(halves.0.read(&mut rest).unwrap(), 0, "{sizes:?}: the end");
    drop(halves);
    world.emulator.assert_clean();
}
