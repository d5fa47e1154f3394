//! A guest in which Debian's libxenvchan and vchan-socket-proxy serve.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::echo_guest::guest_destroyed;
use super::{HALF_A_MINUTE, OfKind, expect_answer, four_mebibytes, node_cli, vchan_peer};
use crate::guests::{Guest, Image, Kind};
use crate::program::Program;
use crate::store;

pub(super) const SCENARIOS: &[OfKind] = &[
    ("xl-create", 240, |kind| c(kind).map(drop)),
    ("c-client", 90, c_client),
    ("node-cli", 60, session),
    ("4-mib", 240, four_mib),
    ("node-cli-server", 60, node_cli_server),
    ("socket-proxy-server", 60, socket_proxy_server),
    ("guest-destroyed", 90, |kind| guest_destroyed(c(kind)?)),
];

fn c(kind: Kind) -> Result<Guest> {
    Guest::running(kind, Image::C)
}

/// C to C: what the rig itself can do, before anything of this project takes part.
fn c_client(kind: Kind) -> Result<()> {
    let guest = c(kind)?;
    let arguments = [
        "bulk",
        "client",
        &guest.domid,
        &guest.path("vchan"),
        "-n",
        "1000000",
    ];
    vchan_peer(&arguments, &[], Duration::from_secs(80))?.successful("the C client")?;
    Ok(())
}

fn session(kind: Kind) -> Result<()> {
    let guest = c(kind)?;
    let ended = node_cli(&[&guest.domid], b"hello from dom0\n", HALF_A_MINUTE)?;
    expect_answer(ended, "HELLO FROM DOM0\n")
}

fn four_mib(kind: Kind) -> Result<()> {
    four_mebibytes(&[&c(kind)?.domid])
}

/// node-cli serves in dom0, the C library is the client in the guest and echoes.
fn node_cli_server(kind: Kind) -> Result<()> {
    let guest = c(kind)?;
    let arguments = [
        "--server",
        &guest.domid,
        "--nodepath",
        "/local/domain/0/data/to-guest",
    ];
    let ended = node_cli(&arguments, b"hello from dom0\n", HALF_A_MINUTE)?;
    expect_answer(ended, "HELLO FROM DOM0\n")
}

/// Debian's vchan-socket-proxy as the server; behind it the bytes come back as they were.
fn socket_proxy_server(kind: Kind) -> Result<()> {
    let guest = c(kind)?;
    let path = guest.path("proxy");
    store::wait_for_keys(&path, true, HALF_A_MINUTE)?;
    let mut command = Command::new("node-cli");
    command.args([guest.domid.as_str(), "--nodepath", &path]);
    let mut client = Program::start(command)?;
    client.expect_error_output("Correctly bound evtchn number", HALF_A_MINUTE)?;
    // The proxy forgets to look for data after it has seen the client come: what is written
    // before that stays unread until the next write.
    std::thread::sleep(Duration::from_secs(1));
    client.send(b"hello from dom0\n")?;
    expect_answer(client.finish(HALF_A_MINUTE)?, "hello from dom0\n")
}
