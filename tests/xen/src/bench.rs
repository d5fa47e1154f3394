//! Measuring both libraries in the same guest, in rounds that alternate: `cargo xtask bench --xen`.
//!
//! Nothing is judged here. Every figure is reported as it was measured, and the program outside
//! compares those of one round.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::guests::{Guest, Image, Kind};
use crate::load::{Ends, Figure, Link, Load, ORDERS};
use crate::program;
use crate::report::report;
use crate::scenarios::Scenario;

/// What every measurement must come within: far more than any takes.
const LIMIT: Duration = Duration::from_secs(120);

/// What is measured on each link, with rings of which order.
const LOADS: [(u16, Load); 12] = [
    (16, Load::Stream(64)),
    (16, Load::Stream(256)),
    (16, Load::Stream(4096)),
    (16, Load::Stream(64 * 1024)),
    (16, Load::StreamAsleep(64)),
    (16, Load::Trips(64)),
    (16, Load::TripsAsleep(64)),
    (20, Load::Stream(64)),
    (20, Load::Stream(256)),
    (20, Load::Stream(4096)),
    (20, Load::Stream(64 * 1024)),
    (20, Load::StreamAsleep(64)),
];

/// What is measured once more while the guest and the clients in dom0 share a processor.
const ON_ONE: [(u16, Load); 4] = [
    (16, Load::Stream(64)),
    (16, Load::StreamAsleep(64)),
    (16, Load::Trips(64)),
    (16, Load::TripsAsleep(64)),
];

/// How much of everything.
#[derive(Clone, Copy)]
struct Effort {
    name: &'static str,
    /// Rounds that count; one before them does not.
    rounds: u32,
    /// How long a measurement takes between two ends of the C library, about.
    slice: Duration,
    /// In seconds, for one kind of guest.
    limit: u64,
}

const EFFORTS: [Effort; 2] = [
    Effort {
        name: "quick",
        rounds: 3,
        slice: Duration::from_millis(40),
        limit: 300,
    },
    Effort {
        name: "full",
        rounds: 15,
        slice: Duration::from_millis(60),
        limit: 600,
    },
];

/// `bench/<kind>/<effort>`, to be run by the same supervisor as the scenarios.
pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    for effort in EFFORTS {
        for kind in [Kind::Pv, Kind::Pvh] {
            all.push(Scenario {
                name: format!("bench/{kind}/{}", effort.name),
                limit: Duration::from_secs(effort.limit),
                run: Box::new(move || measure(kind, effort)),
            });
        }
    }
    all
}

/// Links that are measured with the same load.
struct Comparison {
    order: u16,
    load: Load,
    count: u64,
}

fn measure(kind: Kind, effort: Effort) -> Result<()> {
    // A processor for each end, whatever else dom0 does.
    pin("Domain-0", "0", "0")?;
    pin("Domain-0", "1", "1")?;
    let guest = Guest::running(kind, Image::Load)?;
    pin(&guest.domid, "0", "1")?;
    // All at once, for as long as it takes: those that are not measured sleep.
    let mut links = Vec::new();
    for order in ORDERS {
        for ends in Ends::ALL {
            links.push((order, Link::connect(&guest, order, ends)?));
        }
    }
    keep_interrupts_here()?;
    compare(kind, &mut links, "", &LOADS, effort)?;
    pin(&guest.domid, "0", "0")?;
    compare(kind, &mut links, "one-", &ON_ONE, effort)?;
    for (_, link) in links {
        link.end()?;
    }
    guest.destroy()
}

fn pin(domid: &str, vcpu: &str, cpu: &str) -> Result<()> {
    let words = ["xl", "vcpu-pin", domid, vcpu, cpu];
    program::run(&words, &[], LIMIT)?.successful("xl vcpu-pin")?;
    Ok(())
}

/// Measures these loads on all links in rounds, and reports them with `circumstance` before their names.
fn compare(
    kind: Kind,
    links: &mut [(u16, Link)],
    circumstance: &str,
    loads: &[(u16, Load)],
    effort: Effort,
) -> Result<()> {
    let began = Instant::now();
    let mut comparisons = Vec::new();
    for &(order, load) in loads {
        let count = enough(links, order, load, effort.slice)?;
        comparisons.push(Comparison { order, load, count });
    }
    for round in 0..=effort.rounds {
        for Comparison { order, load, count } in &comparisons {
            // Each is first in turn.
            links.rotate_left(1);
            for (_, link) in links.iter_mut().filter(|(its, _)| its == order) {
                let figure = measured(link, *load, *count)?;
                if round > 0 {
                    report(&format!(
                        "figure {kind} {} {order} {circumstance}{load} {round} {count} {} {} {}",
                        link.ends(),
                        figure.nanoseconds,
                        figure.notifications,
                        figure.calls
                    ));
                }
            }
        }
        report(&format!(
            "note {kind}: round {round} of {} after {:.0} s",
            effort.rounds,
            began.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

/// Has dom0 handle its interrupts where the clients are. It deals event channels out to its processors
/// in turn, and half of the clients would be woken by way of the one on which the guest runs.
fn keep_interrupts_here() -> Result<()> {
    for interrupt in fs::read_dir("/proc/irq")? {
        // Some belong to a processor, and stay there.
        let _ = fs::write(interrupt?.path().join("smp_affinity"), "1");
    }
    Ok(())
}

/// One figure. Another one when the clock stood still: an emulated one does, after it ran ahead.
fn measured(link: &mut Link, load: Load, count: u64) -> Result<Figure> {
    const MOST: usize = 5;
    for _ in 0..MOST {
        let figure = link.measure(load, count, LIMIT)?;
        if figure.nanoseconds > 0 {
            return Ok(figure);
        }
    }
    bail!("the clock stands still")
}

/// How many messages take about `slice` where both ends are C's.
fn enough(links: &mut [(u16, Link)], order: u16, load: Load, slice: Duration) -> Result<u64> {
    /// What one message of a stream and all others may come to.
    const MOST_BYTES: usize = 64 << 20;
    let mut is_c = links
        .iter_mut()
        .filter(|(its, link)| *its == order && link.ends() == Ends::ALL[0]);
    let (_, link) = is_c.next().context("there is no link of C")?;
    let (mut count, most) = match load {
        // Some fillings of the ring at least.
        Load::Stream(size) | Load::StreamAsleep(size) => {
            ((4 << order) / size as u64, (MOST_BYTES / size) as u64)
        }
        Load::Trips(_) | Load::TripsAsleep(_) => (16, 1 << 16),
    };
    loop {
        let nanoseconds = u128::from(measured(link, load, count)?.nanoseconds);
        let took = match load {
            Load::Stream(_) | Load::StreamAsleep(_) => nanoseconds,
            Load::Trips(_) | Load::TripsAsleep(_) => nanoseconds * u128::from(count),
        };
        if took * 3 >= slice.as_nanos() * 2 || count >= most {
            return Ok(count);
        }
        let factor = slice.as_nanos() / took.max(1);
        count = (count * u64::try_from(factor).unwrap_or(2).clamp(2, 16)).min(most);
    }
}
