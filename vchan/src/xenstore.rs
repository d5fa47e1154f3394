//! XenStore: the small tree of names and values through which the domains of a host find each
//! other.
//!
//! [`codec`] is the wire protocol, for a client and for a daemon alike. `Client` (feature `std`) is a
//! blocking client over it, with watches and transactions; it is what the Linux host and the
//! emulated host both use as their [`Store`](crate::host::Store). [`WireClient`] is the same for a
//! guest without an operating system, which only has to say how bytes go to the store and back.

pub mod codec;

mod batch;
mod carrier;
#[cfg(feature = "std")]
mod client;
#[cfg(feature = "std")]
mod connection;
mod encoding;
mod exchange;
mod numbered;
mod requests;
#[cfg(feature = "std")]
mod transaction;
#[cfg(feature = "std")]
mod transport;
mod watch;
mod wire;

#[cfg(feature = "std")]
pub use client::Client;
#[cfg(feature = "std")]
pub use transaction::Transaction;
pub use wire::{Wire, WireClient};

#[cfg(all(test, feature = "std"))]
mod tests;
