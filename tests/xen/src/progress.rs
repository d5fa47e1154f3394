//! How far long work has come, said while it goes on.

use std::time::{Duration, Instant};

use crate::report::report;

/// Work of so many parts, of which something is said after each `every` of them.
pub struct Progress {
    /// What the parts are.
    what: &'static str,
    all: u32,
    every: u32,
    done: u32,
    began: Instant,
}

impl Progress {
    /// Nothing is done yet of `all` `what`.
    pub fn new(what: &'static str, all: u32, every: u32) -> Progress {
        Progress {
            what,
            all,
            every,
            done: 0,
            began: Instant::now(),
        }
    }

    /// One more is done. Of the last one nothing is said: what came of it all is told then.
    pub fn step(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(self.every) && self.done < self.all {
            report(&format!("note {}", self.line(self.began.elapsed())));
        }
    }

    /// How many are done, how long each took, and how long those that are left will take if they are
    /// like these.
    fn line(&self, took: Duration) -> String {
        let each = took / self.done.max(1);
        let left = each * self.all.saturating_sub(self.done);
        format!(
            "{} of {} {}, {:.2} s each; about {} min {} s to go",
            self.done,
            self.all,
            self.what,
            each.as_secs_f64(),
            left.as_secs() / 60,
            left.as_secs() % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_many_are_done_and_how_long_the_others_will_take() {
        let progress = Progress {
            done: 50,
            ..Progress::new("lives", 1000, 50)
        };
        assert_eq!(
            progress.line(Duration::from_secs(60)),
            "50 of 1000 lives, 1.20 s each; about 19 min 0 s to go"
        );
    }
}
