//! `vchan`: the toolbox.

mod bench;
#[path = "../generated.rs"]
mod generated;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use generated::Generated;

const AFTER: &str = "\
Exit codes:
  0  done, or standard output was closed
  1  it could not be done, or not to the end; standard error says why
  2  the command line cannot be used

Without Xen: VCHAN_EMULATED_DOMAIN names a domain of an emulated host (see cargo xtask demo).";

#[derive(Debug, Parser)]
#[command(
    name = "vchan",
    version,
    about = "Tools for vchans, the links between Xen domains",
    after_help = AFTER,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Args {
    #[command(subcommand)]
    tool: Option<Tool>,

    #[command(flatten)]
    generated: Generated,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Measure throughput, message rate, round trips and system calls
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let Args { tool, generated } = Args::parse();
    let done = match (&tool, generated.of(Args::command())) {
        (_, Some(text)) => generated::print(text).map_err(anyhow::Error::from),
        (Some(Tool::Bench(bench)), None) => bench.run(),
        (None, None) => Ok(()), // clap has asked for it
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vchan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_well_formed() {
        Args::command().debug_assert();
    }
}
