//! The cases of ocaml-vchan's own test suite, as behaviour of this library: connecting, and then
//! three things for each of ten pairs of sizes. 31 tests; after each, nothing is left behind on the
//! host.

mod common;

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use common::{LONG, World, pattern};
use vchan::layout::{Geometry, Ring};
use vchan::{Channel, State};

/// One test for each pair of sizes, left and right: those at which the rings change their place,
/// and each minus one.
macro_rules! for_all_sizes {
    ($case:ident) => {
        mod $case {
            for_all_sizes! { $case:
                left_1024_right_1024(1024, 1024),
                left_1024_right_2048(1024, 2048),
                left_2048_right_1024(2048, 1024),
                left_2048_right_2048(2048, 2048),
                left_4096_right_4096(4096, 4096),
                left_1023_right_1023(1023, 1023),
                left_1023_right_2047(1023, 2047),
                left_2047_right_1023(2047, 1023),
                left_2047_right_2047(2047, 2047),
                left_4095_right_4095(4095, 4095),
            }
        }
    };
    ($case:ident: $($name:ident($left:literal, $right:literal),)*) => {
        $(
            #[test]
            fn $name() {
                super::$case($left, $right);
            }
        )*
    };
}

#[test]
fn connect() {
    let world = World::new();
    let (server, client) = world.pair(1024, 1024);
    assert_eq!(server.state().unwrap(), State::Connected);
    assert_eq!(client.state().unwrap(), State::Connected);
    drop((server, client));
    world.assert_clean();
}

for_all_sizes!(write_before_read);
for_all_sizes!(read_before_write);
for_all_sizes!(write_that_wraps);

fn write_before_read(left: usize, right: usize) {
    in_both_directions(left, right, |from, to, asked_for| {
        let ring = from.ring_sizes().1;
        for size in interesting(asked_for, ring) {
            let bytes = pattern(size, 1);
            assert_eq!(from.write(&bytes).unwrap(), size, "all of {size} fits");
            assert_eq!(from.buffer_space().unwrap(), ring - size);
            assert_eq!(to.data_ready().unwrap(), size);
            let mut read = vec![0; size + 1];
            assert_eq!(to.read(&mut read).unwrap(), size);
            assert_eq!(read[..size], bytes, "{size} bytes");
            assert_eq!(from.buffer_space().unwrap(), ring);
        }
    });
}

fn read_before_write(left: usize, right: usize) {
    in_both_directions(left, right, |from, to, asked_for| {
        for size in interesting(asked_for, from.ring_sizes().1) {
            let bytes = pattern(size, 2);
            let read = thread::scope(|scope| {
                let reading = scope.spawn(|| {
                    let mut read = vec![0; size];
                    to.read_exact(&mut read).unwrap();
                    read
                });
                // Time to fall asleep.
                thread::sleep(Duration::from_millis(5));
                assert!(!reading.is_finished(), "there is nothing to read");
                from.write_all(&bytes).unwrap();
                reading.join().unwrap()
            });
            assert_eq!(read, bytes, "{size} bytes");
        }
    });
}

fn write_that_wraps(left: usize, right: usize) {
    in_both_directions(left, right, |from, to, _| {
        let ring = from.ring_sizes().1;
        // The place in the ring where the next byte goes; at least one byte is left of its end.
        let mut place = 0;
        for left_of_end in [1, 2, 7, ring / 2, ring - 1] {
            let skip = (2 * ring - left_of_end - place) % ring;
            from.write_all(&vec![0xAA; skip]).unwrap();
            to.read_exact(&mut vec![0; skip]).unwrap();

            let bytes = pattern(ring, 3);
            from.send(&bytes).unwrap();
            let mut read = vec![0; ring];
            to.recv(&mut read).unwrap();
            assert_eq!(
                read, bytes,
                "a ring full, {left_of_end} bytes before the end"
            );
            place = ring - left_of_end;
        }
    });
}

/// Runs `case` with a writer, a reader and the size that was asked for: for the left ring, then for
/// the right one of the same connection. The rings are those that the sizes call for.
fn in_both_directions(left: usize, right: usize, case: impl Fn(&mut Channel, &mut Channel, usize)) {
    let world = World::new();
    let (mut server, mut client) = world.pair(left, right);
    let geometry = Geometry::for_server(left, right).unwrap();
    let [left_ring, right_ring] =
        [Ring::Left, Ring::Right].map(|ring| geometry.order(ring).bytes() as usize);
    assert_eq!(server.ring_sizes(), (left_ring, right_ring));
    assert_eq!(client.ring_sizes(), (right_ring, left_ring));
    for channel in [&mut server, &mut client] {
        channel.set_read_timeout(Some(LONG));
        channel.set_write_timeout(Some(LONG));
    }
    case(&mut client, &mut server, left);
    case(&mut server, &mut client, right);
    drop((server, client));
    world.assert_clean();
}

/// Sizes of what is written, up to the whole ring.
fn interesting(asked_for: usize, ring: usize) -> [usize; 6] {
    [1, 2, asked_for / 2, asked_for, ring - 1, ring]
}
