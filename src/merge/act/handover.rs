//! The mark of a destination that was handed over, so that applications may have written to it.
//!
//! It names the collections that were merged, and is in the mapping of the index (`_meta`), which lasts as long as the index.
//! The state does not: it may be set back, or the merge be made anew. To that one, what applications wrote would be foreign,
//! to be deleted or overwritten. So it lets the index be until somebody takes the mark away.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::destination::{described_now, lost};
use super::keys::count_destination;
use crate::elastic::IndexInfo;
use crate::merge::engine::Engine;
use crate::merge::error::{MergeCategory, MergeError, Problem};
use crate::merge::memo::Memo;
use crate::merge::observe::active;
use crate::merge::valid::ValidMerge;

/// The member of `_meta` that is ours, and its own with the marks.
const OURS: &str = "es-index-merge";
const HANDED_OVER: &str = "handedOver";

/// What one merge handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Whose it was.
    merge: String,
    /// When the cutover began: tells it from another one of that name.
    cutover: Timestamp,
    /// The ids of the collections: first and last of each range.
    collections: Vec<(i64, i64)>,
}

impl Mark {
    fn is_of(&self, other: &Mark) -> bool {
        self.merge == other.merge && self.cutover == other.cutover
    }

    /// A collection in it that the merge is to copy, if there may be one.
    fn wanted_by(&self, merge: &ValidMerge) -> Option<i64> {
        self.collections.iter().find_map(|&(first, last)| {
            if merge.include.is_empty() {
                // As many as may be excluded, and one.
                (first..=last).take(merge.exclude.len() + 1).find(|&id| merge.wants(id))
            } else {
                merge.include.range(first..=last).copied().find(|&id| merge.wants(id))
            }
        })
    }

    /// One of these collections that is in it.
    fn one_of(&self, collections: &BTreeSet<i64>) -> Option<i64> {
        self.collections.iter().find_map(|&(first, last)| collections.range(first..=last).next().copied())
    }
}

/// Consecutive ids as first and last of each range.
fn ranges(ids: &BTreeSet<i64>) -> Vec<(i64, i64)> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for &id in ids {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(id) => *last = id,
            _ => ranges.push((id, id)),
        }
    }
    ranges
}

/// The marks on an index; an error if they are not as they were written.
fn marks(info: &IndexInfo) -> Result<Vec<Mark>, serde_json::Error> {
    match info.mapping.pointer(&format!("/_meta/{OURS}/{HANDED_OVER}")) {
        Some(found) => Vec::deserialize(found),
        None => Ok(Vec::new()),
    }
}

/// Why the merge must not begin with that index: it was handed over with a collection that the merge is to copy.
pub(in crate::merge) fn objection(merge: &ValidMerge, info: &IndexInfo) -> Option<Problem> {
    let or_else = "else choose another name, or have other collections copied only (spec.collections)";
    objection_to(merge, info, or_else, |mark| mark.wanted_by(merge))
}

fn objection_to(
    merge: &ValidMerge,
    info: &IndexInfo,
    or_else: &str,
    find: impl Fn(&Mark) -> Option<i64>,
) -> Option<Problem> {
    let name = &merge.destination.index;
    let what = match marks(info) {
        Ok(marks) => marks.iter().find_map(|mark| {
            let (collection, owner) = (find(mark)?, &mark.merge);
            Some(format!(
                "the merge {owner} handed this index over to applications with the collection {collection}"
            ))
        })?,
        Err(error) => format!("the mark of the collections that were handed over cannot be read ({error})"),
    };
    let text = format!(
        "{what}, so what they have written since would be deleted or overwritten; if the state database was set back, \
         restore its last state; {or_else}; if nobody has written to the index, take the mark away: \
         `PUT /{name}/_mapping` with {{\"_meta\": {{}}}}"
    );
    Some(Problem::new("spec.destination.index.name", text))
}

/// An error if the destination, as it is now, was handed over with one of these collections, which this merge has. Returns
/// whether it was handed over with any other.
pub(super) async fn refuse_if_handed_over(
    engine: &Engine,
    collections: &BTreeSet<i64>,
) -> Result<bool, MergeError> {
    if collections.is_empty() {
        return Ok(false);
    }
    let name = &engine.merge.destination.index;
    let described = engine.destination.describe(std::slice::from_ref(name)).await;
    let described = described.map_err(MergeError::Destination)?;
    let Some(info) = described.get(name) else { return Ok(false) };
    let or_else = "if the collection was added to spec.collections since, take it out again";
    match objection_to(&engine.merge, info, or_else, |mark| mark.one_of(collections)) {
        None => Ok(marks(info).is_ok_and(|marks| !marks.is_empty())),
        Some(problem) => Err(MergeError::Problems {
            category: MergeCategory::DestinationMismatch,
            problems: vec![problem],
        }),
    }
}

/// [`refuse_if_handed_over`], for collections that are new to this merge. In an index that is in service, what is there of
/// them is not what this merge wrote.
pub(super) async fn refuse_new(engine: &Engine, collections: &BTreeSet<i64>) -> Result<(), MergeError> {
    if !refuse_if_handed_over(engine, collections).await? {
        return Ok(());
    }
    let there = count_destination(engine).await?;
    let Some((collection, documents)) = there.into_iter().find(|(id, _)| collections.contains(id)) else {
        return Ok(());
    };
    let name = &engine.merge.destination.index;
    let holds = if documents == 1 { "1 document".to_owned() } else { format!("{documents} documents") };
    let text = format!(
        "{name} is in service and holds {holds} of the collection {collection}, which this merge did not write and would \
         delete or overwrite; put the collection into spec.collections.exclude; or, if only an earlier merge wrote them, \
         delete them first (`POST /{name}/_delete_by_query`, by collection_id)"
    );
    Err(MergeError::problem(MergeCategory::DestinationMismatch, "spec.destination.index.name", text))
}

/// Puts the mark on the destination: applications may write to it once this is done, and before nothing led them there. The
/// intent is in the memo first; where another pass is made after all, the mark comes off again before it. False if the attempt
/// is over.
pub(super) async fn mark(engine: &Engine, attempt: &Memo) -> Result<bool, MergeError> {
    let started_at = attempt.cutover.started_at;
    let memo = engine
        .edit_memo(|memo| {
            if is_ended_by(memo, attempt) {
                memo.marked = started_at;
            }
        })
        .await?;
    if !is_ended_by(&memo, attempt) {
        return Ok(false);
    }
    let stored = engine.state.sources(engine.id).await?;
    let collections: BTreeSet<i64> = active(&stored).map(|source| source.collection_id).collect();
    replace(engine, &memo, ranges(&collections)).await?;
    Ok(true)
}

/// Whether the attempt that a process saw is still under way and may end: a process that was stopped for long may find another.
pub(super) fn is_ended_by(memo: &Memo, attempt: &Memo) -> bool {
    let is_positive = memo.verdict.as_ref().is_some_and(|verdict| verdict.positive);
    memo.cutover.started_at == attempt.cutover.started_at && (memo.cutover.handed_over || is_positive)
}

/// Takes the mark of an attempt away that did not hand the destination over after all.
pub(super) async fn unmark(engine: &Engine, memo: &Memo) -> Result<(), MergeError> {
    if memo.marked.is_none() {
        return Ok(());
    }
    replace(engine, memo, Vec::new()).await?;
    engine.edit_memo(|memo| memo.marked = None).await.map(drop)
}

/// Whether somebody marked that index of whom the memo knows nothing.
pub(super) fn is_marked_by_another(engine: &Engine, memo: &Memo, info: &IndexInfo) -> bool {
    let is_ours = |mark: &Mark| mark.merge == engine.merge.owner && Some(mark.cutover) == memo.marked;
    marks(info).map_or(true, |marks| !marks.iter().all(is_ours))
}

/// Replaces what the attempt of the memo says it handed over; what others said stays.
async fn replace(engine: &Engine, memo: &Memo, collections: Vec<(i64, i64)>) -> Result<(), MergeError> {
    let name = &engine.merge.destination.index;
    let mark =
        Mark { merge: engine.merge.owner.clone(), cutover: memo.marked.unwrap_or_default(), collections };
    let info = described_now(engine).await?;
    if memo.destination.as_ref().is_none_or(|ours| ours.uuid != info.uuid.0) {
        return Err(lost(engine));
    }
    let before = marks(&info).map_err(|error| {
        MergeError::Internal(format!("the marks in the mapping of {name} cannot be read: {error}"))
    })?;
    let mut after = before.clone();
    after.retain(|other| !other.is_of(&mark));
    if !mark.collections.is_empty() {
        after.push(mark);
    }
    if after == before {
        return Ok(());
    }
    // The server replaces it whole.
    let mut meta = info.mapping.get("_meta").cloned().unwrap_or_else(|| json!({}));
    meta[OURS] = json!({HANDED_OVER: after});
    engine.destination.put_mapping(name, &json!({"_meta": meta})).await.map_err(MergeError::Destination)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::merge::valid::test_merge;

    fn merge(include: &[i64], exclude: &[i64]) -> ValidMerge {
        let of = |ids: &[i64]| ids.iter().copied().collect();
        ValidMerge { include: of(include), exclude: of(exclude), ..test_merge() }
    }

    #[test]
    fn consecutive_collections_are_one_range() {
        let ids = |ids: &[i64]| ranges(&ids.iter().copied().collect());
        assert_eq!(ids(&[]), []);
        assert_eq!(ids(&[3, 1, 2, 7, i64::MAX]), [(1, 3), (7, 7), (i64::MAX, i64::MAX)]);
    }

    #[test]
    fn a_merge_of_other_collections_may_follow_and_one_of_the_same_may_not() {
        let collections = vec![(1, 3), (7, i64::MAX)];
        let mark = Mark { merge: "a/b".to_owned(), cutover: Timestamp::UNIX_EPOCH, collections };
        let wanted = |include: &[i64], exclude: &[i64]| mark.wanted_by(&merge(include, exclude));
        assert_eq!(wanted(&[], &[]), Some(1));
        assert_eq!(wanted(&[], &[1, 2, 3]), Some(7));
        assert_eq!(wanted(&[4, 5], &[]), None);
        assert_eq!(wanted(&[4, 8], &[]), Some(8));
        assert_eq!(wanted(&[4, 8], &[8]), None);
        assert_eq!(mark.one_of(&BTreeSet::from([4, 6, 9])), Some(9));
        assert_eq!(mark.one_of(&BTreeSet::from([0, 4, 6])), None);
        let few = Mark { collections: vec![(1, 3)], ..mark.clone() };
        assert_eq!(few.wanted_by(&merge(&[], &[1, 2, 3])), None);
    }
}
