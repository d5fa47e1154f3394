//! Several buffers in one call, many datagrams in one publication, and the ring's bytes in place.

mod common;

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use common::raw::RawPeer;
use common::watched::watched;
use common::{LONG, World, bounded, guest, pattern};
use vchan::layout::{Geometry, NOTIFY_WRITE, Ring, Side};
use vchan::{Client, DomId, Error, PeerFault};

#[test]
fn several_buffers_are_written_at_once_and_read_back_in_others() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client) = world.pair(1024, 1024);
        // Odd sizes, so that every place of the ring's end is come by.
        for round in 0..700 {
            let bytes = pattern(1 + round % 300, round as u64);
            let (head, rest) = bytes.split_at(bytes.len() / 5);
            let (body, tail) = rest.split_at(rest.len() / 2);
            let parts = [head, &[], body, tail];
            if round % 2 == 0 {
                client.send_vectored(&parts).unwrap();
            } else {
                let slices = parts.map(IoSlice::new);
                assert_eq!(
                    Write::write_vectored(&mut client, &slices).unwrap(),
                    bytes.len()
                );
            }
            let mut to = vec![0; bytes.len()];
            let (first, second) = to.split_at_mut(bytes.len() / 3);
            if round % 3 == 0 {
                server.recv_vectored(&mut [first, second]).unwrap();
            } else {
                let mut slices = [IoSliceMut::new(first), IoSliceMut::new(second)];
                let count = Read::read_vectored(&mut server, &mut slices).unwrap();
                assert_eq!(count, bytes.len());
            }
            assert_eq!(to, bytes, "round {round}");
        }
        assert_eq!(client.bytes_written(), server.bytes_read());
        drop((server, client));
        world.assert_clean();
    });
}

#[test]
fn what_does_not_fit_of_several_buffers_stays_with_the_caller() {
    let world = World::new();
    let (mut server, mut client) = world.pair(1024, 1024);
    client.set_nonblocking(true);
    let size = client.ring_sizes().1;
    let bytes = pattern(size + 10, 1);
    let (head, tail) = bytes.split_at(size - 5);
    // A stream takes a part of the second buffer.
    assert_eq!(client.write_vectored(&[head, tail]).unwrap(), size);
    assert!(matches!(
        client.write_vectored(&[tail]),
        Err(Error::WouldBlock)
    ));
    let mut to = vec![0; size];
    server.recv(&mut to).unwrap();
    assert_eq!(to, bytes[..size]);
    // A datagram is all or nothing, and never larger than the ring.
    client.send_vectored(&[&head[10..]]).unwrap();
    assert!(matches!(
        client.send_vectored(&[&head[..10], &tail[..6]]),
        Err(Error::WouldBlock)
    ));
    assert_eq!(server.data_ready().unwrap(), size - 15);
    let error = client.send_vectored(&[head, tail]).unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { size: asked, max } if asked == size + 10 && max == size)
    );
    assert_eq!(client.write_vectored::<&[u8]>(&[]).unwrap(), 0);
    client.send_vectored::<&[u8]>(&[]).unwrap();
}

#[test]
fn many_datagrams_cost_one_event_and_as_many_as_fit_are_sent() {
    bounded(|| {
        let world = World::new();
        let (dom0, calls) = watched(&world.dom0);
        let mut server = world.server().read_size(1024).bind().unwrap();
        let client = Client::builder(&dom0, guest()).timeout(LONG);
        let mut client = client.connect().unwrap();
        let mut server = server.accept_timeout(LONG).unwrap();
        let size = client.ring_sizes().1;

        server.set_nonblocking(true);
        assert!(matches!(server.recv(&mut [0; 8]), Err(Error::WouldBlock)));
        let before = calls.notify.load(Relaxed);
        let datagrams: Vec<[u8; 8]> = (0..=255).map(|nth| [nth; 8]).collect();
        assert_eq!(client.send_many(&datagrams).unwrap(), size / 8);
        assert_eq!(calls.notify.load(Relaxed), before + 1);
        client.set_nonblocking(true);
        assert!(matches!(
            client.send_many(&datagrams),
            Err(Error::WouldBlock)
        ));

        let mut buffers = vec![[0; 8]; 100];
        for expected in datagrams[..size / 8].chunks(100) {
            assert_eq!(server.recv_many(&mut buffers).unwrap(), expected.len());
            assert_eq!(buffers[..expected.len()], *expected);
        }
        assert!(matches!(
            server.recv_many(&mut buffers),
            Err(Error::WouldBlock)
        ));

        // Of different lengths, also none; and half of one is none.
        let words: [&[u8]; 4] = [b"one", b"", b"three", b"fo"];
        assert_eq!(client.send_many(&words).unwrap(), 4);
        let mut buffers = [vec![0; 3], vec![], vec![0; 5], vec![0; 4]];
        assert_eq!(server.recv_many(&mut buffers).unwrap(), 3);
        assert_eq!(buffers[2], b"three");
        assert_eq!(server.data_ready().unwrap(), 2);

        // Nothing to do is done.
        assert_eq!(client.send_many::<[u8; 1]>(&[]).unwrap(), 0);
        assert_eq!(server.recv_many::<[u8; 1]>(&mut []).unwrap(), 0);
        // One that can never fit ends a call before it.
        let large = vec![0; size + 1];
        assert_eq!(client.send_many(&[&b"ur"[..], &large]).unwrap(), 1);
        let error = client.send_many(&[&large]).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        let error = server.recv_many(&mut [vec![0; 1 << 20]]).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        // The rest before the end, then the end.
        drop(client);
        let mut buffers = [[0; 4]; 2];
        assert_eq!(server.recv_many(&mut buffers).unwrap(), 1);
        assert_eq!(&buffers[0], b"four");
        let error = server.recv_many(&mut buffers).unwrap_err();
        assert!(matches!(
            error,
            Error::EndOfStream {
                buffered: 0,
                wanted: 4
            }
        ));
    });
}

#[test]
fn an_empty_first_datagram_is_no_way_into_a_channel_that_is_over() {
    let world = World::new();
    let (mut server, mut client) = world.pair(1024, 1024);
    client.shutdown();
    // An empty one is sent to whom it may be, as `send` does it. The next one is not.
    assert_eq!(client.send_many(&[&b""[..], b"", b"late"]).unwrap(), 2);
    assert_eq!(client.bytes_written(), 0);
    let error = client.send_many(&[b"late"]).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    assert_eq!(server.read(&mut [0; 4]).unwrap(), 0);
}

#[test]
fn fault_a01_an_empty_first_datagram_is_no_way_around_a_fault() {
    let world = World::new();
    let geometry = Geometry::new(10, 11).unwrap();
    let mut raw = RawPeer::serve(&world.guest, DomId::DOM0, geometry, 0).unwrap();
    let mut client = world.client();
    assert!(raw.connected());
    raw.store(Ring::Right.prod(), 9999);
    assert!(matches!(client.data_ready(), Err(Error::PeerFault(_))));
    // Whatever the indices are now, nothing is read and nothing is written any more.
    raw.store(Ring::Right.prod(), 4);
    let (mut none, mut some) = ([0; 0], [0; 4]);
    let count = client.recv_many(&mut [&mut none[..], &mut some[..]]);
    assert_eq!((count.unwrap(), client.bytes_read()), (1, 0));
    assert_eq!(client.send_many(&[&b""[..], b"late"]).unwrap(), 1);
    assert_eq!(raw.load(Ring::Left.prod()), 0);
}

#[test]
fn bytes_in_place_are_those_of_a_queue() {
    let world = World::new();
    let (mut server, mut client) = world.pair(1024, 1024);
    let size = client.ring_sizes().1;
    let mut queue: VecDeque<u8> = VecDeque::new();
    let random = pattern(6000, 7);
    for (round, random) in random.chunks_exact(3).enumerate() {
        let [min, part, keep] = [random[0], random[1], random[2]].map(usize::from);
        // Space, filled in two steps across whatever divides it, and partly committed.
        let mut space = client.reserve(0).unwrap();
        assert_eq!(space.len(), size - queue.len());
        let bytes = pattern(space.len().min(part + keep), round as u64);
        let commit = bytes.len().min(part);
        if round % 2 == 0 {
            space.write_at(commit, &bytes[commit..]);
            space.write_at(0, &bytes[..commit]);
        } else {
            let [mut first, mut second] = space.parts();
            let (head, tail) = bytes.split_at(first.len().min(bytes.len()));
            first.write_at(0, head);
            second.write_at(0, tail);
        }
        space.commit(commit).unwrap();
        queue.extend(&bytes[..commit]);
        // Bytes, looked at and partly consumed.
        let min = min.min(queue.len());
        let there = server.peek(min).unwrap();
        assert!(there.len() >= min && there.len() <= queue.len());
        let mut copy = vec![0; there.len()];
        if round % 2 == 0 {
            there.read_at(0, &mut copy);
        } else {
            let [first, second] = there.parts();
            let (head, tail) = copy.split_at_mut(first.len());
            first.read_at(0, head);
            second.read_at(0, tail);
        }
        assert!(queue.iter().take(copy.len()).eq(&copy), "round {round}");
        let consume = copy.len().min(keep);
        there.consume(consume).unwrap();
        queue.drain(..consume);
        assert_eq!(server.data_ready().unwrap(), queue.len());
    }
    assert!(
        client.bytes_written() > 20 * size as u64,
        "around and around"
    );
    assert_eq!(
        client.bytes_written() - server.bytes_read(),
        queue.len() as u64
    );
}

#[test]
fn reserve_and_peek_wait_as_the_other_calls_do() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client) = world.pair(1024, 1024);
        let size = client.ring_sizes().1;
        client.set_nonblocking(true);
        server.set_nonblocking(true);
        assert!(matches!(server.peek(1), Err(Error::WouldBlock)));
        assert!(server.peek(0).unwrap().is_empty());
        client.send(&vec![1; size - 9]).unwrap();
        assert!(matches!(client.reserve(10), Err(Error::WouldBlock)));
        assert_eq!(client.reserve(9).unwrap().len(), 9);
        client.set_nonblocking(false);
        client.set_write_timeout(Some(Duration::from_millis(10)));
        assert!(matches!(client.reserve(10), Err(Error::TimedOut { .. })));
        client.set_write_timeout(None);
        // One that waits gets it.
        server.set_nonblocking(false);
        let reader = thread::spawn(move || {
            assert_eq!(server.peek(size).unwrap().len(), size);
            server.peek(size).unwrap().consume(size).unwrap();
            server
        });
        let mut space = client.reserve(9).unwrap();
        space.write_at(0, &[2; 9]);
        space.commit(9).unwrap();
        assert_eq!(client.reserve(size).unwrap().len(), size);
        let mut server = reader.join().unwrap();
        // At the end: what is there, then nothing; but not the half of what was asked for.
        client.send(b"half").unwrap();
        drop(client);
        let cut = server.peek(8).unwrap_err();
        assert!(matches!(
            cut,
            Error::EndOfStream {
                buffered: 4,
                wanted: 8
            }
        ));
        server.peek(4).unwrap().consume(4).unwrap();
        assert!(server.peek(1).unwrap().is_empty());
        assert!(matches!(server.reserve(1), Err(Error::Closed)));
        assert!(matches!(server.reserve(0), Err(Error::Closed)));
    });
}

#[test]
fn fault_f02_no_more_is_committed_or_consumed_than_is_held() {
    let world = World::new();
    let (mut server, mut client) = world.pair(1024, 1024);
    let size = client.ring_sizes().1;
    let error = client.reserve(size + 1).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    for too_much in [size + 1, usize::MAX] {
        let mut space = client.reserve(1).unwrap();
        space.write_at(0, b"x");
        let error = space.commit(too_much).unwrap_err();
        assert!(
            matches!(error, Error::NotHeld { size: asked, held } if asked == too_much && held == size),
            "{error}"
        );
        assert_eq!(
            std::io::Error::from(error).kind(),
            std::io::ErrorKind::InvalidInput
        );
        assert_eq!(server.data_ready().unwrap(), 0);
    }
    // Dropped, and committed with nothing in it: nothing.
    client.reserve(8).unwrap().write_at(0, b"dropped.");
    client.reserve(8).unwrap().commit(0).unwrap();
    assert_eq!(
        (server.data_ready().unwrap(), client.bytes_written()),
        (0, 0)
    );

    client.send(b"abc").unwrap();
    for too_much in [4, usize::MAX] {
        let error = server.peek(1).unwrap().consume(too_much).unwrap_err();
        assert!(matches!(error, Error::NotHeld { held: 3, .. }), "{error}");
    }
    drop(server.peek(3).unwrap());
    server.peek(3).unwrap().consume(0).unwrap();
    assert_eq!((server.data_ready().unwrap(), server.bytes_read()), (3, 0));
    let error = server.peek(1 << 20).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
#[should_panic(expected = "outside")]
fn fault_f02_nothing_is_written_beyond_a_reservation() {
    let world = World::new();
    let (_server, mut client) = world.pair(1024, 1024);
    let mut space = client.reserve(1).unwrap();
    let len = space.len();
    space.write_at(len - 1, b"ab");
}

#[test]
#[should_panic(expected = "outside")]
fn fault_f02_nothing_is_read_beyond_a_peek() {
    let world = World::new();
    let (mut server, mut client) = world.pair(1024, 1024);
    client.send(b"abc").unwrap();
    server.peek(3).unwrap().read_at(usize::MAX, &mut [0; 2]);
}

#[test]
fn fault_a05_bytes_and_indices_that_change_in_place_hurt_nobody() {
    let world = World::new();
    let geometry = Geometry::new(10, 11).unwrap();
    let mut raw = RawPeer::serve(&world.guest, DomId::DOM0, geometry, u32::MAX).unwrap();
    let mut client = world.client();
    assert!(raw.connected());
    let asked = Side::Client.asked_of_us();

    // Nothing of a reservation shows before its commit, and its commit shows all of it at once.
    raw.control.set_bits(asked, NOTIFY_WRITE, Relaxed);
    let mut space = client.reserve(100).unwrap();
    space.write_at(0, &[7; 100]);
    assert_eq!(raw.load(Ring::Left.prod()), u32::MAX);
    assert_eq!(raw.control.load_byte(asked, Relaxed), NOTIFY_WRITE);
    // The peer's own index may be anything meanwhile: the space was free, and stays so.
    raw.store(Ring::Left.cons(), 0x1234_5678);
    raw.store(Ring::Left.prod(), 0xDEAD_BEEF);
    space.commit(100).unwrap();
    assert_eq!(raw.load(Ring::Left.prod()), u32::MAX.wrapping_add(100));
    assert_eq!(raw.control.load_byte(asked, Relaxed), 0);
    raw.store(Ring::Left.cons(), u32::MAX);

    // Bytes change between two looks; what was copied does not.
    raw.produce(&[1; 8]);
    let there = client.peek(8).unwrap();
    let (mut first, mut second) = ([0; 8], [0; 8]);
    there.read_at(0, &mut first);
    let (region, start, size) = raw.bytes(Ring::Right);
    for at in 0..8 {
        let at = u32::MAX.wrapping_add(at) % size;
        region.store_byte(start + at as usize, 2, Relaxed);
    }
    raw.store(Ring::Right.prod(), 0x8000_0000);
    raw.store(Ring::Right.cons(), 5);
    there.read_at(0, &mut second);
    assert_eq!((first, second), ([1; 8], [2; 8]));
    there.consume(4).unwrap();
    assert_eq!(raw.load(Ring::Right.cons()), u32::MAX.wrapping_add(4));
    // What is known to be there still is; the next look at the page finds the fault, for all.
    assert_eq!(client.peek(4).unwrap().len(), 4);
    let fault = client.peek(5).unwrap_err();
    let found = 0x8000_0000;
    assert!(
        matches!(fault, Error::PeerFault(PeerFault::Index { found: at, .. }) if at == found),
        "{fault}"
    );
    for error in [
        client.peek(0).unwrap_err(),
        client.reserve(0).unwrap_err(),
        client.reserve(1).unwrap_err(),
        client.send_many(&[[1]]).unwrap_err(),
        client.recv_many(&mut [[1]]).unwrap_err(),
        client.send_vectored(&[&[1][..]]).unwrap_err(),
        client.write_vectored(&[&[1][..]]).unwrap_err(),
        client.recv_vectored(&mut [&mut [1][..]]).unwrap_err(),
        client.read_vectored(&mut [&mut [1][..]]).unwrap_err(),
    ] {
        assert!(matches!(error, Error::PeerFault(_)), "{error}");
    }
}

#[cfg(feature = "tokio")]
#[test]
fn tasks_do_the_same() {
    use tokio::io::{AsyncWrite, AsyncWriteExt};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let world = World::new();
    let (server, client) = world.pair(1024, 1024);
    runtime.block_on(async {
        let mut server = vchan::tokio::channel(server).unwrap();
        let mut client = vchan::tokio::channel(client).unwrap();
        let rounds = 400;
        let writing = async {
            for round in 0..rounds {
                let bytes = pattern(10, round);
                let (head, tail) = bytes.split_at(3);
                client.send_vectored(&[head, tail]).await.unwrap();
                assert!(AsyncWrite::is_write_vectored(&client));
                let slices = [IoSlice::new(head), IoSlice::new(tail)];
                let count = AsyncWriteExt::write_vectored(&mut client, &slices);
                let count = count.await.unwrap();
                client.send(&bytes[count..]).await.unwrap();
                let mut left = &[head, tail][..];
                while !left.is_empty() {
                    left = &left[client.send_many(left).await.unwrap()..];
                }
                let mut space = client.reserve(10).await.unwrap();
                space.write_at(0, &bytes);
                space.commit(10).unwrap();
            }
            client
        };
        let reading = async {
            for round in 0..rounds {
                let bytes = pattern(10, round);
                let mut to = [0; 10];
                server.peek(10).await.unwrap().read_at(0, &mut to);
                assert_eq!(to, *bytes);
                server.peek(1).await.unwrap().consume(1).unwrap();
                let (head, tail) = to.split_at_mut(4);
                server
                    .recv_vectored(&mut [&mut head[1..], tail])
                    .await
                    .unwrap();
                assert_eq!(to, *bytes);
                server.recv(&mut to).await.unwrap();
                assert_eq!(to, *bytes);
                let mut received = Vec::new();
                while received.len() < 20 {
                    let mut buffers = [[0]; 7];
                    let most = (20 - received.len()).min(7);
                    let count = server.recv_many(&mut buffers[..most]).await.unwrap();
                    received.extend(buffers[..count].concat());
                }
                assert_eq!(received, [&bytes[..], &bytes[..]].concat());
            }
            server
        };
        let (client, server) = tokio::join!(writing, reading);
        drop((client, server));
    });
}
