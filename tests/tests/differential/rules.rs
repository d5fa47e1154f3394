//! What a step must do to the control page, and where our answers differ from C's on purpose.
//!
//! Indices and live bytes are the same whoever is at either end. Notify bits and events are not:
//! the libraries ask for events at different times. What each does is determined by what it found,
//! so it is checked for each pairing by itself, against [`asks`] and [`tells`].

use vchan::layout::{Live, NOTIFY_READ, NOTIFY_WRITE, Ring, Side};

use crate::pairing::{Header, Libraries, Library, Seen};
use crate::sequence::{Call, Sequence, Step};

/// Where we differ on purpose. The last table of docs/PROTOCOL.md has a row for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Difference {
    NothingToDo,
    NothingAskedOfAClosedChannel,
    TooLarge,
    CleanEnd,
    CutDatagram,
    WriteToAClosedChannel,
    AsksOnlyBeforeSleeping,
    NothingMovesNothing,
}

impl Difference {
    pub(crate) const ALL: [Difference; 8] = [
        Difference::NothingToDo,
        Difference::NothingAskedOfAClosedChannel,
        Difference::TooLarge,
        Difference::CleanEnd,
        Difference::CutDatagram,
        Difference::WriteToAClosedChannel,
        Difference::AsksOnlyBeforeSleeping,
        Difference::NothingMovesNothing,
    ];

    /// The row's first cell.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Difference::NothingToDo => "nothing to do yet, non-blocking",
            Difference::NothingAskedOfAClosedChannel => "zero bytes, after the peer closed",
            Difference::TooLarge => "datagram larger than the ring, non-blocking",
            Difference::CleanEnd => "clean end of the stream",
            Difference::CutDatagram => "datagram cut short by a close",
            Difference::WriteToAClosedChannel => "write after the peer closed",
            Difference::AsksOnlyBeforeSleeping => "asking for events",
            Difference::NothingMovesNothing => "zero bytes, to the peer",
        }
    }
}

/// What our library answers where C's answered `c`, in a ring of `size` bytes with `used` in it;
/// and, if that is not just the same, on what grounds.
pub(crate) fn ours(
    call: Call,
    c: &str,
    (size, used): (usize, usize),
) -> (String, Option<Difference>) {
    use Call::{Open, Read, Ready, Recv, Send, Space, Write};
    use Difference as D;
    let differs = |answer: String, why| (answer, Some(why));
    match (call, c) {
        // The same three states, by name.
        (Open, "0") => ("closed".to_owned(), None),
        (Open, "1") => ("connected".to_owned(), None),
        (Open, "2") => ("waiting".to_owned(), None),

        // C: "would block" while the peer is there, for ever.
        (Send(wanted) | Recv(wanted), "0" | "-1") if wanted > size => {
            differs(format!("too-large {size}"), D::TooLarge)
        }
        // C: an error. Here zero bytes always succeed.
        (Write(0) | Send(0) | Read(0), "-1") => {
            differs("0".to_owned(), D::NothingAskedOfAClosedChannel)
        }
        // C: -1 for all of these.
        (Write(_) | Send(_), "-1") => differs("closed".to_owned(), D::WriteToAClosedChannel),
        (Read(_), "-1") => differs("0".to_owned(), D::CleanEnd),
        (Recv(wanted), "-1") => differs(format!("end {used} of {wanted}"), D::CutDatagram),
        // C: 0, as for zero bytes.
        (Write(1..) | Send(1..) | Read(1..) | Recv(1..), "0") => {
            differs("would-block".to_owned(), D::NothingToDo)
        }
        (Write(_) | Send(_) | Read(_) | Recv(_) | Ready | Space | Open, same) => {
            (same.to_owned(), None)
        }
    }
}

/// How many bytes an answer says that a call has moved.
pub(crate) fn moved(call: Call, answer: &str) -> u32 {
    match call {
        Call::Write(_) | Call::Send(_) | Call::Read(_) | Call::Recv(_) => {
            let count = answer.split(' ').next().unwrap_or_default();
            count.parse().unwrap_or(0)
        }
        Call::Ready | Call::Space | Call::Open => 0,
    }
}

/// The notify bits that the call sets: what it asks the peer to tell.
fn asks(library: Library, side: Side, call: Call, seen: &Seen, sequence: &Sequence) -> u8 {
    let before = &seen.before;
    let closed = before.live[side.peer() as usize] == Live::Gone.byte();
    let bit = match call {
        Call::Write(_) | Call::Send(_) | Call::Space => NOTIFY_READ,
        Call::Read(_) | Call::Recv(_) | Call::Ready => NOTIFY_WRITE,
        Call::Open => 0,
    };
    let asked = match (library, call) {
        (Library::Ours, _) => seen.answer == "would-block",
        (Library::C, Call::Write(size) | Call::Send(size)) => {
            let ring = Ring::written_by(side);
            !closed && size > sequence.capacity(ring) - before.used(ring)
        }
        (Library::C, Call::Read(size) | Call::Recv(size)) => {
            size > before.used(Ring::read_by(side))
        }
        (Library::C, Call::Ready | Call::Space | Call::Open) => true,
    };
    if asked { bit } else { 0 }
}

/// Which of the peer's requests the call answers: it clears the bit, and sends an event if the bit
/// was set.
fn tells(library: Library, side: Side, call: Call, seen: &Seen) -> u8 {
    let before = &seen.before;
    let closed = before.live[side.peer() as usize] == Live::Gone.byte();
    let moved = moved(call, &seen.answer) > 0;
    // C publishes its index anew where nothing was to be moved.
    let idle = library == Library::C
        && match call {
            Call::Send(0) => !closed,
            Call::Read(0) => before.used(Ring::read_by(side)) > 0,
            Call::Recv(0) => true,
            _ => false,
        };
    match call {
        Call::Write(_) | Call::Send(_) if moved || idle => NOTIFY_WRITE,
        Call::Read(_) | Call::Recv(_) if moved || idle => NOTIFY_READ,
        _ => 0,
    }
}

/// Which differences in notify bits a step of ours shows: what C would have done with the page as
/// we found it.
pub(crate) fn quieter(
    step: Step,
    seen: &Seen,
    sequence: &Sequence,
) -> impl Iterator<Item = Difference> {
    let (asks_less, tells_less) = match step {
        Step::Call(side, call) => {
            let asks = |library| asks(library, side, call, seen, sequence);
            let tells = |library| tells(library, side, call, seen);
            let both = [Library::C, Library::Ours];
            let [c_asks, we_ask] = both.map(asks);
            let [c_tells, we_tell] = both.map(tells);
            (c_asks & !we_ask != 0, c_tells & !we_tell != 0)
        }
        _ => (false, false),
    };
    let asks_less = asks_less.then_some(Difference::AsksOnlyBeforeSleeping);
    let tells_less = tells_less.then_some(Difference::NothingMovesNothing);
    asks_less.into_iter().chain(tells_less)
}

/// Checks all that a step did to the page, and the event it sent.
pub(crate) fn check(
    libraries: Libraries,
    step: Step,
    seen: &Seen,
    sequence: &Sequence,
) -> Result<(), String> {
    let library = libraries[step.side() as usize];
    let mut expected = seen.before;
    let event = match step {
        Step::Connect => {
            expected.live[Side::Client as usize] = Live::Connected.byte();
            expected.asked[Side::Server as usize] |= NOTIFY_WRITE;
            true
        }
        Step::Leave(side, _) => {
            expected.live[side as usize] = Live::Gone.byte();
            true
        }
        Step::Call(side, call) => {
            let count = moved(call, &seen.answer);
            let index = match call {
                Call::Write(_) | Call::Send(_) => &mut expected.prod,
                _ => &mut expected.cons,
            };
            if let Some(ring) = call.ring(side) {
                let index = &mut index[ring as usize];
                *index = index.wrapping_add(count);
            }
            let told = tells(library, side, call, seen);
            let event = expected.asked[side as usize] & told != 0;
            expected.asked[side as usize] &= !told;
            expected.asked[side.peer() as usize] |= asks(library, side, call, seen, sequence);
            event
        }
    };
    compare(&seen.after, &expected)?;
    for ring in [Ring::Left, Ring::Right] {
        let used = seen.after.used(ring);
        if used > sequence.capacity(ring) {
            return Err(format!("{used} bytes in the {ring:?} ring"));
        }
    }
    // A peer of ours may have one pending since earlier.
    let peer = libraries[step.side().peer() as usize];
    match seen.event {
        Some(false) if event => Err("the peer is to have an event and got none".to_owned()),
        Some(true) if !event && peer == Library::C => {
            Err("the peer got an event that it had not asked for".to_owned())
        }
        _ => Ok(()),
    }
}

fn compare(found: &Header, expected: &Header) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("the page is\n  {found:x?}, not\n  {expected:x?}"))
    }
}
