//! Group A of the fault catalogue: the peer writes anything into the shared pages, at any time.

#[path = "../common/mod.rs"]
mod common;

mod control_page;
mod data;
mod flags;
mod indices;

use std::sync::atomic::Ordering;
use std::time::Duration;

use vchan::layout::{Geometry, Side};
use vchan::memory::Region;
use vchan::{Channel, Client, DomId, Error};

use common::raw::RawPeer;
use common::watched::{hook, watched};
use common::{LONG, World, guest};

const SHORT: Duration = Duration::from_millis(60);

/// A connected pair, and the control page in the hands of whoever means harm.
struct Victim {
    world: World,
    /// The two ends: the server's, then the client's.
    ends: [Channel; 2],
    page: Region,
}

fn victims(read_size: usize, write_size: usize) -> Victim {
    let world = World::new();
    let (server, client) = world.pair(read_size, write_size);
    let page = world
        .emulator
        .raw_page(guest(), client.handshake().ring_ref)
        .unwrap();
    let mut ends = [server, client];
    for end in &mut ends {
        end.set_read_timeout(Some(LONG));
        end.set_write_timeout(Some(LONG));
    }
    Victim { world, ends, page }
}

const SIDES: [Side; 2] = [Side::Server, Side::Client];

fn place(side: Side) -> usize {
    usize::from(side == Side::Client)
}

impl Victim {
    fn end(&mut self, side: Side) -> &mut Channel {
        &mut self.ends[place(side)]
    }

    fn store(&self, offset: usize, value: u32) {
        self.page.store_index(offset, value, Ordering::Release);
    }

    fn load(&self, offset: usize) -> u32 {
        self.page.load_index(offset, Ordering::Acquire)
    }
}

/// All calls of both directions say that the peer is at fault, again and again.
#[track_caller]
fn assert_poisoned(channel: &mut Channel) {
    channel.set_read_timeout(Some(SHORT));
    channel.set_write_timeout(Some(SHORT));
    for _ in 0..2 {
        let mut buffer = [0; 8];
        let answers = [
            channel.read(&mut buffer).map(drop),
            channel.recv(&mut buffer),
            channel.data_ready().map(drop),
            channel.write(b"x").map(drop),
            channel.send(b"x"),
            channel.drain(),
            channel.buffer_space().map(drop),
            channel.state().map(drop),
        ];
        for (nth, answer) in answers.into_iter().enumerate() {
            assert!(
                matches!(answer, Err(Error::PeerFault(_))),
                "call {nth}: {answer:?}"
            );
        }
        assert_eq!(buffer, [0; 8], "nothing is read after a fault");
    }
}

/// Connects to a raw server after `spoil` has changed its page. Gives the answer, and how often
/// pages were mapped.
fn connect_to(spoil: impl Fn(&RawPeer)) -> (Result<Channel, Error>, Vec<usize>, World) {
    let world = World::new();
    let geometry = Geometry::new(13, 13).unwrap();
    let raw = RawPeer::serve(&world.guest, DomId::DOM0, geometry, 0).unwrap();
    spoil(&raw);
    let (dom0, calls) = watched(&world.dom0);
    let (sender, maps) = std::sync::mpsc::channel();
    hook(&calls.before_map, move |references| {
        sender.send(references.len()).unwrap();
    });
    let connected = Client::builder(&dom0, guest()).timeout(SHORT).connect();
    drop(raw);
    (connected, maps.try_iter().collect(), world)
}
