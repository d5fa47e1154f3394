//! Debian's unmodified `libxenvchan.a`, linked over the emulated host.
//!
//! The headers and the library come from the package libxen-dev, unpacked where
//! `VCHAN_XEN_SYSROOT` says (`cargo xtask test` unpacks it and sets that), or installed. Where there
//! is neither, tests that need it are skipped, which a line of each says; with `VCHAN_REQUIRE_XEN=1`
//! they fail.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory with the `usr` of the unpacked package.
const SYSROOT: &str = "VCHAN_XEN_SYSROOT";
/// Set to 1 where the C tests must run.
const REQUIRE: &str = "VCHAN_REQUIRE_XEN";

/// Where the package's files are.
struct Package {
    include: PathBuf,
    archive: PathBuf,
}

/// `tests/c/driver.c`, compiled; `None` when there is no C library to link it with.
pub fn driver() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| build("driver", &[])).as_deref();
    program.or_else(skip)
}

/// `tests/c/vchan-peer.c`, compiled, as for [`driver`].
pub fn peer() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| build("vchan-peer", &[])).as_deref();
    program.or_else(skip)
}

/// `tests/c/last-bytes.c`, compiled, as for [`driver`].
pub fn last_bytes() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| build("last-bytes", &[])).as_deref();
    program.or_else(skip)
}

/// `tests/c/vchan-load.c`, compiled, as for [`driver`].
pub fn load() -> Option<&'static Path> {
    /// Calls between which the program stands, to count them.
    const COUNTED: [&str; 3] = [
        "-Wl,--wrap=xenevtchn_notify",
        "-Wl,--wrap=xenevtchn_pending",
        "-Wl,--wrap=xenevtchn_unmask",
    ];
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM
        .get_or_init(|| build("vchan-load", &COUNTED))
        .as_deref();
    program.or_else(skip)
}

/// Says that the test that asks is skipped, in a line that `cargo xtask test` counts.
fn skip<T>() -> Option<T> {
    if let Err(looked) = package() {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        // Not by `println!`, which the test harness keeps back.
        let line = format!("SKIPPED: {test} needs the C library: {looked}\n");
        // Who does not listen is not told.
        let _ = std::io::stdout().write_all(line.as_bytes());
    }
    None
}

fn build(name: &str, more: &[&str]) -> Option<PathBuf> {
    let package = package().ok()?;
    let shim = shim();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("c/{name}.c"));
    let program = target_directory().join(format!("c-peer-{name}"));
    let made_from = [source.as_path(), shim, package.archive.as_path()];
    if is_newer(&program, &made_from) {
        return Some(program);
    }
    // Linked beside and renamed, so that a test running meanwhile keeps its program.
    let fresh = program.with_extension(std::process::id().to_string());
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .arg("-I")
        .arg(&package.include)
        .arg(&source)
        .arg(&package.archive)
        .arg(shim)
        .args(["-Wl,--wrap=munmap", "-lgcc_s", "-lpthread", "-ldl", "-lm"])
        .args(more)
        .arg("-o")
        .arg(&fresh);
    run(&mut cc);
    fs::rename(&fresh, &program).expect("the linked program can be renamed");
    Some(program)
}

/// The static library `xen-shim`, built like this test, if need be.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let target = target_directory();
        let mut build = Command::new(cargo);
        build
            .args(["build", "--quiet", "--package", "xen-shim"])
            .arg("--manifest-path")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
            .arg("--target-dir")
            .arg(&target);
        run(&mut build);
        target.join("debug/libxen_shim.a")
    })
}

/// The directory that this test was built in, above `debug/deps`.
fn target_directory() -> PathBuf {
    let test = env::current_exe().expect("a running program has a path");
    let directory = test.ancestors().nth(3);
    directory
        .expect("tests are built in target/<profile>/deps")
        .to_owned()
}

/// The package, or in words where it was looked for in vain.
fn package() -> Result<&'static Package, &'static str> {
    static PACKAGE: OnceLock<Result<Package, String>> = OnceLock::new();
    let package = PACKAGE.get_or_init(find_package).as_ref();
    package.map_err(String::as_str)
}

fn find_package() -> Result<Package, String> {
    let looked = match env::var_os(SYSROOT) {
        Some(root) => {
            let usr = PathBuf::from(root).join("usr");
            let found = package_in(&usr.join("include"), &usr.join("lib/x86_64-linux-gnu"));
            if let Some(package) = found {
                return Ok(package);
            }
            format!(
                "{SYSROOT} is set, and {} holds no libxenvchan",
                usr.display()
            )
        }
        None => {
            if let Some(package) = installed() {
                return Ok(package);
            }
            format!("libxen-dev is not installed, and {SYSROOT} names no unpacked one")
        }
    };
    assert!(
        env::var_os(REQUIRE).is_none_or(|required| required != "1"),
        "the C library cannot be a peer here, and {REQUIRE}=1 asks for it: {looked}"
    );
    Err(looked)
}

fn installed() -> Option<Package> {
    let ask = |variable| {
        let mut command = Command::new("pkg-config");
        command.args(["--variable", variable, "xenvchan"]);
        let output = command
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(PathBuf::from(text.trim()))
    };
    package_in(&ask("includedir")?, &ask("libdir")?)
}

fn package_in(include: &Path, libraries: &Path) -> Option<Package> {
    let archive = libraries.join("libxenvchan.a");
    let complete = include.join("libxenvchan.h").is_file() && archive.is_file();
    complete.then(|| Package {
        include: include.to_owned(),
        archive,
    })
}

fn is_newer(made: &Path, from: &[&Path]) -> bool {
    let time = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let Some(made) = time(made) else {
        return false;
    };
    from.iter()
        .all(|path| time(path).is_some_and(|from| from < made))
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{text}");
}
