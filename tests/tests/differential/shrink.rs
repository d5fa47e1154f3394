//! Cuts a failing sequence down to what is needed to fail.

use std::time::{Duration, Instant};

use crate::pairing::{PAIRINGS, Pairing};
use crate::sequence::{Sequence, Step};
use crate::{Failure, Tally, run};

/// How long to try. What was found by then is shown.
const LIMIT: Duration = Duration::from_secs(30);

/// The least sequence found that fails, and how.
pub(crate) fn shrink(sequence: Sequence, failure: Failure) -> (Sequence, Failure) {
    let mut found = Found {
        sequence,
        failure,
        until: Instant::now() + LIMIT,
    };
    found.cut_after_failure();
    while found.with_fewer_steps() || found.with_smaller_sizes() {}
    (found.sequence, found.failure)
}

struct Found {
    sequence: Sequence,
    failure: Failure,
    until: Instant,
}

impl Found {
    fn cut_after_failure(&mut self) {
        if let Some(step) = self.failure.step {
            self.sequence.steps.truncate(step + 1);
        }
    }

    /// Keeps `steps` if they fail too. Fresh processes on fresh hosts try that: a failure leaves
    /// anything behind.
    fn try_with(&mut self, steps: Vec<Step>) -> bool {
        if Instant::now() > self.until {
            return false;
        }
        let less = Sequence {
            steps,
            ..self.sequence.clone()
        };
        let mut pairings = PAIRINGS.map(Pairing::new);
        match run(&mut pairings, &less, &mut Tally::default()) {
            Ok(()) => false,
            Err(failure) => {
                (self.sequence, self.failure) = (less, failure);
                self.cut_after_failure();
                true
            }
        }
    }

    /// Leaves out parts of half the length, of a quarter, down to single steps.
    fn with_fewer_steps(&mut self) -> bool {
        let mut shorter = false;
        let mut part = self.sequence.steps.len().div_ceil(2);
        while part > 0 {
            let mut at = 0;
            while at < self.sequence.steps.len() {
                let mut steps = self.sequence.steps.clone();
                steps.drain(at..steps.len().min(at + part));
                if self.try_with(steps) {
                    shorter = true;
                } else {
                    at += part;
                }
            }
            part /= 2;
        }
        shorter
    }

    fn with_smaller_sizes(&mut self) -> bool {
        let mut smaller = false;
        let mut at = 0;
        while let Some(&step) = self.sequence.steps.get(at) {
            let calls = match step {
                Step::Call(_, call) => call.smaller(),
                _ => Vec::new(),
            };
            let better = calls.into_iter().any(|call| {
                let mut steps = self.sequence.steps.clone();
                steps[at] = Step::Call(step.side(), call);
                self.try_with(steps)
            });
            smaller |= better;
            if !better {
                at += 1;
            }
        }
        smaller
    }
}
