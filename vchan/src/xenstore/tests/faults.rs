//! Stores that misbehave, stall or die.

use super::*;
use crate::host::Store;
use crate::{StoreError, StoreErrorKind, poll};

/// Lets the store answer a read with `answer`, and gives the client's error.
fn read_error(answer: impl FnOnce(&mut FakeStore, Message) + Send + 'static) -> StoreError {
    let (sender, receiver) = mpsc::channel();
    play(
        move |store| {
            let request = store.expect(Kind::READ);
            answer(store, request);
        },
        move |client| {
            let begin = poll::now();
            let error = client.read(&path("data/x")).unwrap_err();
            assert!(
                poll::now().since(begin) < PATIENCE / 2,
                "a broken connection is noticed at once"
            );
            let later = client.read(&path("data/x")).unwrap_err();
            assert_eq!(later.kind, error.kind, "and stays broken");
            sender.send(error).unwrap();
        },
    );
    receiver.recv().unwrap()
}

#[test]
fn fault_e09_a_reply_to_no_request() {
    let error = read_error(|store, mut request| {
        request.request_id += 1;
        store.reply(&request, b"value");
    });
    assert_eq!(error.kind, StoreErrorKind::Protocol);
    assert!(error.to_string().contains("not made"), "{error}");
}

#[test]
fn fault_e09_a_reply_of_the_wrong_kind() {
    let error = read_error(|store, mut request| {
        request.kind = Kind::WRITE;
        store.reply(&request, b"value");
    });
    assert_eq!(error.kind, StoreErrorKind::Protocol);
    assert!(
        error.to_string().contains("a WRITE reply to a READ"),
        "{error}"
    );
}

#[test]
fn fault_e09_a_reply_in_the_wrong_transaction() {
    let error = read_error(|store, mut request| {
        request.transaction_id = 7;
        store.reply(&request, b"value");
    });
    assert_eq!(error.kind, StoreErrorKind::Protocol);
}

#[test]
fn fault_e09_an_error_without_a_name() {
    let error = read_error(|store, mut request| {
        request.kind = Kind::ERROR;
        store.reply(&request, b"");
    });
    assert_eq!(error.kind, StoreErrorKind::Protocol);
}

#[test]
fn fault_e09_a_payload_that_is_too_long() {
    let error = read_error(|store, request| {
        let mut bytes = request.reply(Vec::new()).encode().unwrap();
        bytes[12..16].copy_from_slice(&4097_u32.to_le_bytes());
        store.send_bytes(&bytes);
    });
    assert_eq!(error.kind, StoreErrorKind::Protocol);
    assert!(error.to_string().contains("4097"), "{error}");
}

#[test]
fn fault_e09_two_replies_to_one_request() {
    play(
        |store| {
            let request = store.expect(Kind::READ);
            let twice = request.reply(b"value".to_vec()).encode().unwrap().repeat(2);
            store.send_bytes(&twice);
            assert!(store.next().is_none());
        },
        |client| {
            assert_eq!(client.read(&path("data/x")).unwrap(), b"value");
            let error = client.read(&path("data/x")).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Protocol);
        },
    );
}

#[test]
fn fault_e01_the_store_dies_at_every_byte_of_a_reply() {
    let length = 16 + 5;
    for sent in 0..length {
        let error = read_error(move |store, request| {
            let bytes = request.reply(b"value".to_vec()).encode().unwrap();
            store.send_bytes(&bytes[..sent]);
            store.socket.shutdown(std::net::Shutdown::Both).unwrap();
        });
        assert_eq!(
            error.kind,
            StoreErrorKind::Unreachable,
            "after {sent} bytes"
        );
        assert!(error.to_string().contains("xenstored"), "{error}");
        let middle = error.to_string().contains("in the middle of a message");
        assert_eq!(middle, sent > 0, "{error}");
    }
}

#[test]
fn fault_e01_a_reply_before_the_end_is_still_a_reply() {
    play(
        |store| {
            let request = store.expect(Kind::READ);
            store.reply(&request, b"last words");
            store.socket.shutdown(std::net::Shutdown::Both).unwrap();
        },
        |client| {
            assert_eq!(client.read(&path("data/x")).unwrap(), b"last words");
            let error = client.read(&path("data/x")).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Unreachable);
        },
    );
}

#[test]
fn fault_e01_the_store_dies_without_reading() {
    play(
        |store| store.socket.shutdown(std::net::Shutdown::Both).unwrap(),
        |client| {
            for _ in 0..3 {
                let error = client.write(&path("data/x"), &[0; 4000]).unwrap_err();
                assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");
            }
        },
    );
}

#[test]
fn fault_e09_bytes_in_small_pieces() {
    play(
        |store| {
            let request = store.expect(Kind::READ);
            for byte in request.reply(b"value".to_vec()).encode().unwrap() {
                store.send_bytes(&[byte]);
                thread::sleep(Duration::from_millis(1));
            }
        },
        |client| assert_eq!(client.read(&path("data/x")).unwrap(), b"value"),
    );
}

#[test]
fn a_request_ends_at_its_time_limit_and_a_late_reply_harms_no_one() {
    play(
        |store| {
            let late = store.expect(Kind::READ);
            let request = store.expect(Kind::READ);
            store.reply(&late, b"late");
            store.reply(&request, b"in time");
        },
        |client| {
            let hasty = client.clone().with_time_limit(Duration::from_millis(30));
            let begin = poll::now();
            let error = hasty.read(&path("data/x")).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::TimedOut);
            assert!(error.to_string().contains("30 ms"), "{error}");
            let taken = poll::now().since(begin);
            assert!(taken >= Duration::from_millis(30) && taken < PATIENCE / 2);
            assert_eq!(client.read(&path("data/y")).unwrap(), b"in time");
        },
    );
}

#[test]
fn a_store_that_reads_nothing_blocks_no_one_for_ever() {
    const REQUESTS: usize = 150;
    let (finish, finished) = mpsc::channel::<()>();
    play(
        move |store| {
            finished.recv().unwrap();
            // What went out is whole messages, and less than what was asked: what could not be sent
            // in time was withdrawn.
            let mut requests = 0;
            while store.next().is_some() {
                requests += 1;
            }
            assert!((1..REQUESTS).contains(&requests), "{requests}");
        },
        move |client| {
            let hasty = client.with_time_limit(Duration::from_millis(1));
            for _ in 0..REQUESTS {
                let error = hasty.write(&path("data/x"), &[0; 4000]).unwrap_err();
                assert_eq!(error.kind, StoreErrorKind::TimedOut);
            }
            finish.send(()).unwrap();
        },
    );
}

#[test]
fn a_store_that_answers_nothing_is_not_asked_for_ever() {
    const MOST: usize = 1024;
    play(
        |store| while store.next().is_some() {},
        |client| {
            let hasty = client.with_time_limit(Duration::from_micros(1));
            let mut timed_out = 0;
            let last = loop {
                let error = hasty.read(&path("data/x")).unwrap_err();
                if error.kind != StoreErrorKind::TimedOut {
                    break error;
                }
                timed_out += 1;
                // Some may not have been sent in time.
                assert!(timed_out < 20 * MOST);
            };
            assert_eq!(last.kind, StoreErrorKind::Unreachable);
            assert!(
                timed_out >= MOST && last.to_string().contains("1024"),
                "{last}"
            );
        },
    );
}

/// Replies with a byte changed, dropped, or doubled: every request ends, with its value or with an
/// error, and nothing panics.
#[test]
fn fault_e09_garbled_replies() {
    for seed in 1..=300_u64 {
        play(
            move |store| {
                let mut random = Random(seed);
                let mut stream = Vec::new();
                for _ in 0..3 {
                    let Some(request) = store.next() else { return };
                    stream.extend(watch_event(&request).encode().unwrap());
                    stream.extend(request.reply(b"value\0".to_vec()).encode().unwrap());
                    let at = random.below(stream.len());
                    match random.below(4) {
                        0 => stream[at] ^= 1 << random.below(8),
                        1 => _ = stream.remove(at),
                        2 => stream.insert(at, stream[at]),
                        _ => {}
                    }
                    store.send_bytes(&stream);
                    stream.clear();
                }
            },
            |client| {
                let client = client.with_time_limit(Duration::from_millis(5));
                _ = client.read(&path("data/x"));
                _ = client.directory(&path("data/x"));
                _ = client.permissions(&path("data/x"));
            },
        );
    }
}

#[test]
fn fault_d06_no_store_at_all() {
    let directory = std::env::temp_dir().join(std::format!("vchan-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let error = Client::open_at(directory.join("nothing")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable);
    for word in ["nothing: No such file", "xenstored", "/dev/xen/xenbus"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let abandoned = directory.join("socket");
    drop(std::os::unix::net::UnixListener::bind(&abandoned).unwrap());
    let error = Client::open_at(&abandoned).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable);
    assert!(error.to_string().contains("refused"), "{error}");
    std::fs::remove_dir_all(&directory).unwrap();
}
