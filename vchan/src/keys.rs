//! The two XenStore keys by which the ends of a vchan find each other.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::guard::keeps;
use crate::host::{GrantRef, Host, NodeAccess, Permissions, Port, Reply, Request};
use crate::patience::{Patience, ask, have_done};
use crate::{
    BadKey, DomId, Error, ForeignKey, InvalidPath, PortName, StoreError, StoreErrorKind, StorePath,
};

/// Where a server publishes unless told otherwise, below its own domain's path.
const DEFAULT_PATH: &str = "data/vchan";

/// The names of the keys.
const RING_REF: &str = "ring-ref";
const EVENT_CHANNEL: &str = "event-channel";

/// Where the keys are to be, as the caller said it.
#[derive(Clone, Default, Debug)]
pub(crate) enum Location {
    #[default]
    Default,
    Path(StorePath),
    /// Below `data/vchan/<client domid>` of the server's domain.
    Port(PortName),
}

impl Location {
    /// The path, relative to the server's domain if it is not absolute. `client` is needed for a
    /// port only.
    pub(crate) fn path(self, client: Option<DomId>) -> Result<StorePath, Error> {
        Ok(match (self, client) {
            (Location::Path(path), _) => path,
            (Location::Port(port), Some(client)) => port.path(client)?,
            (Location::Default | Location::Port(_), _) => DEFAULT_PATH.parse()?,
        })
    }
}

/// The keys of one vchan.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    base: StorePath,
    ring_ref: StorePath,
    event_channel: StorePath,
}

impl Keys {
    pub(crate) fn under(base: StorePath) -> Result<Keys, InvalidPath> {
        let (ring_ref, event_channel) = (base.child(RING_REF)?, base.child(EVENT_CHANNEL)?);
        Ok(Keys {
            base,
            ring_ref,
            event_channel,
        })
    }

    /// The path above the keys.
    pub(crate) fn base(&self) -> &StorePath {
        &self.base
    }

    /// The key that is published last: the one to watch.
    pub(crate) fn event_channel(&self) -> &StorePath {
        &self.event_channel
    }

    /// The key that is published first.
    pub(crate) fn ring_ref(&self) -> &StorePath {
        &self.ring_ref
    }

    /// Reads both keys, which are to come from `server`, in one round trip.
    pub(crate) async fn read(
        &self,
        host: &Host,
        server: DomId,
        patience: &impl Patience,
    ) -> Result<Result<Published, Missing>, Error> {
        // A server that publishes anew in between would give us half of each pair, and both halves
        // may be in use: so the first key is read again after the second.
        let reads = [&self.ring_ref, &self.event_channel, &self.ring_ref].map(Request::Read);
        let [first, second, again] = reads;
        let (read, permissions) = if self.is_below(server) {
            (ask(host, patience, reads).await?, None)
        } else {
            let keys = [&self.ring_ref, &self.event_channel];
            let [one, other] = keys.map(Request::Permissions);
            let asked = ask(host, patience, [first, second, again, one, other]).await?;
            let [first, second, again, one, other] = asked;
            let permissions = keys.into_iter().zip([one, other]);
            ([first, second, again], Some(permissions))
        };
        let [ring_ref, event_channel, again] = read;
        let ring_ref = match number(&self.ring_ref, ring_ref)? {
            Ok(number) => GrantRef(number),
            Err(missing) => return Ok(Err(missing)),
        };
        let event_channel = match number(&self.event_channel, event_channel)? {
            Ok(number) => Port(number),
            Err(missing) => return Ok(Err(missing)),
        };
        if number(&self.ring_ref, again)? != Ok(ring_ref.0) && keeps("keys-of-one-offer") {
            let (key, why) = (self.ring_ref.clone(), "is just being changed");
            return Ok(Err(Missing { key, why }));
        }
        for (key, permissions) in permissions.into_iter().flatten() {
            if let Err(missing) = check_writers(key, server, permissions)? {
                return Ok(Err(missing));
            }
        }
        Ok(Ok(Published {
            ring_ref,
            event_channel,
        }))
    }

    /// Whether they are in the server's own directory. There only the server (and dom0) says who
    /// may write, so nothing needs to be asked.
    fn is_below(&self, server: DomId) -> bool {
        let home = format!("/local/domain/{server}/");
        self.base.as_str().starts_with(&home)
    }

    /// Removes what a server that died has left there. It would lend its permissions to new values,
    /// and half of it would stand beside half of ours. Its numbers may be given to this server, too,
    /// and no client must follow them before the pages are made.
    pub(crate) async fn clear(&self, host: &Host, patience: &impl Patience) -> Result<(), Error> {
        let [names] = ask(host, patience, [Request::Directory(&self.base)]).await?;
        if !self.may_be_among(names.and_then(Reply::names)) || !keeps("stale-keys-go") {
            return Ok(());
        }
        let removals = [&self.event_channel, &self.ring_ref].map(Request::Remove);
        have_done(host, patience, &removals).await
    }

    /// Whether one of them may be among a node's children. A list that is too long to be told, or
    /// not for us, may have them.
    fn may_be_among(&self, names: Result<Option<Vec<String>>, StoreError>) -> bool {
        let is_key = |name: &String| matches!(name.as_str(), RING_REF | EVENT_CHANNEL);
        match names {
            Ok(names) => names.is_none_or(|names| names.iter().any(is_key)),
            Err(error) => error.kind != StoreErrorKind::NotFound,
        }
    }
}

/// The number that a key holds.
fn number(
    key: &StorePath,
    answer: Result<Reply, StoreError>,
) -> Result<Result<u32, Missing>, Error> {
    let value = match answer.and_then(Reply::value) {
        Ok(value) if value.is_empty() => {
            let (key, why) = (key.clone(), "is still empty");
            return Ok(Err(Missing { key, why }));
        }
        Ok(value) => value,
        Err(error) => return not_yet(key, error).map(Err),
    };
    parse_decimal(&value).map(Ok).ok_or_else(|| {
        Error::BadKey(Box::new(BadKey {
            path: key.clone(),
            value: String::from_utf8_lossy(value.get(..40).unwrap_or(&value)).into_owned(),
            expected: "a decimal number from 1 to 4294967295",
        }))
    })
}

/// Refuses a key that a third domain can have written. Who changes it after this look gains little:
/// the numbers are only ever used for grants and ports of `server`.
fn check_writers(
    key: &StorePath,
    server: DomId,
    permissions: Result<Reply, StoreError>,
) -> Result<Result<(), Missing>, Error> {
    let permissions = match permissions.and_then(Reply::permissions) {
        Ok(permissions) => permissions,
        Err(error) => return not_yet(key, error).map(Err),
    };
    match third_writer(&permissions, server) {
        Some(writer) if keeps("key-writers") => Err(Error::ForeignKey(Box::new(ForeignKey {
            path: key.clone(),
            writer,
            server,
        }))),
        _ => Ok(Ok(())),
    }
}

/// What an error says of a key that a server may yet publish; other errors are errors.
fn not_yet(key: &StorePath, error: StoreError) -> Result<Missing, Error> {
    let why = match error.kind {
        StoreErrorKind::NotFound => "is not there",
        // Permissions given to a domain before it existed are lost, so the server's keys may be
        // there and closed to us until it sets them again.
        StoreErrorKind::Denied => "may not be read by this domain",
        _ => return Err(error.into()),
    };
    let key = key.clone();
    Ok(Missing { key, why })
}

/// Who, besides `server` and dom0, can write a node with these permissions.
fn third_writer(permissions: &Permissions, server: DomId) -> Option<String> {
    let is_third = |domid: DomId| domid != server && domid != DomId::DOM0;
    let writes = |access| matches!(access, NodeAccess::Write | NodeAccess::Both);
    if is_third(permissions.owner) {
        return Some(format!("domain {}, which owns it,", permissions.owner));
    }
    if writes(permissions.default) {
        return Some("every domain".into());
    }
    let mut named = permissions.domains.iter();
    let (writer, _) = named.find(|&&(domid, access)| is_third(domid) && writes(access))?;
    Some(format!("domain {writer}"))
}

/// A plain decimal number that fits; 0 never names a grant or a port that one could use.
fn parse_decimal(value: &[u8]) -> Option<u32> {
    if !value.iter().all(u8::is_ascii_digit) && keeps("strict-decimal") {
        return None;
    }
    core::str::from_utf8(value)
        .ok()?
        .parse()
        .ok()
        .filter(|&number| number != 0)
}

/// What the keys hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Published {
    pub(crate) ring_ref: GrantRef,
    pub(crate) event_channel: Port,
}

/// A key that cannot be used yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Missing {
    pub(crate) key: StorePath,
    pub(crate) why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_positive_numbers_are_keys() {
        assert_eq!(parse_decimal(b"8"), Some(8));
        assert_eq!(parse_decimal(b"4294967295"), Some(u32::MAX));
        for bad in [
            "",
            "0",
            "-1",
            "+8",
            " 8",
            "8\n",
            "8\0",
            "0x8",
            "4294967296",
            "eight",
            "\u{661}",
        ] {
            assert_eq!(parse_decimal(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse_decimal(&[b'9'; 4096]), None);
        assert_eq!(parse_decimal(&[0xFF, 0xFE]), None);
    }
}
