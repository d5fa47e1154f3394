//! The server's side of the handshake: allocate, publish, accept.

use alloc::format;
use alloc::sync::Arc;
use core::time::Duration;

use crate::channel::{Channel, Origin};
use crate::endpoint::{Link, Reader, State, Writer};
use crate::guard::keeps;
use crate::host::{Host, Time, UnmapNotify};
use crate::keys::{Keys, Location, Published};
use crate::layout::{ControlPage, GRANTS, Geometry, Order, Place, Ring, Side};
use crate::memory::{Access, PAGE_SIZE, Region};
use crate::patience::{Blocking, Patience, at_once};
use crate::publication::Publication;
use crate::ring::{Bytes, Consumer, Producer};
use crate::{DomId, Error, PortName, Spin, StorePath};

/// How long it sleeps at most while the store has not answered what it asked for that.
const RENEWAL_PAUSE: Duration = Duration::from_millis(100);

/// How a server is to be set up. Made by [`Server::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is published before `bind`"]
pub struct ServerBuilder {
    host: Host,
    peer: DomId,
    location: Location,
    read_min: usize,
    write_min: usize,
    spin: Spin,
}

impl ServerBuilder {
    /// The XenStore path under which to publish; by default `data/vchan` below the own domain's
    /// path.
    pub fn path(mut self, path: StorePath) -> ServerBuilder {
        self.location = Location::Path(path);
        self
    }

    /// Publishes as one of several vchans for the same client, under
    /// `data/vchan/<client domid>/<port>` below the own domain's path, as Xen's header recommends.
    pub fn port(mut self, port: PortName) -> ServerBuilder {
        self.location = Location::Port(port);
        self
    }

    /// The least size in bytes of the ring that this server reads, 0 to 1 MiB; 64 KiB by default.
    pub fn read_size(mut self, least: usize) -> ServerBuilder {
        self.read_min = least;
        self
    }

    /// The least size in bytes of the ring that this server writes, 0 to 1 MiB; 64 KiB by default.
    pub fn write_size(mut self, least: usize) -> ServerBuilder {
        self.write_min = least;
        self
    }

    /// What calls that have to wait do before they sleep; [`Spin::Adaptive`] by default.
    pub fn spin(mut self, spin: Spin) -> ServerBuilder {
        self.spin = spin;
        self
    }

    /// Shares the pages and publishes them.
    ///
    /// # Errors
    /// [`Error::RingTooLarge`], [`Error::Path`], [`Error::OwnDomain`], [`Error::Host`],
    /// [`Error::Store`].
    pub fn bind(self) -> Result<Server, Error> {
        at_once(self.bind_with(&Blocking::default()))
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) async fn bind_with(self, patience: &impl Patience) -> Result<Server, Error> {
        let geometry = Geometry::for_server(self.read_min, self.write_min).map_err(|size| {
            Error::RingTooLarge {
                size,
                max: Order::MAX.bytes() as usize,
            }
        })?;
        let keys = Keys::under(self.location.path(Some(self.peer))?)?;
        self.host.refuse_own_domain(self.peer, patience).await?;
        let mut server = Server {
            host: self.host,
            peer: self.peer,
            keys,
            geometry,
            spin: self.spin,
            offered: None,
        };
        server.offer(patience).await?;
        Ok(server)
    }
}

/// Publishes a vchan for one client domain and accepts its clients, one after the other.
///
/// Each client gets fresh pages, a fresh grant reference and a fresh event channel: the keys are
/// removed once it is connected, and published anew by the next [`accept`](Server::accept).
#[derive(Debug)]
pub struct Server {
    host: Host,
    peer: DomId,
    keys: Keys,
    geometry: Geometry,
    spin: Spin,
    offered: Option<Offer>,
}

/// A channel that waits for its client, and the keys by which the client finds it.
#[derive(Debug)]
struct Offer {
    publication: Publication,
    channel: Channel,
    /// When to see to the keys again.
    renew_at: Time,
    /// Whether that time is this server's turn among all those of the host.
    is_turn: bool,
}

impl Server {
    /// A server for clients in the domain `peer`.
    pub fn builder(host: &Host, peer: DomId) -> ServerBuilder {
        let size = 64 * 1024;
        ServerBuilder {
            host: host.clone(),
            peer,
            location: Location::Default,
            read_min: size,
            write_min: size,
            spin: Spin::default(),
        }
    }

    /// Where the keys are published.
    #[must_use]
    pub fn path(&self) -> &StorePath {
        self.keys.base()
    }

    /// The channel that the next client will have, publishing it if it is not yet. What is written
    /// to it waits in the ring.
    ///
    /// # Errors
    /// As [`ServerBuilder::bind`].
    pub fn pending(&mut self) -> Result<&mut Channel, Error> {
        at_once(self.pending_with(&Blocking::default()))
    }

    /// Waits for a client. Its keys are removed then.
    ///
    /// A client that came and went in the meantime is returned as well: what it wrote can be read.
    ///
    /// The keys are looked after meanwhile: when xenstored was restarted and they are gone, they
    /// are published again within some seconds (see [`Host::set_renewal_interval`]). While the store
    /// is away or does not answer, waiting goes on.
    ///
    /// # Errors
    /// As [`ServerBuilder::bind`] (a call after that tries again), and [`Error::PeerFault`], after
    /// which the next call offers a fresh channel.
    pub fn accept(&mut self) -> Result<Channel, Error> {
        self.accept_until(None)
    }

    /// As [`accept`](Server::accept), but waits at most for `timeout`.
    ///
    /// # Errors
    /// As there, and [`Error::TimedOut`]; the channel stays on offer then.
    pub fn accept_timeout(&mut self, timeout: Duration) -> Result<Channel, Error> {
        self.accept_until(Some(self.host.events().now().after(timeout)))
    }

    /// The client's channel if it has come, without waiting; [`Error::WouldBlock`] if not. The
    /// descriptor of [`pending`](Server::pending) becomes readable when it comes.
    ///
    /// # Errors
    /// As [`accept`](Server::accept).
    pub fn try_accept(&mut self) -> Result<Channel, Error> {
        let deadline = Some(self.host.events().now());
        let patience = Blocking { deadline };
        if let Some(channel) = at_once(self.accepted(&patience))? {
            return Ok(channel);
        }
        let offer = at_once(self.offer(&patience))?;
        offer.channel.link().wakeups().take()?;
        at_once(self.accepted(&patience))?.ok_or(Error::WouldBlock)
    }

    fn accept_until(&mut self, deadline: Option<Time>) -> Result<Channel, Error> {
        loop {
            let patience = Blocking { deadline };
            let offer = at_once(self.offer(&patience))?;
            let link = Arc::clone(offer.channel.link());
            let seen = link.wakeups().generation();
            if let Some(channel) = at_once(self.accepted(&patience))? {
                return Ok(channel);
            }
            let pause = self.pause(self.host.events().now());
            let until = Some(deadline.map_or(pause, |deadline| deadline.min(pause)));
            if !link.sleep(seen, until)? && until == deadline {
                let (peer, path) = (self.peer, self.keys.base());
                let waiting_for = format!("waiting for a client of domain {peer} at {path}");
                let waiting_for = waiting_for.into();
                return Err(Error::TimedOut { waiting_for });
            }
        }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The channel on offer, made and published now if there is none.
    pub(crate) async fn pending_with(
        &mut self,
        patience: &impl Patience,
    ) -> Result<&mut Channel, Error> {
        Ok(&mut self.offer(patience).await?.channel)
    }

    /// The channel on offer, if there is one.
    pub(crate) fn on_offer(&self) -> Option<&Channel> {
        self.offered.as_ref().map(|offer| &offer.channel)
    }

    /// Takes the offer back, if there is one.
    pub(crate) async fn withdraw(&mut self, patience: &impl Patience) -> Result<(), Error> {
        match &mut self.offered {
            Some(offer) => offer.publication.withdraw(patience).await,
            None => Ok(()),
        }
    }

    /// Until when to sleep at most: to see what the store has answered, or to ask it anew.
    pub(crate) fn pause(&self, now: Time) -> Time {
        match &self.offered {
            Some(offer) if offer.publication.is_renewing() => now.after(RENEWAL_PAUSE),
            Some(offer) => offer.renew_at,
            None => now,
        }
    }

    /// Looks once whether the client has come, and sees to the keys.
    ///
    /// A caller that gives up in the middle loses nothing: the channel stays on offer.
    pub(crate) async fn accepted(
        &mut self,
        patience: &impl Patience,
    ) -> Result<Option<Channel>, Error> {
        let offer = self.offer(patience).await?;
        // On a fault, too, this offer is over: the next one has fresh pages.
        if !keeps("fault-ends-offer") {
            offer.channel.state()?;
        }
        if !matches!(offer.channel.state(), Ok(State::Waiting)) {
            let Some(channel) = self.end_offer(patience).await else {
                return Ok(None);
            };
            channel.state()?;
            return Ok(Some(channel));
        }
        self.renew(patience).await?;
        Ok(None)
    }

    /// The offer is over: takes its keys back, and gives its channel.
    ///
    /// Nobody waits for a store that does not answer. Whoever follows keys that stay finds that they
    /// lead to nothing, and the next offer takes their place.
    async fn end_offer(&mut self, patience: &impl Patience) -> Option<Channel> {
        // It stays until its keys are gone: the caller may give up in the middle.
        let offer = self.offered.as_mut()?;
        let patience = patience.brief(self.host.events().now());
        if let Err(error) = offer.publication.withdraw(&patience).await {
            tracing::warn!(%error, "the keys could not be removed");
            offer.publication.abandon();
        }
        self.offered.take().map(|offer| offer.channel)
    }

    /// Sees to the keys of the offer, without waiting for the store. Where the offer cannot stand any
    /// longer, ends it and says why.
    async fn renew(&mut self, patience: &impl Patience) -> Result<(), Error> {
        let now = self.host.events().now();
        let Some(offer) = &mut self.offered else {
            return Ok(());
        };
        if offer.renew_at <= now && !offer.publication.is_renewing() && !offer.is_turn {
            offer.renew_at = self.host.renewal_turn(now);
            offer.is_turn = true;
        }
        if offer.renew_at <= now && !offer.publication.is_renewing() {
            offer.renew_at = now.after(self.host.renewal_interval(self.peer));
            offer.is_turn = false;
            // A domain that was restored or migrated has lost its ports: then this offer must not be
            // published again.
            if keeps("offer-stands")
                && let Err(error) = offer.channel.link().wakeups().port().is_bound()
            {
                if keeps("end-offer-in-a-task") {
                    self.end_offer(patience).await;
                }
                self.offered = None;
                return Err(error.into());
            }
            offer.publication.renew();
        }
        match offer.publication.renewed() {
            // A client that knows the keys needs no store to come: so it is waited for.
            Err(error) if error.is_outage() => {
                tracing::warn!(%error, "the keys cannot be seen to now");
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// The offer that stands, made and published now if there is none.
    async fn offer(&mut self, patience: &impl Patience) -> Result<&mut Offer, Error> {
        if self.offered.is_none() {
            self.keys.clear(&self.host, patience).await?;
            let owner = self.host.own_domid(patience).await?;
            self.offered = Some(self.make_offer(owner)?);
        }
        // A caller that gave up may have left it half published.
        let published = match &mut self.offered {
            Some(offer) if offer.publication.is_pending() => {
                offer.publication.publish(patience).await
            }
            _ => Ok(()),
        };
        if let Err(error) = published {
            if let Some(mut offer) = self.offered.take() {
                match &error {
                    Error::Store(store) if store.is_outage() => offer.publication.abandon(),
                    _ => offer.publication.withdraw(patience).await?,
                }
            }
            return Err(error);
        }
        match &mut self.offered {
            Some(offer) => Ok(offer),
            None => unreachable!("it was made above"),
        }
    }

    /// A channel with fresh pages and a fresh port, and the keys to it, which are not published yet.
    fn make_offer(&self, owner: DomId) -> Result<Offer, Error> {
        let (host, peer, geometry) = (&self.host, self.peer, self.geometry);
        let port = host.events().bind_unbound(peer)?;
        let event_channel = port.port();
        // Whatever fails from here on, the page is dropped before the port that its notice needs.
        let notify = UnmapNotify {
            offset: Side::Server.live_offset(),
            port: event_channel,
        };
        let control = host
            .grants()
            .share(peer, 1, Access::ReadWrite, Some(notify))?;
        let ring_ref = match control.references.as_slice() {
            [reference] => *reference,
            other => unreachable!("one page has {} grant references", other.len()),
        };
        let page = Arc::new(control.region);

        let share = |ring| match geometry.place(ring) {
            Place::ControlPage(start) => {
                Ok::<_, Error>((alloc::vec![], ring_bytes(geometry, ring, &page, start)))
            }
            Place::Pages(count) => {
                // Writable for the client although it has no business writing to the right ring:
                // libxenvchan grants it so, and ocaml-vchan's client maps it so. Whoever spoils it
                // spoils what only it reads.
                let shared = host.grants().share(peer, count, Access::ReadWrite, None)?;
                let bytes = ring_bytes(geometry, ring, &Arc::new(shared.region), 0);
                Ok((shared.references, bytes))
            }
        };
        let (left_grants, left) = share(Ring::Left)?;
        let (right_grants, right) = share(Ring::Right)?;

        let shared_page = ControlPage {
            geometry,
            left_grants,
            right_grants,
        }
        .build();
        page.copy_in(0, &shared_page);
        let header = *shared_page.first_chunk().unwrap_or(&[0; GRANTS]);
        let consumer = Consumer::new(Arc::clone(&page), Side::Server, left)?;
        let producer = Producer::new(Arc::clone(&page), Side::Server, right)?;
        let published = Published {
            ring_ref,
            event_channel,
        };
        let origin = Origin {
            ring_ref,
            event_channel,
            port: event_channel,
            geometry,
            header,
        };
        let link = Arc::new(Link::new(host.clone(), peer, Side::Server, &page, port));
        let (reader, writer) = (
            Reader::new(consumer, Arc::clone(&link)),
            Writer::new(producer, link),
        );
        let mut channel = Channel::new(reader, writer, origin);
        channel.set_spin(self.spin);
        let publication = Publication::new(host, self.keys.clone(), owner, peer, published);
        let renew_at = (host.events().now()).after(host.renewal_interval(peer));
        Ok(Offer {
            publication,
            channel,
            renew_at,
            is_turn: false,
        })
    }
}

/// A ring's bytes, from `start` on in `region`.
pub(crate) fn ring_bytes(
    geometry: Geometry,
    ring: Ring,
    region: &Arc<Region>,
    start: usize,
) -> Bytes {
    let bytes = Bytes {
        region: Arc::clone(region),
        start,
        size: geometry.order(ring).bytes(),
    };
    debug_assert!(start + bytes.size as usize <= region.len().max(PAGE_SIZE));
    bytes
}
