//! How a collection compares: counts of both sides, and the verdict that they make. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::compare::Compared;
use super::withheld::InQuarantine;
use crate::elastic::PrimaryStats;
use crate::merge::memo::WithoutIndex;
use crate::state::{CollectionVerdict, Counts, SourceId, SourceRow, SourceState};

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

    /// Adds a source with these shards.
    pub fn add(&mut self, source: &SourceRow, shards: &[PrimaryStats], quarantined: InQuarantine) {
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
            SourceState::Waiting => {
                Some(unread(source, self.in_destination(source), without_index.get(&source.collection_id)))
            }
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
    /// Chunks that the source counts beside those that it shows.
    pub hidden: u64,
}

impl Sides {
    fn new(shards: &[PrimaryStats], destination: u64, counts: &Counts, quarantined: InQuarantine) -> Sides {
        Sides {
            source: shards.iter().map(|shard| shard.docs).sum(),
            destination,
            withheld: quarantined.all - quarantined.present,
            collapsed: counts.collapsed.max(0).unsigned_abs(),
            quarantined: quarantined.all,
            different: quarantined.present,
            hidden: 0,
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
        let reason = if self.hidden > 0 {
            Some(format!(
                "the credentials of the source show {} of the {} chunks of its index; take query out of their role (and of that of an API key's owner)",
                self.source,
                self.source + self.hidden
            ))
        } else if !self.agree() {
            Some(format!(
                "the source has {} chunks ({} in quarantine, {} collapsed), the destination {}; stop whoever else writes to the destination or deletes from it",
                self.source, self.withheld, self.collapsed, self.destination
            ))
        } else if self.different > 0 {
            Some(format!(
                "{} chunks differ after their repair (es-index-merge quarantine list --class Different tells how); take away what alters them in the destination: another writer, or an ingest pipeline",
                self.different
            ))
        } else {
            None
        };
        CollectionVerdict {
            collection_id,
            source_documents: signed(self.source + self.hidden),
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
fn unread(
    source: &SourceRow,
    in_destination: u64,
    without_index: Option<&WithoutIndex>,
) -> CollectionVerdict {
    let found_out = without_index.filter(|why| why.reason.is_unreadable()).map(ToString::to_string);
    let reason = source.attention.clone().or(found_out).unwrap_or_else(|| {
        "its index cannot be read now; look at the health of the source cluster, or exclude the collection"
            .to_owned()
    });
    CollectionVerdict {
        collection_id: source.collection_id,
        source_documents: source.documents,
        destination_documents: signed(in_destination),
        compared: 0,
        different: 0,
        quarantined: 0,
        collapsed: 0,
        verdict: false,
        reason: Some(reason),
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

/// Whether nothing was written between these two looks at the shards of an index, nor was under way.
pub(super) fn are_at_rest(before: &[PrimaryStats], now: &[PrimaryStats]) -> bool {
    let is_at_rest = |(first, second): (&PrimaryStats, &PrimaryStats)| {
        first.global_checkpoint == first.max_seq_no
            && (&first.history_uuid, first.max_seq_no) == (&second.history_uuid, second.max_seq_no)
    };
    before.len() == now.len() && before.iter().zip(now).all(is_at_rest)
}

/// Whether a mapping has a field of which the server keeps values as documents of their own, and counts them.
pub(super) fn keeps_more_than_chunks(mapping: &Value) -> bool {
    let Some(parts) = mapping.as_object() else { return false };
    let kind = parts.get("type").and_then(Value::as_str);
    matches!(kind, Some("nested" | "semantic_text")) || parts.values().any(keeps_more_than_chunks)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::slice;

    use serde_json::json;

    use super::*;
    use crate::elastic::IndexUuid;
    use crate::merge::memo::NoIndex;

    /// A source of 5 chunks, of which that many are in the destination.
    fn sides(destination: u64) -> Sides {
        Sides { source: 5, destination, withheld: 1, collapsed: 0, quarantined: 1, different: 0, hidden: 0 }
    }

    fn waiting(attention: Option<&str>) -> SourceRow {
        SourceRow {
            id: 1,
            collection_id: 7,
            index_name: "7".to_owned(),
            index_uuid: "uuid".to_owned(),
            shards: 1,
            generation: 0,
            documents: 5,
            bytes: 100,
            state: SourceState::Waiting,
            attention: attention.map(str::to_owned),
            blocked_by_us: false,
            cuts: BTreeMap::new(),
            deletion: None,
        }
    }

    /// The reason of the verdict on such a source.
    fn unread_because(source: SourceRow, why: Option<NoIndex>) -> String {
        let counted = Counted { there: BTreeMap::new(), counts: BTreeMap::new(), sides: BTreeMap::new() };
        let without = |reason| (7, WithoutIndex { reason, message: "mend it".to_owned() });
        let verdicts = counted.verdicts(&[source], &why.map(without).into_iter().collect());
        assert_eq!(verdicts.len(), 1);
        verdicts[0].reason.clone().unwrap()
    }

    #[test]
    fn a_negative_verdict_says_what_is_wrong_and_what_to_do() {
        let reason = |sides: Sides| sides.verdict(7, &Counts::default()).reason;
        assert_eq!(reason(sides(4)), None);
        assert_eq!(
            reason(sides(3)).unwrap(),
            "the source has 5 chunks (1 in quarantine, 0 collapsed), the destination 3; \
             stop whoever else writes to the destination or deletes from it"
        );
        assert_eq!(
            reason(Sides { different: 2, ..sides(4) }).unwrap(),
            "2 chunks differ after their repair (es-index-merge quarantine list --class Different tells how); \
             take away what alters them in the destination: another writer, or an ingest pipeline"
        );
    }

    #[test]
    fn chunks_that_are_counted_and_not_shown_make_the_verdict_negative() {
        let verdict = Sides { hidden: 40, ..sides(4) }.verdict(7, &Counts::default());
        assert!(!verdict.verdict);
        assert_eq!(verdict.source_documents, 45);
        assert_eq!(
            verdict.reason.unwrap(),
            "the credentials of the source show 5 of the 45 chunks of its index; \
             take query out of their role (and of that of an API key's owner)"
        );
    }

    #[test]
    fn only_what_rests_between_two_looks_is_counted() {
        let shard = |max_seq_no, global_checkpoint, history_uuid: &str| PrimaryStats {
            index_uuid: IndexUuid("uuid".to_owned()),
            shard: 0,
            history_uuid: history_uuid.to_owned(),
            max_seq_no,
            local_checkpoint: max_seq_no,
            global_checkpoint,
            docs: 5,
            deleted: 0,
            store_bytes: 100,
        };
        let rests = shard(9, 9, "a");
        assert!(are_at_rest(slice::from_ref(&rests), &[PrimaryStats { docs: 4, ..rests.clone() }]));
        assert!(!are_at_rest(&[shard(9, 8, "a")], slice::from_ref(&rests)), "it was under way");
        assert!(!are_at_rest(slice::from_ref(&rests), &[shard(10, 10, "a")]), "it was written to");
        assert!(!are_at_rest(slice::from_ref(&rests), &[shard(9, 9, "b")]), "it is another log");
        assert!(!are_at_rest(&[rests.clone(), rests.clone()], &[rests]));
    }

    #[test]
    fn fields_whose_values_are_counted_are_found_wherever_they_are() {
        let plain = json!({"dynamic_templates": [{"parts": {"mapping": {"type": "nested"}}}],
            "properties": {"type": {"type": "keyword"}, "metadata": {"properties": {"id": {"type": "long"}}}}});
        assert!(!keeps_more_than_chunks(&plain));
        for counted in [
            json!({"properties": {"metadata": {"properties": {"parts": {"type": "nested"}}}}}),
            json!({"properties": {"content": {"type": "text", "fields": {"meaning": {"type": "semantic_text"}}}}}),
        ] {
            assert!(keeps_more_than_chunks(&counted), "{counted}");
        }
    }

    #[test]
    fn of_an_index_that_cannot_be_read_the_nearest_reason_is_told() {
        assert_eq!(
            unread_because(waiting(Some("SourceDisabled: so it is")), None),
            "SourceDisabled: so it is"
        );
        assert_eq!(unread_because(waiting(None), Some(NoIndex::IndexClosed)), "IndexClosed: mend it");
        let unknown = "its index cannot be read now; look at the health of the source cluster, or exclude the collection";
        assert_eq!(unread_because(waiting(None), None), unknown);
        // It is not listed, and there when it is asked for by its name.
        assert_eq!(unread_because(waiting(None), Some(NoIndex::IndexMissing)), unknown);
    }
}
