//! A connected channel under an interleaving of its user's calls with what a peer does, honest or
//! not, beside a model that says what every call must return.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use vchan::layout::{ControlPage, Geometry, NOTIFY_READ, NOTIFY_WRITE, Place, Ring, Side};
use vchan::memory::PAGE_SIZE;
use vchan::{Channel, Client, DomId, Error, Host, PeerFault, Server, State};

use crate::machine::{Machine, lock};
use crate::tree::Nodes;

mod model;
mod peer;

use model::{Call, Model, Outcome};
use peer::Act;

/// The most steps of one run.
const MOST_STEPS: usize = 200;

/// How the connection begins.
#[derive(Arbitrary, Debug)]
struct Setup {
    /// The side under test serves.
    serves: bool,
    /// The server's client has not come yet.
    waits: bool,
    left: Start,
    right: Start,
}

/// How a ring begins.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Start {
    /// Its order less ten, modulo four.
    order: u8,
    /// Where a client finds the consumer's index.
    cons: u32,
    /// How many bytes a client finds in the ring.
    used: u16,
}

/// One step.
#[derive(Arbitrary, Debug)]
enum Step {
    Call(Call),
    Peer(Act),
    /// To be done when this side sleeps.
    Later(Act),
    /// How calls wait from now on: not at all, or for so many quarters of a second.
    Patience(Option<u8>),
}

/// The bytes say how the connection begins, and then what happens.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    if let Ok(setup) = Setup::arbitrary(&mut input) {
        if setup.serves {
            serve(&setup, &mut input);
        } else {
            connect(&setup, &mut input);
        }
    }
}

fn orders(setup: &Setup) -> [u16; 2] {
    [setup.left, setup.right].map(|start| 10 + u16::from(start.order % 4))
}

fn server_domain() -> DomId {
    DomId::new(1).unwrap_or(DomId::DOM0)
}

struct World {
    model: Arc<Mutex<Model>>,
    machine: Machine,
    nodes: Nodes,
    host: Host,
}

impl World {
    fn new(side: Side) -> World {
        let model = Arc::new(Mutex::new(Model::new(side)));
        let machine = Machine::new(Arc::clone(&model) as _);
        lock(&model).attach(machine.clone());
        let nodes = Nodes::default();
        nodes.set("domid", Ok(b"2".to_vec()));
        let host = Host::new(machine.clone(), machine.clone(), nodes.clone());
        World {
            model,
            machine,
            nodes,
            host,
        }
    }

    fn model(&self) -> std::sync::MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// Nothing is left once the channel is dropped.
    fn end(&self) {
        let state = self.machine.state();
        assert_eq!((state.regions, state.ports), (0, 0), "left behind");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.model().detach();
    }
}

fn serve(setup: &Setup, input: &mut Unstructured<'_>) {
    let world = World::new(Side::Server);
    let [left, right] = orders(setup);
    let server = Server::builder(&world.host, server_domain())
        .read_size(1 << left)
        .write_size(1 << right)
        .bind();
    let mut server = server.expect("a server can be set up");
    let geometry = server.pending().expect("it is").handshake().geometry;
    world.model().place(geometry);
    if setup.waits {
        let channel = server.pending().expect("it still is");
        play(channel, &world, input);
    } else {
        world.model().peer_is_live();
        let mut channel = server.try_accept().expect("the client is there");
        assert_eq!(world.nodes.count(), 1, "the keys are gone");
        world.model().seen(State::Connected);
        play(&mut channel, &world, input);
    }
    drop(server);
    world.model().ended();
    assert_eq!(world.nodes.count(), 1, "the keys are gone");
    world.end();
}

fn connect(setup: &Setup, input: &mut Unstructured<'_>) {
    let world = World::new(Side::Client);
    let [left, right] = orders(setup);
    let Ok(geometry) = Geometry::new(left, right) else {
        return;
    };
    let number = |page: usize| vchan::host::GrantRef(u32::try_from(page).unwrap_or(0));
    let between = 2 + geometry.order(Ring::Left).pages();
    let end = between + geometry.order(Ring::Right).pages();
    let page = ControlPage {
        geometry,
        left_grants: (2..between).map(number).collect(),
        right_grants: (between..end).map(number).collect(),
    };
    world.model().place(geometry);
    world.model().share(&page);
    let mut sound = true;
    for (ring, start) in [(Ring::Left, setup.left), (Ring::Right, setup.right)] {
        let used = u32::from(start.used) % (geometry.order(ring).bytes() + 3);
        sound &= used <= geometry.order(ring).bytes();
        world.model().start(ring, start.cons, used);
    }
    for (key, value) in [("ring-ref", b"1"), ("event-channel", b"5")] {
        let path = format!("/local/domain/1/data/vchan/{key}");
        world.nodes.set(&path, Ok(value.to_vec()));
    }
    let connected = Client::builder(&world.host, server_domain())
        .timeout(Duration::ZERO)
        .connect();
    match connected {
        Ok(mut channel) => {
            assert!(sound, "connected to a ring with impossible indices");
            play(&mut channel, &world, input);
            drop(channel);
            world.model().ended();
        }
        Err(Error::PeerFault(PeerFault::Index { .. })) if !sound => {}
        Err(error) => panic!("the client did not connect: {error}"),
    }
    world.end();
}

/// Takes the steps, and holds every call against the model.
fn play(channel: &mut Channel, world: &World, input: &mut Unstructured<'_>) {
    channel.set_nonblocking(true);
    world.model().begin();
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        match Step::arbitrary(input) {
            Ok(Step::Call(call)) => make(channel, world, call),
            Ok(Step::Peer(act)) => world.model().act(act),
            Ok(Step::Later(act)) => world.model().later(act),
            Ok(Step::Patience(patience)) => {
                let quarters = patience.map(|quarters| u32::from(quarters % 16));
                let timeout = quarters.map(|quarters| quarters * Duration::from_millis(250));
                channel.set_nonblocking(timeout.is_none());
                channel.set_read_timeout(timeout);
                channel.set_write_timeout(timeout);
                world.model().patience = timeout;
            }
            Err(_) => break,
        }
    }
}

/// Makes a call, and holds what it does against the model.
fn make(channel: &mut Channel, world: &World, call: Call) {
    // The bytes before and after a buffer must stay what they are.
    const EDGE: usize = 8;
    const MARK: u8 = 0xA5;
    let (read_size, write_size) = channel.ring_sizes();
    let call = call.within(read_size, write_size);
    let len = call.len();
    let way = call;
    let call = call.plain();
    let mut buffer = match call {
        Call::Read(_) | Call::Recv(_) => vec![MARK; EDGE + len + EDGE],
        _ => world.model().next_bytes(len),
    };
    let totals = |channel: &Channel| [channel.bytes_read(), channel.bytes_written()];
    let mut expected = totals(channel);
    world.model().before(call);
    let result = match way {
        Call::ReadVectored(_) => {
            let (head, tail) = buffer[EDGE..EDGE + len].split_at_mut(len / 3);
            channel.read_vectored(&mut [head, tail])
        }
        Call::RecvInPlace(_) => recv_in_place(channel, &mut buffer[EDGE..EDGE + len]).map(|()| len),
        Call::WriteVectored(_) => {
            let (head, tail) = buffer.split_at(len / 3);
            channel.write_vectored(&[head, tail])
        }
        Call::SendInPlace(_) => send_in_place(channel, &buffer).map(|()| len),
        Call::DataReady => channel.data_ready(),
        Call::BufferSpace => channel.buffer_space(),
        Call::State => channel.state().map(|state| state as usize),
        Call::Read(_) => channel.read(&mut buffer[EDGE..EDGE + len]),
        Call::Recv(_) => channel.recv(&mut buffer[EDGE..EDGE + len]).map(|()| len),
        Call::Write(_) => channel.write(&buffer),
        Call::Send(_) => channel.send(&buffer).map(|()| len),
        Call::Drain => channel.drain().map(|()| 0),
        Call::Probe => channel.probe().map(|state| state as usize),
        Call::Shutdown => {
            channel.shutdown();
            Ok(0)
        }
    };
    let outcome = Outcome::from(result);
    let moved = match outcome {
        Outcome::Done(count) if len > 0 => count,
        _ => 0,
    };
    assert!(moved <= len);
    match call {
        Call::Read(_) | Call::Recv(_) => {
            expected[0] += moved as u64;
            let (before, rest) = buffer.split_at(EDGE);
            let (bytes, after) = rest.split_at(moved);
            assert!(before == [MARK; EDGE], "written before the buffer");
            assert!(after == vec![MARK; after.len()], "written after the bytes");
            world.model().after(&outcome, bytes);
        }
        _ => {
            expected[1] += moved as u64;
            world.model().after(&outcome, &buffer[..moved]);
        }
    }
    assert_eq!(totals(channel), expected);
}

/// What `send` does, in place.
fn send_in_place(channel: &mut Channel, from: &[u8]) -> Result<(), Error> {
    if from.is_empty() {
        return channel.send(from);
    }
    let mut space = channel.reserve(from.len())?;
    let (head, tail) = from.split_at(from.len() / 2);
    space.write_at(head.len(), tail);
    space.write_at(0, head);
    space.commit(from.len())
}

/// What `recv` does, in place.
fn recv_in_place(channel: &mut Channel, to: &mut [u8]) -> Result<(), Error> {
    let (buffered, wanted) = (0, to.len());
    if to.is_empty() {
        return channel.recv(to);
    }
    let there = channel.peek(wanted)?;
    if there.is_empty() {
        return Err(Error::EndOfStream { buffered, wanted });
    }
    there.read_at(0, to);
    there.consume(wanted)
}

/// Where the rings lie in the memory of the machine, whose first page is the control page.
fn places(geometry: Geometry) -> [usize; 2] {
    let mut next = PAGE_SIZE;
    [Ring::Left, Ring::Right].map(|ring| match geometry.place(ring) {
        Place::ControlPage(start) => start,
        Place::Pages(count) => {
            let start = next;
            next += count * PAGE_SIZE;
            start
        }
    })
}

/// The notify bit by which a sleeper asks for an event, for what it waits for.
fn wanted_by(call: Call) -> Option<u8> {
    match call {
        Call::Read(_) | Call::Recv(_) => Some(NOTIFY_WRITE),
        Call::Write(_) | Call::Send(_) | Call::Drain => Some(NOTIFY_READ),
        _ => None,
    }
}
