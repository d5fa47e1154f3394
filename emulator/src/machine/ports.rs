//! Event channels: who may bind which port, and which ports are joined.
//!
//! Events themselves do not pass through here: a port's events arrive at an `eventfd`, and a
//! process that holds the other end writes to it directly.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::EventfdFlags;
use vchan::DomId;

use super::{ConnectionId, Machine, Refusal};
use crate::wire::Notice;

/// The ports of one domain.
pub(super) struct PortTable {
    ports: BTreeMap<u32, Entry>,
    /// What a running system has not taken for itself.
    first: u32,
}

struct Entry {
    connection: ConnectionId,
    /// Who is, or may be, at the other end.
    remote: DomId,
    /// The other end's port while there is one.
    bound_to: Option<u32>,
    /// Where this port's events arrive.
    pending: Arc<OwnedFd>,
    /// Where the other end's events arrive; kept for an end that is yet to come, so that the
    /// process at this end never needs another descriptor.
    target: Arc<OwnedFd>,
    /// How many unmap-notices are yet to be sent through this port. As on Linux, where they hold a
    /// reference, the port outlives its user until they are.
    holds: usize,
    closing: bool,
}

/// A port, where its events arrive, and where those of its other end do.
pub(crate) type Opened = (u32, Arc<OwnedFd>, Arc<OwnedFd>);

impl Machine {
    /// A new port of `domid` that `peer` may bind. Xen does not ask whether `peer` exists.
    pub(crate) fn bind_unbound(
        &mut self,
        connection: ConnectionId,
        domid: DomId,
        peer: DomId,
    ) -> Result<Opened, Refusal> {
        let port = self.free_port(domid)?;
        let entry = Entry {
            connection,
            remote: peer,
            bound_to: None,
            pending: event_descriptor()?,
            target: event_descriptor()?,
            holds: 0,
            closing: false,
        };
        let opened = (port, Arc::clone(&entry.pending), Arc::clone(&entry.target));
        self.domain_mut(domid)?.ports.ports.insert(port, entry);
        Ok(opened)
    }

    /// A new port of `domid`, joined with a port of `peer` that waits for `domid`.
    pub(crate) fn bind_interdomain(
        &mut self,
        connection: ConnectionId,
        domid: DomId,
        peer: DomId,
        peer_port: u32,
    ) -> Result<Opened, Refusal> {
        let refused =
            |why: &str| Refusal::new(format!("port {peer_port} of domain {peer} {why}")).stale();
        let waiting = self.domain(peer)?.ports.ports.get(&peer_port);
        let waiting = waiting.ok_or_else(|| refused("does not exist"))?;
        if waiting.bound_to.is_some() {
            return Err(refused("is bound already"));
        }
        if waiting.remote != domid {
            return Err(refused(&format!("is not for domain {domid}")));
        }
        let entry = Entry {
            connection,
            remote: peer,
            bound_to: Some(peer_port),
            pending: Arc::clone(&waiting.target),
            target: Arc::clone(&waiting.pending),
            holds: 0,
            closing: false,
        };
        let port = self.free_port(domid)?;
        let opened = (port, Arc::clone(&entry.pending), Arc::clone(&entry.target));
        self.domain_mut(domid)?.ports.ports.insert(port, entry);
        if let Some(waiting) = self.domain_mut(peer)?.ports.ports.get_mut(&peer_port) {
            waiting.bound_to = Some(port);
        }
        // As Xen does: whoever binds finds one event, in case one was sent before there was an end
        // for it to arrive at.
        post(&opened.1);
        Ok(opened)
    }

    /// Closes a port; its other end can be bound anew, and is told nothing.
    pub(crate) fn close_port(&mut self, domid: DomId, port: u32) {
        let Some(entry) = self.port_mut(domid, port) else {
            return;
        };
        if entry.holds > 0 {
            entry.closing = true;
            return;
        }
        let other_end = entry.bound_to.map(|other| (entry.remote, other));
        if let Ok(domain) = self.domain_mut(domid) {
            domain.ports.ports.remove(&port);
        }
        if let Some((remote, other)) = other_end
            && let Some(entry) = self.port_mut(remote, other)
        {
            entry.bound_to = None;
        }
    }

    /// Whether a port has another end.
    pub(crate) fn is_bound(&self, domid: DomId, port: u32) -> Result<bool, Refusal> {
        let entry = self.domain(domid)?.ports.ports.get(&port);
        match entry {
            Some(entry) => Ok(entry.bound_to.is_some()),
            None => Err(no_such_port(domid, port)),
        }
    }

    /// Makes an event arrive at a port, as if its other end had sent it.
    pub(crate) fn send_event(&self, domid: DomId, port: u32) -> Result<(), Refusal> {
        let entry = self.domain(domid)?.ports.ports.get(&port);
        post(&entry.ok_or_else(|| no_such_port(domid, port))?.pending);
        Ok(())
    }

    /// Sends an event through a port to its other end, if there is one.
    pub(super) fn notify_port(&mut self, domid: DomId, port: u32) {
        if let Some(entry) = self.port_mut(domid, port) {
            post(&entry.target);
        }
    }

    /// Keeps the notice's port open until [`release_port`](Machine::release_port).
    pub(super) fn hold_port(
        &mut self,
        domid: DomId,
        notify: Option<Notice>,
    ) -> Result<(), Refusal> {
        let Some(Notice { offset, port }) = notify else {
            return Ok(());
        };
        if usize::from(offset) >= vchan::memory::PAGE_SIZE {
            return Err(Refusal::new(format!(
                "byte {offset} is not in the first page"
            )));
        }
        match self.port_mut(domid, port) {
            Some(entry) if !entry.closing => entry.holds += 1,
            _ => return Err(no_such_port(domid, port)),
        }
        Ok(())
    }

    pub(super) fn release_port(&mut self, domid: DomId, port: u32) {
        let Some(entry) = self.port_mut(domid, port) else {
            return;
        };
        entry.holds = entry.holds.saturating_sub(1);
        if entry.holds == 0 && entry.closing {
            self.close_port(domid, port);
        }
    }

    fn port_mut(&mut self, domid: DomId, port: u32) -> Option<&mut Entry> {
        self.domains.get_mut(&domid)?.ports.ports.get_mut(&port)
    }

    fn free_port(&self, domid: DomId) -> Result<u32, Refusal> {
        let limit = self.limits.ports;
        let table = &self.domain(domid)?.ports;
        if table.ports.len() >= limit {
            return Err(Refusal::new(format!(
                "no space left: domain {domid} may have {limit} event channels at a time"
            ))
            .hint("close other channels; for a guest the limit is max_event_channels in xl.cfg"));
        }
        // The table is finite, so a number is free.
        Ok((table.first..)
            .find(|port| !table.ports.contains_key(port))
            .unwrap_or(u32::MAX))
    }
}

impl PortTable {
    pub(super) fn new(domid: DomId) -> PortTable {
        // Dom0's devices and daemons hold some seventy ports, a small guest's kernel three: these
        // are the numbers that a first channel gets on a running system.
        let first = if domid == DomId::DOM0 { 71 } else { 4 };
        PortTable {
            ports: BTreeMap::new(),
            first,
        }
    }

    /// The ports of one process.
    pub(super) fn ports_of(&self, connection: ConnectionId) -> Vec<u32> {
        let of = |(&port, entry): (&u32, &Entry)| (entry.connection == connection).then_some(port);
        self.ports.iter().filter_map(of).collect()
    }

    /// All ports, for a domain that ends.
    pub(super) fn all(&self) -> Vec<u32> {
        self.ports.keys().copied().collect()
    }

    /// Forgets that notices are yet to be sent.
    pub(super) fn drop_holds(&mut self) {
        for entry in self.ports.values_mut() {
            entry.holds = 0;
        }
    }

    /// What is still open, in words.
    pub(super) fn report(&self, domid: DomId, to: &mut Vec<String>) {
        for (port, entry) in &self.ports {
            let remote = entry.remote;
            to.push(match entry.bound_to {
                Some(other) => format!(
                    "domain {domid}: port {port} is bound to port {other} of domain {remote}"
                ),
                None => format!("domain {domid}: port {port} is open for domain {remote}"),
            });
        }
    }
}

fn no_such_port(domid: DomId, port: u32) -> Refusal {
    Refusal::new(format!("domain {domid} has no port {port}"))
}

fn event_descriptor() -> Result<Arc<OwnedFd>, Refusal> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    match rustix::event::eventfd(0, flags) {
        Ok(descriptor) => Ok(Arc::new(descriptor)),
        Err(error) => Err(Refusal::system(error.into())),
    }
}

fn post(descriptor: &OwnedFd) {
    // It cannot fail but by a counter that is full, and then an event is pending anyway.
    let _ = rustix::io::write(descriptor, &1u64.to_ne_bytes());
}
