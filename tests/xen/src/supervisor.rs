//! Runs every scenario in a process of its own: one that hangs is ended by its limit and named,
//! and the others still run.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::guests;
use crate::program::{Ended, LENIENCE, Program, latest};
use crate::report::report;
use crate::scenarios::Scenario;

/// Runs the scenarios whose name contains `part`, or one of the parts with commas between; fails if one of them does.
pub fn run(all: &[Scenario], part: &str) -> ExitCode {
    let mut failed = 0;
    for scenario in all.iter().filter(|one| is_meant(&one.name, part)) {
        report_start(scenario);
        guests::clear_xen_log();
        let began = Instant::now();
        let problem = run_repeatedly(scenario);
        let seconds = began.elapsed().as_secs_f64();
        match problem {
            None => report(&format!("pass {} {seconds:.1}", scenario.name)),
            Some(why) => {
                failed += 1;
                for line in why.lines().chain(guests::last_words().lines()) {
                    report(&format!("log {line}"));
                }
                report(&format!("fail {} {seconds:.1}", scenario.name));
            }
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether `name` contains one of the parts with commas between; those of the long run must be asked
/// for.
pub fn is_meant(name: &str, parts: &str) -> bool {
    let is_long = name.starts_with("long/");
    let is_asked_for = |part: &str| !is_long || part.starts_with("long");
    parts
        .split(',')
        .any(|part| name.contains(part) && is_asked_for(part))
}

/// Runs it again when Xen itself has crashed the guest meanwhile.
///
/// The emulated processor makes mistakes in hardware virtualisation when the real ones are busy:
/// a guest is then seen with the hypervisor's own registers. No program in a guest or in dom0 can
/// bring that about through the kernel's drivers, so it says nothing about this project. It is
/// reported each time, and three times in a row is a failure.
fn run_repeatedly(scenario: &Scenario) -> Option<String> {
    const MOST: usize = 3;
    let mut attempt = 1;
    loop {
        let problem = run_one(scenario)?;
        let Some(crash) = guests::crashed_by_xen().filter(|_| attempt < MOST) else {
            return Some(problem);
        };
        report_start(scenario);
        report(&format!(
            "note {}: Xen crashed the guest; attempt {attempt} does not count",
            scenario.name
        ));
        for line in crash.lines() {
            report(&format!("log {line}"));
        }
        guests::clear_xen_log();
        attempt += 1;
    }
}

/// What a scenario says on a line that begins so is shown also when it succeeds.
const NOTE: &str = "note: ";

/// What went wrong, if something did.
fn run_one(scenario: &Scenario) -> Option<String> {
    let mut command = Command::new("/proc/self/exe");
    // A process group, so that what the scenario started ends with it.
    command.args(["--one", &scenario.name]).process_group(0);
    let mut child = match Program::start(command) {
        Ok(child) => child,
        Err(error) => return Some(format!("{error:#}")),
    };
    let group = child.id();
    let ended = wait(&mut child, scenario.limit);
    // Also after success: nothing of this scenario may reach into the next.
    let _ = Command::new("kill")
        .args(["-KILL", &format!("-{group}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match ended {
        Ok(end) if end.status.success() => {
            let said = end.stdout_text();
            for note in said.lines().filter_map(|line| line.strip_prefix(NOTE)) {
                report(&format!("note {}: {note}", scenario.name));
            }
            None
        }
        Ok(end) => Some(format!("{}{}", end.stdout_text(), end.stderr_text())),
        Err(error) => Some(format!("ended by its limit: {error:#}")),
    }
}

/// Waits for its end, not long any more once Xen has crashed a guest: that one answers nothing.
fn wait(child: &mut Program, limit: Duration) -> Result<Ended> {
    /// Xen's log is looked at from then on, and so often: a scenario may crash a guest on purpose.
    const PAUSE: Duration = Duration::from_secs(30);
    let until = latest(limit);
    let mut look_at = Instant::now() + PAUSE;
    let mut crashed = false;
    while child.runs()? && Instant::now() < until {
        if look_at < Instant::now() {
            if crashed {
                break;
            }
            crashed = guests::crashed_by_xen().is_some();
            look_at = Instant::now() + PAUSE;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait(Duration::ZERO)
}

fn report_start(scenario: &Scenario) {
    report(&format!(
        "start {} {}",
        scenario.name,
        (scenario.limit * LENIENCE).as_secs()
    ));
}
