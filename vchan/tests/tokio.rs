//! The asynchronous face: the same bytes, whoever is polled and dropped when.
#![cfg(feature = "tokio")]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{LONG, World, guest, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use vchan::tokio::Channel;
use vchan::{Client, Error};

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(2 * LONG, work).await.expect("the test hangs") })
}

async fn pair(world: &World, read: usize, write: usize) -> (Channel, Channel) {
    let mut server = world
        .server()
        .read_size(read)
        .write_size(write)
        .bind()
        .unwrap();
    let client = Client::builder(&world.dom0, guest())
        .timeout(LONG)
        .connect_async();
    let (server, client) = tokio::join!(server.accept_async(), client);
    (server.unwrap(), client.unwrap())
}

#[test]
fn a_million_bytes_cross_in_both_directions_between_four_tasks() {
    for threads in [1, 2] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .unwrap();
        let world = World::new();
        runtime.block_on(async {
            let (server, client) = pair(&world, 5000, 1024).await;
            let total = 1_000_000;
            let mut tasks = Vec::new();
            for (channel, ours, theirs) in [(server, 1, 2), (client, 2, 1)] {
                let (mut reading, mut writing) = channel.into_split();
                let sender = tokio::spawn(async move {
                    for chunk in pattern(total, ours).chunks(3001) {
                        writing.write_all(chunk).await.unwrap();
                    }
                    writing
                });
                tasks.push(tokio::spawn(async move {
                    let mut received = vec![0; total];
                    reading.read_exact(&mut received).await.unwrap();
                    assert!(received == pattern(total, theirs));
                    drop((sender.await.unwrap(), reading));
                }));
            }
            for task in tasks {
                timeout(2 * LONG, task)
                    .await
                    .expect("the test hangs")
                    .unwrap();
            }
        });
        drop(runtime);
        world.assert_clean();
    }
}

#[test]
fn the_end_comes_after_the_last_byte() {
    let world = World::new();
    run(async {
        let (mut server, mut client) = pair(&world, 5000, 5000).await;
        client.write_all(b"last words").await.unwrap();
        drop(client);
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "last words");
        let error = server.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    });
    world.assert_clean();
}

#[test]
fn datagrams_come_whole() {
    let world = World::new();
    run(async {
        let (mut server, mut client) = pair(&world, 4096, 4096).await;
        let sender = async {
            for n in 0..100u8 {
                client.send(&[n; 1000]).await.unwrap();
            }
            client.drain().await.unwrap();
            client
        };
        let receiver = async {
            for n in 0..100u8 {
                let mut whole = [0; 1000];
                server.recv(&mut whole).await.unwrap();
                assert_eq!(whole, [n; 1000]);
            }
        };
        let (mut client, ()) = tokio::join!(sender, receiver);
        let error = client.send(&[0; 4097]).await.unwrap_err();
        assert!(matches!(
            error,
            Error::TooLarge {
                size: 4097,
                max: 4096
            }
        ));
    });
}

/// Polls `future` at most `polls` times, letting the runtime work in between, then drops it.
async fn poll_and_drop<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(done) = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[test]
fn a_future_dropped_at_any_poll_loses_and_doubles_no_byte() {
    let world = World::new();
    run(async {
        for polls in 0..4 {
            let (server, client) = pair(&world, 1024, 1024).await;
            let (mut reading, _keep) = server.into_split();
            let (_keep_too, mut writing) = client.into_split();
            let data = pattern(40_000, polls as u64 + 7);
            let (mut sent, mut received) = (0, Vec::new());
            let mut attempts = 0;
            while received.len() < data.len() {
                let mut buffer = [0; 700];
                // Write and read futures that may be dropped before they are ready; what they
                // report is all that happened.
                let chunk = &data[sent..data.len().min(sent + 997)];
                if let Some(count) = poll_and_drop(writing.write(chunk), polls).await {
                    sent += count.unwrap();
                }
                if let Some(count) = poll_and_drop(reading.read(&mut buffer), polls).await {
                    received.extend_from_slice(&buffer[..count.unwrap()]);
                }
                // With no poll at all nothing may happen; then the undisturbed calls take turns.
                attempts += 1;
                if polls == 0 && attempts % 2 == 0 {
                    if sent < data.len() {
                        sent += writing.write(&data[sent..]).await.unwrap();
                    }
                    let count = reading.read(&mut buffer).await.unwrap();
                    received.extend_from_slice(&buffer[..count]);
                }
                assert_eq!(data[..received.len()], received[..], "{polls} polls");
            }
        }
    });
    world.assert_clean();
}

#[test]
fn a_cancelled_wait_does_not_take_the_other_directions_event() {
    let world = World::new();
    run(async {
        let (server, mut client) = pair(&world, 1024, 1024).await;
        let (mut reading, mut writing) = server.into_split();
        writing.write_all(&[0; 2048]).await.unwrap();
        for round in 0..50u8 {
            // A writer that waits for space, while reads are begun and given up next to it.
            let mut blocked = tokio::spawn(async move {
                writing.write_all(&[round]).await.unwrap();
                writing
            });
            for _ in 0..3 {
                assert!(poll_and_drop(reading.read(&mut [0; 8]), 2).await.is_none());
            }
            client.write_all(&[round]).await.unwrap();
            client.read_exact(&mut [0; 1]).await.unwrap();
            writing = timeout(LONG, &mut blocked)
                .await
                .expect("lost wake-up")
                .unwrap();
            let mut byte = [0];
            reading.read_exact(&mut byte).await.unwrap();
            assert_eq!(byte, [round]);
        }
    });
}

#[test]
fn connecting_waits_and_ends_by_its_deadline_and_several_clients_wait_at_once() {
    let world = World::new();
    run(async {
        let short = Duration::from_millis(60);
        let lonely = Client::builder(&world.dom0, guest())
            .timeout(short)
            .connect_async()
            .await;
        let error = lonely.unwrap_err().to_string();
        assert!(error.contains("ring-ref is not there"), "{error}");
        let path = |n: usize| format!("data/vchan/0/port{n}").parse().unwrap();
        let clients: Vec<_> = (0..5)
            .map(|n| {
                Client::builder(&world.dom0, guest())
                    .path(path(n))
                    .timeout(LONG)
            })
            .map(|client| tokio::spawn(client.connect_async()))
            .collect();
        tokio::time::sleep(short).await;
        for (n, client) in clients.into_iter().enumerate() {
            let mut server = world.server().path(path(n)).bind().unwrap();
            let mut ours = server.accept_async().await.unwrap();
            let mut theirs = client.await.unwrap().unwrap();
            theirs.write_u8(u8::try_from(n).unwrap()).await.unwrap();
            assert_eq!(ours.read_u8().await.unwrap() as usize, n);
        }
    });
    world.assert_clean();
}

#[test]
fn a_destroyed_domain_ends_an_asynchronous_wait() {
    let world = World::new();
    run(async {
        let (server, mut client) = pair(&world, 1024, 1024).await;
        world.emulator.destroy_domain(guest()).unwrap();
        let error = timeout(LONG, client.recv(&mut [0; 4])).await.unwrap();
        assert!(matches!(error, Err(Error::PeerDied)), "{error:?}");
        drop(server);
    });
}

/// Whether a task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.store(true, Relaxed);
    }
}

/// Polls `waiting`, which has nothing to do, and again when `end` has woken it.
fn ended_by<T>(waiting: impl Future<Output = T>, end: impl FnOnce()) -> T {
    let (woken, mut waiting) = (Arc::new(Woken::default()), pin!(waiting));
    let waker = Waker::from(Arc::clone(&woken));
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(poll().is_pending());
    assert!(!woken.0.swap(false, Relaxed));
    end();
    assert!(woken.0.swap(false, Relaxed), "nobody wakes it");
    match poll() {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it still waits"),
    }
}

#[test]
fn closing_wakes_a_task_of_the_own_side() {
    let world = World::new();
    run(async {
        let (server, mut client) = pair(&world, 1024, 1024).await;
        let (mut reading, mut writing) = server.into_split();
        client.send(b"first words").await.unwrap();
        assert_eq!(
            (reading.ring_size(), reading.data_ready().unwrap()),
            (1024, 11)
        );
        reading.recv(&mut [0; 11]).await.unwrap();
        let end = ended_by(reading.read(&mut [0]), || writing.close());
        assert_eq!((end.unwrap(), reading.bytes_read()), (0, 11));
        let late = writing.send(b"late").await;
        assert!(matches!(late, Err(Error::Closed)), "{late:?}");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);

        let (server, mut client) = pair(&world, 1024, 1024).await;
        let (reading, mut writing) = server.into_split();
        let size = writing.ring_size();
        writing.send(&vec![7; size]).await.unwrap();
        assert_eq!(
            (writing.buffer_space().unwrap(), writing.bytes_written()),
            (0, size as u64)
        );
        let end = ended_by(writing.write(b"x"), || reading.close());
        assert!(matches!(end, Err(Error::Closed)), "{end:?}");
        // What was written before can be read, and then the end.
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, vec![7; size]);
    });
    world.assert_clean();
}
