//! Group C of the catalogue of faults: what a channel survives from its beginning to its end.

#[path = "../common/mod.rs"]
mod common;

mod closing;
mod deaths;
mod own_side;
mod peers;

use std::time::Duration;

const SHORT: Duration = Duration::from_millis(50);
