//! The emulated `xenstored`: a small tree of names and values for all domains of the host.
//!
//! It behaves as the C `xenstored` of Xen 4.17 does, as far as clients can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vchan::DomId;
use vchan::host::{NodeAccess, Permissions};
use vchan::xenstore::codec::{self, Kind, Message};

use crate::Limits;
use crate::machine::Identity;

mod nodes;
mod outbox;
mod path;
mod permissions;
mod requests;
mod transaction;
mod tree;
mod watches;

pub(crate) use outbox::Outbox;

use permissions::{Domains, NodePermissions};
use transaction::Transaction;
use tree::{Node, Tree, View};
use watches::{Change, Watch};

/// Tells clients apart. Never used twice.
pub(crate) type ClientId = u64;

/// The daemon's state.
pub(crate) struct Store {
    tree: Tree,
    domains: Domains,
    clients: BTreeMap<ClientId, Client>,
    /// Who hears of a new domain, and of one that is gone.
    introduce: NodePermissions,
    release: NodePermissions,
    limits: Limits,
    /// Nodes that are there from the beginning.
    initial: BTreeSet<String>,
    last_id: u64,
}

/// One connection.
struct Client {
    subject: Identity,
    outbox: Arc<Outbox>,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    last_transaction: u32,
}

/// Why a request is not done: the error numbers that `xenstored` sends, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// EACCES
    Denied,
    /// EAGAIN
    Again,
    /// EBUSY
    Busy,
    /// EEXIST
    Exists,
    /// EINVAL
    Invalid,
    /// ENOENT
    NotFound,
    /// ENOSPC
    NoSpace,
    /// ENOSYS
    Unknown,
    /// EPERM
    NotOwner,
    /// E2BIG
    TooBig,
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Store {
        let mut store = Store {
            tree: Tree::default(),
            domains: Domains::new(),
            clients: BTreeMap::new(),
            introduce: NodePermissions::private(),
            release: NodePermissions::private(),
            limits,
            initial: BTreeSet::new(),
            last_id: 0,
        };
        // The root's parent is none; the others find theirs.
        store
            .tree
            .set("/", Some(Node::new(b"", NodePermissions::private())));
        store.initial.insert("/".to_owned());
        for path in ["/tool", "/tool/xenstored", "/local", "/local/domain"] {
            store.found(path, b"", NodePermissions::private());
        }
        store
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Makes a domain known, with the nodes that `xl` gives it.
    pub(crate) fn introduce(&mut self, domain: Identity) {
        let Identity { domid, instance } = domain;
        self.domains.insert(domid, instance);
        let permissions = |owner, domains| {
            let default = NodeAccess::None;
            let permissions = Permissions {
                owner,
                default,
                domains,
            };
            NodePermissions::new(&permissions, &self.domains)
        };
        // The domain reads what dom0 tells it (dom0 reads all), and owns the place for its own.
        let told = match domid {
            DomId::DOM0 => NodePermissions::private(),
            _ => permissions(DomId::DOM0, vec![(domid, NodeAccess::Read)]),
        };
        let own = permissions(domid, Vec::new());
        let home = home(domid);
        let name = match domid {
            DomId::DOM0 => "Domain-0".to_owned(),
            _ => format!("domain-{domid}"),
        };
        self.found(&home, b"", told.clone());
        self.found(&format!("{home}/name"), name.as_bytes(), told.clone());
        self.found(&format!("{home}/domid"), domid.to_string().as_bytes(), told);
        self.found(&format!("{home}/data"), b"", own);
        self.announce("@introduceDomain");
    }

    /// Forgets a domain, its connections, and the nodes that are its own. Watchers hear first of
    /// its nodes, then that a domain is gone, then of what `xl` removes.
    pub(crate) fn release(&mut self, domid: DomId) {
        self.domains.remove(&domid);
        self.clients
            .retain(|_, client| client.subject.domid != domid);
        let home = home(domid);
        self.initial.retain(|path| !is_in(path, &home));
        let owned: Vec<String> = (self.tree.iter())
            .filter(|(_, node)| node.permissions.owner() == domid && domid != DomId::DOM0)
            .map(|(path, _)| path.clone())
            .collect();
        for path in owned {
            self.remove(&path);
        }
        self.announce("@releaseDomain");
        self.remove(&home);
    }

    /// A client of a domain. `None` when the domain is gone, even if there is another one with its
    /// number.
    pub(crate) fn connect(&mut self, domain: Identity, outbox: Arc<Outbox>) -> Option<ClientId> {
        if self.domains.get(&domain.domid) != Some(&domain.instance) {
            return None;
        }
        self.last_id += 1;
        let client = Client {
            subject: domain,
            outbox,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            last_transaction: 0,
        };
        self.clients.insert(self.last_id, client);
        Some(self.last_id)
    }

    /// Forgets a client, its watches and its transactions.
    pub(crate) fn disconnect(&mut self, id: ClientId) {
        self.clients.remove(&id);
    }

    /// Does what a client asks, and answers.
    pub(crate) fn handle(&mut self, id: ClientId, request: &Message) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let outbox = Arc::clone(&client.outbox);
        let (reply, changes) = match self.answer(id, request) {
            Ok(done) => (request.reply(done.reply), done.changes),
            Err(fault) => (request.error_reply(fault.name()), Vec::new()),
        };
        // Who watches what it changes itself hears of it first, and only then that it is done.
        self.fire(&changes);
        match reply.encode() {
            Ok(bytes) => outbox.push(&bytes),
            Err(error) => tracing::error!("cannot answer a XenStore request: {error}"),
        }
        if request.kind == Kind::WATCH && reply.kind == Kind::WATCH {
            self.fire_new_watch(id);
        }
    }

    /// What is watched, in transaction or published, in words.
    pub(crate) fn report(&self) -> Vec<String> {
        let mut report = Vec::new();
        for client in self.clients.values() {
            let domid = client.subject.domid;
            for watch in &client.watches {
                report.push(format!("domain {domid}: {} is watched", watch.path));
            }
            for number in client.transactions.keys() {
                report.push(format!("domain {domid}: transaction {number} is open"));
            }
        }
        let new = |path: &&String| !self.initial.contains(path.as_str());
        for path in self.tree.iter().map(|(path, _)| path).filter(new) {
            report.push(format!("XenStore: {path} is published"));
        }
        report
    }

    /// Makes a node that is there from the beginning.
    fn found(&mut self, path: &str, value: &[u8], permissions: NodePermissions) {
        let mut view = View::new(&mut self.tree, None);
        if view.put(path, Node::new(value, permissions)).is_ok() {
            let change = nodes::changed(&mut view, path, None);
            self.initial.insert(path.to_owned());
            self.fire(&[change]);
        }
    }

    /// Removes a node and all below it, if it is (still) there.
    fn remove(&mut self, path: &str) {
        let mut view = View::new(&mut self.tree, None);
        let changes = nodes::remove_all(&mut view, path).unwrap_or_default();
        self.fire(&changes);
    }

    /// Fires the watches that changes concern.
    fn fire(&self, changes: &[Change]) {
        for change in changes {
            for client in self
                .clients
                .values()
                .filter(|it| change.concerns(it.subject))
            {
                for watch in &client.watches {
                    if let Some(token) = watch.fired_by(change) {
                        client.tell(watch.told(&change.path), token);
                    }
                }
            }
        }
    }

    /// Every watch fires once when it is set, so that its client looks at what is there already.
    fn fire_new_watch(&self, id: ClientId) {
        if let Some(client) = self.clients.get(&id)
            && let Some(watch) = client.watches.last()
        {
            client.tell(watch.told(&watch.path), &watch.token);
        }
    }

    /// Fires a special event.
    fn announce(&self, event: &str) {
        let permissions = match event {
            "@introduceDomain" => &self.introduce,
            _ => &self.release,
        };
        self.fire(&[Change {
            path: event.to_owned(),
            exact: true,
            readable_by: vec![permissions.clone()],
        }]);
    }
}

impl Client {
    fn tell(&self, path: &str, token: &str) {
        let event = Message {
            kind: Kind::WATCH_EVENT,
            request_id: 0,
            transaction_id: 0,
            payload: codec::join_strings([path, token]),
        };
        match event.encode() {
            Ok(bytes) => self.outbox.push(&bytes),
            Err(error) => tracing::error!("cannot tell of a change: {error}"),
        }
    }
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::Denied => "EACCES",
            Fault::Again => "EAGAIN",
            Fault::Busy => "EBUSY",
            Fault::Exists => "EEXIST",
            Fault::Invalid => "EINVAL",
            Fault::NotFound => "ENOENT",
            Fault::NoSpace => "ENOSPC",
            Fault::Unknown => "ENOSYS",
            Fault::NotOwner => "EPERM",
            Fault::TooBig => "E2BIG",
        }
    }
}

/// A domain's own directory.
fn home(domid: DomId) -> String {
    format!("/local/domain/{domid}")
}

fn is_in(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
