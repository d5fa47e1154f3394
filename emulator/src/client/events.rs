//! Event channels of the emulated host, as a domain uses them.

use std::io;
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
    /// What polls readable while an event is pending and the port is not masked: an epoll set of
    /// `pending` alone, one-shot; empty until it is watched. It reports an event once and is mute until
    /// armed anew, while events go on being counted. Threads that sleep on it when another one unmasks
    /// wake up, as on a real event channel's descriptor.
    gate: OwnedFd,
    mask: Mutex<Mask>,
    bell: Bell,
}

/// Whether events are let through, and who sees to it.
#[derive(Clone, Copy, Default)]
struct Mask {
    masked: bool,
    /// Somebody has had the gate, or sleeps on it: it must be mute while the port is masked. Until
    /// then nobody can tell, and `masked` alone is the mask, which spares two of four system calls.
    watched: bool,
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
        if mask.masked || mask.watched && !self.mute()? {
            return Ok(false);
        }
        // What comes after this reading is the next event.
        match rustix::io::read(&self.pending, &mut [0; 8]) {
            Ok(_) => mask.masked = true,
            // The gate is mute, so that it must be opened again.
            Err(Errno::AGAIN) => mask.masked = mask.watched,
            Err(error) => return Err(self.failed("take an event of", error)),
        }
        Ok(mask.masked)
    }

    fn unmask(&self) -> Result<(), HostError> {
        let mut mask = self.mask();
        if mask.watched {
            epoll::modify(&self.gate, &self.pending, EVENT, ARMED)
                .map_err(|error| self.failed("unmask", error))?;
        }
        mask.masked = false;
        Ok(())
    }

    fn sleep(&self, most: Option<Duration>) -> Result<(), HostError> {
        let Mask { masked, watched } = *self.mask();
        // Events of a masked port do not end a sleep, and its unmasking does.
        if masked && !watched {
            self.watch()?;
        }
        let descriptor = match masked || watched {
            true => &self.gate,
            false => &self.pending,
        };
        self.bell
            .sleep(descriptor.as_fd(), most)
            .map_err(|error| self.failed("wait for an event of", error))
    }

    fn wake(&self) {
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

    /// Lets the gate follow the mask from now on.
    fn watch(&self) -> Result<(), HostError> {
        let mut mask = self.mask();
        if !mask.watched {
            let flags = match mask.masked {
                true => epoll::EventFlags::empty(),
                false => ARMED,
            };
            epoll::add(&self.gate, &self.pending, EVENT, flags)
                .map_err(|error| self.failed("watch", error))?;
            mask.watched = true;
        }
        Ok(())
    }

    /// Makes the gate mute, if it has an event to report: false when it has none.
    fn mute(&self) -> Result<bool, HostError> {
        let mut ready = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: EVENT,
        }];
        let at_once = Timespec::default();
        match epoll::wait(&self.gate, &mut ready, Some(&at_once)) {
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

fn now() -> Time {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Time(Duration::new(
        seconds.unwrap_or(0),
        nanoseconds.unwrap_or(0),
    ))
}
