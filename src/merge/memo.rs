//! The few facts of a merge that must survive a crash and are no rows of their own.
//!
//! Kept as one JSON value in the merge's row. Rule: intent before effect. What an action is about to
//! change on a server is written here first, so that whoever comes next can finish it or put it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::MergeError;

/// Durable facts of one merge.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memo {
    /// The destination as created or adopted.
    pub destination: Option<DestinationMemo>,
    /// The uuid of the source cluster: another cluster at the same URL must not look like deleted indices.
    pub source_cluster: Option<String>,
    /// How far the graph is.
    pub graph: GraphMemo,
    /// The present (or last) attempt to cut over.
    pub cutover: CutoverMemo,
    /// The alias through which workers write is taken away (or about to be).
    pub workers_stopped: bool,
    /// The attempt to cut over, by its beginning, whose mark the destination has, or is about to have: that it was handed over.
    pub marked: Option<Timestamp>,
    /// When the shard logs were last read for a pass: all earlier operations are in the destination
    /// once that pass is copied.
    pub pass_taken_at: Option<Timestamp>,
    /// The same moment of the pass before it: all earlier operations are in the destination. Of a still earlier one, if
    /// that was not copied when the last one was planned.
    pub copied_until: Option<Timestamp>,
    /// Collections without a readable index at the last resolve, and why.
    pub without_index: BTreeMap<i64, WithoutIndex>,
    /// Indices named by a number that no collection has, at the last resolve.
    pub strays: Vec<String>,
    /// The last judgement.
    pub verdict: Option<VerdictMemo>,
    /// How long writers were refused in the cutover that succeeded, in seconds.
    pub writes_refused_seconds: Option<f64>,
    /// Collections that came after the verdict.
    pub newcomers: NewcomersMemo,
}

impl Memo {
    /// The memo as it is stored; an empty one for a new merge.
    pub(super) fn parse(stored: Value) -> Result<Memo, MergeError> {
        if stored.is_null() {
            return Ok(Memo::default());
        }
        serde_json::from_value(stored)
            .map_err(|error| MergeError::Internal(format!("the stored memo cannot be read: {error}")))
    }

    /// The first collection whose index could not be read, and why.
    pub(super) fn unavailable(&self) -> Option<String> {
        let mut all = self.without_index.iter();
        let (collection, why) = all.find(|(_, why)| why.reason == NoIndex::IndexUnavailable)?;
        Some(format!("the index of collection {collection} cannot be read now: {}", why.message))
    }
}

/// Why a collection has no index that can be merged now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithoutIndex {
    /// The kind of reason.
    pub reason: NoIndex,
    /// One sentence, with the remedy where there is one.
    pub message: String,
}

impl fmt::Display for WithoutIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)
    }
}

/// The kinds of reasons for which a collection has no index that can be merged now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoIndex {
    /// There is none.
    IndexMissing,
    /// It is the destination itself.
    SourceIsDestination,
    /// It is that of another collection too.
    IndexShared,
    /// Its id leads to several indices, or to a data stream.
    IndexAmbiguous,
    /// Its id is an alias that leaves out a part of the index.
    AliasFiltered,
    /// The credentials of the source do not show whether there is one.
    IndexHidden,
    /// It is closed.
    IndexClosed,
    /// A shard of it has no primary that answers, which passes by itself: it starts, or its node restarts. Or the server refuses
    /// to speak of it.
    IndexUnavailable,
}

impl NoIndex {
    /// As it is written in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NoIndex::IndexMissing => "IndexMissing",
            NoIndex::SourceIsDestination => "SourceIsDestination",
            NoIndex::IndexShared => "IndexShared",
            NoIndex::IndexAmbiguous => "IndexAmbiguous",
            NoIndex::AliasFiltered => "AliasFiltered",
            NoIndex::IndexHidden => "IndexHidden",
            NoIndex::IndexClosed => "IndexClosed",
            NoIndex::IndexUnavailable => "IndexUnavailable",
        }
    }

    /// Whether there is an index, or may be one, with chunks that are missing from the destination, under the collection's id,
    /// as long as that is so.
    #[must_use]
    pub fn is_unreadable(self) -> bool {
        match self {
            NoIndex::IndexShared
            | NoIndex::IndexAmbiguous
            | NoIndex::AliasFiltered
            | NoIndex::IndexHidden
            | NoIndex::IndexClosed
            | NoIndex::IndexUnavailable => true,
            NoIndex::IndexMissing | NoIndex::SourceIsDestination => false,
        }
    }
}

/// The destination index, and what was changed on it for the load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DestinationMemo {
    /// Its uuid; another one later means that somebody deleted it under the run.
    pub uuid: String,
    /// Whether this merge created it (an adopted index is never deleted).
    pub created: bool,
    /// Settings to put back, by name; `null` means "remove ours".
    pub put_back: BTreeMap<String, Value>,
    /// Whether `put_back` has been applied.
    pub settled: bool,
    /// The history of each shard: another one later means that it was set back (restored, or forced from a stale
    /// copy), so that what was compared is no longer what is there.
    #[serde(default)]
    pub histories: BTreeMap<i32, String>,
    /// Whether that ever was so: what is there must be compared, whatever `verification.mode` says.
    #[serde(default)]
    pub was_set_back: bool,
}

/// The deferred graph.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum GraphMemo {
    /// The wanted index options are in the mapping from the start; nothing to do.
    #[default]
    Direct,
    /// The mapping says `flat` while loading.
    Loading,
    /// The wanted index options are in the mapping; segments at or below the mark of their shard are still flat.
    Switched {
        /// The largest segment generation of each shard when the mapping was changed.
        marks: BTreeMap<i32, u64>,
        /// How often a rewrite was asked for since there were fewer of them.
        rounds: u32,
        /// How many segments were flat then.
        #[serde(default)]
        flat: u64,
    },
    /// Every segment has been written with the wanted index options.
    Built,
}

/// One attempt to cut over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools)] // Independent facts, not a state.
pub struct CutoverMemo {
    /// When the present attempt began; `None` between attempts.
    pub started_at: Option<Timestamp>,
    /// When the first write block was asked for.
    pub blocked_at: Option<Timestamp>,
    /// Every source is blocked.
    pub blocked: bool,
    /// The last pass is planned, on drained shards.
    pub last_pass_planned: bool,
    /// The sources that the last pass covers: one that appears after it asks for another.
    pub covered: BTreeSet<i64>,
    /// What has been compared once more before the counts are believed.
    pub rechecked: Rechecked,
    /// The keys and counts of both sides agree.
    pub keys_reconciled: bool,
    /// The verdict is positive and the aliases are set, or about to be: applications may write to the destination, and
    /// nothing leads back any more.
    pub handed_over: bool,
    /// When the last look was that found every source as it was copied, and refusing writes.
    pub stood_at: Option<Timestamp>,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this moment is the next attempt.
    pub retry_at: Option<Timestamp>,
    /// Why the last attempt ended without a verdict.
    pub last_failure: Option<String>,
}

impl CutoverMemo {
    /// The sources are blocked and copied once more within the attempt: what was found out since counts no more.
    pub(super) fn begin_last_pass_again(&mut self) {
        self.blocked = false;
        self.last_pass_planned = false;
        self.rechecked = Rechecked::Nothing;
        self.keys_reconciled = false;
    }
}

/// What has been compared once more in an attempt to cut over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rechecked {
    /// Nothing yet.
    #[default]
    Nothing,
    /// Chunks in quarantine because of what was under their key.
    Disputes,
    /// These, and chunks whose document was missing.
    Missing,
    /// These, and chunks that share a key.
    Twins,
}

/// The judgement over all collections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerdictMemo {
    /// Every collection is equal, within the tolerations.
    pub positive: bool,
    /// Collections judged.
    pub collections: u64,
    /// Collections that are not equal.
    pub unequal: u64,
    /// Chunks in quarantine.
    pub quarantined: u64,
    /// Documents of the destination that belong to no collection of this merge.
    pub unknown_documents: u64,
    /// The chunks were counted and not compared (`spec.verification.mode`).
    #[serde(default)]
    pub counted_only: bool,
    /// One sentence.
    pub message: String,
    /// What the judgement depended on: a change of it is a reason to judge again.
    pub basis: String,
}

/// Newcomers whose index is remembered.
const NEWCOMERS: usize = 100;

/// Collections whose index came after the verdict, so that it is not merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NewcomersMemo {
    /// When they were last looked for, whether or not the servers answered.
    pub looked_at: Option<Timestamp>,
    /// The index of each, of the first 100 of them.
    pub indices: BTreeMap<i64, String>,
    /// How many there are in all.
    pub total: u64,
}

impl NewcomersMemo {
    /// Takes over what a look found. One that cannot be read now is still what it was.
    pub(super) fn replace(&mut self, mut found: BTreeMap<i64, String>, unreadable: &BTreeSet<i64>) {
        for (collection, index) in std::mem::take(&mut self.indices) {
            if unreadable.contains(&collection) {
                found.entry(collection).or_insert(index);
            }
        }
        self.total = found.len() as u64;
        self.indices = found.into_iter().take(NEWCOMERS).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(collections: std::ops::Range<i64>) -> BTreeMap<i64, String> {
        collections.map(|collection| (collection, collection.to_string())).collect()
    }

    #[test]
    fn a_newcomer_that_is_gone_is_forgotten_and_one_that_cannot_be_read_is_not() {
        let mut memo = NewcomersMemo::default();
        memo.replace(found(1..4), &BTreeSet::new());
        assert_eq!((memo.total, &memo.indices), (3, &found(1..4)));
        memo.replace(found(3..4), &BTreeSet::from([2, 9]));
        assert_eq!((memo.total, &memo.indices), (2, &found(2..4)));
        memo.replace(found(0..0), &BTreeSet::new());
        assert_eq!(memo, NewcomersMemo::default());
    }

    #[test]
    fn of_many_newcomers_all_are_counted_and_a_hundred_remembered() {
        let mut memo = NewcomersMemo::default();
        memo.replace(found(1..1_001), &BTreeSet::new());
        assert_eq!((memo.total, &memo.indices), (1_000, &found(1..101)));
    }
}
