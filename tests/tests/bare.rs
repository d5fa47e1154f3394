//! The library, the echo and `unikernel-core` link without std.

use std::path::Path;
use std::process::Command;

/// The program is in `tests/bare`; what it does itself is said there.
#[test]
fn a_program_without_std_links_and_runs() {
    let bare = Path::new(env!("CARGO_MANIFEST_DIR")).join("bare");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bare");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--manifest-path"])
        .arg(bare.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // Flags of this build, as for a model checker, are not for that one.
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    let ended = Command::new(target.join("debug/bare")).status().unwrap();
    assert!(ended.success(), "{ended}");
}
