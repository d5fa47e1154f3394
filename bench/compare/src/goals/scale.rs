//! Setting up, again and again, and many at once.

use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vchan::{Channel, Client, PortName, Server};
use vchan_bench::Failure;
use vchan_bench::peers::memory::Least;
use vchan_bench::peers::vchan::Emulated;
use vchan_bench::stats::{Spread, alternate};
use vchan_bench::workload;
use vchan_emulator::{Emulator, Limits};

use super::{Effort, Libraries, messages};
use crate::goal::{Bound, Goal, Part};
use crate::relay::Relay;

pub fn store(_effort: Effort, _libraries: &Libraries) -> Result<Goal> {
    let emulator = emulator()?;
    let [left, right] = Emulated::domids();
    let theirs = Relay::start(&emulator.domain_directory(right))?;
    let ours = Relay::start(&emulator.domain_directory(left))?;
    let guest = vchan_emulator::join(theirs.directory())?;
    let dom0 = vchan_emulator::join(ours.directory())?;
    let mut server = Server::builder(&guest, left).bind()?;
    let published = theirs.seen();
    let channel = Client::builder(&dom0, right).connect()?;
    let connected = ours.seen();
    let accepted = server.accept()?;
    drop((channel, accepted, server));
    let transactions = published.transactions + connected.transactions;
    Ok(Goal {
        name: "XenStore, to open",
        parts: vec![
            Part::count(
                "round trips of a server",
                Bound::AtMost(5.0, 5.0),
                published.round_trips as f64,
            ),
            Part::count(
                "round trips of a client",
                Bound::AtMost(2.0, 2.0),
                connected.round_trips as f64,
            ),
            Part::count("transactions", Bound::AtMost(0.0, 0.0), transactions as f64),
        ],
        note:
            "counted between the library and xenstored: until `bind` and `connect` return, with a \
               new host handle"
                .to_owned(),
    })
}

pub fn servers(_effort: Effort, _libraries: &Libraries) -> Result<Goal> {
    const SERVERS: usize = 100;
    let emulator = emulator()?;
    let [left, right] = Emulated::domids();
    let (dom0, guest) = (emulator.host(left)?, emulator.host(right)?);
    let port = |nth: usize| -> Result<PortName> { Ok(format!("port-{nth}").parse()?) };
    let open = || -> Result<usize> {
        let mut servers = Vec::new();
        for nth in 0..SERVERS {
            let builder = Server::builder(&guest, left).port(port(nth)?);
            servers.push(builder.read_size(4096).write_size(4096).bind()?);
        }
        let mut channels = Vec::new();
        for (nth, server) in servers.iter_mut().enumerate() {
            let client = Client::builder(&dom0, right).port(port(nth)?).connect()?;
            channels.push((client, server.accept()?));
        }
        Ok(channels.len())
    };
    let (opened, why) = match open() {
        Ok(opened) => (opened, String::new()),
        Err(error) => (0, format!(": {error:#}")),
    };
    Ok(Goal {
        name: "100 servers opened at once by an unprivileged domain under xenstored's default quotas",
        parts: vec![Part::holds("all succeed", opened == SERVERS)],
        note: format!(
            "emulated quotas; the same on real Xen is a scenario of `xtask xen test`{why}"
        ),
    })
}

pub fn again(effort: Effort, _libraries: &Libraries) -> Result<Goal> {
    let rounds = if effort.quick { 500 } else { 10_000 };
    let emulated = Emulated::start()?;
    let open_and_close = |count: usize| -> Result<()> {
        for _ in 0..count {
            drop(emulated.channels(4096)?);
        }
        emulated.emulator().assert_clean();
        Ok(())
    };
    open_and_close(100)?;
    let before = Usage::now()?;
    open_and_close(rounds)?;
    let after = Usage::now()?;
    let grown = after.pages.saturating_sub(before.pages) * 4;
    // Less than one small allocation for each round is no leak of the library's.
    let leak = grown * 1024 > rounds * 16 && grown > 512;
    let same = after.descriptors == before.descriptors && after.mappings <= before.mappings + 8;
    Ok(Goal {
        name: "10,000 × open and close: growth of descriptors, grants, memory",
        parts: vec![Part::holds("none", same && !leak)],
        note: format!(
            "{rounds} times; descriptors {} to {}, mappings {} to {}, memory + {grown} KiB, on the \
             host nothing left",
            before.descriptors, after.descriptors, before.mappings, after.mappings
        ),
    })
}

struct Usage {
    descriptors: usize,
    mappings: usize,
    pages: usize,
}

impl Usage {
    fn now() -> Result<Usage> {
        let statm = fs::read_to_string("/proc/self/statm")?;
        let resident = statm.split_whitespace().nth(1);
        Ok(Usage {
            descriptors: fs::read_dir("/proc/self/fd")?.count(),
            mappings: fs::read_to_string("/proc/self/maps")?.lines().count(),
            pages: resident.context("statm has no second number")?.parse()?,
        })
    }
}

const CHANNELS: usize = 1000;
/// The ring of each of them, in each direction.
const RING: usize = 4096;

pub fn channels(effort: Effort, _libraries: &Libraries) -> Result<Goal> {
    let name = "1,000 channels";
    let names = [
        "time per message against one channel, ready ones in turn",
        "the same, one busy among 999 idle",
        "heap of an idle one besides its rings, bytes",
    ];
    let bounds = [
        Bound::AtMost(1.25, 1.25),
        Bound::AtMost(1.05, 1.05),
        Bound::AtMost(256.0, 256.0),
    ];
    if let Err(why) = raise_descriptors(16 * 1024) {
        let parts = names.into_iter().zip(bounds).collect();
        return Ok(Goal::missing(name, &format!("{why:#}"), parts));
    }
    let many_host = roomy()?;
    let mut many = Vec::new();
    for _ in 0..CHANNELS {
        many.push(many_host.channels(RING)?);
    }
    let one_host = roomy()?;
    let mut one = vec![one_host.channels(RING)?];
    let count = messages(effort, turns(&mut one, 1, 1000)?).max(4 * CHANNELS as u64);
    let in_turn = alternate(
        effort.rounds,
        || turns(&mut many, CHANNELS, count),
        || turns(&mut one, 1, count),
    )?;
    let one_busy = alternate(
        effort.rounds,
        || turns(&mut many, 1, count),
        || turns(&mut one, 1, count),
    )?;
    Ok(Goal {
        name,
        parts: vec![
            Part::new(names[0], bounds[0], in_turn),
            Part::new(names[1], bounds[1], one_busy),
            Part::count(names[2], bounds[2], idle_heap()?),
        ],
        note: format!(
            "one thread, 64 B, rings of 4 KiB; a thousand times two copies, two indices and two fences, \
             in turn and with nothing else, take {} of one such loop; the heap is that of a process \
             that has 1,000 clients and nothing else, with rings in the control page",
            least(effort)?
        ),
    })
}

/// What a thousand rings in turn take of one's time when nothing is done but what must be.
fn least(effort: Effort) -> Result<Spread> {
    let rings = |count| (0..count).map(|_| Least::new(RING));
    let mut many: Vec<Least> = rings(CHANNELS).collect::<Result<_, _>>()?;
    let mut one: Vec<Least> = rings(1).collect::<Result<_, _>>()?;
    let in_turn = |rings: &mut [Least], count| {
        let mut next = 0;
        let moved = workload::batches(64, 1, count, |from, to| {
            rings[next].pair(from, to);
            next = (next + 1) % rings.len();
            Ok(())
        })?;
        Ok(moved.nanoseconds_each())
    };
    let count = messages(effort, in_turn(&mut one, 1000)?).max(4 * CHANNELS as u64);
    let ratio = alternate(
        effort.rounds,
        || in_turn(&mut many, count),
        || in_turn(&mut one, count),
    )?;
    Ok(ratio)
}

/// What an idle channel has on the heap, as another program counts it: here is the host as well.
fn idle_heap() -> Result<f64> {
    let emulated = roomy()?;
    let [_, right_host] = emulated.hosts();
    let [left, right] = Emulated::domids();
    let mut servers = Vec::new();
    for nth in 0..CHANNELS {
        let builder = Server::builder(right_host, left).port(format!("port-{nth}").parse()?);
        servers.push(builder.read_size(1024).write_size(2048).bind()?);
    }
    let program = env::current_exe()?.with_file_name("idle-heap");
    let mut command = Command::new(&program);
    command.arg(emulated.emulator().domain_directory(left));
    command.args([right.to_string(), CHANNELS.to_string()]);
    let counted = command.output();
    let counted = counted.with_context(|| format!("cannot run {}", program.display()))?;
    let why = String::from_utf8_lossy(&counted.stderr);
    ensure!(counted.status.success(), "{}: {why}", program.display());
    Ok(str::from_utf8(&counted.stdout)?.trim().parse()?)
}

/// Nanoseconds for each message over the first `used` of these channels in turn.
fn turns(channels: &mut [(Channel, Channel)], used: usize, count: u64) -> Result<f64, Failure> {
    let mut next = 0;
    let moved = workload::batches(64, 1, count, |from, to| {
        let (left, right) = &mut channels[next];
        next += 1;
        if next == used {
            next = 0;
        }
        left.send(from)?;
        right.recv(to)?;
        Ok(())
    })?;
    Ok(moved.nanoseconds_each())
}

/// Two domains that may have as many channels as they like, each of them at one address: both domains
/// are one thread here, and have the processor's tables of pages to share.
fn roomy() -> Result<Emulated> {
    let emulated = Emulated::start_with_one_mapping()?;
    let mut limits = Limits::default();
    limits.granted_pages = 1 << 20;
    limits.ports = 4095;
    (limits.store_nodes, limits.store_node_size) = (4 * CHANNELS, 64 * CHANNELS);
    emulated.emulator().set_limits(limits);
    Ok(emulated)
}

fn emulator() -> Result<Emulator> {
    let emulator = Emulator::start()?;
    for domid in Emulated::domids() {
        emulator.add_domain(domid)?;
    }
    Ok(emulator)
}

fn raise_descriptors(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let most = limit.maximum;
    ensure!(
        most.is_none_or(|most| most >= wanted),
        "{wanted} descriptors are not to be had here (`ulimit -Hn`)"
    );
    let raised = Rlimit {
        current: Some(wanted),
        maximum: most,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}
