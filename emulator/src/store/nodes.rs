//! Looking at and changing nodes.

use vchan::xenstore::codec::{self, PAYLOAD_MAX};

use super::Fault;
use super::path::{above, absolute, below, split};
use super::permissions::{Domains, NodePermissions, Wish};
use super::requests::{Done, done, done_with, one_string, reply, strings};
use super::tree::{Node, View};
use super::watches::Change;
use crate::Limits;
use crate::machine::Identity;

/// One client's request on the store.
pub(super) struct Session<'a> {
    pub(super) subject: Identity,
    pub(super) view: View<'a>,
    pub(super) limits: Limits,
    pub(super) domains: &'a Domains,
}

impl Session<'_> {
    pub(super) fn read(&mut self, payload: &[u8]) -> Result<Done, Fault> {
        let path = self.path(one_string(payload)?)?;
        reply(self.find(&path, Wish::Read)?.value)
    }

    pub(super) fn directory(&mut self, payload: &[u8]) -> Result<Done, Fault> {
        let path = self.path(one_string(payload)?)?;
        let names = codec::join_strings(self.find(&path, Wish::Read)?.children);
        if names.len() > PAYLOAD_MAX {
            return Err(Fault::TooBig);
        }
        reply(names)
    }

    /// A part of a listing that is too long for one reply: the node's generation, by which a
    /// client notices changes between parts, then whole names; an empty one tells the end.
    pub(super) fn directory_part(&mut self, payload: &[u8]) -> Result<Done, Fault> {
        let strings = strings(payload)?;
        let [path, offset] = strings[..] else {
            return Err(Fault::Invalid);
        };
        let path = self.path(path)?;
        let offset: usize = offset.parse().map_err(|_| Fault::Invalid)?;
        let node = self.find(&path, Wish::Read)?;
        let names = codec::join_strings(&node.children);
        let rest = names.get(offset..).unwrap_or_default();
        let mut part = codec::join_strings([node.generation.to_string()]);
        // One byte is kept for the end mark.
        let room = PAYLOAD_MAX - part.len() - 1;
        if rest.len() <= room {
            part.extend_from_slice(rest);
            part.push(0);
        } else {
            let whole = rest
                .get(..room)
                .and_then(|most| most.iter().rposition(|&b| b == 0));
            let whole = whole.ok_or(Fault::TooBig)?;
            part.extend_from_slice(&rest[..=whole]);
        }
        reply(part)
    }

    pub(super) fn permissions(&mut self, payload: &[u8]) -> Result<Done, Fault> {
        let path = self.path(one_string(payload)?)?;
        let permissions = self.find(&path, Wish::Read)?.permissions.listed();
        reply(codec::join_strings(codec::permission_strings(&permissions)))
    }

    pub(super) fn write(&mut self, payload: &[u8]) -> Result<Done, Fault> {
        let end = payload
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(Fault::Invalid)?;
        let (path, value) = (one_string(&payload[..=end])?, &payload[end + 1..]);
        let path = self.path(path)?;
        let before = match self.find(&path, Wish::Write) {
            Ok(mut node) => {
                let before = node.permissions.clone();
                node.value = value.to_vec();
                self.check_size(&node)?;
                self.view.put(&path, node)?;
                Some(before)
            }
            Err(Fault::NotFound) => {
                self.make(&path, value)?;
                None
            }
            Err(fault) => return Err(fault),
        };
        done_with(vec![changed(&mut self.view, &path, before)])
    }

    pub(super) fn make_directory(&mut self, payload: &[u8]) -> Result<Done, Fault> {
        let path = self.path(one_string(payload)?)?;
        match self.find(&path, Wish::Write) {
            // It is there already, which is no error.
            Ok(_) => done(),
            Err(Fault::NotFound) => {
                self.make(&path, b"")?;
                done_with(vec![changed(&mut self.view, &path, None)])
            }
            Err(fault) => Err(fault),
        }
    }

    pub(super) fn remove(&mut self, payload: &[u8]) -> Result<Done, Fault> {
        let path = self.path(one_string(payload)?)?;
        let Some((parent, _)) = split(&path) else {
            return Err(Fault::Invalid);
        };
        match self.find(&path, Wish::Write) {
            Ok(_) => done_with(remove_all(&mut self.view, &path)?),
            // It need not be there, but it must be a place where it could have been.
            Err(Fault::NotFound) if self.view.get(parent).is_some() => done(),
            Err(fault) => Err(fault),
        }
    }

    pub(super) fn set_permissions(&mut self, payload: &[u8]) -> Result<Done, Fault> {
        let mut strings = strings(payload)?.into_iter();
        let path = self.path(strings.next().ok_or(Fault::Invalid)?)?;
        let permissions = codec::parse_permissions(strings).map_err(|_| Fault::Invalid)?;
        let permissions = NodePermissions::new(&permissions, self.domains);
        if self.limited() && permissions.count() > self.limits.store_permissions {
            return Err(Fault::NoSpace);
        }
        let mut node = self.find(&path, Wish::Own)?;
        if !permissions.has_living_owner() {
            return Err(Fault::NotFound);
        }
        if self.limited() && permissions.owner() != node.permissions.owner() {
            return Err(Fault::NotOwner);
        }
        let before = std::mem::replace(&mut node.permissions, permissions);
        self.check_size(&node)?;
        self.view.put(&path, node)?;
        done_with(vec![changed(&mut self.view, &path, Some(before))])
    }

    /// A node that the client may use so. Whether one is missing is only told to those who may use
    /// the nearest node above it so.
    fn find(&mut self, path: &str, wish: Wish) -> Result<Node, Fault> {
        if self.limited() && self.view.seen() > self.limits.store_transaction_nodes {
            return Err(Fault::NoSpace);
        }
        if let Some(node) = self.view.get(path) {
            let allowed = node.permissions.allow(self.subject, wish);
            return if allowed {
                Ok(node)
            } else {
                Err(Fault::Denied)
            };
        }
        let nearest = above(path).find_map(|path| self.view.get(path));
        match nearest {
            Some(node) if node.permissions.allow(self.subject, wish) => Err(Fault::NotFound),
            _ => Err(Fault::Denied),
        }
    }

    /// Makes a node that is missing, and those above it that are.
    fn make(&mut self, path: &str, value: &[u8]) -> Result<(), Fault> {
        let mut missing = vec![path];
        let mut nearest = None;
        for path in above(path) {
            nearest = self.view.get(path);
            if nearest.is_some() {
                break;
            }
            missing.push(path);
        }
        let nearest = nearest.ok_or(Fault::NotFound)?;
        let permissions = nearest.permissions.inherited(self.subject);
        // All is checked before anything is made.
        let owned = || self.view.owned_by(self.subject.domid);
        if self.limited() && owned() + missing.len() > self.limits.store_nodes {
            return Err(Fault::NoSpace);
        }
        self.check_size(&Node::new(value, permissions.clone()))?;
        // The names of its children count for the size of a node.
        if let Some((_, name)) = missing.last().and_then(|path| split(path)) {
            let mut grown = nearest;
            grown.children.push(name.to_owned());
            self.check_size(&grown)?;
        }
        while let Some(next) = missing.pop() {
            let value = if missing.is_empty() { value } else { b"" };
            self.view.put(next, Node::new(value, permissions.clone()))?;
        }
        Ok(())
    }

    fn check_size(&self, node: &Node) -> Result<(), Fault> {
        if self.limited() && node.size() >= self.limits.store_node_size {
            return Err(Fault::NoSpace);
        }
        Ok(())
    }

    /// Whether quotas bind this client.
    fn limited(&self) -> bool {
        !self.subject.is_privileged()
    }

    fn path(&self, path: &str) -> Result<String, Fault> {
        absolute(path, self.subject.domid)
    }
}

/// Removes a node and all below it, which fires the watches on each of them.
pub(super) fn remove_all(view: &mut View<'_>, path: &str) -> Result<Vec<Change>, Fault> {
    let node = view.get(path).ok_or(Fault::NotFound)?;
    let mut changes = Vec::new();
    remove_below(view, path, &node, &mut changes);
    changes.push(changed(view, path, Some(node.permissions)));
    view.delete(path);
    Ok(changes)
}

fn remove_below(view: &mut View<'_>, path: &str, parent: &Node, changes: &mut Vec<Change>) {
    for name in &parent.children {
        let path = below(path, name);
        let Some(node) = view.get(&path) else {
            continue;
        };
        remove_below(view, &path, &node, changes);
        // The parent goes as well: no need to take the child out of its list.
        view.forget(&path);
        changes.push(Change {
            path,
            exact: true,
            readable_by: vec![node.permissions, parent.permissions.clone()],
        });
    }
}

/// The change of a node that is there (now, or until now).
pub(super) fn changed(view: &mut View<'_>, path: &str, before: Option<NodePermissions>) -> Change {
    let now = view.get(path).map(|node| node.permissions);
    let parent = split(path)
        .and_then(|(parent, _)| view.get(parent))
        .map(|it| it.permissions);
    Change {
        path: path.to_owned(),
        exact: false,
        readable_by: [before, now, parent].into_iter().flatten().collect(),
    }
}
