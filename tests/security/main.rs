//! Who the merge is for its servers: the least that it needs, what happens when that changes under it, and that it
//! keeps to itself what it was told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod certificates;
#[path = "../support/confided.rs"]
mod confided;
mod folder;
mod postgres;
mod roles;
mod rotation;
#[allow(dead_code)] // shared with the tests of the merge itself
#[path = "../merge/scene.rs"]
mod scene;
mod secrecy;

use demo::seed::odd;
use scene::Scene;

/// Enough to have something of everything.
fn odd_data(scene: &Scene) -> odd::Options {
    odd::Options {
        dimensions: 8,
        collections: 12,
        documents: 4,
        chunks: 10,
        first_collection: scene.first_id,
        first_document: scene.first_id,
        ..odd::Options::default()
    }
}

/// The manifest with other keys in the secret of that name: whatever stood after its first line is replaced.
fn with_secret(manifest: &str, name: &str, keys: &[(&str, &str)]) -> String {
    let head = format!("metadata: {{name: {name}}}\n");
    let (before, rest) = manifest.split_once(&head).expect("the secret");
    let (_, after) = rest.split_once("\n---\n").expect("another document after it");
    let texts: Vec<String> =
        keys.iter().map(|(key, value)| format!("  {key}: |-{}\n", indented(value))).collect();
    let keys = texts.concat();
    format!("{before}{head}stringData:\n{keys}---\n{after}")
}

/// The lines of a value, as a block of YAML two levels deep.
fn indented(value: &str) -> String {
    value.lines().map(|line| ["\n    ", line].concat()).collect()
}
