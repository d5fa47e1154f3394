//! A whole client over the ring, against a daemon that works whenever the guest sleeps.
#![allow(clippy::cast_possible_truncation, reason = "small numbers of tests")]

use core::time::Duration;
use std::os::fd::AsFd;
use std::string::ToString;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use vchan::host::Store;
use vchan::memory::{Access, PAGE_SIZE};
use vchan::xenstore::WireClient;
use vchan::xenstore::codec::{Decoder, Kind, Message};
use vchan::{StoreErrorKind, StorePath};

use super::*;

/// xenstored's end of the page. It answers `READ` with the path, and everything else with `OK`.
struct Daemon {
    page: Region,
    decoder: Decoder,
    replies: Vec<u8>,
    now: Duration,
    /// Sets an index in the page to what cannot be, once, before it works.
    spoils: Option<(usize, u32)>,
    silent: bool,
    kinds: Vec<Kind>,
}

impl Daemon {
    fn index(&self, at: usize) -> u32 {
        self.page.load_index(at, Ordering::Acquire)
    }

    fn work(&mut self) -> bool {
        if let Some((at, value)) = self.spoils.take() {
            self.page.store_index(at, value, Ordering::Release);
            return true;
        }
        if self.silent {
            return false;
        }
        if self.index(CONNECTION) == RECONNECT {
            for index in [2048, 2052, 2056, 2060] {
                self.page.store_index(index, 0, Ordering::Relaxed);
            }
            (self.decoder, self.replies) = (Decoder::new(), Vec::new());
            self.page
                .store_index(CONNECTION, CONNECTED, Ordering::Release);
            return true;
        }
        let (from, to) = (self.index(2048), self.index(2052));
        for index in 0..to.wrapping_sub(from) {
            let mut byte = [0];
            let at = from.wrapping_add(index) % 1024;
            self.page.copy_out(at as usize, &mut byte);
            self.decoder.push(&byte);
        }
        self.page.store_index(2048, to, Ordering::Release);
        while let Some(request) = self.decoder.next_message().unwrap() {
            self.kinds.push(request.kind);
            let payload = match request.kind {
                Kind::READ => request.payload.clone(),
                _ => b"OK\0".to_vec(),
            };
            self.replies
                .extend(request.reply(payload).encode().unwrap());
            if request.kind == Kind::WATCH {
                let event = Message {
                    kind: Kind::WATCH_EVENT,
                    request_id: 0,
                    transaction_id: 0,
                    payload: request.payload,
                };
                self.replies.extend(event.encode().unwrap());
            }
        }
        let (cons, prod) = (self.index(2056), self.index(2060));
        let room = 1024 - prod.wrapping_sub(cons) as usize;
        let count = room.min(self.replies.len());
        for (n, byte) in self.replies.drain(..count).enumerate() {
            let at = prod.wrapping_add(n as u32) % 1024;
            self.page.copy_in(1024 + at as usize, &[byte]);
        }
        let moved = to != from || count > 0;
        let prod = prod.wrapping_add(count as u32);
        self.page.store_index(2060, prod, Ordering::Release);
        moved
    }
}

#[derive(Clone)]
struct Events(Arc<Mutex<Daemon>>);

impl StoreEvents for Events {
    fn notify(&self) -> Result<(), HostError> {
        Ok(())
    }

    fn wait(&self, deadline: Option<Time>) -> Result<(), HostError> {
        let mut daemon = self.0.lock().unwrap();
        if !daemon.work() {
            let Time(deadline) = deadline.expect("a sleep that nothing ends");
            daemon.now = daemon.now.max(deadline);
        }
        Ok(())
    }

    fn now(&self) -> Time {
        Time(self.0.lock().unwrap().now)
    }
}

/// A client, and the daemon; all indices stand at `begin`.
fn client(begin: u32) -> (WireClient<StoreRing<Events>>, Arc<Mutex<Daemon>>) {
    let file = rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, PAGE_SIZE as u64).unwrap();
    let map = || Region::map_file(file.as_fd(), 0, PAGE_SIZE, Access::ReadWrite).unwrap();
    let page = map();
    for index in [2048, 2052, 2056, 2060] {
        page.store_index(index, begin, Ordering::Relaxed);
    }
    page.store_index(SERVER_FEATURES, RECONNECTION, Ordering::Relaxed);
    let daemon = Arc::new(Mutex::new(Daemon {
        page,
        decoder: Decoder::new(),
        replies: Vec::new(),
        now: Duration::ZERO,
        spoils: None,
        silent: false,
        kinds: Vec::new(),
    }));
    let ring = StoreRing::new(map(), Events(Arc::clone(&daemon)));
    (WireClient::new(ring), daemon)
}

fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

#[test]
fn requests_longer_than_the_ring_and_indices_that_wrap() {
    for begin in [0, 1000, u32::MAX - 2000] {
        let (client, daemon) = client(begin);
        let long = path(&std::format!("data/{}", "x".repeat(2000)));
        for _ in 0..5 {
            let read = client.read(&long).unwrap();
            assert_eq!(read, std::format!("{long}\0").as_bytes());
            client.write(&path("data/x"), &vec![7; 2048]).unwrap();
        }
        let watch = client.watch(&path("data/x")).unwrap();
        assert!(watch.wait(None).unwrap());
        drop(watch);
        client.read(&path("data/x")).unwrap();
        let kinds = &daemon.lock().unwrap().kinds;
        assert_eq!(kinds[10..], [Kind::WATCH, Kind::UNWATCH, Kind::READ]);
    }
}

#[test]
fn an_index_that_cannot_be_ends_the_connection_and_the_next_request_begins_anew() {
    for (at, value) in [(2048, 5000), (2048, 1025), (2060, 1025), (2060, u32::MAX)] {
        let (client, daemon) = client(0);
        // More than fits at once, so that both directions are looked at again.
        let long = path(&std::format!("data/{}", "x".repeat(1500)));
        daemon.lock().unwrap().spoils = Some((at, value));
        let error = client.read(&long).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unreachable, "{at} {value}");
        assert!(error.to_string().contains("impossible"), "{error}");
        assert_eq!(client.read(&path("a")).unwrap(), b"a\0", "{at} {value}");
    }
}

#[test]
fn a_daemon_that_cannot_begin_anew_or_does_not_is_an_error_in_time() {
    let (client, daemon) = client(0);
    daemon.lock().unwrap().spoils = Some((2060, 5000));
    client.read(&path("a")).unwrap_err();
    daemon.lock().unwrap().silent = true;
    let error = client.read(&path("a")).unwrap_err();
    assert!(error.to_string().contains("in time"), "{error}");
    // It has been asked, so the ring is not touched.
    assert_eq!(daemon.lock().unwrap().index(CONNECTION), RECONNECT);
    daemon.lock().unwrap().silent = false;
    assert_eq!(client.read(&path("a")).unwrap(), b"a\0");

    let features = SERVER_FEATURES;
    (daemon.lock().unwrap().page).store_index(features, 0, Ordering::Release);
    daemon.lock().unwrap().spoils = Some((2060, 5000));
    client.read(&path("a")).unwrap_err();
    let error = client.read(&path("a")).unwrap_err();
    assert!(error.to_string().contains("xenstored cannot"), "{error}");
}

#[test]
fn a_ring_that_is_being_begun_anew_is_left_alone() {
    let (_, daemon) = client(0);
    let ring = StoreRing::new(
        // The daemon's mapping serves: the same page.
        {
            let file = rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&file, PAGE_SIZE as u64).unwrap();
            Region::map_file(file.as_fd(), 0, PAGE_SIZE, Access::ReadWrite).unwrap()
        },
        Events(daemon),
    );
    ring.page
        .store_index(CONNECTION, RECONNECT, Ordering::Release);
    assert!(ring.send(b"request").is_err());
    assert!(ring.receive(&mut [0; 8]).is_err());
    assert_eq!(ring.page.load_index(2052, Ordering::Acquire), 0);
}
