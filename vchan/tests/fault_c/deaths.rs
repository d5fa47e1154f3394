//! C1 and C4: peers that are killed, destroyed or paused at each of their steps.

use std::fmt::Display;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};
use vchan::{Client, Error};
use vchan_emulator::faults::{Verdict, gated};
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};

use crate::common::process::{self, Reaped};
use crate::common::steps::{self, FIRST, NOTICED, Role, SENT, Seen};
use crate::common::{LONG, bounded, pattern, wait_until};

/// What the child below is to do: its role, the signal that it sends to itself, and the step at
/// which it does: a number, or the name of a call.
const PLAN: &str = "VCHAN_TEST_PLAN";

/// Not a test, but what the others start: a leader in a process of its own.
#[test]
fn child() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let plan: Vec<&str> = plan.split(' ').collect();
    let role = match plan[0] {
        "server" => Role::Server,
        _ => Role::Client,
    };
    let signal = match plan[1] {
        "kill" => Signal::KILL,
        _ => Signal::STOP,
    };
    let step = plan[2].to_owned();
    let stopped = AtomicBool::new(false);
    let host = vchan_emulator::host_from_environment().unwrap();
    let host = gated(&host, move |call| {
        let now = step == call.name || step == call.nth.to_string();
        if now && !stopped.swap(true, Ordering::Relaxed) {
            rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
            // To be stopped takes a moment: not one in which this thread goes on.
            assert_eq!(std::io::stdin().read(&mut [0]).unwrap(), 1);
        }
        Verdict::Pass
    });
    steps::lead(role, &host, FIRST).unwrap();
}

/// Starts the child as a process of the domain of its role.
fn start(emulator: &Emulator, role: Role, signal: &str, step: impl Display) -> Reaped {
    let role_name = match role {
        Role::Server => "server",
        Role::Client => "client",
    };
    let process = process::again("deaths::child")
        .env(PLAN, format!("{role_name} {signal} {step}"))
        .env(DOMAIN_VARIABLE, emulator.domain_directory(role.domid()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    Reaped(process.unwrap())
}

/// A leader's process is killed at one step, and another takes its place. True when the step was
/// beyond the last.
fn killed_at(role: Role, step: u64) -> bool {
    let emulator = steps::emulator();
    let survivor = steps::survivor(role.other(), &emulator);
    let mut process = start(&emulator, role, "kill", step);
    let untouched = process.0.wait().unwrap().success();
    let seen = steps::conclude(role, &emulator, survivor);
    assert!(seen.len() <= 3, "step {step}: ghosts");
    let first = &seen[0];
    // The host tells of a process that died: as if it had closed.
    assert!(first.error.is_none(), "step {step}: {:?}", first.error);
    assert_eq!(first.pauses, 0, "step {step}");
    if untouched {
        assert_eq!(first.received, pattern(SENT, FIRST));
    }
    untouched
}

#[test]
fn fault_c01_a_server_killed_at_any_step() {
    bounded(|| {
        let steps = steps::until_untouched(4, |step| killed_at(Role::Server, step));
        assert!(steps > 15, "only {steps} steps");
    });
}

#[test]
fn fault_c01_a_client_killed_at_any_step() {
    bounded(|| {
        let steps = steps::until_untouched(4, |step| killed_at(Role::Client, step));
        assert!(steps > 9, "only {steps} steps");
    });
}

/// Between two calls to the host lies the copying of the bytes: a writer that never waits is killed
/// at random.
#[test]
fn fault_c01_a_writer_killed_between_its_steps() {
    if std::env::var(PLAN).is_ok() {
        let host = vchan_emulator::host_from_environment().unwrap();
        let mut channel = Client::builder(&host, Role::Server.domid())
            .connect()
            .unwrap();
        let sent = pattern(1 << 20, FIRST);
        loop {
            channel.write_all(&sent).unwrap();
        }
    }
    bounded(|| {
        let emulator = steps::emulator();
        let host = emulator.host(Role::Server.domid()).unwrap();
        let mut server = steps::server(&host).read_size(1 << 16).bind().unwrap();
        let sent = pattern(1 << 20, FIRST);
        let test = "deaths::fault_c01_a_writer_killed_between_its_steps";
        for round in 0..10 {
            let process = process::again(test)
                .env(PLAN, "writer")
                .env(
                    DOMAIN_VARIABLE,
                    emulator.domain_directory(Role::Client.domid()),
                )
                .stdout(Stdio::null())
                .spawn();
            let process = Reaped(process.unwrap());
            let mut channel = server.accept_timeout(LONG).unwrap();
            channel.set_read_timeout(Some(NOTICED));
            let killer = thread::spawn(move || {
                thread::sleep(Duration::from_micros(500 * round));
                drop(process);
            });
            let (mut place, mut buffer) = (0, vec![0; 5000]);
            loop {
                let wanted = buffer.len().min(sent.len() - place);
                let count = channel.read(&mut buffer[..wanted]).unwrap();
                if count == 0 {
                    break;
                }
                assert!(buffer[..count] == sent[place..place + count]);
                place = (place + count) % sent.len();
            }
            killer.join().unwrap();
        }
        drop((server, host));
        emulator.assert_clean();
    });
}

/// A leader's domain is destroyed at one step, without a word to anyone, and a new one of the same
/// number exists at once.
fn destroyed_at(role: Role, step: u64, died: &AtomicU64) -> bool {
    let emulator = steps::emulator();
    let survivor = steps::survivor(role.other(), &emulator);
    let host = emulator.host(role.domid()).unwrap();
    let (sender, events) = mpsc::channel();
    // A domain that is gone does nothing any more, so its leader stays where it is to the end.
    let (release, released) = mpsc::channel::<()>();
    let first = {
        let (emulator, sender) = (Arc::downgrade(&emulator), sender.clone());
        let released = Mutex::new(released);
        gated(&host, move |call| {
            if call.nth == step
                && let Some(emulator) = emulator.upgrade()
            {
                emulator.destroy_domain(role.domid()).unwrap();
                emulator.add_domain(role.domid()).unwrap();
                sender.send(None).unwrap();
                drop(emulator);
                _ = released.lock().unwrap().recv();
            }
            Verdict::Pass
        })
    };
    drop(host);
    thread::spawn(move || sender.send(Some(steps::lead(role, &first, FIRST))));
    let untouched = match events.recv_timeout(2 * NOTICED).unwrap() {
        None => false,
        Some(led) => {
            led.unwrap();
            true
        }
    };
    let seen = steps::conclude(role, &emulator, survivor);
    assert_eq!(seen[0].pauses, 0, "step {step}");
    for Seen { error, .. } in &seen {
        match error {
            None => {}
            Some(Error::PeerDied) => _ = died.fetch_add(1, Ordering::Relaxed),
            Some(error) => panic!("step {step}: {error}"),
        }
    }
    drop(release);
    untouched
}

#[test]
fn fault_c04_c06_a_servers_domain_destroyed_at_any_step_and_its_number_used_again() {
    bounded(|| {
        let died = AtomicU64::new(0);
        let steps = steps::until_untouched(12, |step| destroyed_at(Role::Server, step, &died));
        let died = died.into_inner();
        assert!(died > 3, "noticed only {died} times");
        assert!(steps > 15, "only {steps} steps");
    });
}

#[test]
fn fault_c04_c06_a_clients_domain_destroyed_at_any_step_and_its_number_used_again() {
    bounded(|| {
        let died = AtomicU64::new(0);
        let steps = steps::until_untouched(12, |step| destroyed_at(Role::Client, step, &died));
        let died = died.into_inner();
        assert!(died > 3, "noticed only {died} times");
        assert!(steps > 9, "only {steps} steps");
    });
}

#[test]
fn fault_c04_a_paused_peer_is_not_a_dead_one() {
    bounded(|| {
        thread::scope(|scope| {
            for (role, step, while_connected) in [
                (Role::Server, "set_permissions", false),
                (Role::Server, "remove", true),
                (Role::Server, "close", false),
                (Role::Client, "map", false),
                (Role::Client, "notify", true),
                (Role::Client, "unmap", false),
            ] {
                scope.spawn(move || paused_at(role, step, while_connected));
            }
        });
    });
}

/// Waits until a process has stopped itself (true) or ended.
fn stopped(process: &Child) -> bool {
    let pid = Pid::from_child(process);
    let (_, status) = rustix::process::waitpid(Some(pid), WaitOptions::UNTRACED)
        .unwrap()
        .unwrap();
    status.stopped()
}

/// A leader's process stops at one step for longer than a probe's interval, and goes on. When it
/// stops while it is connected and has not closed, the survivor's patience must have ended before
/// it does.
fn paused_at(role: Role, step: &str, while_connected: bool) {
    let emulator = steps::emulator();
    let pauses = Arc::new(AtomicUsize::new(0));
    let survivor = steps::impatient_survivor(role.other(), &emulator, &pauses);
    let mut process = start(&emulator, role, "stop", step);
    assert!(stopped(&process.0), "{role:?} has no step {step}");
    if while_connected {
        wait_until(|| pauses.load(Ordering::Relaxed) >= 2);
    } else {
        thread::sleep(2 * steps::IMPATIENT);
    }
    rustix::process::kill_process(Pid::from_child(&process.0), Signal::CONT).unwrap();
    let mut input = process.0.stdin.take().unwrap();
    input.write_all(b"\n").unwrap();
    assert!(!stopped(&process.0));
    let seen = steps::conclude(role, &emulator, survivor);
    assert_eq!(seen[0].received, pattern(SENT, FIRST), "{role:?} {step}");
    assert!(
        seen[0].error.is_none(),
        "{role:?} {step}: {:?}",
        seen[0].error
    );
}
