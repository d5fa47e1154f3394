//! The time, made of the processor's counter as the hypervisor says.

use core::time::Duration;

use vchan::host::Time;

/// The size of [`TimeInfo`] as it lies in shared memory, in bytes.
pub const SIZE: usize = 32;

/// How to make the system time of the processor's counter: `struct vcpu_time_info` of Xen's public
/// header `xen.h`, without its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeInfo {
    /// What the counter was.
    counter: u64,
    /// The system time then, in nanoseconds.
    nanoseconds: u64,
    /// Nanoseconds in 2^32 ticks, after the shift.
    multiplier: u32,
    /// By how many bits ticks are shifted to the left.
    shift: i8,
}

impl TimeInfo {
    /// The structure as it lies in memory.
    #[must_use]
    pub fn parse(bytes: &[u8; SIZE]) -> TimeInfo {
        let long = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        TimeInfo {
            counter: long(8),
            nanoseconds: long(16),
            multiplier: u32::from_le_bytes(core::array::from_fn(|i| bytes[24 + i])),
            shift: i8::from_le_bytes([bytes[28]]),
        }
    }

    /// The system time when the counter is `counter`; that of the structure itself when the counter
    /// was read before it was written.
    ///
    /// ```
    /// use core::time::Duration;
    /// use unikernel_core::clock::TimeInfo;
    ///
    /// let mut bytes = [0; 32];
    /// bytes[8..16].copy_from_slice(&1_000_u64.to_le_bytes());
    /// bytes[16..24].copy_from_slice(&5_000_u64.to_le_bytes());
    /// // Half a nanosecond a tick: a processor of 2 GHz.
    /// bytes[24..28].copy_from_slice(&(1_u32 << 31).to_le_bytes());
    /// let info = TimeInfo::parse(&bytes);
    /// assert_eq!(info.at(1_400).0, Duration::from_nanos(5_200));
    /// ```
    #[must_use]
    pub fn at(&self, counter: u64) -> Time {
        let ticks = u128::from(counter.saturating_sub(self.counter));
        let distance = u32::from(self.shift.unsigned_abs());
        // The hypervisor's shifts are small; what it could not mean gives the end of time.
        let ticks = match self.shift {
            0.. if distance < 32 => ticks << distance,
            0.. => u128::from(u64::MAX),
            _ => ticks.checked_shr(distance).unwrap_or(0),
        };
        let passed = ticks.saturating_mul(u128::from(self.multiplier)) >> 32;
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        Time(Duration::from_nanos(
            self.nanoseconds.saturating_add(passed),
        ))
    }
}

/// When a sleep is to end, as the hypervisor's poll is told: the system time in nanoseconds; 0 is
/// never.
///
/// Xen's own times are signed. One that no such number can hold, after 292 years, would be taken for
/// one in the past, and nothing would sleep: it is never.
///
/// ```
/// use core::time::Duration;
/// use unikernel_core::clock::poll_until;
/// use vchan::host::Time;
///
/// let now = Time(Duration::from_secs(3));
/// assert_eq!(poll_until(Some(now)), 3_000_000_000);
/// assert_eq!(poll_until(Some(now.after(Duration::MAX))), 0);
/// assert_eq!(poll_until(None), 0);
/// ```
#[must_use]
pub fn poll_until(deadline: Option<Time>) -> u64 {
    let Some(Time(deadline)) = deadline else {
        return 0;
    };
    // A deadline of 0 has passed.
    let deadline = i64::try_from(deadline.as_nanos()).map(|deadline| deadline.max(1));
    deadline.map_or(0, i64::unsigned_abs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_that_nobody_lives_to_see_the_end_of_is_one_without_an_end() {
        let longest = Duration::from_nanos(i64::MAX as u64);
        let until = |deadline| poll_until(Some(Time(deadline)));
        assert_eq!(until(longest), i64::MAX as u64);
        assert_eq!(until(longest + Duration::from_nanos(1)), 0);
        assert_eq!(until(Duration::from_nanos(u64::MAX)), 0);
        assert_eq!(until(Duration::MAX), 0);
        assert_eq!(until(Duration::ZERO), 1, "that is over, not for ever");
        assert_eq!(poll_until(None), 0);
    }

    fn info(multiplier: u32, shift: i8) -> TimeInfo {
        TimeInfo {
            counter: 10_000,
            nanoseconds: 7,
            multiplier,
            shift,
        }
    }

    fn passed(info: TimeInfo, ticks: u64) -> u128 {
        info.at(10_000 + ticks).0.as_nanos() - 7
    }

    #[test]
    fn ticks_are_shifted_before_they_are_multiplied() {
        assert_eq!(passed(info(1 << 31, 0), 1_000), 500);
        assert_eq!(passed(info(1 << 31, 1), 1_000), 1_000);
        assert_eq!(passed(info(1 << 31, -1), 1_000), 250);
        // What Xen gives for 2.3 GHz: a second is a second, to the nanosecond.
        assert_eq!(passed(info(0xde9b_d37a, -1), 2_300_000_000), 999_999_999);
    }

    #[test]
    fn a_century_of_ticks_does_not_overflow() {
        let century = 100 * 365 * 86_400_u64;
        let ticks = century.saturating_mul(4_000_000_000);
        let seconds = passed(info(1 << 30, 0), ticks) / 1_000_000_000;
        assert_eq!(seconds, u128::from(century));
    }

    #[test]
    fn a_counter_that_was_read_before_is_no_time_ago() {
        assert_eq!(info(1 << 31, 0).at(9_999).0.as_nanos(), 7);
    }

    #[test]
    fn no_shift_panics() {
        for shift in i8::MIN..=i8::MAX {
            let _ = info(u32::MAX, shift).at(u64::MAX);
        }
    }
}
