//! `vchan`: the toolbox.

mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "vchan",
    version,
    about = "Tools for vchans, the links between Xen domains",
    disable_help_subcommand = true
)]
struct Args {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Measure throughput, message rate, round trips and system calls
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let Args { tool } = Args::parse();
    let done = match &tool {
        Tool::Bench(bench) => bench.run(),
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
    use clap::CommandFactory as _;

    #[test]
    fn the_command_is_well_formed() {
        Args::command().debug_assert();
    }
}
