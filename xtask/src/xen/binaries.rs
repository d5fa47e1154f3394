//! The programs that run inside: static, so that an initramfs needs no libraries for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::packages::Packages;
use crate::process;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds workspace packages as static programs and returns the directory that holds them.
pub fn build_static(packages: &[&str]) -> Result<PathBuf> {
    let mut command = process::cargo();
    command.args(["build", "--release", "--target", TARGET]);
    for package in packages {
        command.args(["--package", package]);
    }
    command
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    process::run(&mut command).with_context(|| {
        format!("building for real Xen needs the Rust target {TARGET} (rustup target add {TARGET})")
    })?;
    Ok(process::target_directory().join(TARGET).join("release"))
}

/// Where the C library is called by these, a program may stand between.
const COUNTED: &str =
    "-Wl,--wrap=xenevtchn_notify,--wrap=xenevtchn_pending,--wrap=xenevtchn_unmask";

/// Compiles the C peer.
pub fn build_c_peer(packages: &Packages) -> Result<PathBuf> {
    build_c(packages, "vchan-peer", &[])
}

/// Compiles the C library's side of measurements.
pub fn build_c_load(packages: &Packages) -> Result<PathBuf> {
    build_c(packages, "vchan-load", &[COUNTED])
}

/// Compiles what asks Xen for a domain's processor time.
pub fn build_processor_time(packages: &Packages) -> Result<PathBuf> {
    let libraries = ["-lxenctrl", "-lxenforeignmemory", "-lxendevicemodel"];
    let they_need = ["-lxengnttab", "-lxenevtchn", "-lxentoollog"];
    let all = [libraries, they_need, ["-lxentoolcore", "-lxencall", "-ldl"]];
    build_c(packages, "processor-time", all.as_flattened())
}

/// Compiles `tests/c/<name>.c` against the unmodified C library of the unpacked packages.
fn build_c(packages: &Packages, name: &str, more: &[&str]) -> Result<PathBuf> {
    process::need(
        "cc",
        "the C peer needs a C compiler: apt-get install gcc libc6-dev",
    )?;
    let source = process::workspace().join(format!("tests/c/{name}.c"));
    let program = process::xen_directory().join(name);
    if is_newer(&program, &source) {
        return Ok(program);
    }
    let usr = packages.root.join("usr");
    let mut cc = Command::new("cc");
    cc.args([
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-static",
        "-pthread",
        "-I",
    ])
    .arg(usr.join("include"))
    .arg(&source)
    .arg("-o")
    .arg(&program)
    .arg("-L")
    .arg(usr.join("lib/x86_64-linux-gnu"))
    .args(["-lxenvchan", "-lxenstore", "-lxengnttab", "-lxenevtchn"])
    .args(["-lxentoollog", "-lxentoolcore", "-lxencall"])
    .args(more);
    process::output(&mut cc)?;
    Ok(program)
}

fn is_newer(made: &Path, from: &Path) -> bool {
    let time = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    time(made)
        .zip(time(from))
        .is_some_and(|(made, from)| made > from)
}
