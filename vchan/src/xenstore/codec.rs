//! The wire protocol of XenStore: messages and what they carry.
//!
//! Pure: bytes in, messages out. It is the same for a client and for a daemon, over a Unix socket
//! and over `/dev/xen/xenbus`. The numbers are those of Xen's public header `io/xs_wire.h`, the
//! payloads those of `xenstore.txt` in Xen's `docs/misc`.
#![warn(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used
)]

use alloc::vec::Vec;
use core::fmt;

mod decode;
mod payload;

pub use decode::Decoder;
pub use payload::{
    Malformed, error_kind, error_name, join_strings, parse_permissions, permission_strings,
    split_strings, watch_event,
};

/// The size of a message's header, in bytes.
pub const HEADER_SIZE: usize = 16;

/// The most bytes a message carries after its header (`XENSTORE_PAYLOAD_MAX`).
pub const PAYLOAD_MAX: usize = 4096;

/// What a message asks for or answers: the `XS_` number in its header. A reply has the kind of its
/// request, or is an [`ERROR`](Kind::ERROR).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u32);

impl Kind {
    /// Commands to the daemon itself.
    pub const CONTROL: Kind = Kind(0);
    /// List a node's children.
    pub const DIRECTORY: Kind = Kind(1);
    /// Read a node.
    pub const READ: Kind = Kind(2);
    /// Read a node's permissions.
    pub const GET_PERMS: Kind = Kind(3);
    /// Watch a node and all below it.
    pub const WATCH: Kind = Kind(4);
    /// Remove a watch.
    pub const UNWATCH: Kind = Kind(5);
    /// Begin a transaction; the reply holds its number in decimal.
    pub const TRANSACTION_START: Kind = Kind(6);
    /// Commit (`T`) or abort (`F`) a transaction.
    pub const TRANSACTION_END: Kind = Kind(7);
    /// Tell the daemon of a new domain.
    pub const INTRODUCE: Kind = Kind(8);
    /// Tell the daemon that a domain is gone.
    pub const RELEASE: Kind = Kind(9);
    /// A domain's own directory.
    pub const GET_DOMAIN_PATH: Kind = Kind(10);
    /// Write a node.
    pub const WRITE: Kind = Kind(11);
    /// Make an empty node.
    pub const MKDIR: Kind = Kind(12);
    /// Remove a node and all below it.
    pub const RM: Kind = Kind(13);
    /// Set a node's permissions.
    pub const SET_PERMS: Kind = Kind(14);
    /// Sent by the daemon without a request: a watch has fired.
    pub const WATCH_EVENT: Kind = Kind(15);
    /// The reply to a request that failed; it carries the name of an error number.
    pub const ERROR: Kind = Kind(16);
    /// Whether the daemon knows a domain.
    pub const IS_DOMAIN_INTRODUCED: Kind = Kind(17);
    /// Tell the daemon that a domain has resumed.
    pub const RESUME: Kind = Kind(18);
    /// Give a domain the rights over another one.
    pub const SET_TARGET: Kind = Kind(19);
    /// Remove all watches and transactions of the caller.
    pub const RESET_WATCHES: Kind = Kind(21);
    /// List a node's children from an offset on.
    pub const DIRECTORY_PART: Kind = Kind(22);

    /// The name in `xs_wire.h`, without the `XS_`.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Kind::CONTROL => "CONTROL",
            Kind::DIRECTORY => "DIRECTORY",
            Kind::READ => "READ",
            Kind::GET_PERMS => "GET_PERMS",
            Kind::WATCH => "WATCH",
            Kind::UNWATCH => "UNWATCH",
            Kind::TRANSACTION_START => "TRANSACTION_START",
            Kind::TRANSACTION_END => "TRANSACTION_END",
            Kind::INTRODUCE => "INTRODUCE",
            Kind::RELEASE => "RELEASE",
            Kind::GET_DOMAIN_PATH => "GET_DOMAIN_PATH",
            Kind::WRITE => "WRITE",
            Kind::MKDIR => "MKDIR",
            Kind::RM => "RM",
            Kind::SET_PERMS => "SET_PERMS",
            Kind::WATCH_EVENT => "WATCH_EVENT",
            Kind::ERROR => "ERROR",
            Kind::IS_DOMAIN_INTRODUCED => "IS_DOMAIN_INTRODUCED",
            Kind::RESUME => "RESUME",
            Kind::SET_TARGET => "SET_TARGET",
            Kind::RESET_WATCHES => "RESET_WATCHES",
            Kind::DIRECTORY_PART => "DIRECTORY_PART",
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "message type {}", self.0),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({self})")
    }
}

/// One message, in either direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What it asks for or answers.
    pub kind: Kind,
    /// The requester's number for the request, which the reply repeats.
    pub request_id: u32,
    /// The transaction that the request belongs to; 0 for none. The reply repeats it.
    pub transaction_id: u32,
    /// The rest, at most [`PAYLOAD_MAX`] bytes; what it means depends on the kind.
    pub payload: Vec<u8>,
}

impl Message {
    /// The message as it goes over the wire.
    ///
    /// # Errors
    /// [`CodecError::TooLong`]: a daemon drops the connection over such a message, so it must never
    /// be sent.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let length = self.payload.len();
        let Some(short) = u32::try_from(length).ok().filter(|_| length <= PAYLOAD_MAX) else {
            return Err(CodecError::TooLong { length });
        };
        let header = [self.kind.0, self.request_id, self.transaction_id, short];
        let mut bytes = Vec::with_capacity(HEADER_SIZE.saturating_add(length));
        // The header is in the byte order of the machine, and Xen has only little-endian ones.
        for field in header {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        Ok(bytes)
    }

    /// The reply to this request.
    #[must_use]
    pub fn reply(&self, payload: Vec<u8>) -> Message {
        Message { payload, ..*self }
    }

    /// The reply to this request when it failed; `name` is as [`error_name`] gives it.
    #[must_use]
    pub fn error_reply(&self, name: &str) -> Message {
        Message {
            kind: Kind::ERROR,
            payload: join_strings([name]),
            ..*self
        }
    }
}

/// Bytes that are no XenStore message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// More than [`PAYLOAD_MAX`] bytes. After such a header nothing that follows can be
    /// trusted, so a [`Decoder`] says this for ever.
    #[error("a XenStore message carries at most {PAYLOAD_MAX} bytes, this one has {length}")]
    TooLong {
        /// How many it has, or claims to have.
        length: usize,
    },
}

#[cfg(test)]
mod tests;
