//! The write blocks of the sources. Ours are remembered before they are set, and forgotten after they are lifted; those
//! that somebody else set are never touched.
//!
//! A block is that of an index and not of its name: one that was made anew under the name has a source of its own.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::sources::{index_name, refuse_another_cluster};
use crate::elastic::{Cluster, IndexName, IndexUuid};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::memo::Memo;
use crate::merge::observe::{active, parse_memo};
use crate::merge::phase::Phase;
use crate::state::{MergeId, MergeRow, SourceId, SourceRow, State};

/// Indices by their names, and the uuids that tell whether a name still leads to one of them.
struct Indices {
    names: Vec<IndexName>,
    uuids: BTreeSet<IndexUuid>,
}

impl Indices {
    fn of<'a>(sources: impl IntoIterator<Item = &'a SourceRow>) -> Result<Indices, MergeError> {
        let mut indices = Indices { names: Vec::new(), uuids: BTreeSet::new() };
        for source in sources {
            indices.names.push(index_name(source)?);
            indices.uuids.insert(IndexUuid(source.index_uuid.clone()));
        }
        Ok(indices)
    }
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
    let blocks = engine.source.write_blocks(&names).await.map_err(MergeError::Source)?;
    // `None`: since the sources were resolved, the name has come to lead to another index, or to none.
    let is_blocked = |name: &IndexName, source: &SourceRow| {
        let block = blocks.get(name).filter(|block| block.uuid.0 == source.index_uuid);
        block.map(|block| block.is_set)
    };
    // A block that somebody else set is not ours to lift: only those that are open now become ours.
    let newly_ours: BTreeSet<SourceId> = sources
        .iter()
        .filter(|(name, source)| !source.blocked_by_us && is_blocked(name, source) == Some(false))
        .map(|(_, source)| source.id)
        .collect();
    engine.state.set_blocked(&newly_ours.iter().copied().collect::<Vec<_>>(), true).await?;
    // Also what was meant to be blocked before: the process may have died between the intent and the effect, or
    // the block was not acknowledged.
    let is_ours = |source: &SourceRow| source.blocked_by_us || newly_ours.contains(&source.id);
    let there = sources.iter().filter(|(name, source)| is_ours(source) && is_blocked(name, source).is_some());
    let indices = Indices::of(there.map(|(_, source)| *source))?;
    let requested = request_blocks(engine.state.clone(), engine.source.clone(), engine.id, attempt, indices);
    // It is not given up with the step: what is on its way to the server has to be looked after.
    let Some(blocked) = tokio::spawn(requested)
        .await
        .map_err(|error| MergeError::Internal(format!("blocking the sources failed: {error}")))??
    else {
        return Ok(());
    };
    let refuses_writes = |name: &IndexName, source: &SourceRow| {
        blocked.contains(name) || (!is_ours(source) && is_blocked(name, source) == Some(true))
    };
    let missed = sources.iter().filter(|(name, source)| !refuses_writes(name, source)).count();
    if missed > 0 {
        // Deleted or made anew meanwhile, or not acknowledged: the next step resolves the sources and asks again.
        tracing::info!(missed, "some sources are not blocked yet");
        return Ok(());
    }
    let refuse = |memo: &mut Memo| {
        if memo.cutover.last_pass_planned {
            // While `sourceWrites` was `Allow`: applications may have written since.
            memo.cutover.begin_last_pass_again();
            memo.verdict = None;
        }
        memo.cutover.blocked = true;
    };
    engine.edit_memo(refuse).await.map(drop)
}

/// Sets the blocks; returns those that are certain. `None`: the attempt was ended without this process, which was stopped
/// for so long, or whose request was under way for so long. What it set comes off then, unless another attempt or
/// the verdict keeps it.
async fn request_blocks(
    state: State,
    source: Cluster,
    id: MergeId,
    attempt: Option<Timestamp>,
    indices: Indices,
) -> Result<Option<BTreeSet<IndexName>>, MergeError> {
    let Indices { names, uuids } = &indices;
    let blocked = source.block_writes(names, uuids).await;
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
        // What was asked for, as that the blocks were ours is forgotten already.
        let refused = source.unblock_writes(names, uuids).await.map_err(MergeError::Source)?;
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
/// error, but not before the others are. Where the index is gone, whatever has its name now, there is none any more.
pub(in crate::merge) async fn lift(
    state: &State,
    source: &Cluster,
    id: MergeId,
    meant: impl Fn(&SourceRow) -> bool,
) -> Result<(), MergeError> {
    let mut ours = state.sources(id).await?;
    ours.retain(|source| source.blocked_by_us && meant(source));
    if ours.is_empty() {
        return Ok(());
    }
    if let Some(row) = state.merge(id).await? {
        // Another cluster has none of them, and that they are blocked would be forgotten.
        refuse_another_cluster(&parse_memo(&row)?, source)?;
    }
    let Indices { names, uuids } = Indices::of(&ours)?;
    let refused = source.unblock_writes(&names, &uuids).await.map_err(MergeError::Source)?;
    let without_block = ours.iter().zip(&names).filter(|(_, name)| !refused.contains_key(*name));
    let without_block: Vec<SourceId> = without_block.map(|(source, _)| source.id).collect();
    state.set_blocked(&without_block, false).await?;
    match refused.into_values().next() {
        Some(error) => Err(MergeError::Source(error)),
        None => Ok(()),
    }
}
