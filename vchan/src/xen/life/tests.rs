//! Lives over a socket that plays XenStore, which sends an event for the watch as after a restore.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use super::*;
use crate::xenstore::codec::{Decoder, Kind, Message};

/// The store's end: it has answered one request to watch, and can say that the watch fired.
pub(in crate::xen) struct Store {
    socket: UnixStream,
    event: Message,
}

impl Store {
    /// What a domain sees that goes on elsewhere.
    pub(in crate::xen) fn restore(&mut self) {
        self.socket
            .write_all(&self.event.encode().unwrap())
            .unwrap();
    }
}

/// A life that goes on until the store says otherwise.
pub(in crate::xen) fn life_and_store() -> (Life, Store) {
    let (ours, mut socket) = UnixStream::pair().unwrap();
    let store = thread::spawn(move || {
        let request = next(&mut socket);
        assert_eq!(request.kind, Kind::WATCH);
        let event = Message {
            kind: Kind::WATCH_EVENT,
            request_id: 0,
            transaction_id: 0,
            payload: request.payload.clone(),
        };
        for message in [request.reply(b"OK\0".to_vec()), event.clone()] {
            socket.write_all(&message.encode().unwrap()).unwrap();
        }
        Store { socket, event }
    });
    let lives = Lives::new(Client::over(ours).unwrap());
    let life = lives.current();
    (life, store.join().unwrap())
}

/// Where there is no store that would tell.
pub(in crate::xen) fn endless_lives() -> Arc<Lives> {
    let (ours, _) = UnixStream::pair().unwrap();
    Lives::new(Client::over(ours).unwrap())
}

fn next(socket: &mut UnixStream) -> Message {
    let mut decoder = Decoder::new();
    loop {
        if let Some(message) = decoder.next_message().unwrap() {
            return message;
        }
        let mut bytes = [0; 100];
        let count = socket.read(&mut bytes).unwrap();
        decoder.push(&bytes[..count]);
    }
}

#[test]
fn fault_c09_a_watch_that_fires_again_is_the_end_of_a_life() {
    let (life, mut store) = life_and_store();
    assert!(!life.is_over() && !life.is_over());
    store.restore();
    assert!(life.is_over());
    let next = life.lives.current();
    assert!(life.is_over() && !next.is_over());
    store.restore();
    assert!(next.is_over());
    assert!(life.is_over(), "there is no way back");
}

#[test]
fn a_connection_that_ends_is_no_end_of_a_life() {
    let (life, store) = life_and_store();
    drop(store);
    assert!(!life.is_over() && !life.is_over());
}

#[test]
fn where_no_store_tells_a_life_goes_on() {
    assert!(!endless_lives().current().is_over());
}
