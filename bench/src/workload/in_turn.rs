//! A stream in one thread, whose ends take turns: what is asked of the host is then the same in every
//! run, whatever the machine does meanwhile.

use crate::payload::{Arrived, Payload};
use crate::{Failure, Polled};

use super::READ;

/// What crossed, and how often one end could do nothing more.
#[derive(Clone, Copy, Debug)]
pub struct InTurn {
    /// What arrived.
    pub arrived: Arrived,
    /// How often an end had to wait for the other.
    pub waits: u64,
}

/// Writes messages of `size` bytes until they no longer fit, reads until nothing is left, and so on,
/// until `messages` have crossed.
///
/// # Errors
/// Those of the peers, and [`Failure::Corrupt`].
pub fn stream<P: Polled>(
    left: &mut P,
    right: &mut P,
    size: usize,
    messages: u64,
) -> Result<InTurn, Failure> {
    let total = size as u64 * messages;
    let (mut source, mut check) = (Payload::new(size), Payload::new(READ));
    let mut buffer = vec![0; READ];
    let mut rest = Vec::new();
    let mut waits = 0;
    while check.total() < total {
        loop {
            if rest.is_empty() {
                if source.total() == total {
                    break;
                }
                rest = source.next(size).to_vec();
            }
            match left.try_write(&rest)? {
                Some(count) => drop(rest.drain(..count)),
                None => break,
            }
        }
        waits += 1;
        while let Some(count) = right.try_read(&mut buffer)? {
            if count == 0 {
                break;
            }
            check.check(&buffer[..count])?;
        }
        waits += 1;
    }
    Ok(InTurn {
        arrived: check.all_of(total)?,
        waits,
    })
}

/// Writes a message and reads one, `messages` times, with a few always left in the ring: nobody ever
/// has to wait. The ring must have room for eight.
///
/// # Errors
/// Those of the peers, and [`Failure::Corrupt`], also when one of them had to wait.
pub fn steady<P: Polled>(
    left: &mut P,
    right: &mut P,
    size: usize,
    messages: u64,
) -> Result<Arrived, Failure> {
    const LEFT: u64 = 4;
    let (mut source, mut check) = (Payload::new(size), Payload::new(size));
    let mut buffer = vec![0; size];
    for nth in 0..messages + LEFT {
        if nth < messages && left.try_write(source.next(size))? != Some(size) {
            break;
        }
        if nth >= LEFT {
            let count = right.try_read(&mut buffer)?.unwrap_or(0);
            check.check(&buffer[..count])?;
        }
    }
    Ok(check.all_of(messages * size as u64)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Transport;
    use crate::peers::vchan::{Emulated, Mode, Vchan};

    #[test]
    fn who_never_waits_asks_the_host_for_nothing() {
        let transport = Vchan::new(Emulated::start().unwrap(), Mode::NonBlocking);
        let (mut left, mut right) = transport.connect(1024).unwrap();
        // A new page asks for an event of the first message.
        let _ = steady(&mut left, &mut right, 100, 1).unwrap();
        let before = transport.host().counts()[0].now();
        let arrived = steady(&mut left, &mut right, 100, 1000).unwrap();
        assert_eq!(arrived.bytes(), 100_000);
        assert_eq!(transport.host().counts()[0].now(), before);
    }

    #[test]
    fn each_turn_fills_the_ring_and_asks_the_host_for_the_same() {
        let transport = Vchan::new(Emulated::start().unwrap(), Mode::NonBlocking);
        let counts = || {
            let [left, right] = transport.host().counts();
            left.now() + right.now()
        };
        let once = || {
            let (mut left, mut right) = transport.connect(1024).unwrap();
            let before = counts();
            let moved = stream(&mut left, &mut right, 100, 100).unwrap();
            assert_eq!(moved.arrived.bytes(), 10_000);
            assert_eq!(moved.waits, 2 * 10, "10,000 bytes through 1,024");
            counts().since(before)
        };
        assert_eq!(once(), once());
    }
}
