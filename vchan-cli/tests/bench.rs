//! `vchan bench`, in one program and between two domains. No figure is judged, only that there are
//! some.
#![cfg(feature = "bench")]

mod common;

use std::process::Command;

use common::{Program, emulated_host, guest};
use serde_json::Value;
use vchan::DomId;
use vchan_emulator::{DOMAIN_VARIABLE, Emulator};

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vchan"));
    command.arg("bench").args(arguments);
    command.env_remove(DOMAIN_VARIABLE);
    command
}

fn bench_in(emulator: &Emulator, domid: DomId, arguments: &[&str]) -> Program {
    let mut command = bench(arguments);
    command.env(DOMAIN_VARIABLE, emulator.domain_directory(domid));
    Program::start(command)
}

/// The cells of a report, of which each must have these figures.
fn cells(json: &str, figures: &[&str]) -> Vec<Value> {
    let report: Value = serde_json::from_str(json).unwrap();
    let cells = report["cells"].as_array().unwrap().clone();
    for cell in cells.iter().filter(|cell| cell["transport"] == "vchan") {
        for figure in figures {
            assert!(!cell[figure].is_null(), "{figure}: {cell}");
        }
        assert!(cell["messages_per_second"].as_f64().unwrap() > 0.0);
    }
    cells
}

const FIGURES: [&str; 5] = [
    "bytes_per_second",
    "round_trip",
    "notifications_per_mib",
    "system_calls_per_mib",
    "connecting",
];

#[test]
fn everything_is_measured_in_one_program_and_drawn() {
    let plot = std::env::temp_dir().join(format!("vchan-bench-{}.svg", std::process::id()));
    let mut arguments = vec!["--json", "--sizes=64", "--orders=12", "--seconds=0.001"];
    arguments.extend(["--plot", plot.to_str().unwrap()]);
    let ended = Program::start(bench(&arguments)).finish();
    ended.expect_code(0);
    let cells = cells(std::str::from_utf8(&ended.output).unwrap(), &FIGURES);
    for (transport, mode) in [
        ("vchan", "blocking"),
        ("vchan", "sleep"),
        ("vchan", "spin"),
        ("vchan", "non-blocking"),
        ("vchan", "tokio"),
        ("memcpy, twice", "one thread"),
        ("rtrb", "spin"),
        ("ringbuf", "spin"),
        ("pipe", "blocking"),
        ("Unix socket", "blocking"),
        ("eventfd", "blocking"),
    ] {
        let here = |cell: &&Value| cell["transport"] == transport && cell["mode"] == mode;
        assert_eq!(cells.iter().filter(here).count(), 1, "{transport}, {mode}");
    }
    let svg = std::fs::read_to_string(&plot).unwrap();
    std::fs::remove_file(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("tokio"));
}

#[test]
fn a_table_has_a_line_for_each_cell() {
    let arguments = ["--only-vchan", "--sizes=64,128", "--modes=blocking"];
    let quick = ["--orders=10,11", "--seconds=0.001"];
    let ended = Program::start(bench(&[&arguments[..], &quick].concat())).finish();
    ended.expect_code(0);
    let table = String::from_utf8(ended.output).unwrap();
    let lines = table.lines().filter(|line| line.starts_with("vchan "));
    assert_eq!(lines.count(), 4, "{table}");
    assert!(table.contains("ring order 11"), "{table}");
}

#[test]
fn two_domains_are_measured_by_a_server_and_a_client() {
    let emulator = emulated_host();
    let mut server = bench_in(&emulator, guest(), &["--server", "0"]);
    let arguments = ["--client", "2", "--json", "--sizes=64,4096"];
    let quick = ["--orders=10,12", "--modes=blocking,spin", "--seconds=0.001"];
    let ended = bench_in(&emulator, DomId::DOM0, &[&arguments[..], &quick].concat()).finish();
    ended.expect_code(0);
    let cells = cells(std::str::from_utf8(&ended.output).unwrap(), &FIGURES);
    assert_eq!(cells.len(), 2 * 2 * 2);
    server.wait().expect_code(0);
    emulator.assert_clean();
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    for argument in [
        "--orders=9",
        "--orders=21",
        "--sizes=0",
        "--modes=warp",
        "--server=0x",
        "--seconds=0",
        "--seconds=-1",
        "--seconds=inf",
        "--rate=0",
        "--rate=NaN",
    ] {
        Program::start(bench(&[argument]))
            .finish()
            .expect_failure(2, "invalid value");
    }
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_measured() {
    let quick = "--seconds=0.001";
    for (argument, what) in [
        (
            "--plot=/nonexistent/plot.svg",
            "cannot draw to /nonexistent",
        ),
        ("--client=2", "neither a Xen host nor an emulated one"),
    ] {
        let ended = Program::start(bench(&[argument, quick])).finish();
        ended.expect_failure(1, what);
    }
}

#[test]
fn completions_and_the_manual_page_know_the_tools_options() {
    for arguments in [["--completions", "bash"].as_slice(), &["--man"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vchan"));
        command.args(arguments);
        let ended = Program::start(command).finish();
        ended.expect_code(0);
        let text = String::from_utf8(ended.output).unwrap().replace('\\', "");
        for option in ["--only-vchan", "--completions"] {
            assert!(text.contains(option), "{arguments:?} without {option}");
        }
    }
}
