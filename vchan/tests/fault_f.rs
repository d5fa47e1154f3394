//! Group F of the fault catalogue: what the calls mean at their edges.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::Ordering::Relaxed;

use common::watched::watched;
use common::{LONG, World, bounded, guest, pattern, wait_until};
use memmap2::MmapOptions;
use vchan::layout::ControlPage;
use vchan::memory::PAGE_SIZE;
use vchan::{Channel, Client, Error, Handshake, Host, ReadHalf, Server, WriteHalf};

#[test]
fn fault_f01_nothing_to_move_is_done_at_once_and_tells_nobody() {
    bounded(|| {
        let world = World::new();
        let (dom0, calls) = watched(&world.dom0);
        let mut server = world.server().read_size(1024).bind().unwrap();
        let mut client = Client::builder(&dom0, guest())
            .timeout(LONG)
            .connect()
            .unwrap();
        let channel = server.accept_timeout(LONG).unwrap();
        let size = client.ring_sizes().1;
        let nothing = |client: &mut Channel| {
            // Without a deadline: none of these may sleep.
            assert_eq!(client.write(&[]).unwrap(), 0);
            assert_eq!(client.read(&mut []).unwrap(), 0);
            client.send(&[]).unwrap();
            client.recv(&mut []).unwrap();
            assert_eq!(Write::write(client, &[]).unwrap(), 0);
            assert_eq!(Read::read(client, &mut []).unwrap(), 0);
        };
        let events = || calls.notify.load(Relaxed);
        let before = events();
        nothing(&mut client);
        client.set_nonblocking(true);
        nothing(&mut client);
        client.set_nonblocking(false);
        assert_eq!(events(), before, "no event");
        client.write_all(&vec![0; size]).unwrap();
        let before = events();
        nothing(&mut client);
        assert_eq!(events(), before, "the ring is full, and no event");
        drop(channel);
        nothing(&mut client);
        assert_eq!(calls.sleep.load(Relaxed), 0);
    });
}

#[test]
fn fault_f02_a_datagram_that_can_never_fit_is_refused_at_once() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client) = world.pair(4096, 8192);
        for nonblocking in [true, false] {
            for end in [&mut server, &mut client] {
                end.set_nonblocking(nonblocking);
                let (reads, writes) = end.ring_sizes();
                for more in [1, 100, 1 << 21] {
                    let error = end.send(&vec![0; writes + more]).unwrap_err();
                    assert!(
                        matches!(error, Error::TooLarge { size, max }
                            if size == writes + more && max == writes),
                        "{error}"
                    );
                    let error = end.recv(&mut vec![0; reads + more]).unwrap_err();
                    assert!(
                        matches!(error, Error::TooLarge { max, .. } if max == reads),
                        "{error}"
                    );
                }
                assert_eq!(end.buffer_space().unwrap(), writes, "nothing was written");
            }
        }
        // Also when the ring is full, and when the peer is gone.
        client.set_nonblocking(true);
        client.send(&[1; 4096]).unwrap();
        assert!(matches!(
            client.send(&[1; 4097]),
            Err(Error::TooLarge { .. })
        ));
        assert!(matches!(client.send(&[1; 4096]), Err(Error::WouldBlock)));
        drop(server);
        assert!(matches!(
            client.send(&[1; 4097]),
            Err(Error::TooLarge { .. })
        ));
        assert!(matches!(client.send(&[1; 4096]), Err(Error::Closed)));
    });
}

#[test]
fn fault_f03_a_buffer_of_another_size_than_the_datagram_loses_nothing() {
    let world = World::new();
    let (mut server, mut client) = world.pair(1024, 1024);
    server.set_nonblocking(true);
    let data = pattern(100, 3);
    client.send(&data).unwrap();
    // Too large a buffer: not yet, and nothing is taken.
    assert!(matches!(server.recv(&mut [0; 101]), Err(Error::WouldBlock)));
    assert_eq!(server.data_ready().unwrap(), 100);
    // A smaller one takes what it asked for; the rest stays, in order.
    let mut parts = [0; 100];
    server.recv(&mut parts[..60]).unwrap();
    assert!(matches!(server.recv(&mut [0; 41]), Err(Error::WouldBlock)));
    server.recv(&mut parts[60..]).unwrap();
    assert_eq!(parts[..], data);
    // At the end the error says how many bytes there are, and they can still be had.
    client.send(&data).unwrap();
    drop(client);
    let error = server.recv(&mut [0; 200]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::EndOfStream {
                buffered: 100,
                wanted: 200
            }
        ),
        "{error}"
    );
    server.recv(&mut parts).unwrap();
    assert_eq!(parts[..], data);
}

#[test]
fn fault_f04_what_was_accepted_before_the_peer_died_is_told() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client) = world.pair(1024, 1024);
        let error = std::thread::scope(|scope| {
            let writing = scope.spawn(|| client.write_all(&[7; 5000]).unwrap_err());
            wait_until(|| server.data_ready().unwrap() == 1024);
            drop(server);
            writing.join().unwrap()
        });
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert_eq!(client.bytes_written(), 1024);

        // The same when the domain is destroyed without a word.
        let (mut server, mut client) = world.pair(1024, 1024);
        let writing = std::thread::spawn(move || {
            let error = client.write_all(&[7; 5000]).unwrap_err();
            (error.kind(), client.bytes_written())
        });
        wait_until(|| server.data_ready().unwrap() == 1024);
        world.emulator.destroy_domain(guest()).unwrap();
        assert_eq!(writing.join().unwrap(), (ErrorKind::ConnectionReset, 1024));
        drop(server);
    });
}

#[test]
fn fault_f04_bytes_whose_event_the_host_fails_to_send_are_counted_once() {
    let world = World::new();
    let (dom0, calls) = watched(&world.dom0);
    let mut server = world.server().bind().unwrap();
    let client = Client::builder(&dom0, guest()).timeout(LONG).connect();
    let mut client = client.unwrap();
    let mut channel = server.accept_timeout(LONG).unwrap();
    channel.set_nonblocking(true);
    client.set_read_timeout(Some(LONG));
    let data = pattern(3000, 6);
    let mut received = Vec::new();
    let mut buffer = [0; 1000];
    for (nth, chunk) in data.chunks(100).enumerate() {
        // The server asks for an event, and the client's host cannot send it.
        assert!(matches!(channel.read(&mut [0]), Err(Error::WouldBlock)));
        calls.notify_fails.store(true, Relaxed);
        assert_eq!(client.write(chunk).unwrap(), 100, "these bytes are written");
        let error = client.write(chunk).unwrap_err();
        assert!(
            matches!(error, Error::Host(_)),
            "and these are not: {error}"
        );
        let error = client.read(&mut buffer).unwrap_err();
        assert!(matches!(error, Error::Host(_)), "nor may it wait: {error}");
        assert_eq!(client.bytes_written(), 100 * (nth as u64 + 1));
        calls.notify_fails.store(false, Relaxed);
        // The next call, of whichever direction, sends what is owed.
        if nth % 2 == 0 {
            client.data_ready().unwrap();
        } else {
            client.buffer_space().unwrap();
        }
        let count = channel.read(&mut buffer).unwrap();
        received.extend_from_slice(&buffer[..count]);
    }
    assert!(received == data);

    // Reading, where the server waits for space.
    let size = channel.ring_sizes().1;
    assert_eq!(channel.write(&vec![5; size]).unwrap(), size);
    assert!(matches!(channel.write(&[6]), Err(Error::WouldBlock)));
    calls.notify_fails.store(true, Relaxed);
    assert_eq!(client.read(&mut buffer).unwrap(), 1000);
    assert!(matches!(client.read(&mut buffer), Err(Error::Host(_))));
    calls.notify_fails.store(false, Relaxed);
    let mut rest = vec![0; size - 1000];
    client.read_exact(&mut rest).unwrap();
    assert!(buffer.iter().chain(&rest).all(|&byte| byte == 5));
}

#[test]
fn fault_f05_slices_of_more_than_4_gib_are_taken_as_far_as_the_ring_goes() {
    const HUGE: usize = (1 << 32) + 10;
    let world = World::new();
    let (mut server, mut client) = world.pair(1 << 20, 4096);
    let map = || MmapOptions::new().len(HUGE).no_reserve_swap().map_anon();
    // Zero pages: only what is touched is there.
    let huge = map().unwrap();
    // Cut to 32 bits the length would be 10.
    assert_eq!(client.write(&huge).unwrap(), 1 << 20);
    assert_eq!(client.write(&huge[..0]).unwrap(), 0);
    client.set_nonblocking(true);
    assert!(matches!(client.write(&huge), Err(Error::WouldBlock)));
    assert!(matches!(
        client.send(&huge),
        Err(Error::TooLarge { size: HUGE, .. })
    ));
    drop(huge);
    let mut huge = map().unwrap();
    assert!(matches!(
        server.recv(&mut huge),
        Err(Error::TooLarge { size: HUGE, .. })
    ));
    assert_eq!(server.read(&mut huge).unwrap(), 1 << 20);
    assert!(huge[..1 << 20].iter().all(|&byte| byte == 0));
    // More than i32::MAX.
    assert_eq!(client.write(&huge[..(1 << 31) + 3]).unwrap(), 1 << 20);
}

#[cfg(feature = "tokio")]
#[test]
fn fault_f06_a_destination_that_was_never_written_is_not_read() {
    use std::mem::MaybeUninit;
    use std::pin::Pin;
    use tokio::io::{AsyncRead, ReadBuf};

    let world = World::new();
    let (server, mut client) = world.pair(1024, 1024);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut server = vchan::tokio::channel(server).unwrap();
        for len in [1usize, 15, 16, 100] {
            let data = pattern(len, len as u64);
            client.write_all(&data).unwrap();
            let mut memory = [MaybeUninit::uninit(); 64];
            let mut received = Vec::new();
            while received.len() < len {
                // Never written by anybody; only what was read counts as filled.
                let mut buffer = ReadBuf::uninit(&mut memory);
                std::future::poll_fn(|cx| Pin::new(&mut server).poll_read(cx, &mut buffer))
                    .await
                    .unwrap();
                assert!(!buffer.filled().is_empty());
                received.extend_from_slice(buffer.filled());
            }
            assert_eq!(received, data);
            // No room is no wait.
            let mut buffer = ReadBuf::uninit(&mut memory[..0]);
            std::future::poll_fn(|cx| Pin::new(&mut server).poll_read(cx, &mut buffer))
                .await
                .unwrap();
        }
    });
}

#[test]
fn fault_f07_no_page_makes_the_parser_panic() {
    let random = pattern(64 * PAGE_SIZE, 9);
    let mut accepted = 0;
    for (nth, bytes) in random.chunks_exact(PAGE_SIZE).enumerate() {
        let mut page: [u8; PAGE_SIZE] = bytes.try_into().unwrap();
        for left in 0..=40u16 {
            for right in [0u16, 9, 10, 11, 12, 15, 20, 21, 255, 0xFFFF] {
                page[16..18].copy_from_slice(&left.to_le_bytes());
                page[18..20].copy_from_slice(&right.to_le_bytes());
                if let Ok(control) = ControlPage::parse(&page) {
                    let pages = control.left_grants.len() + control.right_grants.len();
                    assert_eq!(pages, control.geometry.grant_count(), "page {nth}");
                    assert_eq!(control.build()[..20][16..], page[16..20]);
                    accepted += 1;
                }
            }
        }
    }
    assert!(accepted > 0);
}

#[test]
fn fault_f08_what_may_go_to_another_thread_can() {
    fn goes_anywhere<T: Send + Sync + 'static>() {}
    goes_anywhere::<Channel>();
    goes_anywhere::<ReadHalf>();
    goes_anywhere::<WriteHalf>();
    goes_anywhere::<Server>();
    goes_anywhere::<Client>();
    goes_anywhere::<Host>();
    goes_anywhere::<Handshake>();
    goes_anywhere::<Error>();
    #[cfg(feature = "tokio")]
    {
        fn future<T: Send>(_: impl FnOnce(&'static mut vchan::tokio::Channel) -> T) {}
        goes_anywhere::<vchan::tokio::Channel>();
        goes_anywhere::<vchan::tokio::ReadHalf>();
        goes_anywhere::<vchan::tokio::WriteHalf>();
        future(|channel| channel.send(&[]));
        future(|channel| channel.recv(&mut []));
        future(|channel| channel.drain());
    }
}

#[test]
fn fault_f08_one_half_in_another_thread_outlives_the_other() {
    bounded(|| {
        let world = World::new();
        let (server, client) = world.pair(1024, 1024);
        let (mut reading, writing) = server.into_split();
        drop(writing);
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            reading.read_to_string(&mut text).unwrap();
            text
        });
        let (reading, mut writing) = client.into_split();
        drop(reading);
        writing.write_all(b"half a channel").unwrap();
        drop(writing);
        assert_eq!(reader.join().unwrap(), "half a channel");
        world.assert_clean();
    });
}

#[test]
fn fault_f10_bulk_transfer_needs_few_events() {
    bounded(|| {
        let world = World::new();
        let (dom0, calls) = watched(&world.dom0);
        let mut server = world.server().bind().unwrap();
        let client = Client::builder(&dom0, guest()).timeout(LONG).connect();
        let mut client = client.unwrap();
        let mut channel = server.accept_timeout(LONG).unwrap();
        let total = 16 << 20;
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            let mut left = total;
            while left > 0 {
                left -= channel.read(&mut buffer).unwrap();
            }
            channel
        });
        let data = vec![1; 1 << 16];
        for _ in 0..total / data.len() {
            client.write_all(&data).unwrap();
        }
        drop(reader.join().unwrap());
        // A ring of 64 KiB passes 16 times for each MiB: at worst the reader sleeps each time the
        // writer fills a part of it. Bounds for regressions, not for speed.
        let per_mib = calls.notify.load(Relaxed) / (total as u64 >> 20);
        assert!(per_mib <= 256, "{per_mib} events for each MiB");
    });
}
