//! The asynchronous face on the executor of a guest without an operating system: both domains of an
//! emulated host in one thread, and many channels at once.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use unikernel_core::executor::{Executor, Ports};
use vchan::host::{Ongoing, Port, Time, Watch};
use vchan::task::{Channel, EventSource, Reactor, Readiness, Runtime, Sleep};
use vchan::{Client, ClientBuilder, DomId, Error, Host, HostError, Server, ServerBuilder};
use vchan_emulator::Emulator;

/// A time that every test's wait ends by, and that no correct wait comes near.
const LONG: Duration = Duration::from_secs(20);

/// No domain of the emulated host has this port.
const STORE: Port = Port(0);

/// In place of a hypervisor: the descriptors of an emulated host, by their ports. The two domains
/// have ports of different numbers.
#[derive(Clone)]
struct Descriptors {
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

struct World {
    emulator: Emulator,
    dom0: Host,
    guest: Host,
    executor: Executor<Descriptors>,
    runtime: Runtime,
}

fn guest() -> DomId {
    DomId::new(2).unwrap()
}

impl World {
    /// Both domains have their tasks on the executor.
    fn new() -> World {
        World::with(false)
    }

    /// The guest has its tasks on the executor, dom0 has threads.
    fn of_one_domain() -> World {
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

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let bounded = self.runtime.timeout(3 * LONG, work);
        self.executor.block_on(bounded).expect("the test hangs")
    }

    fn server(&self, size: usize) -> ServerBuilder {
        Server::builder(&self.guest, DomId::DOM0)
            .read_size(size)
            .write_size(size)
    }

    fn client(&self) -> ClientBuilder {
        Client::builder(&self.dom0, guest()).timeout(LONG)
    }

    /// A connected pair: the server's end, then the client's.
    async fn pair(&self, size: usize) -> (Channel, Channel) {
        let mut server = self.server(size).bind().unwrap();
        let connect = self.client().connect_on(&self.runtime);
        let (server, client) = both(server.accept_on(&self.runtime), connect).await;
        (server.unwrap(), client.unwrap())
    }

    fn assert_clean(self) {
        self.executor.cancel_all();
        self.emulator.assert_clean();
    }
}

/// Runs two futures until both are done.
async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
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

async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polls `future` at most `polls` times, letting the executor work in between, then drops it.
async fn poll_and_drop<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let mut nobody = Context::from_waker(Waker::noop());
        if let Poll::Ready(done) = future.as_mut().poll(&mut nobody) {
            return Some(done);
        }
        yield_once().await;
    }
    None
}

async fn write_all(channel: &mut Channel, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = channel.write(bytes).await.unwrap();
        bytes = &bytes[count..];
    }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|n| u8::try_from((n * 31 + seed * 7 + n / 251) % 256).unwrap())
        .collect()
}

#[test]
fn one_executor_serves_many_channels_at_once() {
    const CHANNELS: usize = 12;
    let world = World::of_one_domain();
    let done = Arc::new(AtomicUsize::new(0));
    for n in 0..CHANNELS {
        let port = format!("port{n}").parse().unwrap();
        let mut server = world.server(1024).port(port).bind().unwrap();
        let (runtime, done) = (world.runtime.clone(), Arc::clone(&done));
        world.executor.spawn(async move {
            let mut channel = server.accept_on(&runtime).await.unwrap();
            let mut buffer = [0; 700];
            loop {
                let count = channel.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break;
                }
                write_all(&mut channel, &buffer[..count]).await;
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    // Each client is a thread of its own, and all are connected before the first one goes on.
    let barrier = Arc::new(std::sync::Barrier::new(CHANNELS));
    let clients: Vec<_> = (0..CHANNELS)
        .map(|n| {
            let (client, barrier) = (world.client(), Arc::clone(&barrier));
            thread::spawn(move || {
                let client = client.port(format!("port{n}").parse().unwrap());
                let channel = client.connect().unwrap();
                barrier.wait();
                let (mut reading, mut writing) = channel.into_split();
                let sent = pattern(40_000, n);
                let data = sent.clone();
                let writer = thread::spawn(move || {
                    std::io::Write::write_all(&mut writing, &data).unwrap();
                    writing
                });
                let mut received = vec![0; sent.len()];
                std::io::Read::read_exact(&mut reading, &mut received).unwrap();
                assert!(received == sent);
                drop(writer.join().unwrap());
            })
        })
        .collect();
    world.run(async {
        while done.load(Ordering::SeqCst) < CHANNELS {
            world.runtime.sleep(Duration::from_millis(5)).await;
        }
    });
    for client in clients {
        client.join().unwrap();
    }
    world.assert_clean();
}

/// Counts the offers that an echo tells of.
struct Offers(Arc<AtomicUsize>);

impl echo_guest::Console for Offers {
    fn print(&mut self, text: std::fmt::Arguments<'_>) {
        let is_offer = text.to_string().ends_with("Initialization done!\n");
        self.0.fetch_add(usize::from(is_offer), Ordering::SeqCst);
    }

    fn note(&mut self, _: std::fmt::Arguments<'_>) {}
}

#[test]
fn the_echo_serves_several_places_at_once_and_each_again() {
    const PLACES: usize = 6;
    const ROUNDS: usize = 3;
    let offers = Arc::new(AtomicUsize::new(0));
    let world = World::of_one_domain();
    let path = |n: usize| format!("data/vchan/0/echo{n}").parse().unwrap();
    for n in 0..PLACES {
        let place = echo_guest::Place {
            client: DomId::DOM0,
            path: path(n),
        };
        let (host, runtime) = (world.guest.clone(), world.runtime.clone());
        let mut console = Offers(Arc::clone(&offers));
        world.executor.spawn(async move {
            let Err(error) = place.serve_on(&host, &runtime, &mut console).await;
            panic!("{error}");
        });
    }
    let barrier = Arc::new(std::sync::Barrier::new(PLACES));
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..PLACES)
        .map(|n| {
            let (client, barrier) = (world.client().path(path(n)), Arc::clone(&barrier));
            let done = Arc::clone(&done);
            thread::spawn(move || {
                for round in 0..ROUNDS {
                    let mut channel = client.clone().connect().unwrap();
                    // All are connected at the same time.
                    barrier.wait();
                    let said = format!("place {n}, round {round}: \u{e4}\n");
                    std::io::Write::write_all(&mut channel, said.as_bytes()).unwrap();
                    let mut answer = vec![0; said.len()];
                    std::io::Read::read_exact(&mut channel, &mut answer).unwrap();
                    assert_eq!(answer, said.to_ascii_uppercase().as_bytes());
                }
                done.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    world.run(async {
        // Until all are on offer again: a server that is dropped while it publishes leaves its
        // directory.
        let all = PLACES * (ROUNDS + 1);
        while done.load(Ordering::SeqCst) < PLACES || offers.load(Ordering::SeqCst) < all {
            world.runtime.sleep(Duration::from_millis(5)).await;
        }
    });
    for client in clients {
        client.join().unwrap();
    }
    world.assert_clean();
}

#[test]
fn clients_wait_for_their_servers_and_no_longer_than_they_say() {
    let world = World::new();
    let path = |n: usize| format!("data/vchan/0/port{n}").parse().unwrap();
    let greeted = Arc::new(AtomicUsize::new(0));
    for n in 0..5 {
        let (client, runtime) = (world.client().path(path(n)), world.runtime.clone());
        let greeted = Arc::clone(&greeted);
        world.executor.spawn(async move {
            let mut channel = client.connect_on(&runtime).await.unwrap();
            let mut greeting = [0; 5];
            channel.recv(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"hello");
            greeted.fetch_add(1, Ordering::SeqCst);
        });
    }
    world.run(async {
        let short = Duration::from_millis(60);
        let lonely = world.client().timeout(short).connect_on(&world.runtime);
        let error = lonely.await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        for n in (0..5).rev() {
            let mut server = world.server(1024).path(path(n)).bind().unwrap();
            let mut channel = server.accept_on(&world.runtime).await.unwrap();
            channel.send(b"hello").await.unwrap();
            channel.drain().await.unwrap();
        }
        while greeted.load(Ordering::SeqCst) < 5 {
            world.runtime.sleep(Duration::from_millis(5)).await;
        }
    });
    world.assert_clean();
}

#[test]
fn a_future_dropped_at_any_poll_loses_and_doubles_no_byte() {
    let world = World::new();
    world.run(async {
        for (write_polls, read_polls) in (0..16).map(|n| (n / 4, n % 4)) {
            let (mut server, mut client) = world.pair(1024).await;
            let data = pattern(12_000, write_polls * 4 + read_polls);
            let (mut sent, mut received) = (0, Vec::new());
            let mut turn = 0;
            while received.len() < data.len() {
                let chunk = &data[sent..data.len().min(sent + 997)];
                if let Some(count) = poll_and_drop(client.write(chunk), write_polls).await {
                    sent += count.unwrap();
                }
                let mut buffer = [0; 700];
                if let Some(count) = poll_and_drop(server.read(&mut buffer), read_polls).await {
                    received.extend_from_slice(&buffer[..count.unwrap()]);
                }
                // With no poll at all nothing happens; then undisturbed calls do it.
                turn += 1;
                if write_polls == 0 && sent < data.len() && sent == received.len() {
                    sent += client.write(&data[sent..]).await.unwrap();
                }
                if read_polls == 0 && sent > received.len() {
                    let count = server.read(&mut buffer).await.unwrap();
                    received.extend_from_slice(&buffer[..count]);
                }
                assert_eq!(data[..received.len()], received[..], "turn {turn}");
            }
        }
    });
    world.assert_clean();
}

#[test]
fn datagrams_and_drains_may_be_dropped_at_every_poll() {
    let world = World::new();
    world.run(async {
        for polls in 0..4 {
            let (mut server, mut client) = world.pair(1024).await;
            let (mut sent, mut received) = (0_u32, 0_u32);
            while received < 200 {
                let mut datagram = [0; 300];
                datagram[..4].copy_from_slice(&sent.to_le_bytes());
                if let Some(done) = poll_and_drop(client.send(&datagram), polls).await {
                    done.unwrap();
                    sent += 1;
                } else if sent == received {
                    client.send(&datagram).await.unwrap();
                    sent += 1;
                }
                let drained = poll_and_drop(client.drain(), polls).await;
                assert!(drained.is_none() || sent == received);
                let mut whole = [0; 300];
                match poll_and_drop(server.recv(&mut whole), polls).await {
                    Some(done) => done.unwrap(),
                    None if sent > received => server.recv(&mut whole).await.unwrap(),
                    None => continue,
                }
                assert_eq!(whole[..4], received.to_le_bytes());
                received += 1;
            }
        }
    });
    world.assert_clean();
}

#[test]
fn accepting_and_connecting_may_be_dropped_at_every_poll() {
    let world = World::new();
    world.run(async {
        for polls in 0..6 {
            let runtime = &world.runtime;
            let mut server = world.server(1024).bind().unwrap();
            let none = poll_and_drop(server.accept_on(runtime), polls).await;
            assert!(none.is_none(), "there was no client");
            let connect = || world.client().connect_on(runtime);
            // It may get as far as being connected; then it comes and goes.
            drop(poll_and_drop(connect(), polls).await);
            drop(poll_and_drop(server.accept_on(runtime), polls).await);
            // A client may still come to a session that another one has left, until the server
            // has noticed: that is closed at once, on both sides.
            let accept = async {
                loop {
                    let mut accepted = server.accept_on(runtime).await.unwrap();
                    match accepted.send(b"welcome").await {
                        Ok(()) => break accepted,
                        Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
                    }
                }
            };
            let connect = async {
                loop {
                    let mut client = connect().await.unwrap();
                    match client.recv(&mut [0; 7]).await {
                        Ok(()) => break client,
                        Err(Error::EndOfStream { buffered: 0, .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            let (mut accepted, mut client) = both(accept, connect).await;
            client.send(b"still here").await.unwrap();
            accepted.recv(&mut [0; 10]).await.unwrap();
        }
    });
    world.assert_clean();
}

#[test]
fn a_cancelled_wait_does_not_take_the_other_directions_event() {
    let world = World::new();
    world.run(async {
        let (server, mut client) = world.pair(1024).await;
        let (mut reading, writing) = server.into_split();
        let writing = Arc::new(spin::Mutex::new(writing));
        let full = [0; 1024];
        while poll_and_drop(writing.lock().write(&full), 1)
            .await
            .is_some()
        {}
        let begin = Instant::now();
        for round in 0..40_u8 {
            // A writer that waits for space, while reads are begun and given up next to it.
            let written = Arc::new(AtomicUsize::new(0));
            let (theirs, flag) = (Arc::clone(&writing), Arc::clone(&written));
            world.executor.spawn(async move {
                // Nobody else has it meanwhile.
                let Some(mut writing) = theirs.try_lock() else {
                    panic!("two writers");
                };
                let sent = [round];
                poll_fn(|cx| writing.poll_write(cx, &sent)).await.unwrap();
                flag.store(1, Ordering::SeqCst);
            });
            for _ in 0..3 {
                let none = poll_and_drop(reading.read(&mut [0; 8]), 2).await;
                assert!(none.is_none());
            }
            assert_eq!(written.load(Ordering::SeqCst), 0, "the ring is full");
            client.recv(&mut [0; 1]).await.unwrap();
            // The event of that is taken by one more read that is given up.
            let none = poll_and_drop(reading.read(&mut [0; 8]), 1).await;
            assert!(none.is_none());
            while written.load(Ordering::SeqCst) == 0 {
                world.runtime.sleep(Duration::from_millis(1)).await;
            }
        }
        // A lost wake-up is made good by the look that every wait takes once a second.
        assert!(begin.elapsed() < LONG, "lost wake-ups");
    });
    world.assert_clean();
}

#[test]
fn a_destroyed_domain_ends_a_wait() {
    let world = World::new();
    world.run(async {
        let (server, mut client) = world.pair(1024).await;
        world.emulator.destroy_domain(guest()).unwrap();
        let read = world.runtime.timeout(LONG, client.recv(&mut [0; 4])).await;
        assert!(matches!(read, Some(Err(Error::PeerDied))), "{read:?}");
        drop(server);
    });
}

#[test]
fn a_limit_on_a_read_leaves_the_channel_whole() {
    let world = World::new();
    world.run(async {
        let (mut server, mut client) = world.pair(1024).await;
        let short = Duration::from_millis(30);
        for _ in 0..3 {
            let late = world.runtime.timeout(short, server.recv(&mut [0; 4])).await;
            assert!(late.is_none());
        }
        client.send(b"four").await.unwrap();
        let mut four = [0; 4];
        server.recv(&mut four).await.unwrap();
        assert_eq!(&four, b"four");
        drop(client);
        assert_eq!(server.read(&mut four).await.unwrap(), 0, "the end");
    });
    world.assert_clean();
}
