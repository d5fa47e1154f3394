//! A conversation between two domains, one of which meets with a fault at one of its steps.
//!
//! The *leader* connects, sends a pattern, reads it back and closes. The *survivor* echoes, and
//! whatever became of the first leader, must then serve a second one, which nothing befalls. To
//! try every step, a test runs one round for the first call to the host, one for the second, and so
//! on until a leader gets through untouched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vchan::{Channel, Client, DomId, Error, Host, Server, ServerBuilder, State};
use vchan_emulator::Emulator;

use super::{LONG, pattern};

/// What the leader sends: more than a ring, less than both.
pub const SENT: usize = 2500;

/// Within this a survivor must notice what became of its peer: far more than a probe's interval and
/// what a busy machine adds.
pub const NOTICED: Duration = Duration::from_secs(20);

/// Longer than a probe's interval.
pub const IMPATIENT: Duration = Duration::from_millis(2200);

/// Seeds of what the two leaders send.
pub const FIRST: u64 = 1;
pub const SECOND: u64 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Server,
    Client,
}

impl Role {
    pub fn other(self) -> Role {
        match self {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        }
    }

    pub fn domid(self) -> DomId {
        DomId::new(match self {
            Role::Server => 2,
            Role::Client => 3,
        })
        .unwrap()
    }
}

/// An emulated host with a domain for each role.
pub fn emulator() -> Arc<Emulator> {
    let emulator = Emulator::start().unwrap();
    for role in [Role::Server, Role::Client] {
        emulator.add_domain(role.domid()).unwrap();
    }
    Arc::new(emulator)
}

pub fn server(host: &Host) -> ServerBuilder {
    Server::builder(host, Role::Client.domid())
        .read_size(1024)
        .write_size(2048)
}

/// The leader's part, from the beginning to the end.
pub fn lead(role: Role, host: &Host, seed: u64) -> Result<(), Error> {
    let (server, mut channel) = match role {
        Role::Server => {
            let mut server = server(host).bind()?;
            let channel = server.accept_timeout(LONG)?;
            (Some(server), channel)
        }
        Role::Client => {
            let client = Client::builder(host, Role::Server.domid()).timeout(LONG);
            (None, client.connect()?)
        }
    };
    channel.set_read_timeout(Some(LONG));
    channel.set_write_timeout(Some(LONG));
    let sent = pattern(SENT, seed);
    let mut written = 0;
    while written < SENT {
        written += channel.write(&sent[written..])?;
    }
    let mut back = vec![0; SENT];
    let mut read = 0;
    while read < SENT {
        match channel.read(&mut back[read..])? {
            0 => {
                return Err(Error::EndOfStream {
                    buffered: read,
                    wanted: SENT,
                });
            }
            count => read += count,
        }
    }
    assert!(back == sent, "the echo is not what was sent");
    drop((channel, server));
    Ok(())
}

/// What a survivor saw of one leader.
pub struct Seen {
    pub received: Vec<u8>,
    /// Why the conversation ended, unless it was by the end of the stream.
    pub error: Option<Error>,
    /// How often the leader was silent for longer than the survivor's patience, and still there.
    pub pauses: usize,
}

/// Serves leaders until the second one has got through. What is received is always a prefix of what
/// was sent, and all that was published.
fn survive(role: Role, host: &Host, emulator: &Emulator, patience: &Patience) -> Vec<Seen> {
    let mut server = (role == Role::Server).then(|| server(host).bind().unwrap());
    let mut all = Vec::new();
    loop {
        let channel = match &mut server {
            Some(server) => server.accept_timeout(LONG).unwrap(),
            None => Client::builder(host, Role::Server.domid())
                .timeout(LONG)
                .connect()
                .unwrap(),
        };
        let seen = echo(channel, role, emulator, patience);
        let from_second = seen.received == pattern(SENT, SECOND);
        let (first, second) = (pattern(SENT, FIRST), pattern(SENT, SECOND));
        assert!(
            first.starts_with(&seen.received) || second.starts_with(&seen.received),
            "{} bytes that are no prefix of what was sent",
            seen.received.len()
        );
        all.push(seen);
        if from_second {
            return all;
        }
    }
}

fn echo(mut channel: Channel, role: Role, emulator: &Emulator, patience: &Patience) -> Seen {
    let reference = channel.handshake().ring_ref;
    // None when the server's domain is gone already.
    let page = emulator.raw_page(Role::Server.domid(), reference).ok();
    channel.set_read_timeout(Some(patience.limit));
    channel.set_write_timeout(Some(LONG));
    let mut seen = Seen {
        received: Vec::new(),
        error: None,
        pauses: 0,
    };
    let mut buffer = [0; 512];
    let mut echoing = true;
    loop {
        let count = match channel.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(Error::TimedOut { .. }) if seen.pauses < 100 => {
                // It may have gone on and closed by now; it has not died.
                assert_ne!(channel.state().unwrap(), State::Waiting);
                seen.pauses += 1;
                patience.ended.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Err(error) => {
                seen.error = Some(error);
                break;
            }
        };
        seen.received.extend(&buffer[..count]);
        let mut rest = &buffer[..count];
        while echoing && !rest.is_empty() {
            match channel.write(rest) {
                Ok(count) => rest = &rest[count..],
                // What it sent before can still be read.
                Err(Error::Closed | Error::PeerDied) => echoing = false,
                Err(error) => {
                    seen.error = Some(error);
                    return seen;
                }
            }
        }
    }
    if let Some(page) = page {
        let (cons, prod) = match role {
            Role::Server => (0, 4),
            Role::Client => (8, 12),
        };
        let consumed = page.load_index(cons, Ordering::Acquire) as usize;
        let published = page.load_index(prod, Ordering::Acquire) as usize;
        // When the server's domain was replaced between the handshake and the look at its page, the
        // page is that of the next server, which nobody has used yet.
        let of_the_next = consumed == 0 && published == 0;
        if role == Role::Server || !of_the_next {
            assert_eq!(seen.received.len(), published, "published bytes were lost");
        }
    }
    seen
}

/// How long a survivor waits before it looks up, and how often it has.
struct Patience {
    limit: Duration,
    ended: Arc<AtomicUsize>,
}

/// The survivor's thread.
pub fn survivor(role: Role, emulator: &Arc<Emulator>) -> JoinHandle<Vec<Seen>> {
    let (limit, ended) = (NOTICED, Arc::default());
    survivor_with(role, emulator, Patience { limit, ended })
}

/// One that looks up each time when its leader was silent for [`IMPATIENT`], and counts that.
pub fn impatient_survivor(
    role: Role,
    emulator: &Arc<Emulator>,
    pauses: &Arc<AtomicUsize>,
) -> JoinHandle<Vec<Seen>> {
    let (limit, ended) = (IMPATIENT, Arc::clone(pauses));
    survivor_with(role, emulator, Patience { limit, ended })
}

fn survivor_with(
    role: Role,
    emulator: &Arc<Emulator>,
    patience: Patience,
) -> JoinHandle<Vec<Seen>> {
    let host = emulator.host(role.domid()).unwrap();
    let emulator = Arc::clone(emulator);
    thread::spawn(move || survive(role, &host, &emulator, &patience))
}

/// The second leader, and the end of a round: the survivor's tale, and nothing left behind.
pub fn conclude(
    role: Role,
    emulator: &Arc<Emulator>,
    survivor: JoinHandle<Vec<Seen>>,
) -> Vec<Seen> {
    let host = emulator.host(role.domid()).unwrap();
    let mut tries = 0;
    while let Err(error) = lead(role, &host, SECOND) {
        // Between the death of the first leader and the moment when that is noticed, one can meet
        // what it left: a server a client that followed the old keys, a client a channel that the
        // server is about to end. Either is closed at once.
        let met_leftovers = matches!(
            error,
            Error::Closed | Error::EndOfStream { buffered: 0, .. }
        );
        tries += 1;
        assert!(met_leftovers && tries < 5, "try {tries}: {error}");
    }
    drop(host);
    let seen = survivor.join().unwrap();
    emulator.assert_clean();
    seen
}

/// Runs `round` for step 0, 1, 2 ..., several at once, until one says that it went untouched. Gives
/// the number of that step.
pub fn until_untouched(at_once: usize, round: impl Fn(u64) -> bool + Sync) -> u64 {
    const MOST: u64 = 1000;
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(MOST));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let step = next.fetch_add(1, Ordering::Relaxed);
                    if step >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    if round(step) {
                        end.fetch_min(step, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let end = end.into_inner();
    assert!(end < MOST, "no round went untouched");
    end
}
