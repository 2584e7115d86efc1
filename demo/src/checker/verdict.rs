//! What a check found, and how it is told.

use std::collections::BTreeMap;
use std::fmt;

/// Examples kept of each kind.
const EXAMPLES: usize = 20;

/// A count with its first examples.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// How many.
    pub count: u64,
    /// The first 20, as sentences.
    pub examples: Vec<String>,
}

impl Found {
    pub(super) fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// The verdict of a check.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Collections that were compared.
    pub collections: usize,
    /// Chunks read from all sources.
    pub source_chunks: u64,
    /// Documents that the destination should hold.
    pub expected_documents: usize,
    /// Documents that it holds.
    pub destination_documents: usize,
    /// Expected and not there.
    pub missing: Found,
    /// There and not expected; a chunk that belongs into quarantine is one of them.
    pub extra: Found,
    /// The same document and chunk under more than one `_id`.
    pub duplicated: Found,
    /// There, and in some field not as expected.
    pub different: Found,
    /// Chunks that belong into quarantine, by reason.
    pub quarantined: BTreeMap<&'static str, u64>,
    /// Chunks beyond the first with the same document and id: they become one document.
    pub collapsed: u64,
}

impl Verdict {
    /// True only when destination and sources agree completely.
    #[must_use]
    pub fn is_good(&self) -> bool {
        [&self.missing, &self.extra, &self.duplicated, &self.different].iter().all(|found| found.count == 0)
            && self.expected_documents == self.destination_documents
    }

    /// Chunks that belong into quarantine, of all reasons.
    #[must_use]
    pub fn quarantined_total(&self) -> u64 {
        self.quarantined.values().sum()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} chunks in {} collections; {} documents expected",
            self.source_chunks, self.collections, self.expected_documents
        )?;
        writeln!(f, "{} documents in the destination", self.destination_documents)?;
        for (name, found) in [
            ("missing", &self.missing),
            ("extra", &self.extra),
            ("duplicated", &self.duplicated),
            ("different", &self.different),
        ] {
            writeln!(f, "{name}: {}", found.count)?;
            for example in &found.examples {
                writeln!(f, "  {example}")?;
            }
        }
        if self.collapsed > 0 {
            writeln!(f, "chunks that share document and id with another: {}", self.collapsed)?;
        }
        for (reason, count) in &self.quarantined {
            writeln!(f, "belong into quarantine, {reason}: {count}")?;
        }
        write!(f, "{}", if self.is_good() { "verdict: equal" } else { "verdict: NOT equal" })
    }
}
