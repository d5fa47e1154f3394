//! The runtime's memory functions, which are machine code and so can be tested on any machine that
//! has the same processor: the tests are beside them.
#![cfg(target_arch = "x86_64")]

#[path = "../../src/string.rs"]
mod string;
