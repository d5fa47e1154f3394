//! Ratios of two measurements, taken in rounds that alternate.

use std::fmt;

use crate::Failure;

/// The fewest rounds from which a ratio is reported.
pub const ROUNDS: usize = 15;

/// The median of many figures, and how far they spread.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// Half of the figures are not above it.
    pub median: f64,
    /// A quarter of the figures are not above it.
    pub low: f64,
    /// A quarter of the figures are not below it.
    pub high: f64,
    /// How many figures there are.
    pub rounds: usize,
}

impl Spread {
    /// Of these figures; `None` when there are none.
    #[must_use]
    pub fn of(mut figures: Vec<f64>) -> Option<Spread> {
        figures.sort_by(f64::total_cmp);
        Some(Spread {
            median: quartile(&figures, 2)?,
            low: quartile(&figures, 1)?,
            high: quartile(&figures, 3)?,
            rounds: figures.len(),
        })
    }
}

/// The figure below which so many quarters of the sorted `figures` lie, between two where it falls
/// between two.
fn quartile(figures: &[f64], quarters: usize) -> Option<f64> {
    let place = quarters * figures.len().checked_sub(1)?;
    let below = figures.get(place / 4)?;
    let above = figures.get(place.div_ceil(4))?;
    Some(below + (above - below) * (place % 4) as f64 / 4.0)
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread {
            median, low, high, ..
        } = self;
        write!(f, "{median:.2} ({low:.2}–{high:.2})")
    }
}

/// Takes both measurements in turn, `rounds` times, and gives the ratio of `ours` to `theirs` in each
/// round. Which is first changes from round to round. One round before them does not count.
///
/// # Errors
/// Those of the measurements.
pub fn alternate(
    rounds: usize,
    mut ours: impl FnMut() -> Result<f64, Failure>,
    mut theirs: impl FnMut() -> Result<f64, Failure>,
) -> Result<Spread, Failure> {
    let mut ratios = Vec::with_capacity(rounds);
    for round in 0..=rounds.max(1) {
        let (a, b) = if round % 2 == 0 {
            let a = ours()?;
            (a, theirs()?)
        } else {
            let b = theirs()?;
            (ours()?, b)
        };
        if round > 0 {
            ratios.push(a / b);
        }
    }
    Spread::of(ratios).ok_or(Failure::Panic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_quartiles() {
        let spread = Spread::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        let expected = Spread {
            median: 3.0,
            low: 2.0,
            high: 4.0,
            rounds: 5,
        };
        assert_eq!(spread, expected);
        assert_eq!(spread.to_string(), "3.00 (2.00–4.00)");
        assert_eq!(Spread::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Spread::of(vec![]), None);
    }

    #[test]
    fn rounds_alternate_and_a_machine_that_slows_down_changes_no_ratio() {
        let order = std::cell::RefCell::new(String::new());
        let slow = std::cell::Cell::new(1.0);
        let measure = |name, figure: f64| {
            order.borrow_mut().push(name);
            slow.set(slow.get() * 1.001);
            Ok(figure * slow.get())
        };
        let ratio = alternate(4, || measure('a', 30.0), || measure('b', 10.0)).unwrap();
        assert_eq!(*order.borrow(), "abbaabbaab");
        assert!((ratio.median - 3.0).abs() < 0.01, "{ratio}");
    }
}
