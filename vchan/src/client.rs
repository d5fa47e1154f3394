//! The client's side of the handshake: find, map, connect.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use core::time::Duration;

use crate::channel::{Channel, Origin};
use crate::endpoint::{Link, Reader, Writer};
use crate::guard::keeps;
use crate::host::{GrantRef, Host, Reply, Request, Time, UnmapNotify, Watch};
use crate::keys::{Keys, Location, Published};
use crate::layout::{ControlPage, GRANTS, Live, NOTIFY_WRITE, Place, Ring, Side};
use crate::memory::{Access, PAGE_SIZE};
use crate::patience::{Blocking, Patience, ask, at_once};
use crate::ring::{Consumer, Producer};
use crate::server::ring_bytes;
use crate::{DomId, Error, PortName, Spin, StoreError, StoreErrorKind, StorePath};
use left::Left;

mod left;

/// How long XenStore may be away before a client that waits gives up.
const LONGEST_OUTAGE: Duration = Duration::from_secs(5);

/// How much of the time between two vain attempts to reach it counts: far more than a refusal takes.
/// More than that, and this program was stopped, and XenStore perhaps with it.
const LONGEST_STEP: Duration = Duration::from_millis(500);

/// How long a client waits before it looks whether XenStore is back.
const OUTAGE_PAUSE: Duration = Duration::from_millis(200);

/// How often keys that lead to nothing are tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How a client is to connect. Made by [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `connect`"]
pub struct ClientBuilder {
    host: Host,
    server: DomId,
    location: Location,
    timeout: Option<Duration>,
    spin: Spin,
}

impl ClientBuilder {
    /// The XenStore path under which the server publishes; by default
    /// `/local/domain/<server>/data/vchan`. A relative path lies below the server's domain.
    pub fn path(mut self, path: StorePath) -> ClientBuilder {
        self.location = Location::Path(path);
        self
    }

    /// Connects to the vchan that the server publishes for this domain under
    /// `data/vchan/<own domid>/<port>` below its own domain's path, as Xen's header recommends.
    pub fn port(mut self, port: PortName) -> ClientBuilder {
        self.location = Location::Port(port);
        self
    }

    /// How long to wait for the server; by default for ever.
    pub fn timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.timeout = Some(timeout);
        self
    }

    /// What calls that have to wait do before they sleep; [`Spin::Adaptive`] by default.
    pub fn spin(mut self, spin: Spin) -> ClientBuilder {
        self.spin = spin;
        self
    }

    /// Connects, waiting until the server has published.
    ///
    /// A restart of xenstored in the meantime is waited out, for five seconds at most.
    ///
    /// # Errors
    /// [`Error::TimedOut`], saying what was missing; [`Error::BadKey`], [`Error::ForeignKey`],
    /// [`Error::Page`], [`Error::OwnDomain`], [`Error::Path`], [`Error::Host`], [`Error::Store`].
    pub fn connect(self) -> Result<Channel, Error> {
        let mut client = self.start()?;
        loop {
            if let Some(channel) = client.attempt()? {
                return Ok(channel);
            }
            client.wait()?;
        }
    }

    /// Prepares to connect, for callers that want to take the steps themselves: [`Client::attempt`]
    /// and [`Client::wait`] in turn.
    ///
    /// # Errors
    /// [`Error::OwnDomain`], [`Error::Path`], [`Error::Store`].
    pub fn start(self) -> Result<Client, Error> {
        let deadline = self.deadline();
        let patience = Blocking { deadline };
        at_once(self.start_with(deadline, &patience))
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// When the time that the user gave is up.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let timeout = self.timeout?;
        Some(self.host.events().now().after(timeout))
    }

    pub(crate) async fn start_with(
        self,
        deadline: Option<Time>,
        patience: &impl Patience,
    ) -> Result<Client, Error> {
        let own = match self.location {
            // As it is now: the number that is known may be that from before a migration.
            Location::Port(_) => Some(self.host.read_domid(patience).await?),
            _ => None,
        };
        let path = self.location.path(own)?;
        let keys = Keys::under(path.under_domain(self.server)?)?;
        self.host.refuse_own_domain(self.server, patience).await?;
        let (host, server) = (self.host, self.server);
        Ok(Client {
            host,
            server,
            keys,
            deadline,
            spin: self.spin,
            watch: None,
            obstacle: Obstacle::Unknown,
            left: Left::default(),
        })
    }
}

/// A client that is about to connect.
#[derive(Debug)]
pub struct Client {
    host: Host,
    server: DomId,
    keys: Keys,
    deadline: Option<Time>,
    spin: Spin,
    watch: Option<WatchBox>,
    obstacle: Obstacle,
    left: Left,
}

/// Why the last attempt has not succeeded.
#[derive(Debug)]
enum Obstacle {
    Unknown,
    /// The keys are not there, or not readable yet.
    Missing(String),
    /// The keys lead to nothing: they are left over, or in use by another client.
    Stale(Error),
    /// XenStore was there and is away now.
    Outage {
        /// How long that is, as far as it counts.
        lasted: Duration,
        /// When it was seen last.
        seen: Time,
        why: StoreError,
    },
}

impl Client {
    /// A client of the server in the domain `server`.
    pub fn builder(host: &Host, server: DomId) -> ClientBuilder {
        ClientBuilder {
            host: host.clone(),
            server,
            location: Location::Default,
            timeout: None,
            spin: Spin::default(),
        }
    }

    /// What stands in the way, in words; changes with every [`attempt`](Client::attempt).
    #[must_use]
    pub fn waiting_for(&self) -> String {
        let (server, path) = (self.server, self.keys.base());
        match &self.obstacle {
            Obstacle::Unknown => format!("waiting for a vchan server of domain {server} at {path}"),
            Obstacle::Missing(what) => {
                format!("waiting for a vchan server of domain {server}: {what}")
            }
            Obstacle::Stale(why) => format!(
                "waiting for the vchan server of domain {server} at {path} to publish anew ({why})"
            ),
            Obstacle::Outage { why, .. } => {
                format!("waiting for XenStore, to find the vchan server of domain {server}: {why}")
            }
        }
    }

    /// Connects if the server is there; `None` when it is not yet.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub fn attempt(&mut self) -> Result<Option<Channel>, Error> {
        at_once(self.attempt_with(&self.patience()))
    }

    pub(crate) async fn attempt_with(
        &mut self,
        patience: &impl Patience,
    ) -> Result<Option<Channel>, Error> {
        let published = match self.keys.read(&self.host, self.server, patience).await {
            Ok(Ok(published)) => published,
            Ok(Err(missing)) => {
                self.obstacle = Obstacle::Missing(format!("{} {}", missing.key, missing.why));
                return Ok(None);
            }
            Err(error) => return self.bear(error).map(|()| None),
        };
        // The same numbers may lead somewhere by now: a server that is started again gets them again.
        if matches!(self.obstacle, Obstacle::Stale(_)) && !keeps("stale-retry") {
            return Ok(None);
        }
        match self.connect_to(published, patience).await {
            Ok(channel) => Ok(Some(channel)),
            Err(why) if may_pass(&why) => {
                tracing::debug!(%why, "the published keys lead to nothing");
                self.obstacle = Obstacle::Stale(why);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until another [`attempt`](Client::attempt) may succeed.
    ///
    /// # Errors
    /// [`Error::TimedOut`], saying what was missing; [`Error::Store`].
    pub fn wait(&mut self) -> Result<(), Error> {
        self.look_at_deadline()?;
        let (until, deadline) = (self.wait_until(), self.deadline);
        let patience = self.patience();
        let fired = at_once(self.watch(&patience)).and_then(|watch| Ok(watch.wait(until)?));
        match fired {
            Ok(fired) if fired || until != deadline => Ok(()),
            Ok(_) => Err(self.timed_out()),
            Err(error) => {
                self.bear(error)?;
                self.pause()
            }
        }
    }

    fn patience(&self) -> Blocking {
        Blocking {
            deadline: self.deadline,
        }
    }

    /// Notes that the store is away, if that is what `error` says, and if it was there before and
    /// has not been away for too long; otherwise returns the error.
    pub(crate) fn bear(&mut self, error: Error) -> Result<(), Error> {
        let now = self.host.events().now();
        let (before, seen) = match self.obstacle {
            Obstacle::Unknown => return Err(error),
            Obstacle::Outage { lasted, seen, .. } => (lasted, seen),
            Obstacle::Missing(_) | Obstacle::Stale(_) => (Duration::ZERO, now),
        };
        let mut step = now.since(seen);
        let did_not_answer =
            matches!(&error, Error::Store(why) if why.kind == StoreErrorKind::TimedOut);
        if !did_not_answer && keeps("outage-steps") {
            step = step.min(LONGEST_STEP);
        }
        let lasted = before.saturating_add(step);
        match error {
            Error::Store(why) if why.is_outage() && lasted < LONGEST_OUTAGE => {
                tracing::warn!(%why, "waiting for XenStore");
                // It does not survive its connection.
                self.watch = None;
                self.obstacle = Obstacle::Outage {
                    lasted,
                    seen: now,
                    why,
                };
                Ok(())
            }
            error => Err(error),
        }
    }

    /// How long to wait before looking whether the store is back, if the deadline lets us.
    pub(crate) fn outage_pause(&self) -> Result<Duration, Error> {
        let Some(deadline) = self.deadline else {
            return Ok(OUTAGE_PAUSE);
        };
        match deadline.since(self.host.events().now()) {
            Duration::ZERO => Err(self.timed_out()),
            rest => Ok(rest.min(OUTAGE_PAUSE)),
        }
    }

    fn pause(&self) -> Result<(), Error> {
        self.host.events().pause(self.outage_pause()?);
        Ok(())
    }

    /// When to try again at the latest, though nothing was published meanwhile: the port of a client
    /// that was killed becomes free a moment after its process is gone.
    pub(crate) fn wait_until(&self) -> Option<Time> {
        let stale = matches!(self.obstacle, Obstacle::Stale(_));
        let retry = stale.then(|| self.host.events().now().after(RETRY_INTERVAL));
        match (self.deadline, retry) {
            (Some(deadline), Some(retry)) => Some(deadline.min(retry)),
            (deadline, retry) => deadline.or(retry),
        }
    }

    /// An error once the time is up: then the last attempt was the last, though the watch fires again
    /// and again.
    pub(crate) fn look_at_deadline(&self) -> Result<(), Error> {
        let now = self.host.events().now();
        match self.deadline {
            Some(deadline) if deadline <= now && keeps("deadline-in-a-flood") => {
                Err(self.timed_out())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn timed_out(&self) -> Error {
        Error::TimedOut {
            waiting_for: self.waiting_for().into(),
        }
    }

    /// The watch on the key that the server publishes last. It fires once when it is set, so
    /// nothing that happened before is missed.
    pub(crate) async fn watch(&mut self, patience: &impl Patience) -> Result<&dyn Watch, Error> {
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => {
                let request = Request::Watch(self.keys.event_channel());
                let [watch] = ask(&self.host, patience, [request]).await?;
                WatchBox(watch.and_then(Reply::watch)?)
            }
        };
        Ok(&*self.watch.insert(watch).0)
    }

    async fn connect_to(
        &mut self,
        published: Published,
        patience: &impl Patience,
    ) -> Result<Channel, Error> {
        let (host, server) = (&self.host.clone(), self.server);
        let Published {
            ring_ref,
            event_channel,
        } = published;
        let port = host.events().bind_interdomain(server, event_channel)?;
        let local_port = port.port();
        let notify = UnmapNotify {
            offset: Side::Client.live_offset(),
            port: local_port,
        };
        let page =
            Arc::new(
                host.grants()
                    .map(server, &[ring_ref], Access::ReadWrite, Some(notify))?,
            );

        // One private copy: orders, live bytes and grants are taken from it and never read again.
        let mut copy = Box::new([0; PAGE_SIZE]);
        page.copy_out(0, &mut copy[..]);
        if ControlPage::parse(&copy).is_err() {
            // Keys that a server left behind may have led to a page that the next one, which was
            // given the same numbers, had yet to fill. Once its own keys are there, it is filled.
            if self.keys.read(host, server, patience).await? != Ok(published) {
                return Err(Error::Closed);
            }
            page.copy_out(0, &mut copy[..]);
        }
        let mut control = ControlPage::parse(&copy)?;
        let geometry = control.geometry;
        let header = *copy.first_chunk().unwrap_or(&[0; GRANTS]);
        let server_lives = copy.get(Side::Server.live()) == Some(&Live::Connected.byte());
        if !server_lives && keeps("server-lives") {
            return Err(Error::Closed);
        }
        // A server that has made another offer since we bound to its port may have given the same
        // number to the page of that. A host that cannot tell now is asked again while one waits.
        if matches!(port.is_bound(), Ok(Some(false))) && keeps("port-of-this-page") {
            return Err(Error::Closed);
        }
        if !left::is_fresh(&copy) && keeps("used-page") {
            let stands = self.keys.read(host, server, patience).await? == Ok(published);
            if !stands
                || !self
                    .left
                    .may_be_taken_over(published, &copy, host.events().now())
            {
                return Err(Error::Closed);
            }
        }

        let map = |ring, grants: &[GrantRef], access| match geometry.place(ring) {
            Place::ControlPage(start) => Ok::<_, Error>(ring_bytes(geometry, ring, &page, start)),
            Place::Pages(_) => {
                let region = Arc::new(host.grants().map(server, grants, access, None)?);
                Ok(ring_bytes(geometry, ring, &region, 0))
            }
        };
        let left = map(Ring::Left, &control.left_grants, Access::ReadWrite)?;
        if !keeps("one-copy") {
            page.copy_out(0, &mut copy[..]);
            control = ControlPage::parse(&copy)?;
        }
        let right = map(Ring::Right, &control.right_grants, Access::ReadOnly)?;
        let consumer = Consumer::new(Arc::clone(&page), Side::Client, right)?;
        let producer = Producer::new(Arc::clone(&page), Side::Client, left)?;

        // Release: who sees the client live sees nothing of it half done.
        page.store_byte(
            Side::Client.live(),
            Live::Connected.byte(),
            Ordering::Release,
        );
        page.set_bits(
            Side::Client.peer().asked_of_us(),
            NOTIFY_WRITE,
            Ordering::Release,
        );
        port.notify()?;
        let origin = Origin {
            ring_ref,
            event_channel,
            port: local_port,
            geometry,
            header,
        };
        let link = Arc::new(Link::new(host.clone(), server, Side::Client, &page, port));
        let (reader, writer) = (
            Reader::new(consumer, Arc::clone(&link)),
            Writer::new(producer, link),
        );
        let mut channel = Channel::new(reader, writer, origin);
        channel.set_spin(self.spin);
        Ok(channel)
    }
}

/// Whether the server can mend what went wrong by publishing anew.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Closed => true,
        Error::Host(host) => host.is_stale(),
        _ => false,
    }
}

/// A watch, which has nothing to print.
struct WatchBox(Box<dyn Watch>);

impl core::fmt::Debug for WatchBox {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Watch")
    }
}
