//! Transactions: what a client reads and writes without others seeing it until it is all done.

use std::collections::BTreeMap;

use super::Fault;
use super::tree::{Node, Tree};
use super::watches::Change;

/// A transaction that has begun.
#[derive(Default)]
pub(super) struct Transaction {
    /// The generation of each node outside when it was first looked at; `None` where there was no
    /// node. When one differs in the end, the transaction has collided with another change.
    seen: BTreeMap<String, Option<u64>>,
    /// What was written; `None` where a node was removed.
    written: BTreeMap<String, Option<Node>>,
    changes: Vec<Change>,
}

impl Transaction {
    pub(super) fn get(&mut self, tree: &Tree, path: &str) -> Option<Node> {
        self.look(tree, path);
        match self.written.get(path) {
            Some(node) => node.clone(),
            None => tree.get(path).cloned(),
        }
    }

    pub(super) fn set(&mut self, tree: &Tree, path: &str, node: Option<Node>) {
        self.look(tree, path);
        self.written.insert(path.to_owned(), node);
    }

    pub(super) fn written(&self) -> impl Iterator<Item = (&String, &Option<Node>)> {
        self.written.iter()
    }

    pub(super) fn seen(&self) -> usize {
        self.seen.len()
    }

    /// Notes a change to fire watches for, once for each node.
    pub(super) fn queue(&mut self, change: Change) {
        match self
            .changes
            .iter_mut()
            .find(|queued| queued.path == change.path)
        {
            Some(queued) => queued.merge(change),
            None => self.changes.push(change),
        }
    }

    /// Makes it all happen, and tells which watches may fire; or nothing of it.
    pub(super) fn commit(self, tree: &mut Tree) -> Result<Vec<Change>, Fault> {
        let same = |(path, &generation): (&String, &Option<u64>)| {
            tree.get(path).map(|node| node.generation) == generation
        };
        if !self.seen.iter().all(same) {
            return Err(Fault::Again);
        }
        let mut changes = self.changes;
        for (path, node) in self.written {
            if node.is_none() && tree.get(&path).is_none() {
                // Made and removed again: nobody has ever seen it.
                changes.retain(|change| change.path != path);
                continue;
            }
            tree.set(&path, node);
        }
        Ok(changes)
    }

    fn look(&mut self, tree: &Tree, path: &str) {
        if !self.seen.contains_key(path) {
            let generation = tree.get(path).map(|node| node.generation);
            self.seen.insert(path.to_owned(), generation);
        }
    }
}
