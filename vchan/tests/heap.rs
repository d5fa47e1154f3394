//! What an idle channel takes of the heap and of the descriptors, rings aside: counted in a process
//! that has clients and nothing else. The host and the servers are another process.

mod common;

use std::alloc::System;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;

use cap::Cap;
use vchan::{Channel, Client, DomId, Host, PortName, Server};
use vchan_emulator::{Emulator, Limits};

use common::process::{Reaped, again, descriptors};
use common::{LONG, guest};

/// Counts the bytes that this process has on the heap.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const FEW: usize = 100;
const MANY: usize = 1000;

fn port(nth: usize) -> PortName {
    format!("port-{nth}").parse().unwrap()
}

/// Both in the control page, so that what a channel takes besides them is all that there is.
const RINGS: [usize; 2] = [1024, 2048];

/// The other process: a host, and servers that wait until they are told to end.
#[test]
#[ignore = "started by the test below"]
fn serve() {
    let emulator = Emulator::start().unwrap();
    let mut limits = Limits::default();
    (limits.granted_pages, limits.ports) = (8 * MANY, 2 * MANY);
    (limits.store_nodes, limits.store_node_size) = (4 * MANY, 64 * MANY);
    emulator.set_limits(limits);
    for domid in [DomId::DOM0, guest()] {
        emulator.add_domain(domid).unwrap();
    }
    let host = emulator.host(guest()).unwrap();
    let bind = |nth| {
        let builder = Server::builder(&host, DomId::DOM0).port(port(nth));
        let [read, write] = RINGS;
        builder.read_size(read).write_size(write).bind().unwrap()
    };
    let servers: Vec<Server> = (0..MANY).map(bind).collect();
    println!("\n{}", emulator.domain_directory(DomId::DOM0).display());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    drop(servers);
}

fn connect(host: &Host, nth: usize) -> Channel {
    let builder = Client::builder(host, guest()).port(port(nth));
    builder.timeout(LONG).connect().unwrap()
}

/// The descriptors of this process while it has so many event channels more.
fn with_ports(ports: usize, host: &Host) -> usize {
    let bind = |_| host.events().bind_unbound(guest()).unwrap();
    let _ports: Vec<_> = (0..ports).map(bind).collect();
    descriptors().len()
}

#[test]
fn an_idle_channel_takes_few_bytes_and_descriptors() {
    let mut process = Reaped(
        again("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let directory = lines
        .find_map(|line| {
            line.unwrap()
                .strip_prefix('/')
                .map(|rest| format!("/{rest}"))
        })
        .map(PathBuf::from)
        .unwrap();
    let host = vchan_emulator::join(&directory).unwrap();
    let mut channels = Vec::with_capacity(MANY);
    let mut grow = |to: usize| {
        while channels.len() < to {
            channels.push(connect(&host, channels.len()));
        }
        (HEAP.allocated(), descriptors().len())
    };
    let (few, many) = (grow(FEW), grow(MANY));
    let each = |few: usize, many: usize| (many - few) as f64 / (MANY - FEW) as f64;
    let (bytes, descriptors) = (each(few.0, many.0), each(few.1, many.1));
    println!(
        "{bytes} bytes and {descriptors} descriptors for each channel, of {} bytes itself",
        size_of::<Channel>()
    );
    assert!(bytes <= 256.0, "{bytes} bytes for each channel");
    // None but those of its event channel, of which the host makes one or more.
    let before = with_ports(0, &host);
    let of_ports = with_ports(8, &host) - before;
    assert_eq!(descriptors, of_ports as f64 / 8.0);
    drop(channels);
    _ = process.0.stdin.take().unwrap().write_all(b"end\n");
}
