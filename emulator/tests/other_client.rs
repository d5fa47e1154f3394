//! The crate `xenstore-rs`, a XenStore client that others wrote, on the emulated store.
//!
//! It takes the socket's path from the environment, so its tests run in processes of their own.

use std::path::Path;
use std::process::Command;

use vchan::DomId;
use vchan_emulator::Emulator;
use xenstore_rs::Xs;
use xenstore_rs::unix::XsUnix;

/// Says that this is a process of the domain whose store `XENSTORED_PATH` names.
const ROLE: &str = "VCHAN_TEST_ROLE";

/// Not a test, but what the test below starts.
#[test]
fn child() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let store = XsUnix::new().unwrap();
    assert_eq!(&*store.read("domid").unwrap(), "1");
    store.write("data/vchan/ring-ref", "8").unwrap();
    store.write("data/vchan/event-channel", "4").unwrap();
    assert_eq!(
        &*store
            .read("/local/domain/1/data/vchan/event-channel")
            .unwrap(),
        "4"
    );
    let listed = store.directory("data/vchan").unwrap();
    assert_eq!(listed, [Box::from("ring-ref"), Box::from("event-channel")]);
    store.rm("data/vchan/event-channel").unwrap();
    assert_eq!(
        store.read("data/vchan/event-channel").unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
    assert!(store.write("name", "another").is_err());
}

#[test]
fn a_client_of_another_make_reads_and_writes() {
    let emulator = Emulator::start().unwrap();
    let guest = DomId::new(1).unwrap();
    emulator.add_domain(DomId::DOM0).unwrap();
    emulator.add_domain(guest).unwrap();
    run_child(&emulator.domain_directory(guest).join("xenstored"));
    let dom0 = emulator.host(DomId::DOM0).unwrap();
    let key = "/local/domain/1/data/vchan/ring-ref".parse().unwrap();
    assert_eq!(dom0.store().read(&key).unwrap(), b"8");
    dom0.store()
        .remove(&"/local/domain/1/data/vchan".parse().unwrap())
        .unwrap();
    emulator.assert_clean();
}

fn run_child(store: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child"])
        .env("XENSTORED_PATH", store)
        .env(ROLE, "client")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
