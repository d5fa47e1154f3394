//! The bytes written just before a close: C loses them, and this is where.
//!
//! That we do not is shown for every interleaving by the models in `vchan/src/endpoint/models`.

use std::process::{Command, Stdio};

use vchan::DomId;
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};
use vchan_tests::c_library;

/// The client writes 100 bytes and closes while a C server reads. If that happens after the server
/// has looked at the ring and before it looks at the live byte, the read says that all is over,
/// though the bytes are there: a program that believes it has lost them. See `tests/c/last-bytes.c`.
#[test]
fn c_takes_a_client_that_writes_and_closes_for_one_that_only_closes() {
    let Some(program) = c_library::last_bytes() else {
        return;
    };
    let emulator = Emulator::start().unwrap();
    let server = DomId::new(2).unwrap();
    for domid in [DomId::DOM0, server] {
        emulator.add_domain(domid).unwrap();
    }
    let output = Command::new(program)
        .arg("100")
        .env(DOMAIN_VARIABLE, emulator.domain_directory(server))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let outcomes: Vec<[i32; 2]> = text
        .lines()
        .map(|line| {
            let numbers: Vec<i32> = line.split(' ').map(|n| n.parse().unwrap()).collect();
            [numbers[1], numbers[2]]
        })
        .collect();

    // In time; seen too late, and lost; after the read had decided that there is nothing yet.
    let (read, lost, later) = ([100, 0], [-1, 100], [0, 100]);
    let mut order = outcomes.clone();
    order.dedup();
    assert_eq!(order, [read, lost, later], "{text}");
    emulator.assert_clean();
}
