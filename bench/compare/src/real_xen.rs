//! The rows of real Xen, from what `tests/xen/src/bench.rs` reported.
//!
//! Its lines are kept beside docs/PERFORMANCE.md, so that the whole table can be written again without
//! another boot.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use vchan_bench::stats::Spread;

use crate::goal::{self, Bound, Goal};

/// Stands beside every figure.
macro_rules! emulated {
    ($what:literal) => {
        concat!($what, " (QEMU software emulation, not hardware)")
    };
}

/// The kinds of guests: as they are reported, and for people.
const KINDS: [(&str, &str); 2] = [("pv", "PV"), ("pvh", "PVH")];
/// The libraries in the guest and in dom0, likewise.
const RUST: (&str, &str) = ("rust rust", "Rust↔Rust");
const MIXED: [(&str, &str); 2] = [
    ("rust c", "Rust in the guest, C in dom0"),
    ("c rust", "C in the guest, Rust in dom0"),
];
const C: (&str, &str) = ("c c", "C↔C");

const SMALL: [u32; 2] = [64, 256];
const SIZES: [u32; 4] = [64, 256, 4096, 65536];
/// Of the rings.
const ORDERS: [u32; 2] = [16, 20];
/// What is moved besides streams of every size.
const MORE: [Load; 8] = [
    Load::of("stream-asleep", 64, 16),
    Load::of("stream-asleep", 64, 20),
    TRIPS,
    ASLEEP,
    Load::of("one-stream", 64, 16),
    Load::of("one-stream-asleep", 64, 16),
    Load::of("one-trips", 64, 16),
    Load::of("one-trips-asleep", 64, 16),
];
/// A round trip of ends that wait as they do unless told otherwise.
const TRIPS: Load = Load::of("trips", 64, 16);
/// A round trip of ends that sleep, as C's always do.
const ASLEEP: Load = Load::of("trips-asleep", 64, 16);

/// What is moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Load {
    /// The command, as it is reported.
    what: &'static str,
    size: u32,
    /// Of the rings.
    order: u32,
}

/// All that are measured.
fn loads() -> impl Iterator<Item = Load> {
    let streams = |order| SIZES.map(|size| Load::stream(size, order));
    ORDERS.into_iter().flat_map(streams).chain(MORE)
}

/// What was measured once.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Figure {
    kind: String,
    /// In the guest and in dom0.
    ends: String,
    /// Of the rings.
    order: u32,
    /// The command.
    what: String,
    size: u32,
    round: u32,
    count: u64,
    nanoseconds: u64,
    notifications: u64,
    calls: u64,
}

/// All that was measured in one boot, and when and where that was.
pub struct RealXen {
    circumstances: String,
    figures: Vec<Figure>,
}

/// Where the lines are kept that belong to a document.
fn place(document: &Path) -> PathBuf {
    document.with_file_name("performance").join("real-xen.txt")
}

impl RealXen {
    /// Of the lines that were reported in a boot under these circumstances.
    pub fn measured(lines: &str, circumstances: String) -> Result<RealXen> {
        let lines = lines.lines().filter(|line| !line.trim().is_empty());
        let figures: Vec<Figure> = lines.map(Figure::parse).collect::<Result<_>>()?;
        ensure!(!figures.is_empty(), "nothing was measured");
        Ok(RealXen {
            circumstances,
            figures,
        })
    }

    /// What is kept beside `document`, if there is something.
    pub fn kept(document: &Path) -> Result<Option<RealXen>> {
        let file = place(document);
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&file)?;
        let (first, lines) = text.split_once('\n').unwrap_or_default();
        let circumstances = first.trim_start_matches(['#', ' ']).to_owned();
        let lines: Vec<&str> = lines.lines().filter(|l| !l.starts_with('#')).collect();
        let kept = RealXen::measured(&lines.join("\n"), circumstances);
        kept.with_context(|| file.display().to_string()).map(Some)
    }

    /// Keeps it beside `document`.
    pub fn keep(&self, document: &Path) -> Result<()> {
        let file = place(document);
        fs::create_dir_all(file.with_file_name(""))?;
        let mut text = format!(
            "# {}\n# kind guest dom0 order what size round count nanoseconds notifications calls\n",
            self.circumstances
        );
        for figure in &self.figures {
            let _ = writeln!(text, "{}", figure.line());
        }
        Ok(fs::write(file, text)?)
    }

    /// The two rows of the table of goals.
    pub fn goals(&self) -> Vec<Goal> {
        vec![self.throughput(), self.events()]
    }

    fn throughput(&self) -> Goal {
        let mut goal = throughput_goal();
        let mut slowest = Vec::new();
        for (nth, (kind, name)) in KINDS.into_iter().enumerate() {
            let mixed = MIXED.map(|(ends, _)| ends);
            let cells = [
                self.slowest(kind, &[RUST.0], &SIZES),
                self.slowest(kind, &[RUST.0], &SMALL),
                self.slowest(kind, &mixed, &SIZES),
            ];
            for (part, cell) in goal.parts[3 * nth..].iter_mut().zip(cells) {
                let Some((ratio, ends, load)) = cell else {
                    continue;
                };
                part.value = Some(ratio);
                slowest.push(format!("{name}, {}, {load}", name_of(ends)));
            }
        }
        goal.note = format!(
            "the slowest cells count: {}; {}",
            slowest.join("; "),
            self.circumstances
        );
        goal
    }

    fn events(&self) -> Goal {
        let mut goal = events_goal();
        for (nth, (kind, _)) in KINDS.into_iter().enumerate() {
            let notified = |figure: &Figure| figure.notifications as f64;
            let took = |figure: &Figure| figure.nanoseconds as f64;
            let stream = |order| self.against_c(kind, RUST.0, Load::stream(64, order), notified);
            let streams = ORDERS.into_iter().filter_map(stream);
            let values = [
                streams.max_by(|a, b| a.median.total_cmp(&b.median)),
                self.against_c(kind, RUST.0, TRIPS, took),
                self.against_c(kind, RUST.0, ASLEEP, took),
            ];
            for (part, value) in goal.parts[3 * nth..].iter_mut().zip(values) {
                part.value = value;
            }
        }
        goal.note = format!(
            "Rust↔Rust; of the calls those of both ends, with the rings with which there are more; where \
             both sleep they do so at once, as C's do, but notice when the other domain is destroyed, as \
             C's do not; {}",
            self.circumstances
        );
        goal
    }

    /// The slowest of these against C, and which it is.
    fn slowest(
        &self,
        kind: &str,
        ends: &[&'static str],
        sizes: &[u32],
    ) -> Option<(Spread, &'static str, Load)> {
        let loads = loads().filter(|load| load.what == "stream" && sizes.contains(&load.size));
        let cells = loads.flat_map(|load| {
            let speed = move |&ends| Some((self.speed(kind, ends, load)?, ends, load));
            ends.iter().filter_map(speed)
        });
        cells.min_by(|a, b| a.0.median.total_cmp(&b.0.median))
    }

    /// How much faster these ends are than C's.
    fn speed(&self, kind: &str, ends: &str, load: Load) -> Option<Spread> {
        self.against_c(kind, ends, load, |figure| 1.0 / figure.nanoseconds as f64)
    }

    /// What `of` gives for these ends, divided by what it gives for C in the same round.
    fn against_c(
        &self,
        kind: &str,
        ends: &str,
        load: Load,
        of: impl Fn(&Figure) -> f64,
    ) -> Option<Spread> {
        let theirs: Vec<&Figure> = self.of(kind, C.0, load).collect();
        let ratios = self.of(kind, ends, load).filter_map(|ours| {
            let same = |theirs: &&&Figure| theirs.round == ours.round && theirs.count == ours.count;
            let theirs = of(theirs.iter().find(same)?);
            (theirs > 0.0).then(|| of(ours) / theirs)
        });
        Spread::of(ratios.collect())
    }

    fn of<'a>(
        &'a self,
        kind: &'a str,
        ends: &'a str,
        load: Load,
    ) -> impl Iterator<Item = &'a Figure> {
        self.figures.iter().filter(move |figure| {
            figure.kind == kind
                && figure.ends == ends
                && figure.order == load.order
                && figure.what == load.what
                && figure.size == load.size
        })
    }

    /// The section of the document.
    pub fn section(&self) -> String {
        let mut text = format!("{HEADING}\n\n{ABOUT}\n{}.\n", self.circumstances);
        let _ = writeln!(
            text,
            "\n### Goals on real Xen\n\n{}",
            goal::table(&self.goals())
        );
        for goal in self.goals() {
            let _ = writeln!(text, "- {}: {}.", goal.name, goal.note);
        }
        let _ = writeln!(text, "\n### Speed against C↔C\n");
        self.table(
            &mut text,
            &[RUST, MIXED[0], MIXED[1]],
            |kind, ends, load| {
                let speed = self.speed(kind, ends, load);
                speed.map_or_else(|| "–".to_owned(), |speed| speed.to_string())
            },
        );
        let _ = writeln!(
            text,
            "\n### EVTCHN_NOTIFY calls per MiB, of so many system calls to the event channel\n\n\
             Of round trips: those of the end in dom0, for each.\n"
        );
        self.table(
            &mut text,
            &[C, RUST, MIXED[0], MIXED[1]],
            |kind, ends, load| {
                let median = |count: fn(&Figure) -> u64| {
                    let each = |figure: &Figure| count(figure) as f64 / figure.of_unit();
                    let all = self.of(kind, ends, load).map(each).collect();
                    Spread::of(all).map_or_else(|| "–".to_owned(), |s| format!("{:.1}", s.median))
                };
                let (notified, called) = (median(|f| f.notifications), median(|f| f.calls));
                format!("{notified} of {called}")
            },
        );
        text
    }

    /// A table with a row for each load of each kind of guest.
    fn table(
        &self,
        text: &mut String,
        columns: &[(&str, &str)],
        cell: impl Fn(&str, &str, Load) -> String,
    ) {
        let names: Vec<&str> = columns.iter().map(|(_, name)| *name).collect();
        let _ = writeln!(text, "| guest | load | {} | on |", names.join(" | "));
        let _ = writeln!(text, "| --- | --- |{} --- |", " --- |".repeat(names.len()));
        for (kind, name) in KINDS {
            for load in loads() {
                let cells = columns.iter().map(|(ends, _)| cell(kind, ends, load));
                let cells: Vec<String> = cells.collect();
                let cells = cells.join(" | ");
                let _ = writeln!(text, "| {name} | {load} | {cells} | {EMULATED} |");
            }
        }
    }
}

/// By which the section is found again.
pub const HEADING: &str = "## Real Xen";
/// What stands beside every figure.
pub const EMULATED: &str = "QEMU software emulation, not hardware";

const ABOUT: &str = "\
Written by `cargo xtask bench --xen`: QEMU software emulation, not hardware. One boot of Xen. For each
kind of guest there are four links between a Linux guest and dom0 with each size of rings, all open at
once: a server of either library in the guest, a client of either library in dom0. The same number of
messages crosses each of the four in turn, from dom0 to the guest, and everything is measured in every
round; a figure is the median of the ratios of the rounds against C↔C, with the quartiles in brackets.
Every byte that arrived was compared with what was sent. The C library is Debian's unmodified
`libxenvchan.a`, blocking; ours waits as it does unless told otherwise. Both ends count their calls: C's
by standing between libxenvchan and libxenevtchn, ours between the library and its host. The guest has
one processor of the emulated machine, the client in dom0 the other, and with it all event channels of
dom0: else those of every second client would wake it by way of the guest's. Where it says \"both asleep\", our
library was told to sleep at once when it has to wait; C's has no other way. Where it says \"on one
processor\", the guest is on that of the client in dom0. Give-way hypercalls are among the calls there;
the kernel of the guest lets none through, that of dom0 does.

The clock of the emulated machine counts the instructions that its processors execute, two nanoseconds
for each, and the processors take turns. So the figures do not depend on how busy the real machine is,
and say how many instructions the ends, their kernels and Xen take; what caches, barriers and interrupts
cost on hardware, they do not say. An instruction `pause` passes the turn to the other processor: who
spins for a peer that has a processor to itself is answered as soon as on hardware, and loses as little.
Guests read the processor's counter as on hardware where all processors count alike
(`tsc_mode=\"native\"`); there is no such processor to emulate, and otherwise each look at the clock
would be a trap to Xen.
";

/// The first row, without figures.
pub fn throughput_goal() -> Goal {
    let (any, small, mixed) = (
        Bound::AtLeast(1.0, 1.2),
        Bound::AtLeast(2.0, 4.0),
        Bound::AtLeast(0.95, 1.0),
    );
    let parts = vec![
        (emulated!("PV, Rust↔Rust, any size"), any),
        (emulated!("PV, Rust↔Rust, ≤ 256 B"), small),
        (emulated!("PV, Rust↔C, any size"), mixed),
        (emulated!("PVH, Rust↔Rust, any size"), any),
        (emulated!("PVH, Rust↔Rust, ≤ 256 B"), small),
        (emulated!("PVH, Rust↔C, any size"), mixed),
    ];
    Goal::missing("real Xen, same boot, throughput against C↔C", WHY, parts)
}

/// The second row, without figures.
pub fn events_goal() -> Goal {
    let (notified, trips) = (Bound::AtMost(0.2, 0.1), Bound::AtMost(1.05, 0.9));
    let parts = vec![
        (emulated!("PV, EVTCHN_NOTIFY calls per MiB"), notified),
        (emulated!("PV, blocking round trip"), trips),
        (emulated!("PV, the same, both told to sleep at once"), trips),
        (emulated!("PVH, EVTCHN_NOTIFY calls per MiB"), notified),
        (emulated!("PVH, blocking round trip"), trips),
        (
            emulated!("PVH, the same, both told to sleep at once"),
            trips,
        ),
    ];
    Goal::missing("real Xen, same boot, 64 B, against C↔C", WHY, parts)
}

const WHY: &str = "`cargo xtask bench --xen` measures it";

fn name_of(ends: &str) -> &'static str {
    let all = [C, RUST, MIXED[0], MIXED[1]];
    all.into_iter()
        .find(|(reported, _)| *reported == ends)
        .map_or("?", |(_, name)| name)
}

impl Load {
    const fn of(what: &'static str, size: u32, order: u32) -> Load {
        Load { what, size, order }
    }

    const fn stream(size: u32, order: u32) -> Load {
        Load::of("stream", size, order)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { what, size, order } = self;
        let (what, on_one) = match what.strip_prefix("one-") {
            Some(what) => (what, ", on one processor"),
            None => (*what, ""),
        };
        let what = match what {
            "trips" => "round trips",
            "trips-asleep" => "round trips, both asleep,",
            "stream-asleep" => "stream, both asleep,",
            what => what,
        };
        write!(f, "{what} of {size} B, ring order {order}{on_one}")
    }
}

impl Figure {
    fn parse(line: &str) -> Result<Figure> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [
            kind,
            guest,
            dom0,
            order,
            what,
            size,
            round,
            count,
            nanoseconds,
            notifications,
            calls,
        ] = words[..]
        else {
            bail!("not a figure: {line}");
        };
        let figure = Figure {
            kind: kind.to_owned(),
            ends: format!("{guest} {dom0}"),
            order: order.parse()?,
            what: what.to_owned(),
            size: size.parse()?,
            round: round.parse()?,
            count: count.parse()?,
            nanoseconds: nanoseconds.parse()?,
            notifications: notifications.parse()?,
            calls: calls.parse()?,
        };
        ensure!(figure.nanoseconds > 0, "it took no time: {line}");
        Ok(figure)
    }

    /// How many MiB, or round trips, it is about.
    fn of_unit(&self) -> f64 {
        const MIB: f64 = 1_048_576.0;
        match self.what.as_str() {
            what if what.contains("trips") => self.count as f64,
            _ => self.count as f64 * f64::from(self.size) / MIB,
        }
    }

    fn line(&self) -> String {
        let Figure {
            kind,
            ends,
            order,
            what,
            size,
            round,
            count,
            nanoseconds,
            notifications,
            calls,
        } = self;
        format!(
            "{kind} {ends} {order} {what} {size} {round} {count} {nanoseconds} {notifications} {calls}"
        )
    }
}

#[cfg(test)]
mod tests;
