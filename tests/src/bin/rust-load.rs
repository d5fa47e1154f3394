//! rust-load: our library's side of measurements.
//!
//! The counterpart of `tests/c/vchan-load.c`: the same commands and answers, and the same protocol on
//! the channel, so that either end can be either library.
//!
//! ```text
//! rust-load server DOMID PATH ORDER   serves one client, then ends
//! rust-load client DOMID PATH         does what standard input says, until it ends
//! ```
//!
//! Commands are `stream SIZE COUNT` and `trips SIZE COUNT`, and the answer is
//! `ok NANOSECONDS NOTIFICATIONS CALLS`. Both ends wait as the library does unless told otherwise;
//! with `-asleep` behind the word they sleep at once.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use vchan::layout::Order;
use vchan::{DomId, Host, StorePath};
use vchan_bench::peers::vchan::Mode;
use vchan_bench::remote::{self, Link};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("rust-load: {why:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let host = vchan_emulator::host_from_environment()?;
    match words[..] {
        ["server", domid, path, order] => {
            let order = Order::new(order.parse()?).context("there are no rings of this order")?;
            let (domid, path) = (domid.parse()?, path.parse()?);
            let said = |line: &str| eprintln!("rust-load: {line}");
            Ok(remote::serve(&host, domid, &path, order, said)?)
        }
        ["client", domid, path] => obey(&host, domid.parse()?, &path.parse()?),
        _ => bail!("usage: rust-load server DOMID PATH ORDER | client DOMID PATH"),
    }
}

fn obey(host: &Host, server: DomId, path: &StorePath) -> Result<()> {
    let mut link = Link::connect(host, server, path)?;
    let mut output = io::stdout().lock();
    let mut say = |line: &str| writeln!(output, "{line}").and_then(|()| output.flush());
    say("connected")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [what, size, count] = words[..] else {
            bail!("not a command: {line}");
        };
        let (size, count) = (size.parse()?, count.parse()?);
        let (what, mode) = match what.strip_suffix("-asleep") {
            Some(what) => (what, Mode::Sleep),
            None => (what, Mode::Blocking),
        };
        let (time, counted) = match what {
            "stream" => {
                let (moved, counted) = link.stream(mode, size, count)?;
                (moved.elapsed().as_nanos(), counted)
            }
            "trips" => {
                let (trips, counted) = link.round_trips(mode, size, count, None)?;
                (trips.latency.quantile(0.5).into(), counted)
            }
            _ => bail!("not a command: {line}"),
        };
        let (notifications, calls) = (counted.notifications, counted.system_calls);
        say(&format!("ok {time} {notifications} {calls}"))?;
    }
    Ok(link.end()?)
}
