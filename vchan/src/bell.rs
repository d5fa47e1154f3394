//! Waking a thread that sleeps on a descriptor.

use core::time::Duration;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::io::{Errno, read, write};

use crate::poll;

/// Ends the sleep of another thread: [`EventChannel::wake`](crate::host::EventChannel::wake) for
/// hosts that sleep on descriptors.
///
/// It costs nothing before it is first rung, and one descriptor from then on.
#[derive(Default, Debug)]
pub struct Bell {
    /// Counts how often it was rung since it was last heard.
    rung: OnceLock<OwnedFd>,
}

impl Bell {
    /// Sleeps until `descriptor` is readable, no longer than `most`, and no longer than until the bell
    /// is rung, if it has ever been rung before this sleep. Who rang it since the last sleep ends
    /// this one at once. A signal ends it as well. One thread sleeps at a time.
    ///
    /// # Errors
    /// What `poll` says.
    pub fn sleep(&self, descriptor: BorrowedFd<'_>, most: Option<Duration>) -> io::Result<()> {
        let event = PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
        let Some(rung) = self.rung.get() else {
            return Ok(poll::at_most(&mut [event], most)?);
        };
        let mut both = [event, PollFd::new(rung, PollFlags::IN)];
        poll::at_most(&mut both, most)?;
        let [_, bell] = both;
        if !bell.revents().is_empty() {
            // Nobody else takes it: so there is something to read.
            read(rung, &mut [0; 8])?;
        }
        Ok(())
    }

    /// Ends the sleep that a thread is in, or else the next one.
    ///
    /// When the first call gets no descriptor, the bell stays silent until one does.
    pub fn ring(&self) {
        let rung = match self.rung.get() {
            Some(rung) => rung,
            None => match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
                Ok(made) => self.rung.get_or_init(|| made),
                Err(errno) => {
                    tracing::warn!(%errno, "no descriptor to wake other threads by");
                    return;
                }
            },
        };
        match write(rung, &1_u64.to_ne_bytes()) {
            // A counter that is full has been rung.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => tracing::warn!(%errno, "cannot wake another thread"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::thread;

    fn silence() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn it_ends_a_sleep_that_nothing_else_ends() {
        let (bell, descriptor) = (Arc::new(Bell::default()), silence());
        bell.ring();
        bell.sleep(descriptor.as_fd(), None).unwrap();
        let ringer = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                bell.ring();
            })
        };
        bell.sleep(descriptor.as_fd(), None).unwrap();
        ringer.join().unwrap();
    }

    #[test]
    fn however_often_it_was_rung_it_ends_one_sleep() {
        let (bell, descriptor) = (Bell::default(), silence());
        for _ in 0..3 {
            bell.ring();
        }
        bell.sleep(descriptor.as_fd(), None).unwrap();
        let (began, most) = (poll::now(), Duration::from_millis(20));
        bell.sleep(descriptor.as_fd(), Some(most)).unwrap();
        assert!(poll::now().since(began) >= most);
    }

    #[test]
    fn an_event_ends_a_sleep_and_leaves_the_bell_alone() {
        let bell = Bell::default();
        let event = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        bell.sleep(event.as_fd(), None).unwrap();
        assert!(bell.rung.get().is_none(), "nobody has rung it");
        bell.ring();
        bell.sleep(event.as_fd(), None).unwrap();
        bell.sleep(event.as_fd(), None).unwrap();
    }
}
