//! The goals of the fast path, measured: this library beside libxenvchan in one program.
//!
//! `cargo xtask bench` builds and runs it.

mod callgrind;
mod document;
mod gates;
mod goal;
mod goals;
#[cfg(libxenvchan)]
mod libxenvchan;
#[cfg(not(libxenvchan))]
#[path = "without.rs"]
mod libxenvchan;
mod real_xen;
mod relay;
mod subject;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use vchan_bench::machine::Machine;
use vchan_bench::{calibration, report};

use crate::goal::Goal;
use crate::goals::Effort;
use crate::real_xen::RealXen;

#[derive(Debug, Parser)]
#[command(
    about = "The goals of the fast path, measured",
    disable_help_subcommand = true
)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure every row of the table of goals that needs no real Xen; those of real Xen are the last
    /// that were kept beside the document
    Goals {
        /// In under five minutes
        #[arg(long)]
        quick: bool,
        /// Write the rows as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Write a document for people, and pictures beside it
        #[arg(long, value_name = "FILE.md", conflicts_with = "only")]
        document: Option<PathBuf>,
        /// Only the rows whose names contain this
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
    /// Compare what was measured on real Xen
    RealXen {
        /// What the measuring program reported, a figure on each line
        figures: PathBuf,
        /// Write the rows as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Write their section of this document, and keep the figures beside it
        #[arg(long, value_name = "FILE.md")]
        document: Option<PathBuf>,
    },
    /// Hold the counts against their limits
    Gates {
        /// Only this gate
        name: Option<String>,
    },
    /// Move messages in one thread: what callgrind looks at
    Pairs {
        /// rust, c or rtrb
        subject: String,
        /// The size of a message in bytes
        size: usize,
        /// How many messages each call moves
        batch: usize,
        /// How many messages
        count: u64,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn run(task: Task) -> Result<bool> {
    match task {
        Task::Goals {
            quick,
            json,
            document,
            only,
        } => measure_goals(quick, json, document, only.as_deref().unwrap_or_default()),
        Task::RealXen {
            figures,
            json,
            document,
        } => compare_on_xen(&figures, json.as_deref(), document.as_deref()),
        Task::Gates { name } => return gates::run(name.as_deref()),
        Task::Pairs {
            subject,
            size,
            batch,
            count,
        } => {
            let moved = subject::pairs(&subject, size, batch, count)?;
            println!(
                "{} bytes arrived as they were sent, {:.2} ns a message",
                moved.bytes(),
                moved.nanoseconds_each()
            );
            Ok(())
        }
    }?;
    Ok(true)
}

fn measure_goals(
    quick: bool,
    json: Option<PathBuf>,
    document: Option<PathBuf>,
    only: &str,
) -> Result<()> {
    let effort = if quick { Effort::QUICK } else { Effort::FULL };
    let machine = Machine::this();
    let since = Instant::now();
    let calibration = calibration::all(effort.rounds)?;
    let calibrated = since.elapsed();
    println!("{}", report::circumstances(&machine, &calibration));
    let progress = progress();
    let (goals, mut took) = goals::all(effort, only, |row, count| {
        progress.set_length(count as u64);
        progress.set_message(row);
        progress.inc(1);
    })?;
    progress.finish_and_clear();
    took.push(("calibration", calibrated));
    let xen = match &document {
        Some(file) => RealXen::kept(file)?,
        None => None,
    };
    let mut all = goals.clone();
    match &xen {
        Some(xen) => all.extend(xen.goals()),
        None if only.is_empty() => {
            all.extend([real_xen::throughput_goal(), real_xen::events_goal()]);
        }
        None => {}
    }
    print!("{}", goal::table(&all));
    if let Some(file) = json {
        write_json(&file, &all)?;
    }
    if let Some(file) = document {
        let written = document::write(
            &file,
            effort,
            &machine,
            &calibration,
            (&goals, &mut took),
            xen.as_ref(),
        );
        written.with_context(|| format!("cannot write {}", file.display()))?;
    }
    println!("{}", goals::told(&took));
    Ok(())
}

fn compare_on_xen(figures: &Path, json: Option<&Path>, document: Option<&Path>) -> Result<()> {
    let lines = std::fs::read_to_string(figures)
        .with_context(|| format!("cannot read {}", figures.display()))?;
    let circumstances = format!(
        "{}, {}, {}",
        document::today(),
        real_xen::EMULATED,
        Machine::this()
    );
    let xen = RealXen::measured(&lines, circumstances)?;
    print!("{}", xen.section());
    if let Some(file) = json {
        write_json(file, &xen.goals())?;
    }
    if let Some(file) = document {
        xen.keep(file)
            .and_then(|()| document::write_section(file, &xen))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn write_json(file: &Path, goals: &[Goal]) -> Result<()> {
    let rows: Vec<_> = goals.iter().map(Goal::json).collect();
    let text = serde_json::to_string_pretty(&rows)?;
    std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

/// On standard error, and only where that is a terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}
