//! `cargo xtask soak`: the long versions of the tests, and the soak on real Xen.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::process;
use crate::report::Tally;
use crate::test::tell_tests;
use crate::xen::packages::Packages;
use crate::xen::{qemu, scenarios};

/// How often channels are opened and closed.
const ROUNDS: u64 = 10_000;

/// Runs the soak on real Xen, with a guest of this kind, unless `gib` is 0, and the long scenarios with
/// so many lives of unikernels, unless that is 0.
pub fn run_on_xen(kind: &str, gib: f64, lives: u32, seed: u64, yes: bool) -> Result<ExitCode> {
    let packages = Packages::prepare()?;
    qemu::ensure(yes)?;
    let mut tally = Tally::default();
    if lives > 0 {
        tally += scenarios::long(&packages, lives)?;
    }
    if gib > 0.0 {
        tally += scenarios::soak(&packages, kind, gib, seed)?;
    }
    Ok(tally.close())
}

/// Runs the long versions on the emulated host, one after the other.
pub fn run(gib: f64, seconds: u64, seed: u64) -> Result<ExitCode> {
    let mut tally = Tally::default();
    let mut step = |what: &str, command: &mut Command| {
        println!("\n== {what}");
        let since = Instant::now();
        match process::run(command) {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                println!("{error:#}");
                tally.failed += 1;
            }
        }
        println!("   {:.0} s", since.elapsed().as_secs_f64());
    };
    step(
        &format!("{gib} GiB each way through an echo, clients killed at random"),
        process::cargo()
            .args([
                "run",
                "--release",
                "--package",
                "vchan-tests",
                "--bin",
                "vchan-soak",
                "--",
            ])
            .args(["run", &format!("--gib={gib}"), &format!("--seed={seed}")]),
    );
    let long = |package: &str, target: &str, variable: &str, value: u64| {
        let mut command = process::cargo();
        command.args(["test", "--release", "--all-features", "--package", package]);
        command
            .args(["--test", target])
            .env(variable, value.to_string());
        command
    };
    step(
        &format!("a hostile process, {seconds} s for each of its tests"),
        &mut long("vchan", "hostile", "VCHAN_HOSTILE_SECONDS", seconds),
    );
    step(
        &format!("{ROUNDS} times opened and closed"),
        &mut long("vchan", "fault_d", "VCHAN_SOAK_ROUNDS", ROUNDS),
    );
    let packages = Packages::prepare().context("the differential test needs the C library")?;
    let mut differential = long("vchan-tests", "differential", "VCHAN_SOAK_SECONDS", seconds);
    step(
        &format!("the C library against ours, {seconds} s for each test"),
        tell_tests(&mut differential, &packages),
    );
    Ok(tally.close())
}
