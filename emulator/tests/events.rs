//! Event channels: who may bind, and when events arrive.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use vchan::host::{EventChannel, Port};
use vchan::{DomId, Host};
use vchan_emulator::{Emulator, Limits};

fn domid(number: u16) -> DomId {
    DomId::new(number).unwrap()
}

fn world() -> (Emulator, Host, Host) {
    let emulator = Emulator::start().unwrap();
    let [dom0, guest] = [0, 1].map(|number| {
        emulator.add_domain(domid(number)).unwrap();
        emulator.host(domid(number)).unwrap()
    });
    (emulator, dom0, guest)
}

/// The two ends of a channel, at rest: the event of binding is taken.
fn joined(dom0: &Host, guest: &Host) -> (Box<dyn EventChannel>, Box<dyn EventChannel>) {
    let server = guest.events().bind_unbound(DomId::DOM0).unwrap();
    let client = dom0
        .events()
        .bind_interdomain(domid(1), server.port())
        .unwrap();
    assert!(client.take().unwrap(), "who binds finds one event");
    client.unmask().unwrap();
    assert!(!server.take().unwrap(), "the other end does not");
    (server, client)
}

const fn millis(count: u64) -> Option<Duration> {
    Some(Duration::from_millis(count))
}

fn is_readable(channel: &dyn EventChannel) -> bool {
    let descriptor = channel.as_fd().unwrap();
    let mut source = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    rustix::event::poll(&mut source, Some(&Timespec::default())).unwrap() == 1
}

#[test]
fn ports_have_the_numbers_of_a_running_system() {
    let (emulator, dom0, guest) = world();
    let (server, client) = joined(&dom0, &guest);
    assert_eq!((server.port(), client.port()), (Port(4), Port(71)));
    let next = guest.events().bind_unbound(DomId::DOM0).unwrap();
    assert_eq!(next.port(), Port(5));
    drop(server);
    assert_eq!(
        guest.events().bind_unbound(DomId::DOM0).unwrap().port(),
        Port(4)
    );
    drop((client, next));
    emulator.assert_clean();
}

#[test]
fn events_go_both_ways_and_coalesce() {
    let (_emulator, dom0, guest) = world();
    let (server, client) = joined(&dom0, &guest);
    for (from, to) in [(&server, &client), (&client, &server)] {
        for _ in 0..5 {
            from.notify().unwrap();
        }
        assert!(to.take().unwrap());
        to.unmask().unwrap();
        assert!(!to.take().unwrap(), "five notifications are one event");
    }
}

#[test]
fn a_masked_port_remembers_and_delivers_nothing() {
    let (_emulator, dom0, guest) = world();
    let (server, client) = joined(&dom0, &guest);
    client.notify().unwrap();
    assert!(is_readable(&*server));
    assert!(server.take().unwrap());
    client.notify().unwrap();
    assert!(!server.take().unwrap());
    assert!(!is_readable(&*server));
    let before = Instant::now();
    server.sleep(millis(30)).unwrap();
    assert!(
        before.elapsed() >= Duration::from_millis(30),
        "it sleeps to the end"
    );
    server.unmask().unwrap();
    assert!(is_readable(&*server));
    server.sleep(None).unwrap();
    assert!(server.take().unwrap());
}

#[test]
fn a_masked_port_whose_descriptor_nobody_has_delivers_nothing_either() {
    let (_emulator, dom0, guest) = world();
    let (server, client) = joined(&dom0, &guest);
    for _ in 0..2 {
        client.notify().unwrap();
        server.sleep(None).unwrap();
        assert!(server.take().unwrap());
        client.notify().unwrap();
        assert!(!server.take().unwrap(), "it is masked");
        server.unmask().unwrap();
        server.sleep(None).unwrap();
        assert!(server.take().unwrap());
        server.unmask().unwrap();
        assert!(!server.take().unwrap());
    }
    client.notify().unwrap();
    assert!(server.take().unwrap());
    client.notify().unwrap();
    let before = Instant::now();
    server.sleep(millis(30)).unwrap();
    assert!(
        before.elapsed() >= Duration::from_millis(30),
        "it sleeps to the end"
    );
    assert!(!server.take().unwrap());
    server.unmask().unwrap();
    server.sleep(None).unwrap();
    assert!(server.take().unwrap());
}

#[test]
fn a_descriptor_that_is_asked_for_late_knows_whether_the_port_is_masked() {
    let (_emulator, dom0, guest) = world();
    for pending in [false, true] {
        let (server, client) = joined(&dom0, &guest);
        client.notify().unwrap();
        assert!(server.take().unwrap());
        if pending {
            client.notify().unwrap();
        }
        assert!(!is_readable(&*server));
        client.notify().unwrap();
        assert!(!is_readable(&*server));
        server.unmask().unwrap();
        assert!(is_readable(&*server));
        assert!(server.take().unwrap());
        assert!(!is_readable(&*server));
        server.unmask().unwrap();
        assert!(!is_readable(&*server));
    }
    let (server, client) = joined(&dom0, &guest);
    client.notify().unwrap();
    assert!(is_readable(&*server), "it has an event and is not masked");
    assert!(server.take().unwrap());
}

#[test]
fn an_event_that_ended_a_sleep_is_told_by_a_descriptor_that_is_asked_for_then() {
    let (_emulator, dom0, guest) = world();
    let (server, client) = joined(&dom0, &guest);
    for _ in 0..3 {
        client.notify().unwrap();
        client.notify().unwrap();
        server.sleep(None).unwrap();
        // It is still there.
        server.sleep(None).unwrap();
        assert!(server.take().unwrap());
        assert!(!server.take().unwrap(), "it is masked");
        server.unmask().unwrap();
        assert!(!server.take().unwrap(), "two events are one");
    }
    client.notify().unwrap();
    server.sleep(None).unwrap();
    assert!(is_readable(&*server));
    assert!(server.take().unwrap());
    assert!(!is_readable(&*server));
    server.unmask().unwrap();
    assert!(!is_readable(&*server));
    client.notify().unwrap();
    assert!(is_readable(&*server));
}

#[test]
fn an_event_finds_who_sleeps_while_the_descriptor_is_asked_for() {
    let (_emulator, dom0, guest) = world();
    for _ in 0..20 {
        let (server, client) = joined(&dom0, &guest);
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                // A descriptor that is asked for late may report an event that was taken.
                while !server.take().unwrap() {
                    server.sleep(None).unwrap();
                }
            });
            scope.spawn(|| _ = server.as_fd());
            client.notify().unwrap();
            sleeper.join().unwrap();
        });
    }
}

#[test]
fn sleeping_wakes_by_an_event_by_an_unmask_and_when_its_time_is_up() {
    let (_emulator, dom0, guest) = world();
    let (server, client) = joined(&dom0, &guest);
    let server: Arc<dyn EventChannel> = server.into();
    let before = Instant::now();
    server.sleep(millis(20)).unwrap();
    assert!(before.elapsed() >= Duration::from_millis(20));

    let asleep = |server: &Arc<dyn EventChannel>| {
        let server = Arc::clone(server);
        thread::spawn(move || {
            let before = Instant::now();
            server.sleep(millis(60_000)).unwrap();
            before.elapsed()
        })
    };
    let sleeper = asleep(&server);
    thread::sleep(Duration::from_millis(20));
    client.notify().unwrap();
    assert!(
        sleeper.join().unwrap() < Duration::from_secs(30),
        "woken by an event"
    );

    assert!(server.take().unwrap());
    client.notify().unwrap();
    let sleeper = asleep(&server);
    thread::sleep(Duration::from_millis(20));
    server.unmask().unwrap();
    assert!(
        sleeper.join().unwrap() < Duration::from_secs(30),
        "woken by another's unmask"
    );
}

#[test]
fn only_the_domain_that_a_port_is_for_binds_it_and_only_once() {
    let (emulator, dom0, guest) = world();
    emulator.add_domain(domid(2)).unwrap();
    let other = emulator.host(domid(2)).unwrap();
    let server = guest.events().bind_unbound(DomId::DOM0).unwrap();
    let refused = |host: &Host, peer, port| {
        host.events()
            .bind_interdomain(domid(peer), Port(port))
            .err()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        refused(&other, 1, 4),
        "cannot bind event channel 4 of domain 1: port 4 of domain 1 is not for domain 2"
    );
    assert!(refused(&dom0, 1, 5).contains("port 5 of domain 1 does not exist"));
    assert!(refused(&dom0, 9, 4).contains("there is no domain 9"));
    let _client = dom0
        .events()
        .bind_interdomain(domid(1), server.port())
        .unwrap();
    assert!(refused(&dom0, 1, 4).contains("is bound already"));
}

#[test]
fn a_half_closed_port_is_unbound_silent_and_bound_anew() {
    let (_emulator, dom0, guest) = world();
    let (server, client) = joined(&dom0, &guest);
    assert_eq!(server.is_bound().unwrap(), Some(true));
    drop(client);
    assert_eq!(server.is_bound().unwrap(), Some(false));
    assert!(!server.take().unwrap(), "closing sends nothing");
    server.notify().unwrap();
    let client = dom0
        .events()
        .bind_interdomain(domid(1), server.port())
        .unwrap();
    assert_eq!(server.is_bound().unwrap(), Some(true));
    assert!(client.take().unwrap());
    client.notify().unwrap();
    assert!(server.take().unwrap());
    // It works the other way round too: the end that had bound is now the one that waits.
    let waiting = client.port();
    drop(server);
    let server = guest
        .events()
        .bind_interdomain(DomId::DOM0, waiting)
        .unwrap();
    client.unmask().unwrap();
    server.notify().unwrap();
    assert!(client.take().unwrap());
}

#[test]
fn a_spurious_event_arrives_like_any_other() {
    let (emulator, dom0, guest) = world();
    let (server, _client) = joined(&dom0, &guest);
    emulator.send_event(domid(1), server.port()).unwrap();
    assert!(server.take().unwrap());
    assert!(emulator.send_event(domid(1), Port(9)).is_err());
}

#[test]
fn the_limit_of_ports_names_itself() {
    let (emulator, _dom0, guest) = world();
    let mut limits = Limits::default();
    limits.ports = 1;
    emulator.set_limits(limits);
    let _port = guest.events().bind_unbound(DomId::DOM0).unwrap();
    let error = guest
        .events()
        .bind_unbound(DomId::DOM0)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("may have 1 event channels at a time"),
        "{error}"
    );
    assert!(error.contains("max_event_channels"), "{error}");
}

#[test]
fn a_destroyed_domain_unbinds_its_peers_without_a_word() {
    let (emulator, dom0, guest) = world();
    let (server, client) = joined(&dom0, &guest);
    emulator.destroy_domain(domid(1)).unwrap();
    assert_eq!(client.is_bound().unwrap(), Some(false));
    assert!(!client.take().unwrap());
    client.notify().unwrap();
    assert!(server.is_bound().is_err(), "its own processes are cut off");
    assert!(guest.events().bind_unbound(DomId::DOM0).is_err());
    assert!(emulator.host(domid(1)).is_err());
    assert!(emulator.destroy_domain(domid(1)).is_err());

    // A later domain of that number takes up the port that was left open for it.
    emulator.add_domain(domid(1)).unwrap();
    let guest = emulator.host(domid(1)).unwrap();
    let stale = guest
        .events()
        .bind_interdomain(DomId::DOM0, client.port())
        .unwrap();
    stale.notify().unwrap();
    assert!(client.take().unwrap());
    // What the old domain's processes drop is nothing of the new one's.
    drop(server);
    assert_eq!(client.is_bound().unwrap(), Some(true));
    drop((stale, client));
    emulator.assert_clean();
}
