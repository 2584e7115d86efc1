//! The keys of both sides: what is in the destination and not in the source is deleted.
//!
//! [`follow`] does it after each pass, only where something was deleted. [`reconcile`] is the last word of a cutover:
//! when every live chunk of a collection has been compared and found in the destination, equal counts mean equal sets,
//! so the counts of every collection are compared, and where they differ its keys.
//!
//! The last word must be the last: a worker that was paused may wake up at any time and send what it holds. A
//! tombstone refuses it, but tombstones are not for ever. So the alias through which workers write is taken away,
//! and the counts are taken once more; if anything came in between, all of it is done again.

mod compare;
mod documents;
mod follow;
mod live;
mod log;
mod sides;
mod twins;
mod withheld;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use futures::future::try_join;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::destination::{let_workers_write, stop_workers_writing};
use super::passes::is_copied_whole;
use super::sources::{Stats, index_name, readable};
use crate::elastic::{IndexName, PrimaryStats};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::memo::Rechecked;
use crate::merge::observe::{active, parse_memo};
use crate::merge::plan::is_unfinished;
use crate::merge::valid::{SourceWrites, ValidMerge};
use crate::state::{CollectionVerdict, ShardRow, SourceId, SourceRow, SourceState};
use compare::{Compared, Comparison, MISSING};
use documents::Documents;
use log::{Ends, existing};
use sides::{Counted, are_at_rest, keeps_more_than_chunks};
use twins::Twins;
use withheld::InQuarantine;

pub(super) use documents::COLLECTION_FIELD;
pub(super) use follow::follow;
pub(super) use withheld::release_what_lives_no_more;

/// Sources compared at the same time.
const AT_ONCE: usize = 4;

/// Makes the keys of both sides agree and stores how each collection compares.
pub(super) async fn reconcile(engine: &Engine, spec: &ValidMerge, now: Timestamp) -> Result<(), MergeError> {
    let_workers_write(engine).await?;
    // Before anything is read of the sources: see `version`.
    let row = engine.merge_row().await?;
    let (pass, attempt) = (row.pass, parse_memo(&row)?.cutover.started_at);
    let (stats, is_covered) = resolve_covered(engine, spec).await?;
    if !is_covered || !super::destination::still_holds_what_was_written(engine).await? {
        // More is to be copied, compared or waited for first; this is done again after it.
        return Ok(());
    }
    let is_blocked = spec.cutover.source_writes == SourceWrites::Block;
    let Some(verdicts) = compare_sides(engine, pass, stats, is_blocked, now).await? else {
        // The same.
        return Ok(());
    };
    // An index that was made while the keys were compared is blocked and copied like the others first.
    let (_, is_covered) = resolve_covered(engine, spec).await?;
    if !is_covered {
        return Ok(());
    }
    stop_workers_writing(engine).await?;
    let stands = async { if is_blocked { super::cutover::still_stands(engine).await } else { Ok(true) } };
    let (has_late_writes, stands) = try_join(has_late_writes(engine, &verdicts), stands).await?;
    if has_late_writes || !stands {
        return Ok(());
    }
    engine.state.save_verdicts(engine.id, &verdicts).await?;
    let judged: Vec<i64> = verdicts.iter().map(|verdict| verdict.collection_id).collect();
    engine.state.keep_verdicts(engine.id, &judged).await?;
    engine
        .edit_memo(|memo| {
            // Another process may have given the attempt up meanwhile, and begun the next one.
            if memo.cutover.started_at == attempt {
                memo.cutover.keys_reconciled = true;
                memo.cutover.stood_at = is_blocked.then_some(now);
            }
        })
        .await?;
    tracing::debug!(collections = verdicts.len(), "keys are reconciled");
    Ok(())
}

/// Resolves the sources, and says whether nothing of them is left for the last pass.
async fn resolve_covered(engine: &Engine, spec: &ValidMerge) -> Result<(Option<Stats>, bool), MergeError> {
    let stats = super::sources::resolve(engine, spec).await?;
    if !super::cutover::covers_every_source(engine).await? {
        return Ok((stats, false));
    }
    // What is back may have been away in the middle of the last pass.
    let is_unfinished = stats.is_none() && is_unfinished(spec, &engine.observe().await?.0);
    Ok((stats, !is_unfinished))
}

/// How each collection compares, after the keys of both sides were made to agree. `None`: chunks are to be compared
/// or sources resolved once more before that can be said.
async fn compare_sides(
    engine: &Engine,
    pass: i32,
    stats: Option<Stats>,
    is_blocked: bool,
    now: Timestamp,
) -> Result<Option<Vec<CollectionVerdict>>, MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    let stored = engine.state.sources(engine.id).await?;
    release_what_lives_no_more(engine, &stored, |_| true).await?;
    let twins = Twins { rechecked: memo.cutover.rechecked };
    if twins.retry_disputes(engine).await? > 0 {
        engine.edit_memo(|memo| memo.cutover.rechecked = Rechecked::Disputes).await?;
        return Ok(None);
    }
    // Where nobody writes, the last look says whether these are still true.
    let stats = if let Some(stats) = stats.filter(|_| is_blocked) {
        stats
    } else {
        let names = active(&stored).map(index_name).collect::<Result<Vec<_>, _>>()?;
        readable(engine.source.primary_stats(&names).await.map_err(MergeError::Source)?).0
    };
    let there = count_destination(engine).await?;
    let counts = engine.state.collection_counts(engine.id).await?.into_iter().collect();
    let in_quarantine = InQuarantine::count(engine).await?;
    let mut counted = Counted { there, counts, sides: BTreeMap::new() };
    for source in active(&stored) {
        // Away since it was resolved: the next resolve finds out what is the matter with it.
        let Some(shards) = stats.get(&index_name(source)?) else { return Ok(None) };
        counted.add(source, shards, in_quarantine.get(&source.id).copied().unwrap_or_default());
    }
    let mut planned: BTreeMap<SourceId, Vec<ShardRow>> = BTreeMap::new();
    for row in engine.state.shards(engine.id).await? {
        planned.entry(row.source).or_default().push(row);
    }
    let mut doubtful = Vec::new();
    for source in active(&stored) {
        // What was written since the last pass may make counts agree by chance.
        let rows = planned.get(&source.id).map_or(&[][..], Vec::as_slice);
        let now = stats.get(&index_name(source)?).map_or(&[][..], Vec::as_slice);
        let is_whole = is_blocked || are_copied_whole(rows, now);
        if !is_whole || counted.is_doubtful(source) {
            doubtful.push(source);
        }
    }
    let quiet = is_blocked.then_some(&stats);
    let Some(compared) = compare_all(engine, pass, &doubtful, &planned, quiet).await? else {
        return Ok(None);
    };
    if compared.iter().any(|(_, compared)| compared.has_more_unwritten) {
        compare_everything_again(engine).await?;
        // That takes long, and nobody is refused meanwhile.
        let why = format!(
            "more than {MISSING} chunks are missing in the destination: everything is compared again"
        );
        super::cutover::abandon(&engine.state, &engine.source, engine.id, &why, now).await?;
        return Ok(None);
    }
    let (mut shared, mut unwritten) = (Vec::new(), Vec::new());
    let mut fewer = BTreeMap::new();
    for (source, compared) in compared {
        if let Some(sides) = counted.sides.get_mut(&source) {
            if compared.live < sides.source {
                fewer.insert(source, compared.live);
            }
            sides.learn(&compared);
        }
        shared.extend(compared.shared);
        unwritten.extend(compared.unwritten);
    }
    // The counts first: of indices that came and went there may be thousands.
    for source in &stored {
        if counted.in_destination(source) > 0 && is_left_over(source, &stored) {
            purge(engine, source).await?;
        }
    }
    if twins.compare(engine, Rechecked::Missing, unwritten).await?
        || twins.compare(engine, Rechecked::Twins, shared).await?
    {
        return Ok(None);
    }
    let Some(hidden) = hidden_chunks(engine, &stored, &stats, &fewer).await? else { return Ok(None) };
    for (source, chunks) in hidden {
        if let Some(sides) = counted.sides.get_mut(&source) {
            sides.hidden = chunks;
        }
    }
    Ok(Some(counted.verdicts(&stored, &memo.without_index)))
}

/// Of sources that showed fewer chunks than they had counted: how many are kept from us, as far as that can be said. Where
/// something was written meanwhile, or values of fields are counted too, it cannot. `None`: one cannot be looked at now.
async fn hidden_chunks(
    engine: &Engine,
    stored: &[SourceRow],
    before: &Stats,
    fewer: &BTreeMap<SourceId, u64>,
) -> Result<Option<Vec<(SourceId, u64)>>, MergeError> {
    let mut shown: BTreeMap<IndexName, (SourceId, u64)> = BTreeMap::new();
    for source in active(stored) {
        if let Some(&live) = fewer.get(&source.id) {
            shown.insert(index_name(source)?, (source.id, live));
        }
    }
    if shown.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let names: Vec<IndexName> = shown.keys().cloned().collect();
    let now = engine.source.primary_stats(&names).await.map_err(MergeError::Source)?;
    let infos = engine.source.describe_each(&names).await.map_err(MergeError::Source)?;
    let mut hidden = Vec::new();
    for (name, (source, live)) in shown {
        let (Some(then), Some(Ok(shards)), Some(Ok(info))) =
            (before.get(&name), now.get(&name), infos.get(&name))
        else {
            return Ok(None);
        };
        let counted: u64 = shards.iter().map(|shard| shard.docs).sum();
        if counted > live && are_at_rest(then, shards) && !keeps_more_than_chunks(&info.mapping) {
            hidden.push((source, counted - live));
        }
    }
    Ok(Some(hidden))
}

/// So many documents are gone from the destination that they are not named one by one.
async fn compare_everything_again(engine: &Engine) -> Result<(), MergeError> {
    tracing::warn!("more than {MISSING} chunks are missing in the destination: everything is compared again");
    engine.state.verify_again(engine.id).await?;
    engine
        .edit_memo(|memo| {
            if let Some(destination) = &mut memo.destination {
                destination.was_set_back = true;
            }
        })
        .await
        .map(drop)
}

/// Whether a source is gone, and no other one has its collection now.
fn is_left_over(source: &SourceRow, stored: &[SourceRow]) -> bool {
    matches!(source.state, SourceState::Gone | SourceState::Purged)
        && !active(stored).any(|other| other.collection_id == source.collection_id)
}

/// Compares the keys of these sources, some at a time. `quiet`: the statistics of the sources, where nobody writes to them.
/// `None`: one cannot be read now.
async fn compare_all(
    engine: &Engine,
    pass: i32,
    sources: &[&SourceRow],
    planned: &BTreeMap<SourceId, Vec<ShardRow>>,
    quiet: Option<&Stats>,
) -> Result<Option<Vec<(SourceId, Compared)>>, MergeError> {
    if sources.is_empty() {
        return Ok(Some(Vec::new()));
    }
    if quiet.is_some() {
        let names = sources.iter().map(|source| index_name(source)).collect::<Result<Vec<_>, _>>()?;
        if existing(engine.source.refresh(&names).await)?.is_none() {
            return Ok(None);
        }
    }
    let walks = documents::walks(engine).await?;
    let room = AtomicUsize::new(MISSING);
    let mut comparisons = Vec::with_capacity(sources.len());
    for &source in sources {
        let shards = planned.get(&source.id).map_or(&[][..], Vec::as_slice);
        let name = index_name(source)?;
        let whole = quiet.and_then(|stats| stats.get(&name)).filter(|now| are_copied_whole(shards, now));
        let ends = whole.and_then(|stats| Ends::of(source, stats));
        let comparison = Comparison { engine, source, pass, shards, ends, walks: &walks, room: &room };
        comparisons.push(comparison.run());
    }
    let mut running = stream::iter(comparisons).buffer_unordered(AT_ONCE);
    let mut all = Vec::with_capacity(sources.len());
    while let Some((source, compared)) = running.try_next().await? {
        let Some(compared) = compared else { return Ok(None) };
        all.push((source, compared));
    }
    Ok(Some(all))
}

/// Whether the shards of a source, as they are now, hold nothing that is not copied.
fn are_copied_whole(rows: &[ShardRow], now: &[PrimaryStats]) -> bool {
    let row = |now: &PrimaryStats| rows.iter().find(|row| row.shard == now.shard);
    now.iter().all(|now| is_copied_whole(row(now), now))
}

/// Documents of each collection in the destination, now.
pub(super) async fn count_destination(engine: &Engine) -> Result<BTreeMap<i64, u64>, MergeError> {
    let destination = &engine.merge.destination.index;
    engine.destination.refresh(std::slice::from_ref(destination)).await.map_err(MergeError::Destination)?;
    engine.destination.count_by(destination, COLLECTION_FIELD).await.map_err(MergeError::Destination)
}

/// Whether the destination changed since the verdicts were made.
async fn has_late_writes(engine: &Engine, verdicts: &[CollectionVerdict]) -> Result<bool, MergeError> {
    let now = count_destination(engine).await?;
    let late = verdicts.iter().filter(|verdict| {
        now.get(&verdict.collection_id).copied().unwrap_or(0)
            != verdict.destination_documents.max(0).unsigned_abs()
    });
    let collections: Vec<i64> = late.map(|verdict| verdict.collection_id).collect();
    if !collections.is_empty() {
        tracing::warn!(?collections, "something was written to the destination after all: compared again");
    }
    Ok(!collections.is_empty())
}

/// Takes the chunks of a source that is gone out of the destination.
pub(super) async fn purge(engine: &Engine, source: &SourceRow) -> Result<(), MergeError> {
    // An attempt to cut over may have ended after it was taken away.
    let_workers_write(engine).await?;
    let pass = engine.merge_row().await?.pass;
    let walks = documents::walks(engine).await?;
    let (documents, _) = Documents::unknown(engine, source.collection_id, &walks, |_| false).await?;
    let mut deleted = 0;
    for batch in documents.batches() {
        let all = documents::read(engine, batch).await?;
        deleted += documents::delete(engine, &all, pass).await?;
    }
    let destination = std::slice::from_ref(&engine.merge.destination.index);
    engine.destination.refresh(destination).await.map_err(MergeError::Destination)?;
    tracing::info!(
        collection = source.collection_id,
        deleted,
        "the chunks of a source that is gone are deleted"
    );
    Ok(())
}
