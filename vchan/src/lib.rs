//! Inter-domain links over Xen's vchan protocol.
//!
//! A vchan joins two domains on one Xen host: two byte rings in granted pages and one event
//! channel, found through XenStore. Everything in this crate is either that, a [`host`] that
//! provides it, or the code that uses it.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "std")]
mod bell;
mod channel;
mod client;
mod domid;
mod endpoint;
mod error;
mod guard;
mod keys;
mod path;
mod patience;
#[cfg(feature = "std")]
mod poll;
mod port_name;
mod publication;
mod quoted;
mod ring;
mod server;
mod sync;

pub mod diagnostics;
pub mod host;
pub mod layout;
pub mod memory;
pub mod task;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(feature = "std")]
pub mod xen;
pub mod xenstore;

pub use channel::{Channel, Handshake, Peek, ReadHalf, Reservation, WriteHalf};
pub use client::{Client, ClientBuilder};
pub use domid::{DomId, InvalidDomId};
pub use endpoint::{Spin, State};
pub use error::{BadKey, Error, ForeignKey, HostError, PeerFault, StoreError, StoreErrorKind};
pub use host::Host;
pub use path::{InvalidPath, StorePath};
pub use port_name::{InvalidPortName, PortName};
pub use server::{Server, ServerBuilder};

/// The examples of the README are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
