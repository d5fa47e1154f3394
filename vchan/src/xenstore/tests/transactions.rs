//! Transactions.

use super::*;
use crate::{StoreError, StoreErrorKind};

fn begin(store: &mut FakeStore, id: &str) {
    let request = store.expect(Kind::TRANSACTION_START);
    assert_eq!(request.payload, b"\0");
    store.reply(&request, &join_strings([id]));
}

/// Checks the end of a transaction and leaves the reply to the caller.
fn end(store: &mut FakeStore, id: u32, how: &str) -> Message {
    let request = store.expect(Kind::TRANSACTION_END);
    assert_eq!(
        (request.transaction_id, strings(&request)),
        (id, [how.into()].into())
    );
    request
}

#[test]
fn a_transaction_commits() {
    play(
        |store| {
            begin(store, "5");
            let write = store.expect(Kind::WRITE);
            assert_eq!(write.transaction_id, 5);
            store.ok(&write);
            let request = end(store, 5, "T");
            store.ok(&request);
        },
        |client| {
            let write = client.transaction(|transaction| {
                transaction.write(&path("data/x"), b"value")?;
                Ok(7)
            });
            assert_eq!(write.unwrap(), 7);
        },
    );
}

#[test]
fn fault_e07_a_transaction_that_collides_is_done_again_and_not_for_ever() {
    play(
        |store| {
            for _ in 0..2 {
                begin(store, "5");
                let request = end(store, 5, "T");
                store.error(&request, "EAGAIN");
            }
            begin(store, "6");
            let request = end(store, 6, "T");
            store.ok(&request);
            for _ in 0..20 {
                begin(store, "7");
                let request = end(store, 7, "T");
                store.error(&request, "EAGAIN");
            }
            assert!(store.next().is_none());
        },
        |client| {
            let mut tries = 0;
            client
                .transaction(|_| {
                    tries += 1;
                    Ok(())
                })
                .unwrap();
            assert_eq!(tries, 3);
            let error = client.transaction(|_| Ok(())).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Again);
            assert!(error.to_string().contains("20 times"), "{error}");
        },
    );
}

#[test]
fn a_transaction_that_fails_is_aborted() {
    play(
        |store| {
            begin(store, "5");
            let request = end(store, 5, "F");
            store.ok(&request);
            begin(store, "6");
            end(store, 6, "F");
        },
        |client| {
            let failed: Result<(), _> =
                client.transaction(|_| Err(StoreError::new(StoreErrorKind::Denied, "do it")));
            assert_eq!(failed.unwrap_err().kind, StoreErrorKind::Denied);
            drop(client.begin().unwrap());
        },
    );
}

#[test]
fn a_transaction_that_begins_too_late_is_aborted() {
    play(
        |store| {
            let request = store.expect(Kind::TRANSACTION_START);
            let read = store.expect(Kind::READ);
            store.reply(&request, b"5\0");
            store.reply(&read, b"value");
            end(store, 5, "F");
        },
        |client| {
            use crate::host::Store;
            let hasty = client.clone().with_time_limit(Duration::from_millis(20));
            let error = hasty.begin().unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::TimedOut);
            client.read(&path("data/x")).unwrap();
        },
    );
}
