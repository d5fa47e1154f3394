//! Real Xen on a machine without Xen: Debian's hypervisor, dom0 kernel and
//! tools, unpacked (never installed) under `target/xen` and booted by QEMU in
//! software emulation.

pub mod binaries;
pub mod console;
pub mod demo;
pub mod images;
pub mod packages;
pub mod qemu;
pub mod scenarios;
pub mod shell;
