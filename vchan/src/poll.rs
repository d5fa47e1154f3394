//! The monotonic clock, and sleeping on descriptors until a deadline.

use core::time::Duration;

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::host::Time;

/// The time on `CLOCK_MONOTONIC`.
pub(crate) fn now() -> Time {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is negative on this clock.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Time(Duration::new(seconds, nanoseconds))
}

/// Sleeps until one of `descriptors` is ready or until `deadline`. A signal does not end the sleep
/// and does not make it longer.
pub(crate) fn until(descriptors: &mut [PollFd<'_>], deadline: Option<Time>) -> Result<(), Errno> {
    loop {
        let rest = deadline.map(|deadline| deadline.since(now()));
        // A deadline that no Timespec can express is none.
        let timeout = rest.and_then(|rest| Timespec::try_from(rest).ok());
        match rustix::event::poll(descriptors, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(()),
        }
    }
}

/// Sleeps until one of `descriptors` is ready, or a signal comes, no longer than `most`.
pub(crate) fn at_most(descriptors: &mut [PollFd<'_>], most: Option<Duration>) -> Result<(), Errno> {
    // A time that no Timespec can express is endless.
    let timeout = most.and_then(|most| Timespec::try_from(most).ok());
    match rustix::event::poll(descriptors, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, PollFlags, eventfd};

    #[test]
    fn a_sleep_ends_at_its_deadline_and_not_before() {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let mut descriptors = [PollFd::new(&fd, PollFlags::IN)];
        for milliseconds in [0, 1, 20] {
            let begin = now();
            let deadline = begin.after(Duration::from_millis(milliseconds));
            until(&mut descriptors, Some(deadline)).unwrap();
            assert!(now() >= deadline);
            assert!(now().since(begin) < Duration::from_secs(60));
        }
        until(&mut descriptors, Some(Time(Duration::ZERO))).unwrap();
    }

    #[test]
    fn a_ready_descriptor_ends_it_at_once() {
        let fd = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        let mut descriptors = [PollFd::new(&fd, PollFlags::IN)];
        until(&mut descriptors, None).unwrap();
        until(&mut descriptors, Some(now().after(Duration::MAX))).unwrap();
        assert!(descriptors[0].revents().contains(PollFlags::IN));
    }
}
