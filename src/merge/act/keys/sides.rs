//! How a collection compares: counts of both sides, and the verdict that they make. Pure.

use std::collections::BTreeMap;

use super::compare::Compared;
use super::withheld::is_present;
use crate::elastic::PrimaryStats;
use crate::merge::memo::WithoutIndex;
use crate::state::{CollectionVerdict, Counts, QuarantinedRow, SourceId, SourceRow, SourceState};

/// What is known of all collections.
pub(super) struct Counted {
    /// Documents of each collection in the destination.
    pub there: BTreeMap<i64, u64>,
    /// What the workers counted of each collection.
    pub counts: BTreeMap<i64, Counts>,
    /// The sides of each source that can be read.
    pub sides: BTreeMap<SourceId, Sides>,
}

impl Counted {
    /// Documents of a source's collection in the destination.
    pub fn in_destination(&self, source: &SourceRow) -> u64 {
        self.there.get(&source.collection_id).copied().unwrap_or(0)
    }

    fn counts(&self, source: &SourceRow) -> Counts {
        self.counts.get(&source.collection_id).copied().unwrap_or_default()
    }

    /// Adds a source with these shards and rows of the quarantine.
    pub fn add(&mut self, source: &SourceRow, shards: &[PrimaryStats], quarantined: &[QuarantinedRow]) {
        let sides = Sides::new(shards, self.in_destination(source), &self.counts(source), quarantined);
        self.sides.insert(source.id, sides);
    }

    /// Whether the keys of a source are to be compared.
    pub fn is_doubtful(&self, source: &SourceRow) -> bool {
        self.sides.get(&source.id).is_some_and(Sides::are_doubtful)
    }

    /// The verdict of each collection that has, or should have, an index.
    pub fn verdicts(
        &self,
        stored: &[SourceRow],
        without_index: &BTreeMap<i64, WithoutIndex>,
    ) -> Vec<CollectionVerdict> {
        let verdict = |source: &SourceRow| match source.state {
            SourceState::Active => self
                .sides
                .get(&source.id)
                .map(|sides| sides.verdict(source.collection_id, &self.counts(source))),
            SourceState::Waiting => Some(unread(source, self.in_destination(source))),
            SourceState::Gone | SourceState::Purged => None,
        };
        let never_read = never_read(without_index, stored, &self.there);
        stored.iter().filter_map(verdict).chain(never_read).collect()
    }
}

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
    fn new(
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
    fn are_doubtful(&self) -> bool {
        self.collapsed > 0 || !self.agree()
    }

    /// What the comparison of the keys found is exact.
    pub fn learn(&mut self, compared: &Compared) {
        let copied = compared.live.saturating_sub(compared.later);
        let with_key = copied.saturating_sub(compared.withheld).saturating_sub(compared.keyless);
        self.source = copied;
        self.withheld = compared.withheld;
        self.collapsed = with_key.saturating_sub(compared.distinct);
        self.destination = compared.kept;
    }

    fn verdict(&self, collection_id: i64, counts: &Counts) -> CollectionVerdict {
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
fn unread(source: &SourceRow, in_destination: u64) -> CollectionVerdict {
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
fn never_read(
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
