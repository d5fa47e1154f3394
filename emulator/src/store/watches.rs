//! Watches, and which of them a change fires.

use super::permissions::{NodePermissions, Wish};
use crate::machine::Identity;

/// A client's wish to hear of changes at a path or below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Watch {
    /// Absolute, or the name of a special event (`@releaseDomain`).
    pub(super) path: String,
    pub(super) token: String,
    /// What the client left out of the path, and does not want to hear either.
    pub(super) hidden: usize,
}

/// A node that changed.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) path: String,
    /// It went with a node above it: only those who watch it by name hear of it.
    pub(super) exact: bool,
    /// The permissions of which one at least lets a watcher know of it: those of the node before
    /// and after the change, and those of its parent.
    pub(super) readable_by: Vec<NodePermissions>,
}

impl Watch {
    /// What to tell the client when `change` fires this watch.
    pub(super) fn fired_by(&self, change: &Change) -> Option<&'_ str> {
        let hit = if change.exact {
            change.path == self.path
        } else {
            is_at_or_below(&change.path, &self.path)
        };
        hit.then_some(self.token.as_str())
    }

    /// The path of an event as the client wants to hear it.
    pub(super) fn told<'a>(&self, path: &'a str) -> &'a str {
        path.get(self.hidden..).unwrap_or(path)
    }
}

impl Change {
    /// Whether someone may learn of it.
    pub(super) fn concerns(&self, subject: Identity) -> bool {
        self.readable_by
            .iter()
            .any(|permissions| permissions.allow(subject, Wish::Read))
    }

    /// Adds a later change of the same node. Who could read it before the first may know.
    pub(super) fn merge(&mut self, later: Change) {
        self.readable_by.truncate(1);
        self.readable_by.extend(later.readable_by);
        self.exact &= later.exact;
    }
}

fn is_at_or_below(path: &str, above: &str) -> bool {
    if above == "/" {
        // The root is above every node, but not above special events.
        return path.starts_with('/');
    }
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_below_itself_and_its_ancestors_alone() {
        for (path, above, is) in [
            ("/a/b", "/a", true),
            ("/a", "/a", true),
            ("/ab", "/a", false),
            ("/a", "/a/b", false),
            ("/a", "/", true),
            ("@releaseDomain", "/", false),
            ("@releaseDomain", "@releaseDomain", true),
        ] {
            assert_eq!(is_at_or_below(path, above), is, "{path} below {above}");
        }
    }
}
