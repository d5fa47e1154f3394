//! A XenStore that can be killed at any message and started again: a relay before the emulated
//! host's. What the emulated store knows, it keeps; a test removes what a restart is to lose.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vchan::xenstore::Client;
use vchan::xenstore::codec::{Decoder, Kind, Message};
use vchan::{DomId, Host};
use vchan_emulator::Emulator;

use crate::common::LONG;

/// Where the store dies: before it does what a message asks for, or before it says that it has. It has
/// done, and said that it has, all that was asked for before, and does nothing after that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    BeforeRequest,
    BeforeReply,
}

pub struct Proxy {
    place: PathBuf,
    state: Arc<State>,
}

struct State {
    target: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    listener: Option<UnixListener>,
    /// Who lets clients in, from a start to after the death.
    porter: Option<JoinHandle<()>>,
    sockets: Vec<UnixStream>,
    /// Whether replies are kept back.
    holds: bool,
    /// How often it has started.
    life: u32,
    /// Requests until the store dies, and how.
    death: Option<(u32, Death)>,
    /// It dies once there are no more replies to come, and how.
    dying: Option<Death>,
    /// Requests that were passed on and have no reply yet.
    unanswered: usize,
    /// What was asked for since it started.
    requests: Vec<Kind>,
    /// How many requests the next round trips have; none are passed on before all of one are there.
    trips: VecDeque<usize>,
    /// Those of the next trip that are there.
    gathered: Vec<Message>,
}

impl Proxy {
    /// A relay to the XenStore of a domain.
    pub fn start(emulator: &Emulator, domid: DomId) -> Proxy {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only to be another number each time.
        let nth = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = emulator.directory();
        let proxy = Proxy {
            place: directory.join(format!("relay-{nth}")),
            state: Arc::new(State {
                target: emulator.domain_directory(domid).join("xenstored"),
                inner: Mutex::default(),
            }),
        };
        proxy.revive();
        proxy
    }

    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The domain's host, with this as its XenStore.
    pub fn host(&self, emulator: &Emulator, domid: DomId) -> Host {
        // Whatever is to fail at once does so long before this.
        let store = Client::open_at(&self.place).unwrap().with_time_limit(LONG);
        self.host_with(emulator, domid, store)
    }

    /// The same, by a client of this that a test has made.
    pub fn host_with(&self, emulator: &Emulator, domid: DomId, store: Client) -> Host {
        let host = emulator.host(domid).unwrap();
        host.with_store(store)
    }

    /// Dies at the request with this number from now on, the first is 0.
    pub fn die_at(&self, request: u32, death: Death) {
        self.state.lock().death = Some((request, death));
    }

    /// What was asked for since it started.
    pub fn requests(&self) -> Vec<Kind> {
        self.state.lock().requests.clone()
    }

    /// Passes requests on in these numbers from now on, each when all of it are there: so whoever
    /// waits for an answer in between waits for ever.
    pub fn expect_trips(&self, trips: &[usize]) {
        let mut inner = self.state.lock();
        inner.trips = trips.iter().copied().collect();
        inner.requests.clear();
    }

    /// Goes on taking requests, and passes none on.
    pub fn hang(&self) {
        self.expect_trips(&[usize::MAX]);
    }

    /// Does what it is asked for, and keeps back that it has.
    pub fn hold(&self) {
        self.state.lock().holds = true;
    }

    /// Gives all replies that were kept back.
    pub fn release(&self) {
        self.state.lock().holds = false;
    }

    /// What was asked for since; wrong before all have come.
    pub fn trips_made(&self) -> Vec<Kind> {
        let mut inner = self.state.lock();
        assert!(inner.trips.is_empty(), "missing: {:?}", inner.trips);
        std::mem::take(&mut inner.requests)
    }

    /// Takes `die_at` back.
    pub fn live(&self) {
        self.state.lock().death = None;
    }

    pub fn kill(&self) {
        self.state.lock().kill();
    }

    /// Dies and starts again: what clients that have gone still had to say is not heard any more.
    pub fn restart(&self) {
        self.kill();
        self.revive();
    }

    pub fn is_alive(&self) -> bool {
        self.state.lock().listener.is_some()
    }

    /// Waits until it has died, at most for `limit`; whether it has.
    pub fn dies_within(&self, limit: Duration) -> bool {
        let step = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        while self.is_alive() && waited < limit {
            thread::sleep(step);
            waited += step;
        }
        !self.is_alive()
    }

    /// Starts again after a death. All connections from before it are closed then, also those that
    /// nobody had let in yet: a request on one of them would be lost without a word, later.
    pub fn revive(&self) {
        let porter = {
            let mut inner = self.state.lock();
            assert!(inner.listener.is_none(), "it is alive");
            inner.porter.take()
        };
        if let Some(porter) = porter {
            porter.join().unwrap();
        }
        let mut inner = self.state.lock();
        _ = std::fs::remove_file(&self.place);
        let listener = UnixListener::bind(&self.place).unwrap();
        *inner = Inner {
            listener: Some(listener.try_clone().unwrap()),
            life: inner.life + 1,
            ..Inner::default()
        };
        let (state, life) = (Arc::clone(&self.state), inner.life);
        inner.porter = Some(thread::spawn(move || {
            // After a death it still meets those who connected before, and turns them away.
            while let Ok((client, _)) = listener.accept() {
                state.serve(client, life);
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn serve(self: &Arc<State>, client: UnixStream, life: u32) {
        // The emulated host may have ended with the test.
        let Ok(store) = UnixStream::connect(&self.target) else {
            return;
        };
        let mut inner = self.lock();
        if !inner.lives(life) {
            return;
        }
        for socket in [&client, &store] {
            inner.sockets.push(socket.try_clone().unwrap());
        }
        for (from, to, requests) in [(&client, &store, true), (&store, &client, false)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let state = Arc::clone(self);
            thread::spawn(move || {
                state.relay(&from, &to, requests, life);
                if requests {
                    // The store answers what it was asked before its client went, and hangs up then.
                    _ = to.shutdown(Shutdown::Write);
                } else {
                    _ = from.shutdown(Shutdown::Both);
                    _ = to.shutdown(Shutdown::Both);
                }
            });
        }
    }

    fn wait_while_held(&self) {
        let is_held = |inner: &Inner| inner.holds && inner.listener.is_some();
        while is_held(&self.lock()) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn relay(&self, mut from: &UnixStream, mut to: &UnixStream, requests: bool, life: u32) {
        let mut decoder = Decoder::new();
        let mut bytes = [0; 4096];
        loop {
            match from.read(&mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(count) => decoder.push(&bytes[..count]),
            }
            while let Some(message) = decoder.next_message().unwrap() {
                if !requests {
                    self.wait_while_held();
                }
                let mut inner = self.lock();
                // The store that this was for, or came from, may be dead.
                if !inner.lives(life) {
                    return;
                }
                let messages = if requests {
                    inner.request(message)
                } else {
                    inner.reply(message)
                };
                for message in messages {
                    // Who has gone is not told; what was asked before is counted to the end.
                    let told = to.write_all(&message.encode().unwrap());
                    if requests && told.is_err() {
                        return;
                    }
                }
                // What was said before its death arrives.
                if inner.dying.is_some() && inner.unanswered == 0 {
                    inner.kill();
                }
            }
        }
    }
}

impl Inner {
    /// Whether it is alive, and has been since it started for the time with this number.
    fn lives(&self, life: u32) -> bool {
        self.life == life && self.listener.is_some()
    }

    /// What is passed on of a request, or now that it has come.
    fn request(&mut self, request: Message) -> Vec<Message> {
        if self.dying.is_some() {
            return Vec::new();
        }
        self.requests.push(request.kind);
        match &mut self.death {
            Some((0, death)) => {
                self.dying = Some(*death);
                if *death == Death::BeforeRequest {
                    return Vec::new();
                }
            }
            Some((rest, _)) => *rest -= 1,
            None => {}
        }
        let messages = self.gather(request);
        self.unanswered += messages.len();
        messages
    }

    /// A reply, or an event, unless it is the reply before which the store dies.
    fn reply(&mut self, message: Message) -> Vec<Message> {
        if message.kind != Kind::WATCH_EVENT {
            self.unanswered -= 1;
            if self.unanswered == 0 && self.dying == Some(Death::BeforeReply) {
                return Vec::new();
            }
        }
        vec![message]
    }

    /// What is passed on now that this request has come.
    fn gather(&mut self, request: Message) -> Vec<Message> {
        self.gathered.push(request);
        match self.trips.front() {
            Some(&expected) if self.gathered.len() < expected => return Vec::new(),
            _ => _ = self.trips.pop_front(),
        }
        std::mem::take(&mut self.gathered)
    }

    fn kill(&mut self) {
        self.death = None;
        self.dying = None;
        for socket in self.sockets.drain(..) {
            _ = socket.shutdown(Shutdown::Both);
        }
        if let Some(listener) = self.listener.take() {
            // It wakes who accepts.
            _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        }
    }
}
