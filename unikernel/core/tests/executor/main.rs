//! The asynchronous face on the executor of a guest without an operating system: both domains of an
//! emulated host in one thread, and many channels at once.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use vchan::Error;
use vchan::task::Channel;

mod echo;
mod world;

use world::{LONG, World, both, guest};

async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polls `future` at most `polls` times, letting the executor work in between, then drops it.
async fn poll_and_drop<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let mut nobody = Context::from_waker(Waker::noop());
        if let Poll::Ready(done) = future.as_mut().poll(&mut nobody) {
            return Some(done);
        }
        yield_once().await;
    }
    None
}

async fn write_all(channel: &mut Channel, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = channel.write(bytes).await.unwrap();
        bytes = &bytes[count..];
    }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|n| u8::try_from((n * 31 + seed * 7 + n / 251) % 256).unwrap())
        .collect()
}

#[test]
fn one_executor_serves_many_channels_at_once() {
    const CHANNELS: usize = 12;
    let world = World::of_one_domain();
    let done = Arc::new(AtomicUsize::new(0));
    for n in 0..CHANNELS {
        let port = format!("port{n}").parse().unwrap();
        let mut server = world.server(1024).port(port).bind().unwrap();
        let (runtime, done) = (world.runtime.clone(), Arc::clone(&done));
        world.executor.spawn(async move {
            let mut channel = server.accept_on(&runtime).await.unwrap();
            let mut buffer = [0; 700];
            loop {
                let count = channel.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break;
                }
                write_all(&mut channel, &buffer[..count]).await;
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    // Each client is a thread of its own, and all are connected before the first one goes on.
    let barrier = Arc::new(std::sync::Barrier::new(CHANNELS));
    let clients: Vec<_> = (0..CHANNELS)
        .map(|n| {
            let (client, barrier) = (world.client(), Arc::clone(&barrier));
            thread::spawn(move || {
                let client = client.port(format!("port{n}").parse().unwrap());
                let channel = client.connect().unwrap();
                barrier.wait();
                let (mut reading, mut writing) = channel.into_split();
                let sent = pattern(40_000, n);
                let data = sent.clone();
                let writer = thread::spawn(move || {
                    std::io::Write::write_all(&mut writing, &data).unwrap();
                    writing
                });
                let mut received = vec![0; sent.len()];
                std::io::Read::read_exact(&mut reading, &mut received).unwrap();
                assert!(received == sent);
                drop(writer.join().unwrap());
            })
        })
        .collect();
    world.run(async {
        while done.load(Ordering::SeqCst) < CHANNELS {
            world.runtime.sleep(Duration::from_millis(5)).await;
        }
    });
    for client in clients {
        client.join().unwrap();
    }
    world.assert_clean();
}

#[test]
fn clients_wait_for_their_servers_and_no_longer_than_they_say() {
    let world = World::new();
    let path = |n: usize| format!("data/vchan/0/port{n}").parse().unwrap();
    let greeted = Arc::new(AtomicUsize::new(0));
    for n in 0..5 {
        let (client, runtime) = (world.client().path(path(n)), world.runtime.clone());
        let greeted = Arc::clone(&greeted);
        world.executor.spawn(async move {
            let mut channel = client.connect_on(&runtime).await.unwrap();
            let mut greeting = [0; 5];
            channel.recv(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"hello");
            greeted.fetch_add(1, Ordering::SeqCst);
        });
    }
    world.run(async {
        let short = Duration::from_millis(60);
        let lonely = world.client().timeout(short).connect_on(&world.runtime);
        let error = lonely.await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        for n in (0..5).rev() {
            let mut server = world.server(1024).path(path(n)).bind().unwrap();
            let mut channel = server.accept_on(&world.runtime).await.unwrap();
            channel.send(b"hello").await.unwrap();
            channel.drain().await.unwrap();
        }
        while greeted.load(Ordering::SeqCst) < 5 {
            world.runtime.sleep(Duration::from_millis(5)).await;
        }
    });
    world.assert_clean();
}

#[test]
fn a_future_dropped_at_any_poll_loses_and_doubles_no_byte() {
    let world = World::new();
    world.run(async {
        for (write_polls, read_polls) in (0..16).map(|n| (n / 4, n % 4)) {
            let (mut server, mut client) = world.pair(1024).await;
            let data = pattern(12_000, write_polls * 4 + read_polls);
            let (mut sent, mut received) = (0, Vec::new());
            let mut turn = 0;
            while received.len() < data.len() {
                let chunk = &data[sent..data.len().min(sent + 997)];
                if let Some(count) = poll_and_drop(client.write(chunk), write_polls).await {
                    sent += count.unwrap();
                }
                let mut buffer = [0; 700];
                if let Some(count) = poll_and_drop(server.read(&mut buffer), read_polls).await {
                    received.extend_from_slice(&buffer[..count.unwrap()]);
                }
                // With no poll at all nothing happens; then undisturbed calls do it.
                turn += 1;
                if write_polls == 0 && sent < data.len() && sent == received.len() {
                    sent += client.write(&data[sent..]).await.unwrap();
                }
                if read_polls == 0 && sent > received.len() {
                    let count = server.read(&mut buffer).await.unwrap();
                    received.extend_from_slice(&buffer[..count]);
                }
                assert_eq!(data[..received.len()], received[..], "turn {turn}");
            }
        }
    });
    world.assert_clean();
}

#[test]
fn datagrams_and_drains_may_be_dropped_at_every_poll() {
    let world = World::new();
    world.run(async {
        for polls in 0..4 {
            let (mut server, mut client) = world.pair(1024).await;
            let (mut sent, mut received) = (0_u32, 0_u32);
            while received < 200 {
                let mut datagram = [0; 300];
                datagram[..4].copy_from_slice(&sent.to_le_bytes());
                if let Some(done) = poll_and_drop(client.send(&datagram), polls).await {
                    done.unwrap();
                    sent += 1;
                } else if sent == received {
                    client.send(&datagram).await.unwrap();
                    sent += 1;
                }
                let drained = poll_and_drop(client.drain(), polls).await;
                assert!(drained.is_none() || sent == received);
                let mut whole = [0; 300];
                match poll_and_drop(server.recv(&mut whole), polls).await {
                    Some(done) => done.unwrap(),
                    None if sent > received => server.recv(&mut whole).await.unwrap(),
                    None => continue,
                }
                assert_eq!(whole[..4], received.to_le_bytes());
                received += 1;
            }
        }
    });
    world.assert_clean();
}

#[test]
fn accepting_and_connecting_may_be_dropped_at_every_poll() {
    let world = World::new();
    world.run(async {
        for polls in 0..6 {
            let runtime = &world.runtime;
            let mut server = world.server(1024).bind().unwrap();
            let none = poll_and_drop(server.accept_on(runtime), polls).await;
            assert!(none.is_none(), "there was no client");
            let connect = || world.client().connect_on(runtime);
            // It may get as far as being connected; then it comes and goes.
            drop(poll_and_drop(connect(), polls).await);
            drop(poll_and_drop(server.accept_on(runtime), polls).await);
            // A client may still come to a session that another one has left, until the server
            // has noticed: that is closed at once, on both sides.
            let accept = async {
                loop {
                    let mut accepted = server.accept_on(runtime).await.unwrap();
                    match accepted.send(b"welcome").await {
                        Ok(()) => break accepted,
                        Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
                    }
                }
            };
            let connect = async {
                loop {
                    let mut client = connect().await.unwrap();
                    match client.recv(&mut [0; 7]).await {
                        Ok(()) => break client,
                        Err(Error::EndOfStream { buffered: 0, .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            let (mut accepted, mut client) = both(accept, connect).await;
            client.send(b"still here").await.unwrap();
            accepted.recv(&mut [0; 10]).await.unwrap();
        }
    });
    world.assert_clean();
}

#[test]
fn a_cancelled_wait_does_not_take_the_other_directions_event() {
    let world = World::new();
    world.run(async {
        let (server, mut client) = world.pair(1024).await;
        let (mut reading, writing) = server.into_split();
        let writing = Arc::new(spin::Mutex::new(writing));
        let full = [0; 1024];
        while poll_and_drop(writing.lock().write(&full), 1)
            .await
            .is_some()
        {}
        let begin = Instant::now();
        for round in 0..40_u8 {
            // A writer that waits for space, while reads are begun and given up next to it.
            let written = Arc::new(AtomicUsize::new(0));
            let (theirs, flag) = (Arc::clone(&writing), Arc::clone(&written));
            world.executor.spawn(async move {
                // Nobody else has it meanwhile.
                let Some(mut writing) = theirs.try_lock() else {
                    panic!("two writers");
                };
                let sent = [round];
                poll_fn(|cx| writing.poll_write(cx, &sent)).await.unwrap();
                flag.store(1, Ordering::SeqCst);
            });
            for _ in 0..3 {
                let none = poll_and_drop(reading.read(&mut [0; 8]), 2).await;
                assert!(none.is_none());
            }
            assert_eq!(written.load(Ordering::SeqCst), 0, "the ring is full");
            client.recv(&mut [0; 1]).await.unwrap();
            // The event of that is taken by one more read that is given up.
            let none = poll_and_drop(reading.read(&mut [0; 8]), 1).await;
            assert!(none.is_none());
            while written.load(Ordering::SeqCst) == 0 {
                world.runtime.sleep(Duration::from_millis(1)).await;
            }
        }
        // A lost wake-up is made good by the look that every wait takes once a second.
        assert!(begin.elapsed() < LONG, "lost wake-ups");
    });
    world.assert_clean();
}

#[test]
fn a_destroyed_domain_ends_a_wait() {
    let world = World::new();
    world.run(async {
        let (server, mut client) = world.pair(1024).await;
        world.emulator.destroy_domain(guest()).unwrap();
        let read = world.runtime.timeout(LONG, client.recv(&mut [0; 4])).await;
        assert!(matches!(read, Some(Err(Error::PeerDied))), "{read:?}");
        drop(server);
    });
}

#[test]
fn a_limit_on_a_read_leaves_the_channel_whole() {
    let world = World::new();
    world.run(async {
        let (mut server, mut client) = world.pair(1024).await;
        let short = Duration::from_millis(30);
        for _ in 0..3 {
            let late = world.runtime.timeout(short, server.recv(&mut [0; 4])).await;
            assert!(late.is_none());
        }
        client.send(b"four").await.unwrap();
        let mut four = [0; 4];
        server.recv(&mut four).await.unwrap();
        assert_eq!(&four, b"four");
        drop(client);
        assert_eq!(server.read(&mut four).await.unwrap(), 0, "the end");
    });
    world.assert_clean();
}
