//! How a collection compares: counts of both sides, and the verdict that they make. Pure.

use std::collections::BTreeMap;

use super::compare::Compared;
use super::withheld::is_present;
use crate::elastic::PrimaryStats;
use crate::merge::memo::WithoutIndex;
use crate::state::{CollectionVerdict, Counts, QuarantinedRow, SourceRow, SourceState};

/// How many chunks each side of a collection has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sides {
    pub source: u64,
    pub destination: u64,
    /// Chunks of the source that are not in the destination because they are in quarantine.
    withheld: u64,
    /// Chunks of the source that share their key and content with another.
    collapsed: u64,
    quarantined: u64,
    different: u64,
}

impl Sides {
    pub fn new(
        shards: &[PrimaryStats],
        destination: u64,
        counts: &Counts,
        quarantined: &[QuarantinedRow],
    ) -> Sides {
        let different = quarantined.iter().filter(|row| is_present(row)).count() as u64;
        let all = quarantined.len() as u64;
        Sides {
            source: shards.iter().map(|shard| shard.docs).sum(),
            destination,
            withheld: all - different,
            collapsed: counts.collapsed.max(0).unsigned_abs(),
            quarantined: all,
            different,
        }
    }

    fn expected(&self) -> u64 {
        self.source.saturating_sub(self.withheld).saturating_sub(self.collapsed)
    }

    fn agree(&self) -> bool {
        self.destination == self.expected()
    }

    /// Whether counts alone do not tell: chunks that share a key hide a difference.
    pub fn are_doubtful(&self) -> bool {
        self.collapsed > 0 || !self.agree()
    }

    /// What the comparison of the keys found is exact.
    pub fn learn(&mut self, compared: &Compared) {
        let with_key = compared.live.saturating_sub(compared.withheld).saturating_sub(compared.keyless);
        self.source = compared.live;
        self.withheld = compared.withheld;
        self.collapsed = with_key.saturating_sub(compared.distinct);
        self.destination = compared.kept;
    }

    pub fn verdict(&self, collection_id: i64, counts: &Counts) -> CollectionVerdict {
        let reason = if !self.agree() {
            Some(format!(
                "the source has {} chunks ({} in quarantine, {} collapsed), the destination {}",
                self.source, self.withheld, self.collapsed, self.destination
            ))
        } else if self.different > 0 {
            Some(format!("{} chunks differ after their repair", self.different))
        } else {
            None
        };
        CollectionVerdict {
            collection_id,
            source_documents: signed(self.source),
            destination_documents: signed(self.destination),
            compared: counts.compared,
            different: signed(self.different),
            quarantined: signed(self.quarantined),
            collapsed: signed(self.collapsed),
            verdict: reason.is_none(),
            reason,
        }
    }
}

/// A collection whose index cannot be read now cannot be judged.
pub(super) fn unread(source: &SourceRow, in_destination: u64) -> CollectionVerdict {
    CollectionVerdict {
        collection_id: source.collection_id,
        source_documents: source.documents,
        destination_documents: signed(in_destination),
        compared: 0,
        different: 0,
        quarantined: 0,
        collapsed: 0,
        verdict: false,
        reason: Some(source.attention.clone().unwrap_or_else(|| "its index cannot be read now".to_owned())),
    }
}

/// Collections that have an index which could never be read: they are no sources yet, and no less missing for that.
pub(super) fn never_read(
    without_index: &BTreeMap<i64, WithoutIndex>,
    stored: &[SourceRow],
    there: &BTreeMap<i64, u64>,
) -> Vec<CollectionVerdict> {
    let judged = |collection| {
        let takes_part =
            |source: &&SourceRow| matches!(source.state, SourceState::Active | SourceState::Waiting);
        stored.iter().filter(takes_part).any(|source| source.collection_id == collection)
    };
    without_index
        .iter()
        .filter(|(collection, why)| why.reason.is_unreadable() && !judged(**collection))
        .map(|(&collection_id, why)| CollectionVerdict {
            collection_id,
            source_documents: 0,
            destination_documents: signed(there.get(&collection_id).copied().unwrap_or(0)),
            compared: 0,
            different: 0,
            quarantined: 0,
            collapsed: 0,
            verdict: false,
            reason: Some(why.to_string()),
        })
        .collect()
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
