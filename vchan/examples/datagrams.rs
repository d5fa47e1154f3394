//! Datagrams: all of it or nothing, in one step.
//!
//! `send` publishes a whole datagram at once, so the reader never sees a part of one. `recv` takes
//! exactly as many bytes as it is given room for. A vchan does not carry the length: both sides must
//! know it. Here domain 2 sends measurements of 16 bytes to domain 0. Both live on an emulated host
//! in this process; on Xen each would be a program in its own domain, with `vchan::xen::host()`.
//!
//!     cargo run -p vchan --example datagrams

use std::error::Error;

use vchan::{Client, DomId, Server};
use vchan_emulator::Emulator;

/// Two numbers of 8 bytes: when, and what.
const SIZE: usize = 16;

fn datagram(time: u64, value: u64) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes[..8].copy_from_slice(&time.to_le_bytes());
    bytes[8..].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn main() -> Result<(), Box<dyn Error>> {
    let guest = DomId::new(2)?;
    let emulator = Emulator::start()?;
    emulator.add_domain(DomId::DOM0)?;
    emulator.add_domain(guest)?;

    // The server writes a ring of 2048 bytes: room for 128 datagrams. It can write before its
    // client has come.
    let mut server = Server::builder(&emulator.host(guest)?, DomId::DOM0)
        .read_size(0)
        .write_size(2048)
        .bind()?;
    let sender = server.pending()?;
    sender.set_nonblocking(true);
    let mut sent = 0;
    let full = loop {
        match sender.send(&datagram(sent, sent * sent)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    // Nothing of the datagram that did not fit is in the ring.
    assert!(matches!(full, vchan::Error::WouldBlock), "{full}");
    assert_eq!(sent, 128);
    // What can never fit is refused at once, whether the ring is full or empty.
    let too_large = sender
        .send(&[0; 4096])
        .expect_err("it is larger than the ring");
    println!("{too_large}");

    let mut receiver = Client::builder(&emulator.host(DomId::DOM0)?, guest).connect()?;
    for time in 0..sent {
        let mut bytes = [0; SIZE];
        receiver.recv(&mut bytes)?;
        assert_eq!(bytes, datagram(time, time * time));
    }
    println!("{sent} datagrams of {SIZE} bytes arrived");

    // Half a datagram is none: `recv` waits for all of it, here 100 milliseconds.
    let mut channel = server.accept()?;
    channel.write(&[1; SIZE / 2])?;
    receiver.set_read_timeout(Some(std::time::Duration::from_millis(100)));
    let timed_out = receiver.recv(&mut [0; SIZE]);
    assert!(matches!(timed_out, Err(vchan::Error::TimedOut { .. })));
    assert_eq!(receiver.data_ready()?, SIZE / 2);
    Ok(())
}

#[test]
fn datagrams_arrive_whole_or_not_at_all() -> Result<(), Box<dyn Error>> {
    main()
}
