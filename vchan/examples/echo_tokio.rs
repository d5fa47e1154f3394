//! The capitalising echo with tokio: one task serves, the other talks.
//!
//! Domain 2 serves, domain 0 is the client. Here both live on an emulated host in this process. On
//! Xen each is a program of its own in its own domain: `serve` and `talk` stay as they are, and
//! the `Host` they are given is `vchan::xen::host()`.
//!
//!     cargo run -p vchan --features tokio --example echo_tokio

use std::error::Error;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vchan::{Client, DomId, Host, Server};
use vchan_emulator::Emulator;

const LINES: &str = "hello from dom0\nand once more\n";

/// Serves one client of domain 0, until it closes.
async fn serve(mut server: Server) -> Result<(), Box<dyn Error>> {
    let mut channel = server.accept_async().await?;
    let mut buffer = [0; 4096];
    loop {
        let count = channel.read(&mut buffer).await?;
        if count == 0 {
            return Ok(()); // the client has closed, and everything it wrote has been read
        }
        let bytes = &mut buffer[..count];
        bytes.make_ascii_uppercase();
        channel.write_all(bytes).await?;
    }
}

/// Sends the lines and gives what comes back.
async fn talk(host: Host, server: DomId) -> Result<String, Box<dyn Error>> {
    let client = Client::builder(&host, server).timeout(Duration::from_secs(10));
    let (mut reading, mut writing) = client.connect_async().await?.into_split();
    let mut answer = vec![0; LINES.len()];
    // Both directions at once, in one task. Any future may be dropped at any moment: a poll either
    // moves bytes and is ready, or moves none.
    tokio::try_join!(
        writing.write_all(LINES.as_bytes()),
        reading.read_exact(&mut answer)
    )?;
    Ok(String::from_utf8(answer)?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let guest = DomId::new(2)?;
    let emulator = Emulator::start()?;
    emulator.add_domain(DomId::DOM0)?;
    emulator.add_domain(guest)?;

    let server = Server::builder(&emulator.host(guest)?, DomId::DOM0).bind()?;
    let dom0 = emulator.host(DomId::DOM0)?;
    let ((), answer) = tokio::try_join!(serve(server), talk(dom0, guest))?;

    print!("{answer}");
    assert_eq!(answer, "HELLO FROM DOM0\nAND ONCE MORE\n");
    Ok(())
}

#[test]
fn the_lines_come_back_in_capitals() -> Result<(), Box<dyn Error>> {
    main()
}
