//! What must hold on real Xen, run in dom0 by its /init.
//!
//! - `xen-scenarios --list [PART]` prints the names of those that PART below means, one per line.
//! - `xen-scenarios --one NAME` runs one scenario in this process.
//! - `xen-scenarios [PART]` runs all of them, or those whose name contains PART, each in a
//!   process of its own with its own time limit, and reports each on a line that starts with
//!   `@@rig`. Those of the long run are called `long/...`, and one runs only for a
//!   PART that begins so. Several PARTs may have commas between them.
//! - `xen-scenarios --bench EFFORT` measures instead, in the same way.

mod bench;
mod guests;
mod load;
mod program;
mod progress;
mod report;
mod scenarios;
mod store;
mod supervisor;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = scenarios::all();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["--list", parts @ ..] if parts.len() < 2 => {
            let part = parts.first().copied().unwrap_or_default();
            for scenario in (all.iter()).filter(|one| supervisor::is_meant(&one.name, part)) {
                println!("{}", scenario.name);
            }
            ExitCode::SUCCESS
        }
        ["--one", name] => match all
            .iter()
            .chain(&bench::all())
            .find(|scenario| scenario.name == *name)
        {
            Some(scenario) => match (scenario.run)() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error:#}");
                    ExitCode::FAILURE
                }
            },
            None => {
                eprintln!(
                    "there is no scenario {name}; --list shows them, --list long those of the long run"
                );
                ExitCode::from(2)
            }
        },
        ["--bench", effort] => supervisor::run(&bench::all(), effort),
        [] => supervisor::run(&all, ""),
        [part] if !part.starts_with('-') => supervisor::run(&all, part),
        _ => {
            eprintln!("usage: xen-scenarios [--list [PART] | --one NAME | --bench EFFORT | PART]");
            ExitCode::from(2)
        }
    }
}
