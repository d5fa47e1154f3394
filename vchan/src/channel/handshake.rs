//! How a connection was set up.

use alloc::vec::Vec;

use crate::endpoint::Link;
use crate::host::{GrantRef, Port};
use crate::layout::{GRANTS, Geometry};

/// How a connection was set up: what was published or found in XenStore, and the control page as it
/// was then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// The control page's grant reference, from the key `ring-ref`.
    pub ring_ref: GrantRef,
    /// The server's port, from the key `event-channel`.
    pub event_channel: Port,
    /// This side's own port.
    pub port: Port,
    /// The ring orders.
    pub geometry: Geometry,
    /// The header, as it stood in the page before the client changed anything, and the grant
    /// references as they stand there now. (They have no meaning any more, so an honest peer leaves
    /// them as they are.)
    pub page: Vec<u8>,
}

/// What is kept of a [`Handshake`], in the place where the channel is; the rest is in the control
/// page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) ring_ref: GrantRef,
    pub(crate) event_channel: Port,
    pub(crate) port: Port,
    pub(crate) geometry: Geometry,
    pub(crate) header: [u8; GRANTS],
}

impl Origin {
    pub(crate) fn handshake(&self, link: &Link) -> Handshake {
        let mut page = self.header.to_vec();
        page.resize(GRANTS + 4 * self.geometry.grant_count(), 0);
        if let Some(grants) = page.get_mut(GRANTS..) {
            link.page().copy_out(GRANTS, grants);
        }
        Handshake {
            ring_ref: self.ring_ref,
            event_channel: self.event_channel,
            port: self.port,
            geometry: self.geometry,
            page,
        }
    }
}
