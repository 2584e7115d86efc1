//! Following deletions: after each pass, at a cost proportional to what changed.
//!
//! The log has no entry for a deletion that could be searched, but a live chunk holds exactly one position. So if
//! every position since the last check is held by a live chunk, nothing was deleted or written over in
//! between: one count per shard, many in a request. The end of the range is that of the last copy plan, which was
//! read before the refresh that preceded the plan, so everything below it is visible. Only where the count is lower
//! are the keys of that source compared. (An update that gives a chunk another key passes this test; whoever copies
//! it puts the source's keys in doubt, see `worker/keys.rs`.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;

use futures::{StreamExt, stream};

use super::compare::{Comparison, MISSING};
use super::documents::walks;
use super::log::readable;
use super::{AT_ONCE, compare_everything_again, release_what_lives_no_more};
use crate::elastic::LogRange;
use crate::merge::act::sources::index_name;
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::observe::active;
use crate::state::{ShardRow, SourceId, SourceRow, SourceState};

/// Counts in one request.
const COUNTS: usize = 200;

/// Looks where chunks were deleted since the last time, and deletes them. What is done is stored source by source: a step
/// that is cut off in the middle is not for nothing.
pub async fn follow(engine: &Engine) -> Result<(), MergeError> {
    // Before anything is read of the sources: see `version`.
    let pass = engine.merge_row().await?.pass;
    let stored = engine.state.sources(engine.id).await?;
    let behind = behind(&stored, engine.state.shards(engine.id).await?);
    let mut unreadable = BTreeSet::new();
    let suspects = suspects(engine, &behind, &mut unreadable).await?;
    let is_clean = |id: &SourceId| !suspects.contains(id) && !unreadable.contains(id);
    let clean = behind.iter().filter(|(id, _)| is_clean(id)).flat_map(|(_, (_, shards))| shards);
    engine.state.keys_checked(engine.id, &clean.cloned().collect::<Vec<_>>()).await?;
    set_aside(engine, &unreadable).await?;
    if suspects.is_empty() {
        return Ok(());
    }
    // What was mended while its shard was never followed before is in quarantine still.
    release_what_lives_no_more(engine, &stored, |id| suspects.contains(&id)).await?;
    let walks = walks(engine).await?;
    let room = AtomicUsize::new(MISSING);
    let comparison = |id: &SourceId| {
        let (source, shards) = behind.get(id)?;
        let ends = None;
        Some(Comparison { engine, source, pass, shards, ends, walks: &walks, room: &room }.run())
    };
    let comparisons: Vec<_> = suspects.iter().filter_map(comparison).collect();
    let mut running = stream::iter(comparisons).buffer_unordered(AT_ONCE);
    // What one index refuses holds up no other.
    let (mut failed, mut has_more) = (Ok(()), false);
    while let Some(done) = running.next().await {
        match done {
            Ok((id, Some(compared))) => {
                // The twin of a deleted chunk is in the source with its own content: that must be there now. And what
                // somebody deleted from the destination is written again.
                engine.state.plan_recheck(engine.id, &compared.unwritten).await?;
                has_more |= compared.has_more_unwritten;
                if let Some((_, shards)) = behind.get(&id) {
                    engine.state.keys_checked(engine.id, shards).await?;
                }
            }
            Ok((id, None)) => set_aside(engine, &BTreeSet::from([id])).await?,
            Err(error) if matches!(&error, MergeError::Source(refusal) if !refusal.is_transient()) => {
                tracing::warn!(%error, "the two sides of a collection cannot be compared");
                failed = failed.and(Err(error));
            }
            // The others would meet the same.
            Err(error) => return Err(error),
        }
    }
    if has_more {
        compare_everything_again(engine).await?;
    }
    failed
}

type Behind<'a> = BTreeMap<SourceId, (&'a SourceRow, Vec<ShardRow>)>;

/// All shards of the readable sources of which one at least is behind.
fn behind(stored: &[SourceRow], shards: Vec<ShardRow>) -> Behind<'_> {
    let mut all: Behind<'_> = active(stored).map(|source| (source.id, (source, Vec::new()))).collect();
    for row in shards {
        if let Some((_, rows)) = all.get_mut(&row.source) {
            rows.push(row);
        }
    }
    all.retain(|_, (_, rows)| rows.iter().any(ShardRow::are_keys_behind));
    all
}

/// Sources in which a position since the last check is not held by a live chunk, or that were never checked.
async fn suspects(
    engine: &Engine,
    behind: &Behind<'_>,
    unreadable: &mut BTreeSet<SourceId>,
) -> Result<BTreeSet<SourceId>, MergeError> {
    let mut suspects = BTreeSet::new();
    let mut owners = Vec::new();
    let mut ranges = Vec::new();
    for (&id, (source, shards)) in behind {
        if shards.iter().any(|row| row.keys_checked_to.is_none()) {
            suspects.insert(id);
            continue;
        }
        for row in shards.iter().filter(|row| row.are_keys_behind()) {
            owners.push(id);
            ranges.push(LogRange {
                index: index_name(source)?,
                shard: row.shard,
                from: row.keys_checked_to.unwrap_or(0),
                to: row.copy_planned_to,
            });
        }
    }
    for (owners, ranges) in owners.chunks(COUNTS).zip(ranges.chunks(COUNTS)) {
        let counts = engine.source.count_ranges(ranges).await.map_err(MergeError::Source)?;
        for ((&id, range), count) in owners.iter().zip(ranges).zip(counts) {
            match readable(count)? {
                Some(live) if i64::try_from(live) == Ok(range.to - range.from) => {}
                Some(_) => drop(suspects.insert(id)),
                None => drop(unreadable.insert(id)),
            }
        }
    }
    suspects.retain(|id| !unreadable.contains(id));
    Ok(suspects)
}

/// The next resolve finds out what is the matter with them; until then nobody waits for them.
async fn set_aside(engine: &Engine, unreadable: &BTreeSet<SourceId>) -> Result<(), MergeError> {
    let ids: Vec<SourceId> = unreadable.iter().copied().collect();
    if !ids.is_empty() {
        tracing::info!(
            sources = ids.len(),
            "some sources cannot be read or compared now: resolved again at the next pass"
        );
        engine.state.set_source_state(&ids, SourceState::Waiting).await?;
    }
    Ok(())
}
