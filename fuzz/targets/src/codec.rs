//! The XenStore codec, which takes bytes from a socket and from a device.

use vchan::xenstore::codec::{self, CodecError, Decoder, HEADER_SIZE, Message, PAYLOAD_MAX};

/// The first two bytes say how the others are cut; those are the stream.
pub fn run(data: &[u8]) {
    let Some((&[first, second], stream)) = data.split_first_chunk() else {
        return;
    };
    let (whole, end) = decode(stream, [stream.len(), stream.len()]);
    let pieces = decode(stream, [usize::from(first) + 1, usize::from(second) + 1]);
    assert_eq!((&whole, &end), (&pieces.0, &pieces.1), "however it is cut");

    // What was taken is what was sent, and what remains is less than a message.
    let mut rest = stream;
    for message in &whole {
        let Ok(encoded) = message.encode() else {
            panic!("{} bytes cannot be sent", message.payload.len());
        };
        let Some(after) = rest.strip_prefix(&*encoded) else {
            panic!("a {} is not what was received", message.kind);
        };
        rest = after;
        payload(message);
    }
    match end {
        None => assert!(rest.len() < HEADER_SIZE + PAYLOAD_MAX, "held back"),
        Some(CodecError::TooLong { length }) => assert!(length > PAYLOAD_MAX),
        Some(other) => panic!("{other}"),
    }

    let long = Message {
        kind: codec::Kind(u32::from(first)),
        request_id: u32::from(second),
        transaction_id: 0,
        payload: stream.to_vec(),
    };
    assert_eq!(long.encode().is_ok(), stream.len() <= PAYLOAD_MAX);
}

/// All messages of a stream that arrives in pieces of these two lengths in turn, and the error at
/// its end.
fn decode(stream: &[u8], lengths: [usize; 2]) -> (Vec<Message>, Option<CodecError>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    let mut rest = stream;
    for &length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    decoder.push(&[0; 32]);
                    assert_eq!(decoder.next_message(), Err(error), "for ever");
                    return (messages, Some(error));
                }
            }
        }
    }
    let taken: usize = (messages.iter())
        .map(|message| HEADER_SIZE + message.payload.len())
        .sum();
    assert_eq!(decoder.is_mid_message(), taken < stream.len());
    (messages, None)
}

/// What a payload can be taken for.
fn payload(message: &Message) {
    let bytes = &message.payload[..];
    let Ok(strings) = codec::split_strings(bytes) else {
        assert!(codec::watch_event(bytes).is_err());
        return;
    };
    assert_eq!(codec::join_strings(&strings), bytes);
    match codec::watch_event(bytes) {
        Ok((path, token)) => assert_eq!(strings[..2], [path, token]),
        Err(_) => assert!(strings.len() < 2),
    }
    for name in &strings {
        _ = codec::error_kind(name);
    }
    if let Ok(permissions) = codec::parse_permissions(strings.iter().copied()) {
        let written = codec::permission_strings(&permissions);
        assert_eq!(written.len(), strings.len());
        let again = codec::parse_permissions(written.iter().map(String::as_str));
        assert_eq!(again, Ok(permissions));
    }
}
