//! Who comes first, what waits, and what the same call answers on both sides.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use vchan::{Client, Error, State};
use vchan_tests::pattern::Pattern;

use super::{LIMIT, World, accept, c_domain};

/// Long enough that a call which is going to return has done so.
const A_WHILE: Duration = Duration::from_millis(100);

#[test]
fn what_a_c_server_wrote_before_we_came_is_there() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.c_serves(5000, 5000);
    assert_eq!(world.c.number("open"), 2, "waiting for a client");
    assert_eq!(world.c.ask("write 5000"), "5000");
    let mut channel = world.connect();
    let mut read = [0; 5000];
    channel.recv(&mut read).unwrap();
    assert_eq!(read[..], world.c.written(5000));
    assert_eq!(world.c.number("open"), 1);
    drop(channel);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn what_our_server_wrote_before_a_c_client_came_is_there() {
    let Some(mut world) = World::new() else {
        return;
    };
    let mut server = world.serve(5000, 5000);
    let bytes = Pattern::from_seed(2).bytes(5000);
    server.pending().unwrap().send(&bytes).unwrap();
    assert_eq!(server.pending().unwrap().state().unwrap(), State::Waiting);
    world.c_connects();
    world.c.expect("recv", 5000, &bytes);
    drop((accept(&mut server), server));
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn our_client_waits_for_a_c_server() {
    let Some(mut world) = World::new() else {
        return;
    };
    let ours = world.ours.clone();
    let connecting = std::thread::spawn(move || {
        Client::builder(&ours, c_domain())
            .timeout(LIMIT)
            .connect()
            .unwrap()
    });
    std::thread::sleep(A_WHILE);
    assert!(!connecting.is_finished());
    world.c_serves(5000, 5000);
    drop(connecting.join().unwrap());
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn a_c_client_does_not_wait_for_our_server() {
    let Some(mut world) = World::new() else {
        return;
    };
    let answer = world.c.ask("client 0 /local/domain/0/data/vchan");
    assert!(answer.starts_with("fail"), "{answer}");
    let mut server = world.serve(0, 0);
    world.c_connects();
    drop((accept(&mut server), server));
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn a_blocking_c_read_sleeps_until_we_write() {
    let Some((mut world, mut channel)) = World::c_server(5000, 5000) else {
        return;
    };
    world.c.run("blocking 1");
    world.c.tell("recv 100");
    assert!(world.c.is_busy_for(A_WHILE));
    let bytes = Pattern::from_seed(2).bytes(100);
    channel.send(&bytes[..99]).unwrap();
    assert!(
        world.c.is_busy_for(A_WHILE),
        "99 of 100 bytes are no datagram"
    );
    channel.send(&bytes[99..]).unwrap();
    assert_eq!(world.c.answer(), vchan_tests::driver::received(&bytes));
    drop(channel);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn a_blocking_c_write_sleeps_until_we_read() {
    let Some((mut world, mut channel)) = World::c_client(4096, 4096) else {
        return;
    };
    world.c.run("blocking 1");
    world.c.tell("write 10000");
    assert!(world.c.is_busy_for(A_WHILE));
    let mut read = vec![0; 10000];
    std::io::Read::read_exact(&mut channel, &mut read).unwrap();
    assert_eq!(world.c.answer(), "10000");
    assert_eq!(read, world.c.written(10000));
    drop(channel);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn our_blocking_calls_sleep_until_c_acts() {
    let Some((mut world, channel)) = World::c_server(4096, 4096) else {
        return;
    };
    let (mut reader, mut writer) = channel.into_split();
    let reading = std::thread::spawn(move || {
        let mut read = vec![0; 3000];
        reader.recv(&mut read).unwrap();
        (reader, read)
    });
    let bytes = Pattern::from_seed(2).bytes(4096 + 2000);
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || {
        writer.send(&sent[..4096]).unwrap();
        writer.send(&sent[4096..]).unwrap();
        writer
    });
    // As much as fits.
    let since = Instant::now();
    while world.c.number("ready") < 4096 {
        assert!(since.elapsed() < LIMIT, "it does not write");
    }
    std::thread::sleep(A_WHILE);
    assert!(!reading.is_finished() && !writing.is_finished());
    assert_eq!(world.c.ask("write 2999"), "2999");
    world.c.expect("read", 1999, &bytes[..1999]);
    std::thread::sleep(A_WHILE);
    assert!(
        !reading.is_finished() && !writing.is_finished(),
        "one byte is missing for either"
    );
    assert_eq!(world.c.ask("write 1"), "1");
    world.c.expect("read", 1, &bytes[1999..2000]);
    let (reader, read) = reading.join().unwrap();
    assert_eq!(read, world.c.written(3000));
    let writer = writing.join().unwrap();
    world.c.expect("recv", 4096, &bytes[2000..]);
    drop((reader, writer));
    world.c.run("close");
    world.assert_clean();
}

/// What each call answers when it would have to wait, and when it can never succeed.
#[test]
fn non_blocking_calls_of_both_sides() {
    let Some((mut world, mut channel)) = World::c_client(4096, 4096) else {
        return;
    };
    channel.set_nonblocking(true);
    let mut to = [0; 8192];
    // Nothing is there.
    assert_eq!(world.c.ask("read 10"), "0");
    assert!(matches!(channel.read(&mut to), Err(Error::WouldBlock)));
    // Fewer bytes than a datagram has.
    let five = Pattern::from_seed(2).bytes(5);
    channel.send(&five).unwrap();
    assert_eq!(world.c.number("ready"), 5);
    assert_eq!(world.c.ask("recv 6"), "0");
    world.c.expect("recv", 5, &five);
    assert_eq!(world.c.ask("send 5"), "5");
    assert!(matches!(channel.recv(&mut to[..6]), Err(Error::WouldBlock)));
    assert_eq!(channel.data_ready().unwrap(), 5);
    channel.recv(&mut to[..5]).unwrap();
    // Zero bytes.
    for call in ["read", "recv", "write", "send"] {
        assert_eq!(world.c.ask(&format!("{call} 0")), "0", "{call}");
    }
    assert_eq!(channel.read(&mut []).unwrap(), 0);
    assert_eq!(channel.write(&[]).unwrap(), 0);
    channel.recv(&mut []).unwrap();
    channel.send(&[]).unwrap();
    // A ring that is full but for less than the datagram.
    assert_eq!(channel.write(&to[..4000]).unwrap(), 4000);
    assert!(matches!(channel.send(&to[..97]), Err(Error::WouldBlock)));
    assert_eq!(world.c.ask("write 4000"), "4000");
    assert_eq!(world.c.ask("send 97"), "0");
    assert_eq!(world.c.number("space"), 96);
    // A datagram that no ring of this size ever holds: C says "would block" for ever, we say why.
    assert_eq!(world.c.ask("send 4097"), "0");
    assert_eq!(world.c.ask("recv 4097"), "0");
    assert!(matches!(
        channel.send(&to[..4097]),
        Err(Error::TooLarge { max: 4096, .. })
    ));
    assert!(matches!(
        channel.recv(&mut to[..4097]),
        Err(Error::TooLarge { max: 4096, .. })
    ));
    drop(channel);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn a_blocking_c_datagram_that_can_never_fit_is_an_error() {
    let Some((mut world, channel)) = World::c_client(4096, 4096) else {
        return;
    };
    world.c.run("blocking 1");
    assert_eq!(world.c.ask("send 4097"), "-1");
    assert_eq!(world.c.ask("recv 4097"), "-1");
    drop(channel);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn the_descriptors_of_both_sides_become_readable() {
    let Some((mut world, mut channel)) = World::c_server(5000, 5000) else {
        return;
    };
    let is_readable = |channel: &vchan::Channel, limit: Duration| {
        let timeout = rustix::event::Timespec::try_from(limit).unwrap();
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            channel.as_fd(),
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 1
    };
    // Our coming is an event for C; then all is quiet.
    assert_eq!(world.c.number("poll 20000"), 1);
    assert_eq!(world.c.number("wait"), 0);
    assert_eq!(world.c.ask("read 10"), "0");
    assert_eq!(world.c.number("poll 50"), 0);
    channel.send(b"a").unwrap();
    assert_eq!(world.c.number("poll 20000"), 1);
    assert_eq!(world.c.number("wait"), 0);
    world.c.expect("read", 10, b"a");

    channel.set_nonblocking(true);
    let mut byte = [0];
    assert!(matches!(channel.read(&mut byte), Err(Error::WouldBlock)));
    assert!(!is_readable(&channel, Duration::from_millis(50)));
    assert_eq!(world.c.ask("write 1"), "1");
    assert!(is_readable(&channel, LIMIT));
    assert_eq!(channel.read(&mut byte).unwrap(), 1);
    drop(channel);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn a_second_c_client_finds_nothing_while_one_is_connected_to_our_server() {
    let Some((mut world, channel)) = World::c_client(5000, 5000) else {
        return;
    };
    let mut second = vchan_tests::driver::Driver::start(&world.emulator, c_domain()).unwrap();
    let answer = second.ask("client 0 /local/domain/0/data/vchan");
    assert!(answer.starts_with("fail"), "{answer}");
    // The first is not disturbed.
    assert_eq!(world.c.number("open"), 1);
    assert_eq!(channel.state().unwrap(), State::Connected);
    drop((channel, second));
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn a_second_c_client_gets_a_channel_of_its_own_from_our_server() {
    let Some(mut world) = World::new() else {
        return;
    };
    let mut server = world.serve(5000, 5000);
    world.c_connects();
    let mut first = accept(&mut server);
    let mut second = vchan_tests::driver::Driver::start(&world.emulator, c_domain()).unwrap();
    server.pending().unwrap();
    second.run("client 0 /local/domain/0/data/vchan");
    let mut channel = accept(&mut server);
    first.send(b"one").unwrap();
    channel.send(b"two").unwrap();
    world.c.expect("read", 10, b"one");
    second.expect("read", 10, b"two");
    drop((first, channel, server));
    world.c.run("close");
    second.run("close");
    drop(second);
    world.assert_clean();
}

#[test]
fn a_second_client_of_ours_waits_while_one_is_connected_to_a_c_server() {
    let Some((mut world, first)) = World::c_server(5000, 5000) else {
        return;
    };
    let second = Client::builder(&world.ours, c_domain())
        .timeout(A_WHILE)
        .connect();
    let error = second.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert_eq!(first.state().unwrap(), State::Connected);
    assert_eq!(world.c.number("open"), 1);
    assert_eq!(world.c.ask("write 3"), "3");
    drop(first);
    world.c.run("close");
    world.assert_clean();
}

#[test]
fn a_second_c_client_cannot_bind_while_one_is_connected_to_a_c_server() {
    let Some(mut world) = World::new() else {
        return;
    };
    let third = vchan::DomId::new(3).unwrap();
    world.emulator.add_domain(third).unwrap();
    let clients = [(), ()].map(|()| vchan_tests::driver::Driver::start(&world.emulator, third));
    let [Some(mut first), Some(mut second)] = clients else {
        return;
    };
    world.c.run("server 3 data/vchan 5000 5000");
    first.run("client 2 /local/domain/2/data/vchan");
    let answer = second.ask("client 2 /local/domain/2/data/vchan");
    assert!(answer.starts_with("fail"), "{answer}");
    first.run("close");
    world.c.run("close");
    drop((first, second));
    world.assert_clean();
}

#[test]
fn our_client_comes_back_to_a_c_server_that_persists() {
    let Some((mut world, mut channel)) = World::c_server(5000, 5000) else {
        return;
    };
    world.c.run("persist 1");
    channel.send(b"first").unwrap();
    world.c.expect("read", 10, b"first");
    drop(channel);
    // To a server that persists its channel is always open.
    assert_eq!(world.c.number("open"), 1);
    // What C writes now is for whoever comes: there are no sessions.
    assert_eq!(world.c.ask("write 10"), "10");
    let mut channel = world.connect();
    let mut read = [0; 10];
    channel.recv(&mut read).unwrap();
    assert_eq!(read[..], world.c.written(10));
    channel.send(b"second").unwrap();
    world.c.expect("read", 10, b"second");
    drop(channel);
    world.c.run("close");
    world.assert_clean();
}
