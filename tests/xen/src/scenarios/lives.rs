//! Guests that are saved and restored, numbers that are used again, and nothing that grows.

use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vchan::{Client, DomId, Host};

use super::echo_guest::connected;
use super::growth::grows_not;
use super::{HALF_A_MINUTE, OfKind, expect_answer, expect_refusal, node_cli};
use crate::guests::{Guest, Image, Kind};
use crate::program::{self, Ended, Program};
use crate::store;

/// Of one Linux guest with the echo.
pub(super) const SCENARIOS: &[OfKind] = &[
    ("soak", 300, soak),
    ("open-close", 300, open_close),
    ("restored", 300, restored),
    ("number-used-again", 300, number_used_again),
    ("destroyed", 60, |kind| echo(kind)?.destroy()),
];

const SAVED: &str = "/tmp/saved";
/// How long saving and restoring may take, and how long it may be until a peer has noticed.
const PATIENCE: Duration = Duration::from_secs(60);

fn echo(kind: Kind) -> Result<Guest> {
    Guest::running(kind, Image::EchoGuest)
}

/// A guest is saved and restored, at first under a connected client and then while its server
/// waits. The client learns that its peer's domain is gone. The server offers a fresh channel under
/// the guest's new number, each time.
fn restored(kind: Kind) -> Result<()> {
    let mut guest = echo(kind)?;
    for is_connected in [true, false] {
        let client = is_connected.then(|| connected(&guest)).transpose()?;
        guest.xl(&["save"], &[SAVED])?;
        if let Some(mut client) = client {
            // Its input stays open: it must end by itself.
            expect_refusal(&client.wait(PATIENCE)?, &["gone"])?;
        }
        restore()?.successful("xl restore")?;
        let restored = echo(kind)?;
        ensure!(restored.domid != guest.domid, "it has its old number");
        guest = restored;
        served(&guest).with_context(|| format!("restored, client before: {is_connected}"))?;
    }
    fs::remove_file(SAVED)?;
    Ok(())
}

/// A snapshot changes nothing for a connected client. When the guest is destroyed then, Xen keeps
/// its number as long as the client has its pages mapped, and gives it to another guest once the
/// client has seen its end; a new client is served by that one.
fn number_used_again(kind: Kind) -> Result<()> {
    let guest = echo(kind)?;
    let mut client = connected(&guest)?;
    guest.xl(&["save", "-c", "-D"], &[SAVED])?;
    client.send(b"second line\n")?;
    client.expect_output("SECOND LINE\n", PATIENCE)?;

    // It cannot notice anything now.
    signal(&client, "-STOP")?;
    guest.xl(&["destroy"], &[])?;
    let refused = restore()?;
    let said = refused.stderr_text();
    ensure!(
        !refused.status.success() && said.contains("domain creation fail"),
        "Xen gave away the number of a domain whose pages are mapped: {}\n{said}",
        refused.status
    );
    signal(&client, "-CONT")?;
    expect_refusal(&client.wait(PATIENCE)?, &["gone"])?;

    // It waits for a server of whoever has the number.
    let mut command = std::process::Command::new("node-cli");
    command.args([guest.domid.as_str(), "--timeout", "60"]);
    let mut next = Program::start(command)?;
    next.expect_error_output("waiting for a vchan server", HALF_A_MINUTE)?;
    restore()?.successful("xl restore")?;
    next.send(b"hello from dom0\n")?;
    next.expect_output("HELLO FROM DOM0\n", PATIENCE)?;
    next.finish(HALF_A_MINUTE)?.successful("node-cli")?;
    let restored = echo(kind)?;
    let (new, old) = (&restored.domid, &guest.domid);
    ensure!(new == old, "the number is {new} instead of {old}");
    served(&restored)?;
    fs::remove_file(SAVED)?;
    Ok(())
}

fn restore() -> Result<Ended> {
    // By itself xl gives a number to nobody for a minute.
    let words = ["env", "LIBXL_DOMID_REUSE_TIMEOUT=0", "xl", "restore", SAVED];
    program::run(&words, &[], PATIENCE)
}

fn signal(program: &Program, signal: &str) -> Result<()> {
    let id = program.id().to_string();
    program::run(&["kill", signal, &id], &[], HALF_A_MINUTE)?.successful("kill")?;
    Ok(())
}

/// A session with the guest, whose kernel is well.
fn served(guest: &Guest) -> Result<()> {
    let ended = node_cli(&[&guest.domid], b"hello from dom0\n", PATIENCE)?;
    expect_answer(ended, "HELLO FROM DOM0\n")?;
    let console = guest.console()?;
    let complaint = console.lines().find(|line| line.contains("kernel BUG"));
    ensure!(complaint.is_none(), "the guest's kernel: {complaint:?}");
    Ok(())
}

/// Random traffic, and clients that are killed in the middle of it. `cargo xtask soak --xen` is
/// this for longer.
fn soak(kind: Kind) -> Result<()> {
    let guest = echo(kind)?;
    let words = ["vchan-soak", "clients", &guest.domid, "--gib=0.001"];
    let ended = program::run(
        &[&words[..], &["--client-gib=0.0005", "--seed=7"]].concat(),
        &[],
        Duration::from_secs(290),
    )?;
    let said = ended.successful("vchan-soak")?.stdout_text();
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        last.starts_with("passed: ") && !last.ends_with(" 0 killed"),
        "{said}"
    );
    Ok(())
}

/// One program that connects and closes again and again. Its devices are opened for the first
/// channel and stay open; nothing else may stay.
fn open_close(kind: Kind) -> Result<()> {
    let guest = echo(kind)?;
    let host = vchan::xen::host()?;
    let path = guest.path("vchan");
    grows_not(8, || {
        open_and_close(&host, &guest)?;
        store::wait_for_keys(&path, true, PATIENCE)
    })
    .map(drop)
}

fn open_and_close(host: &Host, guest: &Guest) -> Result<()> {
    let domid: DomId = guest.domid.parse()?;
    let mut channel = Client::builder(host, domid).timeout(PATIENCE).connect()?;
    channel.set_read_timeout(Some(PATIENCE));
    channel.write_all(b"once more")?;
    let mut answer = [0; 9];
    channel.read_exact(&mut answer)?;
    ensure!(answer == *b"ONCE MORE", "{answer:?}");
    // As a wait of more than a second would: it opens the device for that at the first time.
    channel.probe()?;
    Ok(())
}
