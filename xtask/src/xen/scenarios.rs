//! Runs what `tests/xen` has in one boot, the scenarios or the soak, and counts the results.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::console::{Line, Machine};
use super::packages::Packages;
use super::{images, qemu};
use crate::interrupt::Interrupt;
use crate::process;
use crate::report::Tally;

/// Beyond a scenario's own limit, for the machine to report it.
const GRACE: Duration = Duration::from_secs(60);

/// The names of the scenarios, from the program that runs them. Built as for this machine, so
/// that they can be counted where real Xen cannot run.
pub fn names(part: &str) -> Result<Vec<String>> {
    process::run(process::cargo().args(["build", "--quiet", "--package", "xen-scenarios"]))?;
    let program = process::target_directory().join("debug/xen-scenarios");
    let list = process::output(Command::new(program).arg("--list"))?;
    Ok(list
        .lines()
        .filter(|name| part.split(',').any(|part| name.contains(part)))
        .map(str::to_owned)
        .collect())
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
    in_one_boot(packages, &format!("rig=test scenarios={part}"), names)
}

/// `gib` GiB each way through the echo guest, with clients in dom0 that are killed at random.
pub fn soak(packages: &Packages, kind: &str, gib: f64, seed: u64) -> Result<Tally> {
    // A client's connection takes seconds there: a few dozen of them.
    let of_a_client = gib / 20.0;
    let words = format!("rig=soak soak={kind},{gib},{of_a_client},{seed}");
    in_one_boot(packages, &words, vec![format!("soak/{kind}")])
}

/// Boots with `words` for dom0, which reports how each of the `open` ones went.
fn in_one_boot(packages: &Packages, words: &str, mut open: Vec<String>) -> Result<Tally> {
    let images = images::all(packages)?;
    let began = Instant::now();
    let mut machine = Machine::start(qemu::machine(&images, words), Interrupt::note()?)?;
    let seconds = machine.wait_for_dom0(|_| {})?;
    println!(
        "real Xen: dom0 is up after {seconds:.1} s of its time, {:.1} s of ours; {} scenarios",
        began.elapsed().as_secs_f64(),
        open.len()
    );

    let mut tally = Tally::default();
    let mut running = String::new();
    let mut patience = GRACE;
    let mut log = Vec::new();
    let ended = loop {
        match machine.next(patience) {
            Ok(Line::Start(name, limit)) => {
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
    Ok(tally)
}
