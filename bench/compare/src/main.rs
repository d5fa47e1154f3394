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
mod relay;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use vchan_bench::machine::Machine;
use vchan_bench::{calibration, report};

use crate::goals::Effort;

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
    /// Measure every row of the table of goals that needs no real Xen
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
        Task::Gates { name } => return gates::run(name.as_deref()),
        Task::Pairs {
            subject,
            size,
            batch,
            count,
        } => {
            let moved = subject::pairs(&subject, size, batch, count)?;
            println!("{} bytes arrived as they were sent", moved.bytes());
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
    let calibration = calibration::all(effort.rounds)?;
    println!("{}", report::circumstances(&machine, &calibration));
    let progress = progress();
    let goals = goals::all(effort, only, |row, count| {
        progress.set_length(count as u64);
        progress.set_message(row);
        progress.inc(1);
    })?;
    progress.finish_and_clear();
    print!("{}", goal::table(&goals));
    if let Some(file) = json {
        let rows: Vec<_> = goals.iter().map(goal::Goal::json).collect();
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&file, text + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = document {
        document::write(&file, effort, &machine, &calibration, &goals)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// On standard error, and only where that is a terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}
