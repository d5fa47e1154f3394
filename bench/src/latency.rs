//! Round-trip times.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest time that is told from longer ones.
const LONGEST: u64 = 60_000_000_000;

/// How long many round trips took, in nanoseconds, to three digits.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    /// Of none so far.
    ///
    /// # Panics
    /// Never: the bounds are good ones.
    #[must_use]
    pub fn new() -> Latency {
        Latency {
            histogram: Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are good"),
        }
    }

    /// Counts one.
    pub fn record(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(LONGEST);
        self.histogram.saturating_record(nanoseconds);
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The time in nanoseconds that `part` (0 to 1) of them did not exceed.
    #[must_use]
    pub fn quantile(&self, part: f64) -> u64 {
        self.histogram.value_at_quantile(part)
    }

    /// All of them together, about.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_secs_f64(self.histogram.mean() * self.count() as f64 / 1e9)
    }

    /// The longest, in nanoseconds.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.histogram.max()
    }
}

impl Default for Latency {
    fn default() -> Latency {
        Latency::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let mut latency = Latency::new();
        for microseconds in 1..=1000 {
            latency.record(Duration::from_micros(microseconds));
        }
        assert_eq!(latency.count(), 1000);
        for (part, expected) in [(0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = latency.quantile(part);
            assert!(
                found.abs_diff(expected) * 1000 <= expected,
                "{part}: {found}"
            );
        }
        latency.record(Duration::from_secs(3600));
        assert!(latency.max() >= LONGEST);
    }
}
