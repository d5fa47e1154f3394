//! The host and its domains in processes of their own, and what happens when one dies.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vchan::DomId;
use vchan::host::{EventChannel, GrantRef, Port, UnmapNotify};
use vchan::memory::Access;
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};

/// Nothing here takes so long, even on a machine that stops for a while.
const LIMIT: Duration = Duration::from_secs(30);

/// What the child below is to do.
const ROLE: &str = "VCHAN_TEST_ROLE";

fn domid(number: u16) -> DomId {
    DomId::new(number).unwrap()
}

/// Waits for something that another process causes.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < LIMIT, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes the next event, waiting for it.
fn event(channel: &dyn EventChannel) {
    channel.sleep(Some(LIMIT)).unwrap();
    assert!(channel.take().unwrap(), "no event comes");
    channel.unmask().unwrap();
}

/// This program again, as a process of a domain, in the role that is one of the tests below.
fn spawn(domain: &Path, role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DOMAIN_VARIABLE, domain)
        .env(ROLE, role)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test, but what the others start: a process of domain 0 that joins in and waits to be
/// killed. It finds a page of domain 1 at grant 8 and a port at 4.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let host = vchan_emulator::host_from_environment().unwrap();
    let channel = host.events().bind_interdomain(domid(1), Port(4)).unwrap();
    let notify = Some(UnmapNotify {
        offset: 20,
        port: channel.port(),
    });
    let rw = Access::ReadWrite;
    let page = host
        .grants()
        .map(domid(1), &[GrantRef(8)], rw, notify)
        .unwrap();
    let shared = host.grants().share(domid(1), 2, rw, None).unwrap();
    page.store_byte(20, 1, Ordering::SeqCst);
    page.store_byte(
        21,
        u8::try_from(shared.references[0].0).unwrap(),
        Ordering::SeqCst,
    );
    channel.notify().unwrap();
    if role == "wait" {
        std::thread::sleep(4 * LIMIT);
    }
}

#[test]
fn a_killed_process_is_noticed_and_cleaned_up_after() {
    let emulator = Emulator::start().unwrap();
    emulator.add_domain(domid(0)).unwrap();
    emulator.add_domain(domid(1)).unwrap();
    let guest = emulator.host(domid(1)).unwrap();
    for role in ["wait", "wait", "end"] {
        let channel = guest.events().bind_unbound(DomId::DOM0).unwrap();
        let shared = guest
            .grants()
            .share(DomId::DOM0, 1, Access::ReadWrite, None)
            .unwrap();
        assert_eq!(
            (channel.port(), shared.references[0]),
            (Port(4), GrantRef(8))
        );

        let mut process = spawn(&emulator.domain_directory(domid(0)), role);
        let byte = |offset| shared.region.load_byte(offset, Ordering::SeqCst);
        event(&*channel);
        assert_eq!(byte(21), 8, "it has shared pages of its own");
        if role == "wait" {
            assert_eq!(byte(20), 1);
            assert_eq!(channel.is_bound().unwrap(), Some(true));
            process.kill().unwrap();
        }
        process.wait().unwrap();
        eventually("the notice", || byte(20) == 0);
        if role == "wait" {
            event(&*channel);
        }
        eventually("the closing of its port", || {
            channel.is_bound().unwrap() == Some(false)
        });
        drop((channel, shared));
        emulator.assert_clean();
    }
}

#[test]
fn a_mapped_page_outlives_its_killed_owner() {
    let emulator = Emulator::start().unwrap();
    emulator.add_domain(domid(0)).unwrap();
    emulator.add_domain(domid(1)).unwrap();
    let guest = emulator.host(domid(1)).unwrap();
    let channel = guest.events().bind_unbound(DomId::DOM0).unwrap();
    let _shared = guest
        .grants()
        .share(DomId::DOM0, 1, Access::ReadWrite, None)
        .unwrap();
    let mut process = spawn(&emulator.domain_directory(domid(0)), "wait");
    event(&*channel);
    let mapped = guest
        .grants()
        .map(DomId::DOM0, &[GrantRef(8)], Access::ReadWrite, None)
        .unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    eventually("the end of the grant", || {
        emulator
            .leftovers()
            .iter()
            .any(|it| it.contains("kept back, mapped 1 times"))
    });
    mapped.copy_in(0, b"still here");
    drop(mapped);
    assert!(
        !emulator
            .leftovers()
            .iter()
            .any(|it| it.contains("kept back"))
    );
}

/// The host as a program, and the directories of domains 0 and 1.
fn host_process(directory: &Path) -> (Child, [PathBuf; 2]) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_emulated-host"))
        .arg(directory)
        .args(["0", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let domains = [(); 2].map(|()| {
        let line = lines.next().unwrap().unwrap();
        let (variable, domain) = line.split_once('=').unwrap();
        assert_eq!(variable, DOMAIN_VARIABLE);
        PathBuf::from(domain)
    });
    (process, domains)
}

#[test]
fn a_host_process_serves_until_its_input_ends() {
    let directory = std::env::temp_dir().join(format!("emulated-host-a-{}", std::process::id()));
    let (mut process, domains) = host_process(&directory);
    let [dom0, guest] = domains.map(|domain| vchan_emulator::join(&domain).unwrap());
    let shared = guest
        .grants()
        .share(DomId::DOM0, 1, Access::ReadWrite, None)
        .unwrap();
    let mapped = dom0
        .grants()
        .map(domid(1), &shared.references, Access::ReadOnly, None)
        .unwrap();
    shared.region.copy_in(0, b"hello");
    let mut bytes = [0; 5];
    mapped.copy_out(0, &mut bytes);
    assert_eq!(&bytes, b"hello");
    let name = guest.store().read(&"name".parse().unwrap()).unwrap();
    assert_eq!(name, b"domain-1");
    drop(process.stdin.take());
    assert!(process.wait().unwrap().success());
    let left = std::fs::read_dir(&directory).unwrap().count();
    assert_eq!(left, 0, "it has removed its sockets");
    std::fs::remove_dir(&directory).unwrap();
    // Dropping what it gave must neither fail nor hang.
    drop((shared, mapped));
}

#[test]
fn a_killed_host_is_an_error_and_can_be_started_again() {
    let directory = std::env::temp_dir().join(format!("emulated-host-b-{}", std::process::id()));
    let (mut process, [dom0, _]) = host_process(&directory);
    let host = vchan_emulator::join(&dom0).unwrap();
    let channel = host.events().bind_unbound(domid(1)).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    let error = channel.is_bound().unwrap_err().to_string();
    assert!(error.contains("the emulated host is gone"), "{error}");
    assert!(host.store().read(&"name".parse().unwrap()).is_err());
    let error = vchan_emulator::join(&dom0).unwrap_err().to_string();
    assert!(error.contains("is the emulated host running"), "{error}");

    let (mut process, [dom0, _]) = host_process(&directory);
    let host = vchan_emulator::join(&dom0).unwrap();
    assert!(host.events().bind_unbound(domid(1)).is_ok());
    let error = Emulator::start_at(&directory)
        .unwrap()
        .add_domain(domid(0))
        .unwrap_err();
    assert!(
        error.to_string().contains("is its directory in use"),
        "{error}"
    );
    assert!(
        vchan_emulator::join(&dom0).is_ok(),
        "the attempt has not harmed it"
    );
    drop(process.stdin.take());
    assert!(process.wait().unwrap().success());
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn the_program_says_how_it_is_used() {
    for (arguments, expected) in [
        (&[][..], "Usage"),
        (&["/nowhere"], "Usage"),
        (&["/nowhere", "dom0"], "a domid is a whole number"),
        (&["/proc/no-such-place", "0"], "cannot make the directory"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_emulated-host"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
