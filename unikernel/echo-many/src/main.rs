//! Many capitalising echoes at once, on bare Xen: one task for each vchan, all of them in one sleep.
//!
//! `extra="ports=100 ring-size=4096"` says how many, and how long their rings are, in bytes; they are
//! called `p0`, `p1` and so on, and are published below `data/vchan/0/`. With `more=no` it goes on with
//! fewer when there is no memory for more. A port whose next offer finds no memory, as clients that are
//! gone keep theirs, is offered again when there is.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use core::convert::Infallible;
use core::fmt;
use core::future::pending;

use echo_guest::Console as _;
use vchan::{DomId, Error, Server};
use vchan_unikernel::{Guest, println};

vchan_unikernel::main!(serve);

fn serve(guest: &Guest) -> Result<Infallible, Error> {
    let number = |key| guest.command_line().value(key)?.parse().ok();
    let ports = number("ports").unwrap_or(1);
    let size = number("ring-size").unwrap_or(1024);
    let goes_on = guest.command_line().value("more") == Some("no");
    let mut served = 0;
    for number in 0..ports {
        let port = format!("p{number}");
        let server = Server::builder(guest.host(), DomId::DOM0);
        let server = server
            .port(port.parse()?)
            .read_size(size)
            .write_size(size)
            .bind();
        let server = match server {
            Err(error) if goes_on && served > 0 => {
                println!("no more: {error}");
                break;
            }
            other => other?,
        };
        served += 1;
        let runtime = guest.runtime();
        guest.spawn(async move {
            let mut console = Console { port };
            let Err(error) = echo_guest::serve_on(server, &runtime, &mut console).await;
            console.note(format_args!("error: {error}"));
        });
    }
    println!("{served} ports are served");
    Ok(guest.block_on(pending())?)
}

/// Says which port it is that something is said of.
struct Console {
    port: String,
}

impl echo_guest::Console for Console {
    /// Nothing: there may be a hundred ports.
    fn print(&mut self, _text: fmt::Arguments<'_>) {}

    fn note(&mut self, line: fmt::Arguments<'_>) {
        println!("{}: {line}", self.port);
    }
}
