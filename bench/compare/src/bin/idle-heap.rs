//! What an idle channel takes of the heap, rings aside, counted in a process that has clients and
//! nothing else. Told a domain of an emulated host, the server's number, and how many servers wait in
//! it, it connects to all of them and prints how many bytes each took, beyond those of the first tenth.

use std::alloc::System;
use std::env;
use std::path::Path;

use anyhow::{Context as _, Result};
use cap::Cap;
use vchan::{Channel, Client, DomId};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().context("a directory, a domain, a number");
    let (directory, server, count) = (next()?, next()?, next()?);
    let (server, count): (DomId, usize) = (server.parse()?, count.parse()?);
    let host = vchan_emulator::join(Path::new(&directory))?;
    let mut channels: Vec<Channel> = Vec::with_capacity(count);
    let mut grow = |to: usize| -> Result<usize> {
        while channels.len() < to {
            let port = format!("port-{}", channels.len()).parse()?;
            channels.push(Client::builder(&host, server).port(port).connect()?);
        }
        Ok(HEAP.allocated())
    };
    let few = count / 10;
    let (before, after) = (grow(few)?, grow(count)?);
    println!("{}", (after - before) as f64 / (count - few) as f64);
    Ok(())
}
