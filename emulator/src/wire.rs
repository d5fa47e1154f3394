//! The messages of the `control` socket, by which a process asks for grants and event channels.
//!
//! One request or reply is one packet: a byte that tells the kind, then the fields in order,
//! little-endian. Descriptors travel beside a reply. Both ends are of this crate, of one version.

use vchan::host::UnmapNotify;
use vchan::memory::Access;

mod fields;

use fields::{Reader, Writer};

/// The most pages that one request can share or map.
pub(crate) const MOST_PAGES: usize = 4096;
/// The longest message: the references of [`MOST_PAGES`] and some fields.
pub(crate) const LONGEST: usize = MOST_PAGES * 4 + 1024;
/// The most descriptors beside a reply.
pub(crate) const MOST_DESCRIPTORS: usize = 2;

/// The host must clear a byte and send an event when pages go: as `UnmapNotify`, in plain numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Notice {
    pub(crate) offset: u16,
    pub(crate) port: u32,
}

impl From<UnmapNotify> for Notice {
    fn from(notify: UnmapNotify) -> Notice {
        Notice {
            offset: notify.offset,
            port: notify.port.0,
        }
    }
}

/// What a process asks of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    Share {
        peer: u16,
        pages: u32,
        access: Access,
        notify: Option<Notice>,
    },
    EndShare {
        share: u64,
    },
    Map {
        peer: u16,
        access: Access,
        notify: Option<Notice>,
        references: Vec<u32>,
    },
    Unmap {
        mapping: u64,
    },
    BindUnbound {
        peer: u16,
    },
    BindInterdomain {
        peer: u16,
        port: u32,
    },
    ClosePort {
        port: u32,
    },
    IsBound {
        port: u32,
    },
}

/// What the host answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    /// With the memory's descriptor.
    Shared { share: u64, references: Vec<u32> },
    /// With the memory's descriptor, read-only where the mapping is.
    Mapped { mapping: u64, first_page: u32 },
    /// With the descriptors that this port's events arrive at and that the other end's arrive at.
    Port { port: u32 },
    /// Whether the port has another end.
    Bound(bool),
    /// Done, and nothing to tell.
    Done,
    /// Not done, why, and what a person can do about it (may be empty).
    Refused {
        why: String,
        hint: String,
        /// A peer has no such grant or port for the caller (any more).
        stale: bool,
    },
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Request::Share {
                peer,
                pages,
                access,
                notify,
            } => {
                to.byte(0);
                to.u16(*peer);
                to.u32(*pages);
                to.access(*access);
                to.notice(*notify);
            }
            Request::EndShare { share } => {
                to.byte(1);
                to.u64(*share);
            }
            Request::Map {
                peer,
                access,
                notify,
                references,
            } => {
                to.byte(2);
                to.u16(*peer);
                to.access(*access);
                to.notice(*notify);
                to.numbers(references);
            }
            Request::Unmap { mapping } => {
                to.byte(3);
                to.u64(*mapping);
            }
            Request::BindUnbound { peer } => {
                to.byte(4);
                to.u16(*peer);
            }
            Request::BindInterdomain { peer, port } => {
                to.byte(5);
                to.u16(*peer);
                to.u32(*port);
            }
            Request::ClosePort { port } => {
                to.byte(6);
                to.u32(*port);
            }
            Request::IsBound { port } => {
                to.byte(7);
                to.u32(*port);
            }
        }
        to.0
    }

    /// `None` for what is no request: the sender is not of this crate.
    pub(crate) fn decode(message: &[u8]) -> Option<Request> {
        let mut from = Reader(message);
        let request = match from.byte()? {
            0 => Request::Share {
                peer: from.u16()?,
                pages: from.u32()?,
                access: from.access()?,
                notify: from.notice()?,
            },
            1 => Request::EndShare { share: from.u64()? },
            2 => Request::Map {
                peer: from.u16()?,
                access: from.access()?,
                notify: from.notice()?,
                references: from.numbers()?,
            },
            3 => Request::Unmap {
                mapping: from.u64()?,
            },
            4 => Request::BindUnbound { peer: from.u16()? },
            5 => Request::BindInterdomain {
                peer: from.u16()?,
                port: from.u32()?,
            },
            6 => Request::ClosePort { port: from.u32()? },
            7 => Request::IsBound { port: from.u32()? },
            _ => return None,
        };
        from.end(request)
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Reply::Shared { share, references } => {
                to.byte(0);
                to.u64(*share);
                to.numbers(references);
            }
            Reply::Mapped {
                mapping,
                first_page,
            } => {
                to.byte(1);
                to.u64(*mapping);
                to.u32(*first_page);
            }
            Reply::Port { port } => {
                to.byte(2);
                to.u32(*port);
            }
            Reply::Bound(bound) => {
                to.byte(3);
                to.byte(u8::from(*bound));
            }
            Reply::Done => to.byte(4),
            Reply::Refused { why, hint, stale } => {
                to.byte(5);
                to.byte(u8::from(*stale));
                to.text(why);
                to.text(hint);
            }
        }
        to.0
    }

    pub(crate) fn decode(message: &[u8]) -> Option<Reply> {
        let mut from = Reader(message);
        let reply = match from.byte()? {
            0 => Reply::Shared {
                share: from.u64()?,
                references: from.numbers()?,
            },
            1 => Reply::Mapped {
                mapping: from.u64()?,
                first_page: from.u32()?,
            },
            2 => Reply::Port { port: from.u32()? },
            3 => Reply::Bound(from.byte()? != 0),
            4 => Reply::Done,
            5 => Reply::Refused {
                stale: from.byte()? != 0,
                why: from.text()?,
                hint: from.text()?,
            },
            _ => return None,
        };
        from.end(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_arrives() {
        let notify = Some(Notice {
            offset: 21,
            port: 4,
        });
        for request in [
            Request::Share {
                peer: 2,
                pages: 256,
                access: Access::ReadOnly,
                notify,
            },
            Request::EndShare { share: u64::MAX },
            Request::Map {
                peer: 0,
                access: Access::ReadWrite,
                notify: None,
                references: vec![8, 9, u32::MAX],
            },
            Request::Unmap { mapping: 7 },
            Request::BindUnbound { peer: 32751 },
            Request::BindInterdomain { peer: 2, port: 71 },
            Request::ClosePort { port: 4 },
            Request::IsBound { port: 5 },
        ] {
            let message = request.encode();
            assert_eq!(Request::decode(&message), Some(request));
            assert_eq!(Request::decode(&message[..message.len() - 1]), None);
            assert_eq!(Request::decode(&[&message[..], &[0]].concat()), None);
        }
        for reply in [
            Reply::Shared {
                share: 1,
                references: vec![8],
            },
            Reply::Mapped {
                mapping: 2,
                first_page: 3,
            },
            Reply::Port { port: 71 },
            Reply::Bound(true),
            Reply::Done,
            Reply::Refused {
                why: "no".into(),
                hint: String::new(),
                stale: true,
            },
        ] {
            let message = reply.encode();
            assert!(message.len() <= LONGEST);
            assert_eq!(Reply::decode(&message), Some(reply));
        }
    }

    #[test]
    fn nonsense_is_no_request() {
        for message in [
            &[][..],
            &[8],
            &[255; 40],
            &[2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 255, 255],
        ] {
            assert_eq!(Request::decode(message), None, "{message:?}");
        }
    }
}
