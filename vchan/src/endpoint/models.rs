//! The wake-up protocol under the model checker: every interleaving and every reordering that the
//! memory model allows, over the real rings, endpoints and wake-ups.
//!
//! A lost wake-up shows as a deadlock, a byte that is read too early as a data race. Run them with
//! `cargo xtask mutations`, which also takes out one guard at a time and demands that a model fails.

use loom::thread;

use super::*;
use crate::host::Time;
use crate::layout::{GRANTS, NOTIFY_WRITE, Ring};
use crate::ring::{Bytes, Consumer, Producer};
use host::{Clock, DEADLINE};

mod datapath;
mod ending;
mod host;
mod tasks;
mod waking;

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
    let clock = Clock::new();
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
        let consumer = Consumer::new(Arc::clone(&page), side, bytes(Ring::read_by(side))).unwrap();
        let producer =
            Producer::new(Arc::clone(&page), side, bytes(Ring::written_by(side))).unwrap();
        let (host, port) = (clock.host(), clock.port(ours));
        let link = Arc::new(Link::new(host, DomId::DOM0, side, &page, port));
        End {
            reader: Reader::new(consumer, Arc::clone(&link)),
            writer: Writer::new(producer, link),
        }
    };
    Model {
        server: end(Side::Server, server_page, 0),
        client: end(Side::Client, client_page, 1),
        clock,
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
