//! The capitalising echo: a vchan server that answers in capitals, one client after the other.
//!
//! The same for a program on an operating system and for a guest without one.
#![no_std]

extern crate alloc;

use alloc::vec;
use core::convert::Infallible;
use core::fmt;
use core::time::Duration;

use vchan::task::{self, Runtime};
use vchan::{Channel, DomId, Error, Host, HostError, Server, StorePath, diagnostics};

const PATH: &str = "data/vchan";
const RING_SIZE: usize = 5000;
/// The most bytes that are answered at a time.
const BUFFER_SIZE: usize = 64 * 1024;
/// The same in a task, of which there may be many.
const TASK_BUFFER_SIZE: usize = 1024;
/// How long a server waits before it tries to make an offer again.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Where the server says what it does.
pub trait Console {
    /// Prints text that ends its lines itself. Nobody may be reading.
    fn print(&mut self, text: fmt::Arguments<'_>);

    /// Says one line about what goes on.
    fn note(&mut self, line: fmt::Arguments<'_>);

    /// Asked after each answer of [`Serving::run`], as a client may leave no time to wait: where the
    /// server is not to go on, an error that ends it.
    ///
    /// # Errors
    /// By default none.
    fn may_go_on(&mut self) -> Result<(), HostError> {
        Ok(())
    }
}

/// The server's work, over any number of connections to the host.
#[derive(Debug)]
pub struct Serving {
    /// The domain whose clients are served; domain 0 by default.
    pub client: DomId,
    /// The least size in bytes of the ring that is read, 0 to 1 MiB; 5000 by default.
    pub read_size: usize,
    /// The least size in bytes of the ring that is written, 0 to 1 MiB; 5000 by default.
    pub write_size: usize,
    begun: bool,
}

impl Default for Serving {
    fn default() -> Serving {
        Serving {
            client: DomId::DOM0,
            read_size: RING_SIZE,
            write_size: RING_SIZE,
            begun: false,
        }
    }
}

impl Serving {
    /// Whether a vchan was ever published.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Serves clients until the host fails. What a client does wrong ends only its own session.
    ///
    /// # Errors
    /// Those of [`ServerBuilder::bind`](vchan::ServerBuilder::bind) and
    /// [`Server::accept`](vchan::Server::accept) that no client can cause.
    pub fn run(&mut self, host: &Host, console: &mut impl Console) -> Result<Infallible, Error> {
        let (client, path): (_, StorePath) = (self.client, PATH.parse()?);
        let builder = Server::builder(host, client)
            .path(path.clone())
            .read_size(self.read_size)
            .write_size(self.write_size);
        let mut server = builder.bind()?;
        loop {
            let published = diagnostics::server(&server.pending()?.handshake());
            let begins = diagnostics::server_begins(client, &path);
            console.print(format_args!("{begins}{published}"));
            self.begun = true;
            let accepted = server.accept();
            let session = accepted.and_then(|channel| converse(channel, console));
            conclude(client, session, console)?;
        }
    }
}

/// Serves the clients of `server`, one after the other: as [`Serving::run`], in a task of `runtime`, of
/// which there may be one for each server.
///
/// A host that has no memory for the next offer now, as clients that are gone keep theirs mapped, or no
/// XenStore, may have it later. That is noted once, and tried again every second.
///
/// # Errors
/// Those of which no other end can be hoped for.
pub async fn serve_on(
    mut server: Server,
    runtime: &Runtime,
    console: &mut impl Console,
) -> Result<Infallible, Error> {
    // Made at once: later there may be no memory for it.
    let mut buffer = vec![0; TASK_BUFFER_SIZE];
    let mut is_in_trouble = false;
    loop {
        let served = serve_one_on(
            &mut server,
            runtime,
            &mut buffer,
            console,
            &mut is_in_trouble,
        );
        match served.await {
            Err(error @ (Error::Host(_) | Error::Store(_))) => {
                if !is_in_trouble {
                    console.note(format_args!("{error}; trying again"));
                }
                is_in_trouble = true;
                runtime.sleep(PAUSE).await;
            }
            other => other?,
        }
    }
}

/// Makes an offer, if none stands, and serves the client that takes it.
async fn serve_one_on(
    server: &mut Server,
    runtime: &Runtime,
    buffer: &mut [u8],
    console: &mut impl Console,
    is_in_trouble: &mut bool,
) -> Result<(), Error> {
    let offer = server.pending_on(runtime).await?;
    let (client, handshake) = (offer.peer(), offer.handshake());
    let begins = diagnostics::server_begins(client, server.path());
    let published = diagnostics::server(&handshake);
    console.print(format_args!("{begins}{published}"));
    if core::mem::take(is_in_trouble) {
        console.note(format_args!("on offer again"));
    }
    let session = match server.accept_on(runtime).await {
        Ok(channel) => {
            console.note(format_args!("domain {client} has connected"));
            converse_on(channel, buffer).await
        }
        Err(error) => Err(error),
    };
    conclude(client, session, console)
}

/// Says how a session ended. An error that is none of the client's doing ends the server.
fn conclude(
    client: DomId,
    session: Result<u64, Error>,
    console: &mut impl Console,
) -> Result<(), Error> {
    match session {
        Ok(count) => console.note(format_args!(
            "domain {client} has closed the channel after {count} bytes"
        )),
        Err(error @ (Error::PeerFault(_) | Error::PeerDied | Error::Closed)) => {
            console.note(format_args!("{error}"));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// What is answered.
fn answer(said: &mut [u8]) -> &[u8] {
    said.make_ascii_uppercase();
    said
}

/// Answers one client until it closes, as [`converse`], in a task.
async fn converse_on(mut channel: task::Channel, buffer: &mut [u8]) -> Result<u64, Error> {
    let mut total = 0_u64;
    loop {
        let count = channel.read(buffer).await?;
        if count == 0 {
            return Ok(total);
        }
        let mut rest = answer(buffer.get_mut(..count).unwrap_or_default());
        while !rest.is_empty() {
            let written = channel.write(rest).await?;
            total = total.saturating_add(written as u64);
            rest = rest.get(written..).unwrap_or_default();
        }
    }
}

/// Answers one client until it closes; returns how many bytes were answered.
///
/// A client that writes and never reads fills first its own ring and then ours, and this waits
/// until it reads: that is vchan's flow control, and the client's to resolve. It waits for no more
/// than that client: when it closes or dies, the next is served.
fn converse(mut channel: Channel, console: &mut impl Console) -> Result<u64, Error> {
    console.note(format_args!("domain {} has connected", channel.peer()));
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let count = channel.read(&mut buffer)?;
        if count == 0 {
            return Ok(channel.bytes_written());
        }
        let mut rest = answer(buffer.get_mut(..count).unwrap_or_default());
        while !rest.is_empty() {
            let written = channel.write(rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        console.may_go_on()?;
    }
}
