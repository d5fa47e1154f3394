//! Names for several vchans between two domains.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use crate::{DomId, InvalidPath, StorePath};

/// The name of one of several vchans between two domains, in the path that Xen's header recommends:
/// `data/vchan/<client domid>/<port>`, below the server's domain. ocaml-vchan and Qubes use the same
/// one. It has nothing to do with event channel ports.
///
/// A name has 1 to [`PortName::MAX_LEN`] of the characters `A-Z a-z 0-9 _ -`: no slash, no dot, so
/// it cannot lead anywhere else.
///
/// ```
/// use vchan::PortName;
/// let port: PortName = "console_1".parse()?;
/// assert_eq!(port.as_str(), "console_1");
/// assert!("../console".parse::<PortName>().is_err());
/// # Ok::<(), vchan::InvalidPortName>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PortName(String);

impl PortName {
    /// The most bytes that leave room for the rest of the path, which relative to the domain has
    /// at most 2048.
    pub const MAX_LEN: usize = 2048 - "data/vchan/32751/".len() - "/event-channel".len();

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the server publishes for `client`, relative to the server's domain.
    pub(crate) fn path(&self, client: DomId) -> Result<StorePath, InvalidPath> {
        format!("data/vchan/{client}/{}", self.0).parse()
    }
}

impl FromStr for PortName {
    type Err = InvalidPortName;

    fn from_str(text: &str) -> Result<PortName, InvalidPortName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if text.is_empty() {
            return Err(InvalidPortName::Empty);
        }
        if text.len() > PortName::MAX_LEN {
            let length = text.len();
            return Err(InvalidPortName::TooLong { length });
        }
        match text.chars().find(|&c| !allowed(c)) {
            Some(character) => Err(InvalidPortName::Character { character }),
            None => Ok(PortName(text.to_owned())),
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a port's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPortName {
    /// Nothing at all.
    #[error("a vchan port's name cannot be empty")]
    Empty,
    /// Longer than [`PortName::MAX_LEN`].
    #[error(
        "a vchan port's name has at most {} bytes, this one has {length}",
        PortName::MAX_LEN
    )]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A character that no name has.
    #[error(
        "'{}' cannot be in a vchan port's name; use A-Z a-z 0-9 _ -",
        character.escape_default()
    )]
    Character {
        /// The first such character.
        character: char,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_fits_into_the_longest_path() {
        let longest: PortName = "p".repeat(PortName::MAX_LEN).parse().unwrap();
        let base = longest.path(DomId::MAX).unwrap();
        let key = base.child("event-channel").unwrap();
        assert_eq!(key.as_str().len(), 2048);
        assert!(key.under_domain(DomId::MAX).is_ok());
        let longer = "p".repeat(PortName::MAX_LEN + 1).parse::<PortName>();
        assert!(matches!(longer, Err(InvalidPortName::TooLong { .. })));
    }
}
