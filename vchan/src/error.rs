//! What can go wrong, and what a person can do about it.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::fmt;

use crate::layout::InvalidPage;
use crate::quoted::Quoted;
use crate::{DomId, InvalidDomId, InvalidPath, InvalidPortName, StorePath};

/// Why an operation on a channel, a server or a client did not succeed.
///
/// Four families that never mix: nothing to do yet ([`WouldBlock`](Error::WouldBlock),
/// [`TimedOut`](Error::TimedOut)), [too large](Error::TooLarge), closed ([`Closed`](Error::Closed),
/// [`PeerDied`](Error::PeerDied), [`EndOfStream`](Error::EndOfStream)) and the
/// [peer's fault](Error::PeerFault). The others come from setting up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ring is empty (reading) or full (writing), or the other side is not there yet, and the
    /// channel is non-blocking.
    #[error("nothing to do yet: the call would have to wait")]
    WouldBlock,
    /// The deadline passed.
    #[error("timed out while {waiting_for}")]
    TimedOut {
        /// What did not happen in time.
        waiting_for: Box<str>,
    },
    /// The datagram can never fit in the ring.
    #[error("a datagram of {size} bytes can never fit in this ring of {max} bytes")]
    TooLarge {
        /// The size asked for, in bytes.
        size: usize,
        /// The ring's size, in bytes.
        max: usize,
    },
    /// The ring asked for is larger than a vchan ring can be.
    #[error("a vchan ring has at most {max} bytes, {size} were asked for")]
    RingTooLarge {
        /// The size asked for, in bytes.
        size: usize,
        /// 1 MiB.
        max: usize,
    },
    /// More was to be committed than was reserved, or consumed than was peeked at. Nothing was.
    #[error("{size} bytes were to be committed or consumed, and only {held} are held")]
    NotHeld {
        /// How many were asked for, in bytes.
        size: usize,
        /// How many are held, in bytes.
        held: usize,
    },
    /// The peer has closed the channel: it will read nothing more.
    #[error("the peer has closed the channel")]
    Closed,
    /// The peer has closed the channel before a whole datagram was there. The bytes that are
    /// there stay readable.
    #[error("the peer has closed the channel; {buffered} of {wanted} bytes are there")]
    EndOfStream {
        /// How many bytes can still be read.
        buffered: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// The peer's domain was destroyed or its event channel vanished without a word.
    #[error("the peer's domain is gone (destroyed, crashed or shut down without closing)")]
    PeerDied,
    /// The peer has broken the protocol. Final: the channel is of no further use.
    #[error("the peer broke the vchan protocol: {0}")]
    PeerFault(#[from] PeerFault),
    /// A vchan to one's own domain was asked for.
    #[error(
        "domain {0} is this domain itself, and Xen's devices cannot link a domain to itself; \
         name another domain"
    )]
    OwnDomain(DomId),
    /// What the server published cannot be right.
    #[error(transparent)]
    BadKey(Box<BadKey>),
    /// What was published need not come from the server: a third domain can write it.
    #[error(transparent)]
    ForeignKey(Box<ForeignKey>),
    /// The page that the server shares is not a vchan control page.
    #[error(transparent)]
    Page(#[from] InvalidPage),
    /// The domid is out of range.
    #[error(transparent)]
    DomId(#[from] InvalidDomId),
    /// The path is not one that XenStore takes.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// The text is not the name of a vchan port.
    #[error(transparent)]
    PortName(#[from] InvalidPortName),
    /// A grant or event channel operation failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A XenStore request failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A key of which the server cannot have published what it holds.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} holds {}, which is not {expected}; is a vchan server using this path?",
    Quoted(value)
)]
#[non_exhaustive]
pub struct BadKey {
    /// The key.
    pub path: StorePath,
    /// What it holds, at most the first 40 bytes.
    pub value: String,
    /// What was expected.
    pub expected: &'static str,
}

/// A key that a third domain can write.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} is to come from domain {server}, but {writer} can write it; use a path below \
     /local/domain/{server}, or mend the permissions"
)]
#[non_exhaustive]
pub struct ForeignKey {
    /// The key.
    pub path: StorePath,
    /// Who can write it, in words.
    pub writer: String,
    /// The server's domain.
    pub server: DomId,
}

/// How a peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// An index in the shared page claims more bytes than the ring holds, or moved backwards.
    #[error("ring index {found:#x} is impossible next to {own:#x} in a ring of {size} bytes")]
    Index {
        /// The index that the peer wrote.
        found: u32,
        /// Our own index of the same ring.
        own: u32,
        /// The ring's size in bytes.
        size: u32,
    },
    /// The peer's live byte has a value that means nothing at this point.
    #[error("its live byte is {0}, which means nothing here")]
    Live(u8),
}

/// A grant or event channel operation that failed.
///
/// Its text has all that is known, the error below it included. So
/// [`source`](core::error::Error::source) gives nothing: who prints the chain would print the cause
/// twice. What a program may want to tell apart is in [`is_stale`](HostError::is_stale) and, with the
/// feature `std`, in [`io_kind`](HostError::io_kind).
///
/// As large as a pointer, as every call that can fail has room for it.
#[derive(Debug)]
pub struct HostError(Box<Story>);

#[derive(Debug)]
struct Story {
    /// What was tried, as `cannot <doing>`.
    doing: String,
    /// What a person can do about it.
    hint: Option<String>,
    /// The peer's grant or port is not there (any more).
    stale: bool,
    /// What the error below this one says.
    cause: Option<String>,
    /// Of which kind it is, if it is one of the operating system.
    #[cfg(feature = "std")]
    kind: Option<std::io::ErrorKind>,
}

impl HostError {
    /// An error that reads `cannot <doing>`.
    pub fn new(doing: impl Into<String>) -> HostError {
        HostError(Box::new(Story {
            doing: doing.into(),
            hint: None,
            stale: false,
            cause: None,
            #[cfg(feature = "std")]
            kind: None,
        }))
    }

    /// The error below this one, or in words why.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> HostError {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// The error of the operating system below this one: as [`because`](HostError::because), and it
    /// has a say in the [kind](HostError::io_kind).
    #[cfg(feature = "std")]
    #[must_use]
    pub fn because_io(mut self, cause: impl Into<std::io::Error>) -> HostError {
        let cause = cause.into();
        self.0.kind = Some(cause.kind());
        self.because(cause)
    }

    /// The kind of the [`std::io::Error`] that this becomes: `NotFound` (a device that is not there),
    /// `PermissionDenied`, `OutOfMemory`, `StorageFull` (a limit of the driver is reached) or
    /// `Unsupported` (no Xen); `Other` for all else.
    ///
    /// It is never a kind that callers act on by themselves, as `WouldBlock` and `Interrupted`, nor one
    /// that an [`Error`] of another family has.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use std::io::{self, ErrorKind};
    /// use vchan::{Error, HostError};
    ///
    /// let error = HostError::new("open /dev/xen/evtchn").because_io(ErrorKind::PermissionDenied);
    /// assert_eq!(error.io_kind(), ErrorKind::PermissionDenied);
    /// let error = io::Error::from(Error::Host(error));
    /// assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    /// assert_eq!(error.to_string(), "cannot open /dev/xen/evtchn: permission denied");
    /// # }
    /// ```
    #[cfg(feature = "std")]
    #[must_use]
    pub fn io_kind(&self) -> std::io::ErrorKind {
        use std::io::ErrorKind;
        match self.0.kind {
            Some(
                kind @ (ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::OutOfMemory
                | ErrorKind::StorageFull
                | ErrorKind::Unsupported),
            ) => kind,
            _ => ErrorKind::Other,
        }
    }

    /// Marks that the peer's grant or port is not there (any more), or not for this domain: keys
    /// left over from a server that is gone lead here, and a server that publishes anew mends it.
    #[must_use]
    pub fn stale(mut self) -> HostError {
        self.0.stale = true;
        self
    }

    /// Whether it is marked as [`stale`](HostError::stale).
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.0.stale
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> HostError {
        self.0.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.0.doing)?;
        if let Some(cause) = &self.0.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl core::error::Error for HostError {}

/// A XenStore request that failed.
#[derive(Debug, Clone)]
pub struct StoreError {
    /// What kind of failure.
    pub kind: StoreErrorKind,
    words: Box<Words>,
}

#[derive(Debug, Clone)]
struct Words {
    /// What was tried, as `cannot <doing>`.
    doing: String,
    /// More about why, or what a person can do about it.
    detail: String,
}

impl StoreError {
    /// An error that reads `cannot <doing>: <kind>`.
    pub fn new(kind: StoreErrorKind, doing: impl Into<String>) -> StoreError {
        let words = Words {
            doing: doing.into(),
            detail: String::new(),
        };
        StoreError {
            kind,
            words: Box::new(words),
        }
    }

    /// More about why, or what a person can do about it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> StoreError {
        self.words.detail = detail.into();
        self
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Words { doing, detail } = &*self.words;
        write!(f, "cannot {doing}: {}", self.kind)?;
        if !detail.is_empty() {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl core::error::Error for StoreError {}

impl StoreError {
    /// What [`detail`](StoreError::detail) has said.
    #[cfg(feature = "std")]
    pub(crate) fn into_detail(self) -> String {
        self.words.detail
    }

    /// Whether it is the store that fails, not the request: once it is back, the same request may
    /// well succeed.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(
            self.kind,
            StoreErrorKind::Unreachable | StoreErrorKind::Protocol | StoreErrorKind::TimedOut
        )
    }
}

/// The kinds of XenStore failures that a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// ENOENT: there is no such node.
    #[error("there is no such node")]
    NotFound,
    /// EACCES or EPERM: the node is not ours to use. Also the answer for a node whose permissions
    /// were given to a domain that did not exist yet.
    #[error("permission denied")]
    Denied,
    /// EEXIST: it is there already.
    #[error("it exists already")]
    Exists,
    /// EINVAL: the store does not take the request.
    #[error("the store does not accept the request")]
    Invalid,
    /// EAGAIN: the transaction collided with another change; begin it anew.
    #[error("the transaction collided with another change")]
    Again,
    /// EQUOTA, ENOSPC, E2BIG: a limit of the store for this domain is reached.
    #[error("a XenStore quota of this domain is used up")]
    Quota,
    /// EBUSY, EROFS, EIO, ENOSYS and any other answer.
    #[error("the store refused")]
    Refused,
    /// XenStore cannot be reached, or the connection broke.
    #[error("XenStore cannot be reached")]
    Unreachable,
    /// The store answered what it must not answer. The connection is given up.
    #[error("the store broke its protocol")]
    Protocol,
    /// No answer in time.
    #[error("no answer from XenStore in time")]
    TimedOut,
}

#[cfg(feature = "std")]
impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        use std::io::ErrorKind;
        let kind = match &error {
            Error::WouldBlock => ErrorKind::WouldBlock,
            Error::TimedOut { .. } => ErrorKind::TimedOut,
            Error::TooLarge { .. }
            | Error::RingTooLarge { .. }
            | Error::NotHeld { .. }
            | Error::OwnDomain(_)
            | Error::DomId(_)
            | Error::Path(_)
            | Error::PortName(_) => ErrorKind::InvalidInput,
            Error::Closed => ErrorKind::BrokenPipe,
            Error::EndOfStream { .. } => ErrorKind::UnexpectedEof,
            Error::PeerDied => ErrorKind::ConnectionReset,
            Error::PeerFault(_) | Error::BadKey { .. } | Error::Page(_) => ErrorKind::InvalidData,
            Error::ForeignKey { .. } => ErrorKind::PermissionDenied,
            Error::Host(host) => host.io_kind(),
            Error::Store(store) => match store.kind {
                StoreErrorKind::NotFound => ErrorKind::NotFound,
                StoreErrorKind::Denied => ErrorKind::PermissionDenied,
                StoreErrorKind::TimedOut => ErrorKind::TimedOut,
                StoreErrorKind::Unreachable => ErrorKind::NotConnected,
                _ => ErrorKind::Other,
            },
        };
        std::io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `read_exact` and its like repeat what was interrupted: that must never come from a host.
    #[test]
    #[cfg(feature = "std")]
    fn only_kinds_that_nobody_acts_on_come_from_a_host() {
        use std::io::{self, ErrorKind};

        let kind = |cause: ErrorKind| {
            let error = HostError::new("try").because_io(cause);
            io::Error::from(Error::Host(error)).kind()
        };
        for kept in [
            ErrorKind::NotFound,
            ErrorKind::PermissionDenied,
            ErrorKind::OutOfMemory,
            ErrorKind::StorageFull,
            ErrorKind::Unsupported,
        ] {
            assert_eq!(kind(kept), kept);
        }
        for of_others in [
            ErrorKind::WouldBlock,
            ErrorKind::Interrupted,
            ErrorKind::TimedOut,
            ErrorKind::BrokenPipe,
            ErrorKind::UnexpectedEof,
            ErrorKind::ConnectionReset,
            ErrorKind::InvalidData,
        ] {
            assert_eq!(kind(of_others), ErrorKind::Other);
        }
        let unknown = io::Error::from(Error::Host(HostError::new("try").because("so")));
        assert_eq!(unknown.kind(), ErrorKind::Other);
    }

    /// Every call that can fail has room for an error, and moves it.
    #[test]
    fn errors_are_small() {
        let word = size_of::<usize>();
        assert!(size_of::<Error>() <= 4 * word);
        assert!(size_of::<StoreError>() <= 2 * word);
        assert_eq!(size_of::<HostError>(), word);
    }
}
