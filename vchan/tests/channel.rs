//! A connected channel: streams, datagrams, waiting, closing.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use common::{LONG, World, bounded, pattern, wait_until};
use vchan::{Error, State};

const SHORT: Duration = Duration::from_millis(50);

#[test]
fn bytes_cross_in_both_directions_at_once() {
    bounded(|| {
        let world = World::new();
        for (read, write) in [(1024, 2048), (2048, 1024), (5000, 5000), (1 << 20, 4096)] {
            let (server, client) = world.pair(read, write);
            let total = 1_000_000;
            let ends = [(server, 1, 2), (client, 2, 1)].map(|(channel, ours, theirs)| {
                let (mut reading, mut writing) = channel.into_split();
                let writer = thread::spawn(move || {
                    for chunk in pattern(total, ours).chunks(777) {
                        writing.write_all(chunk).unwrap();
                    }
                    writing
                });
                let reader = thread::spawn(move || {
                    let mut received = vec![0; total];
                    reading.read_exact(&mut received).unwrap();
                    assert!(received == pattern(total, theirs), "{read}, {write}");
                    assert_eq!(reading.bytes_read(), total as u64);
                    reading
                });
                (writer, reader)
            });
            // The channels close only when all four have what they want.
            let halves =
                ends.map(|(writer, reader)| (writer.join().unwrap(), reader.join().unwrap()));
            drop(halves);
        }
        world.assert_clean();
    });
}

#[test]
fn read_gives_what_is_there_and_then_the_end() {
    let world = World::new();
    let (mut server, mut client) = world.pair(5000, 5000);
    client.write_all(b"last words").unwrap();
    assert_eq!(server.data_ready().unwrap(), 10);
    assert_eq!(client.state().unwrap(), State::Connected);
    drop(client);
    assert_eq!(server.state().unwrap(), State::Closed);
    let mut buffer = [0; 64];
    assert_eq!(server.read(&mut buffer[..4]).unwrap(), 4);
    assert_eq!(server.read(&mut buffer[4..]).unwrap(), 6);
    assert_eq!(&buffer[..10], b"last words");
    for _ in 0..3 {
        assert_eq!(server.read(&mut buffer).unwrap(), 0, "the end is the end");
    }
    assert!(matches!(server.write(b"too late"), Err(Error::Closed)));
    let error = server.write_all(b"too late").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    drop(server);
    world.assert_clean();
}

#[test]
fn what_the_server_writes_before_the_client_comes_waits_in_the_ring() {
    let world = World::new();
    let mut server = world.server().bind().unwrap();
    let waiting = server.pending().unwrap();
    assert_eq!(waiting.state().unwrap(), State::Waiting);
    waiting.write_all(b"welcome").unwrap();
    let mut client = world.client();
    let mut hello = [0; 7];
    client.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"welcome");
    drop((client, server));
    world.assert_clean();
}

#[test]
fn empty_reads_and_writes_return_at_once() {
    let world = World::new();
    let (mut server, mut client) = world.pair(1024, 1024);
    assert_eq!(client.write(&[]).unwrap(), 0);
    assert_eq!(client.read(&mut []).unwrap(), 0);
    client.send(&[]).unwrap();
    server.recv(&mut []).unwrap();
    assert_eq!(server.data_ready().unwrap(), 0);
}

#[test]
fn datagrams_come_whole_or_not_at_all() {
    let world = World::new();
    let (mut server, mut client) = world.pair(4096, 4096);
    client.set_nonblocking(true);
    server.set_nonblocking(true);
    client.send(&[7; 4000]).unwrap();
    assert!(
        matches!(client.send(&[8; 97]), Err(Error::WouldBlock)),
        "96 bytes are free"
    );
    client.send(&[8; 96]).unwrap();
    assert!(matches!(
        server.recv(&mut [0; 4097]),
        Err(Error::TooLarge {
            size: 4097,
            max: 4096
        })
    ));
    let mut first = [0; 4000];
    server.recv(&mut first).unwrap();
    assert_eq!(first, [7; 4000]);
    assert!(matches!(server.recv(&mut [0; 97]), Err(Error::WouldBlock)));
    let mut second = [0; 96];
    server.recv(&mut second).unwrap();
    assert_eq!(second, [8; 96]);
    assert!(matches!(
        client.send(&[0; 4097]),
        Err(Error::TooLarge {
            size: 4097,
            max: 4096
        })
    ));

    client.send(b"rest").unwrap();
    drop(client);
    let unfinished = server.recv(&mut [0; 5]);
    assert!(matches!(
        unfinished,
        Err(Error::EndOfStream {
            buffered: 4,
            wanted: 5
        })
    ));
    let mut rest = [0; 4];
    server.recv(&mut rest).unwrap();
    assert_eq!(&rest, b"rest", "the bytes stay readable");
}

#[test]
fn a_blocking_datagram_waits_until_it_fits() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client) = world.pair(4096, 4096);
        client.send(&[1; 4096]).unwrap();
        let sender = thread::spawn(move || {
            client.send(&[2; 4096]).unwrap();
            client
        });
        for expected in [1, 2] {
            let mut whole = [0; 4096];
            for part in whole.chunks_mut(64) {
                server.recv(part).unwrap();
            }
            assert_eq!(whole, [expected; 4096]);
        }
        sender.join().unwrap();
    });
}

#[test]
fn every_wait_ends_by_its_deadline() {
    let world = World::new();
    let (mut server, mut client) = world.pair(1024, 1024);
    client.set_read_timeout(Some(SHORT));
    client.set_write_timeout(Some(SHORT));
    let since = Instant::now();
    assert!(matches!(client.read(&mut [0]), Err(Error::TimedOut { .. })));
    assert!(since.elapsed() >= SHORT);
    let space = client.buffer_space().unwrap();
    assert_eq!(client.write(&vec![0; space + 1]).unwrap(), space);
    assert!(matches!(client.write(&[0]), Err(Error::TimedOut { .. })));
    assert!(matches!(client.send(&[0]), Err(Error::TimedOut { .. })));
    assert!(matches!(
        client.recv(&mut [0; 9]),
        Err(Error::TimedOut { .. })
    ));
    assert!(matches!(client.drain(), Err(Error::TimedOut { .. })));
    let error = Read::read(&mut client, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(since.elapsed() < LONG);
    assert_eq!(client.bytes_written(), space as u64);
    server.read_exact(&mut vec![0; space]).unwrap();
    client.drain().unwrap();
}

#[test]
fn a_nonblocking_channel_tells_by_its_descriptor_when_to_try_again() {
    let world = World::new();
    let (mut server, mut client) = world.pair(1024, 1024);
    server.set_nonblocking(true);
    let readable = |channel: &vchan::Channel, wait: Duration| {
        let timeout = rustix::time::Timespec::try_from(wait).unwrap();
        let fd = channel.as_fd();
        let mut polled = [rustix::event::PollFd::new(
            &fd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut polled, Some(&timeout)).unwrap() == 1
    };
    for round in 0..50u8 {
        assert!(
            matches!(server.read(&mut [0; 8]), Err(Error::WouldBlock)),
            "{round}"
        );
        assert!(
            !readable(&server, Duration::ZERO),
            "round {round}: nothing was written yet"
        );
        client.write_all(&[round; 3]).unwrap();
        assert!(readable(&server, LONG), "round {round}");
        let mut buffer = [0; 8];
        assert_eq!(server.read(&mut buffer).unwrap(), 3);
        assert_eq!(buffer[..3], [round; 3]);
    }
    // The same for a full ring.
    while server.write(&[0; 100]).is_ok() {}
    assert!(!readable(&server, Duration::ZERO));
    client.read_exact(&mut [0; 100]).unwrap();
    assert!(readable(&server, LONG));
    assert!(server.write(&[0; 100]).is_ok());
}

#[test]
fn reader_and_writer_that_sleep_at_the_same_time_are_both_woken() {
    bounded(|| {
        let world = World::new();
        let (server, mut client) = world.pair(1024, 1024);
        let (mut reading, mut writing) = server.into_split();
        let size = client.ring_sizes().0;
        for _ in 0..200 {
            // The ring towards the client is full and the one from it empty: both must sleep.
            writing.write_all(&vec![9; size]).unwrap();
            let blocked = thread::spawn(move || {
                writing.write_all(&[10]).unwrap();
                writing
            });
            let hungry = thread::spawn(move || {
                reading.read_exact(&mut [0]).unwrap();
                reading
            });
            client.write_all(&[1]).unwrap();
            client.read_exact(&mut vec![0; size + 1]).unwrap();
            writing = blocked.join().unwrap();
            reading = hungry.join().unwrap();
        }
    });
}

#[test]
fn a_sleeping_reader_learns_that_the_peer_has_closed() {
    bounded(|| {
        let world = World::new();
        let (mut server, client) = world.pair(1024, 1024);
        let reader = thread::spawn(move || server.read(&mut [0; 8]).unwrap());
        thread::sleep(SHORT);
        drop(client);
        assert_eq!(reader.join().unwrap(), 0);
    });
}

#[test]
fn a_sleeping_writer_learns_that_the_peer_has_closed() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client) = world.pair(1024, 1024);
        let writer = thread::spawn(move || {
            let error = server.write_all(&[0; 100_000]).unwrap_err();
            (error.kind(), server.bytes_written())
        });
        let size = client.ring_sizes().0;
        wait_until(|| client.data_ready().unwrap() == size);
        drop(client);
        assert_eq!(
            writer.join().unwrap(),
            (ErrorKind::BrokenPipe, size as u64),
            "accepted bytes are told"
        );
    });
}

#[test]
fn a_domain_that_is_destroyed_ends_every_wait() {
    bounded(|| {
        let world = World::new();
        let (server, mut client) = world.pair(1024, 1024);
        let (more_server, mut writer) = world.pair(1024, 1024);
        let (most_server, mut other) = world.pair(1024, 1024);
        writer.write_all(&vec![0; writer.ring_sizes().1]).unwrap();
        other.set_read_timeout(Some(LONG));
        let waits = [
            thread::spawn(move || client.read(&mut [0]).unwrap_err()),
            thread::spawn(move || writer.write(&[0]).unwrap_err()),
            thread::spawn(move || other.recv(&mut [0; 9]).unwrap_err()),
        ];
        thread::sleep(SHORT);
        world.emulator.destroy_domain(common::guest()).unwrap();
        for wait in waits {
            let error = wait.join().unwrap();
            assert!(matches!(error, Error::PeerDied), "{error}");
        }
        drop((server, more_server, most_server));
    });
}

#[test]
fn a_shutdown_ends_the_other_half_and_leaves_what_was_written() {
    bounded(|| {
        let world = World::new();
        let (server, mut client) = world.pair(1024, 1024);
        let (mut reading, mut writing) = server.into_split();
        writing.write_all(b"bye").unwrap();
        let reader = thread::spawn(move || {
            let mut rest = Vec::new();
            reading.read_to_end(&mut rest).map(|_| rest).unwrap()
        });
        thread::sleep(SHORT);
        client.write_all(b"one more").unwrap();
        thread::sleep(SHORT);
        writing.shutdown();
        assert_eq!(reader.join().unwrap(), b"one more");
        assert!(matches!(writing.write(b"x"), Err(Error::Closed)));
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "bye");
        drop((client, writing));
        world.assert_clean();
    });
}

#[test]
fn who_polls_can_ask_whether_the_peers_domain_still_exists() {
    let world = World::new();
    let (server, client) = world.pair(1024, 1024);
    assert_eq!(client.probe().unwrap(), State::Connected);
    world.emulator.destroy_domain(common::guest()).unwrap();
    assert_eq!(
        client.state().unwrap(),
        State::Connected,
        "nothing has told us"
    );
    assert_eq!(client.probe().unwrap(), State::Closed);
    drop(server);
}
