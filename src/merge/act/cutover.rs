//! The cutover: a transaction over all sources. Either it ends in a verdict, or the blocks that we set (and only
//! those) come off and it is tried again later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::sources::{index_name, readable};
use super::{destination, passes};
use crate::elastic::{IndexName, PrimaryStats};
use crate::merge::elapsed;
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::memo::{CutoverMemo, Rechecked};
use crate::merge::observe::{active, parse_memo};
use crate::merge::phase::Phase;
use crate::merge::plan::CUTOVER_RETRY_MAX;
use crate::merge::valid::{SourceWrites, ValidMerge};
use crate::state::{ShardRow, SourceId, SourceRow};

/// The pause before the second attempt; doubled at each further one, at most [`CUTOVER_RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(30);

/// Opens an attempt.
pub(super) async fn begin(engine: &Engine, now: Timestamp) -> Result<(), MergeError> {
    engine
        .edit_memo(|memo| {
            memo.cutover = CutoverMemo {
                started_at: Some(now),
                attempts: memo.cutover.attempts + 1,
                ..CutoverMemo::default()
            };
            memo.verdict = None;
        })
        .await
        .map(drop)
}

/// Sets the write block on every source that has none, and makes sure of those that are ours. The block waits for
/// writes in flight, so what was acknowledged to an application is in the log when this returns.
pub(super) async fn block(engine: &Engine, now: Timestamp) -> Result<(), MergeError> {
    let memo = engine
        .edit_memo(|memo| {
            memo.cutover.blocked_at.get_or_insert(now);
        })
        .await?;
    let attempt = memo.cutover.started_at;
    let stored = engine.state.sources(engine.id).await?;
    let with_index = |source| Ok::<_, MergeError>((index_name(source)?, source));
    let sources: Vec<(IndexName, &SourceRow)> = active(&stored).map(with_index).collect::<Result<_, _>>()?;
    let names: Vec<IndexName> = sources.iter().map(|(name, _)| name.clone()).collect();
    // A block that somebody else set is not ours to lift: only those that are open now become ours.
    let blocks = engine.source.write_blocks(&names).await.map_err(MergeError::Source)?;
    let ours: BTreeSet<SourceId> = sources
        .iter()
        .filter(|(name, source)| !source.blocked_by_us && blocks.get(name) == Some(&false))
        .map(|(_, source)| source.id)
        .collect();
    let newly_ours: Vec<SourceId> = ours.iter().copied().collect();
    engine.state.set_blocked(&newly_ours, true).await?;
    // Also what was meant to be blocked before: the process may have died between the intent and the effect, or
    // the block was not acknowledged.
    let open: Vec<IndexName> = sources
        .into_iter()
        .filter(|(_, source)| source.blocked_by_us || ours.contains(&source.id))
        .map(|(name, _)| name)
        .collect();
    let blocked: BTreeSet<IndexName> = engine.source.block_writes(&open).await.map_err(MergeError::Source)?;
    let row = engine.merge_row().await?;
    let is_cutting_over = row.phase == Phase::CuttingOver.as_str();
    if !is_cutting_over || parse_memo(&row)?.cutover.started_at != attempt {
        // This process was stopped for so long that the attempt was ended without it. What it set is stored as ours:
        // another attempt and a verdict keep it, and in any other phase nobody may be refused.
        if !is_cutting_over && row.phase != Phase::Completed.as_str() {
            unblock(engine).await?;
        }
        return Ok(());
    }
    let missed: Vec<&IndexName> = open.iter().filter(|name| !blocked.contains(name)).collect();
    if !missed.is_empty() {
        // Deleted meanwhile, or not acknowledged: the next step resolves the sources and asks again.
        tracing::info!(missed = missed.len(), "some sources are not blocked yet");
        return Ok(());
    }
    engine.edit_memo(|memo| memo.cutover.blocked = true).await.map(drop)
}

/// The last pass. It is planned only on drained shards, so that nothing can come after it.
pub(super) async fn plan_last_pass(
    engine: &Engine,
    spec: &ValidMerge,
    now: Timestamp,
) -> Result<(), MergeError> {
    let drained = match spec.cutover.source_writes {
        SourceWrites::Block => passes::Drained::Required,
        SourceWrites::Allow => passes::Drained::Whatever,
    };
    let covered: BTreeSet<SourceId> =
        active(&engine.state.sources(engine.id).await?).map(|source| source.id).collect();
    if passes::plan_copy(engine, drained, now).await? {
        engine
            .edit_memo(|memo| {
                memo.cutover.last_pass_planned = true;
                memo.cutover.covered = covered;
            })
            .await?;
    }
    Ok(())
}

/// Whether the last pass covers every source as it is now. One that appeared since it was planned, or that was away for
/// a while, is blocked and copied like the others first, so that the verdict speaks of every collection that exists when
/// it is made; one that cannot be read now is waited for.
pub(super) async fn covers_every_source(engine: &Engine) -> Result<bool, MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    let stored = engine.state.sources(engine.id).await?;
    let present: BTreeSet<SourceId> = active(&stored).map(|source| source.id).collect();
    let covered: BTreeSet<SourceId> = memo.cutover.covered.intersection(&present).copied().collect();
    let newcomers = present.len() - covered.len();
    if newcomers > 0 {
        tracing::info!(newcomers, "collections appeared during the cutover: one more last pass");
    }
    if covered != memo.cutover.covered || newcomers > 0 {
        engine
            .edit_memo(|memo| {
                // What is away may have another history when it is back.
                memo.cutover.covered = covered;
                if newcomers > 0 {
                    memo.cutover.blocked = false;
                    memo.cutover.last_pass_planned = false;
                    memo.cutover.rechecked = Rechecked::Nothing;
                }
            })
            .await?;
    }
    Ok(newcomers == 0 && memo.unavailable().is_none())
}

/// Whether every source still refuses writes and ends where its last pass ended. A block may have been lifted, by
/// somebody or by a process that was stopped while it gave an earlier attempt up; an index may have been set back, or
/// closed and opened, between two looks. The last pass is made again then, as nothing may come after it.
pub(super) async fn still_stands(engine: &Engine) -> Result<bool, MergeError> {
    let stored = engine.state.sources(engine.id).await?;
    let rows = engine.state.shards(engine.id).await?;
    let copied: BTreeMap<(SourceId, i32), &ShardRow> =
        rows.iter().map(|row| ((row.source, row.shard), row)).collect();
    // As passes are planned: an index that two collections share is copied for one of them.
    let sources = passes::by_index(&stored)?;
    let names: Vec<IndexName> = sources.keys().cloned().collect();
    // The blocks first: what is refused from then on cannot change the logs that are looked at after it.
    let blocks = engine.source.write_blocks(&names).await.map_err(MergeError::Source)?;
    let (stats, _) = readable(engine.source.primary_stats(&names).await.map_err(MergeError::Source)?);
    let stands = |name: &IndexName, source: &SourceRow| {
        let is_whole = |shard: &PrimaryStats| {
            shard.index_uuid.0 == source.index_uuid
                && passes::is_copied_whole(copied.get(&(source.id, shard.shard)).copied(), shard)
        };
        blocks.get(name) == Some(&true) && stats.get(name).is_some_and(|shards| shards.iter().all(is_whole))
    };
    let Some((changed, _)) = sources.iter().find(|(name, source)| !stands(name, source)) else {
        return Ok(true);
    };
    tracing::warn!(index = %changed, "a source changed although writes were refused: one more last pass");
    engine
        .edit_memo(|memo| {
            memo.cutover.blocked = false;
            memo.cutover.last_pass_planned = false;
            memo.cutover.rechecked = Rechecked::Nothing;
        })
        .await?;
    Ok(false)
}

/// Ends the attempt without a verdict that stands; the next one waits a little longer.
pub(super) async fn abandon(engine: &Engine, reason: &str, now: Timestamp) -> Result<(), MergeError> {
    tracing::warn!(reason, "the cutover is given up for now");
    unblock(engine).await?;
    destination::let_workers_write(engine).await?;
    engine
        .edit_memo(|memo| {
            let attempts = memo.cutover.attempts;
            let pause =
                RETRY_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(CUTOVER_RETRY_MAX);
            let retry_at = now.checked_add(SignedDuration::try_from(pause).unwrap_or_default()).ok();
            memo.cutover = CutoverMemo {
                attempts,
                retry_at,
                last_failure: Some(reason.to_owned()),
                ..CutoverMemo::default()
            };
        })
        .await
        .map(drop)
}

/// Lifts the blocks that we set.
pub(super) async fn unblock(engine: &Engine) -> Result<(), MergeError> {
    unblock_those(engine, |_| true).await
}

async fn unblock_those(engine: &Engine, meant: impl Fn(&SourceRow) -> bool) -> Result<(), MergeError> {
    let stored = engine.state.sources(engine.id).await?;
    let ours: Vec<&SourceRow> =
        stored.iter().filter(|source| source.blocked_by_us && meant(source)).collect();
    let names = ours.iter().map(|source| index_name(source)).collect::<Result<Vec<_>, _>>()?;
    engine.source.unblock_writes(&names).await.map_err(MergeError::Source)?;
    let ids: Vec<SourceId> = ours.iter().map(|source| source.id).collect();
    engine.state.set_blocked(&ids, false).await?;
    Ok(())
}

/// The verdict is positive: the aliases asked for, our own traces away, the time that writers were refused.
pub(super) async fn finish(engine: &Engine, spec: &ValidMerge, now: Timestamp) -> Result<(), MergeError> {
    let index = spec.destination.index.as_str();
    let aliases: Vec<Value> = spec
        .cutover
        .aliases
        .iter()
        .map(|alias| json!({"add": {"index": index, "alias": alias.as_str()}}))
        .collect();
    if !aliases.is_empty()
        && let Err(error) = engine.destination.update_aliases(&json!(aliases)).await
    {
        if !error.is_transient() {
            // Nobody is refused until somebody mends it.
            abandon(engine, &format!("spec.cutover.aliases: {error}"), now).await?;
        }
        return Err(MergeError::Destination(error));
    }
    destination::put_everything_back(engine).await?;
    // What was taken out of the merge while the cutover was under way moves nowhere. Its name may be that of an index
    // which was made in its place and is merged.
    let stored = engine.state.sources(engine.id).await?;
    let merged: BTreeSet<&str> = active(&stored).map(|source| source.index_name.as_str()).collect();
    unblock_those(engine, |source| !merged.contains(source.index_name.as_str())).await?;
    let memo = parse_memo(&engine.merge_row().await?)?;
    let refused = memo.cutover.blocked_at.map(|blocked_at| elapsed(blocked_at, now).as_secs_f64());
    engine.edit_memo(|memo| memo.writes_refused_seconds = refused).await.map(drop)
}
