//! docs/PERFORMANCE.md.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use vchan::layout::Order;
use vchan_bench::calibration::Row;
use vchan_bench::machine::Machine;
use vchan_bench::matrix::{Cell, Plan, Way};
use vchan_bench::peers::vchan::Mode;
use vchan_bench::{plot, report};

use crate::goal::{self, Goal};
use crate::goals::{Effort, Took, across, told};
use crate::real_xen::{self, RealXen};

const INTRODUCTION: &str = "\
# Performance

Written by `cargo xtask bench`. Every figure is a ratio of two measurements of one run, or a count:
absolute times on a machine that does other things as well say little. The C library is Debian's
unmodified `libxenvchan.a`, linked into the same program over the same emulated host. Both sides of a
comparison are measured in turn, in at least 15 rounds; a figure is the median of the ratios of the
rounds, and in brackets the quartiles. Every byte that arrived was compared with what was sent. What it is
received into begins with a page, as rings do, and so do buffers that are compared with rings.

";

/// Written by hand, from experiments that no run repeats.
const LEARNED: &str = include_str!("learned.md");

const LIMITS: &str = "\
## What these figures do not say

- At 16 KiB and more with large rings the C library is bound by copying already, and nothing on this
  layout can be much faster.
- At 64 B across CPUs on a 1 MiB ring, a queue with its indices on cache lines of their own is ahead
  of anything on this layout: here the indices of both sides, the notify bytes and the live bytes
  share one line.
- Event channels are eventfds here. On Xen an event costs a hypercall, and a wake-up an interrupt.
";

/// Writes the document to `file`, and its pictures to the directory `performance` beside it. Notes how long
/// the matrix took.
pub fn write(
    file: &Path,
    effort: Effort,
    machine: &Machine,
    calibration: &[Row],
    (goals, took): (&[Goal], &mut Vec<Took>),
    xen: Option<&RealXen>,
) -> Result<()> {
    let pictures = file.with_file_name("performance");
    std::fs::create_dir_all(&pictures)?;
    let since = Instant::now();
    let cells = matrix(effort)?;
    took.push(("the matrix below", since.elapsed()));
    let title = format!("throughput, {}", machine.processor);
    plot::throughput(&cells, &title, &pictures.join("throughput.svg"))?;
    let title = format!("round trip, {}", machine.processor);
    let median = |cell: &Cell| cell.closed.map(|times| times.p50 as f64 / 1e3);
    plot::heat(
        &cells,
        &title,
        "µs",
        median,
        &pictures.join("round-trip.svg"),
    )?;

    let mut text = INTRODUCTION.to_owned();
    let length = if effort.quick { "short" } else { "full" };
    let _ = writeln!(text, "A {length} run on {}; {}.\n", today(), told(took));
    let _ = writeln!(text, "{machine}.\n\n## Calibration\n");
    let _ = writeln!(
        text,
        "| what the machine does | median (quartiles) |\n| --- | --- |"
    );
    for Row { name, value, unit } in calibration {
        let _ = writeln!(text, "| {name} | {value} {unit} |");
    }
    let _ = writeln!(text, "\n## Goals\n\n{}", goal::table(goals));
    for goal in goals.iter().filter(|goal| !goal.note.is_empty()) {
        let _ = writeln!(text, "- {}: {}.", goal.name, goal.note);
    }
    let _ = writeln!(
        text,
        "\n## The matrix\n\n\
         ![Throughput by message size, ring order and way of waiting](performance/throughput.svg)\n\n\
         ![Median round trip likewise](performance/round-trip.svg)\n\n\
         ```text\n{}{}```\n",
        report::heading(),
        cells.iter().map(report::line).collect::<String>()
    );
    text.push_str(LEARNED);
    text.push('\n');
    let _ = writeln!(text, "{}", section(xen));
    text.push_str(LIMITS);
    Ok(std::fs::write(file, text)?)
}

fn section(xen: Option<&RealXen>) -> String {
    let heading = real_xen::HEADING;
    match xen {
        Some(xen) => xen.section(),
        None => format!("{heading}\n\nNot measured: `cargo xtask bench --xen` measures it.\n"),
    }
}

/// Writes the section of real Xen anew, and leaves the rest of `file` as it is.
pub fn write_section(file: &Path, xen: &RealXen) -> Result<()> {
    let text = match std::fs::read_to_string(file) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => INTRODUCTION.to_owned(),
        other => other?,
    };
    Ok(std::fs::write(
        file,
        with_section(&text, real_xen::HEADING, &xen.section()),
    )?)
}

/// The text with `section` in the place of the one that has this heading, or at its end.
fn with_section(text: &str, heading: &str, section: &str) -> String {
    let Some((before, rest)) = text.split_once(&format!("{heading}\n")) else {
        return format!("{}\n\n{section}", text.trim_end());
    };
    match rest.split_once("\n## ") {
        Some((_, after)) => format!("{before}{section}\n## {after}"),
        None => format!("{before}{section}"),
    }
}

fn matrix(effort: Effort) -> Result<Vec<Cell>> {
    let plan = Plan {
        sizes: vec![64, 256, 1024, 4096, 65536],
        orders: [10, 12, 14, 16, 18, 20]
            .into_iter()
            .filter_map(Order::new)
            .collect(),
        modes: Mode::ALL.map(Way::Sync).to_vec(),
        budget: effort.slice.min(Duration::from_millis(50)),
        rate: None,
        others: true,
        placement: across(),
    };
    Ok(plan.run(|_| {})?)
}

/// The date, as YYYY-MM-DD in UTC.
pub fn today() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    date(since.as_secs() / 86_400)
}

/// The date so many days after the first of January 1970.
fn date(mut days: u64) -> String {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::{date, with_section};

    #[test]
    fn a_section_is_written_anew_in_its_place() {
        let text = "# A\n\n## B\n\nold\n\n### c\n\n## D\n\nend\n";
        let anew = "# A\n\n## B\n\nnew\n\n## D\n\nend\n";
        assert_eq!(with_section(text, "## B", "## B\n\nnew\n"), anew);
        assert_eq!(with_section(anew, "## B", "## B\n\nnew\n"), anew);
        let last = "# A\n\n## B\n\nold\n";
        assert_eq!(with_section(last, "## B", "## B\n"), "# A\n\n## B\n");
        assert_eq!(with_section("# A\n", "## B", "## B\n"), "# A\n\n## B\n");
    }

    #[test]
    fn dates() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (10_957, "2000-01-01"),
            (11_016, "2000-02-29"),
            (11_322, "2000-12-31"),
            (20_777, "2026-11-20"),
        ] {
            assert_eq!(date(days), expected);
        }
    }
}
