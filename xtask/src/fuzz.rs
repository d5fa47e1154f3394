//! `cargo xtask fuzz`: libFuzzer with the address sanitizer over the targets in `fuzz`.
//!
//! They only build on a nightly toolchain. All it takes are the compiler's flags below, so
//! cargo-fuzz need not be installed (it can be used: `fuzz` is laid out as it expects).

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::report::Tally;

/// The targets, in the order in which they run: the programs in `fuzz/fuzz_targets`.
const TARGETS: [&str; 7] = [
    "control_page",
    "ring",
    "keys",
    "codec",
    "store_client",
    "store_daemon",
    "heap",
];

/// How long each target runs as part of `cargo xtask test`, in seconds.
const SHORT: u32 = 10;

/// Coverage as libFuzzer wants it, and the address sanitizer.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// What to run, and for how long.
#[derive(clap::Args)]
pub struct Fuzz {
    /// One target; without it all of them, one after the other
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Take this guard of the library out (see `cargo xtask mutations`), and demand that the target
    /// finds that it is missing
    #[arg(long, requires = "target")]
    without: Option<String>,
}

/// Runs what was asked for, and prints the closing line.
pub fn run(what: &Fuzz) -> Result<ExitCode> {
    need()?;
    let chosen = |target: &&str| what.target.as_deref().is_none_or(|name| name == *target);
    let targets: Vec<&str> = TARGETS.into_iter().filter(chosen).collect();
    Ok(Build::new(&targets, what.without.as_deref())?
        .fuzz(&targets, what.seconds)?
        .close())
}

/// A short run of every target, or one clear line why there is none.
pub fn run_briefly() -> Result<Tally> {
    println!("\nFuzz targets, {SHORT} seconds each:");
    if let Err(why) = need() {
        println!("  the targets are skipped: {why:#}");
        return Ok(Tally {
            skipped: TARGETS.len(),
            ..Tally::default()
        });
    }
    Build::new(&TARGETS, None)?.fuzz(&TARGETS, SHORT)
}

fn need() -> Result<()> {
    process::need("rustup", "fuzzing takes a nightly toolchain of Rust")?;
    process::output(nightly_cargo().arg("--version"))
        .context("fuzzing takes a nightly toolchain (`rustup toolchain install nightly`)")?;
    process::need("c++", "libFuzzer is built with it (`apt-get install g++`)")
}

fn nightly_cargo() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]);
    // Those of the toolchain that runs this program.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}

/// The programs, built.
struct Build<'a> {
    /// Where they are, and what they find.
    directory: PathBuf,
    programs: PathBuf,
    without: Option<&'a str>,
}

impl<'a> Build<'a> {
    fn new(targets: &[&str], without: Option<&'a str>) -> Result<Build<'a>> {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut flags = FLAGS.join(" ");
        let mut directory = process::target_directory().join("fuzz");
        if without.is_some() {
            flags += " --cfg=vchan_mutations";
            directory.push("mutations");
        }
        println!("  building, with the address sanitizer …");
        let mut command = nightly_cargo();
        // A target is named, so that build scripts and macros go without the flags.
        command
            .args(["build", "--release", "--target", &triple, "--target-dir"])
            .arg(&directory)
            .arg("--manifest-path")
            .arg(process::workspace().join("fuzz/Cargo.toml"))
            .env("RUSTFLAGS", flags);
        for target in targets {
            command.args(["--bin", target]);
        }
        process::output(&mut command)?;
        Ok(Build {
            programs: directory.join(triple).join("release"),
            directory,
            without,
        })
    }

    fn fuzz(&self, targets: &[&str], seconds: u32) -> Result<Tally> {
        let mut tally = Tally::default();
        for target in targets {
            if self.fuzz_one(target, seconds)? {
                tally.passed += 1;
            } else {
                tally.failed += 1;
            }
        }
        Ok(tally)
    }

    /// Runs one target, and says what came of it. Inputs that reach something new are kept beside
    /// the program for the next run; those in the repository are only read.
    fn fuzz_one(&self, target: &str, seconds: u32) -> Result<bool> {
        let found = self.directory.join("corpus").join(target);
        std::fs::create_dir_all(&found)?;
        let failing = self.directory.join(format!("{target}-"));
        let mut command = Command::new(self.programs.join(target));
        command
            .arg(&found)
            .arg(process::workspace().join("fuzz/corpus").join(target))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}", failing.display()))
            .args(["-timeout=30", "-rss_limit_mb=1024"]);
        if seconds == SHORT {
            // A short run is to be the same each time; the long ones are there to find something.
            command.arg("-seed=1");
        }
        if target == "store_daemon" {
            // The host's threads come and go, and what a thread frees at its very end looks lost
            // for a moment. What the host keeps of a guest the target sees itself.
            command.arg("-detect_leaks=0");
        }
        if let Some(guard) = self.without {
            command.env("VCHAN_MUTATION", guard);
        }
        let output = command
            .output()
            .with_context(|| format!("cannot run {target}"))?;
        let report = String::from_utf8_lossy(&output.stderr);
        match (output.status.success(), self.without) {
            (true, None) => println!("  {target}: {}", Figures::in_report(&report)?),
            (true, Some(guard)) => println!("  {target} DOES NOT FIND {guard} GONE in {seconds} s"),
            (false, Some(guard)) => println!("  {target} finds {guard} gone: {}", reason(&report)),
            (false, None) => complain(target, &output),
        }
        Ok(output.status.success() == self.without.is_none())
    }
}

fn complain(target: &str, output: &Output) {
    let report = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = report.lines().collect();
    for line in &lines[lines.len().saturating_sub(60)..] {
        println!("    {line}");
    }
    println!("  {target} FAILS: {}", reason(&report));
    println!("  once it is mended, add the input that is named above to fuzz/corpus/{target}");
}

/// What a panic says, or the sanitizer, or libFuzzer.
fn reason(report: &str) -> String {
    let mut lines = report.lines();
    let first = lines.find(|line| line.contains("panicked at") || line.contains("ERROR: "));
    match first {
        Some(panic) if panic.contains("panicked at") => {
            let message = lines.next().unwrap_or_default();
            format!("{} ({message})", panic.trim())
        }
        Some(error) => error.trim().to_owned(),
        None => "it says nothing".to_owned(),
    }
}

/// What libFuzzer says at the end: `#1234 DONE cov: 56 ft: 78 corp: …`.
#[derive(PartialEq, Eq, Debug)]
struct Figures<'a> {
    executions: &'a str,
    edges: &'a str,
    features: &'a str,
}

impl<'a> Figures<'a> {
    fn in_report(report: &'a str) -> Result<Figures<'a>> {
        let done = report.lines().rev().find_map(|line| {
            let mut words = line.strip_prefix('#')?.split_whitespace();
            let executions = words.next()?;
            if words.next()? != "DONE" {
                return None;
            }
            let mut figure = |name| words.by_ref().skip_while(|word| *word != name).nth(1);
            Some(Figures {
                executions,
                edges: figure("cov:")?,
                features: figure("ft:")?,
            })
        });
        match done {
            Some(figures) => Ok(figures),
            None => bail!("libFuzzer does not say what it did"),
        }
    }
}

impl fmt::Display for Figures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures {
            executions,
            edges,
            features,
        } = self;
        write!(
            f,
            "{executions} executions, {edges} edges, {features} features"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_are_those_of_the_fuzz_directory() {
        let folder = process::workspace().join("fuzz/fuzz_targets");
        let mut programs: Vec<String> = (std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut targets = TARGETS.map(|target| format!("{target}.rs"));
        programs.sort();
        targets.sort();
        assert_eq!(programs, targets);
    }

    #[test]
    fn the_figures_are_found() {
        let report = "#9\tNEW    cov: 1 ft: 2\n\
                      #16599\tDONE   cov: 2472 ft: 8952 corp: 479/162Kb lim: 600 exec/s: 1037\n\
                      Done 16599 runs in 16 second(s)\n";
        let figures = Figures::in_report(report).unwrap();
        assert_eq!(
            figures.to_string(),
            "16599 executions, 2472 edges, 8952 features"
        );
        assert!(Figures::in_report("nothing").is_err());
    }

    #[test]
    fn the_reason_of_a_failure_is_found() {
        let panic =
            "INFO: x\nthread 'main' panicked at src/ring.rs:1:2:\nnot what the peer wrote\n";
        let wanted = "thread 'main' panicked at src/ring.rs:1:2: (not what the peer wrote)";
        assert_eq!(reason(panic), wanted);
        let asan = "==1== ERROR: AddressSanitizer: heap-buffer-overflow";
        assert_eq!(reason(asan), asan);
    }
}
