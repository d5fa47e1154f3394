//! Domain identifiers.

use core::fmt;
use core::str::FromStr;

/// A domain's number on its host, 0 to 32751 ([`DomId::MAX`]).
///
/// Xen reserves the numbers from 0x7FF0 up for itself (`DOMID_FIRST_RESERVED` in the public
/// header `xen.h`); they never name a domain that one could talk to.
///
/// ```
/// use vchan::DomId;
/// assert_eq!("2".parse::<DomId>()?, DomId::new(2)?);
/// assert!("32752".parse::<DomId>().is_err());
/// # Ok::<(), vchan::InvalidDomId>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomId(u16);

impl DomId {
    /// The control domain.
    pub const DOM0: DomId = DomId(0);
    /// The greatest number a domain can have.
    pub const MAX: DomId = DomId(0x7FEF);

    /// Checks `number` against the range of domains.
    ///
    /// # Errors
    /// [`InvalidDomId`] above [`DomId::MAX`].
    pub fn new(number: u16) -> Result<DomId, InvalidDomId> {
        if number <= Self::MAX.0 {
            Ok(DomId(number))
        } else {
            Err(InvalidDomId)
        }
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

impl FromStr for DomId {
    type Err = InvalidDomId;

    /// Parses plain decimal digits: no sign, no white space.
    fn from_str(text: &str) -> Result<DomId, InvalidDomId> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidDomId);
        }
        text.parse().map_err(|_| InvalidDomId).and_then(DomId::new)
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DomId({})", self.0)
    }
}

/// The text or number does not name a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a domid is a whole number from 0 to 32751, as `xl list` shows it")]
pub struct InvalidDomId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_in_range_name_a_domain() {
        for good in ["0", "2", "32751", "007"] {
            assert!(good.parse::<DomId>().is_ok(), "{good}");
        }
        for bad in [
            "", "-1", "+1", " 1", "1 ", "32752", "65536", "echo", "0x10", "1.0", "١",
        ] {
            assert_eq!(bad.parse::<DomId>(), Err(InvalidDomId), "{bad}");
        }
        assert!(DomId::new(0x7FF0).is_err());
    }
}
