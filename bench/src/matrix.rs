//! Every message size with every ring order in every mode, and what else there is.

use std::time::Duration;

use vchan::layout::Order;

use crate::counting::Count;
use crate::cpu::Placement;
use crate::latency::Latency;
use crate::peers::memory::Buffer;
use crate::peers::rings::{Ringbuf, Rtrb};
use crate::peers::sockets::{Eventfd, Pipe, UnixSocket, Vsock};
use crate::peers::vchan::{Emulated, Mode, Vchan};
use crate::workload::{self, Moved, RoundTrips, asynchronous, setup};
use crate::{Failure, Transport};

/// What to measure, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Message sizes in bytes.
    pub sizes: Vec<usize>,
    /// Ring orders, 10 to 20.
    pub orders: Vec<Order>,
    /// Ways of waiting.
    pub modes: Vec<Way>,
    /// How long each measurement takes, about.
    pub budget: Duration,
    /// Messages a second in the open loop; half of what the closed loop reached unless given.
    pub rate: Option<f64>,
    /// Also measure other ways of moving bytes.
    pub others: bool,
    /// Where the two ends run.
    pub placement: Placement,
}

/// How the ends of a vchan wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// In one of the modes of the blocking face.
    Sync(Mode),
    /// As tasks.
    Tokio,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 5] = [
        Way::Sync(Mode::Blocking),
        Way::Sync(Mode::Sleep),
        Way::Sync(Mode::Spin),
        Way::Sync(Mode::NonBlocking),
        Way::Tokio,
    ];

    /// As it is named in tables and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Way::Sync(mode) => mode.name(),
            Way::Tokio => "tokio",
        }
    }
}

/// Round-trip times in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// Half were not longer.
    pub p50: u64,
    /// 99 % were not longer.
    pub p99: u64,
    /// 99.9 % were not longer.
    pub p999: u64,
    /// None was longer.
    pub max: u64,
}

impl From<&Latency> for Times {
    fn from(latency: &Latency) -> Times {
        Times {
            p50: latency.quantile(0.5),
            p99: latency.quantile(0.99),
            p999: latency.quantile(0.999),
            max: latency.max(),
        }
    }
}

/// One cell of the matrix.
#[derive(Clone, PartialEq, Debug)]
pub struct Cell {
    /// What moved the bytes.
    pub transport: &'static str,
    /// How its ends waited.
    pub mode: &'static str,
    /// The ring's order, where it has a ring of which one can be chosen.
    pub order: Option<u8>,
    /// Message size in bytes.
    pub size: usize,
    /// Bytes a second, in one direction.
    pub throughput: Option<f64>,
    /// Messages a second, in one direction.
    pub rate: Option<f64>,
    /// Round trips, one after the other.
    pub closed: Option<Times>,
    /// Round trips at a fixed rate, from when they were to begin; and that rate, a second.
    pub open: Option<(f64, Times)>,
    /// Events sent per MiB, by both sides.
    pub notifications: Option<f64>,
    /// System calls per MiB for sending, awaiting and taking events, by both sides.
    pub system_calls: Option<f64>,
    /// How long it took to connect.
    pub setup: Option<Duration>,
}

impl Cell {
    /// A cell without figures.
    #[must_use]
    pub fn new(transport: &'static str, mode: &'static str, size: usize) -> Cell {
        Cell {
            transport,
            mode,
            order: None,
            size,
            throughput: None,
            rate: None,
            closed: None,
            open: None,
            notifications: None,
            system_calls: None,
            setup: None,
        }
    }

    /// The cell, with what a stream showed.
    #[must_use]
    pub fn moved(mut self, moved: Moved) -> Cell {
        self.throughput = Some(moved.throughput());
        self.rate = Some(moved.rate());
        self
    }

    /// The cell, with what was asked of the host while `bytes` were moved.
    #[must_use]
    pub fn counted(mut self, count: Count, bytes: u64) -> Cell {
        let per_mib = |count: u64| count as f64 * f64::from(1 << 20) / bytes as f64;
        self.notifications = Some(per_mib(count.notifications));
        self.system_calls = Some(per_mib(count.system_calls));
        self
    }
}

impl Plan {
    /// How many cells there will be.
    #[must_use]
    pub fn len(&self) -> usize {
        let others = if self.others {
            6 * self.sizes.len() + 1
        } else {
            0
        };
        self.modes.len() * self.orders.len() * self.sizes.len() + others
    }

    /// Whether there is nothing to measure.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Measures everything on an emulated host in this process. `done` is called with each cell, or
    /// with what this machine cannot do.
    ///
    /// # Errors
    /// When something fails that can be done here.
    pub fn run(&self, mut done: impl FnMut(Result<&Cell, &Failure>)) -> Result<Vec<Cell>, Failure> {
        let mut cells = Vec::new();
        let mut keep = |cell: Result<Cell, Failure>| match cell {
            Ok(cell) => {
                done(Ok(&cell));
                cells.push(cell);
                Ok(())
            }
            Err(missing @ Failure::Missing(_)) => {
                done(Err(&missing));
                Ok(())
            }
            Err(error) => Err(error),
        };
        let host = Emulated::start()?;
        for &way in &self.modes {
            for &order in &self.orders {
                let connected = self.connecting(&host, order)?;
                for &size in &self.sizes {
                    let mut cell = match way {
                        Way::Sync(mode) => self.vchan(&host, mode, order, size)?,
                        Way::Tokio => self.tokio(&host, order, size)?,
                    };
                    cell.order = Some(order.number());
                    cell.setup = Some(connected);
                    keep(Ok(cell))?;
                }
            }
        }
        if self.others {
            for &size in &self.sizes {
                keep(self.copies(size))?;
                keep(self.other(&Rtrb, "rtrb", "spin", size))?;
                keep(self.other(&Ringbuf, "ringbuf", "spin", size))?;
                keep(self.other(&Pipe, "pipe", "blocking", size))?;
                keep(self.other(&UnixSocket, "Unix socket", "blocking", size))?;
                keep(self.other(&Vsock, "vsock loopback", "blocking", size))?;
            }
            keep(self.eventfd())?;
        }
        Ok(cells)
    }

    fn connecting(&self, host: &Emulated, order: Order) -> Result<Duration, Failure> {
        let transport = Vchan::new(host.clone(), Mode::Blocking);
        setup::connections(&transport, order.bytes() as usize, 20)
    }

    fn vchan(
        &self,
        host: &Emulated,
        mode: Mode,
        order: Order,
        size: usize,
    ) -> Result<Cell, Failure> {
        let transport = Vchan::new(host.clone(), mode);
        let (mut left, mut right) = transport.connect(order.bytes() as usize)?;
        let total = || host.counts()[0].now() + host.counts()[1].now();
        let (moved, count) = self.enough(4, |messages| {
            let before = total();
            let moved = workload::stream(&mut left, &mut right, size, messages, self.placement)?;
            Ok(((moved, total().since(before)), moved.elapsed()))
        })?;
        let cell = Cell::new("vchan", mode.name(), size);
        let cell = cell.moved(moved).counted(count, moved.bytes());
        self.trips(cell, &mut left, &mut right)
    }

    fn tokio(&self, host: &Emulated, order: Order, size: usize) -> Result<Cell, Failure> {
        let channels = || host.channels(order.bytes() as usize);
        let total = || host.counts()[0].now() + host.counts()[1].now();
        let (moved, count) = self.enough(4, |messages| {
            let (left, right) = channels()?;
            let before = total();
            let moved = asynchronous::stream(left, right, size, messages, self.placement)?;
            Ok(((moved, total().since(before)), moved.elapsed()))
        })?;
        let mut cell = Cell::new("vchan", "tokio", size);
        cell = cell.moved(moved).counted(count, moved.bytes());
        if size <= order.bytes() as usize {
            let trips = self.enough(8, |count| {
                let (left, right) = channels()?;
                let trips = asynchronous::round_trips(left, right, size, count, self.placement)?;
                let time = trips.latency.sum();
                Ok((trips, time))
            })?;
            cell.closed = Some(Times::from(&trips.latency));
        }
        Ok(cell)
    }

    fn other<T: Transport>(
        &self,
        transport: &T,
        name: &'static str,
        mode: &'static str,
        size: usize,
    ) -> Result<Cell, Failure> {
        let (mut left, mut right) = transport.connect(64 * 1024)?;
        let moved = self.enough(4, |messages| {
            let moved = workload::stream(&mut left, &mut right, size, messages, self.placement)?;
            Ok((moved, moved.elapsed()))
        })?;
        let cell = Cell::new(name, mode, size).moved(moved);
        self.trips(cell, &mut left, &mut right)
    }

    fn copies(&self, size: usize) -> Result<Cell, Failure> {
        let mut buffer = Buffer::new(size.max(64 * 1024));
        let moved = self.enough(4, |messages| {
            let moved = workload::batches(size, 1, messages, |from, to| {
                buffer.through(from, to);
                Ok(())
            })?;
            Ok((moved, moved.elapsed()))
        })?;
        Ok(Cell::new("memcpy, twice", "one thread", size).moved(moved))
    }

    fn eventfd(&self) -> Result<Cell, Failure> {
        let (mut left, mut right) = Eventfd.connect(0)?;
        let one = 1_u64.to_ne_bytes();
        let trips = self.enough(8, |count| {
            let trips = workload::signals(&mut left, &mut right, one, count, self.placement)?;
            let time = trips.sum();
            Ok((trips, time))
        })?;
        let mut cell = Cell::new("eventfd", "blocking", one.len());
        cell.closed = Some(Times::from(&trips));
        Ok(cell)
    }

    /// The cell, with what round trips showed.
    pub(crate) fn trips<P: crate::Peer>(
        &self,
        mut cell: Cell,
        left: &mut P,
        right: &mut P,
    ) -> Result<Cell, Failure> {
        let (size, placement) = (cell.size, self.placement);
        let closed = self.enough(8, |count| {
            let trips = workload::round_trips(left, right, size, count, placement)?;
            let time = trips.latency.sum();
            Ok((trips, time))
        })?;
        cell.closed = Some(Times::from(&closed.latency));
        let (rate, count, interval) = self.pace(&closed);
        let open = workload::round_trips_at_rate(left, right, size, count, interval, placement)?;
        cell.open = Some((rate, Times::from(&open.latency)));
        Ok(cell)
    }

    /// The rate of the open loop, how many messages that is, and the time between them.
    pub(crate) fn pace(&self, closed: &RoundTrips) -> (f64, u64, Duration) {
        let reached = closed.latency.count() as f64 / closed.latency.sum().as_secs_f64();
        let rate = self.rate.unwrap_or(reached / 2.0).clamp(1.0, 1e7);
        let interval = Duration::from_secs_f64(1.0 / rate);
        let count = self.budget.as_nanos() / interval.as_nanos().max(1);
        (
            rate,
            u64::try_from(count).unwrap_or(u64::MAX).max(10),
            interval,
        )
    }

    /// Runs a measurement with more and more messages, until it takes long enough.
    pub(crate) fn enough<T>(
        &self,
        first: u64,
        mut measure: impl FnMut(u64) -> Result<(T, Duration), Failure>,
    ) -> Result<T, Failure> {
        let mut count = first;
        loop {
            let (result, time) = measure(count)?;
            if time * 2 >= self.budget {
                return Ok(result);
            }
            let factor = self.budget.as_nanos() / time.as_nanos().max(1);
            count *= u64::try_from(factor).unwrap_or(2).clamp(2, 64);
        }
    }
}
