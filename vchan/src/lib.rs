//! Inter-domain links over Xen's vchan protocol.
//!
//! A vchan joins two domains on one Xen host: two byte rings in granted pages and one event
//! channel, found through XenStore. Everything in this crate is either that, a [`host`] that
//! provides it, or the code that uses it.
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use vchan::{Client, DomId};
//!
//! // In domain 0; domain 2 has a server that answers in capitals.
//! let mut channel = Client::builder(&vchan::xen::host()?, DomId::new(2)?).connect()?;
//! channel.write_all(b"hello from dom0\n")?;
//! let mut answer = [0; 16];
//! channel.read_exact(&mut answer)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | for | there is |
//! |---|---|
//! | offering a vchan to another domain, and finding one | [`Server`], [`Client`], on a [`Host`] |
//! | streams, datagrams, time limits, calls that do not wait | [`Channel`], and its halves [`ReadHalf`] and [`WriteHalf`] for two threads |
//! | many messages at once, and the bytes of the ring in place | [`send_many`](WriteHalf::send_many) and [`recv_many`](ReadHalf::recv_many), [`reserve`](WriteHalf::reserve) and [`peek`](ReadHalf::peek) |
//! | how long a call looks before it sleeps | [`Spin`] |
//! | tasks | [`tokio`], or [`task`] on any other runtime |
//! | a machine without Xen, and tests | the crate `vchan-emulator`, which gives a [`Host`] as well |
//!
//! The peer is not trusted: whatever it writes, a call gives bytes or an [`Error`], and never panics.
//!
//! # Features
//!
//! - `std`, on by default: [`xen`], the Linux host; [`xenstore::Client`]; the traits of [`std::io`].
//!   Without it the crate is `no_std` and needs `alloc`.
//! - `tokio`: the module [`tokio`]. It needs `std`.
#![cfg_attr(not(feature = "std"), no_std)]
#![cfg_attr(
    not(feature = "tokio"),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "the same words describe the library with all features, and name what is only there"
    )
)]

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
