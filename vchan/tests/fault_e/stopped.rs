//! E1: a program that is stopped together with its XenStore, as when the machine is. No time limit may
//! take that for a store that hangs.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

use vchan::{Client, DomId, Host, Server};

use crate::common::{World, bounded, guest, process, wait_until};
use crate::proxy::Proxy;

/// Set in the process that stops.
const STOPS: &str = "VCHAN_TEST_STOPS";

/// Longer than each limit of the library: of a request, of a server that is dropped, of an outage.
const STOPPED_FOR: Duration = Duration::from_secs(6);

/// Whether a process has stopped itself; false when it has ended well.
fn stops(process: &Child) -> bool {
    let (_, status) = waitpid(Some(Pid::from_child(process)), WaitOptions::UNTRACED)
        .unwrap()
        .unwrap();
    if !status.stopped() {
        assert_eq!(status.exit_status(), Some(0), "it fails when it is stopped");
    }
    status.stopped()
}

fn stop_this_process() {
    kill_process(getpid(), Signal::STOP).unwrap();
}

/// A domain's host behind a relay, with the usual time limit, and the relay.
fn host(world: &World, domid: DomId) -> (Host, Proxy) {
    let proxy = Proxy::start(&world.emulator, domid);
    let store = vchan::xenstore::Client::open_at(proxy.place()).unwrap();
    (proxy.host_with(&world.emulator, domid, store), proxy)
}

/// A call that is to be made, and the store that it asks.
struct Call {
    proxy: Proxy,
    work: Box<dyn FnOnce() + Send>,
}

/// A call that is made while the store keeps its replies back. They come after the program went on.
struct Begun {
    proxy: Proxy,
    thread: thread::JoinHandle<()>,
}

impl Call {
    fn new(proxy: Proxy, work: impl FnOnce() + Send + 'static) -> Call {
        let work = Box::new(work);
        Call { proxy, work }
    }

    /// Waits until the store was asked. From now on the time counts in which this program runs.
    fn begin(self) -> Begun {
        let Call { proxy, work } = self;
        proxy.hold();
        let before = proxy.requests().len();
        let thread = thread::spawn(work);
        wait_until(|| proxy.requests().len() > before);
        Begun { proxy, thread }
    }
}

#[cfg(feature = "tokio")]
fn in_a_task(work: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(work);
}

/// Binding, and dropping a server: in place, and in a task.
fn calls(world: &World) -> Vec<Call> {
    let server =
        |host: &Host, path: &str| Server::builder(host, DomId::DOM0).path(path.parse().unwrap());
    let (binding, binding_proxy) = host(world, guest());
    let (dropping, dropping_proxy) = host(world, guest());
    let dropped = server(&dropping, "data/dropped").bind().unwrap();
    let bound = server(&binding, "data/bound");
    #[cfg_attr(not(feature = "tokio"), allow(unused_mut, reason = "see below"))]
    let mut calls = vec![
        Call::new(binding_proxy, || drop(bound.bind().unwrap())),
        Call::new(dropping_proxy, || drop(dropped)),
    ];
    #[cfg(feature = "tokio")]
    {
        let (binding, binding_proxy) = host(world, guest());
        let (closing, closing_proxy) = host(world, guest());
        let closed = server(&closing, "data/closed").bind().unwrap();
        let bound = server(&binding, "data/bound-in-a-task");
        calls.push(Call::new(binding_proxy, move || {
            in_a_task(async { drop(bound.bind_async().await.unwrap()) });
        }));
        calls.push(Call::new(closing_proxy, move || {
            in_a_task(async { closed.close_async().await.unwrap() });
        }));
    }
    calls
}

/// What runs in the process that stops.
fn be_stopped() {
    let world = World::new();
    let calls = calls(&world);
    // And a client that waits for its server when the store goes away.
    let (dom0, proxy) = host(&world, DomId::DOM0);
    let mut client = Client::builder(&dom0, guest()).start().unwrap();
    assert!(client.attempt().unwrap().is_none());
    let calls: Vec<Begun> = calls.into_iter().map(Call::begin).collect();
    proxy.kill();
    let vain = AtomicU32::new(0);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            loop {
                client.wait().unwrap();
                if let Some(channel) = client.attempt().unwrap() {
                    return channel;
                }
                vain.fetch_add(1, SeqCst);
            }
        });
        wait_until(|| vain.load(SeqCst) > 0);
        stop_this_process();
        // It has noticed that the store is still away.
        let before = vain.load(SeqCst);
        wait_until(|| vain.load(SeqCst) > before + 1);
        proxy.revive();
        let server = world.server().bind().unwrap();
        calls.iter().for_each(|call| call.proxy.release());
        calls
            .into_iter()
            .for_each(|call| call.thread.join().unwrap());
        drop((waiting.join().unwrap(), server));
    });
    drop((client, dom0, proxy));
    world.assert_clean();
}

#[test]
fn fault_e01_a_store_that_was_stopped_with_the_program_is_waited_for() {
    if std::env::var_os(STOPS).is_some() {
        return bounded(be_stopped);
    }
    let test = "stopped::fault_e01_a_store_that_was_stopped_with_the_program_is_waited_for";
    let mut process = process::again(test);
    let process = process.env(STOPS, "").stdout(Stdio::null()).spawn();
    let process = process::Reaped(process.unwrap());
    assert!(stops(&process.0), "it has not stopped");
    thread::sleep(STOPPED_FOR);
    kill_process(Pid::from_child(&process.0), Signal::CONT).unwrap();
    assert!(!stops(&process.0), "it has stopped twice");
}
