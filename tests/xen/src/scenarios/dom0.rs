//! What goes wrong in dom0 itself must be named.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{HALF_A_MINUTE, InAll, expect_refusal, node_cli};
use crate::program;
use crate::store;

/// A domid that no guest here has.
const NOBODY: &str = "4242";
const SERVED: &str = "/local/domain/0/data/scenario";

pub(super) const SCENARIOS: &[InAll] = &[
    ("own-domid", 30, own_domid),
    ("nobody-serves", 30, nobody_serves),
    ("nobody-connects", 30, nobody_connects),
    ("device-missing", 30, device_missing),
    ("device-forbidden", 30, device_forbidden),
    ("xenstored-unreachable", 30, xenstored_unreachable),
];

/// A channel to oneself crashes some kernels.
fn own_domid() -> Result<()> {
    for arguments in [
        ["0", "--timeout", "5"].as_slice(),
        &["--server", "0", "--timeout", "5"],
    ] {
        let ended = node_cli(arguments, &[], HALF_A_MINUTE)?;
        expect_refusal(&ended, &["own dom", "itself", "same domain", "own id"])?;
    }
    Ok(())
}

fn nobody_serves() -> Result<()> {
    let ended = node_cli(&[NOBODY, "--timeout", "2"], &[], Duration::from_secs(10))?;
    expect_refusal(&ended, &["timed out", "no server", "within", "not there"])
}

/// A server whose client does not come gives up, and takes its keys along.
fn nobody_connects() -> Result<()> {
    let arguments = ["--server", NOBODY, "--nodepath", SERVED, "--timeout", "3"];
    let ended = node_cli(&arguments, &[], Duration::from_secs(15))?;
    expect_refusal(&ended, &["timed out", "no client", "within"])?;
    store::wait_for_keys(SERVED, false, Duration::from_secs(5))
}

fn device_missing() -> Result<()> {
    for (device, module) in [
        ("/dev/xen/evtchn", "xen-evtchn"),
        ("/dev/xen/gntalloc", "xen-gntalloc"),
    ] {
        let _hidden = Hidden::new(device)?;
        let arguments = ["--server", NOBODY, "--nodepath", SERVED, "--timeout", "3"];
        let ended = node_cli(&arguments, &[], Duration::from_secs(15))?;
        for part in [device, module] {
            expect_refusal(&ended, &[part]).with_context(|| format!("{device} is missing"))?;
        }
    }
    Ok(())
}

/// An ordinary user is told which file was refused.
fn device_forbidden() -> Result<()> {
    // XenStore must be reachable, or that is what node-cli complains about.
    program::run(
        &["chmod", "666", "/run/xenstored/socket"],
        &[],
        HALF_A_MINUTE,
    )?
    .successful("chmod")?;
    let line = format!("/opt/rig/node-cli --server {NOBODY} --nodepath {SERVED} --timeout 3");
    let ended = program::run(&["su", "user", "-c", &line], &[], HALF_A_MINUTE)?;
    program::run(
        &["chmod", "600", "/run/xenstored/socket"],
        &[],
        HALF_A_MINUTE,
    )?
    .successful("chmod")?;
    expect_refusal(&ended, &["/dev/xen/"])?;
    expect_refusal(
        &ended,
        &["permission denied", "not permitted", "forbidden", "root"],
    )
}

fn xenstored_unreachable() -> Result<()> {
    let _socket = Hidden::new("/run/xenstored/socket")?;
    let _device = Hidden::new("/dev/xen/xenbus")?;
    let ended = node_cli(&[NOBODY, "--timeout", "3"], &[], Duration::from_secs(15))?;
    expect_refusal(&ended, &["xenstore"])?;
    ensure!(
        ended.stderr_text().contains("/run/xenstored/socket"),
        "the message does not name the socket:\n{}",
        ended.stderr_text()
    );
    Ok(())
}

/// A file out of the way until this is dropped.
struct Hidden(&'static str);

impl Hidden {
    fn new(path: &'static str) -> Result<Self> {
        fs::rename(path, away(path)).with_context(|| format!("cannot move {path} away"))?;
        Ok(Self(path))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = fs::rename(away(self.0), self.0) {
            eprintln!("cannot put {} back: {error}", Path::new(self.0).display());
        }
    }
}

fn away(path: &str) -> String {
    format!("{path}.away")
}
