//! What clients ask for, one function a request.

use vchan::DomId;
use vchan::xenstore::codec::{self, Kind, Message};

use super::nodes::Session;
use super::path;
use super::permissions::NodePermissions;
use super::transaction::Transaction;
use super::tree::View;
use super::watches::{Change, Watch};
use super::{Client, ClientId, Fault, Store, home};
use crate::machine::Identity;

/// What a request that was done leaves: the reply's payload, and whom to tell.
pub(super) struct Done {
    pub(super) reply: Vec<u8>,
    pub(super) changes: Vec<Change>,
}

impl Store {
    pub(super) fn answer(&mut self, id: ClientId, request: &Message) -> Result<Done, Fault> {
        let kind = request.kind;
        let payload = &request.payload[..];
        let client = self.clients.get_mut(&id).ok_or(Fault::Invalid)?;
        let subject = client.subject;
        let for_dom0 = [
            Kind::CONTROL,
            Kind::INTRODUCE,
            Kind::RELEASE,
            Kind::IS_DOMAIN_INTRODUCED,
            Kind::RESUME,
            Kind::SET_TARGET,
        ];
        if for_dom0.contains(&kind) && !subject.is_privileged() {
            return Err(Fault::Denied);
        }
        match kind {
            Kind::WATCH => self.watch(id, payload),
            Kind::UNWATCH => client.unwatch(payload),
            Kind::RESET_WATCHES => {
                client.watches.clear();
                client.transactions.clear();
                done()
            }
            Kind::INTRODUCE | Kind::RELEASE | Kind::RESUME => {
                // Here domains come and go by other ways; that one of them exists is all right.
                let known = self.domains.contains_key(&domid_in(payload)?);
                if known { done() } else { Err(Fault::NotFound) }
            }
            Kind::IS_DOMAIN_INTRODUCED => {
                let known = self.domains.contains_key(&domid_in(payload)?);
                reply(codec::join_strings([if known { "T" } else { "F" }]))
            }
            Kind::GET_DOMAIN_PATH => reply(codec::join_strings([home(domid_in(payload)?)])),
            Kind::TRANSACTION_START => self.start_transaction(id, request.transaction_id),
            Kind::TRANSACTION_END => self.end_transaction(id, request.transaction_id, payload),
            Kind::DIRECTORY
            | Kind::DIRECTORY_PART
            | Kind::READ
            | Kind::GET_PERMS
            | Kind::WRITE
            | Kind::MKDIR
            | Kind::RM
            | Kind::SET_PERMS => self.on_nodes(id, request),
            _ => Err(Fault::Unknown),
        }
    }

    /// The requests that look at or change nodes, in a transaction or not.
    fn on_nodes(&mut self, id: ClientId, request: &Message) -> Result<Done, Fault> {
        let client = self.clients.get_mut(&id).ok_or(Fault::Invalid)?;
        let subject = client.subject;
        let payload = &request.payload[..];
        if request.kind == Kind::SET_PERMS && payload.starts_with(b"@") {
            return self.set_special(subject, payload);
        }
        let mut transaction = match request.transaction_id {
            0 => None,
            number => Some(
                client
                    .transactions
                    .get_mut(&number)
                    .ok_or(Fault::NotFound)?,
            ),
        };
        let mut session = Session {
            subject,
            view: View::new(&mut self.tree, transaction.as_deref_mut()),
            limits: self.limits,
            domains: &self.domains,
        };
        let mut done = match request.kind {
            Kind::DIRECTORY => session.directory(payload),
            Kind::DIRECTORY_PART => session.directory_part(payload),
            Kind::READ => session.read(payload),
            Kind::GET_PERMS => session.permissions(payload),
            Kind::WRITE => session.write(payload),
            Kind::MKDIR => session.make_directory(payload),
            Kind::RM => session.remove(payload),
            _ => session.set_permissions(payload),
        }?;
        if let Some(transaction) = transaction {
            for change in done.changes.drain(..) {
                transaction.queue(change);
            }
        }
        Ok(done)
    }

    fn watch(&mut self, id: ClientId, payload: &[u8]) -> Result<Done, Fault> {
        let client = self.clients.get(&id).ok_or(Fault::Invalid)?;
        let domid = client.subject.domid;
        let watch = watch_in(payload, domid)?;
        if client.watches.iter().any(|other| watch.is_same(other)) {
            return Err(Fault::Exists);
        }
        let of_domain = self
            .clients
            .values()
            .filter(|client| client.subject.domid == domid);
        let held: usize = of_domain.map(|client| client.watches.len()).sum();
        // As `xenstored` does, which lets one more through than it is told.
        if held > self.limits.store_watches && domid != DomId::DOM0 {
            return Err(Fault::TooBig);
        }
        let client = self.clients.get_mut(&id).ok_or(Fault::Invalid)?;
        client.watches.push(watch);
        done()
    }

    fn start_transaction(&mut self, id: ClientId, inside: u32) -> Result<Done, Fault> {
        if inside != 0 {
            return Err(Fault::Busy);
        }
        let subject = self.clients.get(&id).ok_or(Fault::Invalid)?.subject;
        let of_domain = self
            .clients
            .values()
            .filter(|client| client.subject == subject);
        let held: usize = of_domain.map(|client| client.transactions.len()).sum();
        // One more than it is told, as for watches.
        if held > self.limits.store_transactions && !subject.is_privileged() {
            return Err(Fault::NoSpace);
        }
        let client = self.clients.get_mut(&id).ok_or(Fault::Invalid)?;
        // Zero stands for no transaction.
        let numbers = (client.last_transaction.wrapping_add(1)..=u32::MAX).chain(1..);
        let free = |number: &u32| *number != 0 && !client.transactions.contains_key(number);
        let number = numbers.into_iter().find(free).ok_or(Fault::NoSpace)?;
        client.last_transaction = number;
        client.transactions.insert(number, Transaction::default());
        reply(codec::join_strings([number.to_string()]))
    }

    fn end_transaction(
        &mut self,
        id: ClientId,
        number: u32,
        payload: &[u8],
    ) -> Result<Done, Fault> {
        let commit = match one_string(payload)? {
            "T" => true,
            "F" => false,
            _ => return Err(Fault::Invalid),
        };
        let client = self.clients.get_mut(&id).ok_or(Fault::Invalid)?;
        let transaction = client.transactions.remove(&number).ok_or(Fault::NotFound)?;
        if !commit {
            return done();
        }
        done_with(transaction.commit(&mut self.tree)?)
    }

    /// `SET_PERMS` of a special event: who may hear of it.
    fn set_special(&mut self, subject: Identity, payload: &[u8]) -> Result<Done, Fault> {
        let mut strings = strings(payload)?.into_iter();
        let of = match strings.next() {
            Some("@introduceDomain") => &mut self.introduce,
            Some("@releaseDomain") => &mut self.release,
            _ => return Err(Fault::Invalid),
        };
        if !subject.is_privileged() {
            return Err(Fault::Invalid);
        }
        let permissions = codec::parse_permissions(strings).map_err(|_| Fault::Invalid)?;
        *of = NodePermissions::new(&permissions, &self.domains);
        done()
    }
}

impl Client {
    fn unwatch(&mut self, payload: &[u8]) -> Result<Done, Fault> {
        let gone = watch_in(payload, self.subject.domid)?;
        let before = self.watches.len();
        self.watches.retain(|watch| !gone.is_same(watch));
        if self.watches.len() == before {
            return Err(Fault::NotFound);
        }
        done()
    }
}

impl Watch {
    fn is_same(&self, other: &Watch) -> bool {
        (&self.path, &self.token) == (&other.path, &other.token)
    }
}

/// The path and the token of `WATCH` and `UNWATCH`.
fn watch_in(payload: &[u8], domid: DomId) -> Result<Watch, Fault> {
    let strings = strings(payload)?;
    let [path, token] = strings[..] else {
        return Err(Fault::Invalid);
    };
    if path.starts_with('@') {
        return Ok(Watch {
            path: path.to_owned(),
            token: token.to_owned(),
            hidden: 0,
        });
    }
    let absolute = path::absolute(path, domid)?;
    let hidden = absolute.len() - path.len();
    Ok(Watch {
        path: absolute,
        token: token.to_owned(),
        hidden,
    })
}

fn domid_in(payload: &[u8]) -> Result<DomId, Fault> {
    // INTRODUCE has more strings than the domid.
    let strings = strings(payload)?;
    let domid = strings.first().ok_or(Fault::Invalid)?;
    domid.parse().map_err(|_| Fault::Invalid)
}

/// The only string of a request.
pub(super) fn one_string(payload: &[u8]) -> Result<&str, Fault> {
    match strings(payload)?[..] {
        [string] => Ok(string),
        _ => Err(Fault::Invalid),
    }
}

pub(super) fn strings(payload: &[u8]) -> Result<Vec<&str>, Fault> {
    codec::split_strings(payload).map_err(|_| Fault::Invalid)
}

/// Done, and nothing else to tell.
pub(super) fn done() -> Result<Done, Fault> {
    done_with(Vec::new())
}

/// Done, and some watches may fire.
pub(super) fn done_with(changes: Vec<Change>) -> Result<Done, Fault> {
    Ok(Done {
        reply: codec::join_strings(["OK"]),
        changes,
    })
}

pub(super) fn reply(reply: Vec<u8>) -> Result<Done, Fault> {
    Ok(Done {
        reply,
        changes: Vec::new(),
    })
}
