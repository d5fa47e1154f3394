//! Transactions on the emulated XenStore.

use vchan::xenstore::codec::Kind;
use vchan_emulator::Limits;

mod common;

use common::{Client, emulator, failed};

fn begin(client: &mut Client) -> u32 {
    client.ask(Kind::TRANSACTION_START, &[""]).unwrap()[0]
        .parse()
        .unwrap()
}

fn end(client: &mut Client, number: u32, commit: &str) -> Result<Vec<String>, String> {
    client.ask_in(number, Kind::TRANSACTION_END, &[commit])
}

#[test]
fn a_transaction_is_seen_by_others_whole_or_not_at_all() {
    let emulator = emulator();
    let (mut one, mut two) = (Client::new(&emulator, 0), Client::new(&emulator, 0));
    two.ask(Kind::WATCH, &["/pair", "t"]).unwrap();
    two.event();
    let number = begin(&mut one);
    one.write(number, "/pair/left", "1").unwrap();
    one.write(number, "/pair/right", "2").unwrap();
    one.write(number, "/pair/right", "3").unwrap();
    assert_eq!(
        one.ask_in(number, Kind::READ, &["/pair/right"]).unwrap(),
        ["3"]
    );
    assert_eq!(one.ask(Kind::READ, &["/pair/right"]), failed("ENOENT"));
    assert_eq!(two.ask(Kind::READ, &["/pair/left"]), failed("ENOENT"));
    assert_eq!(
        two.ask_in(number, Kind::READ, &["/pair/left"]),
        failed("ENOENT"),
        "not its own"
    );
    end(&mut one, number, "T").unwrap();
    assert_eq!(two.event(), ["/pair/left", "t"]);
    assert_eq!(two.event(), ["/pair/right", "t"]);
    assert_eq!(
        two.ask(Kind::DIRECTORY, &["/pair"]).unwrap(),
        ["left", "right"]
    );
    assert_eq!(end(&mut one, number, "T"), failed("ENOENT"));

    let number = begin(&mut one);
    one.ask_in(number, Kind::RM, &["/pair"]).unwrap();
    assert_eq!(
        one.ask_in(number, Kind::READ, &["/pair/left"]),
        failed("ENOENT")
    );
    end(&mut one, number, "F").unwrap();
    assert_eq!(two.ask(Kind::READ, &["/pair/left"]).unwrap(), ["1"]);
}

#[test]
fn transactions_that_collide_are_refused() {
    let emulator = emulator();
    let (mut one, mut two) = (Client::new(&emulator, 0), Client::new(&emulator, 0));
    one.write(0, "/counter", "1").unwrap();
    let number = begin(&mut one);
    one.ask_in(number, Kind::READ, &["/counter"]).unwrap();
    two.write(0, "/counter", "1").unwrap();
    one.write(number, "/counter", "2").unwrap();
    assert_eq!(end(&mut one, number, "T"), failed("EAGAIN"));
    assert_eq!(one.ask(Kind::READ, &["/counter"]).unwrap(), ["1"]);

    // Two that only touch different nodes do not.
    let (first, second) = (begin(&mut one), begin(&mut two));
    one.write(first, "/counter", "2").unwrap();
    two.write(second, "/tool/x", "3").unwrap();
    end(&mut one, first, "T").unwrap();
    end(&mut two, second, "T").unwrap();

    // That a node is not there is something read, too.
    let number = begin(&mut one);
    assert_eq!(
        one.ask_in(number, Kind::READ, &["/tool/new"]),
        failed("ENOENT")
    );
    two.write(0, "/tool/new", "x").unwrap();
    assert_eq!(end(&mut one, number, "T"), failed("EAGAIN"));
}

#[test]
fn transactions_have_their_limits_and_end_with_their_client() {
    let emulator = emulator();
    let mut limits = Limits::default();
    limits.store_transactions = 1;
    limits.store_transaction_nodes = 10;
    emulator.set_limits(limits);
    let mut guest = Client::new(&emulator, 1);
    let number = begin(&mut guest);
    assert_eq!(
        guest.ask_in(number, Kind::TRANSACTION_START, &[""]),
        failed("EBUSY")
    );
    begin(&mut guest);
    assert_eq!(guest.ask(Kind::TRANSACTION_START, &[""]), failed("ENOSPC"));
    assert_eq!(guest.ask_in(99, Kind::READ, &["domid"]), failed("ENOENT"));
    let touched = (0..20).map(|n| guest.ask_in(number, Kind::READ, &[&format!("data/{n}")]));
    assert!(touched.collect::<Vec<_>>().contains(&failed("ENOSPC")));
    assert_eq!(emulator.leftovers().len(), 2);
    drop(guest);
    emulator.assert_clean();
}

#[test]
fn a_quota_counts_what_a_transaction_makes() {
    let emulator = emulator();
    let mut limits = Limits::default();
    limits.store_nodes = 3;
    emulator.set_limits(limits);
    let mut guest = Client::new(&emulator, 1);
    let number = begin(&mut guest);
    guest.write(number, "data/a", "").unwrap();
    guest.write(number, "data/b", "").unwrap();
    assert_eq!(guest.write(number, "data/c", ""), failed("ENOSPC"));
    guest.ask_in(number, Kind::RM, &["data/a"]).unwrap();
    guest.write(number, "data/c", "").unwrap();
    end(&mut guest, number, "T").unwrap();
    assert_eq!(guest.ask(Kind::DIRECTORY, &["data"]).unwrap(), ["b", "c"]);
}

#[test]
fn nobody_hears_of_what_a_transaction_makes_and_removes() {
    let emulator = emulator();
    let (mut one, mut watcher) = (Client::new(&emulator, 0), Client::new(&emulator, 0));
    watcher.ask(Kind::WATCH, &["/pair", "t"]).unwrap();
    watcher.event();
    let number = begin(&mut one);
    one.write(number, "/pair/left", "1").unwrap();
    one.write(number, "/pair/right", "1").unwrap();
    one.ask_in(number, Kind::RM, &["/pair/left"]).unwrap();
    end(&mut one, number, "T").unwrap();
    assert_eq!(watcher.event(), ["/pair/right", "t"]);
    assert_eq!(watcher.ask(Kind::DIRECTORY, &["/pair"]).unwrap(), ["right"]);
}
