//! The capitalising echo guest: a vchan server for domain 0 that answers in capitals.
//!
//! It runs as an ordinary program until it is killed, and as `/init` of a Linux guest.

mod init;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use echo_guest::{Console, Serving};
use vchan::Host;

const USAGE: &str = "\
Usage: echo-guest

Serves vchan clients of domain 0, one after the other, at data/vchan of the own domain, and answers
in capitals, until it is killed. As the first program of a Linux guest (/init) it also makes the
guest ready for that. Without Xen: VCHAN_EMULATED_DOMAIN names a domain of an emulated host.

Exit codes: 1 it could not begin, 2 the command line cannot be used";

fn main() -> ExitCode {
    // A kernel gives its init what it does not know itself: only an ordinary program looks.
    if init::is_init() {
        init::run();
    } else if let Some(argument) = std::env::args_os().nth(1) {
        return explain(&argument);
    }
    let mut serving = Serving::default();
    loop {
        let Err(error) = serve(&mut serving);
        note(format_args!("{error:#}"));
        // What cannot even begin is for whoever started it to mend.
        if !serving.has_begun() {
            return ExitCode::FAILURE;
        }
        pause();
    }
}

/// What it is, to whoever asks, or gives it an argument that it does not have.
fn explain(argument: &OsStr) -> ExitCode {
    if argument == "-h" || argument == "--help" {
        let _ = writeln!(io::stdout().lock(), "{USAGE}");
        return ExitCode::SUCCESS;
    }
    note(format_args!(
        "{} is no argument of it\n{USAGE}",
        argument.display()
    ));
    ExitCode::from(2)
}

/// Serves clients until the host fails, on a fresh connection to it.
fn serve(serving: &mut Serving) -> anyhow::Result<Infallible> {
    Ok(serving.run(&host()?, &mut Standard)?)
}

fn host() -> anyhow::Result<Host> {
    vchan_emulator::host_from_environment().context(
        "neither a Xen host nor an emulated one can be used here (run it in a Xen domain as \
         root, or set VCHAN_EMULATED_DOMAIN)",
    )
}

/// Before something that failed is tried again.
fn pause() {
    thread::sleep(echo_guest::PAUSE);
}

/// Standard output for the session, standard error for the rest. The server goes on when nobody
/// reads them.
struct Standard;

impl Console for Standard {
    fn print(&mut self, text: fmt::Arguments<'_>) {
        let mut output = io::stdout().lock();
        let _ = output.write_fmt(text).and_then(|()| output.flush());
    }

    fn note(&mut self, line: fmt::Arguments<'_>) {
        note(line);
    }
}

/// Says one line about what goes on. Nobody may be reading.
fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "echo-guest: {line}");
}
