//! E1: xenstored that stops, at every message, and starts again.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use vchan::host::Store;
use vchan::xenstore::codec::Kind;
use vchan::{Channel, Client, DomId, Error, Host, Server, State, StoreErrorKind};

use crate::common::{LONG, World, bounded, guest, pattern};
use crate::proxy::{Death, Proxy};
use crate::{PROMPT, SHORT, connect, key, path, talk, value};

const DEATHS: [Death; 2] = [Death::BeforeRequest, Death::BeforeReply];

/// The requests of one look at the keys.
const LOOK: usize = 3;

/// The requests of a client until it waits: its domain's number, the first look, the watch, the
/// second look.
const WAITING: usize = 2 + 2 * LOOK;

/// Longer than it takes a client to see that the store is away, shorter than it bears it.
const A_FEW_LOOKS: Duration = Duration::from_secs(2);

/// More messages than a handshake has.
const MANY: u32 = 100;

fn bind(host: &Host) -> Result<Server, Error> {
    Server::builder(host, DomId::DOM0).bind()
}

fn is_unreachable(error: &Error) -> bool {
    matches!(error, Error::Store(store) if store.kind == StoreErrorKind::Unreachable)
}

/// Does `work` while the store dies at a request, for each request it makes, until it comes through
/// untouched. `check` sees each outcome, with the store up again.
fn for_each_message<T>(
    proxy: &Proxy,
    work: impl Fn() -> Result<T, Error>,
    mut check: impl FnMut(Result<T, Error>, &str),
) {
    for death in DEATHS {
        for step in 0..=MANY {
            proxy.die_at(step, death);
            let since = Instant::now();
            let outcome = work();
            let place = format!("{death:?} {step}");
            assert!(since.elapsed() < PROMPT, "{place}");
            if proxy.is_alive() {
                assert!(step > 2 && outcome.is_ok(), "{place} came through");
                proxy.live();
                break;
            }
            assert!(step < MANY, "there is no end to the messages");
            proxy.revive();
            check(outcome, &place);
        }
    }
}

/// Whether a client has looked once, set its watch, and looks again.
fn waits_for_server(proxy: &Proxy) -> bool {
    let requests = proxy.requests();
    let watch = requests.iter().position(|kind| *kind == Kind::WATCH);
    watch.is_some_and(|watch| requests.len() > watch + LOOK)
}

#[test]
fn fault_e01_the_store_dies_at_each_message_of_bind() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, guest());
        for_each_message(
            &proxy,
            || bind(&proxy.host(&world.emulator, guest())),
            |outcome, place| {
                let error = outcome.err().unwrap();
                assert!(is_unreachable(&error), "{place}: {error}");
                // Whatever stands there of it now, the next server gets on with.
                let mut server = bind(&world.guest).unwrap();
                let mut client = world.client();
                talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
                drop((server, client));
                world.emulator.assert_clean();
            },
        );
    });
}

/// One handle for all: it is as good after a restart as before.
#[test]
fn fault_e01_the_same_host_binds_after_a_death_at_each_message() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, guest());
        let host = proxy.host(&world.emulator, guest());
        for_each_message(
            &proxy,
            || bind(&host),
            |outcome, place| {
                assert!(is_unreachable(&outcome.err().unwrap()), "{place}");
                let mut server = bind(&host).unwrap();
                let mut client = world.client();
                talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
            },
        );
        drop(host);
        world.assert_clean();
    });
}

/// A server that goes takes its keys back. Where it cannot, the next one gets on with them.
#[test]
fn fault_e01_the_store_dies_at_each_message_of_withdrawing() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, guest());
        for death in DEATHS {
            for step in 0..=MANY {
                let host = proxy.host(&world.emulator, guest());
                let server = bind(&host).unwrap();
                proxy.die_at(step, death);
                let since = Instant::now();
                drop(server);
                assert!(since.elapsed() < PROMPT, "{death:?} {step}");
                if proxy.is_alive() {
                    assert!(step > 2, "{death:?} {step} came through");
                    proxy.live();
                    break;
                }
                assert!(step < MANY, "there is no end to the messages");
                proxy.revive();
                let mut server = bind(&host).unwrap();
                let mut client = world.client();
                talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
                drop((server, client, host));
                world.emulator.assert_clean();
            }
        }
        world.assert_clean();
    });
}

#[test]
fn fault_e01_the_store_dies_at_each_message_of_connect() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, DomId::DOM0);
        let server = std::cell::RefCell::new(world.server().bind().unwrap());
        for_each_message(
            &proxy,
            || {
                let host = proxy.host(&world.emulator, DomId::DOM0);
                let channel = connect(&host, LONG);
                Ok((channel?, host))
            },
            |outcome, place| {
                let error = outcome.err().unwrap();
                assert!(is_unreachable(&error), "{place}: {error}");
                let host = proxy.host(&world.emulator, DomId::DOM0);
                let mut client = connect(&host, LONG).unwrap();
                let mut server = server.borrow_mut();
                talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
                server.pending().unwrap();
                drop((client, host));
                // The next one's messages are counted without what these had to say at last.
                proxy.restart();
            },
        );
        drop(server);
        world.assert_clean();
    });
}

/// A client that waits for its server waits for the store as well, once it has seen it.
#[test]
fn fault_e01_a_client_that_waits_gets_over_a_death_at_each_message() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, DomId::DOM0);
        for death in DEATHS {
            for step in 0..=MANY {
                // Its messages are counted without what the one before it had to say at last.
                proxy.restart();
                let host = proxy.host(&world.emulator, DomId::DOM0);
                proxy.die_at(step, death);
                let client = thread::spawn(move || connect(&host, LONG));
                let asks = (step as usize) < WAITING;
                while proxy.is_alive() && (asks || !waits_for_server(&proxy)) {
                    thread::sleep(Duration::from_millis(1));
                }
                let died_waiting = !proxy.is_alive();
                if died_waiting {
                    // Away for a while.
                    thread::sleep(SHORT / 4);
                    proxy.revive();
                }
                let mut server = bind(&world.guest).unwrap();
                let mut died = died_waiting;
                while !client.is_finished() {
                    if proxy.dies_within(Duration::from_millis(5)) {
                        died = true;
                        proxy.revive();
                    }
                }
                match client.join().unwrap() {
                    Ok(mut client) => {
                        talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
                    }
                    // The number of its domain and the first look at the keys: nobody knows yet
                    // whether there has ever been a store.
                    Err(error) => assert!(step < 4 && is_unreachable(&error), "{step}: {error}"),
                }
                if !died {
                    assert!(step as usize > WAITING, "{death:?} {step} came through");
                    break;
                }
                assert!(step < MANY, "there is no end to the messages");
            }
        }
        world.assert_clean();
    });
}

#[test]
fn fault_e01_a_client_says_that_it_is_the_store_that_it_waits_for() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, DomId::DOM0);
        let host = proxy.host(&world.emulator, DomId::DOM0);
        let client = Client::builder(&host, guest()).timeout(A_FEW_LOOKS);
        // As `connect` does, with a look before the store goes, however long that takes.
        let mut client = client.start().unwrap();
        assert!(client.attempt().unwrap().is_none());
        proxy.kill();
        let error = loop {
            match client.attempt().and_then(|_| client.wait()) {
                Ok(()) => assert!(client.waiting_for().contains("waiting for XenStore")),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(
            error.to_string().contains("waiting for XenStore"),
            "{error}"
        );
        drop((client, host));
        world.assert_clean();
    });
}

#[test]
fn fault_e01_a_server_that_waits_publishes_again_what_the_store_forgot() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, guest());
        let host = proxy.host(&world.emulator, guest());
        let mut server = bind(&host).unwrap();
        let accepting = thread::spawn(move || server.accept_timeout(LONG));
        proxy.kill();
        world
            .dom0
            .store()
            .remove(&path("/local/domain/2/data/vchan"))
            .unwrap();
        thread::sleep(SHORT);
        proxy.revive();
        let mut client = connect(&world.dom0, LONG).unwrap();
        talk(&mut accepting.join().unwrap().unwrap(), &mut client);
        drop((client, host));
        world.assert_clean();
    });
}

/// Keys that are there are left as they are: no client that reads them is put off.
#[test]
fn fault_e01_a_server_that_waits_leaves_keys_alone_that_stand() {
    bounded(|| {
        let world = World::new();
        let mut server = bind(&world.guest).unwrap();
        let watch = world.dom0.store().watch(&key("event-channel")).unwrap();
        let now = || world.dom0.events().now();
        assert!(
            watch.wait(Some(now().after(LONG))).unwrap(),
            "it fires when it is set"
        );
        // Longer than it takes until a server sees to its keys.
        let accepted = server.accept_timeout(Duration::from_millis(3500));
        assert!(matches!(accepted, Err(Error::TimedOut { .. })));
        assert!(
            !watch.wait(Some(now().after(SHORT))).unwrap(),
            "a key was touched"
        );
    });
}

/// A client that has read the keys needs no store to connect, and its server none to accept.
#[test]
fn fault_e01_a_client_is_accepted_while_the_store_is_away() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, guest());
        let host = proxy.host(&world.emulator, guest());
        let mut server = bind(&host).unwrap();
        proxy.kill();
        // Long enough that the server has looked for its keys and found no store.
        let early = server.accept_timeout(Duration::from_millis(2500));
        assert!(matches!(early, Err(Error::TimedOut { .. })), "{early:?}");
        let mut client = connect(&world.dom0, LONG).unwrap();
        talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
        drop(client);

        let since = Instant::now();
        let error = server.accept_timeout(LONG).unwrap_err();
        assert!(
            is_unreachable(&error) && since.elapsed() < PROMPT,
            "{error}"
        );
        let text = error.to_string();
        let place = proxy.place().display().to_string();
        assert!(
            text.contains(&place) && text.contains("xenstored"),
            "{text}"
        );
        proxy.revive();
        server.pending().unwrap();
        let mut client = world.client();
        talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
        drop((client, server, host));
        world.assert_clean();
    });
}

#[test]
fn fault_e01_a_channel_that_is_set_up_needs_no_store() {
    bounded(|| {
        let world = World::new();
        let (near, far) = (
            Proxy::start(&world.emulator, guest()),
            Proxy::start(&world.emulator, DomId::DOM0),
        );
        let mut server = bind(&near.host(&world.emulator, guest())).unwrap();
        let client = connect(&far.host(&world.emulator, DomId::DOM0), LONG).unwrap();
        let mut ours = server.accept_timeout(LONG).unwrap();
        drop(server);
        near.kill();
        far.kill();
        let bytes = pattern(1 << 20, 3);
        let (room, mut read) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        let echo = thread::spawn(move || echo(client, room));
        ours.write_all(&bytes).unwrap();
        ours.read_exact(&mut read).unwrap();
        assert!(read == bytes);
        assert_eq!(ours.state().unwrap(), State::Connected);
        drop(ours);
        echo.join().unwrap();
        world.assert_clean();
    });
}

/// Takes all there is room for, gives it back, and finds the end.
fn echo(mut channel: Channel, mut room: Vec<u8>) {
    channel.read_exact(&mut room).unwrap();
    channel.write_all(&room).unwrap();
    assert_eq!(channel.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn fault_e01_what_begins_after_a_restart_is_not_troubled_by_it() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, guest());
        let store = vchan::xenstore::Client::open_at(proxy.place()).unwrap();
        let clone = store.clone();
        let node = path("data/node");
        store.write(&node, b"before").unwrap();
        let old_watch = store.watch(&node).unwrap();
        assert!(old_watch.wait(None).unwrap());
        let old_transaction = store.begin().unwrap();
        old_transaction.write(&node, b"never").unwrap();
        proxy.kill();

        let since = Instant::now();
        for _ in 0..3 {
            let error = clone.read(&node).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");
        }
        assert!(since.elapsed() < PROMPT);
        proxy.revive();
        assert_eq!(clone.read(&node).unwrap(), b"before", "at the first call");
        assert_eq!(store.read(&node).unwrap(), b"before", "and for all clones");

        assert!(old_watch.wait(None).is_err(), "it did not survive");
        let error = old_transaction.commit().unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");
        let watch = store.watch(&node).unwrap();
        assert!(watch.wait(None).unwrap(), "a new watch fires once");
        store
            .transaction(|transaction| transaction.write(&node, b"after"))
            .unwrap();
        assert!(watch.wait(None).unwrap());
        assert_eq!(value(&store, &node).as_deref(), Some("after"));

        store.remove(&node).unwrap();
        drop((watch, old_watch, store, clone));
        world.assert_clean();
    });
}

#[test]
fn fault_e01_many_threads_share_one_new_connection() {
    bounded(|| {
        let world = World::new();
        let proxy = Proxy::start(&world.emulator, guest());
        let store = vchan::xenstore::Client::open_at(proxy.place()).unwrap();
        for _ in 0..20 {
            proxy.restart();
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| assert!(store.read(&path("domid")).is_ok()));
                }
            });
        }
        drop(store);
        world.assert_clean();
    });
}

#[cfg(feature = "tokio")]
#[test]
fn fault_e01_tasks_get_over_a_restart() {
    bounded(|| {
        let world = World::new();
        let (near, far) = (
            Proxy::start(&world.emulator, guest()),
            Proxy::start(&world.emulator, DomId::DOM0),
        );
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            let host = near.host(&world.emulator, guest());
            let mut server = bind(&host).unwrap();
            world
                .dom0
                .store()
                .remove(&path("/local/domain/2/data/vchan"))
                .unwrap();
            let dom0 = far.host(&world.emulator, DomId::DOM0);
            let connecting = Client::builder(&dom0, guest())
                .timeout(LONG)
                .connect_async();
            let restart = async {
                // A death before the client waits is one that it reports.
                while far.requests().len() < WAITING {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                near.kill();
                far.kill();
                tokio::time::sleep(SHORT).await;
                near.revive();
                far.revive();
            };
            let (accepted, connected, ()) =
                tokio::join!(server.accept_async(), connecting, restart);
            assert!(accepted.is_ok() && connected.is_ok());
        });
        world.assert_clean();
    });
}
