//! Test programs that run themselves again, as processes of their own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set in a process that [`alone`] has started.
const ALONE: &str = "VCHAN_TEST_ALONE";

/// This program again, to run one of its tests and no other.
pub fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--include-ignored"]);
    command
}

/// Runs `work` in a process in which no other test runs: for counting what a process has.
pub fn alone(test: &str, limit: Duration, work: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    let mut process = Reaped(
        again(test)
            .env(ALONE, test)
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let since = Instant::now();
    loop {
        if let Some(status) = process.0.try_wait().unwrap() {
            assert!(status.success(), "{test} fails in a process of its own");
            return;
        }
        assert!(since.elapsed() < limit, "{test} hangs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child process that does not outlive its test.
pub struct Reaped(pub Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended long since.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The descriptors that this process has.
pub fn descriptors() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = entries.map(|entry| entry.unwrap().file_name());
    numbers
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect()
}
