//! rust-driver: makes our library do, step by step, what a test asks for.
//!
//! The counterpart of `tests/c/driver.c`: the same commands, the same bytes, and the same answers
//! where a call succeeds. Channels are non-blocking. Where a call gives nothing, C's answer is a
//! number, and this one's says what happened:
//!
//! ```text
//! would-block                   nothing to do yet
//! too-large MAX                 the datagram can never fit
//! closed                        the peer will read nothing more
//! end BUFFERED of WANTED        the peer closed before a whole datagram was there
//! died                          the peer's domain is gone
//! error TEXT                    anything else
//! ```
//!
//! The same call is made in turn in each of the ways that our library has for it: from one buffer or
//! several, as one of many datagrams, or in place.
//!
//! Only here: `accept`, after a client has come. Not here: `wait`, `blocking`, `persist`,
//! `exchange`, `page`. `open` answers `waiting`, `connected` or `closed`.

use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vchan::{Channel, Client, DomId, Error, Host, Server, State, StorePath};
use vchan_tests::pattern::{Pattern, checksum};

/// What our own waiting for keys must end within.
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("rust-driver: {why}");
            ExitCode::from(2)
        }
    }
}

/// Ends with standard input, as a program does that forgets to close.
fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut driver = Driver {
        host: vchan_emulator::host_from_environment()?,
        end: None,
        pattern: Pattern::from_seed(1),
        outgoing: Vec::new(),
        incoming: Vec::new(),
        calls: 0,
    };
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let answer = driver.execute(&words)?;
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    // No destructor runs: the host finds out by itself.
    std::process::exit(0)
}

/// What a command makes of the library.
enum End {
    Server(Box<Server>),
    Channel(Box<Channel>),
}

struct Driver {
    host: Host,
    end: Option<End>,
    pattern: Pattern,
    /// The next bytes to write.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// How many calls were made.
    calls: usize,
}

/// A command that was not understood, or came at the wrong time.
type Misuse = Box<dyn std::error::Error>;

impl Driver {
    fn execute(&mut self, words: &[&str]) -> Result<String, Misuse> {
        match *words {
            ["server", peer, path, read_min, write_min] => {
                let (peer, path) = (peer.parse()?, path.parse()?);
                let sizes = (read_min.parse()?, write_min.parse()?);
                Ok(answer(self.serve(peer, path, sizes)))
            }
            ["client", peer, path] => {
                let (peer, path) = (peer.parse()?, path.parse()?);
                Ok(answer(self.connect(peer, path)))
            }
            ["accept"] => {
                let Some(End::Server(server)) = &mut self.end else {
                    return Err("there is no server".into());
                };
                let accepted = server.try_accept();
                Ok(answer(accepted.map(|channel| {
                    self.end = Some(End::Channel(Box::new(channel)));
                    "ok".to_owned()
                })))
            }
            ["close"] => {
                self.end = None;
                Ok("ok".to_owned())
            }
            ["seed", seed] => {
                self.pattern = Pattern::from_seed(seed.parse()?);
                self.outgoing.clear();
                Ok("ok".to_owned())
            }
            [call @ ("write" | "send"), size] => self.put(call, size.parse()?),
            [call @ ("read" | "recv"), size] => self.get(call, size.parse()?),
            ["ready"] => Ok(number(self.channel()?.data_ready())),
            ["space"] => Ok(number(self.channel()?.buffer_space())),
            ["open"] => {
                let state = self.channel()?.state().map(|state| match state {
                    State::Waiting => "waiting".to_owned(),
                    State::Connected => "connected".to_owned(),
                    State::Closed => "closed".to_owned(),
                });
                Ok(answer(state))
            }
            ["poll", limit] => {
                let limit = Timespec::try_from(Duration::from_millis(limit.parse()?))?;
                let channel = self.channel()?;
                let mut fds = [PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)];
                Ok(poll(&mut fds, Some(&limit))?.to_string())
            }
            _ => Err(format!("unknown command: {words:?}").into()),
        }
    }

    fn serve(
        &mut self,
        peer: DomId,
        path: StorePath,
        (read_min, write_min): (usize, usize),
    ) -> Result<String, Error> {
        let server = Server::builder(&self.host, peer).path(path);
        let mut server = server.read_size(read_min).write_size(write_min).bind()?;
        server.pending()?.set_nonblocking(true);
        self.end = Some(End::Server(Box::new(server)));
        Ok("ok".to_owned())
    }

    fn connect(&mut self, peer: DomId, path: StorePath) -> Result<String, Error> {
        let client = Client::builder(&self.host, peer).path(path);
        let mut channel = client.timeout(LIMIT).connect()?;
        channel.set_nonblocking(true);
        self.end = Some(End::Channel(Box::new(channel)));
        Ok("ok".to_owned())
    }

    fn put(&mut self, call: &str, size: usize) -> Result<String, Misuse> {
        let missing = size.saturating_sub(self.outgoing.len());
        self.outgoing.extend(self.pattern.by_ref().take(missing));
        let bytes = std::mem::take(&mut self.outgoing);
        self.calls += 1;
        let way = self.calls;
        let channel = self.channel()?;
        let written = match call {
            "write" => write(channel, &bytes[..size], way),
            _ => send(channel, &bytes[..size], way).map(|()| size),
        };
        self.outgoing = bytes;
        if let Ok(count) = written {
            self.outgoing.drain(..count);
        }
        Ok(number(written))
    }

    fn get(&mut self, call: &str, size: usize) -> Result<String, Misuse> {
        let mut bytes = std::mem::take(&mut self.incoming);
        bytes.resize(size, 0);
        self.calls += 1;
        let way = self.calls;
        let channel = self.channel()?;
        let read = match call {
            "read" => read(channel, &mut bytes, way),
            _ => recv(channel, &mut bytes, way).map(|()| size),
        };
        let answer = match read {
            Ok(count) if count > 0 => format!("{count} {}", checksum(&bytes[..count])),
            other => number(other),
        };
        self.incoming = bytes;
        Ok(answer)
    }

    fn channel(&mut self) -> Result<&mut Channel, Misuse> {
        match &mut self.end {
            Some(End::Channel(channel)) => Ok(channel),
            Some(End::Server(server)) => Ok(server.pending()?),
            None => Err("there is no channel".into()),
        }
    }
}

fn write(channel: &mut Channel, from: &[u8], way: usize) -> Result<usize, Error> {
    let (head, tail) = from.split_at(from.len() / 3);
    match way % 2 {
        0 => channel.write(from),
        _ => channel.write_vectored(&[head, tail]),
    }
}

fn send(channel: &mut Channel, from: &[u8], way: usize) -> Result<(), Error> {
    let (head, tail) = from.split_at(from.len() / 3);
    match way % 4 {
        0 => channel.send_vectored(&[head, tail]),
        1 => channel.send_many(&[from]).map(|count| assert_eq!(count, 1)),
        // An empty datagram asks for no space.
        2 if !from.is_empty() => {
            // One that is given up first: nothing of it may show.
            channel.reserve(from.len())?.write_at(0, tail);
            let mut space = channel.reserve(from.len())?;
            space.write_at(head.len(), tail);
            space.write_at(0, head);
            space.commit(from.len())
        }
        _ => channel.send(from),
    }
}

fn read(channel: &mut Channel, to: &mut [u8], way: usize) -> Result<usize, Error> {
    if way.is_multiple_of(2) {
        return channel.read(to);
    }
    let (head, tail) = to.split_at_mut(to.len() / 3);
    channel.read_vectored(&mut [head, tail])
}

fn recv(channel: &mut Channel, to: &mut [u8], way: usize) -> Result<(), Error> {
    let (buffered, wanted) = (0, to.len());
    match way % 4 {
        0 => {
            let (head, tail) = to.split_at_mut(wanted / 3);
            channel.recv_vectored(&mut [head, tail])
        }
        1 => channel
            .recv_many(&mut [to])
            .map(|count| assert_eq!(count, 1)),
        2 if wanted > 0 => {
            let there = channel.peek(wanted)?;
            if there.is_empty() {
                return Err(Error::EndOfStream { buffered, wanted });
            }
            there.read_at(0, to);
            there.consume(wanted)
        }
        _ => channel.recv(to),
    }
}

fn number(result: Result<usize, Error>) -> String {
    answer(result.map(|number| number.to_string()))
}

fn answer(result: Result<String, Error>) -> String {
    result.unwrap_or_else(|error| match error {
        Error::WouldBlock => "would-block".to_owned(),
        Error::TooLarge { max, .. } => format!("too-large {max}"),
        Error::Closed => "closed".to_owned(),
        Error::EndOfStream { buffered, wanted } => format!("end {buffered} of {wanted}"),
        Error::PeerDied => "died".to_owned(),
        other => format!("error {other}"),
    })
}
