//! What a domain may use at a time.

/// The limits of an emulated host, per domain. The defaults are those of a stock Xen 4.17 host
/// with Linux domains. Dom0 is not bound by the limits of XenStore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Pages shared with others (`limit` of the Linux module `xen-gntalloc`).
    pub granted_pages: usize,
    /// Pages of others mapped (`limit` of the Linux module `xen-gntdev`).
    pub mapped_pages: usize,
    /// Open event channels (`max_event_channels` of `xl.cfg`).
    pub ports: usize,
    /// XenStore nodes owned (`--entry-nb` of `xenstored`).
    pub store_nodes: usize,
    /// Size of a XenStore node in bytes, with its permissions and its children's names
    /// (`--entry-size`).
    pub store_node_size: usize,
    /// XenStore permissions of a node (`--perm-nb`).
    pub store_permissions: usize,
    /// XenStore watches (`--watch-nb`); as with `xenstored`, one more is let through.
    pub store_watches: usize,
    /// XenStore transactions (`--transaction`); as with `xenstored`, one more is let through.
    pub store_transactions: usize,
    /// XenStore nodes that one transaction touches (`trans-nodes`).
    pub store_transaction_nodes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            granted_pages: 1024,
            mapped_pages: 1024 * 1024,
            ports: 1023,
            store_nodes: 1000,
            store_node_size: 2048,
            store_permissions: 5,
            store_watches: 128,
            store_transactions: 10,
            store_transaction_nodes: 1024,
        }
    }
}
