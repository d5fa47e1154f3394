//! Group D of the catalogue of faults: resources that are not there, and resources that must not be
//! kept.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use common::steps::{self, FIRST, NOTICED, Role, SENT};
use common::{LONG, World, bounded, guest, pattern, process};
use vchan::host::GrantRef;
use vchan::memory::Access;
use vchan::{Client, DomId, Error, Server};
use vchan_emulator::Limits;
use vchan_emulator::faults::{Log, Verdict, gated};

/// How often channels are opened and closed by the tests that count; the soak sets more.
const ROUNDS: &str = "VCHAN_SOAK_ROUNDS";

/// The calls by which keys are taken away: where a drop does it, no one could learn that they failed.
const UNDOING: [&str; 3] = ["read", "remove", "directory"];

/// The `nth` call of this name by the leader fails. What it had is undone, the survivor learns of
/// its end, and another leader takes its place. True when there was no such call.
fn failed_at(role: Role, name: &'static str, nth: u64) -> bool {
    let emulator = steps::emulator();
    let survivor = steps::survivor(role.other(), &emulator);
    let host = emulator.host(role.domid()).unwrap();
    let (calls, failed) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let first = {
        let failed = Arc::clone(&failed);
        gated(&host, move |call| {
            if call.name == name && calls.fetch_add(1, Ordering::Relaxed) == nth {
                failed.store(true, Ordering::Relaxed);
                return Verdict::Fail;
            }
            Verdict::Pass
        })
    };
    drop(host);
    let (sender, led) = mpsc::channel();
    let leader = thread::spawn(move || sender.send(steps::lead(role, &first, FIRST)).unwrap());
    let led = led.recv_timeout(NOTICED);
    let led = led.unwrap_or_else(|_| panic!("{name} {nth} failed, and is waited for"));
    leader.join().unwrap();
    let failed = failed.load(Ordering::Relaxed);
    match &led {
        Err(error) => {
            assert!(failed, "{name} {nth}: {error}");
            let said = error.to_string();
            assert!(said.contains(name), "{said} does not name {name}");
            assert!(said.contains("on purpose"), "{said} does not say why");
        }
        // The event of a publication is sent by the next call.
        Ok(()) => {
            let silent = UNDOING.contains(&name) || name == "notify";
            assert!(
                !failed || silent,
                "no one was told that {name} {nth} failed"
            );
        }
    }
    let seen = steps::conclude(role, &emulator, survivor);
    for seen in &seen {
        assert!(seen.error.is_none(), "{name} {nth}: {:?}", seen.error);
        assert_eq!(seen.pauses, 0, "{name} {nth}");
    }
    if led.is_ok() {
        assert_eq!(seen[0].received, pattern(SENT, FIRST), "{name} {nth}");
    }
    !failed
}

/// Fails the first, the second, ... call of each name.
fn fail_each(role: Role, names: &[&'static str]) {
    for name in names {
        // A peer that is quick enough spares the other side its sleep: such a run shows nothing.
        let runs = (0..20).map(|_| steps::until_untouched(6, |nth| failed_at(role, name, nth)));
        let times = runs.into_iter().find(|&times| times > 0);
        assert!(times.is_some(), "{name} is never called");
    }
}

#[test]
fn fault_d01_any_one_call_of_a_server_fails() {
    bounded(|| {
        let setting_up = ["bind_unbound", "share", "write", "set_permissions"];
        fail_each(Role::Server, &setting_up);
        fail_each(Role::Server, &["read", "remove", "directory"]);
        fail_each(Role::Server, &["notify", "take", "unmask", "sleep"]);
    });
}

#[test]
fn fault_d01_any_one_call_of_a_client_fails() {
    bounded(|| {
        fail_each(Role::Client, &["read", "bind_interdomain", "map"]);
        fail_each(Role::Client, &["notify", "take", "unmask", "sleep"]);
    });
}

/// A client that comes first watches for its server.
#[test]
fn fault_d01_a_watch_that_fails() {
    let world = World::new();
    for name in ["watch", "wait"] {
        let dom0 = gated(&world.dom0, move |call| {
            if call.name == name {
                Verdict::Fail
            } else {
                Verdict::Pass
            }
        });
        let connecting = Client::builder(&dom0, guest()).timeout(LONG);
        let error = connecting.connect().unwrap_err();
        assert!(matches!(error, Error::Store(_)), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    world.assert_clean();
}

/// A call that asks whether the peer is there fails while that is waited for.
#[test]
fn fault_d01_a_probe_that_fails() {
    bounded(|| {
        let world = World::new();
        let dom0 = gated(&world.dom0, |call| match call.name {
            "is_bound" => Verdict::Fail,
            _ => Verdict::Pass,
        });
        let mut server = world.server().bind().unwrap();
        let mut client = Client::builder(&dom0, guest()).connect().unwrap();
        client.set_read_timeout(Some(NOTICED));
        let error = client.read(&mut [0]).unwrap_err();
        assert!(matches!(error, Error::Host(_)), "{error}");
        // Nothing is lost by it.
        let mut channel = server.accept_timeout(LONG).unwrap();
        channel.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop((client, channel, server));
        world.assert_clean();
    });
}

/// The limit on shared pages is reached at each of a server's shares, and each says what it is.
#[test]
fn fault_d01_the_limit_on_shared_pages_is_named_wherever_it_is_reached() {
    let world = World::new();
    // 1 + 2 + 4 pages.
    let bind = || world.server().read_size(8192).write_size(16384).bind();
    for pages in 0..7 {
        let mut limits = Limits::default();
        limits.granted_pages = pages;
        world.emulator.set_limits(limits);
        let said = bind().unwrap_err().to_string();
        for words in [
            format!("may share {pages} pages"),
            "/sys/module/xen_gntalloc/parameters/limit".to_owned(),
        ] {
            assert!(said.contains(&words), "{said}");
        }
        assert_eq!(world.emulator.leftovers(), Vec::<String>::new());
    }
    let mut limits = Limits::default();
    (limits.granted_pages, limits.mapped_pages) = (7, 6);
    world.emulator.set_limits(limits);
    let server = bind().unwrap();
    let connecting = Client::builder(&world.dom0, guest()).timeout(LONG);
    let said = connecting.connect().unwrap_err().to_string();
    assert!(said.contains("may map 6 pages"), "{said}");
    drop(server);
    world.assert_clean();
}

#[test]
fn fault_d02_pages_that_the_peer_still_maps_are_not_used_again() {
    let world = World::new();
    let (mut server, mut client) = world.pair(4096, 8192);
    server.write_all(b"for the old client").unwrap();
    let kept: Vec<GrantRef> = (8..12).map(GrantRef).collect();
    drop(server);
    let left = world.emulator.leftovers();
    let counted = left.iter().filter(|it| it.contains("kept back")).count();
    assert_eq!(counted, kept.len(), "{left:?}");
    // The next channel gets others, and what it writes does not show in the old one.
    let mut next = world
        .server()
        .read_size(4096)
        .write_size(8192)
        .bind()
        .unwrap();
    let offered = next.pending().unwrap();
    assert!(!kept.contains(&offered.handshake().ring_ref));
    offered.write_all(&[0xEE; 8192]).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "for the old client");
    drop((client, next));
    world.assert_clean();
}

#[test]
fn fault_d03_a_batch_with_one_bad_grant_maps_nothing() {
    let world = World::new();
    let share = |peer| world.guest.grants().share(peer, 3, Access::ReadWrite, None);
    let shared = share(DomId::DOM0).unwrap();
    let for_others = share(DomId::new(7).unwrap()).unwrap();
    let map = |references: &[GrantRef]| {
        let grants = world.dom0.grants();
        grants.map(guest(), references, Access::ReadWrite, None)
    };
    for place in 0..3 {
        for bad in [
            GrantRef(0),
            GrantRef(u32::MAX),
            for_others.references[place],
        ] {
            let mut references = shared.references.clone();
            references[place] = bad;
            assert!(map(&references).unwrap_err().is_stale(), "{bad} at {place}");
            let left = world.emulator.leftovers();
            assert!(!left.iter().any(|it| it.contains("are mapped")), "{left:?}");
        }
    }
    drop((map(&shared.references).unwrap(), shared, for_others));
    world.assert_clean();
}

/// A mapping keeps the page, whatever the peer does with its grant: no access faults.
#[test]
fn fault_d04_a_grant_that_ends_takes_no_mapped_page_away() {
    bounded(|| {
        let world = World::new();
        let (mut server, mut client) = world.pair(4096, 1 << 16);
        let sent = pattern(1 << 16, 4);
        server.write_all(&sent).unwrap();
        world.emulator.destroy_domain(guest()).unwrap();
        drop(server);
        client.set_read_timeout(Some(NOTICED));
        let mut all = vec![0; 1 << 16];
        client.read_exact(&mut all).unwrap();
        assert!(all == sent);
        _ = client.write(b"into the void");
        drop(client);
        world.assert_clean();
    });
}

/// A call that failed after the bytes were published must not make its caller send them again.
#[test]
fn fault_d05_an_event_that_cannot_be_sent_loses_and_doubles_no_byte() {
    bounded(|| {
        let mut failures = 0;
        for nth in 0..6 {
            let world = World::new();
            let mut server = world
                .server()
                .read_size(1024)
                .write_size(1024)
                .bind()
                .unwrap();
            let log = Log::default();
            let notes = log.clone();
            let dom0 = gated(&world.dom0, move |call| {
                notes.note(call);
                // The first tells the server that its client is there.
                match call.name {
                    "notify" if notes.count("notify") == nth + 2 => Verdict::Fail,
                    _ => Verdict::Pass,
                }
            });
            let mut client = Client::builder(&dom0, guest()).connect().unwrap();
            let mut channel = server.accept_timeout(LONG).unwrap();
            channel.set_read_timeout(Some(NOTICED));
            let sent = pattern(20_000, 5);
            let expected = sent.clone();
            let echo = thread::spawn(move || {
                let mut received = vec![0; 20_000];
                channel.read_exact(&mut received).unwrap();
                assert!(received == expected, "bytes were lost or doubled");
                channel
            });
            let (mut place, mut errors) = (0, 0);
            while place < sent.len() {
                let end = sent.len().min(place + 700);
                match client.write(&sent[place..end]) {
                    Ok(count) => place += count,
                    Err(Error::Host(_)) => errors += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(errors <= 1);
            // How often a quick peer asks to be told is up to the machine; the first time is sure.
            failures += usize::from(log.count("notify") >= nth + 2);
            drop((echo.join().unwrap(), client, server));
            world.assert_clean();
        }
        assert!(failures > 0, "nothing failed");
    });
}

/// And what was read is the caller's, though the peer could not be told.
#[test]
fn fault_d05_bytes_that_were_read_are_not_lost_to_an_event_that_cannot_be_sent() {
    bounded(|| {
        let world = World::new();
        let mut server = world
            .server()
            .read_size(1024)
            .write_size(1024)
            .bind()
            .unwrap();
        let log = Log::default();
        let notes = log.clone();
        let dom0 = gated(&world.dom0, move |call| {
            notes.note(call);
            match call.name {
                "notify" if notes.count("notify") == 2 => Verdict::Fail,
                _ => Verdict::Pass,
            }
        });
        let mut client = Client::builder(&dom0, guest()).connect().unwrap();
        let mut channel = server.accept_timeout(LONG).unwrap();
        let sent = pattern(5000, 6);
        let expected = sent.clone();
        // The ring is full, so the writer has asked to be told when there is space.
        let size = channel.ring_sizes().1;
        channel.write_all(&sent[..size]).unwrap();
        channel.set_nonblocking(true);
        assert!(matches!(channel.write(&[0]), Err(Error::WouldBlock)));
        channel.set_nonblocking(false);
        let writer = thread::spawn(move || {
            channel.set_write_timeout(Some(NOTICED));
            channel.write_all(&sent[size..]).unwrap();
            channel
        });
        client.set_read_timeout(Some(NOTICED));
        let mut received: Vec<u8> = Vec::new();
        let mut buffer = [0; 300];
        while received.len() < expected.len() {
            match client.read(&mut buffer) {
                Ok(count) => received.extend(&buffer[..count]),
                Err(Error::Host(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert!(received == expected);
        assert!(log.count("notify") >= 3, "nothing failed");
        drop((writer.join().unwrap(), client, server));
        world.assert_clean();
    });
}

/// What this process has, to see whether it grows.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    mappings: usize,
    resident_kib: usize,
}

impl Held {
    fn now() -> Held {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.unwrap().trim().trim_end_matches(" kB");
        Held {
            descriptors: process::descriptors().len(),
            mappings: fs::read_to_string("/proc/self/maps")
                .unwrap()
                .lines()
                .count(),
            resident_kib: resident.parse().unwrap(),
        }
    }
}

#[test]
fn fault_d08_opening_and_closing_again_and_again_keeps_nothing() {
    let rounds = std::env::var(ROUNDS).map_or(1000, |rounds| rounds.parse().unwrap());
    let limit = LONG + Duration::from_millis(50 * rounds);
    process::alone(
        "fault_d08_opening_and_closing_again_and_again_keeps_nothing",
        limit,
        || {
            let world = World::new();
            let mut before = None;
            for round in 0..rounds {
                if round % 100 == 0 {
                    world.emulator.assert_clean();
                }
                // Allocators and threads take what they take in the first rounds.
                if round == 100 {
                    before = Some(Held::now());
                }
                let (mut server, mut client) = world.pair(5000, 5000);
                client.write_all(&[1; 100]).unwrap();
                server.read_exact(&mut [0; 100]).unwrap();
                drop((server, client));
            }
            world.emulator.assert_clean();
            let (before, after) = (before.unwrap(), Held::now());
            assert_eq!(after.descriptors, before.descriptors);
            // A thread's arena may be split in two.
            assert!(
                after.mappings <= before.mappings + 8,
                "{before:?} {after:?}"
            );
            assert!(
                after.resident_kib <= before.resident_kib + 2048,
                "{before:?} {after:?}"
            );
            world.assert_clean();
        },
    );
}

/// A thousand channels within the limits of a stock host, and then one too many.
#[test]
fn fault_d08_a_thousand_channels_at_once() {
    process::alone("fault_d08_a_thousand_channels_at_once", 2 * LONG, || {
        let world = World::new();
        let mut server = world
            .server()
            .read_size(1024)
            .write_size(2048)
            .bind()
            .unwrap();
        let mut channels: Vec<_> = (0..1000)
            .map(|_| {
                server.pending().unwrap();
                let client = world.client();
                (server.accept_timeout(LONG).unwrap(), client)
            })
            .collect();
        for (nth, (server, client)) in channels.iter_mut().enumerate() {
            client.write_all(&nth.to_le_bytes()).unwrap();
            server.write_all(&nth.to_be_bytes()).unwrap();
        }
        for (nth, (server, client)) in channels.iter_mut().enumerate().rev() {
            let mut number = [0; 8];
            server.read_exact(&mut number).unwrap();
            assert_eq!(number, nth.to_le_bytes());
            client.read_exact(&mut number).unwrap();
            assert_eq!(number, nth.to_be_bytes());
        }
        // What reaches a limit is told of it, and harms no other.
        let mut more = Vec::new();
        let error = loop {
            let path = format!("data/vchan/0/{}", more.len()).parse().unwrap();
            match world.server().path(path).read_size(0).write_size(0).bind() {
                Ok(server) => more.push(server),
                Err(error) => break error,
            }
        };
        assert!(more.len() < 100);
        let said = error.to_string();
        assert!(said.contains("max_event_channels"), "{said}");
        drop((more, server));
        for (server, client) in &mut channels {
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
        }
        drop(channels);
        world.assert_clean();
    });
}

/// An event that brings nothing costs a fixed number of calls to the host.
#[test]
fn fault_d08_each_event_of_a_storm_costs_a_bounded_number_of_calls() {
    bounded(|| {
        let world = World::new();
        let log = Log::default();
        let notes = log.clone();
        let guest_host = gated(&world.guest, move |call| {
            notes.note(call);
            Verdict::Pass
        });
        let mut server = Server::builder(&guest_host, DomId::DOM0).bind().unwrap();
        let mut client = world.client();
        let mut channel = server.accept_timeout(LONG).unwrap();
        let port = channel.handshake().port;
        let reader = thread::spawn(move || {
            channel.read_exact(&mut [0]).unwrap();
            channel
        });
        let before = log.names().len();
        let mut events = 0;
        while events < 1000 || log.count("take") <= 100 {
            world.emulator.send_event(guest(), port).unwrap();
            events += 1;
        }
        client.write_all(b"x").unwrap();
        let channel = reader.join().unwrap();
        let calls = log.names().len() - before;
        // Sleep, take, unmask; and a little for the beginning and the end.
        assert!(calls <= 3 * (events + 1) + 20, "{calls} calls for {events}");
        drop((channel, client, server));
        world.assert_clean();
    });
}

#[test]
fn fault_d09_what_is_shared_holds_nothing_of_what_was_there_before() {
    let world = World::new();
    for _ in 0..20 {
        let grants = world.guest.grants();
        let shared = grants.share(DomId::DOM0, 16, Access::ReadWrite, None);
        let shared = shared.unwrap();
        for (nth, &reference) in shared.references.iter().enumerate() {
            let page = world.emulator.raw_page(guest(), reference).unwrap();
            let mut bytes = [1; 4096];
            page.copy_out(0, &mut bytes);
            assert!(bytes == [0; 4096], "page {nth} is not zero");
            page.copy_in(0, &[0x5E; 4096]);
        }
    }
    // A control page has nothing but its header and its grants; the rings nothing at all.
    let mut server = world
        .server()
        .read_size(4096)
        .write_size(8192)
        .bind()
        .unwrap();
    let handshake = server.pending().unwrap().handshake().clone();
    let mut bytes = [1; 4096];
    let page = world.emulator.raw_page(guest(), handshake.ring_ref);
    page.unwrap().copy_out(0, &mut bytes);
    let (filled, rest) = bytes.split_at(handshake.page.len());
    assert_eq!(filled, handshake.page);
    assert_eq!(filled.len(), 24 + 4 * 3);
    assert!(rest.iter().all(|&byte| byte == 0));
    for reference in filled[24..].chunks(4) {
        let reference = u32::from_le_bytes(reference.try_into().unwrap());
        let page = world.emulator.raw_page(guest(), GrantRef(reference));
        let mut bytes = [1; 4096];
        page.unwrap().copy_out(0, &mut bytes);
        assert!(bytes == [0; 4096]);
    }
    drop(server);
    world.assert_clean();
}
