//! Links Debian's unmodified `libxenvchan.a`, where there is one: in the unpacked package that
//! `VCHAN_XEN_SYSROOT` names, else installed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SYSROOT: &str = "VCHAN_XEN_SYSROOT";

fn main() {
    println!("cargo:rerun-if-env-changed={SYSROOT}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(libxenvchan)");
    let directory = match env::var_os(SYSROOT) {
        Some(root) => PathBuf::from(root).join("usr/lib/x86_64-linux-gnu"),
        None => match installed() {
            Some(directory) => directory,
            None => return,
        },
    };
    let archive = directory.join("libxenvchan.a");
    println!("cargo:rerun-if-changed={}", archive.display());
    if archive.is_file() {
        link(&directory);
    }
}

fn link(directory: &Path) {
    println!("cargo:rustc-cfg=libxenvchan");
    println!("cargo:rustc-link-search=native={}", directory.display());
    println!("cargo:rustc-link-lib=static=xenvchan");
    // How the shim learns that granted pages are unmapped: libxenvchan calls munmap.
    println!("cargo:rustc-link-arg-bin=vchan-compare=-Wl,--wrap=munmap");
}

fn installed() -> Option<PathBuf> {
    let mut command = Command::new("pkg-config");
    command.args(["--variable=libdir", "xenvchan"]);
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}
