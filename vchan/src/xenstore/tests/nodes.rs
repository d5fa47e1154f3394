//! What each request looks like, and what its replies mean.

use std::vec;

use super::*;
use crate::host::{NodeAccess, Permissions, Store};
use crate::{DomId, StoreErrorKind};

#[test]
fn reading_and_writing() {
    play(
        |store| {
            let request = store.expect(Kind::READ);
            assert_eq!(request.payload, b"data/x\0");
            assert_eq!(request.transaction_id, 0);
            store.reply(&request, b"\xFF\0binary");
            let request = store.expect(Kind::WRITE);
            assert_eq!(request.payload, b"data/x\0value");
            store.ok(&request);
            let request = store.expect(Kind::WRITE);
            assert_eq!(request.payload, b"data/x\0", "an empty value");
            store.ok(&request);
            let request = store.expect(Kind::MKDIR);
            assert_eq!(request.payload, b"data/d\0");
            store.ok(&request);
        },
        |client| {
            assert_eq!(client.read(&path("data/x")).unwrap(), b"\xFF\0binary");
            client.write(&path("data/x"), b"value").unwrap();
            client.write(&path("data/x"), b"").unwrap();
            client.make_directory(&path("data/d")).unwrap();
        },
    );
}

#[test]
fn a_value_that_is_too_long_is_never_sent() {
    play(
        |store| assert!(store.next().is_none()),
        |client| {
            let error = client.write(&path("data/x"), &[0; 4090]).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Invalid);
            assert!(error.to_string().contains("4097"), "{error}");
        },
    );
}

#[test]
fn errors_have_kinds() {
    let names = [
        ("ENOENT", StoreErrorKind::NotFound),
        ("EACCES", StoreErrorKind::Denied),
        ("EPERM", StoreErrorKind::Denied),
        ("EEXIST", StoreErrorKind::Exists),
        ("EINVAL", StoreErrorKind::Invalid),
        ("ENOSPC", StoreErrorKind::Quota),
        ("E2BIG", StoreErrorKind::Quota),
        ("EROFS", StoreErrorKind::Refused),
        ("ENOSYS", StoreErrorKind::Refused),
        ("EFLUFFY", StoreErrorKind::Refused),
    ];
    play(
        move |store| {
            for (name, _) in names {
                let request = store.expect(Kind::READ);
                store.error(&request, name);
            }
        },
        move |client| {
            for (name, kind) in names {
                let error = client.read(&path("data/x")).unwrap_err();
                assert_eq!(error.kind, kind, "{name}");
                assert!(error.to_string().contains("read data/x"), "{error}");
            }
        },
    );
}

#[test]
fn removing_what_is_not_there_is_no_error() {
    play(
        |store| {
            let request = store.expect(Kind::RM);
            store.error(&request, "ENOENT");
            let request = store.expect(Kind::RM);
            store.error(&request, "EACCES");
        },
        |client| {
            client.remove(&path("data/x")).unwrap();
            let error = client.remove(&path("data/x")).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Denied);
        },
    );
}

#[test]
fn permissions_go_both_ways() {
    let permissions = Permissions {
        owner: DomId::new(1).unwrap(),
        default: NodeAccess::None,
        domains: vec![(DomId::new(2).unwrap(), NodeAccess::Read)],
    };
    let expected = permissions.clone();
    play(
        |store| {
            let request = store.expect(Kind::SET_PERMS);
            assert_eq!(strings(&request), ["data/x", "n1", "r2"]);
            store.ok(&request);
            let request = store.expect(Kind::GET_PERMS);
            store.reply(&request, b"n1\0r2\0");
        },
        move |client| {
            client
                .set_permissions(&path("data/x"), &permissions)
                .unwrap();
            assert_eq!(client.permissions(&path("data/x")).unwrap(), expected);
        },
    );
}

#[test]
fn a_listing_may_be_empty_or_come_in_parts() {
    play(
        |store| {
            let request = store.expect(Kind::DIRECTORY);
            store.reply(&request, b"");
            let request = store.expect(Kind::DIRECTORY);
            store.reply(&request, b"a\0bc\0");

            let request = store.expect(Kind::DIRECTORY);
            store.error(&request, "E2BIG");
            // The children change after the first part: the client begins anew.
            for (offset, part) in [
                ("0", &b"7\0a\0b\0"[..]),
                ("4", b"8\0x\0"),
                ("0", b"8\0aa\0b\0"),
                ("5", b"8\0ccc\0"),
                ("9", b"8\0d\0\0"),
            ] {
                let request = store.expect(Kind::DIRECTORY_PART);
                assert_eq!(strings(&request), ["data", offset]);
                store.reply(&request, part);
            }
        },
        |client| {
            assert!(client.directory(&path("data")).unwrap().is_empty());
            assert_eq!(client.directory(&path("data")).unwrap(), ["a", "bc"]);
            let names = client.directory(&path("data")).unwrap();
            assert_eq!(names, ["aa", "b", "ccc", "d"]);
        },
    );
}

#[test]
fn a_listing_that_never_settles_is_given_up() {
    play(
        |store| {
            let request = store.expect(Kind::DIRECTORY);
            store.error(&request, "E2BIG");
            for generation in 0..20 {
                let request = store.expect(Kind::DIRECTORY_PART);
                let part = join_strings([&*generation.to_string(), "a"]);
                store.reply(&request, &part);
            }
        },
        |client| {
            let error = client.directory(&path("data")).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Again);
        },
    );
}

#[test]
fn questions_about_domains() {
    play(
        |store| {
            for answer in [b"T\0", b"F\0"] {
                let request = store.expect(Kind::IS_DOMAIN_INTRODUCED);
                assert_eq!(request.payload, b"7\0");
                store.reply(&request, answer);
            }
            let request = store.expect(Kind::GET_DOMAIN_PATH);
            assert_eq!(request.payload, b"7\0");
            store.reply(&request, b"/local/domain/7\0");
        },
        |client| {
            let domid = DomId::new(7).unwrap();
            assert!(client.is_domain_introduced(domid).unwrap());
            assert!(!client.is_domain_introduced(domid).unwrap());
            assert_eq!(client.domain_path(domid).unwrap(), path("/local/domain/7"));
        },
    );
}

#[test]
fn a_reply_that_makes_no_sense_ends_the_connection() {
    type Question = fn(&Client) -> Result<(), crate::StoreError>;
    let questions: [(Question, &'static [u8]); 5] = [
        (|c| c.is_domain_introduced(DomId::DOM0).map(drop), b"maybe"),
        (|c| c.domain_path(DomId::DOM0).map(drop), b"/local/../x\0"),
        (|c| c.permissions(&path("x")).map(drop), b"z0\0"),
        (|c| c.directory(&path("x")).map(drop), b"\xFF\0"),
        (|c| c.begin().map(drop), b"0\0"),
    ];
    for (question, answer) in questions {
        play(
            move |store| {
                let request = store.next().unwrap();
                store.reply(&request, answer);
                assert!(store.next().is_none());
            },
            move |client| {
                let error = question(&client).unwrap_err();
                assert_eq!(error.kind, StoreErrorKind::Protocol, "{error}");
                let later = client.read(&path("x")).unwrap_err();
                assert_eq!(later.kind, StoreErrorKind::Protocol, "{later}");
            },
        );
    }
}
