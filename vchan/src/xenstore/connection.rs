//! One connection to the store, shared by any number of threads.
//!
//! There is no thread of its own. Of the threads that wait, one is the leader: it sleeps on the
//! descriptor, the others on a condition variable. Whoever finds bytes reads them *with the lock
//! held* and hands every message to whom it concerns before letting go: so a message is either
//! still in the descriptor or has arrived, and no one can miss it in between. A leader that has
//! what it wanted, or whose deadline has passed, wakes a follower to take its place.

use core::task::Waker;
use core::time::Duration;
use std::format;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::string::{String, ToString};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::io::Errno;

use super::carrier::Carrier;
use super::codec::{Decoder, Kind};
use super::exchange::{Answer, Exchange, Failure};
use super::transport::{Transport, TransportKind, message};
use crate::host::Time;
use crate::{StoreErrorKind, poll};

/// How often in a row the descriptor is read at most before others get a chance.
const MOST_READS: usize = 64;

/// A connection to the store.
pub(super) struct Connection {
    transport: Transport,
    /// Ends the leader's sleep when another thread has read or queued something for it.
    wake_leader: OwnedFd,
    state: Mutex<State>,
    /// Something was delivered, or the place of the leader is free.
    changed: Condvar,
}

struct State {
    exchange: Exchange,
    decoder: Decoder,
    /// Whether a thread sleeps on the descriptor.
    has_leader: bool,
}

/// What became of reading the descriptor.
#[derive(PartialEq, Eq)]
enum Drained {
    /// All that was there was read.
    Empty,
    /// There may be more.
    MaybeMore,
}

impl Connection {
    pub(super) fn new(transport: Transport) -> Result<Connection, Errno> {
        let state = State {
            exchange: Exchange::new(transport.kind() == TransportKind::Device),
            decoder: Decoder::new(),
            has_leader: false,
        };
        Ok(Connection {
            transport,
            wake_leader: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// Whether requests can be made: looks whether the store has ended the connection, too.
    pub(super) fn is_usable(&self) -> bool {
        let mut state = self.lock();
        self.pump(&mut state);
        state.exchange.failure().is_none()
    }

    /// Aborts a transaction without waiting.
    pub(super) fn abort(&self, transaction_id: u32) {
        let mut state = self.lock();
        state.exchange.abort(transaction_id);
        self.pump(&mut state);
    }

    // Waiting.

    /// Waits until `take` gives something or until `deadline`, leading where no one else does.
    fn wait<'a, T>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Option<Time>,
        mut take: impl FnMut(&mut Exchange) -> Option<T>,
    ) -> Result<(MutexGuard<'a, State>, Option<T>), Failure> {
        let result = loop {
            if let Some(taken) = take(&mut state.exchange) {
                break Ok(Some(taken));
            }
            if let Some(failure) = state.exchange.failure() {
                break Err(failure.clone());
            }
            let rest = deadline.map(|deadline| deadline.since(poll::now()));
            if rest == Some(Duration::ZERO) {
                break Ok(None);
            }
            state = if state.has_leader {
                self.follow(state, rest)
            } else {
                self.lead(state, deadline)
            };
        };
        // Whether this thread led or was just woken to lead: the place is free, someone may want
        // it.
        if !state.has_leader {
            self.changed.notify_one();
        }
        result.map(|taken| (state, taken))
    }

    /// Sleeps until something was delivered or the place of the leader is free.
    fn follow<'a>(
        &self,
        state: MutexGuard<'a, State>,
        rest: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match rest {
            None => (self.changed.wait(state)).unwrap_or_else(PoisonError::into_inner),
            Some(rest) => {
                let woken = self.changed.wait_timeout(state, rest);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Sleeps on the descriptor and does what there is to do then.
    fn lead<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Option<Time>,
    ) -> MutexGuard<'a, State> {
        state.has_leader = true;
        let mut interest = PollFlags::IN;
        let mut until = deadline;
        if state.exchange.to_send().is_some() {
            match self.transport.kind() {
                TransportKind::Socket => interest |= PollFlags::OUT,
                // It does not say when it is writable (and always is, in all kernels we know).
                TransportKind::Device => {
                    let soon = poll::now().after(Duration::from_millis(10));
                    until = Some(deadline.map_or(soon, |deadline| deadline.min(soon)));
                }
            }
        }
        drop(state);

        let mut descriptors = [
            PollFd::new(&self.transport, interest),
            PollFd::new(&self.wake_leader, PollFlags::IN),
        ];
        let slept = poll::until(&mut descriptors, until);

        let mut state = self.lock();
        state.has_leader = false;
        // Empty unless someone woke us: then EAGAIN, which is fine.
        _ = rustix::io::read(&self.wake_leader, &mut [0; 8]);
        match slept {
            Ok(()) => _ = self.pump(&mut state),
            Err(errno) => self.fail_locked(&mut state, lost(errno)),
        }
        state
    }

    // Moving bytes, with the lock held.

    /// Sends what can be sent and delivers what has arrived, without waiting.
    fn pump(&self, state: &mut State) -> Drained {
        let sent = self.flush(state);
        let drained = self.drain(state);
        // Only now: replies that came before the end are replies all the same.
        if let Err(errno) = sent {
            self.fail_locked(state, lost(errno));
        }
        // What arrived may have queued more to send.
        if let Err(errno) = self.flush(state) {
            self.fail_locked(state, lost(errno));
        }
        if state.exchange.to_send().is_some() {
            // The leader does not know yet that it must also wait for room.
            self.wake_leader(state);
        }
        drained
    }

    fn flush(&self, state: &mut State) -> Result<(), Errno> {
        while let Some(bytes) = state.exchange.to_send() {
            match self.transport.write(bytes) {
                Ok(count) => state.exchange.sent(count),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(errno) => match self.transport.kind() {
                    TransportKind::Socket => return Err(errno),
                    // The kernel looks at requests before it passes them on, and this is its
                    // way of refusing one.
                    TransportKind::Device => {
                        state.exchange.refused(refusal(errno));
                        self.delivered(state);
                    }
                },
            }
        }
        Ok(())
    }

    fn drain(&self, state: &mut State) -> Drained {
        let mut bytes = [0; 4096];
        for _ in 0..MOST_READS {
            if state.exchange.failure().is_some() {
                return Drained::Empty;
            }
            let read = match self.transport.read(&mut bytes) {
                Ok(0) => Err(ended(&state.decoder)),
                Ok(count) => {
                    state.decoder.push(bytes.get(..count).unwrap_or_default());
                    deliver(state)
                }
                Err(Errno::AGAIN) => return Drained::Empty,
                Err(Errno::INTR) => Ok(()),
                Err(errno) => Err(lost(errno)),
            };
            self.delivered(state);
            if let Err(failure) = read {
                self.fail_locked(state, failure);
            }
        }
        Drained::MaybeMore
    }

    fn fail_locked(&self, state: &mut State, failure: Failure) {
        tracing::debug!(reason = %failure.detail, "the connection to XenStore is given up");
        state.exchange.fail(failure);
        self.delivered(state);
    }

    /// Lets everyone look whether what was delivered is for them.
    fn delivered(&self, state: &State) {
        self.changed.notify_all();
        self.wake_leader(state);
    }

    fn wake_leader(&self, state: &State) {
        if state.has_leader {
            // It can only fail when the counter is full, and then the leader wakes as well.
            _ = rustix::io::write(&self.wake_leader, &1_u64.to_ne_bytes());
        }
    }

    /// A thread that panicked with the lock held has left nothing half done that matters here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carrier for Connection {
    fn queue(&self, kind: Kind, transaction_id: u32, payload: Vec<u8>) -> Result<u32, Failure> {
        let mut state = self.lock();
        state.exchange.request(kind, transaction_id, payload)
    }

    fn push(&self) -> bool {
        self.pump(&mut self.lock()) == Drained::Empty
    }

    fn take_answer(&self, id: u32) -> Result<Option<Answer>, Failure> {
        self.lock().exchange.answer_or_failure(id)
    }

    fn wait_answer_until(&self, id: u32, deadline: Time) -> Result<Option<Answer>, Failure> {
        let take = |exchange: &mut Exchange| exchange.take_answer(id);
        let (_state, answer) = self.wait(self.lock(), Some(deadline), take)?;
        Ok(answer)
    }

    fn register_request(&self, id: u32, waker: &Waker) {
        self.lock().exchange.register_request(id, waker);
    }

    fn abandon(&self, id: u32) {
        self.lock().exchange.abandon(id);
    }

    fn now(&self) -> Time {
        poll::now()
    }

    fn fail(&self, failure: Failure) {
        self.fail_locked(&mut self.lock(), failure);
    }

    fn add_watch(&self) -> u64 {
        self.lock().exchange.add_watch()
    }

    fn forget_watch(&self, watch: u64) {
        self.lock().exchange.remove_watch(watch);
    }

    fn remove_watch(&self, watch: u64, unwatch: Vec<u8>) {
        let mut state = self.lock();
        state.exchange.remove_watch(watch);
        state
            .exchange
            .request_in_background(Kind::UNWATCH, 0, unwatch);
        self.pump(&mut state);
    }

    fn take_event(&self, watch: u64) -> Result<bool, Failure> {
        let mut state = self.lock();
        if state.exchange.take_event(watch) {
            return Ok(true);
        }
        let drained = self.pump(&mut state);
        if state.exchange.take_event(watch) {
            return Ok(true);
        }
        match state.exchange.failure() {
            Some(failure) => Err(failure.clone()),
            // What is left unread may be for this watch, and a caller that waits for an edge would
            // not get another. To say "fired" once too often does no harm.
            None => Ok(drained == Drained::MaybeMore),
        }
    }

    fn register(&self, watch: u64, waker: &Waker) {
        self.lock().exchange.register(watch, waker);
    }

    fn wait_event(&self, watch: u64, deadline: Option<Time>) -> Result<bool, Failure> {
        let mut state = self.lock();
        self.pump(&mut state);
        let take = |exchange: &mut Exchange| exchange.take_event(watch).then_some(());
        let (_state, event) = self.wait(state, deadline, take)?;
        Ok(event.is_some())
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.transport.as_fd())
    }
}

/// Hands out all messages that are whole.
fn deliver(state: &mut State) -> Result<(), Failure> {
    while let Some(message) = (state.decoder.next_message()).map_err(Failure::protocol)? {
        state.exchange.deliver(message)?;
    }
    Ok(())
}

fn ended(decoder: &Decoder) -> Failure {
    let place = if decoder.is_mid_message() {
        " in the middle of a message"
    } else {
        ""
    };
    let detail = format!("the store closed the connection{place}; {RECONNECT}");
    Failure::new(StoreErrorKind::Unreachable, detail)
}

fn lost(errno: Errno) -> Failure {
    let detail = format!("{}; {RECONNECT}", message(errno));
    Failure::new(StoreErrorKind::Unreachable, detail)
}

/// The name of an error number that the kernel gave.
fn refusal(errno: Errno) -> String {
    let known = match errno {
        Errno::NOENT => "ENOENT",
        Errno::ACCESS | Errno::PERM => "EACCES",
        Errno::EXIST => "EEXIST",
        Errno::INVAL => "EINVAL",
        Errno::AGAIN => "EAGAIN",
        Errno::NOSPC | Errno::TOOBIG => "ENOSPC",
        _ => return message(errno),
    };
    known.to_string()
}

const RECONNECT: &str = "was xenstored stopped or restarted? try again once it runs";
