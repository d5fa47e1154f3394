//! What must not get worse, as counts: they come out the same however busy the machine is.

use std::env;

use anyhow::{Result, bail};
use vchan_bench::counting::Count;
use vchan_bench::peers::vchan::{Emulated, Mode, Vchan};
use vchan_bench::workload::in_turn;
use vchan_bench::{Failure, Polled, Transport};

use crate::callgrind;
use crate::libxenvchan::CVchan;

const MIB: u64 = 1 << 20;

/// A gate by its name.
type Gate = (&'static str, fn() -> Result<Vec<Finding>>);

/// All of them.
const GATES: [Gate; 4] = [
    ("instructions", instructions),
    ("fences", fences),
    ("notifications", notifications),
    ("system-calls", system_calls),
];

/// One comparison with a limit.
struct Finding {
    what: String,
    /// `None` where there is nothing to compare with.
    figure: Option<f64>,
    most: f64,
}

impl Finding {
    fn new(what: impl Into<String>, figure: f64, most: f64) -> Finding {
        Finding {
            what: what.into(),
            figure: Some(figure),
            most,
        }
    }

    fn without_c(what: impl Into<String>) -> Finding {
        Finding {
            what: what.into(),
            figure: None,
            most: 0.0,
        }
    }
}

/// Tries all gates, or the one with this name, and prints a line for each finding, which begins with
/// `ok`, `FAILED` or `skipped`. Whether none has failed.
pub fn run(name: Option<&str>) -> Result<bool> {
    let mut good = true;
    let chosen = |gate: &&Gate| name.is_none_or(|name| name == gate.0);
    if GATES.iter().filter(chosen).count() == 0 {
        bail!("there is no gate of this name");
    }
    for (gate, check) in GATES.iter().filter(chosen) {
        for Finding { what, figure, most } in check()? {
            match figure {
                None => println!("skipped {gate}: {what}: there is no C library"),
                Some(figure) if figure <= most => {
                    println!("ok {gate}: {what}: {figure:.2}, at most {most:.2}");
                }
                Some(figure) => {
                    good = false;
                    println!("FAILED {gate}: {what}: {figure:.2}, at most {most:.2}");
                }
            }
        }
    }
    Ok(good)
}

fn instructions() -> Result<Vec<Finding>> {
    let program = env::current_exe()?;
    let of =
        |subject| Ok::<_, anyhow::Error>(callgrind::count(&program, subject, 64, 1)?.instructions);
    let ours = of("rust")?;
    // A little more than what was reached, so that it does not get lost.
    const AGAINST_RTRB: f64 = 0.80;
    const AGAINST_C: f64 = 0.60;
    let mut found = vec![Finding::new(
        "a pair of 64 B against rtrb",
        ours / of("rtrb")?,
        AGAINST_RTRB,
    )];
    let against_c = "a pair of 64 B against C";
    found.push(match cfg!(libxenvchan) {
        true => Finding::new(against_c, ours / of("c")?, AGAINST_C),
        false => Finding::without_c(against_c),
    });
    Ok(found)
}

fn fences() -> Result<Vec<Finding>> {
    let cost = callgrind::count(&env::current_exe()?, "rust", 64, 1)?;
    Ok(vec![
        Finding::new("full fences of a pair", cost.fences, 2.0),
        Finding::new("locked instructions of a pair", cost.locked, 0.0),
    ])
}

/// Nobody is told who has not asked, and nobody asks who does not wait.
fn notifications() -> Result<Vec<Finding>> {
    let host = Emulated::start()?;
    let nobody_waits = "a thousand messages while nobody waits";
    let mut found = vec![Finding::new(
        nobody_waits,
        steady(&host)?.notifications as f64,
        0.0,
    )];
    for (size, order) in CELLS {
        let (ours, waits) = ours(&host, size, order)?;
        found.push(Finding::new(
            format!("{size} B in order {order}, for each wait"),
            ours.notifications as f64 / waits as f64,
            1.0,
        ));
        let what = format!("{size} B in order {order}, per MiB, against C");
        found.push(match theirs(&host, size, order)? {
            None => Finding::without_c(what),
            Some(theirs) => Finding::new(
                what,
                per_mib(ours.notifications, order),
                1.05 * per_mib(theirs.notifications, order) + 0.2,
            ),
        });
    }
    Ok(found)
}

/// A wait takes the old event, lets the next one come, and has been told of by one: nothing else.
fn system_calls() -> Result<Vec<Finding>> {
    let host = Emulated::start()?;
    let nobody_waits = "a thousand messages while nobody waits";
    let mut found = vec![Finding::new(
        nobody_waits,
        steady(&host)?.system_calls as f64,
        0.0,
    )];
    for (size, order) in CELLS {
        let (ours, waits) = ours(&host, size, order)?;
        found.push(Finding::new(
            format!("{size} B in order {order}, for each wait"),
            ours.system_calls as f64 / waits as f64,
            3.0,
        ));
    }
    Ok(found)
}

/// Message sizes and ring orders.
const CELLS: [(usize, u32); 5] = [(64, 10), (64, 16), (4096, 12), (4096, 20), (65536, 16)];

/// How much crosses: some fillings of the ring.
fn bytes(order: u32) -> u64 {
    MIB.max(8 << order)
}

fn per_mib(count: u64, order: u32) -> f64 {
    count as f64 * MIB as f64 / bytes(order) as f64
}

/// What both sides asked of the host for a thousand messages after the first, for which a new page
/// asks for an event, and for which nobody had to wait.
fn steady(host: &Emulated) -> Result<Count, Failure> {
    let transport = Vchan::new(host.clone(), Mode::NonBlocking);
    let (mut left, mut right) = transport.connect(64 * 1024)?;
    let sum = || host.counts()[0].now() + host.counts()[1].now();
    let _ = in_turn::steady(&mut left, &mut right, 64, 1)?;
    let before = sum();
    let _ = in_turn::steady(&mut left, &mut right, 64, 1000)?;
    Ok(sum().since(before))
}

/// What both sides asked of the host, and how often one had to wait.
fn ours(host: &Emulated, size: usize, order: u32) -> Result<(Count, u64), Failure> {
    let transport = Vchan::new(host.clone(), Mode::NonBlocking);
    counted(host, &transport, size, order)
}

fn theirs(host: &Emulated, size: usize, order: u32) -> Result<Option<Count>, Failure> {
    match CVchan::new(host.clone(), Mode::NonBlocking) {
        None => Ok(None),
        Some(theirs) => Ok(Some(counted(host, &theirs, size, order)?.0)),
    }
}

fn counted<T>(
    host: &Emulated,
    transport: &T,
    size: usize,
    order: u32,
) -> Result<(Count, u64), Failure>
where
    T: Transport,
    T::Peer: Polled,
{
    let (mut left, mut right) = transport.connect(1 << order)?;
    let sum = || host.counts()[0].now() + host.counts()[1].now();
    let before = sum();
    let messages = bytes(order) / size as u64;
    let moved = in_turn::stream(&mut left, &mut right, size, messages)?;
    Ok((sum().since(before), moved.waits))
}
