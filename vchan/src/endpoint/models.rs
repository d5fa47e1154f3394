//! The wake-up protocol under the model checker: every interleaving and every reordering that the
//! memory model allows, over the real rings, endpoints and wake-ups.
//!
//! A lost wake-up shows as a deadlock, a byte that is read too early as a data race. Run them with
//! `cargo xtask mutations`, which also takes out one guard at a time and demands that a model fails.

use core::task::{Poll, Waker};
use std::future::poll_fn;
use std::time::Duration;
use std::vec::Vec;

use loom::future::block_on;
use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::*;
use crate::host::{EventChannels, GrantRef, Grants, Port, Shared, Store, UnmapNotify, Watch};
use crate::layout::{GRANTS, Ring};
use crate::memory::Access;
use crate::ring::{Bytes, Consumer, Producer};
use crate::sync::{Condvar, Mutex};
use crate::{HostError, StoreError, StorePath};

mod datapath;

/// One direction of an event channel: the events that one end has not taken yet.
#[derive(Default)]
struct Line {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Default)]
struct LineState {
    pending: bool,
    masked: bool,
    /// Ends every sleep: the clock has struck.
    struck: bool,
    /// Ends one sleep.
    rung: bool,
    /// Woken by the next event.
    waker: Option<Waker>,
}

impl Line {
    fn post(&self) {
        let mut state = self.state.lock().unwrap();
        state.pending = true;
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn strike(&self) {
        self.state.lock().unwrap().struck = true;
        self.changed.notify_all();
    }
}

struct ModelChannel {
    ours: Arc<Line>,
    theirs: Arc<Line>,
}

impl EventChannel for ModelChannel {
    fn port(&self) -> Port {
        Port(1)
    }

    fn notify(&self) -> Result<(), HostError> {
        self.theirs.post();
        Ok(())
    }

    fn take(&self) -> Result<bool, HostError> {
        let mut state = self.ours.state.lock().unwrap();
        let taken = state.pending && !state.masked;
        if taken {
            (state.pending, state.masked) = (false, true);
        }
        Ok(taken)
    }

    fn unmask(&self) -> Result<(), HostError> {
        self.ours.state.lock().unwrap().masked = false;
        self.ours.changed.notify_all();
        Ok(())
    }

    fn sleep(&self, _most: Option<Duration>) -> Result<(), HostError> {
        let mut state = self.ours.state.lock().unwrap();
        while !state.struck && !state.rung && (state.masked || !state.pending) {
            state = self.ours.changed.wait(state).unwrap();
        }
        state.rung = false;
        Ok(())
    }

    fn wake(&self) {
        self.ours.state.lock().unwrap().rung = true;
        self.ours.changed.notify_all();
    }

    fn is_bound(&self) -> Result<Option<bool>, HostError> {
        Ok(None)
    }
}

/// A runtime that knows of the event when it comes, and keeps one waker as tokio does.
impl Readiness for Arc<Line> {
    fn poll_take(
        &self,
        waker: &Waker,
        take: &mut dyn FnMut() -> Result<bool, Error>,
    ) -> Poll<Result<bool, Error>> {
        {
            let mut state = self.state.lock().unwrap();
            if !state.pending {
                state.waker = Some(waker.clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(take())
    }
}

/// A host that has a clock, and nothing else that an endpoint would ask for.
struct ModelHost {
    struck: Arc<AtomicBool>,
}

impl EventChannels for ModelHost {
    fn bind_unbound(&self, _: DomId) -> Result<Box<dyn EventChannel>, HostError> {
        unreachable!("a model is bound already")
    }

    fn bind_interdomain(&self, _: DomId, _: Port) -> Result<Box<dyn EventChannel>, HostError> {
        unreachable!("a model is bound already")
    }

    fn now(&self) -> Time {
        let struck = self.struck.load(Ordering::SeqCst);
        Time(if struck { DEADLINE } else { Duration::ZERO })
    }

    fn pause(&self, _duration: Duration) {
        unreachable!("nothing is set up in a model");
    }
}

/// When the clock has struck; before, it stands at zero.
const DEADLINE: Duration = Duration::from_millis(1);

struct Nothing;

impl Grants for Nothing {
    fn share(
        &self,
        _: DomId,
        _: usize,
        _: Access,
        _: Option<UnmapNotify>,
    ) -> Result<Shared, HostError> {
        unreachable!("a model has its pages already")
    }

    fn map(
        &self,
        _: DomId,
        _: &[GrantRef],
        _: Access,
        _: Option<UnmapNotify>,
    ) -> Result<Region, HostError> {
        unreachable!("a model has its pages already")
    }
}

impl Store for Nothing {
    fn read(&self, _: &StorePath) -> Result<Vec<u8>, StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn write(&self, _: &StorePath, _: &[u8]) -> Result<(), StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn remove(&self, _: &StorePath) -> Result<(), StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn directory(&self, _: &StorePath) -> Result<Vec<std::string::String>, StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn permissions(&self, _: &StorePath) -> Result<crate::host::Permissions, StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn set_permissions(
        &self,
        _: &StorePath,
        _: &crate::host::Permissions,
    ) -> Result<(), StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn is_domain_introduced(&self, _: DomId) -> Result<bool, StoreError> {
        unreachable!("an endpoint asks no store")
    }
    fn watch(&self, _: &StorePath) -> Result<Box<dyn Watch>, StoreError> {
        unreachable!("an endpoint asks no store")
    }
}

struct End {
    reader: Reader,
    writer: Writer,
}

/// A connected pair, with rings of two bytes in both directions that begin just before their
/// indices wrap, and the clock.
struct Model {
    server: End,
    client: End,
    clock: Clock,
}

struct Clock {
    struck: Arc<AtomicBool>,
    lines: [Arc<Line>; 2],
}

impl Clock {
    fn strike(&self) {
        self.struck.store(true, Ordering::SeqCst);
        self.lines.iter().for_each(|line| line.strike());
    }
}

const RING: u32 = 2;

fn connected() -> Model {
    let model = waiting();
    let page = model.client.reader.link().page();
    page.set_bits(Side::Server.asked_of_us(), NOTIFY_WRITE, Ordering::SeqCst);
    let (live, connected) = (Side::Client.live(), Live::Connected.byte());
    page.store_byte(live, connected, Ordering::SeqCst);
    model
}

/// The same before the client says that it is there.
fn waiting() -> Model {
    let (server_page, client_page) = Region::model(u32::MAX, 2 * RING as usize);
    let lines = [Arc::new(Line::default()), Arc::new(Line::default())];
    let struck = Arc::new(AtomicBool::new(false));
    let end = |side: Side, page: Region, ours: usize| {
        let page = Arc::new(page);
        let bytes = |ring| {
            let start = if ring == Ring::Left {
                GRANTS
            } else {
                GRANTS + RING as usize
            };
            Bytes {
                region: Arc::clone(&page),
                start,
                size: RING,
            }
        };
        let port = ModelChannel {
            ours: Arc::clone(&lines[ours]),
            theirs: Arc::clone(&lines[1 - ours]),
        };
        let consumer = Consumer::new(Arc::clone(&page), side, bytes(Ring::read_by(side))).unwrap();
        let producer =
            Producer::new(Arc::clone(&page), side, bytes(Ring::written_by(side))).unwrap();
        let host = Host::new(
            Nothing,
            ModelHost {
                struck: Arc::clone(&struck),
            },
            Nothing,
        );
        let link = Arc::new(Link::new(host, DomId::DOM0, side, &page, Box::new(port)));
        End {
            reader: Reader::new(consumer, Arc::clone(&link)),
            writer: Writer::new(producer, link),
        }
    };
    Model {
        server: end(Side::Server, server_page, 0),
        client: end(Side::Client, client_page, 1),
        clock: Clock {
            struck: Arc::clone(&struck),
            lines: lines.clone(),
        },
    }
}

fn write_all(writer: &mut Writer, bytes: &[u8]) {
    let link = Arc::clone(writer.link());
    let mut sent = 0;
    let mut patience = link.patience(Spin::Never, 1024);
    while sent < bytes.len() {
        sent += link
            .wait_for(Wanted::Space, None, &mut patience, || {
                writer.write(&bytes[sent..])
            })
            .unwrap();
    }
}

/// Reads one byte; `None` at the end of the stream.
fn read_byte(reader: &mut Reader, deadline: Option<Time>) -> Result<Option<u8>, Error> {
    let mut patience = reader.link().patience(Spin::Never, 1024);
    read_byte_with(&mut patience, reader, deadline)
}

fn read_byte_with(
    patience: &mut Patience,
    reader: &mut Reader,
    deadline: Option<Time>,
) -> Result<Option<u8>, Error> {
    let link = Arc::clone(reader.link());
    let mut byte = [0];
    let count = link.wait_for(Wanted::Data, deadline, patience, || reader.read(&mut byte))?;
    Ok((count == 1).then_some(byte[0]))
}

fn read_all(reader: &mut Reader, expected: &[u8]) {
    for &byte in expected {
        assert_eq!(read_byte(reader, None).unwrap(), Some(byte));
    }
}

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn every_byte_crosses_though_both_ends_must_sleep() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let End { mut writer, reader } = server;
        let thread = thread::spawn(move || {
            write_all(&mut writer, &[1, 2, 3]);
            (writer, reader)
        });
        read_all(&mut client.reader, &[1, 2, 3]);
        thread.join().unwrap();
    });
}

#[test]
fn a_reader_that_spins_before_it_sleeps_gets_every_byte() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let End { mut writer, reader } = server;
        let thread = thread::spawn(move || {
            write_all(&mut writer, &[1, 2]);
            (writer, reader)
        });
        let mut patience = client.reader.link().patience(Spin::Adaptive, 1024);
        for expected in [1, 2] {
            let byte = read_byte_with(&mut patience, &mut client.reader, None);
            assert_eq!(byte.unwrap(), Some(expected));
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_reader_that_only_spins_asks_for_no_event_and_sees_the_end() {
    check(3, || {
        let Model {
            server,
            mut client,
            clock,
        } = connected();
        // The server's first publication calls for an event: so the page is made.
        let page = Arc::clone(client.reader.link().page());
        page.clear_bits(Side::Client.asked_of_us(), NOTIFY_WRITE, Ordering::SeqCst);
        page.clear_bits(Side::Server.asked_of_us(), NOTIFY_WRITE, Ordering::SeqCst);
        let thread = thread::spawn(move || {
            let mut server = server;
            write_all(&mut server.writer, &[1]);
            assert!(!clock.lines[1].state.lock().unwrap().pending, "an event");
            drop(server);
        });
        let mut patience = client.reader.link().patience(Spin::Always, 1024);
        let mut next = || read_byte_with(&mut patience, &mut client.reader, None).unwrap();
        assert_eq!((next(), next()), (Some(1), None));
        thread.join().unwrap();
    });
}

#[test]
fn reader_and_writer_share_one_event_channel() {
    check(2, || {
        let Model { server, client, .. } = connected();
        let (mut echo_in, mut echo_out) = (server.reader, server.writer);
        let echo = thread::spawn(move || {
            read_all(&mut echo_in, &[1, 2, 3]);
            write_all(&mut echo_out, &[9]);
            (echo_in, echo_out)
        });
        let (mut reader, mut writer) = (client.reader, client.writer);
        let hungry = thread::spawn(move || {
            read_all(&mut reader, &[9]);
            reader
        });
        write_all(&mut writer, &[1, 2, 3]);
        let ends = (echo.join().unwrap(), hungry.join().unwrap());
        drop((ends, writer));
    });
}

#[test]
fn the_last_bytes_before_a_close_arrive() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let thread = thread::spawn(move || {
            let mut server = server;
            write_all(&mut server.writer, &[1, 2]);
            drop(server);
        });
        read_all(&mut client.reader, &[1, 2]);
        assert_eq!(read_byte(&mut client.reader, None).unwrap(), None);
        thread.join().unwrap();
    });
}

#[test]
fn a_close_wakes_a_writer_that_sleeps() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        write_all(&mut client.writer, &[1, 2]);
        let thread = thread::spawn(move || drop(server));
        let link = Arc::clone(client.writer.link());
        let mut patience = link.patience(Spin::Never, 1024);
        let late = link.wait_for(Wanted::Space, None, &mut patience, || {
            client.writer.write(&[3])
        });
        assert!(matches!(late, Err(Error::Closed)));
        thread.join().unwrap();
    });
}

#[test]
fn who_is_awake_has_asked_for_no_event() {
    check(3, || {
        let Model {
            server, mut client, ..
        } = connected();
        let page = Arc::clone(client.reader.link().page());
        let asked = Side::Server.asked_of_us();
        // Made by connecting.
        page.clear_bits(asked, NOTIFY_WRITE, Ordering::SeqCst);
        let End { mut writer, reader } = server;
        let thread = thread::spawn(move || {
            write_all(&mut writer, &[1]);
            (writer, reader)
        });
        read_all(&mut client.reader, &[1]);
        drop(thread.join().unwrap());
        assert_eq!(page.load_byte(asked, Ordering::SeqCst) & NOTIFY_WRITE, 0);
    });
}

#[test]
fn closing_wakes_a_reader_of_the_own_side() {
    check(3, || {
        let Model { server, client, .. } = connected();
        let End { mut reader, writer } = client;
        let reading = thread::spawn(move || {
            assert_eq!(read_byte(&mut reader, None).unwrap(), None);
            reader
        });
        writer.link().shut_down();
        drop((reading.join().unwrap(), writer, server));
    });
}

#[test]
fn a_fault_that_the_writer_finds_wakes_reader_and_follower() {
    check(2, || {
        let Model { server, client, .. } = connected();
        let End {
            mut reader,
            mut writer,
        } = client;
        // The ring is full, so both must wait.
        write_all(&mut writer, &[1, 2]);
        let reading = thread::spawn(move || {
            assert!(matches!(
                read_byte(&mut reader, None),
                Err(Error::PeerFault(_))
            ));
            reader
        });
        let link = Arc::clone(writer.link());
        let finding = thread::spawn(move || {
            link.record(PeerFault::Live(7));
        });
        let mut patience = writer.link().patience(Spin::Never, 1024);
        let waited = Arc::clone(writer.link())
            .wait_for(Wanted::Space, None, &mut patience, || writer.write(&[3]));
        assert!(matches!(waited, Err(Error::PeerFault(_))));
        finding.join().unwrap();
        drop((reading.join().unwrap(), writer, server));
    });
}

#[test]
fn a_deadline_that_races_with_an_event_loses_nothing() {
    check(2, || {
        let Model {
            server,
            mut client,
            clock,
        } = connected();
        let End { mut writer, reader } = server;
        let thread = thread::spawn(move || {
            write_all(&mut writer, &[7]);
            (writer, reader)
        });
        let striking = thread::spawn(move || {
            clock.strike();
            clock
        });
        let first = read_byte(&mut client.reader, Some(Time(DEADLINE)));
        match first {
            Ok(byte) => assert_eq!(byte, Some(7)),
            Err(Error::TimedOut { .. }) => {
                // The writer has its chance; after that the byte must be there.
                let ends = thread.join().unwrap();
                assert_eq!(
                    read_byte(&mut client.reader, Some(Time(DEADLINE))).unwrap(),
                    Some(7)
                );
                striking.join().unwrap();
                drop(ends);
                return;
            }
            Err(other) => panic!("{other}"),
        }
        drop((thread.join().unwrap(), striking.join().unwrap()));
    });
}

#[test]
fn two_threads_that_look_while_the_client_comes_blame_nobody() {
    check(3, || {
        let Model { server, client, .. } = waiting();
        let looking = [(); 2].map(|()| {
            let link = Arc::clone(server.reader.link());
            thread::spawn(move || link.state().unwrap())
        });
        client.reader.link().page().store_byte(
            Side::Client.live(),
            Live::Connected.byte(),
            Ordering::Release,
        );
        for look in looking {
            assert_ne!(look.join().unwrap(), State::Closed);
        }
    });
}

async fn read_byte_in(tasks: &Tasks, reader: &mut Reader) -> Option<u8> {
    let mut byte = [0];
    let read = poll_fn(|cx| tasks.poll(Wanted::Data, cx.waker(), || reader.read(&mut byte))).await;
    (read.unwrap() == 1).then_some(byte[0])
}

async fn write_byte_in(tasks: &Tasks, writer: &mut Writer, byte: u8) {
    let written =
        poll_fn(|cx| tasks.poll(Wanted::Space, cx.waker(), || writer.write(&[byte]))).await;
    assert_eq!(written.unwrap(), 1);
}

fn tasks_of(end: &End, clock: &Clock, line: usize) -> Arc<Tasks> {
    let link = Arc::clone(end.reader.link());
    Arc::new(Tasks::new(link, Box::new(Arc::clone(&clock.lines[line]))))
}

#[test]
fn a_reading_and_a_writing_task_share_one_event_channel() {
    check(2, || {
        let Model {
            server,
            client,
            clock,
        } = connected();
        let tasks = tasks_of(&client, &clock, 1);
        let End {
            mut reader,
            mut writer,
        } = client;
        // The ring is full: the writing task must wait for the peer to read, the reading task for
        // it to write.
        write_all(&mut writer, &[1, 2]);
        let peer = thread::spawn(move || {
            let mut server = server;
            read_all(&mut server.reader, &[1]);
            write_all(&mut server.writer, &[9]);
            server
        });
        let writing = {
            let tasks = Arc::clone(&tasks);
            thread::spawn(move || {
                block_on(write_byte_in(&tasks, &mut writer, 3));
                writer
            })
        };
        assert_eq!(block_on(read_byte_in(&tasks, &mut reader)), Some(9));
        drop((writing.join().unwrap(), peer.join().unwrap(), reader));
    });
}

#[test]
fn a_task_that_is_cancelled_while_an_event_comes_takes_nothing_from_the_other() {
    check(2, || {
        let Model {
            server,
            client,
            clock,
        } = connected();
        let tasks = tasks_of(&client, &clock, 1);
        let End {
            mut reader,
            mut writer,
        } = client;
        write_all(&mut writer, &[1, 2]);
        let peer = thread::spawn(move || {
            let mut server = server;
            read_all(&mut server.reader, &[1]);
            server
        });
        let cancelled = {
            let tasks = Arc::clone(&tasks);
            thread::spawn(move || {
                // Polled once, perhaps just when the event comes, and dropped: nothing to read.
                let polled = tasks.poll(Wanted::Data, Waker::noop(), || reader.read(&mut [0]));
                assert!(polled.is_pending());
                reader
            })
        };
        block_on(write_byte_in(&tasks, &mut writer, 3));
        drop((cancelled.join().unwrap(), peer.join().unwrap(), writer));
    });
}
