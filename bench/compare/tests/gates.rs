//! The gates that count the same in a program that is not optimised. `cargo xtask gates` tries all of
//! them in one that is.

use std::env;
use std::io::Write as _;
use std::process::Command;

/// Set to 1 where nothing may be skipped.
const REQUIRE: &str = "VCHAN_REQUIRE_XEN";

#[track_caller]
fn gate(name: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_vchan-compare"))
        .args(["gates", name])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaints}");
    assert!(said.contains(&format!("ok {name}: ")), "{said}");
}

#[test]
fn a_pair_needs_two_fences_and_no_locked_instruction() {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if there("valgrind") && there("objdump") {
        return gate("fences");
    }
    assert!(env::var_os(REQUIRE).is_none_or(|required| required != "1"));
    // Not by `eprintln!`, which the test harness keeps back.
    let _ = writeln!(
        std::io::stderr(),
        "fences are not counted: there is no valgrind or no objdump"
    );
}

#[test]
fn who_has_not_asked_is_not_told() {
    gate("notifications");
}

#[test]
fn who_need_not_wait_asks_nothing_of_the_host() {
    gate("system-calls");
}
