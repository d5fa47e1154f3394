//! `vchan bench`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use vchan::layout::Order;
use vchan::{DomId, Host, StorePath};
use vchan_bench::cpu::Placement;
use vchan_bench::machine::Machine;
use vchan_bench::matrix::{Cell, Plan, Way};
use vchan_bench::peers::vchan::Mode;
use vchan_bench::{Failure, calibration, plot, remote, report};

const LONG_ABOUT: &str = "Measure throughput, message rate, round trips and system calls

Without --server and --client, both ends run in this program, on an emulated host: it shows what the \
library costs, and what else moves bytes on this machine. With them, two domains are measured: start \
the server in one, then the client in the other. The client prints.

Every byte that arrives is compared with what was sent. Times are round trips in microseconds; those \
of the open loop (\"open\") count from when a message was to be sent, at half the rate that the closed \
loop reached unless --rate is given, so that a stall counts for all that it held up. \"calls\" are the \
system calls for sending, awaiting and taking events, of both sides.

On a machine that does other things as well these figures move by a factor of two to four from minute \
to minute. Compare what stands in one table, and look at the calibration above it.";

const AFTER: &str = "\
Examples:
  vchan bench --sizes 64,4096 --orders 16 --only-vchan   some cells, in this program
  vchan bench --plot matrix.svg                          all of them, and a picture
  vchan bench --server 0                                 in a guest, then
  vchan bench --client 2 --json                          in dom0";

/// What to measure.
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_help = AFTER)]
pub struct Bench {
    /// Serve measurements to a client in domain DOMID, then end
    #[arg(long, value_name = "DOMID", conflicts_with_all = ["client", "json", "plot"])]
    server: Option<DomId>,

    /// Measure with the server in domain DOMID
    #[arg(long, value_name = "DOMID")]
    client: Option<DomId>,

    /// Where in XenStore the server publishes
    #[arg(long, value_name = "PATH", default_value = remote::PATH)]
    path: StorePath,

    /// Message sizes in bytes
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "BYTES",
        default_value = "64,1024,4096,65536",
        value_parser = clap::value_parser!(u32).range(1..=1 << 20)
    )]
    sizes: Vec<u32>,

    /// Ring orders, 10 to 20: a ring has two to the power of its order bytes
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "ORDER",
        default_value = "12,16,20",
        value_parser = clap::value_parser!(u16).range(10..=20)
    )]
    orders: Vec<u16>,

    /// How the ends wait
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        default_value = "blocking,sleep,spin,non-blocking,tokio"
    )]
    modes: Vec<ModeName>,

    /// Where the two ends run
    #[arg(long, value_enum, default_value_t = Where::Anywhere)]
    cpus: Where,

    /// How long each measurement takes, about
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "0.1",
        value_parser = seconds,
        allow_negative_numbers = true
    )]
    seconds: Duration,

    /// Messages a second in the open loop; half of what the closed loop reached by default
    #[arg(
        long,
        value_name = "PER SECOND",
        value_parser = rate,
        allow_negative_numbers = true
    )]
    rate: Option<f64>,

    /// Leave out pipes, sockets, rings between threads and plain copies
    #[arg(long)]
    only_vchan: bool,

    /// Print JSON instead of a table: times in nanoseconds, rates a second
    #[arg(long)]
    json: bool,

    /// Draw the throughput to this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ModeName {
    /// Calls wait: they look for a while as far as that pays, then sleep
    Blocking,
    /// Calls sleep at once when they have to wait
    Sleep,
    /// Calls never sleep
    Spin,
    /// Calls do not wait, the ends poll the descriptor
    NonBlocking,
    /// The ends are tasks; in one program only, not between two domains
    Tokio,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Where {
    /// Each on a processor of its own
    Across,
    /// Both on one processor
    One,
    /// Wherever the system puts them
    Anywhere,
}

impl Bench {
    /// Measures, or serves.
    pub fn run(&self) -> Result<()> {
        if let Some(client) = self.server {
            let said = |line: &str| eprintln!("vchan bench: {line}");
            return Ok(remote::serve(
                &host()?,
                client,
                &self.path,
                Order::MAX,
                said,
            )?);
        }
        // What cannot be done is said before anything is measured.
        let host = self.client.map(|_| host()).transpose()?;
        self.plot.as_deref().map(make_file).transpose()?;
        let plan = self.plan();
        let machine = Machine::this();
        let calibration = calibration::all(5)?;
        if !self.json {
            print(&report::circumstances(&machine, &calibration))?;
            print(&format!("\n{}", report::heading()))?;
        }
        let progress = progress(&plan, self.client.is_some());
        let show = |cell: &Cell| {
            progress.inc(1);
            if !self.json {
                // Above the bar, where there is one.
                let _ = progress.suspend(|| print(&report::line(cell)));
            }
        };
        let cells = match (self.client, host) {
            (Some(server), Some(host)) => remote::measure(&host, server, &self.path, &plan, show)?,
            _ => plan.run(|cell| match cell {
                Ok(cell) => show(cell),
                Err(missing) => self.tell_missing(&progress, missing),
            })?,
        };
        progress.finish_and_clear();
        if self.json {
            let text = serde_json::to_string_pretty(&report::json(&machine, &calibration, &cells))?;
            print(&format!("{text}\n"))?;
        } else {
            print(&format!("\n{}", report::connecting(&cells)))?;
        }
        if let Some(file) = &self.plot {
            plot::throughput(&cells, &machine.processor, file)
                .with_context(|| format!("cannot draw {}", file.display()))?;
        }
        Ok(())
    }

    fn plan(&self) -> Plan {
        let ways = self.modes.iter().map(|mode| match mode {
            ModeName::Blocking => Way::Sync(Mode::Blocking),
            ModeName::Sleep => Way::Sync(Mode::Sleep),
            ModeName::Spin => Way::Sync(Mode::Spin),
            ModeName::NonBlocking => Way::Sync(Mode::NonBlocking),
            ModeName::Tokio => Way::Tokio,
        });
        Plan {
            sizes: self.sizes.iter().map(|&size| size as usize).collect(),
            orders: self.orders.iter().copied().filter_map(Order::new).collect(),
            modes: ways.collect(),
            budget: self.seconds,
            rate: self.rate,
            others: !self.only_vchan && self.client.is_none(),
            placement: match self.cpus {
                Where::Across => Placement::Across,
                Where::One => Placement::OneCpu,
                Where::Anywhere => Placement::Anywhere,
            },
        }
    }

    fn tell_missing(&self, progress: &ProgressBar, missing: &Failure) {
        progress.inc(1);
        progress.suspend(|| eprintln!("{missing}"));
    }
}

/// More is a slip of the hand: there are many measurements.
const MOST_SECONDS: f64 = 3600.0;

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok();
    // NaN is in no range.
    let number = number.filter(|seconds| (0.000_001..=MOST_SECONDS).contains(seconds));
    number.map(Duration::from_secs_f64).ok_or_else(|| {
        format!(
            "a measurement takes a number of seconds from 0.000001 to {MOST_SECONDS}, such as 0.1"
        )
    })
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    let number = number.filter(|rate| (1.0..=1e7).contains(rate));
    number.ok_or_else(|| "a rate is a number from 1 to 10000000".to_owned())
}

/// Makes the file that is to be drawn to, and leaves one that is there as it is.
fn make_file(file: &Path) -> Result<()> {
    let made = OpenOptions::new().create(true).append(true).open(file);
    made.map(drop)
        .with_context(|| format!("cannot draw to {}", file.display()))
}

fn host() -> Result<Host> {
    vchan_emulator::host_from_environment().context(
        "neither a Xen host nor an emulated one can be used here; leave --server and --client out to \
         measure in this program",
    )
}

/// On standard error, and only where that is a terminal.
fn progress(plan: &Plan, is_client: bool) -> ProgressBar {
    let cells = match is_client {
        true => {
            let sync = plan.modes.iter().filter(|way| **way != Way::Tokio).count();
            sync * plan.orders.len() * plan.sizes.len()
        }
        false => plan.len(),
    };
    let bar = ProgressBar::new(cells as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len}, {eta} to go") {
        bar.set_style(style);
    }
    bar
}

/// A reader that has seen enough is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
