//! How long the calls of one half wait, and how.

use alloc::sync::Arc;
use core::time::Duration;

use crate::Error;
use crate::endpoint::{Link, Patience, Reader, Spin, Wanted, Writer};
use crate::guard::keeps;
use crate::host::Time;

#[derive(Debug)]
pub(super) struct Options {
    pub(super) timeout: Option<Duration>,
    pub(super) nonblocking: bool,
    pub(super) patience: Patience,
}

impl Options {
    pub(super) fn new<D: Direction>(end: &D) -> Options {
        Options {
            timeout: None,
            nonblocking: false,
            patience: end.patience(Spin::default()),
        }
    }

    /// Takes steps in one direction until one has a result, as far as the options let it wait.
    pub(super) fn run<D: Direction, T>(
        &mut self,
        end: &mut D,
        mut step: impl FnMut(&mut D) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        if !self.nonblocking && keeps("linger-before-taking") {
            end.link().linger(D::WANTED, &mut self.patience);
        }
        // Mostly there is something to do: then no clock need be read.
        if keeps("look-before-asking")
            && let Some(done) = step(end)?
        {
            return Ok(done);
        }
        self.wait(end, step)
    }

    #[cold]
    fn wait<D: Direction, T>(
        &mut self,
        end: &mut D,
        mut step: impl FnMut(&mut D) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let link = Arc::clone(end.link());
        let step = || step(end);
        if self.nonblocking {
            return link.try_for(D::WANTED, step);
        }
        let deadline = self.deadline(&link);
        link.wait_for(D::WANTED, deadline, &mut self.patience, step)
    }

    fn deadline(&self, link: &Link) -> Option<Time> {
        self.timeout
            .map(|timeout| link.host().events().now().after(timeout))
    }
}

/// One direction of a channel, for who waits on it.
pub(super) trait Direction {
    /// What it waits for.
    const WANTED: Wanted;
    fn link(&self) -> &Arc<Link>;
    /// What it has to know to spin as it is told to.
    fn patience(&self, spin: Spin) -> Patience;
}

impl Direction for Reader {
    const WANTED: Wanted = Wanted::Data;
    fn link(&self) -> &Arc<Link> {
        Reader::link(self)
    }
    fn patience(&self, spin: Spin) -> Patience {
        self.link().patience(spin, self.size())
    }
}

impl Direction for Writer {
    const WANTED: Wanted = Wanted::Space;
    fn link(&self) -> &Arc<Link> {
        Writer::link(self)
    }
    fn patience(&self, spin: Spin) -> Patience {
        self.link().patience(spin, self.size())
    }
}
