//! Writes the archive format of Linux initramfs images ("newc" cpio).

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being built; parent directories appear by themselves.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a file; `path` has no leading slash.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> &mut Self {
        self.parents(path);
        self.entry(path, REGULAR | permissions, content)
    }

    /// Adds a copy of the file at `from`, with permissions 755.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<&mut Self> {
        let content =
            std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        Ok(self.file(path, 0o755, &content))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.parents(path);
        self.entry(path, SYMLINK | 0o777, target.as_bytes())
    }

    /// Adds an empty directory.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.parents(path);
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY | 0o755, &[]);
        }
        self
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// The finished archive, compressed as the kernel accepts it.
    pub fn finish_gzip(self) -> Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&self.finish())?;
        Ok(encoder.finish()?)
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            if self.directories.insert(parent.to_owned()) {
                self.entry(parent, DIRECTORY | 0o755, &[]);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.inode += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // Field order of the format: inode, mode, uid, gid, links, mtime, size,
        // device major and minor, rdev major and minor, name length, checksum.
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            length(content),
            0,
            0,
            0,
            0,
            length(path) + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn length(of: impl AsRef<[u8]>) -> u32 {
    u32::try_from(of.as_ref().len()).expect("files of an initramfs are below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_archive_holds_parents_once_and_is_aligned() {
        let mut archive = Archive::default();
        archive
            .file("lib/modules/a.ko", 0o644, b"abc")
            .file("lib/b", 0o755, b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(
            text.matches("070701").count(),
            5,
            "lib, lib/modules, two files, the trailer"
        );
        assert!(text.contains("lib/modules/a.ko\0"));
        assert!(text.contains("abc\0"));
    }
}
