//! The keys of both sides: what is in the destination and not in the source is deleted.
//!
//! When every live chunk of a collection has been compared and found in the destination, equal counts mean equal
//! sets. Only where the counts differ (chunks were deleted, changed their key, or share one) are the keys compared:
//! in buckets by hash, so that memory is bounded whatever the size of the collection. Chunks that share a key are
//! compared once more before a difference of the counts is put down to them.

use std::collections::{BTreeMap, HashSet};

use super::sources::{index_name, is_unreadable, readable};
use crate::chunk::key_of;
use crate::elastic::{
    BulkBody, BulkItem, MAX_WINDOW, PrimaryStats, ReadLane, SeqNo, ShardNumber, WindowRequest,
};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::memo::Rechecked;
use crate::merge::observe::{active, parse_memo};
use crate::merge::valid::ValidMerge;
use crate::state::invariants::Place;
use crate::state::{CollectionVerdict, QuarantineFilter, QuarantinedRow, SourceId, SourceRow, SourceState};

/// Keys held in memory at once: 16 bytes each, about 40 MiB with the set's overhead.
const BUCKET: u64 = 1_000_000;
/// Deletions in one bulk.
const DELETIONS: usize = 1_000;
/// Quarantined chunks looked at in one request.
const RECHECK: usize = 200;
/// The field by which the destination's documents belong to a collection.
const COLLECTION_FIELD: &str = "collection_id";
/// Classes of quarantined chunks that were judged by what another writer or chunk left under their key.
const DISPUTED_CLASSES: [&str; 2] = ["Collision", "Different"];
/// Classes of quarantined chunks whose key is in the destination all the same.
const PRESENT_CLASSES: [&str; 1] = ["Different"];

/// Makes the keys of both sides agree and stores how each collection compares.
pub(super) async fn reconcile(engine: &Engine, spec: &ValidMerge) -> Result<(), MergeError> {
    super::sources::resolve(engine, spec).await?;
    if super::cutover::has_newcomers(engine).await?
        || !super::destination::still_holds_what_was_written(engine).await?
    {
        // More is to be copied or compared first; this is done again after it.
        return Ok(());
    }
    let destination = &engine.merge.destination.index;
    engine.destination.refresh(std::slice::from_ref(destination)).await.map_err(MergeError::Destination)?;
    let stored = engine.state.sources(engine.id).await?;
    let left = release_what_lives_no_more(engine, &stored, |_| true).await?;
    let memo = parse_memo(&engine.merge_row().await?)?;
    let twins = Twins { rechecked: memo.cutover.rechecked };
    // Before anything is deleted: a deletion is remembered under a version that what comes back may not have.
    if twins.retry_disputes(engine).await? > 0 {
        return engine.edit_memo(|memo| memo.cutover.rechecked = Rechecked::Disputes).await.map(drop);
    }
    let names = active(&stored).map(index_name).collect::<Result<Vec<_>, _>>()?;
    let stats = readable(engine.source.primary_stats(&names).await.map_err(MergeError::Source)?).0;
    let there =
        engine.destination.count_by(destination, COLLECTION_FIELD).await.map_err(MergeError::Destination)?;
    let counts: BTreeMap<i64, crate::state::Counts> =
        engine.state.collection_counts(engine.id).await?.into_iter().collect();
    let mut quarantine: BTreeMap<i64, Vec<QuarantinedRow>> = BTreeMap::new();
    for row in left {
        quarantine.entry(row.collection_id).or_default().push(row);
    }
    let mut to_compare = 0;
    let mut verdicts = Vec::with_capacity(stored.len());
    for source in &stored {
        let quarantined = quarantine.get(&source.collection_id).map_or(&[][..], Vec::as_slice);
        let in_destination = there.get(&source.collection_id).copied().unwrap_or(0);
        let counts = counts.get(&source.collection_id).copied().unwrap_or_default();
        match source.state {
            SourceState::Active => {
                let name = index_name(source)?;
                let Some(shards) = stats.get(&name) else {
                    verdicts.push(unread(source, in_destination));
                    continue;
                };
                let mut sides = Sides::new(shards, in_destination, &counts, quarantined);
                if !sides.agree() {
                    let (agreed, planned) =
                        compare_keys(engine, source, shards, quarantined, sides, &twins).await?;
                    sides = agreed;
                    to_compare += planned;
                }
                verdicts.push(sides.verdict(source.collection_id, &counts));
            }
            SourceState::Waiting => verdicts.push(unread(source, in_destination)),
            SourceState::Gone | SourceState::Purged => {
                let replaced = active(&stored).any(|other| other.collection_id == source.collection_id);
                if !replaced && in_destination > 0 {
                    purge(engine, source).await?;
                }
            }
        }
    }
    verdicts.extend(never_read(&memo.without_index, &stored, &there));
    if to_compare > 0 {
        tracing::info!(
            units = to_compare,
            "chunks that share a key are compared before the counts are believed"
        );
        return engine.edit_memo(|memo| memo.cutover.rechecked = Rechecked::Twins).await.map(drop);
    }
    engine.state.save_verdicts(engine.id, &verdicts).await?;
    let judged: Vec<i64> = verdicts.iter().map(|verdict| verdict.collection_id).collect();
    engine.state.keep_verdicts(engine.id, &judged).await?;
    engine.edit_memo(|memo| memo.cutover.keys_reconciled = true).await?;
    tracing::debug!(collections = verdicts.len(), "keys are reconciled");
    Ok(())
}

/// How many chunks each side of a collection has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sides {
    source: u64,
    destination: u64,
    /// Chunks of the source that are not in the destination because they are in quarantine.
    withheld: u64,
    /// Chunks of the source that share their key and content with another.
    collapsed: u64,
    quarantined: u64,
    different: u64,
}

impl Sides {
    fn new(
        shards: &[PrimaryStats],
        destination: u64,
        counts: &crate::state::Counts,
        quarantined: &[QuarantinedRow],
    ) -> Sides {
        let different =
            quarantined.iter().filter(|row| PRESENT_CLASSES.contains(&row.class.as_str())).count() as u64;
        let all = quarantined.len() as u64;
        Sides {
            source: shards.iter().map(|shard| shard.docs).sum(),
            destination,
            withheld: all - different,
            collapsed: counts.collapsed.max(0).unsigned_abs(),
            quarantined: all,
            different,
        }
    }

    fn expected(&self) -> u64 {
        self.source.saturating_sub(self.withheld).saturating_sub(self.collapsed)
    }

    fn agree(&self) -> bool {
        self.destination == self.expected()
    }

    fn verdict(&self, collection_id: i64, counts: &crate::state::Counts) -> CollectionVerdict {
        let reason = if !self.agree() {
            Some(format!(
                "the source has {} chunks ({} in quarantine, {} collapsed), the destination {}",
                self.source, self.withheld, self.collapsed, self.destination
            ))
        } else if self.different > 0 {
            Some(format!("{} chunks differ after their repair", self.different))
        } else {
            None
        };
        CollectionVerdict {
            collection_id,
            source_documents: signed(self.source),
            destination_documents: signed(self.destination),
            compared: counts.compared,
            different: signed(self.different),
            quarantined: signed(self.quarantined),
            collapsed: signed(self.collapsed),
            verdict: reason.is_none(),
            reason,
        }
    }
}

/// A collection whose index cannot be read now cannot be judged.
fn unread(source: &SourceRow, in_destination: u64) -> CollectionVerdict {
    CollectionVerdict {
        collection_id: source.collection_id,
        source_documents: source.documents,
        destination_documents: signed(in_destination),
        compared: 0,
        different: 0,
        quarantined: 0,
        collapsed: 0,
        verdict: false,
        reason: Some(source.attention.clone().unwrap_or_else(|| "its index cannot be read now".to_owned())),
    }
}

/// Chunks that may have the key of another: one that came later may have replaced an earlier one that was compared
/// before. They are compared once in each attempt to cut over (disputes first); then each is known to be equal to what is under its
/// key, or is in quarantine.
struct Twins {
    rechecked: Rechecked,
}

impl Twins {
    /// Plans the comparison of what depends on another chunk, which may be gone. Returns how many chunks.
    async fn retry_disputes(&self, engine: &Engine) -> Result<u64, MergeError> {
        let mut retried = 0;
        for class in DISPUTED_CLASSES.iter().filter(|_| self.rechecked < Rechecked::Disputes) {
            let filter = QuarantineFilter { class: Some((*class).to_owned()), ..QuarantineFilter::default() };
            retried += engine.state.retry_quarantined(engine.id, &filter).await?;
        }
        Ok(retried)
    }

    /// Plans the comparison of the chunks with these keys. Returns how many units that makes.
    async fn compare(
        &self,
        engine: &Engine,
        source: &SourceRow,
        shards: &[PrimaryStats],
        withheld: &Withheld<'_>,
        keys: &HashSet<u128>,
    ) -> Result<u64, MergeError> {
        if self.rechecked == Rechecked::Twins || keys.is_empty() {
            return Ok(0);
        }
        let mut places = Vec::new();
        for shard in shards {
            source_keys(engine, source, shard, withheld, |key, seq_no| {
                if keys.contains(&key) {
                    places.push(Place { source: source.id, shard: shard.shard, seq_no });
                }
            })
            .await?;
        }
        Ok(engine.state.plan_recheck(engine.id, &places).await?)
    }
}

/// Chunks in quarantine that are not in the destination, by shard and `_id`.
type Withheld<'a> = HashSet<(ShardNumber, &'a str)>;

/// Collections that have an index which could never be read: they are no sources yet, and no less missing for that.
fn never_read(
    without_index: &BTreeMap<i64, String>,
    stored: &[SourceRow],
    there: &BTreeMap<i64, u64>,
) -> Vec<CollectionVerdict> {
    let judged = |collection| {
        let takes_part =
            |source: &&SourceRow| matches!(source.state, SourceState::Active | SourceState::Waiting);
        stored.iter().filter(takes_part).any(|source| source.collection_id == collection)
    };
    without_index
        .iter()
        .filter(|(collection, why)| is_unreadable(why) && !judged(**collection))
        .map(|(&collection_id, why)| CollectionVerdict {
            collection_id,
            source_documents: 0,
            destination_documents: signed(there.get(&collection_id).copied().unwrap_or(0)),
            compared: 0,
            different: 0,
            quarantined: 0,
            collapsed: 0,
            verdict: false,
            reason: Some(why.clone()),
        })
        .collect()
}

/// Compares the keys of one collection, deletes from the destination what the source does not have, and counts anew.
/// Also returns how many units were planned for keys that several chunks have.
async fn compare_keys(
    engine: &Engine,
    source: &SourceRow,
    shards: &[PrimaryStats],
    quarantined: &[QuarantinedRow],
    mut sides: Sides,
    twins: &Twins,
) -> Result<(Sides, u64), MergeError> {
    let withheld: Withheld<'_> = quarantined
        .iter()
        .filter(|row| row.source == source.id && !PRESENT_CLASSES.contains(&row.class.as_str()))
        .map(|row| (row.shard, row.chunk_id.as_str()))
        .collect();
    let buckets = (sides.source.max(sides.destination) / BUCKET + 1).min(256);
    let (mut live, mut distinct, mut kept, mut extra, mut planned) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    for bucket in 0..buckets {
        let in_bucket = |key: u128| (key >> 120) as u64 % buckets == bucket;
        let mut keys: HashSet<u128> = HashSet::new();
        let mut shared: HashSet<u128> = HashSet::new();
        for shard in shards {
            live += source_keys(engine, source, shard, &withheld, |key, _| {
                if in_bucket(key) && !keys.insert(key) {
                    shared.insert(key);
                }
            })
            .await?;
        }
        distinct += keys.len() as u64;
        planned += twins.compare(engine, source, shards, &withheld, &shared).await?;
        let (bucket_kept, bucket_extra) =
            delete_others(engine, source.collection_id, &keys, in_bucket).await?;
        kept += bucket_kept;
        extra += bucket_extra;
    }
    tracing::info!(collection = source.collection_id, kept, extra, "keys compared");
    sides.source = live / buckets;
    sides.withheld = withheld.len() as u64;
    sides.collapsed = sides.source.saturating_sub(sides.withheld).saturating_sub(distinct);
    sides.destination = kept;
    Ok((sides, planned))
}

/// The keys of the live chunks of a shard, each with its place; returns how many chunks there are. Chunks without a
/// key are in quarantine, like those in `withheld`.
async fn source_keys(
    engine: &Engine,
    source: &SourceRow,
    shard: &PrimaryStats,
    withheld: &Withheld<'_>,
    mut visit: impl FnMut(u128, SeqNo),
) -> Result<u64, MergeError> {
    let name = index_name(source)?;
    let mut live = 0;
    let mut from = 0;
    let end = shard.max_seq_no + 1;
    while from < end {
        let to = end.min(from + MAX_WINDOW);
        let request = WindowRequest {
            index: name.clone(),
            shard: shard.shard,
            from,
            to,
            lane: ReadLane::Fields(vec!["id", "metadata.document_id"]),
        };
        for page in engine.source.read_windows(&[request]).await.map_err(MergeError::Source)? {
            let page = page.map_err(MergeError::Source)?;
            live += page.hits.len() as u64;
            for hit in page.hits.iter().filter(|hit| !withheld.contains(&(shard.shard, hit.id.as_str()))) {
                if let Ok(id) = key_of(hit.source()) {
                    visit(short_key(&id), hit.seq_no);
                }
            }
        }
        from = to;
    }
    Ok(live)
}

/// Deletes the destination's documents of the collection (in the bucket) whose key is not among `keys`. Returns how
/// many were kept and how many deleted.
async fn delete_others(
    engine: &Engine,
    collection: i64,
    keys: &HashSet<u128>,
    in_bucket: impl Fn(u128) -> bool,
) -> Result<(u64, u64), MergeError> {
    let destination = &engine.merge.destination.index;
    let mut kept = 0;
    let mut extra = Vec::new();
    let mut open: Vec<(ShardNumber, SeqNo)> =
        (0..engine.merge.destination.shards).filter_map(|shard| Some((shard.try_into().ok()?, 0))).collect();
    while !open.is_empty() {
        let pages = engine
            .destination
            .keys_where(destination, &open, COLLECTION_FIELD, collection)
            .await
            .map_err(MergeError::Destination)?;
        let mut next = Vec::new();
        for ((shard, _), page) in open.into_iter().zip(pages) {
            next.extend(page.next.map(|from| (shard, from)));
            for (id, version) in page.keys {
                let key = short_key(&id);
                if in_bucket(key) && keys.contains(&key) {
                    kept += 1;
                } else if in_bucket(key) {
                    extra.push((id, version));
                }
            }
        }
        open = next;
    }
    delete(engine, &extra).await?;
    Ok((kept, extra.len() as u64))
}

/// Takes the chunks of a source that is gone out of the destination.
pub(super) async fn purge(engine: &Engine, source: &SourceRow) -> Result<(), MergeError> {
    let destination = &engine.merge.destination.index;
    engine.destination.refresh(std::slice::from_ref(destination)).await.map_err(MergeError::Destination)?;
    let (_, deleted) = delete_others(engine, source.collection_id, &HashSet::new(), |_| true).await?;
    tracing::info!(
        collection = source.collection_id,
        deleted,
        "the chunks of a source that is gone are deleted"
    );
    Ok(())
}

/// Deletes by id, one version above what was found: a late write of that version is refused, a later write of
/// the source is not.
async fn delete(engine: &Engine, keys: &[(String, i64)]) -> Result<(), MergeError> {
    let alias = super::writer_alias(&engine.merge);
    for part in keys.chunks(DELETIONS) {
        let mut open: Vec<&(String, i64)> = part.iter().collect();
        for _ in 0..8 {
            let mut body = BulkBody::with_capacity(part.len() * 128);
            for (id, version) in &open {
                body.push_delete(id, version + 1);
            }
            let outcome =
                engine.destination.bulk(&alias, true, body).await.map_err(MergeError::Destination)?;
            open = open
                .into_iter()
                .zip(outcome.items)
                .filter(|(_, item)| matches!(item, BulkItem::Retry(_)))
                .map(|(key, _)| key)
                .collect();
            if open.is_empty() {
                break;
            }
        }
        if !open.is_empty() {
            return Err(MergeError::Internal(format!(
                "{} deletions were rejected again and again",
                open.len()
            )));
        }
    }
    if !keys.is_empty() {
        let name = std::slice::from_ref(&engine.merge.destination.index);
        engine.destination.refresh(name).await.map_err(MergeError::Destination)?;
    }
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
    let sources: BTreeMap<i64, &SourceRow> = active(stored).map(|source| (source.id, source)).collect();
    let (looked_at, mut left): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| concerns(row.source));
    let (known, mut dead): (Vec<_>, Vec<_>) =
        looked_at.into_iter().partition(|row| sources.contains_key(&row.source));
    for part in known.chunks(RECHECK) {
        let mut requests = Vec::with_capacity(part.len());
        for row in part {
            let Some(source) = sources.get(&row.source) else { continue };
            requests.push(WindowRequest {
                index: index_name(source)?,
                shard: row.shard,
                from: row.seq_no,
                to: row.seq_no + 1,
                lane: ReadLane::Keys,
            });
        }
        let pages = engine.source.read_windows(&requests).await.map_err(MergeError::Source)?;
        for (row, page) in part.iter().zip(pages) {
            let page = page.map_err(MergeError::Source)?;
            let lives = page.hits.iter().any(|hit| hit.id == row.chunk_id);
            if lives { left.push(row.clone()) } else { dead.push(row.clone()) }
        }
    }
    let dead: Vec<&QuarantinedRow> = dead.iter().collect();
    engine.state.quarantine_clear(engine.id, &dead).await?;
    Ok(left)
}

/// The first 128 bits of a destination id (SHA-256 in hex): enough to tell keys apart.
fn short_key(id: &str) -> u128 {
    id.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok()).unwrap_or_else(|| {
        // Not one of ours: an id that no chunk can have. It must not collide with one that can.
        id.bytes()
            .fold(0_u128, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3).wrapping_add(u128::from(byte)))
    })
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
