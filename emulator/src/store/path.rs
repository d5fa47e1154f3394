//! Paths as the daemon takes them.

use vchan::{DomId, StorePath};

use super::{Fault, home};

/// A path must be shorter than this (`XENSTORE_ABS_PATH_MAX` in `xs_wire.h`: its own comment allows
/// this length, `xenstored` does not).
const ABSOLUTE_LIMIT: usize = 3072;
/// The longest path below a domain's own directory (`XENSTORE_REL_PATH_MAX` in `xs_wire.h`).
const RELATIVE_MAX: usize = 2048;

/// The path from the root on. One that does not begin there lies below the caller's own directory.
pub(super) fn absolute(path: &str, domid: DomId) -> Result<String, Fault> {
    let path = match path.as_bytes().first() {
        Some(b'/') => path.to_owned(),
        // The names of special events are no nodes'.
        Some(b'@') => return Err(Fault::Invalid),
        _ => format!("{}/{path}", home(domid)),
    };
    let valid: Result<StorePath, _> = path.parse();
    if valid.is_err()
        || path.len() >= ABSOLUTE_LIMIT
        || local(&path).is_some_and(|local| local.len() > RELATIVE_MAX)
    {
        return Err(Fault::Invalid);
    }
    Ok(path)
}

/// The part of a path below the directory of a domain.
fn local(path: &str) -> Option<&str> {
    let (domid, local) = path.strip_prefix("/local/domain/")?.split_once('/')?;
    domid
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(local)
}

/// A path's parent and its own name; `None` for the root.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", name) => Some(("/", name)),
        parts => Some(parts),
    }
}

/// The path of a child.
pub(super) fn below(path: &str, name: &str) -> String {
    if path == "/" {
        format!("/{name}")
    } else {
        format!("{path}/{name}")
    }
}

/// All paths above a path, the nearest first.
pub(super) fn above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(split(path), |&(parent, _)| split(parent)).map(|(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_lie_below_the_callers_directory() {
        let guest = DomId::new(2).unwrap();
        assert_eq!(absolute("data/a", guest).unwrap(), "/local/domain/2/data/a");
        assert_eq!(absolute("/data/a", guest).unwrap(), "/data/a");
        assert_eq!(
            absolute("data", DomId::DOM0).unwrap(),
            "/local/domain/0/data"
        );
        let long = "a".repeat(2049);
        for bad in [
            "",
            "a//b",
            "/a/",
            "a.b",
            &long,
            &format!("/local/domain/7/{long}"),
        ] {
            assert_eq!(absolute(bad, guest), Err(Fault::Invalid), "{bad}");
        }
        assert!(absolute(&format!("/{long}"), guest).is_ok());
        let longer = "a".repeat(3070);
        assert!(absolute(&format!("/{longer}"), guest).is_ok());
        assert!(absolute(&format!("/a{longer}"), guest).is_err());
    }

    #[test]
    fn paths_come_apart_and_together() {
        let ancestors: Vec<&str> = above("/a/b/c").collect();
        assert_eq!(ancestors, ["/a/b", "/a", "/"]);
        assert_eq!(above("/").count(), 0);
        assert_eq!(below("/", "a"), "/a");
        assert_eq!(below("/a", "b"), "/a/b");
    }
}
