//! How fast a vchan is, beside other ways of moving bytes.
//!
//! A [`Transport`] makes pairs of [`Peer`]s; a [`workload`] moves bytes between the two and measures.
//! Absolute times say little on a machine that does other things as well, so two transports are
//! compared in rounds that alternate ([`stats::alternate`]), and what is reported is the median of
//! the ratios of each round. [`calibration`] says what the machine was like meanwhile.
//!
//! No result exists without a check: what a workload returns can only be made of an
//! [`Arrived`](payload::Arrived), and that only of bytes that were compared with what was sent.
//!
//! ```
//! use vchan_bench::peers::rings::Rtrb;
//! use vchan_bench::{Transport, workload};
//!
//! let (mut left, mut right) = Rtrb.connect(64 * 1024)?;
//! let pairs = workload::pairs(&mut left, &mut right, 64, 10_000)?;
//! println!("{:.1} ns for each message of 64 bytes", pairs.nanoseconds_each());
//! # Ok::<(), vchan_bench::Failure>(())
//! ```

pub mod calibration;
pub mod counting;
pub mod cpu;
pub mod latency;
pub mod machine;
pub mod matrix;
pub mod payload;
pub mod peers;
pub mod plot;
pub mod remote;
pub mod report;
pub mod stats;
pub mod workload;

mod failure;
mod one_mapping;
mod peer;

pub use failure::Failure;
pub use peer::{Peer, Polled, Transport};
