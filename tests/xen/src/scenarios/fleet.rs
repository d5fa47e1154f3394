//! Many unikernels: at once, and one after the other.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vchan::{Channel, Client, DomId, Host};

use super::figures::figures;
use super::growth::{available, grows_not, memory_of};
use super::unikernel::echoed;
use super::{InAll, OfKind};
use crate::guests::{Guest, Image, Kind, Which};

/// One guest after the other: they begin and end without any.
pub(super) const CYCLES: &[OfKind] = &[("create-destroy", 600, |kind| {
    grows_not(5, || one_life(&vchan::xen::host()?, kind, "cycle"))
})];

/// Of guests of both kinds.
pub(super) const AT_ONCE: &[InAll] = &[("10-at-once", 300, || {
    at_once(&[Kind::Pv, Kind::Pvh].repeat(5))
})];

/// Those of the long run.
pub(super) const LONG: &[InAll] = &[
    ("100-at-once-pv", 900, || at_once(&[Kind::Pv; 100])),
    ("100-at-once-pvh", 900, || at_once(&[Kind::Pvh; 100])),
    ("64-mib-pv", 300, || sixty_four_mib(Kind::Pv)),
    ("64-mib-pvh", 300, || sixty_four_mib(Kind::Pvh)),
    ("figures-pv", 600, || figures(Kind::Pv)),
    ("figures-pvh", 600, || figures(Kind::Pvh)),
    ("cycles", 4 * 3600, cycles),
];

fn sixty_four_mib(kind: Kind) -> Result<()> {
    let image = Image::Unikernel;
    echoed(Which { kind, image }, &[16 << 20, 64 << 20])
}

/// What no echo takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Unikernels of 4 MiB, each of which echoes while all the others are there.
fn at_once(kinds: &[Kind]) -> Result<()> {
    let host = vchan::xen::host()?;
    let began = Instant::now();
    let mut fleet = Vec::new();
    for (number, &kind) in kinds.iter().enumerate() {
        let name = format!("fleet-{number}");
        let guest = Guest::unikernel(&name, kind, "echo-guest", 4, "")
            .with_context(|| format!("with {number} others"))?;
        fleet.push(guest);
    }
    let created = began.elapsed();
    let mut channels = Vec::new();
    for guest in &fleet {
        channels.push(connect(&host, guest)?);
    }
    // All of them at once.
    for (number, channel) in channels.iter_mut().enumerate() {
        write!(channel, "hello, number {number}")?;
    }
    for (number, channel) in channels.iter_mut().enumerate().rev() {
        expect(channel, &format!("HELLO, NUMBER {number}"))?;
    }
    println!(
        "note: {} unikernels: created in {:.1} s, all had echoed after {:.1} s",
        fleet.len(),
        created.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    drop(channels);
    fleet.into_iter().try_for_each(Guest::destroy)
}

/// Created, echoing, destroyed.
fn one_life(host: &Host, kind: Kind, name: &str) -> Result<()> {
    let guest = Guest::unikernel(name, kind, "echo-guest", 4, "")?;
    let mut channel = connect(host, &guest)?;
    channel.write_all(b"hello from dom0")?;
    expect(&mut channel, "HELLO FROM DOM0")?;
    drop(channel);
    guest.destroy()
}

fn connect(host: &Host, guest: &Guest) -> Result<Channel> {
    let domid: DomId = guest.domid.parse()?;
    let mut channel = Client::builder(host, domid).timeout(PATIENCE).connect()?;
    channel.set_read_timeout(Some(PATIENCE));
    Ok(channel)
}

fn expect(channel: &mut Channel, answer: &str) -> Result<()> {
    let mut came = vec![0; answer.len()];
    channel.read_exact(&mut came)?;
    let came = String::from_utf8_lossy(&came);
    ensure!(came == answer, "it answers {came:?} instead of {answer:?}");
    Ok(())
}

/// How many lives the long run has, unless `VCHAN_CYCLES` says otherwise.
const LIVES: u32 = 1000;

/// Lives of both kinds, many of them. Neither dom0 nor a daemon has less left afterwards.
fn cycles() -> Result<()> {
    let lives = match std::env::var("VCHAN_CYCLES") {
        Ok(lives) => lives.parse().context("VCHAN_CYCLES")?,
        Err(_) => LIVES,
    };
    let host = vchan::xen::host()?;
    let mut life = 0;
    let mut next = || {
        life += 1;
        let kind = if life % 2 == 0 { Kind::Pv } else { Kind::Pvh };
        one_life(&host, kind, "cycle").with_context(|| format!("life {life}"))
    };
    // What is opened and loaded once is there after that.
    for _ in 0..20 {
        next()?;
    }
    let memory = || -> Result<_> {
        Ok([
            memory_of("xenstored")?,
            memory_of("xenconsoled")?,
            available()?,
        ])
    };
    let before = memory()?;
    grows_not(lives, next)?;
    let after = memory()?;
    println!(
        "note: {lives} lives; KiB of xenstored, of xenconsoled, available: {before:?}, then {after:?}"
    );
    let [store, console, left] = [0, 1, 2].map(|at| after[at].abs_diff(before[at]));
    // A leak of one page in each life would be four times as much.
    let most = u64::from(lives).max(1024);
    ensure!(
        after[0] < before[0] || store < most,
        "xenstored has grown by {store} KiB"
    );
    ensure!(
        after[1] < before[1] || console < most,
        "xenconsoled has grown by {console} KiB"
    );
    ensure!(
        after[2] > before[2] || left < 8 * most,
        "dom0 has {left} KiB less"
    );
    Ok(())
}
