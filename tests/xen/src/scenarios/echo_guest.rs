//! The project's echo guest, on Linux and on bare Xen, and everybody who may talk to it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xenstore_rs::Xs;
use xenstore_rs::unix::XsUnix;

use super::{
    HALF_A_MINUTE, OfGuest, expect_answer, expect_refusal, four_mebibytes, node_cli, vchan_peer,
};
use crate::guests::{Guest, Which};
use crate::program::Program;
use crate::store;

pub(super) const SCENARIOS: &[OfGuest] = &[
    ("xl-create", 240, |which| which.running().map(drop)),
    ("permissions", 30, permissions),
    ("xenstore-rs", 30, xenstore_rs_reads_the_keys),
    ("node-cli", 60, session),
    ("keys-are-fresh", 60, keys_are_fresh),
    ("c-client-stream", 90, c_client_stream),
    ("c-client-datagrams", 90, c_client_datagrams),
    ("socket-proxy", 60, socket_proxy),
    ("4-mib", 240, four_mib),
    ("client-killed", 90, client_killed),
    ("paused", 90, paused),
    ("third-domain", 300, super::ordered_guest::third_domain),
    ("guest-destroyed", 90, |which| {
        guest_destroyed(which.running()?)
    }),
];

/// Both keys: owned by the guest, no default access, readable by domain 0 and nobody else.
fn permissions(which: Which) -> Result<()> {
    let guest = which.running()?;
    let (ring, port) = store::keys(&guest.path("vchan"))?.context("the keys are gone")?;
    let expected = format!("n{},r0", guest.domid);
    for node in [ring, port] {
        ensure!(
            node.permissions == expected,
            "{node:?} instead of ({expected})"
        );
        ensure!(
            node.value.parse::<u32>().is_ok_and(|n| n > 0),
            "{node:?} is not a number"
        );
    }
    Ok(())
}

/// A XenStore client in Rust that is not ours finds the channel.
fn xenstore_rs_reads_the_keys(which: Which) -> Result<()> {
    let path = which.running()?.path("vchan");
    let (ring, port) = store::keys(&path)?.context("the keys are gone")?;
    let client = XsUnix::new().context("xenstore-rs cannot reach xenstored")?;
    let names = client.directory(&path)?;
    for (key, node) in [("ring-ref", ring), ("event-channel", port)] {
        ensure!(
            names.iter().any(|name| &**name == key),
            "{key} is not in {names:?}"
        );
        let value = client.read(&format!("{path}/{key}"))?;
        ensure!(
            *value == *node.value,
            "xenstore-rs reads {value:?}, xenstore-ls {node:?}"
        );
    }
    Ok(())
}

/// The session: what is typed, what comes back, and what is said on standard error.
fn session(which: Which) -> Result<()> {
    let guest = which.running()?;
    let (ring, port) = store::keys(&guest.path("vchan"))?.context("the keys are gone")?;
    let ended = node_cli(&[&guest.domid], b"hello from dom0\n", HALF_A_MINUTE)?;
    let said = ended.stderr_text();
    expect_answer(ended, "HELLO FROM DOM0\n")?;
    let received = format!(
        "Client initializing: Received gntref = {}, evtchn = {}",
        ring.value, port.value
    );
    // Orders 13 and 13, no client yet, the server alive and waiting for a write.
    let header = "0d 00 0d 00 02 01 01 00";
    for line in [
        received.as_str(),
        "Mapped the ring shared page:",
        header,
        "Correctly bound evtchn number",
    ] {
        ensure!(
            said.contains(line),
            "standard error does not say {line:?}:\n{said}"
        );
    }
    Ok(())
}

/// While a client is connected nobody else can find the channel; afterwards there is a new one.
fn keys_are_fresh(which: Which) -> Result<()> {
    let guest = which.running()?;
    let path = guest.path("vchan");
    let client = connected(&guest)?;
    store::wait_for_keys(&path, false, HALF_A_MINUTE)?;
    client.finish(HALF_A_MINUTE)?.successful("node-cli")?;
    store::wait_for_keys(&path, true, HALF_A_MINUTE)
}

fn c_client_stream(which: Which) -> Result<()> {
    let guest = which.running()?;
    let path = guest.path("vchan");
    let limit = Duration::from_secs(80);
    vchan_peer(
        &["bulk", "client", &guest.domid, &path, "-n", "1000000"],
        &[],
        limit,
    )?
    .successful("the C client")?;
    let ended = vchan_peer(
        &["pipe", "client", &guest.domid, &path],
        b"hello from dom0\n",
        limit,
    )?;
    expect_answer(ended, "HELLO FROM DOM0\n")
}

fn c_client_datagrams(which: Which) -> Result<()> {
    let guest = which.running()?;
    let path = guest.path("vchan");
    let arguments = [
        "bulk",
        "client",
        &guest.domid,
        &path,
        "-n",
        "200000",
        "-d",
        "1000",
    ];
    vchan_peer(&arguments, &[], Duration::from_secs(80))?.successful("the C client")?;
    Ok(())
}

/// Debian's vchan-socket-proxy as the client.
fn socket_proxy(which: Which) -> Result<()> {
    let guest = which.running()?;
    let mut command = std::process::Command::new("vchan-socket-proxy");
    command.args([&guest.domid, &guest.path("vchan"), "-"]);
    let mut proxy = Program::start(command)?;
    proxy.send(b"hello from dom0\n")?;
    proxy.expect_output("HELLO FROM DOM0\n", HALF_A_MINUTE)
}

fn four_mib(which: Which) -> Result<()> {
    four_mebibytes(&[&which.running()?.domid])
}

/// A client that dies without a word must not keep the next one out.
fn client_killed(which: Which) -> Result<()> {
    let guest = which.running()?;
    connected(&guest)?.kill()?;
    let ended = node_cli(&[&guest.domid], b"hello from dom0\n", HALF_A_MINUTE)?;
    expect_answer(ended, "HELLO FROM DOM0\n")
}

/// A domain that is paused does nothing for as long as somebody likes, and is not dead.
fn paused(which: Which) -> Result<()> {
    /// Waits ask once a second whether the peer still lives.
    const PAUSE: Duration = Duration::from_secs(3);
    let guest = which.running()?;
    let mut client = connected(&guest)?;
    guest.xl(&["pause"], &[])?;
    let waited = client
        .send(b"second line\n")
        .and_then(|()| client.stays_silent(PAUSE));
    // Whatever came of it: the next scenario needs the guest.
    guest.xl(&["unpause"], &[])?;
    waited.context("while the guest was paused")?;
    client.expect_output("SECOND LINE\n", HALF_A_MINUTE)?;
    client.finish(HALF_A_MINUTE)?.successful("node-cli")?;
    Ok(())
}

/// A domain that is destroyed closes nothing and sends no event: node-cli must find out.
pub(super) fn guest_destroyed(guest: Guest) -> Result<()> {
    let mut client = connected(&guest)?;
    guest.destroy()?;
    let began = Instant::now();
    // Its input stays open: it must end by itself.
    let ended = client.wait(Duration::from_secs(15))?;
    expect_refusal(&ended, &["gone", "closed", "destroyed", "ended", "died"])?;
    println!(
        "node-cli ended after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// node-cli after its first answer: connected beyond doubt.
pub(super) fn connected(guest: &Guest) -> Result<Program> {
    let mut command = std::process::Command::new("node-cli");
    command.arg(&guest.domid);
    let mut client = Program::start(command)?;
    client.expect_error_output("Correctly bound evtchn number", HALF_A_MINUTE)?;
    client.send(b"first line\n")?;
    client.expect_output("FIRST LINE\n", HALF_A_MINUTE)?;
    Ok(client)
}
