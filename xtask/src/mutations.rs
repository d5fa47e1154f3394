//! `cargo xtask mutations`: every guard is taken out once, and the test that watches it must fail.
//!
//! A guard is a fence, a check or a second look that `vchan::guard::keeps` names. The list is
//! `tests/mutations.txt`; the builds with `--cfg vchan_mutations` have target directories of their
//! own, because a flag of the compiler rebuilds everything.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;
use crate::report::{CargoTests, Tally};

/// The list, a guard a line.
const LIST: &str = "tests/mutations.txt";
/// A test that has not ended by then, with all guards in their places, does not end.
const LIMIT: Duration = Duration::from_secs(180);
/// Without its guard it does not end if it takes as many times as long as with it, and this long.
const TIMES_AS_LONG: u32 = 10;
const AT_LEAST: Duration = Duration::from_secs(20);

/// The test targets whose tests watch guards: built with the flags that they need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Build {
    /// The models of the wake-up protocol, under loom.
    Models,
    /// The tests on the emulated host, and the unit tests.
    Tests,
}

/// One line of the list.
#[derive(PartialEq, Eq, Debug)]
struct Mutation<'a> {
    guard: &'a str,
    taken_out: &'a str,
    build: Build,
    target: &'a str,
    test: &'a str,
}

/// Runs those whose guard has `part` in its name, all of them without one, and prints the closing
/// line.
pub fn run_alone(part: Option<&str>) -> Result<ExitCode> {
    Ok(run(part)?.close())
}

/// Runs those whose guard has `part` in its name, all of them without one.
pub fn run(part: Option<&str>) -> Result<Tally> {
    let list = std::fs::read_to_string(process::workspace().join(LIST))
        .with_context(|| format!("cannot read {LIST}"))?;
    let mut mutations = parse(&list)?;
    mutations.retain(|mutation| part.is_none_or(|part| mutation.guard.contains(part)));
    if let (Some(part), true) = (part, mutations.is_empty()) {
        bail!("no guard has {part:?} in its name: {LIST} lists them all");
    }
    println!("\nGuards that are taken out, and the test that must fail then:");
    let mut tally = Tally::default();
    for build in [Build::Models, Build::Tests] {
        let mutations = mutations.iter().filter(|mutation| mutation.build == build);
        let mut mutations = mutations.peekable();
        if mutations.peek().is_none() {
            continue;
        }
        let executables = build.executables()?;
        if build == Build::Models {
            tally += models(&executables)?;
        }
        tally += try_out_all(mutations, &executables)?;
    }
    Ok(tally)
}

/// How many are tried out at a time for each processor: most of them wait most of the time, those that
/// do not end only that.
const AT_ONCE: usize = 3;

/// Tries them out, several at a time.
fn try_out_all<'a>(
    mutations: impl Iterator<Item = &'a Mutation<'a>> + Send,
    executables: &HashMap<String, PathBuf>,
) -> Result<Tally> {
    let mutations = Mutex::new(mutations);
    let next = || {
        let mut mutations = mutations.lock().unwrap_or_else(PoisonError::into_inner);
        mutations.next()
    };
    let with_guard = WithGuard::default();
    let work = || -> Result<Tally> {
        let mut tally = Tally::default();
        while let Some(mutation) = next() {
            let Mutation {
                guard,
                taken_out,
                target,
                test,
                ..
            } = mutation;
            let executable = executables
                .get(*target)
                .with_context(|| format!("{LIST}: there is no test target {target}"))?;
            let verdict = try_out(executable, guard, test, &with_guard)?;
            println!("  {verdict:<28} {guard}: {taken_out} ({target}: {test})");
            match verdict {
                Verdict::Caught | Verdict::Hangs => tally.passed += 1,
                _ => tally.failed += 1,
            }
        }
        Ok(tally)
    };
    let workers = AT_ONCE * thread::available_parallelism().map_or(1, usize::from);
    let tallies: Vec<Result<Tally>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|tally| tally.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut sum = Tally::default();
    for tally in tallies {
        sum += tally?;
    }
    Ok(sum)
}

/// The models themselves, with every guard in its place: `cargo test` does not run them.
fn models(executables: &HashMap<String, PathBuf>) -> Result<Tally> {
    let executable = executables.get("lib").context("there are no unit tests")?;
    let mut command = Command::new(executable);
    command.arg("endpoint::models").env_remove("VCHAN_MUTATION");
    let mut tests = CargoTests::default();
    match outcome(command, LIMIT)? {
        Outcome::Passed(output) => {
            output.lines().for_each(|line| tests.add_line(line));
            println!("  {} models pass", tests.tally.passed);
        }
        _ => {
            println!(
                "  THE MODELS FAIL: {} endpoint::models",
                executable.display()
            );
            tests.tally.failed += 1;
        }
    }
    Ok(tests.tally)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Caught,
    Hangs,
    Survives,
    FailsAnyway,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Verdict::Caught => "fails without it",
            Verdict::Hangs => "does not end without it",
            Verdict::Survives => "SURVIVES",
            Verdict::FailsAnyway => "FAILS OR IS MISSING WITH IT",
        })
    }
}

/// How long each test took with all guards in their places, by its executable and name: several
/// guards may have one test. `None`: it fails then, or is missing.
type WithGuard = Mutex<HashMap<(PathBuf, String), Option<Duration>>>;

/// The test must pass with the guard and fail without it.
fn try_out(executable: &Path, guard: &str, test: &str, with_guard: &WithGuard) -> Result<Verdict> {
    let run = |taken_out: Option<&str>, limit: Duration| {
        let mut command = Command::new(executable);
        command
            .args(["--exact", test])
            .env_remove("VCHAN_MUTATION")
            .env("RUST_BACKTRACE", "0");
        if let Some(guard) = taken_out {
            command.env("VCHAN_MUTATION", guard);
        }
        // Tests look for their files from the package's directory, as under cargo.
        command.current_dir(process::workspace().join("vchan"));
        outcome(command, limit)
    };
    let known = || with_guard.lock().unwrap_or_else(PoisonError::into_inner);
    let name = (executable.to_owned(), test.to_owned());
    let before = known().get(&name).copied();
    let time = match before {
        Some(time) => time,
        None => {
            let since = Instant::now();
            let outcome = run(None, LIMIT)?;
            // A name that no test has passes as well: nothing was run.
            let passed = matches!(outcome, Outcome::Passed(it) if it.contains("running 1 test"));
            let time = passed.then(|| since.elapsed());
            known().insert(name, time);
            time
        }
    };
    let Some(time) = time else {
        return Ok(Verdict::FailsAnyway);
    };
    let limit = (time * TIMES_AS_LONG).max(AT_LEAST);
    Ok(match run(Some(guard), limit)? {
        Outcome::Passed(_) => Verdict::Survives,
        Outcome::Failed => Verdict::Caught,
        Outcome::TimedOut => Verdict::Hangs,
    })
}

enum Outcome {
    Passed(String),
    Failed,
    TimedOut,
}

fn outcome(mut command: Command, limit: Duration) -> Result<Outcome> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start a test")?;
    let mut stdout = child
        .stdout
        .take()
        .context("a test has no standard output")?;
    // Read beside the wait: a test that fills the pipe would not end.
    let reader = thread::spawn(move || {
        let mut output = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut output).map(|_| output)
    });
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if since.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    Ok(match status {
        None => Outcome::TimedOut,
        Some(status) if !status.success() => Outcome::Failed,
        Some(_) => {
            let output = reader
                .join()
                .ok()
                .and_then(std::result::Result::ok)
                .unwrap_or_default();
            Outcome::Passed(output)
        }
    })
}

impl Build {
    /// Builds the tests of `vchan` and `unikernel-core` and the gates, and gives the executable of
    /// each target; the unit tests are `lib` and `core`.
    fn executables(self) -> Result<HashMap<String, PathBuf>> {
        let (flags, directory) = match self {
            Build::Models => ("--cfg vchan_loom --cfg vchan_mutations", "models"),
            Build::Tests => ("--cfg vchan_mutations", "mutations"),
        };
        println!("  building with {flags} …");
        let mut command = process::cargo();
        command.args(["test", "--no-run", "--message-format=json"]);
        command.args(["--package", "vchan"]);
        command
            .arg("--target-dir")
            .arg(process::target_directory().join(directory));
        match self {
            // Optimised: loom tries hundreds of thousands of interleavings.
            Build::Models => command.args(["--lib", "--release"]),
            Build::Tests => command.args([
                "--package",
                "unikernel-core",
                "--package",
                "vchan-compare",
                "--all-features",
                "--lib",
                "--tests",
            ]),
        };
        let messages = process::output(command.env("RUSTFLAGS", flags))?;
        let mut executables = HashMap::new();
        for message in messages.lines() {
            let Ok(message) = serde_json::from_str::<Value>(message) else {
                continue;
            };
            let Some(executable) = message["executable"].as_str() else {
                continue;
            };
            let target = &message["target"];
            let name = target["name"].as_str().unwrap_or_default();
            let name = match target["kind"][0].as_str() {
                Some("lib") if name == "unikernel_core" => "core",
                Some("lib") => "lib",
                Some("test") => name,
                _ => continue,
            };
            executables.insert(name.to_owned(), PathBuf::from(executable));
        }
        Ok(executables)
    }
}

/// The lines of the list: guard, what is taken out, and the test, separated by tabs. A test is
/// `model NAME` or `test TARGET NAME`. Empty lines and those that begin with `#` are comments.
fn parse(list: &str) -> Result<Vec<Mutation<'_>>> {
    let lines = list
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| parse_line(line).with_context(|| format!("{LIST}: {line:?}")))
        .collect()
}

fn parse_line(line: &str) -> Result<Mutation<'_>> {
    let columns: Vec<&str> = line.split('\t').map(str::trim).collect();
    let [guard, taken_out, test] = columns[..] else {
        bail!("a line has a guard, what is taken out and a test, separated by tabs");
    };
    let (build, target, test) = match test.split_whitespace().collect::<Vec<_>>()[..] {
        ["model", test] => (Build::Models, "lib", test),
        ["test", target, test] => (Build::Tests, target, test),
        _ => bail!("a test is `model NAME` or `test TARGET NAME`"),
    };
    Ok(Mutation {
        guard,
        taken_out,
        build,
        target,
        test,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_is_understood_and_every_guard_of_the_library_is_in_it() {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let list = read(process::workspace().join(LIST));
        let listed: Vec<&str> = parse(&list)
            .unwrap()
            .iter()
            .flat_map(|mutation| mutation.guard.split('+'))
            .collect();
        let sources = ["vchan/src", "unikernel/core/src"];
        let mut folders: Vec<_> = sources.map(|path| process::workspace().join(path)).into();
        let mut guards = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = read(path);
                    let names = text.split("keeps(\"").skip(1);
                    guards
                        .extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
                }
            }
        }
        for guard in &guards {
            assert!(listed.contains(&guard.as_str()), "{guard} is not in {LIST}");
        }
        for guard in listed {
            assert!(
                guards.iter().any(|known| known == guard),
                "{guard} is in no source file"
            );
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_refused() {
        for line in [
            "guard\twhat",
            "guard\twhat\tmodel",
            "guard\twhat\tpray",
            "guard what model x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
