//! What the fuzz targets try: each reader of what comes over the wire, and each fast path beside the plain one.
//!
//! A target takes any bytes and must return: it panics where a reader does, and where what was read breaks a promise of
//! the reader. `make fuzz` runs them with bytes that `libFuzzer` thinks up (`fuzz/`); the tests of this module run them
//! over `fuzz/corpus`, small pieces of real answers and whatever was found once.

pub mod answers;
pub mod chunks;
pub mod numbers;
pub mod requests;
pub mod stored;

/// A target's name, which is that of its folder in the corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 12] = [
    ("shard_log", answers::shard_log),
    ("lookup", answers::lookup),
    ("bulk", answers::bulk),
    ("error_body", answers::error_body),
    ("statistics", answers::statistics),
    ("catalog", answers::catalog),
    ("requests", requests::requests),
    ("chunk", chunks::contract),
    ("comparison", chunks::comparison),
    ("vector", numbers::vector),
    ("number", numbers::number),
    ("stored", stored::stored),
];

/// The first byte as a choice, and the rest.
fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::TARGETS;

    #[test]
    fn every_target_endures_its_corpus() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let files: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(!files.is_empty(), "{name} has no corpus");
            for file in files {
                let path = file.unwrap().path();
                println!("{}", path.display());
                let bytes = std::fs::read(&path).unwrap();
                target(&bytes);
                // What breaks off, and what is spoiled in the middle.
                target(&bytes[..bytes.len() / 2]);
                for at in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
                    let mut spoiled = bytes.clone();
                    spoiled[at] ^= 0x15;
                    target(&spoiled);
                }
            }
        }
    }

    #[test]
    fn every_target_has_a_program_and_every_program_is_a_target() {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let mut found: Vec<String> = std::fs::read_dir(programs)
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        let mut names = TARGETS.map(|(name, _)| name.to_owned());
        names.sort();
        assert_eq!(found, names);
    }
}
