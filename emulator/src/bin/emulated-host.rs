//! An emulated Xen host as a process of its own: `emulated-host DIRECTORY DOMID...`
//!
//! Prints one line a domain, `VCHAN_EMULATED_DOMAIN=<path>`: a program that has this in its
//! environment is a process of that domain. Runs until its standard input ends.

use std::io::{Read, Write};
use std::process::ExitCode;

use vchan::DomId;
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};

const USAGE: &str = "\
Usage: emulated-host DIRECTORY DOMID...

Runs an emulated Xen host with these domains (0 is dom0) until standard input
ends. Prints for each of them, in this order, the environment variable that
makes a program one of its processes. XENSTORED_PATH=DIRECTORY/domain-<DOMID>/xenstored
lets the XenStore tools look at the store as that domain sees it.";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("emulated-host: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = arguments.collect();
    let (directory, domids) = match &arguments[..] {
        [only] if only == "--help" || only == "-h" => {
            println!("{USAGE}");
            return Ok(());
        }
        [directory, domids @ ..] if !domids.is_empty() => (directory, domids),
        _ => return Err(USAGE.into()),
    };
    let domids: Vec<DomId> = domids
        .iter()
        .map(|domid| domid.parse().map_err(|error| format!("{domid:?}: {error}")))
        .collect::<Result<_, _>>()?;
    // What is told to other programs must hold wherever they run.
    let emulator = Emulator::start_at(std::path::absolute(directory)?)?;
    for &domid in &domids {
        emulator.add_domain(domid)?;
    }
    let mut out = std::io::stdout().lock();
    for &domid in &domids {
        let domain = emulator.domain_directory(domid);
        writeln!(out, "{DOMAIN_VARIABLE}={}", domain.display())?;
    }
    out.flush()?;
    let mut ignored = [0; 512];
    while std::io::stdin().read(&mut ignored)? > 0 {}
    Ok(())
}
