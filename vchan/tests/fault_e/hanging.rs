//! E1: a xenstored that goes on holding its connections and answers nothing. The stores of these tests
//! give an answer ten minutes; nobody is to wait nearly as long.

#[cfg(feature = "tokio")]
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "tokio")]
use vchan::Client;
use vchan::xenstore;
use vchan::xenstore::codec::Kind;
use vchan::{DomId, Error, Host, Server, StoreErrorKind};

#[cfg(feature = "tokio")]
use crate::common::watched::watched;
use crate::common::{LONG, World, bounded, guest};
use crate::proxy::Proxy;
use crate::{connect, talk};

/// What a store of these tests is given for an answer.
const LIMIT: Duration = Duration::from_secs(600);

/// What everything here takes far less than, also on a machine that stops for a while.
const FAR_LESS: Duration = Duration::from_secs(100);

/// Longer than it takes until a server sees to its keys.
const SOME_TIME: Duration = Duration::from_millis(2500);

/// A domain's host behind a relay, and the relay.
fn host(world: &World, domid: DomId) -> (Host, Proxy) {
    let proxy = Proxy::start(&world.emulator, domid);
    let store = xenstore::Client::open_at(proxy.place()).unwrap();
    let host = proxy.host_with(&world.emulator, domid, store.with_time_limit(LIMIT));
    (host, proxy)
}

fn is_timed_out(error: &Error) -> bool {
    match error {
        Error::TimedOut { .. } => true,
        Error::Store(store) => store.kind == StoreErrorKind::TimedOut,
        _ => false,
    }
}

#[test]
fn fault_e01_accepting_ends_by_its_deadline_while_the_store_hangs() {
    bounded(|| {
        let world = World::new();
        let (host, proxy) = host(&world, guest());
        let mut server = Server::builder(&host, DomId::DOM0).bind().unwrap();
        proxy.hang();
        let since = Instant::now();
        let error = server.accept_timeout(SOME_TIME).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        // Who knows the keys needs no store to come.
        let mut client = connect(&world.dom0, LONG).unwrap();
        talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
        // Nothing can be published now.
        let error = server.accept_timeout(SOME_TIME).unwrap_err();
        assert!(is_timed_out(&error), "{error}");
        assert!(since.elapsed() < FAR_LESS);

        proxy.restart();
        drop(client);
        server.pending().unwrap();
        let mut client = connect(&world.dom0, LONG).unwrap();
        talk(&mut server.accept_timeout(LONG).unwrap(), &mut client);
        drop((client, server, host));
        world.assert_clean();
    });
}

#[test]
fn fault_e01_connecting_ends_by_its_deadline_while_the_store_hangs() {
    bounded(|| {
        let world = World::new();
        let (host, proxy) = host(&world, DomId::DOM0);
        proxy.hang();
        let since = Instant::now();
        let error = connect(&host, SOME_TIME).unwrap_err();
        assert!(is_timed_out(&error), "{error}");
        // Also when it has begun to wait before.
        proxy.restart();
        let waiting = thread::spawn(move || connect(&host, 2 * SOME_TIME));
        let watches = |kinds: &[Kind]| kinds.contains(&Kind::WATCH);
        while !watches(&proxy.requests()) && !waiting.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        proxy.hang();
        // It is told of this by the emulated store, and asks in vain.
        let server = world.server().bind().unwrap();
        let error = waiting.join().unwrap().unwrap_err();
        assert!(is_timed_out(&error), "{error}");
        assert!(since.elapsed() < FAR_LESS);
        drop(server);
        world.assert_clean();
    });
}

#[test]
fn fault_e01_a_server_that_is_dropped_does_not_wait_for_a_store_that_hangs() {
    bounded(|| {
        let world = World::new();
        let (host, proxy) = host(&world, guest());
        let server = Server::builder(&host, DomId::DOM0).bind().unwrap();
        proxy.hang();
        let since = Instant::now();
        drop(server);
        assert!(since.elapsed() < FAR_LESS);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn fault_e01_a_task_whose_offer_is_lost_does_not_wait_in_place() {
    bounded(|| {
        let world = World::new();
        let (near, proxy) = host(&world, guest());
        let (near, calls) = watched(&near);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::builder(&near, DomId::DOM0);
            let mut server = server.bind_async().await.unwrap();
            // As when the domain was restored.
            calls.ports_are_lost.store(true, Relaxed);
            proxy.hang();
            let error = server.accept_async().await.unwrap_err();
            assert!(matches!(error, Error::Host(_)), "{error}");
            // Nothing is left that dropping it could wait for.
            drop(server);
        });
        assert_eq!(calls.waits_for_store.load(Relaxed), 0);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn fault_e01_tasks_go_on_while_the_store_hangs() {
    use tokio::time::timeout;
    bounded(|| {
        let world = World::new();
        let (near, near_proxy) = host(&world, guest());
        let (far, far_proxy) = host(&world, DomId::DOM0);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            // Shows how long the one thread of this runtime was not to be had.
            let longest = tokio::spawn(async {
                let (since, mut longest) = (Instant::now(), Duration::ZERO);
                while since.elapsed() < SOME_TIME * 4 {
                    let last = Instant::now();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    longest = longest.max(last.elapsed());
                }
                longest
            });
            let mut server = Server::builder(&near, DomId::DOM0).bind().unwrap();
            let third = Server::builder(&near, DomId::DOM0).path("data/third".parse().unwrap());
            let third = third.bind_async().await.unwrap();
            near_proxy.hang();
            far_proxy.hang();
            let connecting = Client::builder(&far, guest()).timeout(SOME_TIME);
            let (connected, accepted) = tokio::join!(
                connecting.connect_async(),
                timeout(SOME_TIME, server.accept_async()),
            );
            assert!(is_timed_out(&connected.unwrap_err()));
            assert!(accepted.is_err(), "nobody has come");
            // Who knows the keys needs no store to come.
            let client = Client::builder(&world.dom0, guest()).connect_async();
            let (client, accepted) = tokio::join!(client, server.accept_async());
            drop((client.unwrap(), accepted.unwrap()));
            assert!(timeout(SOME_TIME, server.accept_async()).await.is_err());
            let other = Server::builder(&near, DomId::DOM0).path("data/other".parse().unwrap());
            assert!(timeout(SOME_TIME, other.bind_async()).await.is_err());
            assert!(timeout(SOME_TIME, third.close_async()).await.is_err());
            assert!(longest.await.unwrap() < FAR_LESS / 2);
        });
    });
}
