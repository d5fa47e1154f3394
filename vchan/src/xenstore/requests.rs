//! The requests about nodes, inside and outside of a transaction.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::carrier::Carrier;
use super::codec::{self, Kind, Malformed};
use super::encoding::{self, Encoded, NoReply};
use super::exchange::{Answer, Failure};
use crate::host::{Permissions, Reply, Request};
use crate::{StoreError, StoreErrorKind, StorePath};

/// How long a node's list of children may be, in bytes: more than any daemon keeps.
const LONGEST_LISTING: usize = 16 << 20;

/// How often a long listing is begun anew because the children changed meanwhile.
const MOST_LISTINGS: usize = 10;

/// Makes requests, each with a time limit.
pub(super) struct Requests<C> {
    /// The connection, or why there is none.
    pub(super) connection: Result<Arc<C>, Failure>,
    /// The transaction that they belong to; 0 for none.
    pub(super) transaction_id: u32,
    pub(super) limit: Duration,
}

impl<C: Carrier> Requests<C> {
    /// Makes a request, which is not to set a watch.
    pub(super) fn make(&self, request: Request<'_>) -> Result<Reply, StoreError> {
        let Encoded {
            kind,
            payload,
            doing,
        } = encoding::encode(request);
        let answer = self.answer(kind, payload, &doing)?;
        encoding::decode(kind, answer, &doing).map_err(|why| match why {
            NoReply::Error(error) => error,
            NoReply::Malformed(malformed) => self.malformed(malformed, doing),
        })
    }

    pub(super) fn read(&self, path: &StorePath) -> Result<Vec<u8>, StoreError> {
        self.make(Request::Read(path))?.value()
    }

    pub(super) fn write(&self, path: &StorePath, value: &[u8]) -> Result<(), StoreError> {
        self.make(Request::Write(path, value)).map(drop)
    }

    pub(super) fn make_directory(&self, path: &StorePath) -> Result<(), StoreError> {
        let payload = codec::join_strings([path.as_str()]);
        self.ask(Kind::MKDIR, payload, &format!("make {path}"))?;
        Ok(())
    }

    pub(super) fn remove(&self, path: &StorePath) -> Result<(), StoreError> {
        self.make(Request::Remove(path)).map(drop)
    }

    pub(super) fn permissions(&self, path: &StorePath) -> Result<Permissions, StoreError> {
        self.make(Request::Permissions(path))?.permissions()
    }

    pub(super) fn set_permissions(
        &self,
        path: &StorePath,
        permissions: &Permissions,
    ) -> Result<(), StoreError> {
        self.make(Request::SetPermissions(path, permissions))
            .map(drop)
    }

    pub(super) fn directory(&self, path: &StorePath) -> Result<Vec<String>, StoreError> {
        if let Some(names) = self.make(Request::Directory(path))?.names()? {
            return Ok(names);
        }
        let listing = self.long_listing(path)?;
        let names = codec::split_strings(&listing);
        let names = names.map_err(|malformed| self.malformed(malformed, format!("list {path}")))?;
        Ok(names.into_iter().map(ToString::to_string).collect())
    }

    /// A listing that does not fit into one message, joined from parts.
    fn long_listing(&self, path: &StorePath) -> Result<Vec<u8>, StoreError> {
        for _ in 0..MOST_LISTINGS {
            if let Some(listing) = self.listing_in_parts(path)? {
                return Ok(listing);
            }
        }
        let error = StoreError::new(StoreErrorKind::Again, format!("list {path}"));
        Err(error.detail("its children change all the time"))
    }

    /// The same, or none when the children changed between two parts.
    fn listing_in_parts(&self, path: &StorePath) -> Result<Option<Vec<u8>>, StoreError> {
        let doing = format!("list {path}");
        let mut generation = None;
        let mut listing = Vec::new();
        while listing.len() < LONGEST_LISTING {
            let payload = codec::join_strings([path.as_str(), &listing.len().to_string()]);
            let reply = self.ask(Kind::DIRECTORY_PART, payload, &doing)?;
            let part = ListingPart::parse(&reply);
            let part = part.map_err(|malformed| self.malformed(malformed, doing.clone()))?;
            if *generation.get_or_insert_with(|| part.generation.to_vec()) != part.generation {
                return Ok(None);
            }
            listing.extend_from_slice(part.children);
            if part.is_last {
                return Ok(Some(listing));
            }
        }
        let error = StoreError::new(StoreErrorKind::Quota, doing);
        Err(error.detail("it has too many children"))
    }

    /// Makes a request that must succeed, and gives the payload of the reply.
    pub(super) fn ask(
        &self,
        kind: Kind,
        payload: Vec<u8>,
        doing: &str,
    ) -> Result<Vec<u8>, StoreError> {
        encoding::reply(kind, self.answer(kind, payload, doing)?, doing)
    }

    fn answer(&self, kind: Kind, payload: Vec<u8>, doing: &str) -> Result<Answer, StoreError> {
        self.connection(doing)?
            .request(kind, self.transaction_id, payload, self.limit)
            .map_err(|failure| failure.during(doing))
    }

    pub(super) fn connection(&self, doing: &str) -> Result<Arc<C>, StoreError> {
        let connection = self.connection.as_ref().map(Arc::clone);
        connection.map_err(|failure| failure.during(doing))
    }

    /// The error for a reply that makes no sense.
    pub(super) fn malformed(&self, malformed: Malformed, doing: String) -> StoreError {
        match &self.connection {
            Ok(connection) => connection.malformed(malformed),
            Err(_) => Failure::protocol(malformed),
        }
        .during(doing)
    }
}

/// One part of a listing: `<generation>|<child>|<child>|...`, each `|` a zero byte; the last part
/// has one more of them at its end. The generation changes when the children do.
struct ListingPart<'a> {
    generation: &'a [u8],
    children: &'a [u8],
    is_last: bool,
}

impl ListingPart<'_> {
    fn parse(payload: &[u8]) -> Result<ListingPart<'_>, Malformed> {
        let malformed = Malformed {
            expected: "a part of a listing",
        };
        let zero = payload.iter().position(|&byte| byte == 0);
        let (generation, rest) = payload.split_at(zero.ok_or(malformed)?);
        let children = rest.strip_prefix(&[0]).ok_or(malformed)?;
        let (children, is_last) = match children.strip_suffix(&[0]) {
            Some(&[]) => (&[][..], true),
            Some(shorter) if shorter.ends_with(&[0]) => (shorter, true),
            _ => (children, false),
        };
        // A part that is neither the last nor has any children would be asked for again for ever.
        if !is_last && children.is_empty() {
            return Err(malformed);
        }
        Ok(ListingPart {
            generation,
            children,
            is_last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_listing() {
        let parts = [
            (&b"7\0a\0bc\0"[..], &b"a\0bc\0"[..], false),
            (b"7\0a\0\0", b"a\0", true),
            (b"7\0\0", b"", true),
        ];
        for (payload, children, is_last) in parts {
            let part = ListingPart::parse(payload).unwrap();
            assert_eq!(part.generation, b"7");
            assert_eq!((part.children, part.is_last), (children, is_last));
        }
        for bad in [&b""[..], b"7", b"7\0"] {
            assert!(ListingPart::parse(bad).is_err(), "{bad:?}");
        }
    }
}
