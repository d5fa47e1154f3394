//! Closing, dying, and the last bytes.

use vchan::{Channel, Error, State};
use vchan_tests::pattern::Pattern;

use super::{World, accept, bounded};

/// What C did last before it went.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    Exit,
    Kill,
}

#[test]
fn all_bytes_of_a_c_client_that_connects_writes_and_closes_at_once_arrive() {
    c_client_writes_and_goes(End::Close);
}

#[test]
fn all_bytes_of_a_c_client_that_connects_writes_and_exits_at_once_arrive() {
    c_client_writes_and_goes(End::Exit);
}

#[test]
fn all_bytes_of_a_c_client_that_connects_writes_and_is_killed_arrive() {
    c_client_writes_and_goes(End::Kill);
}

/// Before our server has looked even once.
fn c_client_writes_and_goes(end: End) {
    let Some(mut world) = World::new() else {
        return;
    };
    let mut server = world.serve(5000, 5000);
    world.c_connects();
    assert_eq!(world.c.ask("write 8192"), "8192");
    let World {
        emulator,
        mut c,
        ours,
    } = world;
    let written = c.written(8192);
    end_of(c, end);
    let channel = accept(&mut server);
    read_to_the_end(channel, &written, end);
    drop((server, ours));
    emulator.assert_clean();
}

#[test]
fn all_bytes_of_a_c_server_that_writes_and_closes_arrive() {
    c_server_writes_and_goes(End::Close);
}

#[test]
fn all_bytes_of_a_c_server_that_writes_and_exits_arrive() {
    c_server_writes_and_goes(End::Exit);
}

#[test]
fn all_bytes_of_a_c_server_that_writes_and_is_killed_arrive() {
    c_server_writes_and_goes(End::Kill);
}

fn c_server_writes_and_goes(end: End) {
    let Some((mut world, channel)) = World::c_server(5000, 5000) else {
        return;
    };
    assert_eq!(world.c.ask("write 8192"), "8192");
    let World {
        emulator,
        mut c,
        ours,
    } = world;
    let written = c.written(8192);
    end_of(c, end);
    read_to_the_end(channel, &written, end);
    // A C server that did not close leaves its keys, as on Xen.
    if !matches!(end, End::Close) {
        ours.store()
            .remove(&"/local/domain/2/data/vchan".parse().unwrap())
            .unwrap();
    }
    drop(ours);
    emulator.assert_clean();
}

fn end_of(mut c: vchan_tests::driver::Driver, end: End) {
    match end {
        End::Close => c.run("close"),
        End::Exit => c.exit_without_close(),
        End::Kill => c.kill(),
    }
}

fn read_to_the_end(channel: Channel, written: &[u8], end: End) {
    let mut channel = bounded(channel);
    let mut read = Vec::<u8>::new();
    // In calls of an odd size, so that the last one gets what is left.
    let mut piece = [0; 1000];
    loop {
        match channel.read(&mut piece).unwrap() {
            0 => break,
            count => read.extend_from_slice(&piece[..count]),
        }
    }
    assert_eq!(read.len(), written.len(), "{end:?}");
    assert!(read == written, "{end:?}");
    assert_eq!(channel.state().unwrap(), State::Closed, "{end:?}");
    assert!(
        matches!(channel.write(b"more"), Err(Error::Closed)),
        "{end:?}"
    );
}

#[test]
fn we_learn_that_a_c_client_was_killed_while_we_wait_to_read() {
    let Some((world, mut channel)) = World::c_client(5000, 5000) else {
        return;
    };
    let World { emulator, c, ours } = world;
    let reading = std::thread::spawn(move || {
        let mut to = [0; 10];
        let end = channel.read(&mut to).unwrap();
        (channel, end)
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!reading.is_finished());
    c.kill();
    let (channel, end) = reading.join().unwrap();
    assert_eq!(end, 0, "the end of the stream");
    assert_eq!(channel.state().unwrap(), State::Closed);
    drop((channel, ours));
    emulator.assert_clean();
}

#[test]
fn we_learn_that_a_c_client_was_killed_while_we_wait_to_write() {
    let Some((world, mut channel)) = World::c_client(4096, 4096) else {
        return;
    };
    let World { emulator, c, ours } = world;
    channel.send(&[1; 4096]).unwrap();
    let writing = std::thread::spawn(move || {
        let error = channel.write(&[2]).unwrap_err();
        (channel, error)
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!writing.is_finished());
    c.kill();
    let (channel, error) = writing.join().unwrap();
    assert!(matches!(error, Error::Closed), "{error}");
    assert_eq!(channel.bytes_written(), 4096);
    drop((channel, ours));
    emulator.assert_clean();
}

#[test]
fn our_server_serves_the_next_c_client_after_one_was_killed() {
    let Some(mut world) = World::new() else {
        return;
    };
    let mut server = world.serve(5000, 5000);
    world.c_connects();
    let first = accept(&mut server);
    let World { emulator, c, ours } = world;
    c.kill();
    drop(first);
    let c = vchan_tests::driver::Driver::start(&emulator, super::c_domain()).unwrap();
    let mut world = World { emulator, c, ours };
    server.pending().unwrap();
    world.c_connects();
    let mut second = accept(&mut server);
    assert_eq!(
        second.data_ready().unwrap(),
        0,
        "nothing of the first is left"
    );
    second.send(b"fresh").unwrap();
    world.c.expect("read", 10, b"fresh");
    drop((second, server));
    world.c.run("close");
    world.assert_clean();
}

/// We write and close at once: C reads everything. Its end of the stream is an error, -1, where
/// ours is a clean 0.
#[test]
fn a_c_client_reads_everything_that_we_wrote_before_closing_then_an_error() {
    let Some((mut world, mut channel)) = World::c_client(5000, 5000) else {
        return;
    };
    let bytes = Pattern::from_seed(2).bytes(8192);
    channel.send(&bytes).unwrap();
    drop(channel);
    c_reads_the_rest(&mut world, &bytes);
    world.assert_clean();
}

#[test]
fn a_c_server_reads_everything_that_we_wrote_before_closing_then_an_error() {
    let Some((mut world, mut channel)) = World::c_server(5000, 5000) else {
        return;
    };
    let bytes = Pattern::from_seed(2).bytes(8192);
    channel.send(&bytes).unwrap();
    drop(channel);
    c_reads_the_rest(&mut world, &bytes);
    world.assert_clean();
}

fn c_reads_the_rest(world: &mut World, bytes: &[u8]) {
    let c = &mut world.c;
    // A program that asks before it reads, as many do, takes this for the end and loses all.
    assert_eq!(c.number("open"), 0);
    assert_eq!(c.number("ready"), 8192);
    // It cannot write any more.
    assert_eq!(c.ask("write 1"), "-1");
    assert_eq!(c.ask("send 1"), "-1");
    c.expect("recv", 8000, &bytes[..8000]);
    // Fewer than a datagram: an error, and they stay readable.
    assert_eq!(c.ask("recv 193"), "-1");
    c.expect("read", 1000, &bytes[8000..]);
    assert_eq!(c.ask("read 1"), "-1");
    assert_eq!(c.ask("recv 1"), "-1");
    c.run("close");
}

#[test]
fn a_blocking_c_read_ends_when_we_close() {
    let Some((mut world, channel)) = World::c_server(5000, 5000) else {
        return;
    };
    world.c.run("blocking 1");
    world.c.tell("read 10");
    assert!(world.c.is_busy_for(std::time::Duration::from_millis(50)));
    drop(channel);
    assert_eq!(world.c.answer(), "-1");
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn a_datagram_cut_short_by_a_c_client_that_closes_stays_readable() {
    let Some((mut world, mut channel)) = World::c_client(5000, 5000) else {
        return;
    };
    assert_eq!(world.c.ask("write 99"), "99");
    world.c.run("close");
    let mut to = [0; 100];
    let error = channel.recv(&mut to).unwrap_err();
    assert!(
        matches!(
            error,
            Error::EndOfStream {
                buffered: 99,
                wanted: 100
            }
        ),
        "{error}"
    );
    channel.recv(&mut to[..99]).unwrap();
    assert_eq!(to[..99], world.c.written(99));
    assert_eq!(channel.read(&mut to).unwrap(), 0);
    drop(channel);
    world.assert_clean();
}
