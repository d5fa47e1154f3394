//! A peer that is not of this library: it has the pages in its own hands, keeps to the protocol
//! where it is told to, and can write anything anywhere.

use std::sync::atomic::{Ordering, fence};

use vchan::host::{EventChannel, GrantRef, NodeAccess, Permissions, Port, UnmapNotify};
use vchan::layout::{ControlPage, Geometry, Live, NOTIFY_WRITE, Place, Ring, Side};
use vchan::memory::{Access, PAGE_SIZE, Region};
use vchan::{DomId, Error, Host, StorePath};

pub struct RawPeer {
    pub side: Side,
    pub geometry: Geometry,
    /// The control page. Dropped before the port, which its notice uses.
    pub control: Region,
    left: Option<Region>,
    right: Option<Region>,
    pub port: Box<dyn EventChannel>,
    /// Its own indices: those of the ring that it writes, and of the one that it reads.
    pub prod: u32,
    pub cons: u32,
    /// What is published, and above it nothing but that.
    published: Option<(Host, StorePath)>,
}

impl RawPeer {
    /// Shares pages, with all indices at `start`, and publishes them as a server does.
    pub fn serve(
        host: &Host,
        peer: DomId,
        geometry: Geometry,
        start: u32,
    ) -> Result<RawPeer, Error> {
        let port = host.events().bind_unbound(peer)?;
        let notify = UnmapNotify {
            offset: Side::Server.live_offset(),
            port: port.port(),
        };
        let share = |pages, access, notify| host.grants().share(peer, pages, access, notify);
        let control = share(1, Access::ReadWrite, Some(notify))?;
        let ring = |ring, access| match geometry.place(ring) {
            Place::ControlPage(_) => Ok::<_, Error>((None, Vec::new())),
            Place::Pages(count) => {
                let shared = share(count, access, None)?;
                Ok((Some(shared.region), shared.references))
            }
        };
        let (left, left_grants) = ring(Ring::Left, Access::ReadWrite)?;
        let (right, right_grants) = ring(Ring::Right, Access::ReadOnly)?;
        let page = ControlPage {
            geometry,
            left_grants,
            right_grants,
        };
        control.region.copy_in(0, &page.build());
        for ring in [Ring::Left, Ring::Right] {
            for offset in [ring.prod(), ring.cons()] {
                control.region.store_index(offset, start, Ordering::Relaxed);
            }
        }
        let keys = ["ring-ref", "event-channel"];
        let keys: [StorePath; 2] = keys.map(|key| format!("data/vchan/{key}").parse().unwrap());
        let numbers = [control.references[0].0, port.port().0];
        let permissions = Permissions {
            owner: host.domid()?,
            default: NodeAccess::None,
            domains: vec![(peer, NodeAccess::Read)],
        };
        for (key, number) in keys.iter().zip(numbers) {
            host.store().write(key, number.to_string().as_bytes())?;
            host.store().set_permissions(key, &permissions)?;
        }
        Ok(RawPeer {
            side: Side::Server,
            geometry,
            control: control.region,
            left,
            right,
            port,
            prod: start,
            cons: start,
            published: Some((host.clone(), "data/vchan".parse()?)),
        })
    }

    /// Whether the peer has connected. The keys go when it has.
    pub fn connected(&mut self) -> bool {
        let live = self.side.peer().live();
        let connected = self.control.load_byte(live, Ordering::Acquire) == Live::Connected.byte();
        if connected {
            self.withdraw();
        }
        connected
    }

    pub fn withdraw(&mut self) {
        if let Some((host, path)) = self.published.take() {
            // The host may be gone.
            let _ = host.store().remove(&path);
        }
    }

    /// Connects to a server that has published; an error when there is none that waits.
    pub fn connect(host: &Host, server: DomId) -> Result<RawPeer, Error> {
        let key = |name| -> Result<u32, Error> {
            let path: StorePath = format!("/local/domain/{server}/data/vchan/{name}").parse()?;
            let value = host.store().read(&path)?;
            Ok(String::from_utf8_lossy(&value).parse().unwrap_or(0))
        };
        let ring_ref = GrantRef(key("ring-ref")?);
        let port = host
            .events()
            .bind_interdomain(server, Port(key("event-channel")?))?;
        let notify = UnmapNotify {
            offset: Side::Client.live_offset(),
            port: port.port(),
        };
        let map = |references: &[GrantRef], access, notify| {
            host.grants().map(server, references, access, notify)
        };
        let control = map(&[ring_ref], Access::ReadWrite, Some(notify))?;
        let mut copy = [0; PAGE_SIZE];
        control.copy_out(0, &mut copy);
        let page = ControlPage::parse(&copy)?;
        let ring = |grants: &[GrantRef], access| {
            let some = (!grants.is_empty()).then(|| map(grants, access, None));
            some.transpose()
        };
        let left = ring(&page.left_grants, Access::ReadWrite)?;
        let right = ring(&page.right_grants, Access::ReadOnly)?;
        let load = |offset| control.load_index(offset, Ordering::Relaxed);
        let (prod, cons) = (load(Ring::Left.prod()), load(Ring::Right.cons()));
        control.store_byte(20, Live::Connected.byte(), Ordering::Release);
        control.set_bits(Side::Server.asked_of_us(), NOTIFY_WRITE, Ordering::Release);
        port.notify()?;
        Ok(RawPeer {
            side: Side::Client,
            geometry: page.geometry,
            control,
            left,
            right,
            port,
            prod,
            cons,
            published: None,
        })
    }

    /// The bytes of a ring: where they are, from where on, and how many.
    pub fn bytes(&self, ring: Ring) -> (&Region, usize, u32) {
        let size = self.geometry.order(ring).bytes();
        let own = match ring {
            Ring::Left => &self.left,
            Ring::Right => &self.right,
        };
        match (self.geometry.place(ring), own) {
            (Place::ControlPage(start), _) => (&self.control, start, size),
            (Place::Pages(_), Some(region)) => (region, 0, size),
            (Place::Pages(_), None) => unreachable!("the ring's pages are there"),
        }
    }

    pub fn load(&self, offset: usize) -> u32 {
        self.control.load_index(offset, Ordering::Acquire)
    }

    pub fn store(&self, offset: usize, value: u32) {
        self.control.store_index(offset, value, Ordering::Release);
    }

    /// Writes what fits and sends an event, asked for or not. Gives the count.
    pub fn produce(&mut self, from: &[u8]) -> usize {
        let ring = Ring::written_by(self.side);
        let (region, start, size) = self.bytes(ring);
        let free = size - self.prod.wrapping_sub(self.load(ring.cons())).min(size);
        let count = from.len().min(free as usize);
        for (nth, byte) in from[..count].iter().enumerate() {
            let at = self.prod.wrapping_add(u32::try_from(nth).unwrap()) % size;
            region.store_byte(start + at as usize, *byte, Ordering::Relaxed);
        }
        self.prod = self.prod.wrapping_add(u32::try_from(count).unwrap());
        self.publish(ring.prod(), self.prod, count);
        count
    }

    /// Reads what is there and sends an event, asked for or not. Gives the count.
    pub fn consume(&mut self, to: &mut [u8]) -> usize {
        let ring = Ring::read_by(self.side);
        let (region, start, size) = self.bytes(ring);
        let ready = self.load(ring.prod()).wrapping_sub(self.cons).min(size);
        let count = to.len().min(ready as usize);
        for (nth, byte) in to[..count].iter_mut().enumerate() {
            let at = self.cons.wrapping_add(u32::try_from(nth).unwrap()) % size;
            *byte = region.load_byte(start + at as usize, Ordering::Relaxed);
        }
        self.cons = self.cons.wrapping_add(u32::try_from(count).unwrap());
        self.publish(ring.cons(), self.cons, count);
        count
    }

    fn publish(&self, offset: usize, value: u32, count: usize) {
        if count > 0 {
            self.store(offset, value);
            fence(Ordering::SeqCst);
            let _ = self.port.notify();
        }
    }

    /// Whether the peer has read all that was produced.
    pub fn all_was_read(&self) -> bool {
        self.load(Ring::written_by(self.side).cons()) == self.prod
    }
}

impl Drop for RawPeer {
    /// Closes as an honest peer does; a peer that must not is forgotten instead.
    fn drop(&mut self) {
        self.withdraw();
        self.control
            .store_byte(self.side.live(), Live::Gone.byte(), Ordering::Release);
        let _ = self.port.notify();
    }
}
