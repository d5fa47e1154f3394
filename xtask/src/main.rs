//! `cargo xtask`: the demo, every test, guest images, and real Xen under QEMU.

mod bench;
mod cpio;
mod demo;
#[cfg(test)]
mod documents;
mod features;
mod fuzz;
mod interrupt;
mod mutations;
mod pictures;
mod process;
mod report;
mod soak;
mod test;
mod unikernel;
mod xen;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "The demo, every test, guest images, and real Xen under QEMU",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The echo session: an echo guest, and node-cli talking to it
    Demo {
        /// On the real Xen hypervisor under QEMU instead of the emulated host
        #[arg(long)]
        xen: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Everything: the tests of the workspace, the C peers, real Xen
    Test {
        #[command(flatten)]
        consent: Consent,
    },
    /// Measure the goals of the fast path and write docs/PERFORMANCE.md
    Bench(bench::Bench),
    /// Hold instructions, fences, notifications and system calls against their limits
    Gates,
    /// Clippy and rustdoc for each set of features that may be chosen
    Features,
    /// Take out every guard of the library once and see its test fail
    Mutations {
        /// Part of a guard's name: only those
        guard: Option<String>,
    },
    /// The long versions of the tests, on the emulated host; or traffic for hours on real Xen
    Soak {
        /// How many GiB cross in each direction: 100 unless given, 1 on real Xen
        #[arg(long)]
        gib: Option<f64>,
        /// How long each test goes on that goes on as long as it is told to
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        /// Where the random numbers begin
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// On real Xen under QEMU: many unikernels, unless --lives is 0, and traffic with killed clients,
        /// unless --gib is 0
        #[arg(long)]
        xen: bool,
        /// How many unikernels live one after the other on real Xen
        #[arg(long, default_value_t = 1000, requires = "xen")]
        lives: u32,
        /// How that guest is virtualised
        #[arg(long, value_parser = ["pv", "pvh"], default_value = "pvh", requires = "xen")]
        guest: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Fuzz what takes bytes from another domain
    Fuzz(fuzz::Fuzz),
    /// Real Xen under QEMU
    Xen {
        #[command(subcommand)]
        task: XenTask,
    },
    /// Make the unikernels: target/xen/echo-guest.xen, which xl/echo.xl starts, and a client of it
    Unikernel,
    /// Make target/xen/echo-guest.cpio.gz, the Linux guest that xl/echo-linux.xl starts
    GuestImage,
    /// Draw docs/pictures/*.svg from the texts beside them
    Pictures,
}

#[derive(Subcommand)]
enum XenTask {
    /// A dom0 prompt with xl, node-cli and the echo guest at hand
    Shell {
        #[command(flatten)]
        consent: Consent,
    },
    /// The real-Xen scenarios, all of them or those whose name contains NAME
    Test {
        /// Part of a scenario's name
        name: Option<String>,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Args, Clone, Copy)]
struct Consent {
    /// Install QEMU (and nothing else) with apt-get when it is missing, without asking
    #[arg(long)]
    yes: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Demo { xen: true, consent } => xen::demo::run(consent.yes),
        Task::Demo { xen: false, .. } => demo::run(),
        Task::Test { consent } => test::run(consent.yes),
        Task::Xen {
            task: XenTask::Shell { consent },
        } => xen::shell::run(consent.yes),
        Task::Xen {
            task: XenTask::Test { name, consent },
        } => test::run_scenarios_only(name.as_deref(), consent.yes),
        Task::Fuzz(what) => fuzz::run(&what),
        Task::Bench(what) => bench::run(&what),
        Task::Gates => bench::gates_alone(),
        Task::Features => features::check(),
        Task::Mutations { guard } => mutations::run_alone(guard.as_deref()),
        Task::Soak {
            gib,
            seed,
            xen: true,
            guest,
            lives,
            consent,
            ..
        } => soak::run_on_xen(&guest, gib.unwrap_or(1.0), lives, seed, consent.yes),
        Task::Soak {
            gib, seconds, seed, ..
        } => soak::run(gib.unwrap_or(100.0), seconds, seed),
        Task::Unikernel => unikernel::announce(),
        Task::GuestImage => xen::images::announce_guest_image(),
        Task::Pictures => pictures::draw_all(),
    }
}
