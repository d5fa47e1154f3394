//! Many messages in one publication, and the ring's bytes in place.

use super::*;

/// Waits, as a blocking caller does that never spins.
fn wait<T>(link: &Link, wanted: Wanted, step: impl FnMut() -> Result<Option<T>, Error>) -> T {
    let mut patience = link.patience(Spin::Never, 1024);
    link.wait_for(wanted, None, &mut patience, step).unwrap()
}

fn reserve(writer: &mut Writer, min: usize) -> usize {
    if let Some(len) = writer.reserve_at_once(min) {
        return len;
    }
    let link = Arc::clone(writer.link());
    wait(&link, Wanted::Space, || writer.reserve(min))
}

fn peek(reader: &mut Reader, min: usize) -> usize {
    if let Some(len) = reader.peek_at_once(min) {
        return len;
    }
    let link = Arc::clone(reader.link());
    wait(&link, Wanted::Data, || reader.peek(min))
}

#[test]
fn datagrams_that_are_sent_together_arrive_together() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let thread = thread::spawn(move || {
            let mut server = server;
            assert_eq!(server.writer.send_many(&[[1], [2]]).unwrap(), Some(2));
            server
        });
        let there = peek(&mut client.reader, 1);
        assert_eq!(there, 2, "one of two");
        read_all(&mut client.reader, &[1, 2]);
        thread.join().unwrap();
    });
}

#[test]
fn a_reader_of_many_datagrams_holds_no_space_back_when_it_sleeps() {
    check(2, || {
        let Model {
            server, mut client, ..
        } = connected();
        let thread = thread::spawn(move || {
            let mut server = server;
            let link = Arc::clone(server.writer.link());
            let mut left = &[[1], [2], [3]][..];
            while !left.is_empty() {
                let sent = wait(&link, Wanted::Space, || server.writer.send_many(left));
                left = &left[sent..];
            }
            server
        });
        let link = Arc::clone(client.reader.link());
        let mut received = Vec::new();
        while received.len() < 3 {
            let mut buffers = [[0]; 3];
            let count = wait(&link, Wanted::Data, || {
                client.reader.recv_many(&mut buffers)
            });
            received.extend(buffers[..count].iter().map(|[byte]| *byte));
        }
        assert_eq!(received, [1, 2, 3]);
        thread.join().unwrap();
    });
}

#[test]
fn what_is_peeked_at_stays_until_it_is_consumed() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let thread = thread::spawn(move || {
            let mut server = server;
            write_all(&mut server.writer, &[1, 2, 3]);
            server
        });
        let there = peek(&mut client.reader, 2);
        let mut bytes = [0; 2];
        client.reader.fetch(0, &mut bytes);
        assert_eq!((there, bytes), (2, [1, 2]));
        client.reader.release(there);
        read_all(&mut client.reader, &[3]);
        thread.join().unwrap();
    });
}

#[test]
fn what_is_reserved_is_seen_once_it_is_committed() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let thread = thread::spawn(move || {
            let mut server = server;
            // One that is given up, and one that is filled by and by.
            reserve(&mut server.writer, 1);
            server.writer.place(0, &[9]);
            assert_eq!(reserve(&mut server.writer, 2), 2);
            server.writer.place(1, &[2]);
            server.writer.place(0, &[1]);
            server.writer.publish(2);
            server
        });
        read_all(&mut client.reader, &[1, 2]);
        thread.join().unwrap();
    });
}
