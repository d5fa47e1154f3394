//! Many unikernels: at once, and one after the other.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vchan::{Channel, Client, DomId, Host};

use super::figures::figures;
use super::growth::{dom0_in_use, grows_not, memory_of};
use super::unikernel::{echoed, xl_save_gives_up};
use super::{InAll, OfKind};
use crate::guests::{self, Guest, Image, Kind, Which};
use crate::program;
use crate::progress::Progress;

/// One guest after the other: they begin and end without any.
pub(super) const CYCLES: &[OfKind] = &[("create-destroy", 600, |kind| {
    grows_not(5, || one_life(&vchan::xen::host()?, kind, "cycle")).map(drop)
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
    ("xl-save-refused-pvh", 240, || xl_save_gives_up(Kind::Pvh)),
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
    let mut progress = Progress::new("unikernels created", count(kinds.len()), 20);
    let mut fleet = Vec::new();
    for (number, &kind) in kinds.iter().enumerate() {
        let name = format!("fleet-{number}");
        let guest = Guest::unikernel(&name, kind, "echo-guest", 4, "")
            .with_context(|| format!("with {number} others"))?;
        fleet.push(guest);
        progress.step();
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
    let mut progress = Progress::new("unikernels destroyed", count(fleet.len()), 20);
    fleet.into_iter().try_for_each(|guest| {
        guest.destroy()?;
        progress.step();
        Ok(())
    })
}

fn count(things: usize) -> u32 {
    u32::try_from(things).unwrap_or(u32::MAX)
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

/// After so many lives, what is opened and loaded once is there.
const WARM_UP: u32 = 20;

/// Lives of both kinds, many of them. Neither dom0, nor a daemon, nor Xen has less left afterwards.
fn cycles() -> Result<()> {
    let lives = match std::env::var("VCHAN_CYCLES") {
        Ok(lives) => lives.parse().context("VCHAN_CYCLES")?,
        Err(_) => LIVES,
    };
    let host = vchan::xen::host()?;
    let mut times = Vec::new();
    let mut progress = Progress::new("lives", WARM_UP + 1 + lives, 50);
    let mut next = || {
        let life = times.len() + 1;
        let kind = if life % 2 == 0 { Kind::Pv } else { Kind::Pvh };
        let began = Instant::now();
        one_life(&host, kind, "cycle").with_context(|| format!("life {life}"))?;
        times.push(began.elapsed());
        progress.step();
        anyhow::Ok(())
    };
    for _ in 0..WARM_UP {
        next()?;
    }
    let before = in_use()?;
    let mut done = 0;
    let mut course = Vec::new();
    let held = grows_not(lives, || {
        next()?;
        done += 1;
        if done % 100 == 0 {
            course.push(dom0_in_use()?);
        }
        Ok(())
    })?;
    // Given back in the background.
    let until = program::latest(Duration::from_secs(60));
    let mut after = in_use()?;
    while grown(&before, &after, lives).is_some() && Instant::now() < until {
        std::thread::sleep(Duration::from_secs(1));
        after = in_use()?;
    }
    println!("note: {lives} lives; in use, in KiB: {before:?}, then {after:?}");
    println!("note: of dom0 after each hundred: {course:?}; in the end: {held:?}");
    let hundreds = times.chunks(100).map(|some| some.iter().sum::<Duration>());
    let hundreds: Vec<u64> = hundreds.map(|all| all.as_secs()).collect();
    println!("note: each hundred lives took, in seconds: {hundreds:?}");
    times.sort_unstable();
    println!(
        "note: a life took {:.2?} in the median, {:.2?} at most",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    match grown(&before, &after, lives) {
        Some((what, by)) => bail!("{what}: {by} KiB more after {lives} lives"),
        None => Ok(()),
    }
}

/// What is in use, in KiB, and how many times more of it than the others may be lost: its count is
/// coarse, or it is used by others as well.
type InUse = [(&'static str, u64, u64); 4];

fn in_use() -> Result<InUse> {
    Ok([
        ("xenstored", memory_of("xenstored")?, 1),
        ("xenconsoled", memory_of("xenconsoled")?, 1),
        ("dom0", dom0_in_use()?, 8),
        ("Xen", guests::memory_in_use()? << 10, 2),
    ])
}

/// What has grown by more than what is no leak, and by how much.
fn grown(before: &InUse, after: &InUse, lives: u32) -> Option<(&'static str, u64)> {
    // A leak of one page in each life would be four times as much.
    let most = u64::from(lives).max(1024);
    let pairs = before.iter().zip(after);
    let grown = pairs.map(|(before, after)| {
        let by = after.1.saturating_sub(before.1);
        (before.0, by, before.2 * most)
    });
    (grown.filter(|(_, by, limit)| by >= limit))
        .map(|(what, by, _)| (what, by))
        .next()
}
