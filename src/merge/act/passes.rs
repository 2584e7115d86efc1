//! Planning a pass: which part of which shard log is walked next.
//!
//! The order is what makes a pass complete: the ends of the logs (global checkpoints of the primaries),
//! then a refresh, then units up to those ends. Every operation at or below an end is then visible to the
//! searches that walk the units.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::keys;
use super::sources::{index_name, readable};
use crate::elastic::{IndexName, PrimaryStats};
use crate::merge::engine::Engine;
use crate::merge::error::MergeCategory;
use crate::merge::error::MergeError;
use crate::merge::memo::Memo;
use crate::merge::observe::{active, parse_memo};
use crate::merge::version::{LAST_PASS, SEQ_NO_END};
use crate::state::{ShardRow, ShardTarget, SourceId, SourceRow, UnitKind};

/// Sequence numbers in one unit: a shard with more is shared by several tasks, and few enough that they end together.
const SPLIT: i64 = 5_000;

/// Whether a pass may be planned on shards with operations that are not yet everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// Only when `max_seq_no = local_checkpoint = global_checkpoint` on every primary.
    Required,
    /// Whatever lies above the global checkpoints is left to the next pass.
    Whatever,
}

/// Stores copy units from where the last pass ended up to the present ends of the logs.
/// False if nothing was stored: the shards had to be drained and are not, or another process planned a pass meanwhile.
pub(super) async fn plan_copy(engine: &Engine, drained: Drained, now: Timestamp) -> Result<bool, MergeError> {
    // Before the ends are read: whoever plans a pass after this makes ours void.
    let row = engine.merge_row().await?;
    let memo = parse_memo(&row)?;
    let stored = engine.state.sources(engine.id).await?;
    let sources: BTreeMap<IndexName, &SourceRow> = by_index(&stored)?;
    let names: Vec<IndexName> = sources.keys().cloned().collect();
    let (stats, unreadable) =
        readable(engine.source.primary_stats(&names).await.map_err(MergeError::Source)?);
    let all_drained = unreadable.is_empty() && stats.values().flatten().all(is_drained);
    if drained == Drained::Required && !all_drained {
        return Ok(false);
    }
    let planned = planned_ends(&engine.state.shards(engine.id).await?);
    let mut targets = Vec::new();
    let mut grown = Vec::new();
    for (name, shards) in &stats {
        let Some(source) = sources.get(name) else { continue };
        let same_index = shards.iter().all(|shard| shard.index_uuid.0 == source.index_uuid);
        if !same_index {
            // Re-created between resolve and stats: the next resolve finds the new index.
            continue;
        }
        let is_new = is_new(source, &memo);
        let new: Vec<ShardTarget> =
            shards.iter().filter_map(|shard| target(source, shard, &planned, is_new)).collect();
        if !new.is_empty() {
            grown.push(name.clone());
            targets.extend(new);
        }
    }
    refuse_what_has_no_version(row.pass, &targets, &sources)?;
    engine.source.refresh(&grown).await.map_err(MergeError::Source)?;
    let is_copied = engine.state.open_sources(engine.id, UnitKind::Copy).await? == 0;
    let Some(units) = engine.state.plan_pass(engine.id, row.pass, &targets, SPLIT).await? else {
        tracing::debug!("another process planned a pass meanwhile");
        return Ok(false);
    };
    engine
        .edit_memo(|memo| {
            if is_copied {
                memo.copied_until = memo.pass_taken_at;
            }
            memo.pass_taken_at = Some(now);
        })
        .await?;
    tracing::debug!(pass = row.pass, units, shards = targets.len(), "a pass is planned");
    Ok(true)
}

/// Whether the destination cannot hold a chunk of the source's collection yet.
fn is_new(source: &SourceRow, memo: &Memo) -> bool {
    let created = memo.destination.as_ref().is_some_and(|destination| destination.created);
    created && source.generation == 0
}

/// What versions have no room for must not be written under a wrong one.
fn refuse_what_has_no_version(
    pass: i32,
    targets: &[ShardTarget],
    sources: &BTreeMap<IndexName, &SourceRow>,
) -> Result<(), MergeError> {
    if pass >= LAST_PASS {
        return Err(MergeError::problem(
            MergeCategory::ChecksFailed,
            "spec.destination.index",
            "this merge has followed its sources for longer than versions can tell apart; delete the resource, and merge into a new destination",
        ));
    }
    let Some(target) = targets.iter().find(|target| target.to > SEQ_NO_END) else { return Ok(()) };
    let index = sources.iter().find(|(_, source)| source.id == target.source);
    let (name, collection) = index.map_or(("", 0), |(name, source)| (name.as_str(), source.collection_id));
    Err(MergeError::problem(
        MergeCategory::ChecksFailed,
        "spec.source",
        format!(
            "shard {} of index {name} has had {} operations, more than the {SEQ_NO_END} that versions can tell apart; reindex it, which gives it a new log, or exclude collection {collection}",
            target.shard, target.to
        ),
    ))
}

/// Stores verify units for everything that was copied and not yet compared.
pub(super) async fn plan_verify(engine: &Engine) -> Result<(), MergeError> {
    // If it does not, the plan below begins at 0 everywhere.
    let _compared_stands = super::destination::still_holds_what_was_written(engine).await?;
    let name = &engine.merge.destination.index;
    engine.destination.refresh(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
    let stored = engine.state.sources(engine.id).await?;
    // A chunk that was mended is an operation of such a source, and what is said of its former state is over.
    let grown: BTreeSet<SourceId> = engine
        .state
        .shards(engine.id)
        .await?
        .into_iter()
        .filter(|shard| shard.verify_planned_to < shard.copy_planned_to)
        .map(|shard| shard.source)
        .collect();
    keys::release_what_lives_no_more(engine, &stored, |source| grown.contains(&source)).await?;
    engine.state.plan_comparison(engine.id, SPLIT).await?;
    Ok(())
}

/// Active sources by the name of their index.
pub(super) fn by_index(stored: &[SourceRow]) -> Result<BTreeMap<IndexName, &SourceRow>, MergeError> {
    active(stored).map(|source| Ok((index_name(source)?, source))).collect()
}

/// Whether the log of a shard is the one that was copied, and ends where its copy ends. A shard that never had an
/// operation was never planned.
pub(super) fn is_copied_whole(copied: Option<&ShardRow>, now: &PrimaryStats) -> bool {
    let is_same = copied.is_none_or(|copied| copied.history_uuid == now.history_uuid);
    let end = copied.map_or(0, |copied| copied.copy_planned_to);
    is_same && is_drained(now) && now.max_seq_no + 1 == end
}

fn is_drained(shard: &PrimaryStats) -> bool {
    shard.max_seq_no == shard.local_checkpoint && shard.max_seq_no == shard.global_checkpoint
}

/// Where the last pass ended, by source and shard.
type PlannedEnds = BTreeMap<(i64, i32), (String, i64)>;

fn planned_ends(shards: &[ShardRow]) -> PlannedEnds {
    shards
        .iter()
        .map(|shard| ((shard.source, shard.shard), (shard.history_uuid.clone(), shard.copy_planned_to)))
        .collect()
}

/// What to plan on one shard; `None` if its log is the one that was planned, and has not grown. One that was set back to
/// the time when it was empty has nothing to copy, but it is another one.
fn target(
    source: &SourceRow,
    shard: &PrimaryStats,
    planned: &PlannedEnds,
    is_new: bool,
) -> Option<ShardTarget> {
    let to = shard.global_checkpoint + 1;
    let known = planned.get(&(source.id, shard.shard));
    let is_another = known.is_some_and(|(history, _)| *history != shard.history_uuid);
    let from = known.filter(|_| !is_another).map_or(0, |(_, end)| *end);
    (to > from || is_another).then(|| ShardTarget {
        source: source.id,
        shard: shard.shard,
        history_uuid: shard.history_uuid.clone(),
        to,
        estimated_documents: (to - from).min(i64::try_from(shard.docs).unwrap_or(i64::MAX).max(1)),
        is_new,
    })
}
