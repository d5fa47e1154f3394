//! Group B of the fault catalogue: wake-ups, whatever the peer does with events.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "tokio")]
mod asynchronous;
mod directions;
mod storms;
mod wakeups;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use vchan::{Channel, Client, DomId};

use common::watched::{Calls, watched};
use common::{LONG, World, guest};

const SHORT: Duration = Duration::from_millis(60);

/// A connected pair of which the client's host is watched: server, client.
fn watched_pair(world: &World, size: usize) -> (Channel, Channel, Arc<Calls>) {
    let (dom0, calls) = watched(&world.dom0);
    let mut server = world
        .server()
        .read_size(size)
        .write_size(size)
        .bind()
        .unwrap();
    let mut client = Client::builder(&dom0, guest())
        .timeout(LONG)
        .connect()
        .unwrap();
    let mut server = server.accept_timeout(LONG).unwrap();
    for end in [&mut server, &mut client] {
        end.set_read_timeout(Some(LONG));
        end.set_write_timeout(Some(LONG));
    }
    (server, client, calls)
}

fn readable(fd: BorrowedFd<'_>, wait: Duration) -> bool {
    let timeout = rustix::time::Timespec::try_from(wait).unwrap();
    let mut polled = [rustix::event::PollFd::new(
        &fd,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut polled, Some(&timeout)).unwrap() == 1
}

/// Sends events to both ends at random until dropped.
struct Spurious {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Spurious {
    fn new(world: World, ports: Vec<(DomId, vchan::host::Port)>, pace: Duration) -> Spurious {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let thread = thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || {
                while !stop.load(Relaxed) {
                    for (domid, port) in &ports {
                        world.emulator.send_event(*domid, *port).unwrap();
                        sent.fetch_add(1, Relaxed);
                    }
                    if pace.is_zero() {
                        thread::yield_now();
                    } else {
                        thread::sleep(pace);
                    }
                }
            }
        });
        Spurious {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

impl Drop for Spurious {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn ports(server: &Channel, client: &Channel) -> Vec<(DomId, vchan::host::Port)> {
    vec![
        (guest(), server.handshake().port),
        (DomId::DOM0, client.handshake().port),
    ]
}
