//! A guest that does what dom0 tells it: what a third domain may not do, and what a guest has only
//! so much of.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{HALF_A_MINUTE, OfKind, expect_answer, node_cli};
use crate::guests::{Guest, Image, Kind, Which};
use crate::program::Program;
use crate::store;

pub(super) const SCENARIOS: &[OfKind] = &[
    ("xl-create", 240, |kind| Session::begin(kind)?.end()),
    ("100-servers", 240, hundred_servers),
    ("gntalloc-limit", 120, gntalloc_limit),
    ("destroyed", 60, |kind| ordered(kind)?.destroy()),
];

/// Where dom0 publishes the vchan that the guest takes its orders from.
const ORDERS: &str = "/local/domain/0/data/orders";

fn ordered(kind: Kind) -> Result<Guest> {
    Guest::running(kind, Image::Ordered)
}

/// One session with the guest. That it takes orders at all shows that it can read keys, map
/// grants and bind event channels where it may.
struct Session {
    guest: Guest,
    node_cli: Program,
    orders: u32,
}

impl Session {
    fn begin(kind: Kind) -> Result<Self> {
        let guest = ordered(kind)?;
        let mut command = Command::new("node-cli");
        command.args(["--server", &guest.domid, "--nodepath", ORDERS]);
        let mut session = Self {
            guest,
            node_cli: Program::start(command)?,
            orders: 0,
        };
        let answer = session.order(
            "read domid",
            // The guest boots meanwhile.
            Duration::from_secs(120),
        )?;
        ensure!(
            answer == format!("read {:?}", session.guest.domid),
            "the guest reads its own domid as {answer}"
        );
        Ok(session)
    }

    /// What the guest answers.
    fn order(&mut self, order: &str, limit: Duration) -> Result<String> {
        self.orders += 1;
        let number = self.orders;
        self.node_cli
            .send(format!("{number} {order}\n").as_bytes())?;
        self.node_cli
            .expect_line(&format!("{number} "), limit)
            .with_context(|| format!("the order {order:?} to the guest"))
    }

    fn end(self) -> Result<()> {
        self.node_cli
            .finish(HALF_A_MINUTE)?
            .successful("node-cli")?;
        store::wait_for_keys(ORDERS, false, HALF_A_MINUTE)
    }
}

/// A second guest tries to read the keys of a vchan between dom0 and the echo guest, to map its
/// pages and to bind its event channel. Xen and XenStore refuse, before a client is connected and
/// while one is.
pub(super) fn third_domain(which: Which) -> Result<()> {
    let victim = which.running()?;
    let mut third = Session::begin(which.kind)?;
    let path = victim.path("vchan");
    let (ring, port) = store::keys(&path)?.context("the keys are gone")?;
    for key in ["ring-ref", "event-channel"] {
        let answer = third.order(&format!("read {path}/{key}"), HALF_A_MINUTE)?;
        ensure!(
            answer.starts_with("failed") && answer.contains("permission denied"),
            "a third domain reading {path}/{key}: {answer}"
        );
    }
    let answer = third.order(&format!("connect {}", victim.domid), HALF_A_MINUTE)?;
    ensure!(
        answer.starts_with("failed") && answer.contains("may not be read by this domain"),
        "a third domain that connects: {answer}"
    );
    // It may have guessed what it cannot read.
    refused(&mut third, &victim, "map", &ring.value, &ring.value)?;
    refused(&mut third, &victim, "bind", &port.value, &port.value)?;

    // Every grant and every port that the guest may have, with a client connected.
    let client = super::echo_guest::connected(&victim)?;
    refused(&mut third, &victim, "map", "0", "511")?;
    refused(&mut third, &victim, "bind", "1", "63")?;
    client.finish(HALF_A_MINUTE)?.successful("node-cli")?;
    let ended = node_cli(&[&victim.domid], b"hello from dom0\n", HALF_A_MINUTE)?;
    expect_answer(ended, "HELLO FROM DOM0\n")?;
    third.end()
}

fn refused(third: &mut Session, victim: &Guest, what: &str, first: &str, last: &str) -> Result<()> {
    let order = format!("{what} {} {first} {last}", victim.domid);
    let answer = third.order(&order, Duration::from_secs(90))?;
    let count = 1 + last.parse::<u32>()? - first.parse::<u32>()?;
    ensure!(
        answer.starts_with(&format!("{count} refused, ")) && answer.contains(" [];"),
        "a third domain, ordered to {order:?}: {answer}"
    );
    println!("{order}: {answer}");
    Ok(())
}

/// 100 servers at once in one guest, with xenstored's quotas as they are, and clients of some.
fn hundred_servers(kind: Kind) -> Result<()> {
    let mut session = Session::begin(kind)?;
    let answer = session.order("serve 100", Duration::from_secs(60))?;
    ensure!(answer == "served 100", "{answer}");
    let below = session.guest.path("vchan/0");
    for name in ["p00", "p57", "p99"] {
        let path = format!("{below}/{name}");
        let arguments = [session.guest.domid.as_str(), "--nodepath", &path];
        let ended = node_cli(&arguments, b"hello from dom0\n", HALF_A_MINUTE)?;
        expect_answer(ended, "HELLO FROM DOM0\n").with_context(|| path.clone())?;
    }
    session.end()
}

/// More pages than gntalloc allows: the error says what to do, and nothing stays taken.
fn gntalloc_limit(kind: Kind) -> Result<()> {
    let mut session = Session::begin(kind)?;
    for round in 1..=3 {
        let answer = session.order("fill", HALF_A_MINUTE)?;
        // One takes 513 pages.
        ensure!(
            answer.starts_with("full after 1: "),
            "round {round}: {answer}"
        );
        for words in [
            " 1024 pages",
            "/sys/module/xen_gntalloc/parameters/limit",
            "max_grant_frames",
        ] {
            ensure!(
                answer.contains(words),
                "the message does not name {words:?}: {answer}"
            );
        }
        let answer = session.order("empty", HALF_A_MINUTE)?;
        ensure!(answer == "emptied", "{answer}");
    }
    session.end()
}
