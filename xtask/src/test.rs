//! `cargo xtask test`: everything, and one closing line.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::bench;
use crate::fuzz;
use crate::mutations;
use crate::process;
use crate::report::{CargoTests, Tally};
use crate::xen::packages::Packages;
use crate::xen::{qemu, scenarios};

/// Set to 1 where real Xen must run, so that a skip is a failure.
pub const REQUIRE_XEN: &str = "VCHAN_REQUIRE_XEN";
/// Tells the tests with C peers where the unpacked Xen headers and libraries are.
const SYSROOT: &str = "VCHAN_XEN_SYSROOT";
/// Tells the tests of the emulated host's XenStore where Xen's own tools are unpacked.
const STORE_TOOLS: &str = "XENSTORE_TOOLS";

/// Tells the tests where everything of Xen's is that was unpacked for them.
pub fn tell_tests<'a>(command: &'a mut Command, packages: &Packages) -> &'a mut Command {
    command
        .env(SYSROOT, &packages.root)
        .env(STORE_TOOLS, &packages.root)
}

/// Runs everything.
pub fn run(yes: bool) -> Result<ExitCode> {
    let packages = Packages::prepare();
    let mut tally = cargo_tests(packages.as_ref().ok())?;
    tally += bench::gates(packages.as_ref().ok())?;
    tally += mutations::run(None)?;
    tally += fuzz::run_briefly()?;
    tally += real_xen(packages, "", yes)?;
    Ok(tally.close())
}

/// Runs the real-Xen scenarios whose name contains `part`.
pub fn run_scenarios_only(part: Option<&str>, yes: bool) -> Result<ExitCode> {
    Ok(real_xen(Packages::prepare(), part.unwrap_or_default(), yes)?.close())
}

/// The workspace's own tests, with every feature.
fn cargo_tests(packages: Option<&Packages>) -> Result<Tally> {
    let mut command = process::cargo();
    command.args(["test", "--workspace", "--all-features", "--no-fail-fast"]);
    if let Some(packages) = packages {
        tell_tests(&mut command, packages);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut tests = CargoTests::default();
    let output = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        tests.add_line(&line);
    }
    let mut tally = tests.tally;
    if !child.wait()?.success() && tally.failed == 0 {
        println!("cargo test failed without naming a test (see above)");
        tally.failed += 1;
    }
    Ok(tally)
}

/// The scenarios on real Xen, or one clear line why they cannot run.
fn real_xen(packages: Result<Packages>, part: &str, yes: bool) -> Result<Tally> {
    println!();
    let ready = packages.and_then(|packages| qemu::ensure(yes).map(|()| packages));
    match ready {
        Ok(packages) => scenarios::run(&packages, part),
        Err(why) => {
            let skipped = scenarios::names(part)?.len();
            let required = std::env::var(REQUIRE_XEN).is_ok_and(|value| value == "1");
            if required {
                println!("real Xen cannot run here, and {REQUIRE_XEN}=1 asks for it: {why:#}");
                return Ok(Tally {
                    failed: skipped,
                    ..Tally::default()
                });
            }
            println!("real Xen cannot run here, its {skipped} scenarios are skipped: {why:#}");
            Ok(Tally {
                skipped,
                ..Tally::default()
            })
        }
    }
}
