//! The emulated hypervisor: domains, their grants and their event channels, behind one lock.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vchan::DomId;

use crate::Limits;

mod grants;
mod ports;

pub(crate) use ports::Opened;

/// Tells connections (processes) apart. Never used twice.
pub(crate) type ConnectionId = u64;

/// Tells a domain from an earlier one with the same number. Never used twice.
pub(crate) type Instance = u64;

/// A domain, and which one of that number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) domid: DomId,
    pub(crate) instance: Instance,
}

/// All domains of one host.
pub(crate) struct Machine {
    domains: BTreeMap<DomId, Domain>,
    mappings: BTreeMap<u64, grants::Mapping>,
    pub(crate) limits: Limits,
    last_id: u64,
}

struct Domain {
    instance: Instance,
    grants: grants::GrantTable,
    ports: ports::PortTable,
    /// The sockets of the domain's processes, to cut them off.
    sockets: BTreeMap<ConnectionId, Arc<OwnedFd>>,
}

/// Why the host does not do what was asked.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) why: String,
    pub(crate) hint: String,
    /// A peer has no such grant or port for the caller (any more).
    pub(crate) stale: bool,
}

impl Machine {
    pub(crate) fn new(limits: Limits) -> Machine {
        Machine {
            domains: BTreeMap::new(),
            mappings: BTreeMap::new(),
            limits,
            last_id: 0,
        }
    }

    pub(crate) fn add_domain(&mut self, domid: DomId) -> Result<Identity, Refusal> {
        if self.domains.contains_key(&domid) {
            return Err(Refusal::new(format!("domain {domid} exists already")));
        }
        let instance = self.fresh_id();
        let domain = Domain {
            instance,
            grants: grants::GrantTable::default(),
            ports: ports::PortTable::new(domid),
            sockets: BTreeMap::new(),
        };
        self.domains.insert(domid, domain);
        Ok(Identity { domid, instance })
    }

    /// Ends a domain as `xl destroy` does: nobody is told anything. Pages that others have mapped
    /// stay where they are, its ports' other ends become unbound. Returns the sockets to shut.
    pub(crate) fn remove_domain(&mut self, domid: DomId) -> Vec<Arc<OwnedFd>> {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return Vec::new();
        };
        domain.ports.drop_holds();
        for port in domain.ports.all() {
            self.close_port(domid, port);
        }
        let of = |(&id, mapping): (&u64, &grants::Mapping)| (mapping.mapper == domid).then_some(id);
        let mapped: Vec<u64> = self.mappings.iter().filter_map(of).collect();
        for mapping in mapped {
            self.forget_mapping(mapping);
        }
        let domain = self.domains.remove(&domid);
        domain.map_or_else(Vec::new, |domain| domain.sockets.into_values().collect())
    }

    /// Notes a process of a domain. `None` when the domain is gone, even if there is another one
    /// with its number.
    pub(crate) fn connect(
        &mut self,
        domain: Identity,
        socket: Arc<OwnedFd>,
    ) -> Option<ConnectionId> {
        let id = self.fresh_id();
        let entry = self.domains.get_mut(&domain.domid);
        let entry = entry.filter(|entry| entry.instance == domain.instance)?;
        entry.sockets.insert(id, socket);
        Some(id)
    }

    /// Cleans up after a process that ended, in whatever way.
    pub(crate) fn disconnect(&mut self, domid: DomId, connection: ConnectionId) {
        // A domain with this number may be another one by now, but ids are not used twice.
        let of = |(&id, mapping): (&u64, &grants::Mapping)| {
            (mapping.connection == connection).then_some(id)
        };
        let mapped: Vec<u64> = self.mappings.iter().filter_map(of).collect();
        for mapping in mapped {
            self.unmap(mapping);
        }
        let Some(domain) = self.domains.get_mut(&domid) else {
            return;
        };
        domain.sockets.remove(&connection);
        let (shares, ports) = (
            domain.grants.shares_of(connection),
            domain.ports.ports_of(connection),
        );
        for share in shares {
            self.end_share(domid, share);
        }
        for port in ports {
            self.close_port(domid, port);
        }
    }

    /// Whether a mapping or a share or a port belongs to a process, so that one process cannot
    /// undo what another has done.
    pub(crate) fn owns_mapping(&self, connection: ConnectionId, id: u64) -> bool {
        self.mappings
            .get(&id)
            .is_some_and(|mapping| mapping.connection == connection)
    }

    pub(crate) fn owns_share(&self, connection: ConnectionId, domid: DomId, id: u64) -> bool {
        let domain = self.domains.get(&domid);
        domain.is_some_and(|domain| domain.grants.shares_of(connection).contains(&id))
    }

    pub(crate) fn owns_port(&self, connection: ConnectionId, domid: DomId, port: u32) -> bool {
        let domain = self.domains.get(&domid);
        domain.is_some_and(|domain| domain.ports.ports_of(connection).contains(&port))
    }

    /// What is granted, mapped or bound, in words.
    pub(crate) fn report(&self) -> Vec<String> {
        let mut report = Vec::new();
        for (&domid, domain) in &self.domains {
            domain.grants.report(domid, &mut report);
            domain.ports.report(domid, &mut report);
        }
        report.extend(self.mappings.values().map(grants::Mapping::report));
        report
    }

    pub(crate) fn domids(&self) -> Vec<DomId> {
        self.domains.keys().copied().collect()
    }

    fn domain(&self, domid: DomId) -> Result<&Domain, Refusal> {
        self.domains
            .get(&domid)
            .ok_or_else(|| no_such_domain(domid))
    }

    fn domain_mut(&mut self, domid: DomId) -> Result<&mut Domain, Refusal> {
        self.domains
            .get_mut(&domid)
            .ok_or_else(|| no_such_domain(domid))
    }

    fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl Refusal {
    pub(crate) fn new(why: impl Into<String>) -> Refusal {
        Refusal {
            why: why.into(),
            hint: String::new(),
            stale: false,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = hint.into();
        self
    }

    pub(crate) fn stale(mut self) -> Refusal {
        self.stale = true;
        self
    }

    /// The machine below the emulated one fails.
    pub(crate) fn system(error: std::io::Error) -> Refusal {
        Refusal::new(format!(
            "the emulated host has a problem of its own: {error}"
        ))
    }
}

fn no_such_domain(domid: DomId) -> Refusal {
    Refusal::new(format!("there is no domain {domid}")).stale()
}
