//! Lets the linker find `unikernel.ld`, also for the programs that depend on this package.

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rerun-if-changed=unikernel.ld");
    println!("cargo::rustc-link-search={directory}");
    for argument in ["-nostartfiles", "-no-pie", "-Tunikernel.ld"] {
        println!("cargo::rustc-link-arg-examples={argument}");
    }
}
