//! `cargo xtask demo`: the echo session on the emulated host, with nothing but Rust.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vchan::DomId;
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};

use crate::interrupt::Interrupt;
use crate::process;

const QUESTION: &str = "hello from dom0\n";
const ANSWER: &str = "HELLO FROM DOM0\n";
/// The guest of the session that this one repeats was domain 2.
const GUEST: u16 = 2;
/// How node-cli says that it is connected.
const CONNECTED: &str = "Correctly bound evtchn";
/// How the echo guest says that its channel is published.
const READY: &str = "Initialization done!";

/// Starts the host, the guest and node-cli; ends them in the other order.
pub fn run() -> Result<ExitCode> {
    let interrupt = Interrupt::note()?;
    // Without the toolbox, which is not needed here and takes longer to compile than all the rest.
    let build = [
        "build",
        "--no-default-features",
        "--features",
        "echo-guest/std",
        "-p",
        "echo-guest",
        "-p",
        "vchan-cli",
    ];
    process::run(process::cargo().args(build))?;
    let programs = process::target_directory().join("debug");

    let guest_domid = DomId::new(GUEST)?;
    let emulator = Emulator::start()?;
    emulator.add_domain(DomId::DOM0)?;
    emulator.add_domain(guest_domid)?;

    println!("An emulated Xen host: dom0, and domain {GUEST} in which the echo guest starts.\n");
    let guest = Guest::start(
        &programs.join("echo-guest"),
        &emulator.domain_directory(guest_domid),
    )?;

    let mut node_cli = Command::new(programs.join("node-cli"));
    node_cli
        .arg(GUEST.to_string())
        .env(DOMAIN_VARIABLE, emulator.domain_directory(DomId::DOM0));
    println!("\n$ node-cli {GUEST}");
    let good = if std::io::stdin().is_terminal() {
        println!("(type; Ctrl-D or Ctrl-C ends the session)");
        let status = node_cli.status().context("cannot start node-cli")?;
        status.success() || interrupt.happened()
    } else {
        scripted(node_cli)?
    };
    drop(guest);
    println!("\n$ xl destroy echo");
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One line, as a person would type it, and the end of input.
fn scripted(mut node_cli: Command) -> Result<bool> {
    let mut child = node_cli
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start node-cli")?;
    let mut input = child.stdin.take().context("node-cli has no input")?;
    let output = child.stdout.take().context("node-cli has no output")?;
    let (sender, diagnostics) = mpsc::channel();
    forward(
        child
            .stderr
            .take()
            .context("node-cli has no error output")?,
        sender,
    );
    // A person types once the connection stands.
    for line in &diagnostics {
        println!("{line}");
        if line.contains(CONNECTED) {
            break;
        }
    }
    print!("{QUESTION}");
    std::io::stdout().flush()?;
    // If node-cli has ended instead, its status below says so.
    let _ = input.write_all(QUESTION.as_bytes());
    drop(input);
    let mut answer = String::new();
    for line in BufReader::new(output).lines() {
        let line = line? + "\n";
        print!("{line}");
        answer.push_str(&line);
    }
    let status: ExitStatus = child.wait()?;
    diagnostics.iter().for_each(|line| println!("{line}"));
    ensure!(
        answer == ANSWER,
        "the answer is {answer:?} instead of {ANSWER:?} ({status})"
    );
    Ok(status.success())
}

/// The echo guest as a process; dropping it ends it.
struct Guest(Child);

impl Guest {
    /// Starts it and shows what it says until its channel is published.
    fn start(program: &Path, domain: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .env(DOMAIN_VARIABLE, domain)
            // Ctrl-C in the terminal is for node-cli.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (sender, lines) = mpsc::channel();
        let output = child
            .stdout
            .take()
            .context("the echo guest has no output")?;
        let errors = child
            .stderr
            .take()
            .context("the echo guest has no error output")?;
        forward(output, sender.clone());
        forward(errors, sender);
        let guest = Self(child);
        guest.wait_until_ready(&lines)?;
        Ok(guest)
    }

    fn wait_until_ready(&self, lines: &Receiver<String>) -> Result<()> {
        loop {
            let Ok(line) = lines.recv_timeout(Duration::from_secs(20)) else {
                bail!("the echo guest has not published its channel; its last words are above");
            };
            println!("  echo: {line}");
            if line.contains(READY) {
                return Ok(());
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines into the channel; after the receiver has gone they are still read, so that the guest
/// never waits for us.
fn forward(from: impl std::io::Read + Send + 'static, to: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = to.send(line);
        }
    });
}
