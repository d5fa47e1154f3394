//! Counting what passed, and the closing line.

use std::fmt;
use std::process::ExitCode;

/// Results of everything that was run.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, and programs that could not be run at all.
    pub failed: usize,
    /// Tests that this machine cannot run.
    pub skipped: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl Tally {
    /// Prints the closing line, alone on its line and the last thing said.
    pub fn close(self) -> ExitCode {
        println!("\n{self}");
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// What `cargo test` says, line by line.
#[derive(Default, Debug)]
pub struct CargoTests {
    pub tally: Tally,
    /// Skipped tests that the next closing line counts among the passed.
    skipped: usize,
}

impl CargoTests {
    /// Counts by closing lines, and by those in which a test says why this machine cannot run it.
    pub fn add_line(&mut self, line: &str) {
        // Behind the test's name where the harness runs one test at a time.
        if line.contains("SKIPPED: ") {
            self.skipped += 1;
        }
        let Some(counts) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(count)), Some(what)) =
                (words.next().map(str::parse::<usize>), words.next())
            else {
                continue;
            };
            match what {
                "passed" => {
                    let skipped = std::mem::take(&mut self.skipped).min(count);
                    self.tally.passed += count - skipped;
                    self.tally.skipped += skipped;
                }
                "failed" => self.tally.failed += count,
                "ignored" => self.tally.skipped += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CargoTests, Tally};

    #[test]
    fn cargo_lines_are_summed() {
        let mut tests = CargoTests::default();
        for line in [
            "running 3 tests",
            "SKIPPED: one needs the C library: it is nowhere",
            "test another ... SKIPPED: there is no C compiler",
            "test one ... ok",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.1s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            tests.add_line(line);
        }
        let tally = tests.tally;
        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 2,
                skipped: 3
            }
        );
        assert_eq!(tally.to_string(), "13 passed, 2 failed, 3 skipped");
    }
}
