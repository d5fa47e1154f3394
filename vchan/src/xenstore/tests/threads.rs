//! Many threads on one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::host::Store;
use crate::{StoreErrorKind, poll};

#[test]
fn replies_in_any_order_reach_who_asked() {
    const THREADS: usize = 8;
    play(
        |store| {
            for round in 0..50 {
                let mut requests: Vec<Message> =
                    (0..THREADS).map(|_| store.expect(Kind::READ)).collect();
                requests.rotate_left(round % THREADS);
                if round % 2 == 0 {
                    requests.reverse();
                }
                for request in requests {
                    let answer = request.payload.clone();
                    store.reply(&request, &answer);
                }
            }
        },
        |client| {
            thread::scope(|scope| {
                for number in 0..THREADS {
                    let client = &client;
                    scope.spawn(move || {
                        let node = path(&std::format!("data/{number}"));
                        for _ in 0..50 {
                            let value = client.read(&node).unwrap();
                            assert_eq!(value, join_strings([node.as_str()]));
                        }
                    });
                }
            });
        },
    );
}

/// The first thread leads. When it leaves with its reply, or at its deadline, another must read.
#[test]
fn a_leader_that_leaves_has_a_successor() {
    for leader_is_answered in [true, false] {
        let (first_came, leader_sleeps) = mpsc::channel();
        play(
            move |store| {
                let first = store.expect(Kind::READ);
                first_came.send(()).unwrap();
                let others: Vec<Message> = (0..3).map(|_| store.expect(Kind::READ)).collect();
                if leader_is_answered {
                    store.reply(&first, b"first");
                } else {
                    thread::sleep(Duration::from_millis(100));
                }
                for other in others {
                    thread::sleep(Duration::from_millis(10));
                    store.reply(&other, b"other");
                }
            },
            move |client| {
                let hasty = client.clone().with_time_limit(Duration::from_millis(60));
                thread::scope(|scope| {
                    let leader = if leader_is_answered { &client } else { &hasty };
                    let first = scope.spawn(move || leader.read(&path("data/first")));
                    leader_sleeps.recv().unwrap();
                    let begin = poll::now();
                    let others: Vec<_> = (0..3)
                        .map(|_| scope.spawn(|| client.read(&path("data/other"))))
                        .collect();
                    assert_eq!(first.join().unwrap().is_ok(), leader_is_answered);
                    for other in others {
                        assert_eq!(other.join().unwrap().unwrap(), b"other");
                    }
                    assert!(poll::now().since(begin) < PATIENCE / 2, "no one slept on");
                });
            },
        );
    }
}

/// A thread that never leads reads what is for the leader: the leader must learn of it.
#[test]
fn a_reply_that_another_thread_reads_wakes_the_leader() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            for _ in 0..300 {
                let read = store.expect(Kind::READ);
                store.reply(&read, b"value");
            }
            store.next();
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            let rest = AtomicU32::new(300);
            let begin = poll::now();
            thread::scope(|scope| {
                scope.spawn(|| {
                    // Relaxed: only a hint to stop.
                    while rest.load(Ordering::Relaxed) > 0 {
                        watch.take().unwrap();
                    }
                });
                for _ in 0..300 {
                    client.read(&path("data/x")).unwrap();
                    rest.fetch_sub(1, Ordering::Relaxed);
                }
            });
            assert!(poll::now().since(begin) < PATIENCE / 2);
        },
    );
}

#[test]
fn a_thread_that_waits_for_a_watch_serves_the_others() {
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            for _ in 0..100 {
                let read = store.expect(Kind::READ);
                store.reply(&read, b"value");
            }
            store.event(&watch);
            store.next();
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| watch.wait(None));
                thread::sleep(Duration::from_millis(20));
                for _ in 0..100 {
                    assert_eq!(client.read(&path("data/x")).unwrap(), b"value");
                }
                assert!(waiter.join().unwrap().unwrap());
            });
        },
    );
}

#[test]
fn fault_e01_all_that_wait_learn_that_the_store_died() {
    const THREADS: usize = 6;
    play(
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            for _ in 0..THREADS {
                store.expect(Kind::READ);
            }
            store.socket.shutdown(std::net::Shutdown::Both).unwrap();
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            let begin = poll::now();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| watch.wait(None));
                let readers: Vec<_> = (0..THREADS)
                    .map(|_| scope.spawn(|| client.read(&path("data/x"))))
                    .collect();
                for reader in readers {
                    let error = reader.join().unwrap().unwrap_err();
                    assert_eq!(error.kind, StoreErrorKind::Unreachable);
                }
                assert!(waiter.join().unwrap().is_err());
            });
            assert!(poll::now().since(begin) < PATIENCE / 2);
        },
    );
}

/// Leaders and followers come and go all the time here, with their replies or without.
#[test]
fn deadlines_hold_whoever_leads() {
    const THREADS: u64 = 6;
    const REQUESTS: usize = 60;
    play(
        |store| {
            let mut random = Random(7);
            let mut held = Vec::new();
            while let Some(request) = store.next() {
                held.push(request);
                while held.len() > random.below(4) {
                    let request = held.swap_remove(random.below(held.len()));
                    let answer = request.payload.clone();
                    store.reply(&request, &answer);
                }
                thread::sleep(Duration::from_micros(200));
            }
        },
        |client| {
            let answered = AtomicU32::new(0);
            thread::scope(|scope| {
                for number in 1..=THREADS {
                    let (client, answered) = (&client, &answered);
                    scope.spawn(move || {
                        let mut random = Random(number);
                        let node = path(&std::format!("data/{number}"));
                        for _ in 0..REQUESTS {
                            // Some are long enough to be answered on a busy machine.
                            let limit = match random.below(8) {
                                0 => Duration::from_millis(100),
                                _ => Duration::from_micros(random.below(4000) as u64),
                            };
                            let begin = poll::now();
                            match client.clone().with_time_limit(limit).read(&node) {
                                Ok(value) => {
                                    assert_eq!(value, join_strings([node.as_str()]));
                                    // Relaxed: read after the threads are joined.
                                    answered.fetch_add(1, Ordering::Relaxed);
                                }
                                Err(error) => {
                                    assert_eq!(error.kind, StoreErrorKind::TimedOut, "{error}");
                                }
                            }
                            let taken = poll::now().since(begin);
                            assert!(taken < PATIENCE / 2, "{taken:?} for {limit:?}");
                        }
                    });
                }
            });
            assert!(answered.load(Ordering::Relaxed) > 0);
        },
    );
}

#[test]
fn requests_larger_than_the_socket_holds_all_get_through() {
    let total = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&total);
    play(
        move |store| {
            thread::sleep(Duration::from_millis(50));
            for _ in 0..400 {
                let write = store.expect(Kind::WRITE);
                assert_eq!(write.payload.len(), 4007);
                // Relaxed: read after the threads are joined.
                seen.fetch_add(1, Ordering::Relaxed);
                store.ok(&write);
            }
        },
        |client| {
            thread::scope(|scope| {
                for _ in 0..100 {
                    scope.spawn(|| {
                        for _ in 0..4 {
                            client.write(&path("data/x"), &[1; 4000]).unwrap();
                        }
                    });
                }
            });
        },
    );
    assert_eq!(total.load(Ordering::Relaxed), 400);
}

#[test]
fn the_client_can_be_shared() {
    fn shareable<T: Send + Sync + Clone>() {}
    shareable::<Client>();
}
