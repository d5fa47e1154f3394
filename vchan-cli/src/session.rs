//! A session: standard input to the channel, the channel to standard output, and when it is over.
//!
//! Two threads copy and report; the calling thread only listens to them and decides. When it has
//! decided, the process ends, whatever the copying threads wait for at that moment, and the host
//! tells the other side that this end of the channel is gone, as it does after Ctrl-C.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use vchan::{Channel, Error, ReadHalf};

use crate::args::Args;
use crate::failure::Failure;
use crate::outgoing::{Interrupted, Outgoing};
use crate::report::Report;

/// What ends a session after the end of standard input, once the other side has read everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ending {
    /// That as many bytes came back as were sent, if any were.
    answered: bool,
    /// That nothing has arrived for so long.
    linger: Option<Duration>,
    /// The same, where nothing was sent.
    idle: Option<Duration>,
}

const LINGER: Duration = Duration::from_secs(2);

impl Ending {
    /// The rule that `--help` states.
    pub fn of(args: &Args) -> Ending {
        match args.linger {
            Some(linger) => Ending {
                answered: false,
                linger: Some(linger),
                idle: Some(linger),
            },
            None => Ending {
                answered: true,
                linger: Some(LINGER),
                idle: (!args.server).then_some(LINGER),
            },
        }
    }
}

/// What the copying threads report.
enum Event {
    /// Bytes were received and printed.
    Printed(usize),
    /// There is no more to send; so many bytes were sent, and read by the other side.
    InputOver(Result<u64, Interrupted>),
    /// There is no more to print.
    OutputOver(Result<OutputEnd, Failure>),
}

/// Why there is no more to print.
enum OutputEnd {
    /// The other side has closed the channel.
    Closed,
    /// Nobody reads standard output any more.
    BrokenPipe,
}

/// Runs a session over `channel` until it ends by `ending` or by the other side.
pub fn run(channel: Channel, ending: Ending, report: Report) -> Result<(), Failure> {
    let (_, ring) = channel.ring_sizes();
    let (reader, writer) = channel.into_split();
    let outgoing = Arc::new(Outgoing::new(writer, ring));
    let events = start(reader, &outgoing)?;
    let mut progress = Progress::default();
    loop {
        match progress.next(&events, ending) {
            None => return Ok(()),
            Some(Event::Printed(count)) => progress.printed(count),
            Some(Event::InputOver(Ok(sent))) => progress.input_over(sent),
            Some(Event::InputOver(Err(Interrupted::Input(why)))) => {
                let doing = "read standard input";
                return Err(Failure::Io { doing, why });
            }
            // The other thread comes to the same end, after it has printed what still arrived.
            Some(Event::InputOver(Err(Interrupted::Channel(why)))) if is_final(&why) => {}
            Some(Event::InputOver(Err(Interrupted::Channel(why)))) => {
                return Err(with_undelivered(why, &outgoing));
            }
            Some(Event::OutputOver(Ok(OutputEnd::BrokenPipe))) => return Ok(()),
            Some(Event::OutputOver(Ok(OutputEnd::Closed))) => {
                if outgoing.undelivered().is_some() {
                    return Err(with_undelivered(Error::Closed, &outgoing));
                }
                report.note(Error::Closed);
                return Ok(());
            }
            Some(Event::OutputOver(Err(Failure::Vchan(why)))) if is_final(&why) => {
                return Err(with_undelivered(why, &outgoing));
            }
            Some(Event::OutputOver(Err(failure))) => return Err(failure),
        }
    }
}

/// How far the session has come.
#[derive(Debug)]
struct Progress {
    /// How many bytes were sent, once all of them were.
    sent: Option<u64>,
    printed: u64,
    /// When something last happened.
    last: Instant,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            sent: None,
            printed: 0,
            last: Instant::now(),
        }
    }
}

impl Progress {
    fn printed(&mut self, count: usize) {
        self.printed = self.printed.saturating_add(count as u64);
        self.last = Instant::now();
    }

    fn input_over(&mut self, sent: u64) {
        self.sent = Some(sent);
        self.last = Instant::now();
    }

    /// The next event; `None` when the session is over.
    fn next(&self, events: &Receiver<Event>, ending: Ending) -> Option<Event> {
        let patience = match self.sent {
            None => None,
            Some(0) => ending.idle,
            Some(sent) if ending.answered && self.printed >= sent => return None,
            Some(_) => ending.linger,
        };
        let event = match patience {
            Some(patience) => events.recv_timeout(patience.saturating_sub(self.last.elapsed())),
            None => events.recv().map_err(RecvTimeoutError::from),
        };
        match event {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // Neither thread ends without a word, unless it has panicked.
                let (doing, why) = ("go on", io::Error::other("both threads are gone"));
                Some(Event::OutputOver(Err(Failure::Io { doing, why })))
            }
        }
    }
}

/// Whether the whole channel is at its end after this error, for reading as for writing.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Closed | Error::PeerDied | Error::PeerFault(_))
}

fn with_undelivered(why: Error, outgoing: &Outgoing) -> Failure {
    match outgoing.undelivered() {
        Some(undelivered) => Failure::Undelivered { why, undelivered },
        None => why.into(),
    }
}

/// Starts the two copying threads.
fn start(reader: ReadHalf, outgoing: &Arc<Outgoing>) -> Result<Receiver<Event>, Failure> {
    let (sender, events) = channel();
    let (outgoing, input_sender) = (Arc::clone(outgoing), sender.clone());
    spawn("input", move || {
        let over = outgoing.copy_from(io::stdin().lock());
        // Nobody listens any more when the session has ended meanwhile.
        let _ = input_sender.send(Event::InputOver(over));
    })?;
    spawn("output", move || {
        let over = print(reader, &sender);
        let _ = sender.send(Event::OutputOver(over));
    })?;
    Ok(events)
}

fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(|why| Failure::Io {
        doing: "start a thread",
        why,
    })
}

/// Prints what arrives, at once, until there is no more.
fn print(mut reader: ReadHalf, events: &Sender<Event>) -> Result<OutputEnd, Failure> {
    let mut buffer = vec![0; 64 * 1024];
    let mut output = io::stdout().lock();
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(OutputEnd::Closed);
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        match output.write_all(bytes).and_then(|()| output.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(OutputEnd::BrokenPipe);
            }
            Err(why) => {
                let doing = "write to standard output";
                return Err(Failure::Io { doing, why });
            }
            Ok(()) => {}
        }
        let _ = events.send(Event::Printed(count));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    const AN_HOUR: Duration = Duration::from_secs(3600);

    /// A session in which so many bytes were sent and printed, the last of them long ago.
    fn long_silent(sent: Option<u64>, printed: u64) -> Progress {
        Progress {
            sent,
            printed,
            last: Instant::now() - Duration::from_secs(10),
        }
    }

    fn rule(arguments: &[&str]) -> Ending {
        let arguments = [&["node-cli", "2"], arguments].concat();
        Ending::of(&Args::try_parse_from(arguments).unwrap())
    }

    #[test]
    fn an_answer_as_long_as_the_question_ends_it_without_a_wait() {
        let (_sender, events) = channel();
        let ending = Ending {
            // Longer than any test: it must not come to that.
            linger: Some(AN_HOUR),
            ..rule(&[])
        };
        for printed in [5, 6] {
            let next = long_silent(Some(5), printed).next(&events, ending);
            assert!(next.is_none());
        }
    }

    #[test]
    fn without_an_answer_it_ends_after_a_silence() {
        let (_sender, events) = channel();
        for printed in [0, 4] {
            assert!(
                long_silent(Some(5), printed)
                    .next(&events, rule(&[]))
                    .is_none()
            );
        }
        assert!(long_silent(Some(0), 0).next(&events, rule(&[])).is_none());
    }

    #[test]
    fn it_goes_on_however_long_nothing_comes_where_that_does_not_count() {
        for (sent, printed, ending) in [
            // While there is more to send.
            (None, 0, rule(&["--linger", "0"])),
            (None, 10, rule(&[])),
            // A server that had nothing to send.
            (Some(0), 0, rule(&["--server"])),
            // Where the number of bytes does not count.
            (Some(5), 5, rule(&["--linger", "3600"])),
        ] {
            let (sender, events) = channel();
            let late = thread::spawn(move || {
                thread::sleep(Duration::from_millis(30));
                sender.send(Event::Printed(1))
            });
            let next = long_silent(sent, printed).next(&events, ending);
            assert!(
                matches!(next, Some(Event::Printed(1))),
                "{sent:?} {ending:?}"
            );
            late.join().unwrap().unwrap();
        }
    }

    #[test]
    fn what_is_printed_begins_the_silence_anew() {
        let mut progress = long_silent(Some(5), 5);
        let before = progress.last;
        progress.printed(1);
        assert!(progress.last > before && progress.printed == 6);
    }
}
