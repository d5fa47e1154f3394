//! The XenStore protocol, byte by byte, as a client of any make may speak it.

use std::io::Write;

use vchan::DomId;
use vchan::xenstore::codec::{Kind, Message, split_strings};

mod common;

use common::{Client, emulator, failed};

#[test]
fn requests_have_the_answers_of_xenstored() {
    let emulator = emulator();
    let (mut dom0, mut guest) = (Client::new(&emulator, 0), Client::new(&emulator, 1));
    let ok = Ok(vec!["OK".to_owned()]);
    assert_eq!(dom0.write(0, "/a/b/c", "1"), ok);
    assert_eq!(dom0.ask(Kind::READ, &["/a/b/c"]).unwrap(), ["1"]);
    assert_eq!(dom0.ask(Kind::DIRECTORY, &["/a"]).unwrap(), ["b"]);
    assert_eq!(dom0.ask(Kind::DIRECTORY, &["/a/b/c"]).unwrap(), [""; 0]);
    assert_eq!(dom0.ask(Kind::MKDIR, &["/a/b"]), ok, "it is there");
    assert_eq!(dom0.ask(Kind::MKDIR, &["/a/d/e"]), ok);
    assert_eq!(dom0.ask(Kind::GET_PERMS, &["/a/d"]).unwrap(), ["n0"]);
    assert_eq!(dom0.ask(Kind::SET_PERMS, &["/a/d", "n0", "r1"]), ok);
    assert_eq!(dom0.ask(Kind::GET_PERMS, &["/a/d"]).unwrap(), ["n0", "r1"]);
    assert_eq!(guest.ask(Kind::GET_PERMS, &["/a/d"]).unwrap(), ["n0", "r1"]);
    assert_eq!(
        guest.ask(Kind::SET_PERMS, &["/a/d", "b0"]),
        failed("EACCES")
    );
    assert_eq!(dom0.ask(Kind::RM, &["/a/b"]), ok);
    assert_eq!(dom0.ask(Kind::READ, &["/a/b/c"]), failed("ENOENT"));
    assert_eq!(dom0.ask(Kind::RM, &["/a/b"]), ok, "its parent is there");
    assert_eq!(dom0.ask(Kind::RM, &["/a/b/c"]), failed("ENOENT"));
    assert_eq!(dom0.ask(Kind::RM, &["/"]), failed("EINVAL"));
    assert_eq!(
        dom0.ask(Kind::GET_DOMAIN_PATH, &["7"]).unwrap(),
        ["/local/domain/7"]
    );
    assert_eq!(dom0.ask(Kind::IS_DOMAIN_INTRODUCED, &["1"]).unwrap(), ["T"]);
    assert_eq!(dom0.ask(Kind::IS_DOMAIN_INTRODUCED, &["7"]).unwrap(), ["F"]);
    assert_eq!(
        guest.ask(Kind::IS_DOMAIN_INTRODUCED, &["1"]),
        failed("EACCES")
    );
    assert_eq!(guest.ask(Kind::GET_DOMAIN_PATH, &["one"]), failed("EINVAL"));
    assert_eq!(guest.ask(Kind(99), &["x"]), failed("ENOSYS"));
    assert_eq!(
        guest.ask(Kind::WATCH_EVENT, &["data", "x"]),
        failed("ENOSYS")
    );
}

#[test]
fn requests_of_the_wrong_form_are_refused_and_harm_nothing() {
    let emulator = emulator();
    let mut guest = Client::new(&emulator, 1);
    let error = |guest: &mut Client, kind, payload: &[u8]| {
        guest.send(kind, 0, payload);
        let reply = guest.next().unwrap();
        assert_eq!(reply.kind, Kind::ERROR, "{kind} {payload:?}");
        split_strings(&reply.payload).unwrap()[0].to_owned()
    };
    for (kind, payload) in [
        (Kind::READ, &b""[..]),
        (Kind::READ, b"data"),
        (Kind::READ, b"data\0x\0"),
        (Kind::READ, b"\0"),
        (Kind::READ, b"data/\0"),
        (Kind::READ, b"da ta\0"),
        (Kind::READ, b"d\xffta\0"),
        (Kind::READ, b"@releaseDomain\0"),
        (Kind::WRITE, b"data/x"),
        (Kind::WATCH, b"data\0"),
        (Kind::WATCH, b"data\0a\0b\0"),
        (Kind::UNWATCH, b""),
        (Kind::SET_PERMS, b"data\0"),
        (Kind::SET_PERMS, b"data\0x1\0"),
        (Kind::SET_PERMS, b"data\0n70000\0"),
        (Kind::SET_PERMS, b"@nothing\0n0\0"),
        (Kind::DIRECTORY_PART, b"data\0"),
        (Kind::DIRECTORY_PART, b"data\0-1\0"),
        (Kind::TRANSACTION_END, b"X\0"),
    ] {
        assert_eq!(
            error(&mut guest, kind, payload),
            "EINVAL",
            "{kind} {payload:?}"
        );
    }
    assert_eq!(
        guest.write(0, "data/x", "still alive"),
        Ok(vec!["OK".to_owned()])
    );
}

#[test]
fn a_message_that_is_too_long_ends_the_connection_and_no_other() {
    let emulator = emulator();
    let (mut bad, mut good) = (Client::new(&emulator, 1), Client::new(&emulator, 1));
    let mut header = Vec::new();
    for field in [Kind::READ.0, 1, 0, 4097] {
        header.extend(field.to_le_bytes());
    }
    bad.socket.write_all(&header).unwrap();
    assert_eq!(bad.next(), None);
    assert!(good.ask(Kind::READ, &["domid"]).is_ok());
}

#[test]
fn a_message_may_come_in_pieces_and_many_at_once() {
    let emulator = emulator();
    let mut guest = Client::new(&emulator, 1);
    let message = Message {
        kind: Kind::READ,
        request_id: 5,
        transaction_id: 0,
        payload: b"domid\0".to_vec(),
    };
    let bytes = message.encode().unwrap();
    for &byte in &bytes {
        guest.socket.write_all(&[byte]).unwrap();
    }
    guest.socket.write_all(&bytes.repeat(50)).unwrap();
    for _ in 0..51 {
        assert_eq!(guest.next().unwrap().payload, b"1");
    }
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let emulator = emulator();
    let (mut deaf, mut dom0) = (Client::new(&emulator, 1), Client::new(&emulator, 0));
    deaf.ask(Kind::WATCH, &["data", &"token".repeat(500)])
        .unwrap();
    for _ in 0..1000 {
        dom0.write(0, "/local/domain/1/data/x", "").unwrap();
    }
    // What the socket held may still arrive, then it ends.
    while deaf.next().is_some() {}
    dom0.ask(Kind::RM, &["/local/domain/1/data/x"]).unwrap();
    emulator.assert_clean();
}

#[test]
fn a_watch_is_acknowledged_before_it_fires_and_named_as_the_client_named_it() {
    let emulator = emulator();
    let (mut guest, mut dom0) = (Client::new(&emulator, 1), Client::new(&emulator, 0));
    guest.ask(Kind::WATCH, &["data", "relative"]).unwrap();
    assert_eq!(guest.event(), ["data", "relative"]);
    guest
        .ask(Kind::WATCH, &["/local/domain/1/data", "absolute"])
        .unwrap();
    assert_eq!(guest.event(), ["/local/domain/1/data", "absolute"]);
    assert_eq!(
        guest.ask(Kind::WATCH, &["data", "absolute"]),
        failed("EEXIST")
    );
    assert_eq!(
        guest.ask(Kind::UNWATCH, &["data", "other"]),
        failed("ENOENT")
    );
    dom0.write(0, "/local/domain/1/data/vchan", "x").unwrap();
    assert_eq!(guest.event(), ["data/vchan", "relative"]);
    assert_eq!(guest.event(), ["/local/domain/1/data/vchan", "absolute"]);
    guest.ask(Kind::UNWATCH, &["data", "relative"]).unwrap();
    dom0.ask(Kind::RM, &["/local/domain/1/data"]).unwrap();
    // It is told of the topmost node that went; one below only concerns those who watch it itself.
    assert_eq!(guest.event(), ["/local/domain/1/data", "absolute"]);
    guest.ask(Kind::RESET_WATCHES, &[""]).unwrap();
    dom0.write(0, "/local/domain/1/data", "x").unwrap();
    assert!(
        guest.ask(Kind::READ, &["domid"]).is_ok(),
        "and no event before that"
    );
}

#[test]
fn a_client_hears_of_its_own_change_before_it_is_acknowledged() {
    let emulator = emulator();
    let mut guest = Client::new(&emulator, 1);
    guest.ask(Kind::WATCH, &["data", "t"]).unwrap();
    guest.event();
    guest.send(Kind::MKDIR, 0, b"data/a\0");
    assert_eq!(guest.event(), ["data/a", "t"]);
    assert_eq!(guest.next().unwrap().kind, Kind::MKDIR);
}

#[test]
fn nodes_that_go_together_are_told_from_below() {
    let emulator = emulator();
    let (mut watcher, mut dom0) = (Client::new(&emulator, 0), Client::new(&emulator, 0));
    dom0.write(0, "/u/v/w/x", "1").unwrap();
    for path in ["/u/v", "/u/v/w", "/u"] {
        watcher.ask(Kind::WATCH, &[path, "t"]).unwrap();
        watcher.event();
    }
    dom0.ask(Kind::RM, &["/u"]).unwrap();
    for path in ["/u/v/w", "/u/v", "/u"] {
        assert_eq!(watcher.event(), [path, "t"]);
    }
}

#[test]
fn a_destroyed_domains_nodes_go_before_it_is_told_and_its_home_after() {
    let emulator = emulator();
    let (mut watcher, mut guest) = (Client::new(&emulator, 0), Client::new(&emulator, 1));
    watcher.write(0, "/other", "").unwrap();
    watcher.ask(Kind::SET_PERMS, &["/other", "b0"]).unwrap();
    guest.write(0, "/other/mine", "1").unwrap();
    guest.write(0, "data/q", "1").unwrap();
    let home = "/local/domain/1";
    for path in ["/other", "@releaseDomain", home] {
        watcher.ask(Kind::WATCH, &[path, "t"]).unwrap();
        watcher.event();
    }
    emulator.destroy_domain(DomId::new(1).unwrap()).unwrap();
    for path in [
        "/local/domain/1/data",
        "/other/mine",
        "@releaseDomain",
        home,
    ] {
        assert_eq!(watcher.event(), [path, "t"]);
    }
}

#[test]
fn a_node_cannot_have_an_owner_who_does_not_exist() {
    let emulator = emulator();
    let mut dom0 = Client::new(&emulator, 0);
    dom0.write(0, "/a", "").unwrap();
    assert_eq!(dom0.ask(Kind::SET_PERMS, &["/a", "n7"]), failed("ENOENT"));
    assert!(
        dom0.ask(Kind::SET_PERMS, &["/a", "n0", "r7"]).is_ok(),
        "but others may be named"
    );
}

#[test]
fn the_names_of_children_count_for_a_nodes_size() {
    let emulator = emulator();
    let mut guest = Client::new(&emulator, 1);
    let mut made = 0;
    while guest.write(0, &format!("data/n{made}"), "").is_ok() {
        made += 1;
    }
    // A header of 24 bytes, a permission of 8, and 2015 bytes of names: one less than 2048.
    assert_eq!(made, 425);
    assert!(guest.ask(Kind::RM, &["data/n0"]).is_ok());
    assert!(
        guest.write(0, "data/m", "").is_ok(),
        "now there is room for another name"
    );
}
