//! `node-cli`: one end of a vchan, between standard input and standard output.

mod args;
mod connect;
mod failure;
mod generated;
mod outgoing;
mod report;
mod session;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

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
    if let Some(text) = args.generated.of(Args::command()) {
        return generated::print(text).map_err(|why| Failure::Io {
            doing: "write to standard output",
            why,
        });
    }
    let Some(peer) = args.domid else {
        return Ok(()); // clap has asked for it
    };
    let report = Report::new(args.quiet);
    let channel = connect::connect(args, peer, report)?;
    session::run(channel, Ending::of(args), report)
}
