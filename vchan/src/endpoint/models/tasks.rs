//! Tasks that wait, and one that is cancelled.

use core::future::poll_fn;
use core::task::Waker;

use loom::future::block_on;

use super::*;

async fn read_byte_in(tasks: &Tasks, reader: &mut Reader) -> Option<u8> {
    let mut byte = [0];
    let read = poll_fn(|cx| tasks.poll(Wanted::Data, cx.waker(), || reader.read(&mut byte))).await;
    (read.unwrap() == 1).then_some(byte[0])
}

async fn write_byte_in(tasks: &Tasks, writer: &mut Writer, byte: u8) {
    let written =
        poll_fn(|cx| tasks.poll(Wanted::Space, cx.waker(), || writer.write(&[byte]))).await;
    assert_eq!(written.unwrap(), 1);
}

fn tasks_of(end: &End, clock: &Clock, line: usize) -> Arc<Tasks> {
    let link = Arc::clone(end.reader.link());
    Arc::new(Tasks::new(link, Box::new(Arc::clone(clock.line(line)))))
}

#[test]
fn a_reading_and_a_writing_task_share_one_event_channel() {
    check(2, || {
        let Model {
            server,
            client,
            clock,
        } = connected();
        let tasks = tasks_of(&client, &clock, 1);
        let End {
            mut reader,
            mut writer,
        } = client;
        // The ring is full: the writing task must wait for the peer to read, the reading task for
        // it to write.
        write_all(&mut writer, &[1, 2]);
        let peer = thread::spawn(move || {
            let mut server = server;
            read_all(&mut server.reader, &[1]);
            write_all(&mut server.writer, &[9]);
            server
        });
        let writing = {
            let tasks = Arc::clone(&tasks);
            thread::spawn(move || {
                block_on(write_byte_in(&tasks, &mut writer, 3));
                writer
            })
        };
        assert_eq!(block_on(read_byte_in(&tasks, &mut reader)), Some(9));
        drop((writing.join().unwrap(), peer.join().unwrap(), reader));
    });
}

#[test]
fn a_task_that_is_cancelled_while_an_event_comes_takes_nothing_from_the_other() {
    check(2, || {
        let Model {
            server,
            client,
            clock,
        } = connected();
        let tasks = tasks_of(&client, &clock, 1);
        let End {
            mut reader,
            mut writer,
        } = client;
        write_all(&mut writer, &[1, 2]);
        let peer = thread::spawn(move || {
            let mut server = server;
            read_all(&mut server.reader, &[1]);
            server
        });
        let cancelled = {
            let tasks = Arc::clone(&tasks);
            thread::spawn(move || {
                // Polled once, perhaps just when the event comes, and dropped: nothing to read.
                let polled = tasks.poll(Wanted::Data, Waker::noop(), || reader.read(&mut [0]));
                assert!(polled.is_pending());
                reader
            })
        };
        block_on(write_byte_in(&tasks, &mut writer, 3));
        drop((cancelled.join().unwrap(), peer.join().unwrap(), writer));
    });
}
