//! The client against a store that does what a test says.

use core::time::Duration;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::string::ToString;
use std::sync::mpsc;
use std::thread;
use std::vec::Vec;

use rustix::event::{PollFd, PollFlags};

use super::Client;
use super::codec::{Decoder, Kind, Message, join_strings};
use super::transport::{Transport, TransportKind};
use crate::{StorePath, poll};

mod batch;
mod device;
mod faults;
mod nodes;
mod threads;
mod transactions;
mod watches;
mod wire;

/// No test waits longer than this for anything, and none that goes well comes near it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The store's end of the connection.
struct FakeStore {
    socket: UnixStream,
    decoder: Decoder,
}

impl FakeStore {
    /// The next request; `None` when the client has closed the connection.
    fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.decoder.next_message().unwrap() {
                return Some(message);
            }
            let mut bytes = [0; 1000];
            match self.socket.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("no request came: {error}"),
            }
        }
    }

    /// Whether no request comes for a while.
    fn is_quiet(&mut self) -> bool {
        assert!(!self.decoder.is_mid_message());
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::IN)];
        let deadline = poll::now().after(Duration::from_millis(20));
        poll::until(&mut descriptors, Some(deadline)).unwrap();
        descriptors[0].revents().is_empty()
    }

    /// The next request, which must be of this kind.
    fn expect(&mut self, kind: Kind) -> Message {
        let message = self.next().expect("a request");
        assert_eq!(message.kind, kind);
        message
    }

    fn send(&mut self, message: &Message) {
        self.send_bytes(&message.encode().unwrap());
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        // A client that has given the connection up reads no more.
        _ = self.socket.write_all(bytes);
    }

    fn reply(&mut self, request: &Message, payload: &[u8]) {
        self.send(&request.reply(payload.to_vec()));
    }

    fn ok(&mut self, request: &Message) {
        self.reply(request, b"OK\0");
    }

    fn error(&mut self, request: &Message, name: &str) {
        self.send(&request.error_reply(name));
    }

    /// An event for the watch that `request` has set.
    fn event(&mut self, request: &Message) {
        let event = watch_event(request);
        self.send(&event);
    }
}

/// The event for the watch that `request` has set.
fn watch_event(request: &Message) -> Message {
    Message {
        kind: Kind::WATCH_EVENT,
        request_id: 0,
        transaction_id: 0,
        payload: request.payload.clone(),
    }
}

/// Runs `store` in a thread and `client` in another; neither may take for ever.
fn play(
    store: impl FnOnce(&mut FakeStore) + Send + 'static,
    client: impl FnOnce(Client) + Send + 'static,
) {
    play_over(TransportKind::Socket, store, client);
}

/// The same, where the client believes that it speaks over something of this kind.
fn play_over(
    kind: TransportKind,
    store: impl FnOnce(&mut FakeStore) + Send + 'static,
    client: impl FnOnce(Client) + Send + 'static,
) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    theirs.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut fake = FakeStore {
        socket: theirs,
        decoder: Decoder::new(),
    };
    let (done, is_done) = mpsc::channel();
    let threads = [
        ("client", {
            let done = done.clone();
            thread::spawn(move || {
                let transport = Transport::over(ours.into(), kind).unwrap();
                client(Client::new(transport).unwrap().with_time_limit(PATIENCE));
                _ = done.send(());
            })
        }),
        (
            "store",
            thread::spawn(move || {
                store(&mut fake);
                _ = done.send(());
            }),
        ),
    ];
    for (name, _) in &threads {
        is_done
            .recv_timeout(2 * PATIENCE)
            .unwrap_or_else(|_| panic!("store or client failed or hangs ({name})"));
    }
    for (name, thread) in threads {
        thread
            .join()
            .unwrap_or_else(|_| panic!("the {name} failed"));
    }
}

/// Numbers that look random and are the same in every run (xorshift).
struct Random(u64);

impl Random {
    /// A number from 0 to `bound` - 1.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

/// The strings of a request.
fn strings(request: &Message) -> Vec<std::string::String> {
    let strings = super::codec::split_strings(&request.payload).unwrap();
    strings.iter().map(ToString::to_string).collect()
}
