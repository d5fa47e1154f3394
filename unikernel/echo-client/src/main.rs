//! A client of the capitalising echo, on bare Xen: it says hello to a server in another domain,
//! prints what comes back, then sends a number of bytes and looks whether all came back.
//!
//! Who the server is, it is told in its domain's XenStore key `data/server`. `extra="bytes=4194304"`
//! says how many bytes. With `extra="stays=1"` it waits for the server's end then, and says how it came.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::fmt;

use vchan::{Channel, Client, DomId, Error, Host, StoreErrorKind, StorePath};
use vchan_unikernel::{Guest, println};

vchan_unikernel::main!(ask);

/// Where the server's domid stands.
const SERVER: &str = "data/server";

fn ask(guest: &Guest) -> Result<(), Problem> {
    let host = guest.host();
    let server = server(host)?;
    println!("the server is in domain {server}");
    let mut channel = Client::builder(host, server).connect()?;
    let hello = format!("hello from domain {}", host.domid()?);
    println!("{}", answer(&mut channel, &hello)?);
    let count = guest
        .command_line()
        .value("bytes")
        .and_then(|count| count.parse().ok());
    check(&mut channel, count.unwrap_or(0))?;
    if guest.command_line().value("stays").is_some() {
        println!("waiting for the server's end");
        match channel.read(&mut [0]) {
            Ok(0) => println!("the server has closed the channel"),
            Ok(_) => return Err(Problem("more came back than was sent".to_string())),
            Err(error) => println!("the server has ended: {error}"),
        }
    }
    Ok(())
}

/// The server's domid, once somebody has written it.
fn server(host: &Host) -> Result<DomId, Error> {
    let key: StorePath = SERVER.parse()?;
    let watch = host.store().watch(&key)?;
    println!("waiting for the server's domid in {SERVER}");
    loop {
        match host.store().read(&key) {
            Ok(value) if !value.is_empty() => {
                return Ok(String::from_utf8_lossy(&value).parse()?);
            }
            Err(error) if error.kind != StoreErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        watch.wait(None)?;
    }
}

/// What the server says to a line.
fn answer(channel: &mut Channel, line: &str) -> Result<String, Error> {
    channel.send(line.as_bytes())?;
    let mut answer = vec![0; line.len()];
    channel.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Sends `count` bytes, each different from its neighbours, and compares what comes back.
fn check(channel: &mut Channel, count: u64) -> Result<(), Problem> {
    let (incoming, outgoing) = channel.ring_sizes();
    let (mut sent, mut received) = (vec![0; incoming.min(outgoing)], vec![]);
    let mut at = 0;
    while at < count {
        let rest = usize::try_from(count - at).unwrap_or(usize::MAX);
        let length = sent.len().min(rest);
        let chunk = &mut sent[..length];
        for (byte, position) in chunk.iter_mut().zip(at..) {
            *byte = position.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0];
        }
        channel.send(chunk)?;
        received.resize(length, 0);
        channel.recv(&mut received)?;
        let expected = chunk.to_ascii_uppercase();
        if let Some(wrong) = received
            .iter()
            .zip(&expected)
            .position(|(got, want)| got != want)
        {
            return Err(Problem(format!("byte {} is wrong", at + wrong as u64)));
        }
        at += length as u64;
    }
    println!("{count} bytes came back as they should");
    Ok(())
}

/// What went wrong.
struct Problem(String);

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem(error.to_string())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
