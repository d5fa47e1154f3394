//! The capitalising echo guest: a vchan server for domain 0 that answers in capitals.
//!
//! It runs as an ordinary program until it is killed, and as `/init` of a Linux guest.

mod init;

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use echo_guest::{Console, Serving};
use vchan::Host;

fn main() -> ExitCode {
    if init::is_init() {
        init::run();
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
    thread::sleep(Duration::from_secs(1));
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
