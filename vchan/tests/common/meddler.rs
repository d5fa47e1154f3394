//! A thread that meddles with what a test looks at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use super::wait_until;

/// Does the same again and again, in a thread of its own, until it is dropped.
pub struct Meddler {
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Meddler {
    pub fn new(mut meddle: impl FnMut() + Send + 'static) -> Meddler {
        let (stop, turns) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let thread = thread::spawn({
            let (stop, turns) = (Arc::clone(&stop), Arc::clone(&turns));
            move || {
                while !stop.load(Relaxed) {
                    meddle();
                    turns.fetch_add(1, Relaxed);
                }
            }
        });
        Meddler {
            stop,
            turns,
            thread: Some(thread),
        }
    }

    /// Waits until it has meddled once more: with one processor that takes a while.
    pub fn turn(&self) {
        let before = self.turns.load(Relaxed);
        wait_until(|| self.turns.load(Relaxed) > before);
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it met with is for the test to say.
            _ = thread.join();
        }
    }
}
