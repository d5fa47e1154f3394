//! B5, B8, B9 and B10 in tasks: other tasks go on, and every future may be dropped at every poll.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::time::timeout;

use vchan::host::Watch;
use vchan::task::{EventSource, Reactor, Readiness, Runtime, Sleep};
use vchan::{Client, DomId, Error, HostError};

use crate::common::{LONG, World, bounded, guest, pattern};
use crate::{SHORT, Spurious};

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(2 * LONG, work).await.expect("the test hangs") })
}

fn pair(world: &World, size: usize) -> (vchan::tokio::Channel, vchan::tokio::Channel) {
    let (server, client) = world.pair(size, size);
    let channel = |end| vchan::tokio::channel(end).unwrap();
    (channel(server), channel(client))
}

#[test]
fn fault_b05_a_storm_of_events_leaves_the_runtime_to_other_tasks() {
    bounded(|| {
        run(async {
            let world = World::new();
            let (server, client) = pair(&world, 1024);
            let target = vec![(DomId::DOM0, client.handshake().port)];
            let (mut reading, mut writing) = client.into_split();
            writing.write_all(&[0; 1024]).await.unwrap();
            let storm = Spurious::new(world, target, Duration::ZERO);
            let reader = tokio::spawn(async move { reading.read(&mut [0; 4]).await });
            let writer = tokio::spawn(async move { writing.write(&[0; 4]).await });
            // A task that kept the runtime to itself would keep it as long as the storm goes on.
            let mut turns = 0;
            while storm.sent() < 3000 || turns < 100 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                turns += 1;
            }
            assert!(!reader.is_finished() && !writer.is_finished());
            reader.abort();
            writer.abort();
            drop((storm, server));
        })
    });
}

#[test]
fn fault_b08_a_fault_wakes_the_task_of_the_other_direction() {
    let world = World::new();
    run(async {
        for writer_meets_it in [true, false] {
            let (server, client) = pair(&world, 1024);
            let reference = client.handshake().ring_ref;
            let page = world.emulator.raw_page(guest(), reference).unwrap();
            let (mut reading, mut writing) = client.into_split();
            writing.write_all(&[0; 1024]).await.unwrap();
            if writer_meets_it {
                let asleep = tokio::spawn(async move { reading.recv(&mut [0; 4]).await });
                tokio::time::sleep(SHORT).await;
                page.store_index(0, 0x8000_0000, std::sync::atomic::Ordering::Release);
                let error = writing.send(&[0]).await.unwrap_err();
                assert!(matches!(error, Error::PeerFault(_)), "{error}");
                let woken = timeout(LONG, asleep).await.unwrap().unwrap();
                assert!(matches!(woken, Err(Error::PeerFault(_))), "{woken:?}");
            } else {
                let asleep = tokio::spawn(async move { writing.send(&[0; 4]).await });
                tokio::time::sleep(SHORT).await;
                page.store_index(12, 0x8000_0000, std::sync::atomic::Ordering::Release);
                let error = reading.recv(&mut [0]).await.unwrap_err();
                assert!(matches!(error, Error::PeerFault(_)), "{error}");
                let woken = timeout(LONG, asleep).await.unwrap().unwrap();
                assert!(matches!(woken, Err(Error::PeerFault(_))), "{woken:?}");
            }
            drop(server);
        }
    });
}

/// tokio, whose tasks do not look at their channels now and then: so nothing makes a lost wake-up good.
struct NeverLooks;

/// A port that tokio watches.
struct Watched {
    descriptor: AsyncFd<OwnedFd>,
    _source: EventSource,
}

impl Reactor for NeverLooks {
    fn event_channel(&self, source: EventSource) -> Result<Box<dyn Readiness>, HostError> {
        let descriptor = source.as_fd().unwrap().try_clone_to_owned().unwrap();
        #[allow(deprecated, reason = "its successor is unsafe to call")]
        let descriptor = AsyncFd::with_interest(descriptor, Interest::READABLE).unwrap();
        Ok(Box::new(Watched {
            descriptor,
            _source: source,
        }))
    }

    fn store(&self, _watch: &dyn Watch) -> Result<Box<dyn Readiness>, HostError> {
        unreachable!("its channels are connected before")
    }

    fn sleep(&self, _duration: Duration) -> Sleep {
        Box::pin(std::future::pending())
    }
}

impl Readiness for Watched {
    fn poll_take(
        &self,
        waker: &Waker,
        take: &mut dyn FnMut() -> Result<bool, Error>,
    ) -> Poll<Result<bool, Error>> {
        let ready = self
            .descriptor
            .poll_read_ready(&mut Context::from_waker(waker));
        let mut guard = std::task::ready!(ready).unwrap();
        let taken = take()?;
        if !taken {
            guard.clear_ready();
        }
        Poll::Ready(Ok(taken))
    }
}

#[test]
fn fault_b08_a_cancelled_task_takes_nothing_from_the_other() {
    let world = World::new();
    run(async {
        let (server, client) = world.pair(1024, 1024);
        let mut server = vchan::tokio::channel(server).unwrap();
        let client = vchan::task::Channel::new(client, &Runtime::new(NeverLooks)).unwrap();
        let (mut reading, mut writing) = client.into_split();
        for round in 0..40u8 {
            writing.write_all(&[round; 1024]).await.unwrap();
            let mut blocked = tokio::spawn(async move {
                writing.write_all(&[round; 7]).await.unwrap();
                writing
            });
            // Begun, woken perhaps, and given up.
            for _ in 0..3 {
                let mut four = [0; 4];
                let read = timeout(Duration::from_millis(1), reading.read(&mut four));
                assert!(read.await.is_err());
            }
            server.read_exact(&mut [0; 1024]).await.unwrap();
            let woken = timeout(LONG, &mut blocked).await;
            writing = woken.expect("a wake-up is lost").unwrap();
            server.read_exact(&mut [0; 7]).await.unwrap();
        }
    });
}

/// Polls `future` at most `polls` times, letting the runtime work in between, then drops it.
async fn poll_and_drop<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// Bytes none of which is 0xEE, by which a buffer shows what was read into it.
fn marked(len: usize, seed: u64) -> Vec<u8> {
    let bytes = pattern(len, seed).into_iter();
    bytes.map(|byte| byte & 0x7F).collect()
}

#[test]
fn fault_b09_write_all_and_read_exact_may_be_dropped_at_every_poll() {
    let world = World::new();
    run(async {
        for (write_polls, read_polls) in [(0, 1), (1, 0), (1, 1), (2, 1), (1, 2), (3, 3)] {
            let (server, client) = pair(&world, 1024);
            let (mut reading, _keep) = server.into_split();
            let (_keep_too, mut writing) = client.into_split();
            let data = marked(30_000, write_polls as u64 + 10);
            // What was read is what was written so far, so the writer goes on from there.
            let mut received = Vec::new();
            let mut rounds = 0;
            while received.len() < data.len() {
                rounds += 1;
                assert!(rounds < 10_000, "no progress");
                let rest = &data[received.len()..];
                // Longer than the ring: dropped in the middle of a write_all.
                let chunk = &rest[..rest.len().min(1500 + rounds % 700)];
                poll_and_drop(writing.write_all(chunk), write_polls).await;
                loop {
                    let mut buffer = [0xEE; 300];
                    poll_and_drop(reading.read_exact(&mut buffer), read_polls).await;
                    let count = buffer.iter().position(|&byte| byte == 0xEE);
                    let count = count.unwrap_or(buffer.len());
                    assert!(buffer[count..].iter().all(|&byte| byte == 0xEE));
                    received.extend_from_slice(&buffer[..count]);
                    if count == 0 {
                        break;
                    }
                }
                assert!(data.starts_with(&received), "lost or doubled bytes");
                if write_polls == 0 || read_polls == 0 {
                    // With no poll at all nothing may happen; then the undisturbed calls.
                    assert!(write_polls > 0 || received.len() % 700 == 0);
                    if write_polls == 0 {
                        let next = &data[received.len()..];
                        let next = &next[..next.len().min(700)];
                        writing.write_all(next).await.unwrap();
                    }
                    let mut there = vec![0; 700.min(data.len() - received.len())];
                    let count = reading.read(&mut there).await.unwrap();
                    received.extend_from_slice(&there[..count]);
                    while let Some(Ok(count)) = poll_and_drop(reading.read(&mut there), 1).await {
                        received.extend_from_slice(&there[..count]);
                    }
                }
            }
            assert!(received == data);
        }
    });
    world.assert_clean();
}

#[test]
fn fault_b09_datagrams_and_drains_may_be_dropped_at_every_poll() {
    let world = World::new();
    run(async {
        for polls in 0..4 {
            let (mut server, mut client) = pair(&world, 1024);
            let (mut sent, mut received) = (0u32, 0u32);
            let mut whole = [0; 300];
            while received < 300 {
                let mut datagram = [0; 300];
                datagram[..4].copy_from_slice(&sent.to_le_bytes());
                if sent % 7 != 6 {
                    // It was sent whole or not at all, and says which.
                    if let Some(done) = poll_and_drop(client.send(&datagram), polls).await {
                        done.unwrap();
                        sent += 1;
                    }
                } else {
                    client.send(&datagram).await.unwrap();
                    sent += 1;
                }
                let drained = poll_and_drop(client.drain(), polls).await;
                assert!(drained.is_none() || sent == received);
                if let Some(done) = poll_and_drop(server.recv(&mut whole), polls).await {
                    done.unwrap();
                } else if received < sent && (polls == 0 || sent - received > 2) {
                    server.recv(&mut whole).await.unwrap();
                } else {
                    if polls == 0 {
                        client.send(&datagram).await.unwrap();
                        sent += 1;
                    }
                    continue;
                }
                assert_eq!(whole[..4], received.to_le_bytes());
                received += 1;
            }
            while received < sent {
                server.recv(&mut whole).await.unwrap();
                received += 1;
            }
            client.drain().await.unwrap();
        }
    });
    world.assert_clean();
}

#[test]
fn fault_b09_accepting_and_connecting_may_be_dropped_at_every_poll() {
    let world = World::new();
    run(async {
        for polls in 0..6 {
            let mut server = world.server().bind().unwrap();
            let none = poll_and_drop(server.accept_async(), polls).await;
            assert!(none.is_none(), "there was no client");
            let dom0 = world.dom0.clone();
            let connect = move || {
                let client = Client::builder(&dom0, guest()).timeout(LONG);
                client.connect_async()
            };
            // It may get as far as being connected; then it comes and goes.
            drop(poll_and_drop(connect(), polls).await);
            drop(poll_and_drop(server.accept_async(), polls).await);
            // One that comes before the keys of the first are gone finds its channel closed.
            let client = tokio::spawn(async move {
                loop {
                    let mut client = connect().await.unwrap();
                    if client.recv(&mut [0; 5]).await.is_ok() {
                        return client;
                    }
                }
            });
            let mut accepted = loop {
                let mut accepted = server.accept_async().await.unwrap();
                if accepted.send(b"hello").await.is_ok()
                    && accepted.state().unwrap() == vchan::State::Connected
                {
                    break accepted;
                }
            };
            let mut client = client.await.unwrap();
            client.send(b"still here").await.unwrap();
            accepted.recv(&mut [0; 10]).await.unwrap();
        }
    });
    world.assert_clean();
}

#[test]
fn fault_b10_copying_both_ways_stalls_no_direction_on_the_other() {
    let world = World::new();
    run(async {
        let (mut server, client) = pair(&world, 1024);
        // A bridge between the vchan and a local stream, one direction of which nobody reads.
        let (mut local, mut far) = tokio::io::duplex(64);
        let bridge = tokio::spawn(async move {
            let _ = tokio::io::copy_bidirectional(&mut server, &mut local).await;
        });
        let stalled = tokio::spawn(async move {
            // Towards the far end, which never reads: fills everything on its way.
            let (reading, mut writing) = client.into_split();
            let sent = timeout(SHORT, writing.write_all(&[1; 100_000])).await;
            assert!(sent.is_err(), "it cannot end");
            (reading, writing)
        });
        let (mut reading, writing) = stalled.await.unwrap();
        let data = pattern(50_000, 8);
        let write = far.write_all(&data);
        let mut received = vec![0; data.len()];
        let (written, read) = tokio::join!(write, reading.read_exact(&mut received));
        written.unwrap();
        read.unwrap();
        assert!(received == data);
        bridge.abort();
        let _ = bridge.await;
        drop(writing);
    });
}
