//! Runs every target over its committed corpus.

use std::path::Path;

use vchan_fuzz_targets::{codec, control_page, heap, keys, ring, store_client, store_daemon};

fn survives(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let mut files: Vec<_> = (std::fs::read_dir(corpus.join(target)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    run(&[]);
    for file in files {
        // Shown only where the target then panics.
        println!("{}", file.display());
        run(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn control_page_survives_its_corpus() {
    survives("control_page", control_page::run);
}

#[test]
fn ring_survives_its_corpus() {
    survives("ring", ring::run);
}

#[test]
fn keys_survives_its_corpus() {
    survives("keys", keys::run);
}

#[test]
fn codec_survives_its_corpus() {
    survives("codec", codec::run);
}

#[test]
fn store_client_survives_its_corpus() {
    survives("store_client", store_client::run);
}

#[test]
fn store_daemon_survives_its_corpus() {
    survives("store_daemon", store_daemon::run);
}

#[test]
fn heap_survives_its_corpus() {
    survives("heap", heap::run);
}
