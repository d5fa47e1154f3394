//! A XenStore client that sends and receives single messages.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vchan::DomId;
use vchan::xenstore::codec::{Decoder, Kind, Message, join_strings, split_strings};
use vchan_emulator::Emulator;

/// A client that speaks the protocol by itself.
pub struct Client {
    pub socket: UnixStream,
    decoder: Decoder,
    requests: u32,
}

impl Client {
    pub fn new(emulator: &Emulator, domid: u16) -> Client {
        let domid = DomId::new(domid).unwrap();
        let path = emulator.domain_directory(domid).join("xenstored");
        let socket = UnixStream::connect(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Client {
            socket,
            decoder: Decoder::new(),
            requests: 0,
        }
    }

    pub fn send(&mut self, kind: Kind, transaction_id: u32, payload: &[u8]) -> u32 {
        self.requests += 1;
        let message = Message {
            kind,
            request_id: self.requests,
            transaction_id,
            payload: payload.to_vec(),
        };
        self.socket.write_all(&message.encode().unwrap()).unwrap();
        self.requests
    }

    /// The next message, which may be an event; `None` when the daemon has dropped the connection.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.decoder.next_message().unwrap() {
                return Some(message);
            }
            let mut bytes = [0; 4096];
            match self.socket.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// Sends a request and gives the strings of the answer, or the name of the error.
    pub fn ask_in(
        &mut self,
        number: u32,
        kind: Kind,
        strings: &[&str],
    ) -> Result<Vec<String>, String> {
        let id = self.send(kind, number, &join_strings(strings));
        let reply = self.next().unwrap();
        assert_eq!((reply.request_id, reply.transaction_id), (id, number));
        let strings = match reply.kind {
            Kind::READ => vec![std::str::from_utf8(&reply.payload).unwrap()],
            _ => split_strings(&reply.payload).unwrap(),
        };
        let mut strings: Vec<String> = strings.into_iter().map(str::to_owned).collect();
        match reply.kind {
            Kind::ERROR => Err(strings.remove(0)),
            answered => {
                assert_eq!(answered, kind);
                Ok(strings)
            }
        }
    }

    pub fn ask(&mut self, kind: Kind, strings: &[&str]) -> Result<Vec<String>, String> {
        self.ask_in(0, kind, strings)
    }

    pub fn write(&mut self, number: u32, path: &str, value: &str) -> Result<Vec<String>, String> {
        let id = self.send(
            Kind::WRITE,
            number,
            &[path.as_bytes(), b"\0", value.as_bytes()].concat(),
        );
        let reply = self.next().unwrap();
        assert_eq!(reply.request_id, id);
        let strings = split_strings(&reply.payload).unwrap();
        let first = strings[0].to_owned();
        if reply.kind == Kind::ERROR {
            Err(first)
        } else {
            Ok(vec![first])
        }
    }

    /// The path and token of an event that must be next.
    pub fn event(&mut self) -> [String; 2] {
        let event = self.next().unwrap();
        assert_eq!((event.kind, event.request_id), (Kind::WATCH_EVENT, 0));
        let strings = split_strings(&event.payload).unwrap();
        [strings[0].to_owned(), strings[1].to_owned()]
    }
}

/// A host with domains 0 and 1.
pub fn emulator() -> Emulator {
    let emulator = Emulator::start().unwrap();
    for number in [0, 1] {
        emulator.add_domain(DomId::new(number).unwrap()).unwrap();
    }
    emulator
}

/// What `ask` gives for the error of this name.
pub fn failed<T>(name: &str) -> Result<T, String> {
    Err(name.to_owned())
}
