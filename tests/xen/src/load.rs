//! Links between a guest and dom0 that move as many bytes as they are told to, and count.
//!
//! In the guest a server, in dom0 a client, each of either library. Every byte that arrives is
//! compared with what was sent, by the programs themselves: `tests/src/bin/rust-load.rs` and
//! `tests/c/vchan-load.c`.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::guests::Guest;
use crate::program::Program;

/// Whose code is at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// Debian's libxenvchan.
    C,
    /// This project's.
    Rust,
}

/// The libraries in the guest and in dom0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Of the server.
    pub guest: Library,
    /// Of the client.
    pub dom0: Library,
}

/// What is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Messages of this size from dom0 to the guest.
    Stream(usize),
    /// Messages of this size there and back, one after the other.
    Trips(usize),
    /// The same as the first, where our library sleeps at once when it has to wait, as C's does.
    StreamAsleep(usize),
    /// The same as the second, likewise.
    TripsAsleep(usize),
}

/// What one measurement showed.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Of a stream the whole time, of round trips the median.
    pub nanoseconds: u64,
    /// How often EVTCHN_NOTIFY was called, of a stream by both ends.
    pub notifications: u64,
    /// System calls to the event channel, likewise.
    pub calls: u64,
}

impl Ends {
    /// Of which there is a server in the guest.
    pub const ALL: [Ends; 4] = [
        Ends::new(Library::C, Library::C),
        Ends::new(Library::Rust, Library::Rust),
        Ends::new(Library::Rust, Library::C),
        Ends::new(Library::C, Library::Rust),
    ];

    const fn new(guest: Library, dom0: Library) -> Self {
        Self { guest, dom0 }
    }
}

/// The ring orders of which there are servers in the guest.
pub const ORDERS: [u16; 2] = [16, 20];

/// A connected link. Dropping it kills the client.
pub struct Link {
    ends: Ends,
    client: Program,
}

impl Link {
    /// Connects the client, as soon as the guest serves. Its rings have one of the [`ORDERS`].
    ///
    /// The client stays on one processor, and the guest is on another one: clocks of different
    /// processors may differ by milliseconds there.
    pub fn connect(guest: &Guest, order: u16, ends: Ends) -> Result<Self> {
        let path = guest.path(&format!("load/{order}/{}-{}", ends.guest, ends.dom0));
        let program = match ends.dom0 {
            Library::C => "vchan-load",
            Library::Rust => "rust-load",
        };
        let mut command = Command::new("taskset");
        command.args(["1", program, "client", &guest.domid, &path]);
        let mut client = Program::start(command)?;
        client
            .next_line(Duration::from_secs(120))
            .with_context(|| format!("no server at {path}"))?;
        Ok(Self { ends, client })
    }

    /// Which ends it has.
    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// Moves `count` messages.
    pub fn measure(&mut self, load: Load, count: u64, limit: Duration) -> Result<Figure> {
        let what = || format!("{count} times {load} from {}", self.ends);
        self.client.send(format!("{load} {count}\n").as_bytes())?;
        let answer = self.client.next_line(limit).with_context(what)?;
        let numbers: Option<Vec<u64>> = answer
            .strip_prefix("ok ")
            .and_then(|numbers| numbers.split(' ').map(|word| word.parse().ok()).collect());
        match numbers.as_deref() {
            Some(&[nanoseconds, notifications, calls]) => Ok(Figure {
                nanoseconds,
                notifications,
                calls,
            }),
            _ => Err(anyhow::anyhow!("{}: the answer is {answer:?}", what())),
        }
    }

    /// Tells both ends that there will be no more. Fails if one of them found a wrong byte.
    pub fn end(self) -> Result<()> {
        let ended = self.client.finish(Duration::from_secs(30))?;
        ended.successful(&self.ends.to_string())?;
        Ok(())
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::C => "c",
            Self::Rust => "rust",
        })
    }
}

/// In the guest first.
impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.guest, self.dom0)
    }
}

/// The command without the number of messages.
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(size) => write!(f, "stream {size}"),
            Self::Trips(size) => write!(f, "trips {size}"),
            Self::StreamAsleep(size) => write!(f, "stream-asleep {size}"),
            Self::TripsAsleep(size) => write!(f, "trips-asleep {size}"),
        }
    }
}
