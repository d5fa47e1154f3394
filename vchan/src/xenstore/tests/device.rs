//! What is different about `/dev/xen/xenbus`, over a socket that plays it.

use super::*;
use crate::StoreErrorKind;
use crate::host::Store;

#[test]
fn the_kernel_gets_one_request_at_a_time() {
    const THREADS: usize = 4;
    play_over(
        TransportKind::Device,
        |store| {
            for _ in 0..THREADS {
                let request = store.expect(Kind::READ);
                assert!(store.is_quiet());
                store.reply(&request, &request.payload);
            }
        },
        |client| {
            thread::scope(|scope| {
                for number in 0..THREADS {
                    let client = &client;
                    scope.spawn(move || {
                        let node = path(&std::format!("data/{number}"));
                        let value = client.read(&node).unwrap();
                        assert_eq!(value, join_strings([node.as_str()]));
                    });
                }
            });
        },
    );
}

#[test]
fn requests_wait_for_one_whose_time_is_up_and_can_be_withdrawn() {
    let (both_gave_up, second_is_withdrawn) = mpsc::channel();
    play_over(
        TransportKind::Device,
        move |store| {
            let late = store.expect(Kind::READ);
            second_is_withdrawn.recv().unwrap();
            assert!(store.is_quiet());
            store.reply(&late, b"late");
            let request = store.expect(Kind::READ);
            assert_eq!(request.payload, b"data/third\0");
            store.reply(&request, b"in time");
        },
        move |client| {
            let hasty = client.clone().with_time_limit(Duration::from_millis(20));
            for node in ["data/first", "data/second"] {
                let error = hasty.read(&path(node)).unwrap_err();
                assert_eq!(error.kind, StoreErrorKind::TimedOut);
            }
            both_gave_up.send(()).unwrap();
            assert_eq!(client.read(&path("data/third")).unwrap(), b"in time");
        },
    );
}

#[test]
fn what_a_dropped_watch_and_transaction_leave_to_send_is_sent() {
    play_over(
        TransportKind::Device,
        |store| {
            let watch = store.expect(Kind::WATCH);
            store.ok(&watch);
            let begin = store.expect(Kind::TRANSACTION_START);
            store.reply(&begin, b"5\0");
            for kind in [Kind::TRANSACTION_END, Kind::UNWATCH, Kind::READ] {
                let request = store.expect(kind);
                assert!(store.is_quiet());
                store.ok(&request);
            }
        },
        |client| {
            let watch = client.watch(&path("data/x")).unwrap();
            let transaction = client.begin().unwrap();
            drop(transaction);
            drop(watch);
            client.read(&path("data/x")).unwrap();
        },
    );
}

#[test]
fn a_request_that_the_kernel_refuses_fails_alone() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let transport = Transport::over(ours.into(), TransportKind::Device).unwrap();
    let client = Client::new(transport).unwrap();
    for _ in 0..2 {
        let error = client.read(&path("data/x")).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused);
        assert!(error.to_string().contains("the kernel says"), "{error}");
    }
    // The other direction still works, and a reply to a refused request is one too many.
    theirs.write_all(&[0; 16]).unwrap();
    let error = client.read(&path("data/x")).unwrap_err();
    let later = client.read(&path("data/x")).unwrap_err();
    let kinds = [StoreErrorKind::Refused, StoreErrorKind::Protocol];
    assert!(kinds.contains(&error.kind), "{error}");
    assert_eq!(later.kind, StoreErrorKind::Protocol);
}
