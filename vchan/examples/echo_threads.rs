//! An echo that capitalises, and a client that reads and writes at the same time, with threads.
//!
//! Domain 2 serves, domain 0 is the client. Here both live on an emulated host in this process. On
//! Xen each is a program of its own in its own domain: `serve` and `talk` stay as they are, and
//! the `Host` they are given is `vchan::xen::host()`.
//!
//!     cargo run -p vchan --example echo_threads

use std::error::Error;
use std::io::{self, Read, Write};
use std::thread;

use vchan::{Client, DomId, Host, Server};
use vchan_emulator::Emulator;

const LINES: &str = "hello from dom0\nand once more\n";

/// Serves one client of domain 0, until it closes.
fn serve(mut server: Server) -> io::Result<()> {
    let mut channel = server.accept()?;
    let mut buffer = [0; 4096];
    loop {
        let count = channel.read(&mut buffer)?;
        if count == 0 {
            return Ok(()); // the client has closed, and everything it wrote has been read
        }
        let bytes = &mut buffer[..count];
        bytes.make_ascii_uppercase();
        // A write takes what fits into the ring; `write_all` goes on until all of it has.
        channel.write_all(bytes)?;
    }
}

/// Sends the lines and gives what comes back.
fn talk(host: &Host, server: DomId) -> Result<String, Box<dyn Error>> {
    // Waits until the server has published. `timeout` on the builder limits that.
    let channel = Client::builder(host, server).connect()?;
    // Two halves, two threads: neither a full ring nor an empty one can stop both directions.
    let (mut reading, mut writing) = channel.into_split();
    let writer = thread::spawn(move || {
        let written = writing.write_all(LINES.as_bytes());
        (written, writing) // the channel closes when both halves are dropped, so keep this one
    });
    let mut answer = vec![0; LINES.len()];
    reading.read_exact(&mut answer)?;
    let (written, _writing) = writer.join().map_err(|_| "the writing thread panicked")?;
    written?;
    Ok(String::from_utf8(answer)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let guest = DomId::new(2)?;
    let emulator = Emulator::start()?;
    emulator.add_domain(DomId::DOM0)?;
    emulator.add_domain(guest)?;

    // The sizes of the echo session: rings that hold 5000 bytes at least.
    let server = Server::builder(&emulator.host(guest)?, DomId::DOM0)
        .read_size(5000)
        .write_size(5000)
        .bind()?;
    let serving = thread::spawn(move || serve(server));
    let answer = talk(&emulator.host(DomId::DOM0)?, guest)?;
    serving
        .join()
        .map_err(|_| "the serving thread panicked")??;

    print!("{answer}");
    assert_eq!(answer, "HELLO FROM DOM0\nAND ONCE MORE\n");
    Ok(())
}

#[test]
fn the_lines_come_back_in_capitals() -> Result<(), Box<dyn Error>> {
    main()
}
