//! A vchan server on bare Xen that greets its client by name.
//!
//! ```console
//! # xl create hello.xl      kernel = ".../hello", memory = 4, extra = "name=Ada"
//! # node-cli $(xl domid hello)
//! ```
#![no_std]
#![no_main]

use vchan::{DomId, Error, Server};
use vchan_unikernel::{Guest, println};

vchan_unikernel::main!(greet);

fn greet(guest: &Guest) -> Result<(), Error> {
    let name = guest.command_line().value("name").unwrap_or("nobody");
    let mut server = Server::builder(guest.host(), DomId::DOM0).bind()?;
    loop {
        let mut channel = server.accept()?;
        println!("domain {} is here", channel.peer());
        if let Err(error) = channel.send(name.as_bytes()).and_then(|()| channel.drain()) {
            println!("it left early: {error}");
        }
    }
}
