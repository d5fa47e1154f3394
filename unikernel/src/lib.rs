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
//!         if let Err(error) = channel.send(name.as_bytes()).and_then(|()| channel.drain()) {
//!             println!("it left early: {error}");
//!         }
//!     }
//! }
//! ```
//!
//! # Building a program
//!
//! A program is a package of its own, for the ordinary target `x86_64-unknown-linux-gnu` and stable
//! Rust. Its `Cargo.toml`, where this project is in `../vchan-rs`:
//!
//! ```toml
//! [package]
//! name = "greeter"
//! version = "0.1.0"
//! edition = "2024"
//!
//! # There is no test harness, as there is no `std`.
//! [[bin]]
//! name = "greeter"
//! path = "src/main.rs"
//! test = false
//! bench = false
//!
//! [dependencies]
//! # With its default features it is for Linux, and the linker finds two panic handlers.
//! vchan = { path = "../vchan-rs/vchan", default-features = false }
//! vchan-unikernel = { path = "../vchan-rs/unikernel" }
//!
//! # Both are needed: nothing unwinds here.
//! [profile.dev]
//! panic = "abort"
//! [profile.release]
//! panic = "abort"
//! # For a small file.
//! opt-level = "z"
//! lto = "fat"
//! codegen-units = 1
//! strip = "symbols"
//! ```
//!
//! The `build.rs` beside it tells the linker what a guest is:
//!
//! ```no_run
//! for argument in ["-nostartfiles", "-no-pie", "-Tunikernel.ld"] {
//!     println!("cargo::rustc-link-arg-bins={argument}");
//! }
//! ```
//!
//! After `cargo build --release` Xen starts `target/release/greeter` as it is. In dom0, `greeter.xl`
//! and what follows (`type = "pvh"` for the other way; `vcpus` must be written out then):
//!
//! ```text
//! name = "greeter"
//! type = "pv"
//! kernel = "/path/to/greeter"
//! memory = 4
//! vcpus = 1
//! extra = "name=Ada"
//! ```
//!
//! ```console
//! # xl create -c greeter.xl
//! # node-cli $(xl domid greeter)       in another terminal
//! ```
//!
//! Where there is no Xen, this project has one in an emulated machine, whose dom0 has at `target/xen`
//! what has `.xen` or `.xl` for an ending there. In `../vchan-rs`, with `kernel =
//! "/root/target/xen/greeter.xen"` in `greeter.xl`:
//!
//! ```console
//! $ cp ../greeter/target/release/greeter target/xen/greeter.xen
//! $ cp ../greeter/greeter.xl target/xen/
//! $ cargo xtask xen shell
//! # xl create target/xen/greeter.xl
//! # node-cli $(xl domid greeter)
//! ```
//!
//! # Strings, collections, and many channels at once
//!
//! There is an allocator, so `extern crate alloc;` gives a program `String`, `Vec`, `format!` and the
//! like. Calls that wait, wait for one channel. A program with several has a task for each, over the
//! asynchronous face of the same channels, [`vchan::task`]. What tasks share is behind a lock, such as
//! `Mutex` of the crate `spin`: it is always free, as nothing interrupts a task that has it.
//!
//! ```ignore
//! fn serve(guest: &Guest) -> Result<Infallible, Error> {
//!     let heard = Arc::new(Mutex::new(Vec::new()));
//!     for port in ["first", "second"] {
//!         let server = Server::builder(guest.host(), DomId::DOM0);
//!         let server = server.port(port.parse()?).bind()?;
//!         let (runtime, heard) = (guest.runtime(), Arc::clone(&heard));
//!         guest.spawn(async move {
//!             let Err(error) = listen(server, &runtime, &heard).await;
//!             println!("{port}: {error}");
//!         });
//!     }
//!     Ok(guest.block_on(core::future::pending())?)
//! }
//!
//! async fn listen(
//!     mut server: Server,
//!     runtime: &Runtime,
//!     heard: &Mutex<Vec<u8>>,
//! ) -> Result<Infallible, Error> {
//!     loop {
//!         let mut channel = server.accept_on(runtime).await?;
//!         let mut bytes = [0; 64];
//!         while let Ok(count @ 1..) = channel.read(&mut bytes).await {
//!             heard.lock().extend_from_slice(&bytes[..count]);
//!         }
//!     }
//! }
//! ```
//!
//! A client in dom0 finds them by `node-cli --nodepath /local/domain/7/data/vchan/0/first 7`. The
//! program `echo-many` of this project is a whole one.
//!
//! # How it lives
//!
//! - One virtual processor, no interrupts, no threads: a program that waits sleeps in Xen.
//! - `xl shutdown` and `xl reboot` make whatever waits fail; the program returns from its `main`, and
//!   closes its channels on the way. One that may be too busy to wait asks [`Guest::heed`] now and then.
//!   `xl save` and `xl migrate` are refused with a line on the console.
//! - A stack that overflows (it has 64 KiB) and an address of zero end the domain, as crashed.
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

pub use guest::{Guest, Memory, Outcome};
pub use unikernel_core::command_line::CommandLine;

#[doc(hidden)]
pub use guest::Program;
