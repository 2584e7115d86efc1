//! The write blocks of the sources. Ours are remembered before they are set, and forgotten after they are lifted; those
//! that somebody else set are never touched.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::sources::index_name;
use crate::elastic::{Cluster, IndexName};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::observe::{active, parse_memo};
use crate::merge::phase::Phase;
use crate::state::{MergeId, MergeRow, SourceId, SourceRow, State};

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
    let requested =
        request_blocks(engine.state.clone(), engine.source.clone(), engine.id, attempt, open.clone());
    // It is not given up with the step: what is on its way to the server has to be looked after.
    let Some(blocked) = tokio::spawn(requested)
        .await
        .map_err(|error| MergeError::Internal(format!("blocking the sources failed: {error}")))??
    else {
        return Ok(());
    };
    let missed: Vec<&IndexName> = open.iter().filter(|name| !blocked.contains(name)).collect();
    if !missed.is_empty() {
        // Deleted meanwhile, or not acknowledged: the next step resolves the sources and asks again.
        tracing::info!(missed = missed.len(), "some sources are not blocked yet");
        return Ok(());
    }
    engine.edit_memo(|memo| memo.cutover.blocked = true).await.map(drop)
}

/// Sets the blocks; returns those that are certain. `None`: the attempt was ended without this process, which was stopped
/// for so long, or whose request was under way for so long. What it set comes off then, unless another attempt or
/// the verdict keeps it.
async fn request_blocks(
    state: State,
    source: Cluster,
    id: MergeId,
    attempt: Option<Timestamp>,
    names: Vec<IndexName>,
) -> Result<Option<BTreeSet<IndexName>>, MergeError> {
    let blocked = source.block_writes(&names).await;
    let row = state.merge(id).await?;
    let is_in = |row: &MergeRow, phase: Phase| row.phase == phase.as_str();
    let attempt_now = match &row {
        Some(row) if row.released_at.is_none() && is_in(row, Phase::CuttingOver) => {
            parse_memo(row)?.cutover.started_at
        }
        _ => None,
    };
    if attempt.is_some() && attempt_now == attempt {
        return blocked.map(Some).map_err(MergeError::Source);
    }
    if attempt_now.is_none() && !row.is_some_and(|row| is_in(&row, Phase::Completed)) {
        tracing::warn!("writes were refused for an attempt to cut over that is over: they are allowed again");
        // By name: that the blocks were ours is forgotten already.
        let refused = source.unblock_writes(&names).await.map_err(MergeError::Source)?;
        if let Some(error) = refused.into_values().next() {
            return Err(MergeError::Source(error));
        }
    }
    Ok(None)
}

/// Lifts the blocks that we set.
pub(super) async fn unblock(engine: &Engine) -> Result<(), MergeError> {
    lift(&engine.state, &engine.source, engine.id, |_| true).await
}

/// Lifts the blocks of a merge that we set, on those of its sources that are meant. One that cannot be lifted is an
/// error, but not before the others are.
pub(in crate::merge) async fn lift(
    state: &State,
    source: &Cluster,
    id: MergeId,
    meant: impl Fn(&SourceRow) -> bool,
) -> Result<(), MergeError> {
    let stored = state.sources(id).await?;
    let ours = stored.iter().filter(|source| source.blocked_by_us && meant(source));
    let ours: Vec<(IndexName, SourceId)> =
        ours.map(|source| Ok((index_name(source)?, source.id))).collect::<Result<_, MergeError>>()?;
    let names: Vec<IndexName> = ours.iter().map(|(name, _)| name.clone()).collect();
    let refused = source.unblock_writes(&names).await.map_err(MergeError::Source)?;
    let lifted = ours.iter().filter(|(name, _)| !refused.contains_key(name));
    let lifted: Vec<SourceId> = lifted.map(|(_, source)| *source).collect();
    state.set_blocked(&lifted, false).await?;
    match refused.into_values().next() {
        Some(error) => Err(MergeError::Source(error)),
        None => Ok(()),
    }
}
