//! `cargo xtask features`: clippy and rustdoc for each set of features that somebody may choose, with
//! warnings as errors. With all features there is `--all-features` before.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process;
use crate::report::Tally;

/// A package, how its features are chosen, and which of its targets are looked at. Tests and examples
/// of the library without `std` are not: the emulator that they use is with it.
const SETS: [(&str, &[&str], &[&str]); 6] = [
    ("vchan", &[], &["--all-targets"]),
    ("vchan", &["--no-default-features"], &["--lib"]),
    ("vchan", &["--features", "tokio"], &["--all-targets"]),
    ("vchan-cli", &["--no-default-features"], &["--all-targets"]),
    ("echo-guest", &["--no-default-features"], &["--all-targets"]),
    ("vchan-emulator", &[], &["--all-targets"]),
];

/// Looks at every set, and prints the closing line.
pub fn check() -> Result<ExitCode> {
    let mut tally = Tally::default();
    for (package, features, targets) in SETS {
        let chosen = [&["--quiet", "--locked", "--package", package], features].concat();
        let mut clippy = process::cargo();
        clippy.arg("clippy").args(&chosen).args(targets);
        clippy.args(["--", "-D", "warnings"]);
        let mut doc = process::cargo();
        doc.args(["doc", "--no-deps"]).args(&chosen);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        let name = [&[package], features].concat().join(" ");
        tell(&name, "clippy", &mut clippy, &mut tally);
        tell(&name, "rustdoc", &mut doc, &mut tally);
    }
    Ok(tally.close())
}

fn tell(name: &str, what: &str, command: &mut Command, tally: &mut Tally) {
    match process::run(command) {
        Ok(()) => {
            println!("  ok    {what}: {name}");
            tally.passed += 1;
        }
        Err(error) => {
            println!("  FAIL  {what}: {name}: {error:#}");
            tally.failed += 1;
        }
    }
}
