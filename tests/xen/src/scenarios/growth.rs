//! What must not grow when something is done again and again.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{guests, program, store};

/// How long something that was destroyed may still be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is counted, and how much of it there is.
pub(super) type Held = [(&'static str, usize); 9];

/// Does it once, counts what is held then, does it `rounds` times more, and counts again. Gives what
/// is held in the end.
pub(super) fn grows_not(rounds: u32, mut once: impl FnMut() -> Result<()>) -> Result<Held> {
    once()?;
    let first = held()?;
    for round in 1..=rounds {
        once().with_context(|| format!("round {round}"))?;
    }
    // A domain that was destroyed is there for a moment longer.
    let until = program::latest(PATIENCE);
    loop {
        let last = held()?;
        if last
            .iter()
            .zip(&first)
            .all(|(last, first)| last.1 <= first.1)
        {
            return Ok(last);
        }
        ensure!(
            Instant::now() < until,
            "{rounds} rounds: {first:?}, then {last:?}"
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// What this process and the host have in use.
fn held() -> Result<Held> {
    let links = fs::read_dir("/proc/self/fd")?.filter_map(|entry| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        Some(target.to_string_lossy().into_owned())
    });
    // Pipes to other programs come and go.
    let is_ours = |target: &String| target.contains("/dev/xen/") || target.contains("socket:");
    let maps = fs::read_to_string("/proc/self/maps")?;
    let of_devices = maps.lines().filter(|line| line.contains("/dev/xen/"));
    Ok([
        ("descriptors", links.filter(is_ours).count()),
        ("mappings", of_devices.count()),
        ("nodes in XenStore", store::count()?),
        ("domains", guests::listed()?),
        ("mapped grants in all domains", guests::mapped_grants()?),
        ("event channels in all domains", guests::event_channels()?),
        // One for each guest stays behind in dom0, until that guest ends.
        ("processes called xl", processes_called("xl")?),
        ("descriptors of xenstored", descriptors_of("xenstored")?),
        ("descriptors of xenconsoled", descriptors_of("xenconsoled")?),
    ])
}

fn processes_called(name: &str) -> Result<usize> {
    let names = fs::read_dir("/proc")?.filter_map(|entry| {
        let name = fs::read_to_string(entry.ok()?.path().join("comm"));
        // What is no process has none, nor has one that has just ended.
        Some(name.ok()?.trim().to_owned())
    });
    Ok(names.filter(|other| other == name).count())
}

fn descriptors_of(daemon: &str) -> Result<usize> {
    let directory = format!("/proc/{}/fd", process_of(daemon)?);
    Ok(fs::read_dir(&directory).context(directory)?.count())
}

/// KiB of memory that a daemon has for itself.
pub(super) fn memory_of(daemon: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process_of(daemon)?))?;
    number_after(&status, "RssAnon:")
}

/// KiB of memory that dom0 could not give to whoever asks, without what it only remembers.
pub(super) fn dom0_in_use() -> Result<u64> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let all = number_after(&memory, "MemTotal:")?;
    Ok(all.saturating_sub(number_after(&memory, "MemAvailable:")?))
}

fn number_after(text: &str, word: &str) -> Result<u64> {
    let rest = text.split_once(word).map(|(_, rest)| rest);
    let number = rest.and_then(|rest| rest.split_whitespace().next());
    Ok(number.with_context(|| format!("no {word}"))?.parse()?)
}

/// The number of a daemon's process.
fn process_of(daemon: &str) -> Result<String> {
    let file = format!("/run/xen/{daemon}.pid");
    Ok(fs::read_to_string(&file).context(file)?.trim().to_owned())
}
