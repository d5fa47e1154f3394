//! Both domains of an emulated host, and the executor over its descriptors.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use unikernel_core::executor::{Executor, Ports};
use vchan::host::{Ongoing, Port, Time, Watch};
use vchan::task::{Channel, EventSource, Reactor, Readiness, Runtime, Sleep};
use vchan::{Client, ClientBuilder, DomId, Host, HostError, Server, ServerBuilder};
use vchan_emulator::Emulator;

/// A time that every test's wait ends by, and that no correct wait comes near.
pub const LONG: Duration = Duration::from_secs(20);

/// No domain of the emulated host has this port.
const STORE: Port = Port(0);

/// In place of a hypervisor: the descriptors of an emulated host, by their ports. The two domains
/// have ports of different numbers.
#[derive(Clone)]
pub struct Descriptors {
    open: Arc<Mutex<BTreeMap<Port, OwnedFd>>>,
    clock: Host,
}

impl Descriptors {
    fn watch(&self, port: Port, descriptor: Option<BorrowedFd<'_>>) {
        let own = descriptor.unwrap().try_clone_to_owned().unwrap();
        self.open.lock().unwrap().insert(port, own);
    }

    /// Whether one of them is readable, after `wait` at most; for ever where there is none.
    fn poll(&self, ports: &[Port], wait: Option<Duration>) -> bool {
        let open = self.open.lock().unwrap();
        let readable = |port| PollFd::new(&open[port], PollFlags::IN);
        let mut sources: Vec<_> = ports.iter().map(readable).collect();
        let wait = wait.map(|wait| Timespec::try_from(wait).unwrap());
        rustix::event::poll(&mut sources, wait.as_ref()).unwrap() > 0
    }
}

impl Ports for Descriptors {
    fn now(&self) -> Time {
        self.clock.events().now()
    }

    fn is_pending(&self, port: Port) -> bool {
        self.poll(&[port], Some(Duration::ZERO))
    }

    /// A descriptor stays readable for as long as there is something to read.
    fn clear(&self, _port: Port) {}

    fn sleep(&self, ports: &[Port], deadline: Option<Time>) {
        self.poll(ports, deadline.map(|deadline| deadline.since(self.now())));
    }

    fn heed(&self) {}

    fn store(&self) -> Port {
        STORE
    }
}

/// The executor, told of descriptors.
struct Told {
    executor: Executor<Descriptors>,
    descriptors: Descriptors,
    /// Only one domain has its tasks here, and so there is one connection to XenStore. With two, the
    /// answers are looked for from time to time.
    is_one_domain: bool,
}

impl Reactor for Told {
    fn event_channel(&self, source: EventSource) -> Result<Box<dyn Readiness>, HostError> {
        self.descriptors.watch(source.port(), source.as_fd());
        self.executor.event_channel(source)
    }

    fn store(&self, watch: &dyn Watch) -> Result<Box<dyn Readiness>, HostError> {
        self.descriptors.watch(STORE, watch.as_fd());
        self.executor.store(watch)
    }

    fn answers(&self, ongoing: &dyn Ongoing) -> Result<Option<Box<dyn Readiness>>, HostError> {
        if !self.is_one_domain {
            return Ok(None);
        }
        self.descriptors.watch(STORE, ongoing.as_fd());
        self.executor.answers(ongoing)
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.executor.sleep(duration)
    }

    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.executor.poll_turn(cx)
    }
}

pub struct World {
    pub emulator: Emulator,
    pub dom0: Host,
    pub guest: Host,
    pub executor: Executor<Descriptors>,
    pub runtime: Runtime,
}

pub fn guest() -> DomId {
    DomId::new(2).unwrap()
}

impl World {
    /// Both domains have their tasks on the executor.
    pub fn new() -> World {
        World::with(false)
    }

    /// The guest has its tasks on the executor, dom0 has threads.
    pub fn of_one_domain() -> World {
        World::with(true)
    }

    fn with(is_one_domain: bool) -> World {
        let emulator = Emulator::start().unwrap();
        let [dom0, guest] = [DomId::DOM0, guest()].map(|domid| {
            emulator.add_domain(domid).unwrap();
            emulator.host(domid).unwrap()
        });
        let descriptors = Descriptors {
            open: Arc::default(),
            clock: dom0.clone(),
        };
        let executor = Executor::new(descriptors.clone());
        let runtime = Runtime::new(Told {
            executor: executor.clone(),
            descriptors,
            is_one_domain,
        });
        World {
            emulator,
            dom0,
            guest,
            executor,
            runtime,
        }
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let bounded = self.runtime.timeout(3 * LONG, work);
        self.executor.block_on(bounded).expect("the test hangs")
    }

    pub fn server(&self, size: usize) -> ServerBuilder {
        Server::builder(&self.guest, DomId::DOM0)
            .read_size(size)
            .write_size(size)
    }

    pub fn client(&self) -> ClientBuilder {
        Client::builder(&self.dom0, guest()).timeout(LONG)
    }

    /// A connected pair: the server's end, then the client's.
    pub async fn pair(&self, size: usize) -> (Channel, Channel) {
        let mut server = self.server(size).bind().unwrap();
        let connect = self.client().connect_on(&self.runtime);
        let (server, client) = both(server.accept_on(&self.runtime), connect).await;
        (server.unwrap(), client.unwrap())
    }

    pub fn assert_clean(self) {
        self.executor.cancel_all();
        self.emulator.assert_clean();
    }
}

/// Runs two futures until both are done.
pub async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut from_a, mut from_b) = (None, None);
    poll_fn(|cx| {
        if from_a.is_none()
            && let Poll::Ready(done) = a.as_mut().poll(cx)
        {
            from_a = Some(done);
        }
        if from_b.is_none()
            && let Poll::Ready(done) = b.as_mut().poll(cx)
        {
            from_b = Some(done);
        }
        match (&from_a, &from_b) {
            (Some(_), Some(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    (from_a.unwrap(), from_b.unwrap())
}
