//! Many capitalising echoes at once, on bare Xen: one task for each vchan, all of them in one sleep.
//!
//! `extra="ports=100 ring-size=4096"` says how many, and how long their rings are, in bytes; they are
//! called `p0`, `p1` and so on, and are published below `data/vchan/0/`. With `more=no` it goes on with
//! fewer when there is no memory for more.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::vec;
use core::convert::Infallible;
use core::future::pending;

use vchan::task::{Channel, Runtime};
use vchan::{DomId, Error, Server};
use vchan_unikernel::{Guest, println};

vchan_unikernel::main!(serve);

fn serve(guest: &Guest) -> Result<Infallible, Error> {
    let number = |key| guest.command_line().value(key)?.parse().ok();
    let ports = number("ports").unwrap_or(1);
    let size = number("ring-size").unwrap_or(1024);
    let goes_on = guest.command_line().value("more") == Some("no");
    let mut served = 0;
    for port in 0..ports {
        let name = format!("p{port}");
        let server = Server::builder(guest.host(), DomId::DOM0);
        let server = server
            .port(name.parse()?)
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
            let Err(error) = accept(server, &runtime).await;
            println!("{name}: {error}");
        });
    }
    println!("{served} ports are served");
    Ok(guest.block_on(pending())?)
}

/// One client after the other. What a client does wrong ends only its own session, also when it is
/// found out before that has begun.
async fn accept(mut server: Server, runtime: &Runtime) -> Result<Infallible, Error> {
    loop {
        let session = match server.accept_on(runtime).await {
            Ok(channel) => converse(channel).await,
            Err(error) => Err(error),
        };
        match session {
            Ok(()) => {}
            Err(error @ (Error::PeerFault(_) | Error::PeerDied | Error::Closed)) => {
                println!("{}: {error}", server.path());
            }
            Err(error) => return Err(error),
        }
    }
}

async fn converse(mut channel: Channel) -> Result<(), Error> {
    let mut buffer = vec![0; 1024];
    loop {
        let count = channel.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let mut answer = &mut buffer[..count];
        answer.make_ascii_uppercase();
        while !answer.is_empty() {
            let written = channel.write(answer).await?;
            answer = &mut answer[written..];
        }
    }
}
