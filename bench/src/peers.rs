//! What a vchan is compared with, and the vchan itself.

pub mod memory;
pub mod rings;
pub mod sockets;
pub mod vchan;
