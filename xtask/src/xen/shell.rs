//! `cargo xtask xen shell`: a dom0 prompt.

use std::process::ExitCode;

use anyhow::Result;

use super::packages::Packages;
use super::qemu::Clock;
use super::{images, qemu};
use crate::process;

/// Boots and hands the terminal to dom0.
pub fn run(yes: bool) -> Result<ExitCode> {
    qemu::ensure(yes)?;
    let packages = Packages::prepare()?;
    let images = images::all(&packages)?;
    println!("booting; `exit` powers the machine off, Ctrl-A X ends QEMU at once");
    process::run(&mut qemu::machine(&images, "rig=shell", Clock::Real))?;
    Ok(ExitCode::SUCCESS)
}
