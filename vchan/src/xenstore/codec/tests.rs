use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::host::{NodeAccess, Permissions};
use crate::{DomId, StoreErrorKind};

fn message(kind: Kind, payload: &[u8]) -> Message {
    Message {
        kind,
        request_id: 0x0102_0304,
        transaction_id: 7,
        payload: payload.to_vec(),
    }
}

fn domid(number: u16) -> DomId {
    DomId::new(number).unwrap()
}

#[test]
fn a_message_on_the_wire() {
    let bytes = message(Kind::WRITE, b"data/x\0v").encode().unwrap();
    let header = [11, 0, 0, 0, 4, 3, 2, 1, 7, 0, 0, 0, 8, 0, 0, 0];
    assert_eq!(bytes[..16], header);
    assert_eq!(&bytes[16..], b"data/x\0v");
}

#[test]
fn messages_come_out_as_they_went_in_however_they_are_cut() {
    let sent = [
        message(Kind::READ, b"data\0"),
        message(Kind::DIRECTORY, b""),
        message(Kind(99), &[0xFF; PAYLOAD_MAX]),
        message(Kind::WATCH_EVENT, b"data\0token\0"),
    ];
    let stream: Vec<u8> = sent.iter().flat_map(|m| m.encode().unwrap()).collect();
    for step in [1, 2, 15, 16, 17, 100, 4096, 5000, stream.len()] {
        let mut decoder = Decoder::new();
        let mut received = Vec::new();
        for bytes in stream.chunks(step) {
            decoder.push(bytes);
            while let Some(message) = decoder.next_message().unwrap() {
                received.push(message);
            }
        }
        assert_eq!(received, sent, "in steps of {step}");
        assert!(!decoder.is_mid_message());
    }
}

#[test]
fn a_stream_that_ends_inside_a_message_is_noticed() {
    let bytes = message(Kind::READ, b"data\0").encode().unwrap();
    for length in 1..bytes.len() {
        let mut decoder = Decoder::new();
        decoder.push(&bytes[..length]);
        assert_eq!(decoder.next_message(), Ok(None));
        assert!(decoder.is_mid_message(), "{length}");
    }
}

#[test]
fn a_message_that_is_too_long_is_neither_sent_nor_read() {
    let long = message(Kind::WRITE, &[0; PAYLOAD_MAX + 1]);
    assert_eq!(long.encode(), Err(CodecError::TooLong { length: 4097 }));
    for length in [4097, 0x8000_0000, u32::MAX] {
        let mut header = vec![0; 12];
        header.extend_from_slice(&length.to_le_bytes());
        let mut decoder = Decoder::new();
        decoder.push(&header);
        let refused = decoder.next_message().unwrap_err();
        decoder.push(&[0; 64]);
        assert_eq!(decoder.next_message(), Err(refused), "for ever");
    }
}

#[test]
fn random_bytes_give_messages_or_an_error_and_no_more() {
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    for _ in 0..2000 {
        let mut decoder = Decoder::new();
        for _ in 0..20 {
            // Mostly small numbers, so that some headers make sense.
            let bytes = random().map(|byte| if byte & 3 == 0 { byte >> 4 } else { 0 });
            decoder.push(&bytes);
            while let Ok(Some(message)) = decoder.next_message() {
                _ = split_strings(&message.payload).map(parse_permissions);
                _ = watch_event(&message.payload);
            }
        }
    }
}

#[test]
fn strings() {
    assert_eq!(join_strings(["a", "", "bc"]), b"a\0\0bc\0");
    assert_eq!(split_strings(b"a\0\0bc\0").unwrap(), ["a", "", "bc"]);
    assert_eq!(split_strings(b"\0").unwrap(), [""]);
    assert!(split_strings(b"").unwrap().is_empty());
    assert!(split_strings(b"a\0b").is_err(), "the last one is not ended");
    assert!(split_strings(b"\xFF\0").is_err(), "not text");
}

#[test]
fn watch_events() {
    assert_eq!(watch_event(b"data/x\0t1\0").unwrap(), ("data/x", "t1"));
    assert_eq!(watch_event(b"@releaseDomain\0t\0more\0").unwrap().1, "t");
    for bad in [&b""[..], b"data\0", b"data", b"data\0token"] {
        assert!(watch_event(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn permissions() {
    let permissions = Permissions {
        owner: domid(1),
        default: NodeAccess::None,
        domains: vec![
            (domid(2), NodeAccess::Read),
            (domid(0), NodeAccess::Both),
            (domid(32751), NodeAccess::Write),
        ],
    };
    let strings = permission_strings(&permissions);
    assert_eq!(strings, ["n1", "r2", "b0", "w32751"]);
    let parsed = parse_permissions(strings.iter().map(|string| &**string));
    assert_eq!(parsed.unwrap(), permissions);
    for bad in [
        &[][..],
        &[""],
        &["n"],
        &["x1"],
        &["n-1"],
        &["n32752"],
        &["n0", "r"],
        &["ä1"],
    ] {
        assert!(parse_permissions(bad.iter().copied()).is_err(), "{bad:?}");
    }
}

#[test]
fn error_names_and_kinds() {
    for kind in [
        StoreErrorKind::NotFound,
        StoreErrorKind::Denied,
        StoreErrorKind::Exists,
        StoreErrorKind::Invalid,
        StoreErrorKind::Again,
        StoreErrorKind::Quota,
        StoreErrorKind::Refused,
    ] {
        assert_eq!(error_kind(error_name(kind)), kind);
    }
    assert_eq!(error_kind("EPERM"), StoreErrorKind::Denied);
    assert_eq!(error_kind("E2BIG"), StoreErrorKind::Quota);
    assert_eq!(error_kind("what?"), StoreErrorKind::Refused);
}
