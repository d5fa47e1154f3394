//! The nodes, and how the store changes as seen from inside and outside of a transaction.

use std::collections::BTreeMap;

use vchan::DomId;

use super::Fault;
use super::path::split;
use super::permissions::NodePermissions;
use super::transaction::Transaction;

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Vec<u8>,
    pub(super) permissions: NodePermissions,
    /// The names of its children, oldest first.
    pub(super) children: Vec<String>,
    /// When it was last written. No two writings have the same.
    pub(super) generation: u64,
}

/// All nodes by their absolute paths. Every node's parent is there and knows it.
#[derive(Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
    generation: u64,
}

/// The store as one request sees it.
pub(super) struct View<'a> {
    tree: &'a mut Tree,
    transaction: Option<&'a mut Transaction>,
}

impl Node {
    pub(super) fn new(value: &[u8], permissions: NodePermissions) -> Node {
        Node {
            value: value.to_vec(),
            permissions,
            children: Vec::new(),
            generation: 0,
        }
    }

    /// Its size as `xenstored` counts it: a header, eight bytes a permission, the value, and the
    /// children's names.
    pub(super) fn size(&self) -> usize {
        let names: usize = self.children.iter().map(|name| name.len() + 1).sum();
        24 + 8 * self.permissions.count() + self.value.len() + names
    }
}

impl Tree {
    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(super) fn set(&mut self, path: &str, node: Option<Node>) {
        self.generation += 1;
        match node {
            Some(mut node) => {
                node.generation = self.generation;
                self.nodes.insert(path.to_owned(), node);
            }
            None => _ = self.nodes.remove(path),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.nodes.iter()
    }
}

impl<'a> View<'a> {
    pub(super) fn new(tree: &'a mut Tree, transaction: Option<&'a mut Transaction>) -> View<'a> {
        View { tree, transaction }
    }

    /// A node, if it exists.
    pub(super) fn get(&mut self, path: &str) -> Option<Node> {
        match &mut self.transaction {
            Some(transaction) => transaction.get(self.tree, path),
            None => self.tree.get(path).cloned(),
        }
    }

    /// Writes a node whose parent exists, and makes the parent know it.
    ///
    /// A parent that lists a new child is thereby written too, which two transactions that make
    /// children of one node notice.
    pub(super) fn put(&mut self, path: &str, node: Node) -> Result<(), Fault> {
        if let Some((parent, name)) = split(path) {
            let mut above = self.get(parent).ok_or(Fault::NotFound)?;
            if !above.children.iter().any(|child| child == name) {
                above.children.push(name.to_owned());
                self.set(parent, Some(above));
            }
        }
        self.set(path, Some(node));
        Ok(())
    }

    /// Removes a node that has no children (any more).
    pub(super) fn delete(&mut self, path: &str) {
        if let Some((parent, name)) = split(path)
            && let Some(mut above) = self.get(parent)
        {
            above.children.retain(|child| child != name);
            self.set(parent, Some(above));
        }
        self.set(path, None);
    }

    /// Removes a node without its parent's knowing, for a parent that is removed as well.
    pub(super) fn forget(&mut self, path: &str) {
        self.set(path, None);
    }

    /// How many nodes a domain owns.
    pub(super) fn owned_by(&self, domid: DomId) -> usize {
        let owns = |node: &Node| usize::from(node.permissions.owner() == domid);
        let outside: usize = self.tree.nodes.values().map(owns).sum();
        let Some(transaction) = &self.transaction else {
            return outside;
        };
        let (mut more, mut less) = (0, 0);
        for (path, node) in transaction.written() {
            less += self.tree.get(path).map_or(0, owns);
            more += node.as_ref().map_or(0, owns);
        }
        (outside + more).saturating_sub(less)
    }

    /// How many nodes the transaction has seen, if this is in one.
    pub(super) fn seen(&self) -> usize {
        self.transaction
            .as_ref()
            .map_or(0, |transaction| transaction.seen())
    }

    fn set(&mut self, path: &str, node: Option<Node>) {
        match &mut self.transaction {
            Some(transaction) => transaction.set(self.tree, path, node),
            None => self.tree.set(path, node),
        }
    }
}
