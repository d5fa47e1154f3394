//! Requests as messages, and their answers as what was asked.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::codec::{self, Kind, Malformed};
use super::exchange::Answer;
use crate::host::{Reply, Request};
use crate::quoted::Quoted;
use crate::{StoreError, StoreErrorKind};

/// A request in the words of the wire.
pub(super) struct Encoded {
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
    /// What it does, as in `cannot <doing>`.
    pub(super) doing: String,
}

/// Why an answer is none.
pub(super) enum NoReply {
    Error(StoreError),
    Malformed(Malformed),
}

/// The message for a request. A watch is another matter: only a connection knows its number.
pub(super) fn encode(request: Request<'_>) -> Encoded {
    let (kind, payload, doing) = match request {
        Request::Read(path) => {
            let payload = codec::join_strings([path.as_str()]);
            (Kind::READ, payload, format!("read {path}"))
        }
        Request::Write(path, value) => {
            let mut payload = codec::join_strings([path.as_str()]);
            payload.extend_from_slice(value);
            (Kind::WRITE, payload, format!("write {path}"))
        }
        Request::Remove(path) => {
            let payload = codec::join_strings([path.as_str()]);
            (Kind::RM, payload, format!("remove {path}"))
        }
        Request::Directory(path) => {
            let payload = codec::join_strings([path.as_str()]);
            (Kind::DIRECTORY, payload, format!("list {path}"))
        }
        Request::Permissions(path) => {
            let payload = codec::join_strings([path.as_str()]);
            let doing = format!("read the permissions of {path}");
            (Kind::GET_PERMS, payload, doing)
        }
        Request::SetPermissions(path, permissions) => {
            let strings = codec::permission_strings(permissions);
            let strings = strings.iter().map(String::as_str);
            let payload = codec::join_strings(core::iter::once(path.as_str()).chain(strings));
            let doing = format!("set the permissions of {path}");
            (Kind::SET_PERMS, payload, doing)
        }
        Request::IsDomainIntroduced(domid) => {
            let payload = codec::join_strings([domid.to_string()]);
            let doing = format!("ask whether domain {domid} exists");
            (Kind::IS_DOMAIN_INTRODUCED, payload, doing)
        }
        Request::Watch(path) => {
            let payload = codec::join_strings([path.as_str()]);
            (Kind::WATCH, payload, format!("watch {path}"))
        }
    };
    Encoded {
        kind,
        payload,
        doing,
    }
}

/// What the answer to a request of this kind says.
pub(super) fn decode(kind: Kind, answer: Answer, doing: &str) -> Result<Reply, NoReply> {
    if kind == Kind::DIRECTORY && answer == Answer::Error("E2BIG".to_string()) {
        return Ok(Reply::Names(None));
    }
    let payload = match reply(kind, answer, doing) {
        Ok(payload) => payload,
        // What is to be gone is gone.
        Err(error) if kind == Kind::RM && error.kind == StoreErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(NoReply::Error(error)),
    };
    let reply = match kind {
        Kind::READ => Reply::Value(payload),
        Kind::DIRECTORY => {
            let names = codec::split_strings(&payload).map_err(NoReply::Malformed)?;
            Reply::Names(Some(names.into_iter().map(ToString::to_string).collect()))
        }
        Kind::GET_PERMS => codec::split_strings(&payload)
            .and_then(codec::parse_permissions)
            .map(Reply::Permissions)
            .map_err(NoReply::Malformed)?,
        Kind::IS_DOMAIN_INTRODUCED => match &*payload {
            b"T\0" => Reply::Introduced(true),
            b"F\0" => Reply::Introduced(false),
            _ => {
                let expected = "T or F";
                return Err(NoReply::Malformed(Malformed { expected }));
            }
        },
        _ => Reply::Done,
    };
    Ok(reply)
}

/// The payload of a reply; an error with its meaning otherwise.
pub(super) fn reply(kind: Kind, answer: Answer, doing: &str) -> Result<Vec<u8>, StoreError> {
    let (name, who) = match answer {
        Answer::Reply(payload) => return Ok(payload),
        Answer::Error(name) => (name, "xenstored"),
        #[cfg(feature = "std")]
        Answer::Refused(name) => (name, "the kernel"),
    };
    let error = StoreError::new(codec::error_kind(&name), doing);
    let limit = match error.kind {
        // These say it all.
        StoreErrorKind::NotFound | StoreErrorKind::Exists | StoreErrorKind::Again => {
            return Err(error);
        }
        StoreErrorKind::Quota => limit(kind),
        _ => "",
    };
    Err(error.detail(format!("{who} says {}{limit}", Quoted(&name))))
}

/// What there is to say of the limit that a request can run into: xenstored's default and option.
fn limit(kind: Kind) -> &'static str {
    match kind {
        Kind::WRITE | Kind::MKDIR => {
            "; by default a domain has at most 1000 nodes of at most 2048 bytes; remove some, or \
             give xenstored greater --entry-nb and --entry-size"
        }
        Kind::SET_PERMS => {
            "; by default a node has at most 5 permissions; name fewer domains, or give xenstored a \
             greater --perm-nb"
        }
        Kind::WATCH => {
            "; by default a domain has at most 128 watches; remove some, or give xenstored a \
             greater --watch-nb"
        }
        Kind::TRANSACTION_START => {
            "; by default a domain has at most 10 transactions at a time; end some, or give \
             xenstored a greater --transaction"
        }
        _ => "",
    }
}
