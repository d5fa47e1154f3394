//! `cargo xtask bench` and `cargo xtask gates`: both libraries in one program, built as users build.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::report::Tally;
use crate::test::{REQUIRE_XEN, tell_tests};
use crate::xen::packages::Packages;
use crate::xen::{qemu, scenarios};
use crate::{Consent, process};

/// The command line.
#[derive(Args)]
pub struct Bench {
    /// In under five minutes, with a part of the matrix
    #[arg(long)]
    quick: bool,
    /// Also write the rows as a list of objects with name, value, must, aim and met
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only the rows whose names contain this; docs/PERFORMANCE.md stays as it is
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The rows of real Xen, under QEMU, and nothing else
    #[arg(long, conflicts_with = "only")]
    xen: bool,
    #[command(flatten)]
    consent: Consent,
}

/// Measures the table of goals and writes docs/PERFORMANCE.md.
pub fn run(bench: &Bench) -> Result<ExitCode> {
    if bench.xen {
        return on_xen(bench);
    }
    let packages = Packages::prepare();
    if let Err(why) = &packages {
        println!("rows with the C library are left out: {why:#}\n");
    }
    let program = build(packages.as_ref().ok())?;
    let mut command = Command::new(program);
    command.arg("goals");
    if bench.quick {
        command.arg("--quick");
    }
    let document = process::workspace().join("docs/PERFORMANCE.md");
    match &bench.only {
        None => report(command, &document, bench.json.as_deref())?,
        Some(only) => {
            command.arg("--only").arg(only);
            if let Some(file) = &bench.json {
                command.arg("--json").arg(file);
            }
            process::run(&mut command)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures the rows of real Xen in one boot and writes their part of docs/PERFORMANCE.md.
fn on_xen(bench: &Bench) -> Result<ExitCode> {
    let packages = Packages::prepare()?;
    qemu::ensure(bench.consent.yes)?;
    let program = build(Some(&packages))?;
    let effort = if bench.quick { "quick" } else { "full" };
    let (tally, figures) = scenarios::bench(&packages, effort)?;
    if tally.failed > 0 {
        return Ok(tally.close());
    }
    let file = process::xen_directory().join("figures.txt");
    std::fs::write(&file, figures.join("\n") + "\n")?;
    let mut command = Command::new(program);
    command.arg("real-xen").arg(&file);
    let document = process::workspace().join("docs/PERFORMANCE.md");
    report(command, &document, bench.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the program that writes the document.
fn report(mut command: Command, document: &Path, json: Option<&Path>) -> Result<()> {
    command.arg("--document").arg(document);
    if let Some(file) = json {
        command.arg("--json").arg(file);
    }
    process::run(&mut command)?;
    println!("\ndocs/PERFORMANCE.md is written");
    Ok(())
}

/// Tries the gates and prints the closing line.
pub fn gates_alone() -> Result<ExitCode> {
    Ok(gates(Packages::prepare().ok().as_ref())?.close())
}

/// Holds the counts against their limits.
pub fn gates(packages: Option<&Packages>) -> Result<Tally> {
    println!("\nCounts that must not grow:");
    let missing = ["valgrind", "objdump"]
        .into_iter()
        .find(|program| !process::exists(program));
    if let Some(missing) = missing {
        let required = std::env::var(REQUIRE_XEN).is_ok_and(|value| value == "1");
        println!("  nothing is counted: {missing} is not on this machine");
        let (failed, skipped) = if required { (1, 0) } else { (0, 1) };
        return Ok(Tally {
            failed,
            skipped,
            ..Tally::default()
        });
    }
    let program = build(packages)?;
    let output = Command::new(&program)
        .arg("gates")
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let mut tally = Tally::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("  {line}");
        match line.split(' ').next() {
            Some("ok") => tally.passed += 1,
            Some("FAILED") => tally.failed += 1,
            _ => tally.skipped += 1,
        }
    }
    if !output.status.success() && tally.failed == 0 {
        print!("{}", String::from_utf8_lossy(&output.stderr));
        tally.failed += 1;
    }
    Ok(tally)
}

/// The program with both libraries, or with ours alone, optimised as every release is.
fn build(packages: Option<&Packages>) -> Result<PathBuf> {
    let mut command = process::cargo();
    command.args(["build", "--release", "--package", "vchan-compare"]);
    if let Some(packages) = packages {
        tell_tests(&mut command, packages);
    }
    process::run(&mut command)?;
    let program = process::target_directory().join("release/vchan-compare");
    if !Path::new(&program).is_file() {
        bail!("{} was not built", program.display());
    }
    Ok(program)
}
