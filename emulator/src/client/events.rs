//! Event channels of the emulated host, as a domain uses them.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::time::ClockId;
use vchan::host::{Bell, EventChannel, EventChannels, Port, Time};
use vchan::{DomId, HostError};

use super::{CallError, Control};
use crate::wire::{Reply, Request};

/// The event channels of the emulated host.
pub(crate) struct EmulatedEvents {
    pub(crate) control: Arc<Control>,
}

/// One end of an event channel: no server stands between it and the other end.
struct EmulatedChannel {
    control: Arc<Control>,
    port: Port,
    /// Counts the events that came and were not taken.
    pending: OwnedFd,
    /// The other end's `pending`.
    target: OwnedFd,
    /// An epoll set of `pending` alone; see [`Use`].
    gate: OwnedFd,
    mask: Mutex<Mask>,
    bell: Bell,
}

/// Whether events are let through, and who sees to it.
#[derive(Clone, Copy, Default)]
struct Mask {
    masked: bool,
    gate: Use,
    /// A sleep has taken an event from the gate that nobody was given yet.
    arrived: bool,
}

/// What the gate is used for. Each use is dearer than the one before, and goes on for good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Use {
    /// It is empty: events are read from `pending`.
    #[default]
    Nothing,
    /// This side sleeps on it. It reports each event once, so that none need be read: a sleep takes
    /// one system call, as one that reads an eventfd does. `masked` alone is the mask, as nobody else
    /// can tell.
    Sleeping,
    /// The same, and there is a bell, which ends sleeps as well.
    Listening,
    /// Somebody has had it, or sleeps on it while the port is masked: it polls readable while an
    /// event is pending and the port is not masked. One-shot: it reports an event and is mute until
    /// armed anew, while events go on being counted. Threads that sleep on it when another one
    /// unmasks wake up, as on a real event channel's descriptor.
    Watched,
}

impl EventChannels for EmulatedEvents {
    fn bind_unbound(&self, peer: DomId) -> Result<Box<dyn EventChannel>, HostError> {
        let request = Request::BindUnbound {
            peer: peer.number(),
        };
        let doing = format!("allocate an event channel for domain {peer}");
        self.open(&request, doing)
    }

    fn bind_interdomain(
        &self,
        peer: DomId,
        port: Port,
    ) -> Result<Box<dyn EventChannel>, HostError> {
        let request = Request::BindInterdomain {
            peer: peer.number(),
            port: port.0,
        };
        self.open(
            &request,
            format!("bind event channel {port} of domain {peer}"),
        )
    }

    fn now(&self) -> Time {
        now()
    }

    fn pause(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn give_way(&self) -> bool {
        std::thread::yield_now();
        true
    }
}

impl EmulatedEvents {
    fn open(&self, request: &Request, doing: String) -> Result<Box<dyn EventChannel>, HostError> {
        let (reply, descriptors) = match self.control.call(request) {
            Ok(answer) => answer,
            Err(error) => return Err(error.doing(doing)),
        };
        let mut descriptors = descriptors.into_iter();
        let (Reply::Port { port }, Some(pending), Some(target)) =
            (reply, descriptors.next(), descriptors.next())
        else {
            return Err(CallError::Nonsense.doing(doing));
        };
        match epoll::create(epoll::CreateFlags::CLOEXEC) {
            Ok(gate) => Ok(Box::new(EmulatedChannel {
                control: Arc::clone(&self.control),
                port: Port(port),
                pending,
                target,
                gate,
                mask: Mutex::default(),
                bell: Bell::default(),
            })),
            Err(error) => {
                self.control.undo(&Request::ClosePort { port });
                Err(HostError::new(doing).because(io::Error::from(error)))
            }
        }
    }
}

impl EventChannel for EmulatedChannel {
    fn port(&self) -> Port {
        self.port
    }

    fn notify(&self) -> Result<(), HostError> {
        match rustix::io::write(&self.target, &1u64.to_ne_bytes()) {
            // A counter that is full is an event that is pending.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(self.failed("send an event through", error)),
        }
    }

    fn take(&self) -> Result<bool, HostError> {
        let mut mask = self.mask();
        if mask.masked {
            return Ok(false);
        }
        let gate_tells = mask.gate != Use::Nothing;
        if gate_tells && !mem::take(&mut mask.arrived) && !self.reports(Some(Duration::ZERO))? {
            return Ok(false);
        }
        if matches!(mask.gate, Use::Sleeping | Use::Listening) {
            mask.masked = true;
            return Ok(true);
        }
        // What comes after this reading is the next event.
        match rustix::io::read(&self.pending, &mut [0; 8]) {
            Ok(_) => mask.masked = true,
            // The gate is mute, so that it must be opened again.
            Err(Errno::AGAIN) => mask.masked = gate_tells,
            Err(error) => return Err(self.failed("take an event of", error)),
        }
        Ok(mask.masked)
    }

    fn unmask(&self) -> Result<(), HostError> {
        let mut mask = self.mask();
        if mask.gate == Use::Watched {
            epoll::modify(&self.gate, &self.pending, EVENT, ARMED)
                .map_err(|error| self.failed("unmask", error))?;
        }
        mask.masked = false;
        Ok(())
    }

    fn sleep(&self, most: Option<Duration>) -> Result<(), HostError> {
        let Mask {
            masked,
            mut gate,
            arrived,
        } = *self.mask();
        if masked {
            // Events of a masked port do not end a sleep, and its unmasking does.
            self.watch()?;
            gate = Use::Watched;
        } else if arrived {
            return Ok(());
        } else if gate == Use::Nothing {
            gate = self.sleep_on_gate(Use::Sleeping)?;
        }
        if gate == Use::Sleeping {
            if self.reports(most)? {
                self.mask().arrived = true;
            }
            return Ok(());
        }
        self.bell
            .sleep(self.gate.as_fd(), most)
            .map_err(|error| self.failed("wait for an event of", error))
    }

    fn wake(&self) {
        if let Err(error) = self.sleep_on_gate(Use::Listening) {
            tracing::warn!(%error, "the bell cannot be heard");
        }
        self.bell.ring();
    }

    fn is_bound(&self) -> Result<Option<bool>, HostError> {
        let doing = || format!("ask for the state of event channel {}", self.port);
        let request = Request::IsBound { port: self.port.0 };
        match self.control.call(&request) {
            Ok((Reply::Bound(bound), _)) => Ok(Some(bound)),
            Ok(_) => Err(CallError::Nonsense.doing(doing())),
            Err(error) => Err(error.doing(doing())),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match self.watch() {
            Ok(()) => Some(self.gate.as_fd()),
            Err(error) => {
                tracing::warn!(%error, "events cannot be watched");
                None
            }
        }
    }
}

impl EmulatedChannel {
    fn mask(&self) -> MutexGuard<'_, Mask> {
        // Nothing panics while it is held.
        self.mask.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the gate report each event from now on, for this use or a later one; tells which.
    fn sleep_on_gate(&self, least: Use) -> Result<Use, HostError> {
        let mut mask = self.mask();
        if mask.gate == Use::Nothing {
            epoll::add(&self.gate, &self.pending, EVENT, EACH_ONCE)
                .map_err(|error| self.failed("wait for an event of", error))?;
        }
        mask.gate = mask.gate.max(least);
        Ok(mask.gate)
    }

    /// Lets the gate follow the mask from now on.
    fn watch(&self) -> Result<(), HostError> {
        let mut mask = self.mask();
        let flags = match mask.masked {
            true => epoll::EventFlags::empty(),
            false => ARMED,
        };
        match mask.gate {
            Use::Nothing => epoll::add(&self.gate, &self.pending, EVENT, flags),
            // Events that were reported were not read: so one is pending now, though perhaps none is.
            Use::Sleeping | Use::Listening => {
                epoll::modify(&self.gate, &self.pending, EVENT, flags)
            }
            Use::Watched => Ok(()),
        }
        .map_err(|error| self.failed("watch", error))?;
        if mask.gate != Use::Watched {
            mask.arrived = false;
        }
        mask.gate = Use::Watched;
        Ok(())
    }

    /// Whether the gate has an event to report within this time; it has not reported it before and
    /// will not again.
    fn reports(&self, within: Option<Duration>) -> Result<bool, HostError> {
        let mut ready = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: EVENT,
        }];
        // A time that no Timespec can express is endless.
        let within = within.and_then(|within| Timespec::try_from(within).ok());
        match epoll::wait(&self.gate, &mut ready, within.as_ref()) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(self.failed("take an event of", error)),
        }
    }

    fn failed(&self, doing: &str, error: impl Into<io::Error>) -> HostError {
        let error: io::Error = error.into();
        HostError::new(format!("{doing} event channel {}", self.port)).because(error)
    }
}

impl Drop for EmulatedChannel {
    fn drop(&mut self) {
        self.control.undo(&Request::ClosePort { port: self.port.0 });
    }
}

/// All that the gate says of an event.
const EVENT: epoll::EventData = epoll::EventData::new_u64(0);
/// Reports that `pending` is readable, once.
const ARMED: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);

/// Reports each event that comes, once.
const EACH_ONCE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

fn now() -> Time {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Time(Duration::new(
        seconds.unwrap_or(0),
        nanoseconds.unwrap_or(0),
    ))
}
