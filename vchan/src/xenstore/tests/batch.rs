//! Several requests at once.

use std::vec;

use super::*;
use crate::StoreErrorKind;
use crate::host::{Reply, Request, Store};
use crate::xenstore::exchange::Exchange;

fn values(answers: crate::host::Answers) -> Vec<Option<Vec<u8>>> {
    let value = |answer: Result<Reply, _>| answer.and_then(Reply::value).ok();
    answers.into_iter().map(value).collect()
}

/// Makes the requests and waits.
fn ask(client: &Client, requests: &[Request<'_>]) -> crate::host::Answers {
    client.submit(requests).wait(None)
}

#[test]
fn all_are_sent_before_the_first_is_answered_and_answers_come_in_any_order() {
    play(
        |store| {
            let requests: Vec<_> = (0..3).map(|_| store.expect(Kind::READ)).collect();
            for request in requests.iter().rev() {
                store.reply(request, &request.payload);
            }
        },
        |client| {
            let paths = ["data/a", "data/b", "data/c"].map(path);
            let answers = ask(&client, &paths.each_ref().map(Request::Read));
            let expected = ["data/a\0", "data/b\0", "data/c\0"];
            assert_eq!(
                values(answers),
                expected.map(|value| Some(value.as_bytes().to_vec()))
            );
        },
    );
}

#[test]
fn the_kernel_gets_them_one_at_a_time() {
    play_over(
        TransportKind::Device,
        |store| {
            for _ in 0..3 {
                let request = store.expect(Kind::READ);
                assert!(store.is_quiet());
                store.reply(&request, b"x");
            }
        },
        |client| {
            let node = path("data/a");
            let answers = ask(&client, &[Request::Read(&node); 3]);
            assert_eq!(values(answers), vec![Some(b"x".to_vec()); 3]);
        },
    );
}

#[test]
fn one_that_fails_leaves_the_others_alone() {
    play(
        |store| {
            let requests: Vec<_> = (0..4).map(|_| store.next().unwrap()).collect();
            store.ok(&requests[0]);
            store.error(&requests[1], "EACCES");
            store.error(&requests[2], "ENOENT");
            store.error(&requests[3], "E2BIG");
        },
        |client| {
            let node = path("data/a");
            let requests = [
                Request::Write(&node, b"1"),
                Request::Read(&node),
                Request::Remove(&node),
                Request::Directory(&node),
            ];
            let [written, read, removed, listed] =
                <[_; 4]>::try_from(ask(&client, &requests)).unwrap();
            assert!(matches!(written, Ok(Reply::Done)));
            assert_eq!(read.unwrap_err().kind, StoreErrorKind::Denied);
            assert!(matches!(removed, Ok(Reply::Done)), "it is not there");
            assert!(matches!(listed, Ok(Reply::Names(None))), "it is too long");
        },
    );
}

#[test]
fn what_is_missing_at_the_end_of_the_time_is_told() {
    play(
        |store| {
            let first = store.expect(Kind::READ);
            let watch = store.expect(Kind::WATCH);
            store.reply(&first, b"in time");
            // The watch that nobody waits for any more is taken back.
            let unwatch = store.expect(Kind::UNWATCH);
            assert_eq!(unwatch.payload, watch.payload);
        },
        |client| {
            let node = path("data/a");
            let mut ongoing = client.submit(&[Request::Read(&node), Request::Watch(&node)]);
            let soon = poll::now().after(Duration::from_millis(100));
            let [read, watch] = <[_; 2]>::try_from(ongoing.wait(Some(soon))).unwrap();
            assert_eq!(read.and_then(Reply::value).unwrap(), b"in time");
            assert_eq!(watch.unwrap_err().kind, StoreErrorKind::TimedOut);
        },
    );
}

#[test]
fn they_can_be_polled() {
    let (go, answer_now) = mpsc::channel();
    play(
        move |store| {
            let requests = [store.expect(Kind::READ), store.expect(Kind::WATCH)];
            answer_now.recv().unwrap();
            store.event(&requests[1]);
            store.ok(&requests[1]);
            store.reply(&requests[0], b"x");
            store.expect(Kind::UNWATCH);
        },
        move |client| {
            let node = path("data/a");
            let mut ongoing = client.submit(&[Request::Read(&node), Request::Watch(&node)]);
            assert!(ongoing.poll().is_none());
            go.send(()).unwrap();
            let answers = loop {
                let mut descriptors = [PollFd::from_borrowed_fd(
                    ongoing.as_fd().unwrap(),
                    PollFlags::IN,
                )];
                let end = poll::now().after(PATIENCE);
                poll::until(&mut descriptors, Some(end)).unwrap();
                assert!(poll::now() < end);
                if let Some(answers) = ongoing.poll() {
                    break answers;
                }
            };
            let [read, watch] = <[_; 2]>::try_from(answers).unwrap();
            assert_eq!(read.and_then(Reply::value).unwrap(), b"x");
            let watch = watch.and_then(Reply::watch).unwrap();
            assert!(watch.take().unwrap(), "the event came before the reply");
        },
    );
}

#[test]
fn all_learn_that_the_store_has_died() {
    play(
        |store| {
            let first = store.expect(Kind::READ);
            store.reply(&first, b"x");
            _ = store.socket.shutdown(std::net::Shutdown::Both);
        },
        |client| {
            let node = path("data/a");
            let answers = ask(&client, &[Request::Read(&node); 3]);
            let kinds: Vec<_> = answers.into_iter().map(|answer| answer.err()).collect();
            assert!(kinds[0].is_none());
            for error in &kinds[1..] {
                assert_eq!(error.as_ref().unwrap().kind, StoreErrorKind::Unreachable);
            }
        },
    );
}

#[test]
fn an_answer_that_makes_no_sense_ends_the_connection() {
    play(
        |store| {
            let first = store.expect(Kind::IS_DOMAIN_INTRODUCED);
            store.reply(&first, b"perhaps\0");
            assert!(store.next().is_none(), "nothing is asked of it any more");
        },
        |client| {
            let answers = ask(&client, &[Request::IsDomainIntroduced(crate::DomId::DOM0)]);
            let error = answers.into_iter().next().unwrap().unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Protocol);
            let later = client.read(&path("data/a")).unwrap_err();
            assert_eq!(later.kind, StoreErrorKind::Protocol);
        },
    );
}

#[test]
fn a_task_is_woken_by_an_answer_that_another_request_reads() {
    play(
        |store| {
            let requests = [store.expect(Kind::READ), store.expect(Kind::READ)];
            store.reply(&requests[0], b"x");
            store.reply(&requests[1], b"y");
            store.next();
        },
        |client| {
            let node = path("data/a");
            let mut ongoing = client.submit(&[Request::Read(&node)]);
            let (woken, waker) = watches::Woken::waker();
            ongoing.register(&waker);
            assert!(ongoing.poll().is_none());
            // From here on nothing of the answer is left in the descriptor.
            client.read(&path("data/b")).unwrap();
            assert!(woken.is());
            assert!(ongoing.poll().is_some());
        },
    );
}

/// More than a connection has room for that were not answered.
const MANY: usize = 2000;

#[test]
fn what_is_answered_and_then_given_up_is_forgotten() {
    play(
        |store| {
            for _ in 0..2 * MANY {
                let request = store.expect(Kind::READ);
                store.reply(&request, b"x");
            }
        },
        |client| {
            let node = path("data/a");
            for _ in 0..MANY {
                let given_up = client.submit(&[Request::Read(&node)]);
                // What reads this answer has read the other one before.
                client.read(&node).unwrap();
                drop(given_up);
            }
        },
    );
}

#[test]
fn a_transaction_that_has_begun_and_is_given_up_is_aborted() {
    let mut exchange = Exchange::default();
    let begin = exchange.request(Kind::TRANSACTION_START, 0, b"\0".to_vec());
    let request_id = begin.unwrap();
    let sent = exchange.to_send().unwrap().len();
    exchange.sent(sent);
    let begun = Message {
        kind: Kind::TRANSACTION_START,
        request_id,
        transaction_id: 0,
        payload: b"7\0".to_vec(),
    };
    exchange.deliver(begun).unwrap();
    exchange.abandon(request_id);
    let mut decoder = Decoder::default();
    decoder.push(exchange.to_send().unwrap());
    let end = decoder.next_message().unwrap().unwrap();
    assert_eq!((end.kind, end.transaction_id), (Kind::TRANSACTION_END, 7));
    assert_eq!(end.payload, b"F\0");
}
