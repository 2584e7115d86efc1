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
use crate::elastic::{Hit, PlacesRequest, PrimaryStats, ReadLane, ShardNumber};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::memo::Rechecked;
use crate::merge::observe::{active, parse_memo};
use crate::merge::plan::is_unfinished;
use crate::merge::valid::{SourceWrites, ValidMerge};
use crate::state::{
    CollectionVerdict, QuarantineFilter, QuarantinedRow, ShardRow, SourceId, SourceRow, SourceState, storable,
};
use compare::{Compared, Comparison, MISSING};
use documents::Documents;
use log::{Ends, existing};
use sides::Counted;
use twins::Twins;
use withheld::{Quarantine, Withheld};

pub(super) use documents::COLLECTION_FIELD;
pub(super) use follow::follow;

/// Quarantined chunks of a shard looked at with one search, and searches in one request.
const RECHECK: usize = 200;
/// Sources compared at the same time.
const AT_ONCE: usize = 4;

/// Makes the keys of both sides agree and stores how each collection compares.
pub(super) async fn reconcile(engine: &Engine, spec: &ValidMerge, now: Timestamp) -> Result<(), MergeError> {
    let_workers_write(engine).await?;
    // Before anything is read of the sources: see `version`.
    let row = engine.merge_row().await?;
    let (pass, attempt) = (row.pass, parse_memo(&row)?.cutover.started_at);
    let stats = super::sources::resolve(engine, spec).await?;
    if !super::cutover::covers_every_source(engine).await?
        || !super::destination::still_holds_what_was_written(engine).await?
    {
        // More is to be copied, compared or waited for first; this is done again after it.
        return Ok(());
    }
    if stats.is_none() && is_unfinished(spec, &engine.observe().await?.0) {
        // The same: what is back may have been away in the middle of the last pass.
        return Ok(());
    }
    let is_blocked = spec.cutover.source_writes == SourceWrites::Block;
    let Some(verdicts) = compare_sides(engine, pass, stats, is_blocked, now).await? else {
        // The same.
        return Ok(());
    };
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
                memo.cutover.stood_at = Some(now);
            }
        })
        .await?;
    tracing::debug!(collections = verdicts.len(), "keys are reconciled");
    Ok(())
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
    let quarantine = Quarantine::new(release_what_lives_no_more(engine, &stored, |_| true).await?);
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
    let mut counted = Counted { there, counts, sides: BTreeMap::new() };
    for source in active(&stored) {
        // Away since it was resolved: the next resolve finds out what is the matter with it.
        let Some(shards) = stats.get(&index_name(source)?) else { return Ok(None) };
        counted.add(source, shards, quarantine.of(source.id));
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
    let Some(compared) = compare_all(engine, pass, &doubtful, &planned, &quarantine, quiet).await? else {
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
    for (source, compared) in compared {
        if let Some(sides) = counted.sides.get_mut(&source) {
            sides.learn(&compared);
        }
        shared.extend(compared.shared);
        unwritten.extend(compared.unwritten);
    }
    for source in stored.iter().filter(|source| is_left_over(source, &stored)) {
        if counted.in_destination(source) > 0 {
            purge(engine, source).await?;
        }
    }
    if twins.compare(engine, Rechecked::Missing, unwritten).await?
        || twins.compare(engine, Rechecked::Twins, shared).await?
    {
        return Ok(None);
    }
    Ok(Some(counted.verdicts(&stored, &memo.without_index)))
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
    quarantine: &Quarantine,
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
        let withheld = Withheld::new(quarantine.of(source.id));
        let comparison =
            Comparison { engine, source, pass, shards, withheld, ends, walks: &walks, room: &room };
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
async fn count_destination(engine: &Engine) -> Result<BTreeMap<i64, u64>, MergeError> {
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

/// Quarantine speaks of chunks as they were read. One that was updated or deleted since is not there any more; the
/// update was judged by itself. Looks at the chunks of those sources, returns the rows that stay.
pub(super) async fn release_what_lives_no_more(
    engine: &Engine,
    stored: &[SourceRow],
    concerns: impl Fn(SourceId) -> bool,
) -> Result<Vec<QuarantinedRow>, MergeError> {
    let rows = engine.state.quarantine_list(engine.id, &QuarantineFilter::default()).await?;
    let sources: BTreeMap<SourceId, &SourceRow> = stored.iter().map(|source| (source.id, source)).collect();
    let (mut left, mut dead) = (Vec::new(), Vec::new());
    let mut readable: BTreeMap<(SourceId, ShardNumber), Vec<QuarantinedRow>> = BTreeMap::new();
    for row in rows {
        match sources.get(&row.source).map(|source| source.state) {
            Some(SourceState::Gone | SourceState::Purged) | None => dead.push(row),
            _ if !concerns(row.source) => left.push(row),
            Some(SourceState::Active) => readable.entry((row.source, row.shard)).or_default().push(row),
            // Nobody knows as long as its index cannot be read.
            Some(SourceState::Waiting) => left.push(row),
        }
    }
    let mut searches = Vec::with_capacity(readable.len());
    for ((source, shard), rows) in &readable {
        let Some(source) = sources.get(source) else { continue };
        for rows in rows.chunks(RECHECK) {
            let places = rows.iter().map(|row| row.seq_no).collect();
            let index = index_name(source)?;
            searches.push((rows, PlacesRequest { index, shard: *shard, places, lane: ReadLane::Keys }));
        }
    }
    for part in searches.chunks(RECHECK) {
        let requests: Vec<PlacesRequest> = part.iter().map(|(_, request)| request.clone()).collect();
        let pages = engine.source.read_places(&requests).await.map_err(MergeError::Source)?;
        for ((rows, _), page) in part.iter().zip(pages) {
            // Nobody knows as long as it cannot be read; the next resolve finds out what is the matter with it.
            let page = log::readable(page)?;
            for row in *rows {
                let is_it = |hit: &Hit| hit.seq_no == row.seq_no && storable(&hit.id) == row.chunk_id;
                let lives = page.as_ref().is_none_or(|page| page.hits.iter().any(is_it));
                if lives { left.push(row.clone()) } else { dead.push(row.clone()) }
            }
        }
    }
    let dead: Vec<&QuarantinedRow> = dead.iter().collect();
    engine.state.quarantine_clear(engine.id, &dead).await?;
    Ok(left)
}
