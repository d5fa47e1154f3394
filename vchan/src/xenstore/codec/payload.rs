//! What messages carry: lists of strings, permissions, error names, watch events.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::host::{NodeAccess, Permissions};
use crate::{DomId, StoreErrorKind};

/// A payload that does not have the form its message asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the payload is not {expected}")]
pub struct Malformed {
    /// What it should have been.
    pub expected: &'static str,
}

/// Puts strings one after the other, each with a zero byte at its end.
pub fn join_strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Vec<u8> {
    let mut payload = Vec::new();
    for string in strings {
        payload.extend_from_slice(string.as_ref());
        payload.push(0);
    }
    payload
}

/// Takes apart strings of which each has a zero byte at its end. (Only `READ` replies and the value
/// of a `WRITE` have none: those are bytes, not strings.)
///
/// # Errors
/// [`Malformed`] when the last one is not ended or when they are not text.
pub fn split_strings(payload: &[u8]) -> Result<Vec<&str>, Malformed> {
    let malformed = Malformed {
        expected: "a list of zero-ended strings",
    };
    let text = core::str::from_utf8(payload).map_err(|_| malformed)?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let strings = text.strip_suffix('\0').ok_or(malformed)?;
    Ok(strings.split('\0').collect())
}

/// The path that changed and the token of the watch that fired.
///
/// # Errors
/// [`Malformed`]
pub fn watch_event(payload: &[u8]) -> Result<(&str, &str), Malformed> {
    match *split_strings(payload)? {
        // The daemons of Xen may add more one day; the first two stay.
        [path, token, ..] => Ok((path, token)),
        _ => Err(Malformed {
            expected: "a path and a token",
        }),
    }
}

/// The permissions of a node as strings, the owner's first: `n0`, `r2`.
#[must_use]
pub fn permission_strings(permissions: &Permissions) -> Vec<String> {
    let owner = (permissions.owner, permissions.default);
    core::iter::once(owner)
        .chain(permissions.domains.iter().copied())
        .map(|(domid, access)| format!("{}{domid}", letter(access)))
        .collect()
}

/// The permissions that a `GET_PERMS` reply or a `SET_PERMS` request gives, from its strings.
///
/// # Errors
/// [`Malformed`] when there is no owner, or one is no letter of `nrwb` and a domid.
pub fn parse_permissions<'a>(
    strings: impl IntoIterator<Item = &'a str>,
) -> Result<Permissions, Malformed> {
    let malformed = Malformed {
        expected: "a list of permissions",
    };
    let mut each = strings.into_iter().map(parse_permission);
    let (owner, default) = each.next().flatten().ok_or(malformed)?;
    let domains = each.collect::<Option<_>>().ok_or(malformed)?;
    Ok(Permissions {
        owner,
        default,
        domains,
    })
}

fn parse_permission(text: &str) -> Option<(DomId, NodeAccess)> {
    let mut characters = text.chars();
    let access = match characters.next()? {
        'n' => NodeAccess::None,
        'r' => NodeAccess::Read,
        'w' => NodeAccess::Write,
        'b' => NodeAccess::Both,
        _ => return None,
    };
    Some((characters.as_str().parse().ok()?, access))
}

fn letter(access: NodeAccess) -> char {
    match access {
        NodeAccess::None => 'n',
        NodeAccess::Read => 'r',
        NodeAccess::Write => 'w',
        NodeAccess::Both => 'b',
    }
}

/// What kind of failure the name in an `ERROR` reply stands for.
#[must_use]
pub fn error_kind(name: &str) -> StoreErrorKind {
    match name {
        "ENOENT" => StoreErrorKind::NotFound,
        "EACCES" | "EPERM" => StoreErrorKind::Denied,
        "EEXIST" => StoreErrorKind::Exists,
        "EINVAL" | "EISDIR" | "ENOTEMPTY" => StoreErrorKind::Invalid,
        "EAGAIN" => StoreErrorKind::Again,
        // Some daemons know a quota error of their own; those of Xen say ENOSPC or E2BIG.
        "EQUOTA" | "EDQUOT" | "ENOSPC" | "E2BIG" => StoreErrorKind::Quota,
        _ => StoreErrorKind::Refused,
    }
}

/// The name that a daemon sends for a kind of failure.
#[must_use]
pub fn error_name(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::NotFound => "ENOENT",
        StoreErrorKind::Denied => "EACCES",
        StoreErrorKind::Exists => "EEXIST",
        StoreErrorKind::Invalid => "EINVAL",
        StoreErrorKind::Again => "EAGAIN",
        StoreErrorKind::Quota => "ENOSPC",
        _ => "EIO",
    }
}
