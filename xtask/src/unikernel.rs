//! `cargo xtask unikernel`: the programs that are guests without an operating system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::process;

/// What is built: the package in `unikernel/`, and the program in it.
const PROGRAMS: [(&str, &str); 4] = [
    ("echo-guest-xen", "echo-guest"),
    ("echo-client-xen", "echo-client"),
    ("echo-many-xen", "echo-many"),
    ("faulty-xen", "faulty"),
];

/// How large the echo guest's file may be, in bytes: a twentieth more than it was last
/// (docs/DESIGN.md says where its bytes are). Compilers differ.
const LARGEST_ECHO_GUEST: u64 = 130_000;

/// Builds the programs, each to `target/xen/<program>.xen`.
pub fn build() -> Result<Vec<PathBuf>> {
    let built = compile("unikernel", &PROGRAMS.map(|(package, _)| package), "")?;
    let copied = PROGRAMS.iter().map(|(_, program)| {
        let image = image(&built, program, program)?;
        let size = fs::metadata(&image)?.len();
        ensure!(
            *program != "echo-guest" || size <= LARGEST_ECHO_GUEST,
            "{} has {size} bytes, and is to have {LARGEST_ECHO_GUEST} at most",
            image.display()
        );
        Ok(image)
    });
    copied.collect()
}

/// Builds the echo guest as compilers do that come without a linker of their own:
/// `target/xen/echo-guest-gnu-ld.xen`.
pub fn build_with_gnu_ld() -> Result<PathBuf> {
    let (package, program) = PROGRAMS[0];
    let flags = "-C link-arg=-fuse-ld=bfd";
    let built = compile("unikernel-gnu-ld", &[package], flags)
        .context("with GNU ld, which is in Debian's package binutils")?;
    image(&built, program, &format!("{program}-gnu-ld"))
}

/// Compiles packages of `unikernel/` in a target directory of this name; returns where the programs
/// are. What the programs of this workspace are built with, such as a static C library, is not for
/// those of the other: they have `flags`.
fn compile(directory: &str, packages: &[&str], flags: &str) -> Result<PathBuf> {
    let target = process::target_directory().join(directory);
    let mut cargo = process::cargo();
    cargo
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["build", "--quiet", "--release", "--locked"])
        .args(packages.iter().flat_map(|package| ["--package", *package]))
        .arg("--manifest-path")
        .arg(process::workspace().join("unikernel/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    process::run(&mut cargo).context("the guests for bare Xen cannot be built")?;
    Ok(target.join("release"))
}

/// Copies a program to `target/xen/<name>.xen`.
fn image(built: &Path, program: &str, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(process::xen_directory())?;
    let image = process::xen_directory().join(format!("{name}.xen"));
    fs::copy(built.join(program), &image)
        .with_context(|| format!("cannot write {}", image.display()))?;
    Ok(image)
}

/// `cargo xtask unikernel`.
pub fn announce() -> Result<ExitCode> {
    for image in build()? {
        let size = fs::metadata(&image)?.len();
        println!("unikernel  {}  ({size} bytes)", image.display());
    }
    println!("\nEach runs as PV and as PVH.");
    println!("\nOn a Xen host, in this directory and as root:\n");
    println!("    xl create -c xl/echo.xl     # PV;  PVH: xl create -c xl/echo-pvh.xl");
    println!("    node-cli $(xl domid echo)\n");
    println!("On another machine, copy echo-guest.xen there and change the path in echo.xl.");
    Ok(ExitCode::SUCCESS)
}
