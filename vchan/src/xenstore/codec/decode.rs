//! Cutting a stream of bytes into messages.

use alloc::vec::Vec;

use super::{CodecError, HEADER_SIZE, Kind, Message, PAYLOAD_MAX};

/// Cuts a stream of bytes, as they arrive, into messages.
///
/// It holds what was pushed and not taken: a caller that takes all messages after each push
/// bounds that to one message and one push.
#[derive(Default, Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// How many bytes of `buffer` were handed out already; never more than it has.
    taken: usize,
}

impl Decoder {
    /// A decoder at the beginning of a message.
    #[must_use]
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole message; `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`CodecError::TooLong`], now and at every later call.
    pub fn next_message(&mut self) -> Result<Option<Message>, CodecError> {
        let rest = self.rest();
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_SIZE>() else {
            return Ok(None);
        };
        let [kind, request_id, transaction_id, length] = fields(header);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > PAYLOAD_MAX {
            return Err(CodecError::TooLong { length });
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let message = Message {
            kind: Kind(kind),
            request_id,
            transaction_id,
            payload: payload.to_vec(),
        };
        // Both are bounded by the length of the buffer: no overflow.
        self.taken = self
            .taken
            .saturating_add(HEADER_SIZE)
            .saturating_add(length);
        Ok(Some(message))
    }

    /// Whether a message has begun and not ended: the stream must not end here.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        !self.rest().is_empty()
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.taken..).unwrap_or_default()
    }
}

/// The four little-endian fields of a header.
fn fields(header: &[u8; HEADER_SIZE]) -> [u32; 4] {
    let [
        a0,
        a1,
        a2,
        a3,
        b0,
        b1,
        b2,
        b3,
        c0,
        c1,
        c2,
        c3,
        d0,
        d1,
        d2,
        d3,
    ] = *header;
    [
        u32::from_le_bytes([a0, a1, a2, a3]),
        u32::from_le_bytes([b0, b1, b2, b3]),
        u32::from_le_bytes([c0, c1, c2, c3]),
        u32::from_le_bytes([d0, d1, d2, d3]),
    ]
}
