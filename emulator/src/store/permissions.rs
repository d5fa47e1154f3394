//! Who may do what with a node.

use std::collections::BTreeMap;

use vchan::DomId;
use vchan::host::{NodeAccess, Permissions};

use crate::machine::{Identity, Instance};

/// The domains that exist.
pub(super) type Domains = BTreeMap<DomId, Instance>;

/// A node's permissions. Those for a domain that did not exist when they were set, or has gone
/// since, are kept but give nothing, not even to a later domain of that number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NodePermissions {
    owner: (DomId, Option<Instance>),
    default: NodeAccess,
    others: Vec<(DomId, Option<Instance>, NodeAccess)>,
}

/// What a request wants to do with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Read,
    Write,
    /// What only the owner may do.
    Own,
}

impl Identity {
    /// Dom0 may do all.
    pub(super) fn is_privileged(self) -> bool {
        self.domid == DomId::DOM0
    }
}

impl NodePermissions {
    pub(super) fn new(permissions: &Permissions, domains: &Domains) -> NodePermissions {
        let known = |domid: DomId| domains.get(&domid).copied();
        let other = |&(domid, access): &(DomId, NodeAccess)| (domid, known(domid), access);
        NodePermissions {
            owner: (permissions.owner, known(permissions.owner)),
            default: permissions.default,
            others: permissions.domains.iter().map(other).collect(),
        }
    }

    /// Owned by dom0, and nobody else may do anything.
    pub(super) fn private() -> NodePermissions {
        NodePermissions {
            owner: (DomId::DOM0, None),
            default: NodeAccess::None,
            others: Vec::new(),
        }
    }

    /// The permissions of a node made below one with these: the same, but what a guest makes is
    /// its own.
    pub(super) fn inherited(&self, maker: Identity) -> NodePermissions {
        let mut permissions = self.clone();
        if !maker.is_privileged() {
            permissions.owner = (maker.domid, Some(maker.instance));
        }
        permissions
    }

    /// As a reply tells them.
    pub(super) fn listed(&self) -> Permissions {
        Permissions {
            owner: self.owner(),
            default: self.default,
            domains: self
                .others
                .iter()
                .map(|&(domid, _, access)| (domid, access))
                .collect(),
        }
    }

    /// The owner; what belonged to a domain that never was belongs to dom0.
    pub(super) fn owner(&self) -> DomId {
        match self.owner {
            (domid, Some(_)) => domid,
            (_, None) => DomId::DOM0,
        }
    }

    /// Whether the owner existed when these were set.
    pub(super) fn has_living_owner(&self) -> bool {
        self.owner.1.is_some()
    }

    /// How many permissions these are.
    pub(super) fn count(&self) -> usize {
        1 + self.others.len()
    }

    pub(super) fn allow(&self, subject: Identity, wish: Wish) -> bool {
        let Identity { domid, instance } = subject;
        if subject.is_privileged() || self.owner == (domid, Some(instance)) {
            return true;
        }
        let own = |&&(other, known, _): &&(DomId, Option<Instance>, NodeAccess)| {
            (other, known) == (domid, Some(instance))
        };
        let access = self
            .others
            .iter()
            .find(own)
            .map_or(self.default, |&(.., access)| access);
        match wish {
            Wish::Read => matches!(access, NodeAccess::Read | NodeAccess::Both),
            Wish::Write => matches!(access, NodeAccess::Write | NodeAccess::Both),
            Wish::Own => false,
        }
    }
}
