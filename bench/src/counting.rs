//! Counting what is asked of the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vchan::Host;
use vchan_emulator::faults::{Call, Verdict, gated};

/// What a domain has asked of its host. Clones share the counters.
#[derive(Clone, Default, Debug)]
pub struct Counts {
    counters: Arc<Counters>,
}

#[derive(Default, Debug)]
struct Counters {
    notifications: AtomicU64,
    system_calls: AtomicU64,
    sleeps: AtomicU64,
    store_requests: AtomicU64,
    awake: AtomicU64,
    asleep: AtomicBool,
}

/// The counts at one moment, or what they grew by.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Count {
    /// Events that were sent.
    pub notifications: u64,
    /// Those of them that were sent while nobody of the peer's domain waited for one. Zero where the
    /// peer is not [counted beside](counted_beside).
    pub awake: u64,
    /// Calls to the event channel, of which each is one system call on Xen: sending, waiting, taking
    /// and unmasking; and those that give way.
    pub system_calls: u64,
    /// Waits for an event, of those that the library makes itself.
    pub sleeps: u64,
    /// Requests to XenStore.
    pub store_requests: u64,
}

impl Counts {
    /// The counts now.
    #[must_use]
    pub fn now(&self) -> Count {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Count {
            notifications: load(&self.counters.notifications),
            awake: load(&self.counters.awake),
            system_calls: load(&self.counters.system_calls),
            sleeps: load(&self.counters.sleeps),
            store_requests: load(&self.counters.store_requests),
        }
    }

    /// Whether somebody of the domain waits for an event.
    #[must_use]
    pub fn asleep(&self) -> bool {
        self.counters.asleep.load(Ordering::Relaxed)
    }

    fn count(&self, call: &Call, peer: Option<&Counts>) {
        let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let counters = &self.counters;
        match call.name {
            "notify" => {
                add(&counters.notifications);
                if peer.is_some_and(|peer| !peer.asleep()) {
                    add(&counters.awake);
                }
                add(&counters.system_calls);
            }
            "sleep" => {
                counters.asleep.store(true, Ordering::Relaxed);
                add(&counters.sleeps);
                add(&counters.system_calls);
            }
            "take" => {
                counters.asleep.store(false, Ordering::Relaxed);
                add(&counters.system_calls);
            }
            "unmask" | "give_way" => {
                add(&counters.system_calls);
            }
            "read"
            | "write"
            | "remove"
            | "directory"
            | "permissions"
            | "set_permissions"
            | "is_domain_introduced"
            | "watch"
            | "unwatch" => {
                add(&counters.store_requests);
            }
            _ => {}
        }
    }
}

impl Count {
    /// What it grew by since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Count) -> Count {
        Count {
            notifications: self.notifications - earlier.notifications,
            awake: self.awake - earlier.awake,
            system_calls: self.system_calls - earlier.system_calls,
            sleeps: self.sleeps - earlier.sleeps,
            store_requests: self.store_requests - earlier.store_requests,
        }
    }
}

impl std::ops::Add for Count {
    type Output = Count;

    fn add(self, other: Count) -> Count {
        Count {
            notifications: self.notifications + other.notifications,
            awake: self.awake + other.awake,
            system_calls: self.system_calls + other.system_calls,
            sleeps: self.sleeps + other.sleeps,
            store_requests: self.store_requests + other.store_requests,
        }
    }
}

/// The same host, with what is asked of it counted.
#[must_use]
pub fn counted(host: &Host) -> (Host, Counts) {
    let counts = Counts::default();
    (counting(host, counts.clone(), None), counts)
}

/// The hosts of two domains that talk with each other, likewise.
#[must_use]
pub fn counted_beside(left: &Host, right: &Host) -> ([Host; 2], [Counts; 2]) {
    let counts = [Counts::default(), Counts::default()];
    let [ours, theirs] = counts.clone();
    let hosts = [
        counting(left, ours.clone(), Some(theirs.clone())),
        counting(right, theirs, Some(ours)),
    ];
    (hosts, counts)
}

fn counting(host: &Host, counts: Counts, peer: Option<Counts>) -> Host {
    gated(host, move |call| {
        counts.count(call, peer.as_ref());
        Verdict::Pass
    })
}
