//! An emulated Xen host, for machines without Xen.
//!
//! An [`Emulator`] gives its domains what a Xen host gives them: grants, event channels and a
//! XenStore. It is a test bench and a development host. It keeps to Xen's rules between domains
//! that keep to them too, but it is no wall: a process that means harm can get around it.
//!
//! Domains join over Unix sockets, be it in the process that runs the host ([`Emulator::host`]) or
//! in others ([`join`], [`host_from_environment`]): both take the same way.

mod client;
mod emulator;
mod join;
mod limits;
mod machine;
mod server;
mod sockets;
mod store;
mod wire;

pub mod faults;

pub use emulator::Emulator;
pub use join::{DOMAIN_VARIABLE, host_from_environment, join};
pub use limits::Limits;
