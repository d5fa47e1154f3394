//! What node-cli says to a command line or a host that it cannot use.

mod common;

use common::{Ended, Program, emulated_host, node_cli, start_in_dom0};
use vchan::DomId;

fn run(arguments: &[&str]) -> Ended {
    Program::start(node_cli(arguments)).finish()
}

const DOMID: &str = "a domid is a whole number from 0 to 32751, as `xl list` shows it";
const SIZE: &str = "the size of a vchan ring is a whole number of bytes from 0 to 1048576 (1 MiB)";
const TIME: &str = "a time is a number of seconds from 0 to 31536000, such as 10 or 0.5";

#[test]
fn bad_arguments_are_named_with_the_remedy() {
    let long = "a".repeat(2049);
    for (arguments, value, remedy) in [
        (["echo"].as_slice(), "'echo'", DOMID),
        (&[""], "''", DOMID),
        (&["-1"], "'-1'", DOMID),
        (&["-s", "-1"], "'-1'", DOMID),
        (&["32752"], "'32752'", DOMID),
        (&["99999999999"], "'99999999999'", DOMID),
        (&["2.0"], "'2.0'", DOMID),
        (&[], "<DOMID>", "required"),
        (&["2", "-n", "a.b"], "'a.b'", "use A-Z a-z 0-9 - / _ @"),
        (&["2", "-n", "a b"], "'a b'", "use A-Z a-z 0-9 - / _ @"),
        (
            &["2", "-n", "data//x"],
            "'data//x'",
            "a name between any two slashes",
        ),
        (&["2", "-n", "data/"], "'data/'", "does not end with one"),
        (&["2", "-n", ""], "--nodepath", "cannot be empty"),
        (
            &["2", "-n", &long],
            "--nodepath",
            "at most 2048 bytes, this one has 2049",
        ),
        (&["2", "--read-size", "1048577"], "'1048577'", SIZE),
        (&["2", "--write-size", "-5"], "'-5'", SIZE),
        (&["2", "--write-size", "lots"], "'lots'", SIZE),
        (&["2", "--timeout", "-1"], "'-1'", TIME),
        (&["2", "--timeout", "NaN"], "'NaN'", TIME),
        (&["2", "--timeout", "inf"], "'inf'", TIME),
        (&["2", "--timeout", "1e300"], "'1e300'", TIME),
        (&["2", "--linger", "soon"], "'soon'", TIME),
    ] {
        let ended = run(arguments);
        ended.expect_failure(2, value);
        ended.expect_failure(2, remedy);
    }
}

#[test]
fn its_own_domid() {
    let emulator = emulated_host();
    for arguments in [["0"].as_slice(), &["-s", "0"]] {
        let ended = start_in_dom0(&emulator, arguments).finish();
        ended.expect_failure(2, "domain 0 is this domain itself");
    }
    emulator.assert_clean();
}

#[test]
fn a_path_that_leaves_no_room_for_the_keys() {
    let emulator = emulated_host();
    let (absolute, relative) = (format!("/{}", "a".repeat(3070)), "a".repeat(2048));
    for (arguments, path) in [
        (["2", "-n", &absolute].as_slice(), &absolute),
        (&["-s", "2", "-n", &relative], &relative),
    ] {
        let ended = start_in_dom0(&emulator, arguments).finish();
        ended.expect_failure(2, &format!("the node path {path} cannot be used"));
        ended.expect_failure(2, "at most");
    }
    emulator.assert_clean();
}

#[test]
fn without_any_host_it_says_so_and_what_to_do() {
    let ended = run(&["2"]);
    for part in [
        "neither a Xen host nor an emulated one can be used here",
        "cargo xtask demo",
        "VCHAN_EMULATED_DOMAIN",
        "as root",
    ] {
        ended.expect_failure(4, part);
    }
}

#[test]
fn an_emulated_domain_that_is_not_there() {
    let mut command = node_cli(&["2"]);
    command.env("VCHAN_EMULATED_DOMAIN", "/nowhere/domain/0");
    let ended = Program::start(command).finish();
    ended.expect_failure(4, "/nowhere/domain/0");
}

#[test]
fn a_host_that_goes_away_while_it_waits() {
    let emulator = emulated_host();
    let mut client = start_in_dom0(&emulator, &["2"]);
    client.expect_said("waiting for");
    drop(emulator);
    client.wait().expect_failure(1, "XenStore");
}

#[test]
fn keys_that_cannot_be_right() {
    let emulator = emulated_host();
    let store = emulator.host(DomId::DOM0).unwrap();
    let key = |name: &str| {
        let path = format!("/local/domain/2/data/vchan/{name}");
        path.parse().unwrap()
    };
    for (ring_ref, event_channel, wrong) in [
        ("garbage", "4", "garbage"),
        ("8", "99999999999", "99999999999"),
    ] {
        store
            .store()
            .write(&key("ring-ref"), ring_ref.as_bytes())
            .unwrap();
        store
            .store()
            .write(&key("event-channel"), event_channel.as_bytes())
            .unwrap();
        let ended = start_in_dom0(&emulator, &["2", "--timeout", "5"]).finish();
        ended.expect_failure(1, wrong);
        ended.expect_failure(1, "/local/domain/2/data/vchan/");
    }
}

#[test]
fn what_clap_generates() {
    for (arguments, part) in [
        (["--man"].as_slice(), ".TH node-cli"),
        (&["--completions", "bash"], "complete -F"),
        (&["--help"], "Exit codes:"),
        (&["--version"], "node-cli"),
    ] {
        let ended = run(arguments);
        ended.expect_code(0);
        let text = String::from_utf8(ended.output).unwrap();
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}
