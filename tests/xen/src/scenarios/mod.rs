//! The scenarios, in the order in which they run. Those of one guest stand together, and the
//! last of them destroys it, so that only one guest at a time needs memory.

mod c_guest;
mod dom0;
mod echo_guest;
mod figures;
mod fleet;
mod growth;
mod hostile;
mod lives;
mod load;
mod ordered_guest;
mod unikernel;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::guests::{Image, Kind, Which};
use crate::program::{self, Ended};

/// One thing that must hold on real Xen.
pub struct Scenario {
    /// `<guest kind or dom0>/<what runs there>/<what is tried>`.
    pub name: String,
    /// How long it may take on a machine that does nothing else; see [`program::LENIENCE`].
    pub limit: Duration,
    /// The scenario itself.
    pub run: Box<dyn Fn() -> Result<()>>,
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    for kind in [Kind::Pv, Kind::Pvh] {
        let which = |image| Which { kind, image };
        let unikernel = which(Image::Unikernel);
        of_guest(&mut all, unikernel, "unikernel", echo_guest::SCENARIOS);
        of_guest(&mut all, unikernel, "unikernel", unikernel::SCENARIOS);
        let linux = which(Image::EchoGuest);
        of_guest(&mut all, linux, "echo-guest", echo_guest::SCENARIOS);
        of_kind(&mut all, kind, "long-lived", lives::SCENARIOS);
        of_kind(&mut all, kind, "ordered-guest", ordered_guest::SCENARIOS);
        of_kind(&mut all, kind, "c-guest", c_guest::SCENARIOS);
        of_kind(&mut all, kind, "load", load::SCENARIOS);
    }
    of_kind(&mut all, Kind::Pv, "short-lived", fleet::CYCLES);
    of_kind(&mut all, Kind::Pvh, "short-lived", fleet::CYCLES);
    in_all(&mut all, "unikernels", fleet::AT_ONCE);
    in_all(&mut all, "dom0", dom0::SCENARIOS);
    // They take too long to be run each time.
    in_all(&mut all, "long", fleet::LONG);
    all
}

/// Name, limit in seconds, and what to do.
type InAll = (&'static str, u64, fn() -> Result<()>);

fn in_all(all: &mut Vec<Scenario>, part: &str, list: &'static [InAll]) {
    for (name, limit, run) in list {
        all.push(Scenario {
            name: format!("{part}/{name}"),
            limit: Duration::from_secs(*limit),
            run: Box::new(run),
        });
    }
}

/// Name, limit in seconds, and what to do with a guest of this kind.
type OfKind = (&'static str, u64, fn(Kind) -> Result<()>);

fn of_kind(all: &mut Vec<Scenario>, kind: Kind, image: &str, list: &'static [OfKind]) {
    for (name, limit, run) in list {
        all.push(Scenario {
            name: format!("{kind}/{image}/{name}"),
            limit: Duration::from_secs(*limit),
            run: Box::new(move || run(kind)),
        });
    }
}

/// Name, limit in seconds, and what to do with this guest.
type OfGuest = (&'static str, u64, fn(Which) -> Result<()>);

fn of_guest(all: &mut Vec<Scenario>, which: Which, name: &str, list: &'static [OfGuest]) {
    for (what, limit, run) in list {
        all.push(Scenario {
            name: format!("{}/{name}/{what}", which.kind),
            limit: Duration::from_secs(*limit),
            run: Box::new(move || run(which)),
        });
    }
}

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// Runs node-cli to its end.
fn node_cli(arguments: &[&str], input: &[u8], limit: Duration) -> Result<Ended> {
    let mut words = vec!["node-cli"];
    words.extend(arguments);
    program::run(&words, input, limit)
}

/// Runs the C peer to its end.
fn vchan_peer(arguments: &[&str], input: &[u8], limit: Duration) -> Result<Ended> {
    let mut words = vec!["vchan-peer"];
    words.extend(arguments);
    program::run(&words, input, limit)
}

/// `hello from dom0` must come back as `answer`, and nothing else.
fn expect_answer(ended: Ended, answer: &str) -> Result<()> {
    let ended = ended.successful("the client")?;
    let got = ended.stdout_text();
    ensure!(
        got == answer,
        "the answer is {got:?} instead of {answer:?}\n{}",
        ended.stderr_text()
    );
    Ok(())
}

/// Pseudo-random bytes, the same in every run.
fn random_bytes(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.flat_map(u64::to_le_bytes).take(size).collect()
}

/// 4 MiB through an echo with node-cli.
fn four_mebibytes(arguments: &[&str]) -> Result<()> {
    through_the_echo(arguments, 4 << 20, Duration::from_secs(230))
}

/// So many bytes through an echo with node-cli; every byte must come back, upper-cased.
fn through_the_echo(arguments: &[&str], size: usize, limit: Duration) -> Result<()> {
    let sent = random_bytes(size);
    let ended = node_cli(arguments, &sent, limit)?.successful("node-cli")?;
    let expected = sent.to_ascii_uppercase();
    let first_difference = ended
        .stdout
        .iter()
        .zip(&expected)
        .position(|(got, want)| got != want);
    ensure!(
        ended.stdout == expected,
        "{} of {} bytes came back, the first wrong one at {first_difference:?}\n{}",
        ended.stdout.len(),
        expected.len(),
        ended.stderr_text()
    );
    Ok(())
}

/// A refusal: not successful, on standard error, and it says one of `words`.
fn expect_refusal(ended: &Ended, words: &[&str]) -> Result<()> {
    let said = ended.stderr_text();
    ensure!(
        !ended.status.success(),
        "it succeeded where it must not\n{said}"
    );
    ensure!(
        ended.status.code().is_some(),
        "it died of a signal ({})\n{said}",
        ended.status
    );
    let lower = said.to_lowercase();
    ensure!(
        words.iter().any(|word| lower.contains(word)),
        "the message names none of {words:?}: {said:?}"
    );
    Ok(())
}
