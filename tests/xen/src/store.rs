//! XenStore through Debian's own tools, which know nothing of this project.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::program;

const LIMIT: Duration = Duration::from_secs(60);

/// One node as `xenstore-ls -fp` prints it.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Absolute path.
    pub path: String,
    /// Value, without the quotes.
    pub value: String,
    /// Permissions, such as `n1,r0`: owner 1 and no default access, domain 0 reads.
    pub permissions: String,
}

/// Everything below `path`; nothing if it does not exist.
pub fn list(path: &str) -> Result<Vec<Node>> {
    let ended = program::run(&["xenstore-ls", "-f", "-p", path], &[], LIMIT)?;
    Ok(ended.stdout_text().lines().filter_map(parse).collect())
}

/// How many nodes there are in all.
pub fn count() -> Result<usize> {
    let ended = program::run(&["xenstore-ls", "/"], &[], LIMIT)?;
    Ok(ended
        .successful("xenstore-ls")?
        .stdout_text()
        .lines()
        .count())
}

fn parse(line: &str) -> Option<Node> {
    let (path, rest) = line.split_once(" = \"")?;
    let (value, permissions) = rest.rsplit_once('"')?;
    let permissions = permissions
        .trim()
        .trim_start_matches('(')
        .trim_end_matches(')');
    Some(Node {
        path: path.to_owned(),
        value: value.to_owned(),
        permissions: permissions.to_owned(),
    })
}

/// The two keys of a channel, if both are there.
pub fn keys(path: &str) -> Result<Option<(Node, Node)>> {
    let nodes = list(path)?;
    let find = |key: &str| {
        nodes
            .iter()
            .find(|node| node.path == format!("{path}/{key}"))
            .cloned()
    };
    Ok(find("ring-ref").zip(find("event-channel")))
}

/// Waits until the keys of a channel are there (`true`) or gone (`false`).
pub fn wait_for_keys(path: &str, there: bool, limit: Duration) -> Result<()> {
    let until = program::latest(limit);
    loop {
        let nodes = list(path)?;
        let has = |key: &str| {
            nodes
                .iter()
                .any(|node| node.path == format!("{path}/{key}"))
        };
        let (ring, port) = (has("ring-ref"), has("event-channel"));
        if ring == there && port == there {
            return Ok(());
        }
        if Instant::now() > until {
            let what = if there {
                "not published"
            } else {
                "still there"
            };
            bail!(
                "the keys at {path} are {what} after {} s: {nodes:?}",
                limit.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_line_of_xenstore_ls() {
        let node = parse(r#"/local/domain/1/data/vchan/ring-ref = "8"   (n1,r0)"#).unwrap();
        assert_eq!(node.path, "/local/domain/1/data/vchan/ring-ref");
        assert_eq!(node.value, "8");
        assert_eq!(node.permissions, "n1,r0");
    }
}
