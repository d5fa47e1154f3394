//! What the fuzz targets do with their bytes.
//!
//! Each module has one function `run`, which takes any bytes and panics when a promise is broken.
//! libFuzzer calls it from the programs in `fuzz/fuzz_targets`; the tests of this crate call it for
//! every file of `fuzz/corpus`, on any toolchain.

pub mod codec;
pub mod control_page;
pub mod heap;
pub mod keys;
pub mod ring;
pub mod store_client;
pub mod store_daemon;

mod machine;
mod tree;
