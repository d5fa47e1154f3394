//! The capitalising echo guest as a unikernel: the echo of the Linux guest, on bare Xen.
//!
//! `extra="client=3 read-size=1048576 write-size=1048576"` names another client than domain 0, and
//! rings of another size, in bytes. With `show=memory` it says at the beginning and at the end of each
//! session what its memory is used for. When there is no memory for the next offer, as a client that is
//! gone keeps its pages, it says so and tries again.
#![no_std]
#![no_main]

use core::convert::Infallible;
use core::fmt;
use core::mem;
use core::str::FromStr;

use echo_guest::{PAUSE, Serving};
use vchan::{Error, HostError};
use vchan_unikernel::{Guest, print, println};

vchan_unikernel::main!(serve);

fn serve(guest: &Guest) -> Result<Infallible, Problem> {
    let mut serving = Serving::default();
    if let Some(client) = guest.command_line().value("client") {
        serving.client = parse("client", client)?;
    }
    if let Some(size) = guest.command_line().value("read-size") {
        serving.read_size = parse("read-size", size)?;
    }
    if let Some(size) = guest.command_line().value("write-size") {
        serving.write_size = parse("write-size", size)?;
    }
    let shows_memory = guest.command_line().value("show") == Some("memory");
    let mut console = Console {
        guest,
        shows_memory,
        is_in_trouble: false,
    };
    loop {
        let Err(error) = serving.run(guest.host(), &mut console);
        // What is wrong from the beginning stays so.
        if !serving.has_begun() {
            return Err(Problem::Vchan(error));
        }
        // It may be that the domain is to end.
        guest.heed().map_err(Error::from).map_err(Problem::Vchan)?;
        // Clients that are gone may keep the pages that there is memory for, and XenStore may be away.
        if !console.is_in_trouble {
            println!("{error}; trying again");
        }
        console.is_in_trouble = true;
        guest.host().events().pause(PAUSE);
    }
}

/// A value of the command line.
fn parse<T: FromStr>(key: &'static str, value: &str) -> Result<T, Problem> {
    value.parse().map_err(|_| Problem::BadValue(key))
}

/// Why there is no echo (any more).
enum Problem {
    BadValue(&'static str),
    Vchan(Error),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::BadValue(key) => write!(f, "{key}= in the command line is no number in range"),
            Problem::Vchan(error) => error.fmt(f),
        }
    }
}

/// Everything is said on the one console that there is.
struct Console<'a> {
    guest: &'a Guest,
    shows_memory: bool,
    /// It makes no offer now, and has said why.
    is_in_trouble: bool,
}

impl echo_guest::Console for Console<'_> {
    fn print(&mut self, text: fmt::Arguments<'_>) {
        print!("{text}");
        if mem::take(&mut self.is_in_trouble) {
            println!("on offer again");
        }
    }

    fn note(&mut self, line: fmt::Arguments<'_>) {
        println!("{line}");
        if self.shows_memory {
            println!("memory: {}", self.guest.memory());
        }
    }

    fn may_go_on(&mut self) -> Result<(), HostError> {
        self.guest.heed()
    }
}
