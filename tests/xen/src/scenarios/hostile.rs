//! A client in dom0 that does what a hostile domain may: the rings are in its own hands.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vchan::layout::Ring;
use vchan::{DomId, Error, Host};

use super::{HALF_A_MINUTE, expect_answer, node_cli};
use crate::guests::{Guest, Which};
use crate::program;

/// The peer of the tests on the emulated host, which knows nothing of its host.
#[allow(dead_code, reason = "here it is only a client")]
#[path = "../../../../vchan/tests/common/raw.rs"]
mod raw;

#[allow(dead_code, reason = "here nobody is honest")]
#[path = "../../../../vchan/tests/hostile/attack.rs"]
mod attack;

use attack::{Random, Style, attack};
use raw::RawPeer;

/// What the guest says of a peer that breaks the protocol.
const FAULT: &str = "the peer broke the vchan protocol: ";
/// The most that a client does to the guest: far more than it takes until the guest has had enough.
const BLOWS: usize = 300;
const STYLES: [Style; 5] = [
    Style::Indices,
    Style::Lies,
    Style::Flags,
    Style::Anything,
    Style::Storm,
];

/// One hostile client after the other. Each breach is reported, each next client is served, and the
/// guest uses no more memory after a round of them than before.
pub(super) fn hostile_clients(which: Which) -> Result<()> {
    let guest = Guest::unikernel(
        &format!("victim-{}", which.kind),
        which.kind,
        "echo-guest",
        4,
        "show=memory",
    )?;
    guest.wait_for_server()?;
    let host = vchan::xen::host()?;
    let mut random = Random::new(0x5EED, 0);

    let mut seen = Vec::new();
    // Its lists grow to the length that they need at first. What is lost with a client grows for ever.
    while seen.len() < MOST_ROUNDS && !is_settled(&seen) {
        hostile_round(&host, &guest, &mut random)?;
        still_mapped(&host, &guest)?;
        let memory = memory_of_a_session(&guest)?;
        ensure!(memory.ends_with(" 0 pages kept back"), "{memory}");
        seen.push(memory);
    }
    ensure!(is_settled(&seen), "after each round it had: {seen:?}");

    let console = guest.console()?;
    let faults = console.matches(FAULT).count();
    println!("note: {faults} breaches of the protocol were reported; {seen:?}");
    // Only a live byte of zero ends a session otherwise: those who write it are two of five.
    ensure!(
        faults >= 3 * seen.len(),
        "{faults} breaches are reported:\n{console}"
    );
    guest.destroy()
}

/// How many rounds there are at most.
const MOST_ROUNDS: usize = 5;

/// Whether the last round has left everything as it was.
fn is_settled(seen: &[String]) -> bool {
    matches!(seen, [.., before, after] if before == after)
}

/// A client of each style.
fn hostile_round(host: &Host, guest: &Guest, random: &mut Random) -> Result<()> {
    for style in STYLES {
        one_hostile_client(host, guest, style, random)
            .with_context(|| format!("a client of the style {style:?}"))?;
    }
    Ok(())
}

/// Honest to begin with, then not, until the guest closes the channel or it is tired of it.
fn one_hostile_client(host: &Host, guest: &Guest, style: Style, random: &mut Random) -> Result<()> {
    let mut peer = connect(host, guest)?;
    let mut answer = [0; 6];
    ensure!(peer.produce(b"honest") == 6, "the ring is full");
    wait_until("the honest bytes came back", || {
        peer.consume(&mut answer) > 0
    })?;
    ensure!(answer.starts_with(b"H"), "it answers {answer:?}");
    for _ in 0..BLOWS {
        if has_closed(&peer) {
            return Ok(());
        }
        attack(&mut peer, style, random);
        peer.port.notify()?;
    }
    // The guest has borne all of that. What cannot be borne is next, wherever it looks.
    let (written, read) = (Ring::written_by(peer.side), Ring::read_by(peer.side));
    wait_until("the guest has had enough", || {
        let size = peer.bytes(written).2;
        let consumed = peer.load(written.cons());
        peer.store(written.prod(), consumed.wrapping_add(size + 1));
        peer.store(read.cons(), peer.load(read.prod()).wrapping_add(1));
        peer.port.notify().is_err() || has_closed(&peer)
    })
}

/// A client that has closed and keeps the pages mapped: they are of no use to the guest until it lets
/// go, and others are served meanwhile.
fn still_mapped(host: &Host, guest: &Guest) -> Result<()> {
    let peer = connect(host, guest)?;
    peer.control
        .store_byte(peer.side.live(), 0, Ordering::Release);
    peer.port.notify()?;
    wait_until("the guest closed the channel", || has_closed(&peer))?;
    let memory = memory_of_a_session(guest)?;
    // The control page and two pages for each ring.
    ensure!(memory.ends_with(" 5 pages kept back"), "{memory}");
    drop(peer);
    Ok(())
}

/// A client that leaves the guest no time to wait: it hears `xl shutdown` all the same.
///
/// The guest is stopped in the middle of the conversation. While it stands still it is asked to end, and
/// given a ring full of bytes to answer and room for all answers. Whoever only hears where he waits
/// answers them all first.
pub(super) fn busy_shutdown(which: Which) -> Result<()> {
    let name = format!("busy-{}", which.kind);
    let extra = "read-size=1048576 write-size=1048576";
    let guest = Guest::unikernel(&name, which.kind, "echo-guest", 8, extra)?;
    guest.wait_for_server()?;
    let host = vchan::xen::host()?;
    let mut peer = connect(&host, &guest)?;
    let mut tries = 1;
    let until = program::latest(Duration::from_secs(60));
    while !paused_at_work(&guest, &mut peer)? {
        guest.xl(&["unpause"], &[])?;
        ensure!(
            Instant::now() < until,
            "it was asleep each of the {tries} times it was paused"
        );
        tries += 1;
    }
    let key = format!("/local/domain/{}/control/shutdown", guest.domid).parse()?;
    let store = host.store();
    store.write(&key, b"poweroff")?;
    // What the store has to tell the guest lies in the guest's ring before the store answers these.
    for _ in 0..10 {
        ensure!(store.read(&key)? == b"poweroff", "a paused guest has heard");
    }
    let prod = Ring::read_by(peer.side).prod();
    let before = peer.load(prod);
    guest.xl(&["unpause"], &[])?;
    wait_until("the guest closed the channel", || has_closed(&peer))?;
    let answered = peer.load(prod).wrapping_sub(before);
    println!("note: {answered} bytes were answered after the wish, try {tries}");
    ensure!(
        answered <= MOST_ANSWERED,
        "{answered} bytes were answered before the wish was heard"
    );
    drop(peer);
    guest.wait_for_end(HALF_A_MINUTE)
}

/// What the echo may answer before it hears a wish: what it answers at a time, and that again.
const MOST_ANSWERED: u32 = 2 * (64 << 10);

/// Pauses the guest while it is kept busy. Whether it was at work then, and not asleep; its ring is
/// full, and there is room for all answers.
fn paused_at_work(guest: &Guest, peer: &mut RawPeer) -> Result<bool> {
    let paused = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| busy_until(&paused, peer));
        let pause = guest.xl(&["pause"], &[]);
        paused.store(true, Ordering::Release);
        let was_at_work = busy.join().ok().context("the client panicked")?;
        pause.map(|()| was_at_work)
    })
}

/// Who is to sleep asks for an event before it. So a guest that has read something since it was sent
/// the last, and has not asked again, is at work.
fn busy_until(paused: &AtomicBool, peer: &RawPeer) -> bool {
    let consumed = || peer.load(Ring::written_by(peer.side).cons());
    let wishes = peer.side.asked_of_us();
    let mut woken_at = None;
    loop {
        let is_paused = paused.load(Ordering::Acquire);
        keep_busy(peer);
        let asks = peer.control.load_byte(wishes, Ordering::Acquire) != 0;
        if is_paused {
            return !asks && woken_at.is_some_and(|before| consumed() != before);
        }
        if asks || woken_at.is_none() {
            peer.control.store_byte(wishes, 0, Ordering::Release);
            fence(Ordering::SeqCst);
            woken_at = Some(consumed());
            let _ = peer.port.notify();
        }
    }
}

/// There is something to read, and room for the answer.
fn keep_busy(peer: &RawPeer) {
    let (written, read) = (Ring::written_by(peer.side), Ring::read_by(peer.side));
    let size = peer.bytes(written).2;
    let full = peer.load(written.cons()).wrapping_add(size);
    peer.store(written.prod(), full);
    peer.store(read.cons(), peer.load(read.prod()));
}

fn connect(host: &Host, guest: &Guest) -> Result<RawPeer> {
    let server: DomId = guest.domid.parse()?;
    let mut last = None;
    let connected = wait_until("the next vchan is there", || {
        match RawPeer::connect(host, server) {
            Ok(peer) => {
                last = Some(Ok(peer));
                true
            }
            Err(error) => {
                last = Some(Err(error));
                false
            }
        }
    });
    let peer: Result<RawPeer, Error> = last.context("it was tried")?;
    connected.and_then(|()| Ok(peer?))
}

fn has_closed(peer: &RawPeer) -> bool {
    let live = peer.side.peer().live();
    peer.control.load_byte(live, Ordering::Acquire) == 0
}

/// An honest session, and what the guest said of its memory at the beginning of it.
fn memory_of_a_session(guest: &Guest) -> Result<String> {
    // None of the hostile clients is answered so many. What a guest says is there a little later.
    let end = "has closed the channel after 16 bytes";
    let earlier = guest.console()?.matches(end).count();
    let ended = node_cli(&[&guest.domid], b"hello from dom0\n", HALF_A_MINUTE)?;
    expect_answer(ended, "HELLO FROM DOM0\n")?;
    let mut console = String::new();
    wait_until("the guest has seen the end of the session", || {
        console = guest.console().unwrap_or_default();
        console.matches(end).count() > earlier
    })?;
    let memory = (console.rsplit_once(end))
        .and_then(|(before, _)| before.rsplit_once("has connected"))
        .and_then(|(_, session)| session.split_once("memory: "))
        .and_then(|(_, memory)| memory.lines().next());
    Ok(memory
        .context("the guest does not tell its memory")?
        .trim()
        .to_owned())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let until = program::latest(HALF_A_MINUTE);
    while !is_so() {
        ensure!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
