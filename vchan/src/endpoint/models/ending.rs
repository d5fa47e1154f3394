//! The end of a connection, in order or by a fault, reaches whoever waits.

use super::*;

#[test]
fn the_last_bytes_before_a_close_arrive() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let thread = thread::spawn(move || {
            let mut server = server;
            write_all(&mut server.writer, &[1, 2]);
            drop(server);
        });
        read_all(&mut client.reader, &[1, 2]);
        assert_eq!(read_byte(&mut client.reader, None).unwrap(), None);
        thread.join().unwrap();
    });
}

#[test]
fn a_close_wakes_a_writer_that_sleeps() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        write_all(&mut client.writer, &[1, 2]);
        let thread = thread::spawn(move || drop(server));
        let link = Arc::clone(client.writer.link());
        let mut patience = link.patience(Spin::Never, 1024);
        let late = link.wait_for(Wanted::Space, None, &mut patience, || {
            client.writer.write(&[3])
        });
        assert!(matches!(late, Err(Error::Closed)));
        thread.join().unwrap();
    });
}

#[test]
fn closing_wakes_a_reader_of_the_own_side() {
    check(3, || {
        let Model { server, client, .. } = connected();
        let End { mut reader, writer } = client;
        let reading = thread::spawn(move || {
            assert_eq!(read_byte(&mut reader, None).unwrap(), None);
            reader
        });
        writer.link().shut_down();
        drop((reading.join().unwrap(), writer, server));
    });
}

#[test]
fn a_fault_that_the_writer_finds_wakes_reader_and_follower() {
    check(2, || {
        let Model { server, client, .. } = connected();
        let End {
            mut reader,
            mut writer,
        } = client;
        // The ring is full, so both must wait.
        write_all(&mut writer, &[1, 2]);
        let reading = thread::spawn(move || {
            assert!(matches!(
                read_byte(&mut reader, None),
                Err(Error::PeerFault(_))
            ));
            reader
        });
        let link = Arc::clone(writer.link());
        let finding = thread::spawn(move || {
            link.record(PeerFault::Live(7));
        });
        let mut patience = writer.link().patience(Spin::Never, 1024);
        let waited = Arc::clone(writer.link())
            .wait_for(Wanted::Space, None, &mut patience, || writer.write(&[3]));
        assert!(matches!(waited, Err(Error::PeerFault(_))));
        finding.join().unwrap();
        drop((reading.join().unwrap(), writer, server));
    });
}

#[test]
fn two_threads_that_look_while_the_client_comes_blame_nobody() {
    check(3, || {
        let Model { server, client, .. } = waiting();
        let looking = [(); 2].map(|()| {
            let link = Arc::clone(server.reader.link());
            thread::spawn(move || link.state().unwrap())
        });
        client.reader.link().page().store_byte(
            Side::Client.live(),
            Live::Connected.byte(),
            Ordering::Release,
        );
        for look in looking {
            assert_ne!(look.join().unwrap(), State::Closed);
        }
    });
}
