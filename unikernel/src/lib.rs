//! A Rust program as a Xen guest, without an operating system.
//!
//! One ELF file starts in both ways in which Xen starts guests, paravirtualised (PV) and
//! hardware-assisted without emulated devices (PVH), and is ready within milliseconds. The program
//! is a function; the crate is all that lies below it: boot, memory, console, clock, event channels,
//! grants, XenStore. It makes a [`Host`](vchan::Host) of them, on which [`vchan`] works as it does on
//! Linux.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! use vchan::{DomId, Error, Server};
//! use vchan_unikernel::{Guest, println};
//!
//! vchan_unikernel::main!(greet);
//!
//! fn greet(guest: &Guest) -> Result<(), Error> {
//!     let name = guest.command_line().value("name").unwrap_or("nobody");
//!     let mut server = Server::builder(guest.host(), DomId::DOM0).bind()?;
//!     loop {
//!         let mut channel = server.accept()?;
//!         println!("domain {} is here", channel.peer());
//!         channel.send(name.as_bytes())?;
//!         channel.drain()?;
//!     }
//! }
//! ```
//!
//! # Building a program
//!
//! A program is a package of its own, for the ordinary target `x86_64-unknown-linux-gnu` and stable
//! Rust. Its profiles say `panic = "abort"`, and its build script tells the linker what a guest is:
//!
//! ```no_run
//! for argument in ["-nostartfiles", "-no-pie", "-Tunikernel.ld"] {
//!     println!("cargo::rustc-link-arg-bins={argument}");
//! }
//! ```
//!
//! # How it lives
//!
//! - One virtual processor, no interrupts, no threads: a program that waits sleeps in Xen.
//! - `xl shutdown` and `xl reboot` make whatever waits fail; the program returns from its `main`, and
//!   closes its channels on the way. `xl save` and `xl migrate` are refused with a line on the console.
//! - A program that returns an error, and one that panics, says so on the console, and its domain ends
//!   as crashed.
//! - Memory that a peer has still mapped is kept back until it lets go.
//! - Out of memory, what can say so does (sharing, mapping); anything else panics.
//!
//! # Unsafe code
//!
//! It is confined to the modules that say `UNSAFETY:` at their head: `boot`, `cell`, `grants`, `heap`,
//! `machine`, `pages`, `string` and `xen`.
#![no_std]

extern crate alloc;

mod boot;
mod cell;
pub mod console;
mod events;
mod grants;
mod guest;
mod heap;
mod machine;
mod pages;
mod panic;
mod power;
mod shared_info;
mod store;
mod string;
mod xen;

pub use guest::{Guest, Outcome};
pub use unikernel_core::command_line::CommandLine;

#[doc(hidden)]
pub use guest::Program;
