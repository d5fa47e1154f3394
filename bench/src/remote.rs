//! Measuring between two domains: one serves, the other asks for measurements.
//!
//! Every connection begins with the client's request. A request has 24 bytes: what is asked for, how
//! the server is to wait, the message size or ring order, and the number of messages, all little
//! endian. The server answers a stream with what it counted, and with nothing when a byte was wrong:
//! it closes then.

use std::io;
use std::time::{Duration, Instant};

use vchan::layout::Order;
use vchan::{Channel, Client, DomId, Host, Server, StorePath};

use crate::counting::{Count, Counts, counted};
use crate::matrix::{Cell, Plan, Way};
use crate::payload::{Arrived, Payload};
use crate::peers::vchan::{Mode, VchanPeer};
use crate::workload::{Moved, RoundTrips};
use crate::{Failure, Peer, workload};

/// Where the server publishes, below its own domain.
pub const PATH: &str = "data/vchan-bench";

const READ: usize = 64 * 1024;
const REQUEST: usize = 24;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Request {
    /// New rings of this order, on a new connection.
    Rings(u8),
    /// Read and compare messages, then answer with what was counted.
    Sink(Load),
    /// Send messages back.
    Echo(Load),
    /// There will be no more.
    End,
}

/// Messages, and how to wait for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Load {
    mode: Mode,
    size: usize,
    count: u64,
}

impl Request {
    fn encode(self) -> [u8; REQUEST] {
        let (kind, mode, size, count) = match self {
            Request::Rings(order) => (1, Mode::Blocking, u64::from(order), 0),
            Request::Sink(load) => (2, load.mode, load.size as u64, load.count),
            Request::Echo(load) => (3, load.mode, load.size as u64, load.count),
            Request::End => (4, Mode::Blocking, 0, 0),
        };
        let mut bytes = [0; REQUEST];
        bytes[0] = kind;
        bytes[1] = mode as u8;
        bytes[8..16].copy_from_slice(&size.to_le_bytes());
        bytes[16..].copy_from_slice(&count.to_le_bytes());
        bytes
    }

    /// `None` for what no client of this program sends.
    fn decode(bytes: &[u8; REQUEST]) -> Option<Request> {
        /// No message is longer.
        const LONGEST: usize = 1 << 24;
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let mode = *Mode::ALL.get(usize::from(bytes[1]))?;
        let (size, count) = (number(8)?, number(16)?);
        let load = || {
            let size = usize::try_from(size).ok()?;
            (1..=LONGEST)
                .contains(&size)
                .then_some(Load { mode, size, count })
        };
        match bytes[0] {
            1 => Some(Request::Rings(u8::try_from(size).ok()?)),
            2 => Some(Request::Sink(load()?)),
            3 => Some(Request::Echo(load()?)),
            4 => Some(Request::End),
            _ => None,
        }
    }
}

/// Serves measurements to `client` until it says that there are no more. The rings of the first
/// connection have this `order`. `said` is told what goes on.
///
/// # Errors
/// [`Failure::Vchan`] when nothing can be published or the client breaks the connection,
/// [`Failure::Corrupt`] when a wrong byte arrived.
pub fn serve(
    host: &Host,
    client: DomId,
    path: &StorePath,
    mut order: Order,
    mut said: impl FnMut(&str),
) -> Result<(), Failure> {
    let (host, counts) = counted(host);
    loop {
        let size = order.bytes() as usize;
        let mut server = Server::builder(&host, client)
            .path(path.clone())
            .read_size(size)
            .write_size(size)
            .bind()?;
        said(&format!(
            "waiting for a client of domain {client} at {}, rings of {size} bytes",
            server.path()
        ));
        let channel = server.accept()?;
        drop(server);
        match session(channel, &counts)? {
            Some(wanted) => order = wanted,
            None => return Ok(()),
        }
    }
}

/// Does what one client asks for. The order of the rings that it wants next, or `None` at the end.
fn session(channel: Channel, counts: &Counts) -> Result<Option<Order>, Failure> {
    let mut peer = VchanPeer::new(channel, Mode::Blocking);
    // Made before the client looks at its clock: it takes as long as moving a few MiB.
    let (expected, mut buffer) = (Payload::new(READ), vec![0; READ]);
    loop {
        let mut bytes = [0; REQUEST];
        peer.recv(&mut bytes)?;
        let request = Request::decode(&bytes);
        let request = request.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        match request {
            Request::Rings(number) => {
                let order = Order::new(number.into());
                return Ok(Some(
                    order.ok_or(io::Error::from(io::ErrorKind::InvalidData))?,
                ));
            }
            Request::End => return Ok(None),
            Request::Echo(load) => {
                peer.set_mode(load.mode);
                let mut message = vec![0; load.size];
                for _ in 0..load.count {
                    peer.recv(&mut message)?;
                    peer.send(&message)?;
                }
            }
            Request::Sink(load) => {
                peer.set_mode(load.mode);
                let before = counts.now();
                let total = load.size as u64 * load.count;
                let arrived = sink(&mut peer, expected.clone(), &mut buffer, total)?;
                let count = counts.now().since(before);
                let numbers = [arrived.bytes(), count.notifications, count.system_calls];
                peer.send(&numbers.map(u64::to_le_bytes).concat())?;
            }
        }
        peer.set_mode(Mode::Blocking);
    }
}

/// Reads `total` bytes into `buffer`, as much of them as is there, and compares them with those of
/// `check`.
fn sink(
    peer: &mut VchanPeer,
    mut check: Payload,
    buffer: &mut [u8],
    total: u64,
) -> Result<Arrived, Failure> {
    while check.total() < total {
        let most = usize::try_from(total - check.total())
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        match peer.read(&mut buffer[..most])? {
            0 => break,
            count => check.check(&buffer[..count])?,
        }
    }
    Ok(check.all_of(total)?)
}

/// A connection to a server, for one measurement after the other.
#[derive(Debug)]
pub struct Link {
    host: Host,
    server: DomId,
    path: StorePath,
    peer: VchanPeer,
    counts: Counts,
}

impl Link {
    /// Connects to the server in domain `server`, as soon as it publishes.
    ///
    /// # Errors
    /// [`Failure::Vchan`] when that fails.
    pub fn connect(host: &Host, server: DomId, path: &StorePath) -> Result<Link, Failure> {
        let (host, counts) = counted(host);
        Ok(Link {
            peer: connect(&host, server, path)?,
            host,
            server,
            path: path.clone(),
            counts,
        })
    }

    /// New rings of this order, on a new connection, and how long connecting took.
    fn rings(mut self, order: Order) -> Result<(Link, Duration), Failure> {
        self.peer.send(&Request::Rings(order.number()).encode())?;
        self.peer.channel().drain()?;
        drop(self.peer);
        let since = Instant::now();
        self.peer = connect(&self.host, self.server, &self.path)?;
        Ok((self, since.elapsed()))
    }

    /// Sends `messages` of `size` bytes, of which the server compares every byte, and gives what both
    /// ends counted meanwhile.
    ///
    /// # Errors
    /// When the connection breaks, or a wrong byte arrived.
    pub fn stream(
        &mut self,
        mode: Mode,
        size: usize,
        messages: u64,
    ) -> Result<(Moved, Count), Failure> {
        let count = messages;
        let load = Load { mode, size, count };
        self.peer.send(&Request::Sink(load).encode())?;
        self.peer.set_mode(mode);
        let before = self.counts.now();
        let (moved, [notifications, system_calls]) =
            workload::acknowledged(&mut self.peer, size, messages)?;
        let ours = self.counts.now().since(before);
        self.peer.set_mode(Mode::Blocking);
        let theirs = Count {
            notifications,
            system_calls,
            ..Count::default()
        };
        Ok((moved, ours + theirs))
    }

    /// Sends `count` messages of `size` bytes, each after the answer to the last, in an open loop
    /// when there is an `interval`; and what this end counted meanwhile.
    ///
    /// # Errors
    /// When the connection breaks, or a wrong byte arrived.
    pub fn round_trips(
        &mut self,
        mode: Mode,
        size: usize,
        count: u64,
        interval: Option<Duration>,
    ) -> Result<(RoundTrips, Count), Failure> {
        let load = Load { mode, size, count };
        self.peer.send(&Request::Echo(load).encode())?;
        self.peer.set_mode(mode);
        let before = self.counts.now();
        let trips = workload::echoed(&mut self.peer, size, count, interval)?;
        let ours = self.counts.now().since(before);
        self.peer.set_mode(Mode::Blocking);
        Ok((trips, ours))
    }

    /// Tells the server that there will be no more.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn end(mut self) -> Result<(), Failure> {
        self.peer.send(&Request::End.encode())?;
        Ok(self.peer.channel().drain()?)
    }
}

fn connect(host: &Host, server: DomId, path: &StorePath) -> Result<VchanPeer, Failure> {
    let client = Client::builder(host, server).path(path.clone());
    Ok(VchanPeer::new(client.connect()?, Mode::Blocking))
}

/// The measurements of `plan` with the server in domain `server`; those of other transports and of
/// tasks are left out. `done` is called with each cell.
///
/// # Errors
/// When the connection fails, or a wrong byte arrived at either side.
pub fn measure(
    host: &Host,
    server: DomId,
    path: &StorePath,
    plan: &Plan,
    mut done: impl FnMut(&Cell),
) -> Result<Vec<Cell>, Failure> {
    let mut cells = Vec::new();
    let mut link = Link::connect(host, server, path)?;
    for &order in &plan.orders {
        let setup;
        (link, setup) = link.rings(order)?;
        for way in &plan.modes {
            let &Way::Sync(mode) = way else { continue };
            for &size in &plan.sizes {
                let mut cell = remote_cell(plan, &mut link, mode, size)?;
                cell.order = Some(order.number());
                cell.setup = Some(setup);
                done(&cell);
                cells.push(cell);
            }
        }
    }
    link.end()?;
    Ok(cells)
}

fn remote_cell(plan: &Plan, link: &mut Link, mode: Mode, size: usize) -> Result<Cell, Failure> {
    let (moved, count) = plan.enough(16, |messages| {
        let (moved, count) = link.stream(mode, size, messages)?;
        Ok(((moved, count), moved.elapsed()))
    })?;
    let mut cell = Cell::new("vchan", mode.name(), size);
    cell = cell.moved(moved).counted(count, moved.bytes());
    let closed = plan.enough(4, |count| {
        let (trips, _) = link.round_trips(mode, size, count, None)?;
        let time = trips.latency.sum();
        Ok((trips, time))
    })?;
    cell.closed = Some((&closed.latency).into());
    let (rate, count, interval) = plan.pace(&closed);
    let (open, _) = link.round_trips(mode, size, count, Some(interval))?;
    cell.open = Some((rate, (&open.latency).into()));
    Ok(cell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Placement;
    use crate::peers::vchan::Emulated;

    #[test]
    fn requests_cross_as_they_are() {
        let (mode, size, count) = (Mode::Spin, 65536, u64::MAX);
        let load = Load { mode, size, count };
        for request in [
            Request::Rings(20),
            Request::Sink(load),
            Request::Echo(load),
            Request::End,
        ] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for byte in [0, 5, 255] {
            assert_eq!(Request::decode(&[byte; REQUEST]), None);
        }
    }

    #[test]
    fn a_server_and_a_client_measure_every_cell() {
        let emulated = Emulated::start().unwrap();
        let [left, right] = Emulated::domids();
        let path: StorePath = PATH.parse().unwrap();
        let plan = Plan {
            sizes: vec![64, 5000],
            orders: vec![Order::new(10).unwrap(), Order::new(12).unwrap()],
            modes: Way::ALL.to_vec(),
            budget: Duration::from_millis(1),
            rate: None,
            others: true,
            placement: Placement::Anywhere,
        };
        let (hosts, theirs) = (emulated.hosts(), path.clone());
        let cells = std::thread::scope(|scope| {
            let server = scope.spawn(move || serve(hosts[1], left, &theirs, Order::MAX, |_| {}));
            let cells = measure(hosts[0], right, &path, &plan, |_| {}).unwrap();
            server.join().unwrap().unwrap();
            cells
        });
        assert_eq!(cells.len(), 2 * 2 * Mode::ALL.len());
        for cell in &cells {
            assert!(cell.rate.unwrap() > 0.0 && cell.notifications.is_some());
            assert!(cell.closed.is_some() && cell.open.is_some());
        }
        emulated.emulator().assert_clean();
    }
}
