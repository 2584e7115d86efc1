//! Chunks in quarantine, as the comparison of keys sees them. Pure.

use std::collections::{BTreeMap, HashSet};

use crate::elastic::{SeqNo, ShardNumber};
use crate::state::{QuarantinedRow, SourceId};

/// Classes of quarantined chunks whose key is in the destination all the same.
const PRESENT_CLASSES: [&str; 1] = ["Different"];

/// The whole quarantine of a merge, by source.
#[derive(Debug, Default)]
pub(super) struct Quarantine(BTreeMap<SourceId, Vec<QuarantinedRow>>);

impl Quarantine {
    pub fn new(rows: Vec<QuarantinedRow>) -> Quarantine {
        let mut by_source: BTreeMap<SourceId, Vec<QuarantinedRow>> = BTreeMap::new();
        for row in rows {
            by_source.entry(row.source).or_default().push(row);
        }
        Quarantine(by_source)
    }

    /// The rows of one source.
    pub fn of(&self, source: SourceId) -> &[QuarantinedRow] {
        self.0.get(&source).map_or(&[], Vec::as_slice)
    }
}

/// Whether the destination holds such a chunk, though not as it should be.
pub(super) fn is_present(row: &QuarantinedRow) -> bool {
    PRESENT_CLASSES.contains(&row.class.as_str())
}

/// Where the chunks of one source are that are in quarantine and therefore not in the destination.
#[derive(Debug, Default)]
pub(super) struct Withheld(HashSet<(ShardNumber, SeqNo)>);

impl Withheld {
    pub fn new(rows: &[QuarantinedRow]) -> Withheld {
        Withheld(rows.iter().filter(|row| !is_present(row)).map(|row| (row.shard, row.seq_no)).collect())
    }

    /// Whether the chunk at that place is in quarantine: an update of it is at another one, and judged by itself.
    pub fn holds(&self, shard: ShardNumber, seq_no: SeqNo) -> bool {
        self.0.contains(&(shard, seq_no))
    }
}
