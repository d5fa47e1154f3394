//! Runs what `tests/xen` has in one boot, the scenarios, the soak or the measurements, and counts the
//! results.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console::{Line, Machine};
use super::packages::Packages;
use super::qemu::Clock;
use super::{images, qemu};
use crate::interrupt::Interrupt;
use crate::process;
use crate::report::Tally;

/// Beyond a scenario's own limit, for the machine to report it.
const GRACE: Duration = Duration::from_secs(60);

/// How many guests `long/cycles` creates and destroys. As a word for dom0's kernel it becomes part of
/// the environment of the first program there.
const LIVES: &str = "VCHAN_CYCLES";

/// The names of the scenarios, from the program that runs them. Built as for this machine, so
/// that they can be counted where real Xen cannot run.
pub fn names(parts: &str) -> Result<Vec<String>> {
    process::run(process::cargo().args(["build", "--quiet", "--package", "xen-scenarios"]))?;
    let program = process::target_directory().join("debug/xen-scenarios");
    let list = process::output(Command::new(program).args(["--list", parts]))?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Boots Xen and runs the scenarios whose name contains `part`.
pub fn run(packages: &Packages, part: &str) -> Result<Tally> {
    let names = names(part)?;
    if names.is_empty() {
        bail!("no scenario's name contains {part:?}");
    }
    if part.contains(|c: char| !(c.is_ascii_alphanumeric() || "-/_,".contains(c))) {
        bail!("{part:?} is no part of a scenario's name");
    }
    let mut words = format!("rig=test scenarios={part}");
    if let Ok(lives) = std::env::var(LIVES) {
        let lives: u32 = lives.parse().context(LIVES)?;
        words = format!("{words} {LIVES}={lives}");
    }
    Ok(in_one_boot(packages, &words, Clock::Real, names)?.0)
}

/// `gib` GiB each way through the echo guest, with clients in dom0 that are killed at random.
pub fn soak(packages: &Packages, kind: &str, gib: f64, seed: u64) -> Result<Tally> {
    // A client's connection takes seconds there: a few dozen of them.
    let of_a_client = gib / 20.0;
    let words = format!("rig=soak soak={kind},{gib},{of_a_client},{seed}");
    let open = vec![format!("soak/{kind}")];
    Ok(in_one_boot(packages, &words, Clock::Real, open)?.0)
}

/// The scenarios that take too long to be run each time; `lives` is how many guests are created and
/// destroyed one after the other.
pub fn long(packages: &Packages, lives: u32) -> Result<Tally> {
    let words = format!("rig=test scenarios=long/ {LIVES}={lives}");
    Ok(in_one_boot(packages, &words, Clock::Real, names("long/")?)?.0)
}

/// Measures both libraries in guests of both kinds, and gives what was measured, a line each. The
/// `effort` is `quick` or `full`.
pub fn bench(packages: &Packages, effort: &str) -> Result<(Tally, Vec<String>)> {
    let names = ["pv", "pvh"].map(|kind| format!("bench/{kind}/{effort}"));
    let words = format!("rig=bench bench={effort}");
    in_one_boot(packages, &words, Clock::Instructions, names.to_vec())
}

/// Boots with `words` for dom0, which reports how each of the `open` ones went, and what it measured.
fn in_one_boot(
    packages: &Packages,
    words: &str,
    clock: Clock,
    mut open: Vec<String>,
) -> Result<(Tally, Vec<String>)> {
    let images = images::all(packages)?;
    let began = Instant::now();
    let mut machine = Machine::start(qemu::machine(&images, words, clock), Interrupt::note()?)?;
    let seconds = machine.wait_for_dom0(|_| {})?;
    println!(
        "real Xen: dom0 is up after {seconds:.1} s of its time, {:.1} s of ours; {} scenarios",
        began.elapsed().as_secs_f64(),
        open.len()
    );

    let mut tally = Tally::default();
    let mut figures: Vec<String> = Vec::new();
    // Of which scenario those from this one on are.
    let mut measured = 0;
    let mut running = String::new();
    let mut patience = GRACE;
    let mut log = Vec::new();
    let ended = loop {
        match machine.next(patience) {
            Ok(Line::Start(name, limit)) => {
                // Once more from the beginning: what the first attempt measured does not count.
                if running == name {
                    figures.truncate(measured);
                }
                measured = figures.len();
                running = name;
                patience = Duration::from_secs(limit) + GRACE;
                log.clear();
            }
            Ok(Line::Pass(name, seconds)) => {
                println!("  ok    {name}  {seconds:.1} s");
                tally.passed += 1;
                open.retain(|other| *other != name);
            }
            Ok(Line::Fail(name, seconds)) => {
                println!("  FAIL  {name}  {seconds:.1} s");
                for line in &log {
                    println!("          {line}");
                }
                tally.failed += 1;
                open.retain(|other| *other != name);
            }
            Ok(Line::Figure(figure)) => figures.push(figure),
            Ok(Line::Note(note)) => println!("  note  {note}"),
            Ok(Line::Log(line)) => log.push(line),
            Ok(Line::Broken(why)) => break Err(anyhow::anyhow!("{why}")),
            Ok(Line::End) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error.context(format!("while {running} ran"))),
        }
    };
    for name in &open {
        println!("  FAIL  {name}  no result");
        tally.failed += 1;
    }
    match ended {
        Ok(()) => println!(
            "real Xen: done after {:.0} s",
            began.elapsed().as_secs_f64()
        ),
        Err(error) => println!("real Xen: {error:#}"),
    }
    if tally.failed > 0 {
        println!(
            "real Xen: the whole console is in {}",
            machine.log.display()
        );
    }
    machine.finish();
    Ok((tally, figures))
}
