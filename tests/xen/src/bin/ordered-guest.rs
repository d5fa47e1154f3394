//! Does in a guest what dom0 tells it, for the scenarios.
//!
//! It connects to a vchan that dom0 publishes for it and obeys the lines that come: `<number>
//! <order> <arguments>`. Each is answered with one line, `<number> <what came of it>`. The orders:
//!
//! - `read PATH`: reads a XenStore key.
//! - `connect DOMID`: is a client of another domain's server.
//! - `map DOMID FIRST LAST`: maps these grants of another domain, one after the other.
//! - `bind DOMID FIRST LAST`: binds to these event channels of another domain.
//! - `serve COUNT`: opens so many servers, which answer in capitals as long as the session lasts.
//! - `fill`: opens servers with the largest rings until one is refused.
//! - `empty`: drops those.

use std::io::Write as _;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use vchan::host::{GrantRef, Port};
use vchan::memory::Access;
use vchan::{Channel, Client, DomId, Error, Host, Server, StorePath};

const ORDERS: &str = "/local/domain/0/data/orders";
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// The largest ring.
const MOST: usize = 1 << 20;

fn main() -> ExitCode {
    match session() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ordered-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Obeys until dom0 closes.
fn session() -> Result<()> {
    let host = vchan::xen::host()?;
    let mut channel = Client::builder(&host, DomId::DOM0)
        .path(ORDERS.parse::<StorePath>()?)
        .connect()?;
    let mut guest = Guest {
        host,
        served: Vec::new(),
        filled: Vec::new(),
    };
    let mut unfinished = Vec::new();
    loop {
        if channel.data_ready()? > 0 {
            let mut chunk = [0; 512];
            let count = channel.read(&mut chunk)?;
            unfinished.extend_from_slice(chunk.get(..count).unwrap_or_default());
        } else if channel.probe()? != vchan::State::Connected {
            return Ok(());
        }
        while let Some(end) = unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unfinished.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).into_owned();
            let answer = guest.obey(line.trim());
            writeln!(channel, "{answer}")?;
        }
        for served in &mut guest.served {
            served.step()?;
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}

struct Guest {
    host: Host,
    served: Vec<Served>,
    filled: Vec<Server>,
}

impl Guest {
    fn obey(&mut self, line: &str) -> String {
        let (number, order) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = order.split_whitespace().collect();
        let result = match words.as_slice() {
            ["read", path] => self.read(path),
            ["connect", domid] => self.connect(domid),
            ["map", domid, first, last] => self.map(domid, first, last),
            ["bind", domid, first, last] => self.bind(domid, first, last),
            ["serve", count] => self.serve(count),
            ["fill"] => self.fill(),
            ["empty"] => {
                self.filled.clear();
                Ok("emptied".to_owned())
            }
            _ => Err(anyhow::anyhow!("{order:?} is no order")),
        };
        let said = result.unwrap_or_else(|error| format!("failed: {error:#}"));
        format!("{number} {}", said.replace('\n', " "))
    }

    fn read(&self, path: &str) -> Result<String> {
        let value = self.host.store().read(&path.parse()?)?;
        Ok(format!("read {:?}", String::from_utf8_lossy(&value)))
    }

    fn connect(&self, domid: &str) -> Result<String> {
        let timeout = Duration::from_secs(2);
        Client::builder(&self.host, domid.parse()?)
            .timeout(timeout)
            .connect()?;
        Ok("connected".to_owned())
    }

    fn map(&self, domid: &str, first: &str, last: &str) -> Result<String> {
        let domid: DomId = domid.parse()?;
        attempts("mapped", first, last, |reference| {
            let references = [GrantRef(reference)];
            // Reading is the least that one can ask for.
            let grants = self.host.grants();
            grants
                .map(domid, &references, Access::ReadOnly, None)
                .map(drop)
                .map_err(Error::from)
        })
    }

    fn bind(&self, domid: &str, first: &str, last: &str) -> Result<String> {
        let domid: DomId = domid.parse()?;
        attempts("bound", first, last, |port| {
            let events = self.host.events();
            events
                .bind_interdomain(domid, Port(port))
                .map(drop)
                .map_err(Error::from)
        })
    }

    fn serve(&mut self, count: &str) -> Result<String> {
        let count: usize = count.parse()?;
        for number in 0..count {
            let server = Server::builder(&self.host, DomId::DOM0)
                .path(format!("data/vchan/0/p{number:02}").parse()?)
                .read_size(1024)
                .write_size(1024)
                .bind()
                .with_context(|| format!("server {number} of {count}"))?;
            self.served.push(Served {
                server,
                client: None,
            });
        }
        Ok(format!("served {}", self.served.len()))
    }

    fn fill(&mut self) -> Result<String> {
        const TRIES: usize = 100;
        for number in self.filled.len()..TRIES {
            let server = Server::builder(&self.host, DomId::DOM0)
                .path(format!("data/vchan/0/full{number:02}").parse()?)
                .read_size(MOST)
                .write_size(MOST)
                .bind();
            match server {
                Ok(server) => self.filled.push(server),
                Err(error) => return Ok(format!("full after {}: {error}", self.filled.len())),
            }
        }
        bail!("{TRIES} servers with rings of {MOST} bytes were allowed")
    }
}

/// Tries each number from `first` to `last`: how often it worked, and why it did not.
fn attempts(
    done: &str,
    first: &str,
    last: &str,
    try_one: impl Fn(u32) -> Result<(), Error>,
) -> Result<String> {
    let (first, last): (u32, u32) = (first.parse()?, last.parse()?);
    let (mut worked, mut refused, mut reason) = (Vec::new(), 0, None);
    for number in first..=last {
        match try_one(number) {
            Ok(()) => worked.push(number),
            Err(error) => {
                refused += 1;
                reason.get_or_insert(error);
            }
        }
    }
    let why = reason.map(|error| error.to_string()).unwrap_or_default();
    Ok(format!("{refused} refused, {done} {worked:?}; {why}"))
}

/// A server and its client, if it has one.
struct Served {
    server: Server,
    client: Option<Channel>,
}

impl Served {
    /// Does what can be done without waiting.
    fn step(&mut self) -> Result<()> {
        match &mut self.client {
            None => match self.server.try_accept() {
                Ok(channel) => self.client = Some(channel),
                Err(Error::WouldBlock) => {}
                Err(error) => return Err(error.into()),
            },
            Some(client) => {
                let mut chunk = [0; 512];
                if client.data_ready()? > 0 {
                    let count = client.read(&mut chunk)?;
                    let answer = chunk.get_mut(..count).unwrap_or_default();
                    answer.make_ascii_uppercase();
                    client.write_all(answer)?;
                } else if client.state()? != vchan::State::Connected {
                    self.client = None;
                }
            }
        }
        Ok(())
    }
}
