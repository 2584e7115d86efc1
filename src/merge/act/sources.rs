//! Which indices are merged, resolved anew and stored: what [`matching`] finds, as far as it can be read.
//!
//! What was a source and is gone has its chunks taken out of the destination.

mod matching;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use super::handover::refuse_new;
use crate::collections::CollectionRow;
use crate::elastic::{Cluster, ElasticError, ErrorCategory, IndexInfo, IndexName, MAX_WINDOW, PrimaryStats};
use crate::merge::act::{VECTOR_FIELD, keys};
use crate::merge::engine::Engine;
use crate::merge::error::{MergeCategory, MergeError};
use crate::merge::memo::{Memo, NoIndex, WithoutIndex};
use crate::merge::observe::{active, parse_memo};
use crate::merge::preflight::vector_form;
use crate::merge::shrunk;
use crate::merge::stored_index;
use crate::merge::valid::ValidMerge;
use crate::state::{NewSource, SourceId, SourceRow, SourceState};

pub(in crate::merge) use matching::{Matched, match_sources, partial_aliases};

/// Statistics of the primaries of each index.
pub(super) type Stats = BTreeMap<IndexName, Vec<PrimaryStats>>;

/// What is there now, as far as it can be read, beside what is stored.
pub(super) struct Resolved {
    /// The collections of Postgres.
    rows: Vec<CollectionRow>,
    /// The sources as they are stored.
    pub before: Vec<SourceRow>,
    /// The indices found.
    pub matched: Matched,
    stats: Stats,
}

impl Resolved {
    /// The indices that can be read, each as a source.
    pub fn found(&self) -> Vec<NewSource> {
        found(&self.matched, &self.stats)
    }
}

/// Looks which indices the collections have now. Stores nothing.
pub(super) async fn look(engine: &Engine, spec: &ValidMerge) -> Result<Resolved, MergeError> {
    let rows = engine.collections.list().await?;
    let catalog = engine.source.resolve().await.map_err(MergeError::Source)?;
    let partial = partial_aliases(&engine.source, &rows, &catalog).await.map_err(MergeError::Source)?;
    let before = engine.state.sources(engine.id).await?;
    let mut matched =
        match_sources(&rows, &catalog, &partial, |id| spec.wants(id), &spec.destination.index, &before);
    tell_hidden_from_missing(engine, &mut matched).await?;
    let names: Vec<IndexName> = matched.indices.values().cloned().collect();
    let (stats, unreadable) =
        readable(engine.source.primary_stats(&names).await.map_err(MergeError::Source)?);
    for (collection, index) in &matched.indices {
        if let Some(why) = unreadable.get(index) {
            let why = WithoutIndex { reason: NoIndex::IndexUnavailable, message: why.clone() };
            matched.without_index.insert(*collection, why);
        }
    }
    Ok(Resolved { rows, before, matched, stats })
}

/// Resolves the sources anew and stores them; purges those that are gone. Returns the statistics of the indices found,
/// unless they are not the sources that were read so far: one was set aside or given up, or is new or back.
pub(super) async fn resolve(engine: &Engine, spec: &ValidMerge) -> Result<Option<Stats>, MergeError> {
    let Resolved { rows, before, matched, stats } = look(engine, spec).await?;
    refuse_another_world(engine, &rows, &before).await?;

    let found = found(&matched, &stats);
    // All of them each time would lock and send thousands of rows of which hardly any changes.
    let known: BTreeMap<(i64, &str), &SourceRow> =
        before.iter().map(|source| ((source.collection_id, source.index_uuid.as_str()), source)).collect();
    let changed: Vec<NewSource> = found.iter().filter(|source| is_news(source, &known)).cloned().collect();
    let held: BTreeSet<i64> = before.iter().map(|source| source.collection_id).collect();
    let new = changed.iter().map(|source| source.collection_id).filter(|id| !held.contains(id)).collect();
    refuse_new(engine, &new).await?;
    let stored = if changed.is_empty() {
        before.clone()
    } else {
        engine.state.upsert_sources(engine.id, &changed).await?
    };
    let fresh: BTreeSet<(i64, &str)> =
        found.iter().map(|source| (source.collection_id, source.index_uuid.as_str())).collect();
    let collections: BTreeSet<i64> = rows.iter().map(|row| row.id).collect();
    retire(engine, spec, &stored, &fresh, &collections, &matched).await?;

    let is_fresh = |source: &SourceRow| fresh.contains(&(source.collection_id, source.index_uuid.as_str()));
    // Others may be behind an alias by now, or gone.
    load_lanes(engine, active(&stored).filter(|source| is_fresh(source))).await?;
    shrunk::keep_aside(&engine.state, &stored).await?;
    // As they are now: some may have been set aside.
    let stored = engine.state.sources(engine.id).await?;
    if stored.iter().any(|source| source.state == SourceState::Gone && is_fresh(source)) {
        // Given up since, by a worker that found it gone, and it is there.
        engine.state.upsert_sources(engine.id, &found).await?;
    }
    store_findings(engine, &before, &stored, &matched).await?;
    let was_active = |source: &NewSource| {
        let before = known.get(&(source.collection_id, source.index_uuid.as_str()));
        before.is_some_and(|before| before.state == SourceState::Active)
    };
    let is_as_before = active(&stored).count() == found.len() && found.iter().all(was_active);
    Ok(is_as_before.then_some(stats))
}

/// A list leaves out what the credentials may not see, so an index that is not in it is missing only if they would show it.
/// Each collection is asked about once by a process, and once in each attempt to cut over.
async fn tell_hidden_from_missing(engine: &Engine, matched: &mut Matched) -> Result<(), MergeError> {
    let shown = || engine.shown.lock().unwrap_or_else(PoisonError::into_inner);
    let mut missing = matched.missing();
    missing.retain(|id| !shown().contains(id));
    matched.ask_for(&engine.source, &missing).await.map_err(MergeError::Source)?;
    let still = matched.missing();
    shown().extend(missing.into_iter().filter(|id| still.contains(id)));
    Ok(())
}

/// What is gone is purged, so an empty world is believed only if it is the world that this merge began with.
async fn refuse_another_world(
    engine: &Engine,
    rows: &[CollectionRow],
    before: &[SourceRow],
) -> Result<(), MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    refuse_another_cluster(&memo, &engine.source)?;
    if memo.source_cluster.is_none() {
        let now = engine.source.uuid().to_owned();
        engine.edit_memo(|memo| memo.source_cluster = Some(now)).await?;
    }
    if rows.is_empty() && active(before).next().is_some() {
        return Err(MergeError::problem(
            MergeCategory::ChecksFailed,
            "spec.collections.postgres",
            "the table collection is empty now, but this merge has sources; check which database the URL names (to give up, delete the resource)",
        ));
    }
    Ok(())
}

/// An error if the source is another cluster than the one that this merge began with.
pub(super) fn refuse_another_cluster(memo: &Memo, source: &Cluster) -> Result<(), MergeError> {
    let now = source.uuid();
    let Some(then) = memo.source_cluster.as_deref().filter(|then| *then != now) else { return Ok(()) };
    Err(MergeError::problem(
        MergeCategory::ChecksFailed,
        "spec.source.url",
        format!(
            "leads to cluster {now}, but this merge began with cluster {then}; correct the address, or delete the resource and start anew"
        ),
    ))
}

/// Lanes are kept in memory: they are looked up after a restart, and for what another process resolved.
pub(super) async fn ensure_lanes(engine: &Engine) -> Result<(), MergeError> {
    let stored = engine.state.sources(engine.id).await?;
    let known = engine.pool.known_lanes();
    if !known.is_empty() && active(&stored).all(|source| known.contains_key(&source.index_uuid)) {
        return Ok(());
    }
    load_lanes(engine, active(&stored)).await
}

/// Statistics of the indices that answered, and why the others did not.
pub(in crate::merge) fn readable(
    stats: BTreeMap<IndexName, Result<Vec<PrimaryStats>, ElasticError>>,
) -> (BTreeMap<IndexName, Vec<PrimaryStats>>, BTreeMap<IndexName, String>) {
    let mut answered = BTreeMap::new();
    let mut failed = BTreeMap::new();
    for (index, shards) in stats {
        match shards {
            Ok(shards) => drop(answered.insert(index, shards)),
            Err(error) => drop(failed.insert(index, why_unreadable(&error))),
        }
    }
    (answered, failed)
}

/// What the server says, and what to do where its health is not the matter.
fn why_unreadable(error: &ElasticError) -> String {
    let is_refusal = error.category() == ErrorCategory::Forbidden;
    if is_refusal { format!("{error}; {}", error.remedy()) } else { error.to_string() }
}

/// Sources to store: an index of which every shard has a primary that answers.
fn found(matched: &Matched, stats: &BTreeMap<IndexName, Vec<PrimaryStats>>) -> Vec<NewSource> {
    let mut found = Vec::with_capacity(matched.indices.len());
    for (&collection_id, index) in &matched.indices {
        let Some(shards) = stats.get(index).filter(|shards| !shards.is_empty()) else { continue };
        found.push(NewSource {
            collection_id,
            index_name: index.to_string(),
            index_uuid: shards[0].index_uuid.0.clone(),
            shards: i32::try_from(shards.len()).unwrap_or(i32::MAX),
            documents: total(shards, |shard| shard.docs),
            bytes: total(shards, |shard| shard.store_bytes),
        });
    }
    found
}

/// Whether it is not stored as it is now.
fn is_news(found: &NewSource, before: &BTreeMap<(i64, &str), &SourceRow>) -> bool {
    let Some(known) = before.get(&(found.collection_id, found.index_uuid.as_str())) else { return true };
    known.state != SourceState::Active
        || (known.index_name.as_str(), known.shards) != (found.index_name.as_str(), found.shards)
        || (known.documents, known.bytes) != (found.documents, found.bytes)
}

fn total(shards: &[PrimaryStats], of: impl Fn(&PrimaryStats) -> u64) -> i64 {
    i64::try_from(shards.iter().map(of).sum::<u64>()).unwrap_or(i64::MAX)
}

/// Sources that were active and are not found any more: replaced by a new index (the old chunks give way to
/// the new ones and to the comparison of keys), gone for good or excluded (purged), or only closed (waiting).
async fn retire(
    engine: &Engine,
    spec: &ValidMerge,
    stored: &[SourceRow],
    fresh: &BTreeSet<(i64, &str)>,
    known: &BTreeSet<i64>,
    matched: &Matched,
) -> Result<(), MergeError> {
    let lost = stored.iter().filter(|source| {
        matches!(source.state, SourceState::Active | SourceState::Gone | SourceState::Waiting)
            && !fresh.contains(&(source.collection_id, source.index_uuid.as_str()))
    });
    for source in lost {
        if !spec.wants(source.collection_id) {
            tracing::info!(collection = source.collection_id, "a source is no longer asked for");
            give_up(engine, source.id).await?;
            keys::purge(engine, source).await?;
            engine.state.set_source_state(&[source.id], SourceState::Purged).await?;
            continue;
        }
        let why = matched.without_index.get(&source.collection_id).map(|why| why.reason);
        if why == Some(NoIndex::IndexShared) {
            // What is merged for another collection under the same keys: should it come back, it is walked anew.
            if source.state != SourceState::Gone {
                give_up(engine, source.id).await?;
            }
            continue;
        }
        if why == Some(NoIndex::IndexHidden) {
            // Rights that are withdrawn for a moment are an error, and no reason for a verdict without it.
            still_there(engine, source).await?;
        }
        let replaced = fresh.iter().any(|(collection, _)| *collection == source.collection_id);
        // Or not in the list, but there when asked by name: our rights may have changed. Nothing is purged.
        let is_there = why.is_some_and(NoIndex::is_unreadable)
            || !replaced && known.contains(&source.collection_id) && still_there(engine, source).await?;
        if is_there {
            // One that was given up stays so, and is walked anew when it can be read.
            if source.state != SourceState::Gone {
                engine.state.set_source_state(&[source.id], SourceState::Waiting).await?;
            }
            continue;
        }
        tracing::info!(collection = source.collection_id, replaced, "a source is gone");
        give_up(engine, source.id).await?;
        if !replaced {
            keys::purge(engine, source).await?;
        }
        engine.state.set_source_state(&[source.id], SourceState::Purged).await?;
    }
    Ok(())
}

/// Closes the units of a source. Should it be found again, it is walked anew: that is stored first, as a process may die
/// on the way.
async fn give_up(engine: &Engine, source: SourceId) -> Result<(), MergeError> {
    engine.state.set_source_state(&[source], SourceState::Gone).await?;
    engine.state.abandon_units(source).await?;
    Ok(())
}

/// Whether that very index (not one re-created under its name) answers by name. A refusal is an error here.
async fn still_there(engine: &Engine, source: &SourceRow) -> Result<bool, MergeError> {
    let name = index_name(source)?;
    let described = match engine.source.describe(std::slice::from_ref(&name)).await {
        // The index was renamed, and its collection is found behind the alias.
        Err(error) if error.is_alias() => return Ok(false),
        described => described.map_err(MergeError::Source)?,
    };
    Ok(described.get(&name).is_some_and(|info| info.uuid.0 == source.index_uuid))
}

/// The stored name of a source's index.
pub(super) fn index_name(source: &SourceRow) -> Result<IndexName, MergeError> {
    stored_index(&source.index_name)
}

/// Looks up how each of these active sources is read; one that cannot be read without loss is set aside.
async fn load_lanes<'a>(
    engine: &Engine,
    active: impl Iterator<Item = &'a SourceRow>,
) -> Result<(), MergeError> {
    let mut known = engine.pool.known_lanes();
    let mut wanted: BTreeMap<IndexName, &SourceRow> = BTreeMap::new();
    for source in active.filter(|source| !known.contains_key(source.index_uuid.as_str())) {
        wanted.insert(index_name(source)?, source);
    }
    let names: Vec<IndexName> = wanted.keys().cloned().collect();
    let described = engine.source.describe_each(&names).await.map_err(MergeError::Source)?;
    for (name, source) in wanted {
        let info = match described.get(&name) {
            Some(Ok(info)) if info.uuid.0 == source.index_uuid => info,
            Some(Err(error)) => {
                let reason = format!("{}: {}", NoIndex::IndexUnavailable.as_str(), why_unreadable(error));
                set_aside(engine, source, &reason).await?;
                continue;
            }
            Some(Ok(_)) | None => continue,
        };
        if let Some(reason) = unreadable(info) {
            // It has no lane, so that it is looked at again whenever the sources are resolved.
            set_aside(engine, source, reason).await?;
            continue;
        }
        known.insert(source.index_uuid.clone(), info.read_lane(engine.source.version(), VECTOR_FIELD));
    }
    let destination = destination(engine).await?;
    let lane = destination.read_lane(engine.destination.version(), VECTOR_FIELD);
    let form = vector_form(engine.destination.version(), Some(&destination));
    engine.pool.set_lanes(known, lane, form);
    Ok(())
}

/// Why an index cannot be merged without losing something.
fn unreadable(info: &IndexInfo) -> Option<&'static str> {
    if !info.source_complete {
        return Some(
            "SourceDisabled: its mapping leaves fields out of _source, so its documents cannot be read whole; exclude the collection, and index it anew from the original documents",
        );
    }
    if !info.seq_no_searchable {
        return Some(
            "SequenceNumbersDisabled: index.disable_sequence_numbers is set, so its log cannot be walked; reindex it into an index without that setting, or exclude the collection",
        );
    }
    if i64::from(info.max_result_window) < MAX_WINDOW {
        return Some(
            "ResultWindowTooSmall: its index.max_result_window is below 10000, the width of a window of its log; raise it (it may be changed at any time)",
        );
    }
    None
}

/// Its units stay, and go on when it can be read.
async fn set_aside(engine: &Engine, source: &SourceRow, reason: &str) -> Result<(), MergeError> {
    engine.state.set_source_state(&[source.id], SourceState::Waiting).await?;
    engine.state.set_attention(engine.id, source.collection_id, Some(reason)).await?;
    Ok(())
}

async fn destination(engine: &Engine) -> Result<IndexInfo, MergeError> {
    let name = &engine.merge.destination.index;
    let mut described =
        engine.destination.describe(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
    described.remove(name).ok_or_else(|| {
        MergeError::DestinationLost(format!(
            "the destination index {name} is gone; restore it, or delete the resource and start anew"
        ))
    })
}

/// Stores what was found out beside the sources themselves: why a collection needs a person, and what no longer holds.
async fn store_findings(
    engine: &Engine,
    before: &[SourceRow],
    stored: &[SourceRow],
    matched: &Matched,
) -> Result<(), MergeError> {
    let had: BTreeSet<SourceId> =
        before.iter().filter(|source| source.attention.is_some()).map(|source| source.id).collect();
    for source in stored.iter().filter(|source| had.contains(&source.id)) {
        if source.state == SourceState::Active && !matched.without_index.contains_key(&source.collection_id) {
            engine.state.set_attention(engine.id, source.collection_id, None).await?;
        }
    }
    // The last pass covers what was there all the time: what was away may have another history when it is back.
    let was_there: BTreeSet<SourceId> = active(before).map(|source| source.id).collect();
    let stayed: BTreeSet<SourceId> =
        active(stored).map(|source| source.id).filter(|id| was_there.contains(id)).collect();
    engine
        .edit_memo(|memo| {
            memo.cutover.covered.retain(|id| stayed.contains(id));
            memo.without_index = matched.without_index.clone();
            memo.strays = matched.strays.iter().map(ToString::to_string).collect();
        })
        .await
        .map(drop)
}
