//! The cutover: a transaction over all sources. Either it ends in a verdict, or the blocks that we set (and only
//! those) come off and it is tried again later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::sources::readable;
use super::{blocks, destination, handover, passes, writer_alias};
use crate::elastic::{Cluster, IndexName, PrimaryStats};
use crate::merge::engine::{Engine, edit_memo};
use crate::merge::error::MergeError;
use crate::merge::memo::{CutoverMemo, Memo};
use crate::merge::observe::{active, parse_memo};
use crate::merge::plan::CUTOVER_RETRY_MAX;
use crate::merge::valid::{SourceWrites, ValidMerge};
use crate::merge::{apart, elapsed};
use crate::state::{MergeId, ShardRow, SourceId, SourceRow, State};

/// How long the last look before the verdict counts.
const FRESH: Duration = Duration::from_secs(5);
/// The pause before the second attempt; doubled at each further one, at most [`CUTOVER_RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(30);

/// Opens an attempt. No writer is refused for the sake of a destination that is not there.
pub(super) async fn begin(engine: &Engine, now: Timestamp) -> Result<(), MergeError> {
    if destination::is_destination_lost(engine).await? {
        return Err(destination::lost(engine));
    }
    // What a collection without an index would show may have changed.
    engine.shown.lock().unwrap_or_else(PoisonError::into_inner).clear();
    engine
        .edit_memo(|memo| {
            // A process that was stopped for long may find the next attempt where nothing leads back any more.
            if memo.cutover.handed_over {
                return;
            }
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
    let newcomers = active(&stored).filter(|source| !memo.cutover.covered.contains(&source.id)).count();
    if newcomers > 0 {
        tracing::info!(newcomers, "collections appeared during the cutover: one more last pass");
        engine.edit_memo(|memo| memo.cutover.begin_last_pass_again()).await?;
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
        blocks.get(name).is_some_and(|block| block.is_set)
            && stats.get(name).is_some_and(|shards| shards.iter().all(is_whole))
    };
    let Some((changed, _)) = sources.iter().find(|(name, source)| !stands(name, source)) else {
        return Ok(true);
    };
    tracing::warn!(index = %changed, "a source changed although writes were refused: one more last pass");
    engine
        .edit_memo(|memo| {
            memo.cutover.begin_last_pass_again();
            memo.verdict = None;
        })
        .await?;
    Ok(false)
}

/// Ends the attempt without a verdict that stands; the next one waits a little longer. Writers do not wait for the
/// destination, which may be why the attempt failed.
pub(in crate::merge) async fn abandon(
    state: &State,
    source: &Cluster,
    id: MergeId,
    reason: &str,
    now: Timestamp,
) -> Result<(), MergeError> {
    tracing::warn!(reason, "the cutover is given up for now");
    // First: nothing that was found out under the blocks may be believed once they are off.
    let give_up = |memo: &mut Memo| {
        let attempts = memo.cutover.attempts;
        let pause = RETRY_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(CUTOVER_RETRY_MAX);
        let retry_at = now.checked_add(SignedDuration::try_from(pause).unwrap_or_default()).ok();
        memo.cutover = CutoverMemo {
            attempts,
            retry_at,
            last_failure: Some(reason.to_owned()),
            ..CutoverMemo::default()
        };
        memo.verdict.take_if(|verdict| verdict.positive);
    };
    edit_memo(state, id, give_up).await?;
    blocks::lift(state, source, id, |_| true).await
}

/// The verdict is positive: our own traces away, and last the mark that the destination is handed over and the aliases asked
/// for, as applications may write to it from then on. False if there has to be another verdict first, or another attempt.
pub(super) async fn finish(engine: &Engine, spec: &ValidMerge, now: Timestamp) -> Result<bool, MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    // Some time may have gone by since the verdict: a process died, a server was away.
    let was_seen = memo.cutover.stood_at.is_some_and(|stood_at| apart(stood_at, now) < FRESH);
    let is_to_stand = spec.cutover.source_writes == SourceWrites::Block && !memo.cutover.handed_over;
    if is_to_stand && !was_seen && !still_stands(engine).await? {
        return Ok(false);
    }
    if destination::is_destination_lost(engine).await? {
        let lost = destination::lost(engine);
        if memo.cutover.handed_over {
            // Nothing is left that applications may have written to.
            abandon(&engine.state, &engine.source, engine.id, &lost.to_string(), now).await?;
        }
        return Err(lost);
    }
    destination::put_everything_back(engine).await?;
    // What was taken out of the merge while the cutover was under way moves nowhere. Its index may be merged for
    // another collection.
    let stored = engine.state.sources(engine.id).await?;
    let merged: BTreeSet<&str> = active(&stored).map(|source| source.index_uuid.as_str()).collect();
    let is_out = |source: &SourceRow| !merged.contains(source.index_uuid.as_str());
    blocks::lift(&engine.state, &engine.source, engine.id, is_out).await?;
    if !handover::mark(engine, &memo).await? || !set_aliases(engine, spec, &memo, now).await? {
        return Ok(false);
    }
    let refused = memo.cutover.blocked_at.map(|blocked_at| elapsed(blocked_at, now).as_secs_f64());
    engine.edit_memo(|memo| memo.writes_refused_seconds = refused).await?;
    Ok(true)
}

/// False if they are refused, and the attempt is given up for that, or it is over already.
async fn set_aliases(
    engine: &Engine,
    spec: &ValidMerge,
    attempt: &Memo,
    now: Timestamp,
) -> Result<bool, MergeError> {
    let index = spec.destination.index.as_str();
    let aliases: Vec<Value> = spec
        .cutover
        .aliases
        .iter()
        .map(|alias| json!({"add": {"index": index, "alias": alias.as_str()}}))
        .collect();
    if aliases.is_empty() {
        return Ok(true);
    }
    let mut was_handed_over = false;
    let memo = engine
        .edit_memo(|memo| {
            if handover::is_ended_by(memo, attempt) {
                was_handed_over = std::mem::replace(&mut memo.cutover.handed_over, true);
            }
        })
        .await?;
    if !handover::is_ended_by(&memo, attempt) {
        return Ok(false);
    }
    engine.known_passes.note_handover(true);
    let Err(error) = engine.destination.update_aliases(&json!(aliases)).await else { return Ok(true) };
    // Else the aliases may be there already, by this request or by one before it whose answer was lost, and
    // applications may write to the destination: the next comparison of keys would delete that.
    let is_refused = !error.may_pass();
    let error = MergeError::Aliases(error);
    if is_refused && (!was_handed_over || leads_no_alias_there(engine).await) {
        // Nobody is refused until somebody mends it.
        engine.known_passes.note_handover(false);
        abandon(&engine.state, &engine.source, engine.id, &error.to_string(), now).await?;
        return Ok(false);
    }
    Err(error)
}

/// Whether no alias but that of our workers leads to the destination, for certain. Any other one counts: the spec may have
/// named others when an earlier request was made.
async fn leads_no_alias_there(engine: &Engine) -> bool {
    let name = &engine.merge.destination.index;
    let described = match engine.destination.describe(std::slice::from_ref(name)).await {
        Ok(described) => described,
        Err(error) => {
            tracing::debug!(%error, "it cannot be found out which aliases lead to the destination");
            return false;
        }
    };
    let ours = writer_alias(&engine.merge);
    described.get(name).is_none_or(|info| info.aliases.iter().all(|alias| *alias == ours))
}
