//! Who sleeps is woken, and who is awake is left alone.

use super::*;

#[test]
fn every_byte_crosses_though_both_ends_must_sleep() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let End { mut writer, reader } = server;
        let thread = thread::spawn(move || {
            write_all(&mut writer, &[1, 2, 3]);
            (writer, reader)
        });
        read_all(&mut client.reader, &[1, 2, 3]);
        thread.join().unwrap();
    });
}

#[test]
fn a_reader_that_spins_before_it_sleeps_gets_every_byte() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let End { mut writer, reader } = server;
        let thread = thread::spawn(move || {
            write_all(&mut writer, &[1, 2]);
            (writer, reader)
        });
        let mut patience = client.reader.link().patience(Spin::Adaptive, 1024);
        for expected in [1, 2] {
            let byte = read_byte_with(&mut patience, &mut client.reader, None);
            assert_eq!(byte.unwrap(), Some(expected));
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_reader_that_only_spins_asks_for_no_event_and_sees_the_end() {
    check(3, || {
        let Model {
            server,
            mut client,
            clock,
        } = connected();
        // The server's first publication calls for an event: so the page is made.
        let page = Arc::clone(client.reader.link().page());
        page.clear_bits(Side::Client.asked_of_us(), NOTIFY_WRITE, Ordering::SeqCst);
        page.clear_bits(Side::Server.asked_of_us(), NOTIFY_WRITE, Ordering::SeqCst);
        let thread = thread::spawn(move || {
            let mut server = server;
            write_all(&mut server.writer, &[1]);
            assert!(!clock.line(1).is_pending(), "an event");
            drop(server);
        });
        let mut patience = client.reader.link().patience(Spin::Always, 1024);
        let mut next = || read_byte_with(&mut patience, &mut client.reader, None).unwrap();
        assert_eq!((next(), next()), (Some(1), None));
        thread.join().unwrap();
    });
}

#[test]
fn reader_and_writer_share_one_event_channel() {
    check(2, || {
        let Model { server, client, .. } = connected();
        let (mut echo_in, mut echo_out) = (server.reader, server.writer);
        let echo = thread::spawn(move || {
            read_all(&mut echo_in, &[1, 2, 3]);
            write_all(&mut echo_out, &[9]);
            (echo_in, echo_out)
        });
        let (mut reader, mut writer) = (client.reader, client.writer);
        let hungry = thread::spawn(move || {
            read_all(&mut reader, &[9]);
            reader
        });
        write_all(&mut writer, &[1, 2, 3]);
        let ends = (echo.join().unwrap(), hungry.join().unwrap());
        drop((ends, writer));
    });
}

#[test]
fn who_is_awake_has_asked_for_no_event() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let page = Arc::clone(client.reader.link().page());
        let asked = Side::Server.asked_of_us();
        // Made by connecting.
        page.clear_bits(asked, NOTIFY_WRITE, Ordering::SeqCst);
        let End { mut writer, reader } = server;
        let thread = thread::spawn(move || {
            write_all(&mut writer, &[1]);
            (writer, reader)
        });
        read_all(&mut client.reader, &[1]);
        drop(thread.join().unwrap());
        assert_eq!(page.load_byte(asked, Ordering::SeqCst) & NOTIFY_WRITE, 0);
    });
}

#[test]
fn a_deadline_that_races_with_an_event_loses_nothing() {
    check(2, || {
        let Model {
            server,
            mut client,
            clock,
        } = connected();
        let End { mut writer, reader } = server;
        let thread = thread::spawn(move || {
            write_all(&mut writer, &[7]);
            (writer, reader)
        });
        let striking = thread::spawn(move || {
            clock.strike();
            clock
        });
        let first = read_byte(&mut client.reader, Some(Time(DEADLINE)));
        match first {
            Ok(byte) => assert_eq!(byte, Some(7)),
            Err(Error::TimedOut { .. }) => {
                // The writer has its chance; after that the byte must be there.
                let ends = thread.join().unwrap();
                assert_eq!(
                    read_byte(&mut client.reader, Some(Time(DEADLINE))).unwrap(),
                    Some(7)
                );
                striking.join().unwrap();
                drop(ends);
                return;
            }
            Err(other) => panic!("{other}"),
        }
        drop((thread.join().unwrap(), striking.join().unwrap()));
    });
}
