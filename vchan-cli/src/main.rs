//! `node-cli`: one end of a vchan, between standard input and standard output.

mod args;
mod connect;
mod failure;
mod outgoing;
mod report;
mod session;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Args;
use crate::failure::Failure;
use crate::report::Report;
use crate::session::Ending;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::error(&failure);
            failure.exit_code()
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    if let Some(text) = args.generated() {
        return print(text);
    }
    let Some(peer) = args.domid else {
        return Ok(()); // clap has asked for it
    };
    let report = Report::new(args.quiet);
    let channel = connect::connect(args, peer, report)?;
    session::run(channel, Ending::of(args), report)
}

/// Prints what was generated; a reader that has seen enough is no failure.
fn print(text: io::Result<Vec<u8>>) -> Result<(), Failure> {
    match text.and_then(|text| io::stdout().lock().write_all(&text)) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Io {
            doing: "write to standard output",
            why,
        }),
        _ => Ok(()),
    }
}
