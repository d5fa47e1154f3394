//! Links the program as a Xen guest.

fn main() {
    for argument in ["-nostartfiles", "-no-pie", "-Tunikernel.ld"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
