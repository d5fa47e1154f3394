//! What the tests that cross crates share: the C library, and programs that use it.

pub mod c_library;
pub mod driver;
pub mod pattern;
