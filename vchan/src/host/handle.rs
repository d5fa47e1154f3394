//! A host of three parts, and what is known of it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use super::{EventChannels, Grants, Reply, Request, Store, Time};
use crate::patience::{Blocking, Patience, ask, at_once};
use crate::{BadKey, DomId, Error, StoreErrorKind, StorePath};

/// A handle on the host that this program's domain lives on. Cheap to clone; all clones share one
/// connection to XenStore and one set of devices.
#[derive(Clone)]
pub struct Host {
    parts: Arc<Parts>,
}

#[derive(Clone)]
struct Parts {
    grants: Arc<dyn Grants>,
    events: Arc<dyn EventChannels>,
    store: Arc<dyn Store>,
    known: Arc<Known>,
}

struct Known {
    /// This domain's number as it was read last, else [`UNKNOWN`].
    domid: AtomicU32,
    /// How often a server sees to its keys, in milliseconds: see [`Host::renewal_interval`].
    renewal_interval: AtomicU64,
    /// Which time no server has taken for that yet, in milliseconds: see [`Host::renewal_turn`].
    next_renewal: AtomicU64,
}

/// How often a server that waits for a client sees to its keys, in milliseconds, unless the host wants
/// it otherwise.
const RENEWAL_INTERVAL: u64 = 2000;

/// The least time between the renewals of two servers, in milliseconds.
const RENEWAL_PACE: u64 = 20;

/// No domid is that large.
const UNKNOWN: u32 = u32::MAX;

impl Host {
    /// A host made of its three parts.
    pub fn new(
        grants: impl Grants + 'static,
        events: impl EventChannels + 'static,
        store: impl Store + 'static,
    ) -> Host {
        Host::of(Parts {
            grants: Arc::new(grants),
            events: Arc::new(events),
            store: Arc::new(store),
            known: Arc::new(Known {
                domid: AtomicU32::new(UNKNOWN),
                renewal_interval: AtomicU64::new(RENEWAL_INTERVAL),
                next_renewal: AtomicU64::new(0),
            }),
        })
    }

    fn of(parts: Parts) -> Host {
        Host {
            parts: Arc::new(parts),
        }
    }

    /// The same host, with other grant tables: to see or to change what is asked of them. What one
    /// handle knows of the domain, its number for example, the other knows.
    ///
    /// ```
    /// use vchan::Host;
    /// use vchan::host::Grants;
    ///
    /// /// Counts the pages that are shared and mapped, and leaves the rest to the host.
    /// fn watched(host: &Host, counting: impl Grants + 'static) -> Host {
    ///     host.with_grants(counting)
    /// }
    /// ```
    #[must_use]
    pub fn with_grants(&self, grants: impl Grants + 'static) -> Host {
        Host::of(Parts {
            grants: Arc::new(grants),
            ..Parts::clone(&self.parts)
        })
    }

    /// The same host, with another way to XenStore, as [`with_grants`](Host::with_grants).
    #[must_use]
    pub fn with_store(&self, store: impl Store + 'static) -> Host {
        Host::of(Parts {
            store: Arc::new(store),
            ..Parts::clone(&self.parts)
        })
    }

    /// The grant tables.
    #[must_use]
    pub fn grants(&self) -> &dyn Grants {
        &*self.parts.grants
    }

    /// The event channels.
    #[must_use]
    pub fn events(&self) -> &dyn EventChannels {
        &*self.parts.events
    }

    /// XenStore.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.parts.store
    }

    /// This domain's own number, from the key `domid` that the toolstack writes for every domain.
    ///
    /// It changes when the domain is saved and restored, or migrated. It is read at the first
    /// call, and again when what XenStore says shows that it has changed; in between the number is
    /// the last one read.
    ///
    /// # Errors
    /// [`Error::Store`] when it cannot be read, [`Error::BadKey`] when it is not a domid.
    pub fn domid(&self) -> Result<DomId, Error> {
        at_once(self.own_domid(&Blocking::default()))
    }

    /// The own number as it was read last; read now if it never was.
    pub(crate) async fn own_domid(&self, patience: &impl Patience) -> Result<DomId, Error> {
        let known = self.parts.known.domid.load(Ordering::Relaxed);
        match u16::try_from(known).map(DomId::new) {
            Ok(Ok(domid)) => Ok(domid),
            _ => self.read_domid(patience).await,
        }
    }

    /// The own number as it is now.
    pub(crate) async fn read_domid(&self, patience: &impl Patience) -> Result<DomId, Error> {
        let key: StorePath = "domid".parse()?;
        let [value] = ask(self, patience, [Request::Read(&key)]).await?;
        let value = match value.and_then(Reply::value) {
            // A dom0 whose start-up scripts did not write it.
            Err(error) if error.kind == StoreErrorKind::NotFound => b"0".to_vec(),
            other => other?,
        };
        let text = alloc::string::String::from_utf8_lossy(&value);
        let domid: DomId = text.parse().map_err(|_| {
            Error::BadKey(Box::new(BadKey {
                path: key,
                value: text.chars().take(40).collect(),
                expected: "this domain's number",
            }))
        })?;
        self.parts
            .known
            .domid
            .store(u32::from(domid.number()), Ordering::Relaxed);
        Ok(domid)
    }

    /// How often a server that waits for clients of dom0 looks whether its keys still stand: every two
    /// seconds unless this is called. It has nothing else to wake up for, so this is what it costs to
    /// wait. It is also how long a server may be without keys when XenStore has lost them, or without a
    /// port when its domain was restored.
    ///
    /// Clients of other domains are looked after every two seconds at least: their domain may be
    /// created after the keys, and cannot read them until then.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// /// For a domain that is to be left asleep.
    /// fn wake_up_seldom(host: &vchan::Host) {
    ///     host.set_renewal_interval(Duration::from_secs(10));
    /// }
    /// ```
    pub fn set_renewal_interval(&self, interval: Duration) {
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        // Relaxed: it orders nothing but itself.
        (self.parts.known.renewal_interval).store(interval.max(RENEWAL_PACE), Ordering::Relaxed);
    }

    /// How often a server for clients of `peer` sees to its keys.
    pub(crate) fn renewal_interval(&self, peer: DomId) -> Duration {
        let interval = self.parts.known.renewal_interval.load(Ordering::Relaxed);
        Duration::from_millis(if peer == DomId::DOM0 {
            interval
        } else {
            interval.min(RENEWAL_INTERVAL)
        })
    }

    /// When one of this host's servers may see to its keys, `now` at the earliest: one after the other,
    /// so that XenStore is asked no more often than 50 times a second, however many servers wait. Each
    /// call is given another time.
    pub(crate) fn renewal_turn(&self, now: Time) -> Time {
        let earliest = u64::try_from(now.0.as_millis()).unwrap_or(u64::MAX);
        let take = |next: u64| Some(next.max(earliest).saturating_add(RENEWAL_PACE));
        let next = &self.parts.known.next_renewal;
        // Relaxed: it orders nothing but itself.
        let taken = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        // It always takes one.
        let (Ok(turn) | Err(turn)) = taken;
        now.max(Time(Duration::from_millis(turn)))
    }

    /// Refuses a link to oneself: on some kernels gntalloc and gntdev crash on it.
    pub(crate) async fn refuse_own_domain(
        &self,
        peer: DomId,
        patience: &impl Patience,
    ) -> Result<(), Error> {
        // The number that is known may be that from before a migration: now another's.
        if self.own_domid(patience).await? == peer && self.read_domid(patience).await? == peer {
            Err(Error::OwnDomain(peer))
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}
