//! In the place of the C library where this program was linked without it.

use std::io;

use vchan_bench::peers::vchan::{Emulated, Mode};
use vchan_bench::{Failure, Peer, Polled, Transport};

/// No such channels.
#[derive(Clone)]
pub enum CVchan {}

/// No end of one.
pub enum CPeer {}

impl CVchan {
    /// `None`: there is no C library.
    #[must_use]
    pub fn new(_host: Emulated, _mode: Mode) -> Option<CVchan> {
        None
    }
}

impl Transport for CVchan {
    type Peer = CPeer;

    fn name(&self) -> String {
        match *self {}
    }

    fn connect(&self, _capacity: usize) -> Result<(CPeer, CPeer), Failure> {
        match *self {}
    }
}

impl Peer for CPeer {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<()> {
        match *self {}
    }

    fn read(&mut self, _to: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }
}

impl Polled for CPeer {
    fn try_write(&mut self, _bytes: &[u8]) -> io::Result<Option<usize>> {
        match *self {}
    }

    fn try_read(&mut self, _to: &mut [u8]) -> io::Result<Option<usize>> {
        match *self {}
    }
}
