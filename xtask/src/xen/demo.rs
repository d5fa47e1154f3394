//! `cargo xtask demo --xen`: the echo session on the real hypervisor.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::console::{Line, Machine};
use super::packages::Packages;
use super::qemu::Clock;
use super::{images, qemu};
use crate::interrupt::Interrupt;

/// What a terminal sends for Ctrl-D and Ctrl-C.
const END_OF_INPUT: &str = "\x04";
const INTERRUPT: &str = "\x03";

/// Boots, starts the guest, and connects the terminal to node-cli.
pub fn run(yes: bool) -> Result<ExitCode> {
    qemu::ensure(yes)?;
    let began = Instant::now();
    step(
        1,
        "Debian's Xen packages (unpacked under target/xen, nothing is installed)",
    );
    let packages = Packages::prepare()?;
    step(2, "node-cli and the echo guests");
    let images = images::all(&packages)?;

    step(3, "booting Xen and dom0 under QEMU");
    let interrupt = Interrupt::note()?;
    let mut machine = Machine::start(
        qemu::machine(&images, "rig=demo", Clock::Real),
        interrupt.clone(),
    )?;
    let spinner = spinner()?;
    machine.wait_for_dom0(|line| spinner.set_message(line.chars().take(70).collect::<String>()))?;
    spinner.finish_and_clear();

    step(
        4,
        "xl create xl/echo.xl, a unikernel, and xl/echo-linux.xl beside it",
    );
    let domid = wait_for_guest(&mut machine)?;
    println!("ready after {:.0} s\n", began.elapsed().as_secs_f64());
    println!("$ node-cli {domid}");
    let status = session(&mut machine, &interrupt)?;
    println!("\n$ xl destroy echo");
    machine.finish();
    Ok(if status {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn step(number: u8, what: &str) {
    println!("[{number}/4] {what}");
}

fn spinner() -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("  {spinner} {elapsed} {msg}")?;
    let spinner = ProgressBar::new_spinner().with_style(style);
    spinner.enable_steady_tick(Duration::from_millis(200));
    Ok(spinner)
}

fn wait_for_guest(machine: &mut Machine) -> Result<String> {
    let spinner = spinner()?;
    let mut said = Vec::new();
    loop {
        match machine.next(Duration::from_secs(120))? {
            Line::Guest(word) if word == "creating" => {}
            Line::Guest(domid) => {
                spinner.finish_and_clear();
                for line in said {
                    println!("  {line}");
                }
                return Ok(domid);
            }
            Line::Broken(why) => bail!("{why}{}", machine.tail()),
            Line::Other(line) if !line.trim().is_empty() => said.push(line),
            _ => {}
        }
    }
}

/// Passes lines in both directions until node-cli ends; true if it ended well.
fn session(machine: &mut Machine, interrupt: &Interrupt) -> Result<bool> {
    let by_a_person = std::io::stdin().is_terminal();
    let typed = if by_a_person {
        println!("(type; Ctrl-D or Ctrl-C ends the session)");
        typed_lines()
    } else {
        scripted_lines()
    };
    let began = Instant::now();
    let mut connected = false;
    let mut interrupted = false;
    loop {
        match machine.poll()? {
            Some(Line::Guest(ended)) => return Ok(ended == "ended 0" || interrupted),
            Some(Line::Broken(why)) => bail!("{why}{}", machine.tail()),
            Some(Line::Other(line)) => {
                connected |= line.starts_with("Correctly bound evtchn");
                println!("{line}");
            }
            _ => {}
        }
        if interrupt.take() {
            if interrupted {
                bail!("interrupted twice");
            }
            interrupted = true;
            machine.type_text(INTERRUPT)?;
        }
        if !connected {
            if began.elapsed() > Duration::from_secs(60) {
                bail!(
                    "node-cli has not connected within a minute{}",
                    machine.tail()
                );
            }
            continue;
        }
        // dom0's terminal does not echo: the one outside already shows what is typed.
        if let Ok(line) = typed.try_recv() {
            if !by_a_person && line != END_OF_INPUT {
                print!("{line}");
            }
            machine.type_text(&line)?;
        }
    }
}

/// What a person types; the end of input becomes the terminal's end-of-input character.
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line + "\n").is_err() {
                return;
            }
        }
        let _ = sender.send(END_OF_INPUT.to_owned());
    });
    receiver
}

/// Without a terminal: one line, as a person would type it, and the end of input.
fn scripted_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send("hello from dom0\n".to_owned());
        let _ = sender.send(END_OF_INPUT.to_owned());
    });
    receiver
}
