//! The documents say nothing that the repository contradicts, as far as a test can tell.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::process;

/// Every file with this name, or this ending, in the repository.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![process::workspace()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

/// The crates of other people that a manifest names, with the version where it states one.
fn dependencies(manifest: &Path) -> BTreeMap<String, Option<String>> {
    let text = fs::read_to_string(manifest).unwrap();
    let mut section = "";
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            section = line;
        } else if let Some((name, value)) = line.split_once('=') {
            let name = name.trim().trim_end_matches(".workspace");
            if section.contains("dependencies") && !value.contains("path = ") {
                let version = value
                    .split('"')
                    .nth(1)
                    .filter(|text| text.starts_with(|first: char| first.is_ascii_digit()));
                found.insert(name.to_owned(), version.map(str::to_owned));
            }
        }
    }
    found
}

#[test]
fn every_dependency_is_explained() {
    let document = fs::read_to_string(process::workspace().join("docs/dependencies.md")).unwrap();
    // Only what stands before the crates that could not serve.
    let (explained, _) = document.split_once("## Crates for Xen").unwrap();
    for manifest in files("Cargo.toml") {
        for (name, version) in dependencies(&manifest) {
            if name.starts_with("vchan") {
                continue;
            }
            let row = explained.lines().find(|line| {
                line.split('|')
                    .nth(2)
                    .is_some_and(|choice| choice.contains(&format!("`{name}`")))
            });
            let row = row.unwrap_or_else(|| {
                panic!(
                    "{} names {name}, docs/dependencies.md does not",
                    manifest.display()
                )
            });
            if let Some(version) = version {
                let stated = row.split('|').nth(3).unwrap_or_default();
                assert!(
                    stated.split([' ', ',']).any(|part| part == version),
                    "docs/dependencies.md: {name} is {version} in {}",
                    manifest.display()
                );
            }
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in files(".md") {
        let text = fs::read_to_string(&document).unwrap();
        let from = document.parent().unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(
                from.join(target).exists(),
                "{}: {target} does not exist",
                document.display()
            );
        }
    }
}

#[test]
fn the_readme_asks_for_the_rust_that_the_manifest_asks_for() {
    let read = |name| fs::read_to_string(process::workspace().join(name)).unwrap();
    let manifest = read("Cargo.toml");
    let wanted = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap();
    let wanted = format!("Rust {} or later", wanted.trim_matches('"'));
    assert!(read("README.md").contains(&wanted), "{wanted}");
}
