//! XenStore paths.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use crate::DomId;

/// Longest absolute path (`XENSTORE_ABS_PATH_MAX` in `xs_wire.h` counts the NUL at its end).
const ABSOLUTE_MAX: usize = 3071;
/// Longest relative path (`XENSTORE_REL_PATH_MAX` in `xs_wire.h`).
const RELATIVE_MAX: usize = 2048;

/// A path that XenStore takes: absolute (`/local/domain/2/data/vchan`) or relative to the
/// caller's own domain (`data/vchan`).
///
/// The characters are `A-Z a-z 0-9 - / _ @`, no part between two slashes is empty, and a path is
/// at most 3071 bytes long, a relative one 2048 (xenstore-ring.txt and xs_wire.h of Xen).
///
/// ```
/// use vchan::{DomId, StorePath};
/// let path: StorePath = "data/vchan".parse()?;
/// assert_eq!(path.child("ring-ref")?.as_str(), "data/vchan/ring-ref");
/// assert_eq!(path.under_domain(DomId::DOM0)?.as_str(), "/local/domain/0/data/vchan");
/// # Ok::<(), vchan::InvalidPath>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StorePath(String);

impl StorePath {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the path begins at the store's root.
    #[must_use]
    pub fn is_absolute(&self) -> bool {
        self.0.starts_with('/')
    }

    /// `name` below this path; `name` may itself have several parts.
    ///
    /// # Errors
    /// [`InvalidPath`] where the result would not be a path.
    pub fn child(&self, name: &str) -> Result<StorePath, InvalidPath> {
        if self.0 == "/" {
            format!("/{name}")
        } else {
            format!("{}/{name}", self.0)
        }
        .parse()
    }

    /// The path as seen by everyone: a relative one lies below `/local/domain/<domid>`.
    ///
    /// # Errors
    /// [`InvalidPath`] where the result would be too long.
    pub fn under_domain(&self, domid: DomId) -> Result<StorePath, InvalidPath> {
        if self.is_absolute() {
            return Ok(self.clone());
        }
        format!("/local/domain/{domid}/{}", self.0).parse()
    }
}

impl FromStr for StorePath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<StorePath, InvalidPath> {
        if text.is_empty() {
            return Err(InvalidPath::Empty);
        }
        // What lies below a domain's own directory counts as a relative path, however it is named.
        let relative = below_domain(text).or((!text.starts_with('/')).then_some(text));
        for (part, most) in [
            (text, ABSOLUTE_MAX),
            (relative.unwrap_or_default(), RELATIVE_MAX),
        ] {
            if part.len() > most {
                let length = part.len();
                return Err(InvalidPath::TooLong { length, most });
            }
        }
        if let Some(character) = text.chars().find(|&c| !is_path_character(c)) {
            return Err(InvalidPath::Character { character });
        }
        let parts = text.strip_prefix('/').unwrap_or(text).as_bytes();
        if text != "/" && parts.split(|&byte| byte == b'/').any(<[u8]>::is_empty) {
            return Err(InvalidPath::EmptyPart);
        }
        Ok(StorePath(text.to_owned()))
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePath({:?})", self.0)
    }
}

/// The rest of a path that begins with some domain's own directory.
fn below_domain(text: &str) -> Option<&str> {
    let text = text.strip_prefix("/local/domain/")?;
    let end = text.bytes().position(|byte| byte == b'/')?;
    text.get(..end)?.parse::<DomId>().ok()?;
    text.get(end + 1..)
}

fn is_path_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '_' | '@')
}

/// Why a text is not a XenStore path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPath {
    /// Nothing at all.
    #[error("a XenStore path cannot be empty")]
    Empty,
    /// Longer than XenStore takes.
    #[error("a XenStore path of this kind has at most {most} bytes, this one has {length}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The greatest length.
        most: usize,
    },
    /// A character that no path has.
    #[error(
        "'{}' cannot be in a XenStore path; use A-Z a-z 0-9 - / _ @",
        character.escape_default()
    )]
    Character {
        /// The first such character.
        character: char,
    },
    /// Two slashes in a row, or one at the end.
    #[error("a XenStore path has a name between any two slashes and does not end with one")]
    EmptyPart,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn paths_that_xenstore_takes() {
        for good in [
            "/",
            "data/vchan",
            "/local/domain/2/data/vchan",
            "@releaseDomain",
            "a-b_c/9",
        ] {
            assert_eq!(good.parse::<StorePath>().unwrap().to_string(), good);
        }
        assert!(
            format!("/{}", "a".repeat(3070))
                .parse::<StorePath>()
                .is_ok()
        );
        assert!("a".repeat(2048).parse::<StorePath>().is_ok());
    }

    #[test]
    fn paths_that_xenstore_refuses() {
        for (bad, why) in [
            ("", InvalidPath::Empty),
            ("data//vchan", InvalidPath::EmptyPart),
            ("data/", InvalidPath::EmptyPart),
            ("//", InvalidPath::EmptyPart),
            ("data/../x", InvalidPath::Character { character: '.' }),
            ("data\0", InvalidPath::Character { character: '\0' }),
            ("däta", InvalidPath::Character { character: 'ä' }),
        ] {
            assert_eq!(bad.parse::<StorePath>(), Err(why), "{bad:?}");
        }
        let long = format!("/{}", "a".repeat(3071));
        assert_eq!(
            long.parse::<StorePath>(),
            Err(InvalidPath::TooLong {
                length: 3072,
                most: 3071
            })
        );
        assert!("a".repeat(2049).parse::<StorePath>().is_err());
        let relative: StorePath = "a".repeat(2048).parse().unwrap();
        assert!(relative.under_domain(DomId::DOM0).is_ok());
        let absolute = format!("/local/domain/0/{}", "a".repeat(2049));
        let too_long = InvalidPath::TooLong {
            length: 2049,
            most: 2048,
        };
        assert_eq!(absolute.parse::<StorePath>(), Err(too_long));
    }
}
