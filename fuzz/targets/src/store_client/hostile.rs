//! A store that reads what the client asks and answers by a script; when that ends, it hangs up.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use arbitrary::Arbitrary;
use rustix::net::SendFlags;
use vchan::xenstore::codec::{self, Decoder, Kind, Message, PAYLOAD_MAX};

use crate::machine::lock;

/// How many requests of a run may be left without an answer: each costs the client's whole patience.
const MOST_SILENCES: usize = 1;

/// One answer.
#[derive(Arbitrary, Debug)]
pub(super) enum Reply {
    /// What the client hopes for.
    Fitting,
    Payload(Vec<u8>),
    Long(u16),
    Error(u8),
    ErrorBytes(Vec<u8>),
    WrongId(u32),
    WrongTransaction(u32),
    WrongKind(u8),
    Twice,
    /// Watch events, many of them, before the answer.
    Events {
        watch: u8,
        count: u8,
    },
    Event(Vec<u8>),
    /// Any bytes, instead of an answer.
    Raw(Vec<u8>),
    /// Half an answer, and the other half.
    Slow(u8),
    /// Part of an answer, and the end of the connection.
    Cut(u8),
    Silence,
    /// The answer comes with the next one.
    Late,
    HangUp,
}

/// What the store has sent.
#[derive(Default)]
pub(super) struct Log {
    pub(super) answers: Vec<Answers>,
    /// It has sent bytes that may be any message.
    pub(super) raw: bool,
    /// It has called a listing too long for one message.
    pub(super) said_too_big: bool,
}

/// The payloads that were sent in answer to a request.
pub(super) struct Answers {
    pub(super) to: Kind,
    pub(super) payloads: Vec<Vec<u8>>,
}

/// Answers until the script or the connection ends.
pub(super) fn answer(socket: &UnixStream, replies: Vec<Reply>, log: &Mutex<Log>) {
    let mut store = Store {
        socket,
        log,
        late: Vec::new(),
        silences: 0,
    };
    let mut replies = replies.into_iter();
    let mut decoder = Decoder::new();
    let mut bytes = [0; 4096];
    loop {
        match (&*socket).read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.push(&bytes[..count]),
        }
        while let Some(request) = decoder.next_message().expect("the client speaks well") {
            assert!(request.kind.name().is_some() && request.request_id != 0);
            let reply = replies.next();
            if reply.is_none_or(|reply| store.reply(&request, reply).is_none()) {
                // The client finds the end of the connection, also where a clone of it lives on.
                _ = socket.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }
}

struct Store<'a> {
    socket: &'a UnixStream,
    log: &'a Mutex<Log>,
    late: Vec<Vec<u8>>,
    silences: usize,
}

impl Store<'_> {
    /// Answers one request. `None`: the connection ends here.
    fn reply(&mut self, request: &Message, reply: Reply) -> Option<()> {
        let answers = Answers {
            to: request.kind,
            payloads: Vec::new(),
        };
        lock(self.log).answers.push(answers);
        for late in std::mem::take(&mut self.late) {
            self.send(&late)?;
        }
        let fitting = request.reply(fitting(request.kind));
        match reply {
            Reply::Fitting => self.say(&fitting),
            Reply::Payload(mut payload) => {
                payload.truncate(PAYLOAD_MAX);
                self.say(&request.reply(payload))
            }
            Reply::Long(len) => {
                let len = usize::from(len) % (PAYLOAD_MAX + 1);
                self.say(&request.reply(vec![b'7'; len]))
            }
            Reply::Error(which) => {
                let names = [
                    "ENOENT", "EACCES", "EAGAIN", "E2BIG", "EQUOTA", "EIO", "", "?",
                ];
                let name = names[usize::from(which) % names.len()];
                lock(self.log).said_too_big |= name == "E2BIG";
                self.say(&request.error_reply(name))
            }
            Reply::ErrorBytes(mut payload) => {
                payload.truncate(PAYLOAD_MAX);
                lock(self.log).said_too_big |= payload.starts_with(b"E2BIG\0");
                self.say(&Message {
                    kind: Kind::ERROR,
                    ..request.reply(payload)
                })
            }
            Reply::WrongId(request_id) => self.say(&Message {
                request_id,
                ..fitting
            }),
            Reply::WrongTransaction(transaction_id) => self.say(&Message {
                transaction_id,
                ..fitting
            }),
            Reply::WrongKind(kind) => self.say(&Message {
                kind: Kind(kind.into()),
                ..fitting
            }),
            Reply::Twice => {
                self.say(&fitting)?;
                self.say(&fitting)
            }
            Reply::Events { watch, count } => {
                let token = format!("vchan-{watch}");
                let event = event(codec::join_strings(["data/vchan", &token]));
                let events = event.encode().ok()?.repeat(16 * usize::from(count));
                self.send(&events)?;
                self.say(&fitting)
            }
            Reply::Event(mut payload) => {
                payload.truncate(PAYLOAD_MAX);
                self.say(&event(payload))?;
                self.say(&fitting)
            }
            Reply::Raw(bytes) => {
                lock(self.log).raw = true;
                self.send(&bytes)
            }
            Reply::Slow(at) => {
                let bytes = self.note(&fitting)?;
                let (first, second) = bytes.split_at(usize::from(at).min(bytes.len()));
                self.send(first)?;
                std::thread::yield_now();
                self.send(second)
            }
            Reply::Cut(at) => {
                let bytes = self.note(&fitting)?;
                self.send(&bytes[..usize::from(at).min(bytes.len())])?;
                None
            }
            Reply::Silence | Reply::Late if self.silences == MOST_SILENCES => None,
            Reply::Silence => {
                self.silences += 1;
                Some(())
            }
            Reply::Late => {
                self.silences += 1;
                let bytes = self.note(&fitting)?;
                self.late.push(bytes);
                Some(())
            }
            Reply::HangUp => None,
        }
    }

    fn say(&mut self, message: &Message) -> Option<()> {
        let bytes = self.note(message)?;
        self.send(&bytes)
    }

    /// Remembers what is sent, before it is.
    fn note(&mut self, message: &Message) -> Option<Vec<u8>> {
        let mut log = lock(self.log);
        let last = log.answers.last_mut()?;
        last.payloads.push(message.payload.clone());
        message.encode().ok()
    }

    /// Sends all of it; `None` when the client is gone.
    fn send(&self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let sent = rustix::net::send(self.socket, bytes, SendFlags::NOSIGNAL).ok()?;
            bytes = &bytes[sent..];
        }
        Some(())
    }
}

fn event(payload: Vec<u8>) -> Message {
    Message {
        kind: Kind::WATCH_EVENT,
        request_id: 0,
        transaction_id: 0,
        payload,
    }
}

/// What a client can make sense of.
fn fitting(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::READ => b"8".to_vec(),
        Kind::DIRECTORY => codec::join_strings(["ring-ref", "event-channel"]),
        Kind::DIRECTORY_PART => b"7\0ring-ref\0\0".to_vec(),
        Kind::GET_PERMS => codec::join_strings(["n2", "r0"]),
        Kind::TRANSACTION_START => codec::join_strings(["5"]),
        Kind::IS_DOMAIN_INTRODUCED => codec::join_strings(["T"]),
        Kind::GET_DOMAIN_PATH => codec::join_strings(["/local/domain/0"]),
        _ => codec::join_strings(["OK"]),
    }
}
