//! QEMU as the machine that Xen boots on.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::images::Images;
use crate::process;

const PROGRAM: &str = "qemu-system-x86_64";
const INSTALL: &str = "apt-get install -y --no-install-recommends qemu-system-x86";

/// Makes sure that QEMU is there: with `yes` it is installed, otherwise the person is asked.
pub fn ensure(yes: bool) -> Result<()> {
    if process::exists(PROGRAM) {
        return Ok(());
    }
    if !process::exists("apt-get") {
        bail!("{PROGRAM} is not on this machine: install QEMU for x86-64 guests");
    }
    let question = format!("QEMU is not on this machine. Install it now ({INSTALL})?");
    if !yes && !process::ask(&question) {
        bail!("{PROGRAM} is not on this machine: run `{INSTALL}` as root, or pass --yes");
    }
    println!("installing QEMU: {INSTALL}");
    let mut command = as_root(INSTALL)?;
    command.env("DEBIAN_FRONTEND", "noninteractive");
    process::output(&mut command)
        .context("QEMU cannot be installed; run `apt-get update` as root and try again")?;
    process::need(
        PROGRAM,
        "the package qemu-system-x86 should have brought it",
    )
}

fn as_root(line: &str) -> Result<Command> {
    let mut words = line.split_whitespace();
    let program = words.next().context("empty command")?;
    let is_root = process::output(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = if is_root {
        Command::new(program)
    } else {
        process::need("sudo", &format!("run `{line}` as root"))?;
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    };
    command.args(words);
    Ok(command)
}

/// What the machine's clocks go by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Time as it passes.
    Real,
    /// Instructions that the emulated processors have executed, which take turns: what is measured
    /// does not depend on how busy the real ones are.
    Instructions,
}

/// The machine, with the first serial line (Xen's and dom0's console) on standard input and output.
///
/// `dom0_words` go onto dom0's command line, where its /init finds them.
pub fn machine(images: &Images, dom0_words: &str, clock: Clock) -> Command {
    let mut command = Command::new(PROGRAM);
    // Software emulation: the nested virtualisation that PVH guests need is
    // emulated as well (+svm,+npt). Without +rdrand every early `xl create`
    // waits for random numbers.
    command.args(["-cpu", "qemu64,+svm,+npt,+rdrand"]);
    command.args(match clock {
        Clock::Real => ["-accel", "tcg,thread=multi"].as_slice(),
        // Two nanoseconds each; while both sleep, time goes on to what wakes them.
        Clock::Instructions => &[
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=1,sleep=off,align=off",
        ],
    });
    command.args(["-smp", "2", "-m", "2048", "-nographic", "-no-reboot"]);
    command.args(["-nic", "none"]);
    command.arg("-kernel").arg(&images.hypervisor);
    command.arg("-append").arg(
        "dom0_mem=768M,max:768M console=com1 com1=115200,8n1 noreboot loglvl=warning guest_loglvl=warning",
    );
    // QEMU takes a comma for the end of a module's command line unless it is doubled.
    let dom0_words = dom0_words.replace(',', ",,");
    // Two multiboot modules: the dom0 kernel with its command line, and its initramfs.
    command.arg("-initrd").arg(format!(
        "{} console=hvc0 panic=-1 quiet {dom0_words},{}",
        images.kernel.display(),
        images.dom0.display()
    ));
    command
}
