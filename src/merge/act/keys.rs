//! The keys of both sides: what is in the destination and not in the source is deleted.
//!
//! When every live chunk of a collection has been compared and found in the destination, equal counts mean equal
//! sets. Only where the counts differ (chunks were deleted, or changed their key) are the keys compared:
//! in buckets by hash, so that memory is bounded whatever the size of the collection.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::sources::{index_name, readable};
use crate::chunk::key_of;
use crate::elastic::{
    BulkBody, BulkItem, IndexName, MAX_WINDOW, PrimaryStats, ReadLane, SeqNo, ShardNumber, WindowRequest,
};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::observe::active;
use crate::merge::valid::ValidMerge;
use crate::state::{CollectionVerdict, QuarantinedRow, SourceRow, SourceState};

/// Keys held in memory at once: 16 bytes each, about 40 MiB with the set's overhead.
const BUCKET: u64 = 1_000_000;
/// Deletions in one bulk.
const DELETIONS: usize = 1_000;
/// Quarantined chunks looked at in one request.
const RECHECK: usize = 200;
/// The field by which the destination's documents belong to a collection.
const COLLECTION_FIELD: &str = "collection_id";
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
    release_what_lives_no_more(engine, &stored).await?;
    let names = active(&stored).map(index_name).collect::<Result<Vec<_>, _>>()?;
    let stats = readable(engine.source.primary_stats(&names).await.map_err(MergeError::Source)?).0;
    let there =
        engine.destination.count_by(destination, COLLECTION_FIELD).await.map_err(MergeError::Destination)?;
    let counts: BTreeMap<i64, crate::state::Counts> =
        engine.state.collection_counts(engine.id).await?.into_iter().collect();
    let mut quarantine: BTreeMap<i64, Vec<QuarantinedRow>> = BTreeMap::new();
    for row in engine.state.quarantine_list(engine.id, None, i64::MAX).await? {
        quarantine.entry(row.collection_id).or_default().push(row);
    }

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
                    sides = compare_keys(engine, source, &name, shards, quarantined, sides).await?;
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
    engine.state.save_verdicts(engine.id, &verdicts).await?;
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

/// Compares the keys of one collection, deletes from the destination what the source does not have, and counts anew.
async fn compare_keys(
    engine: &Engine,
    source: &SourceRow,
    name: &IndexName,
    shards: &[PrimaryStats],
    quarantined: &[QuarantinedRow],
    mut sides: Sides,
) -> Result<Sides, MergeError> {
    let withheld: HashSet<&str> = quarantined
        .iter()
        .filter(|row| !PRESENT_CLASSES.contains(&row.class.as_str()))
        .map(|row| row.chunk_id.as_str())
        .collect();
    let buckets = (sides.source.max(sides.destination) / BUCKET + 1).min(256);
    let (mut live, mut distinct, mut kept, mut extra) = (0_u64, 0_u64, 0_u64, 0_u64);
    for bucket in 0..buckets {
        let in_bucket = |key: u128| (key >> 120) as u64 % buckets == bucket;
        let mut keys: HashSet<u128> = HashSet::new();
        for shard in shards {
            live += source_keys(engine, name, shard, &withheld, |key| {
                if in_bucket(key) {
                    keys.insert(key);
                }
            })
            .await?;
        }
        distinct += keys.len() as u64;
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
    Ok(sides)
}

/// The keys of the live chunks of a shard; returns how many chunks there are. Chunks without a key are in
/// quarantine, like those in `withheld`.
async fn source_keys(
    engine: &Engine,
    name: &IndexName,
    shard: &PrimaryStats,
    withheld: &HashSet<&str>,
    mut visit: impl FnMut(u128),
) -> Result<u64, MergeError> {
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
            for hit in page.hits.iter().filter(|hit| !withheld.contains(hit.id.as_str())) {
                if let Ok(id) = key_of(hit.source()) {
                    visit(short_key(&id));
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

/// Quarantine speaks of chunks as they were read. One that was updated or deleted since is not there any more;
/// the update was judged by itself.
async fn release_what_lives_no_more(engine: &Engine, stored: &[SourceRow]) -> Result<(), MergeError> {
    let rows = engine.state.quarantine_list(engine.id, None, i64::MAX).await?;
    let sources: BTreeMap<i64, &SourceRow> = active(stored).map(|source| (source.id, source)).collect();
    let mut released = Vec::new();
    let (known, orphaned): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| sources.contains_key(&row.source));
    released.extend(orphaned.into_iter().map(|row| (row.source, row.chunk_id, row.seq_no)));
    for part in known.chunks(RECHECK) {
        let mut requests = Vec::new();
        for row in part {
            let Some(source) = sources.get(&row.source) else { continue };
            for shard in 0..source.shards {
                requests.push(WindowRequest {
                    index: index_name(source)?,
                    shard,
                    from: row.seq_no,
                    to: row.seq_no + 1,
                    lane: ReadLane::Keys,
                });
            }
        }
        let mut live: BTreeSet<String> = BTreeSet::new();
        for page in engine.source.read_windows(&requests).await.map_err(MergeError::Source)? {
            let page = page.map_err(MergeError::Source)?;
            live.extend(page.hits.iter().map(|hit| hit.id.clone()));
        }
        let dead = part.iter().filter(|row| !live.contains(&row.chunk_id));
        released.extend(dead.map(|row| (row.source, row.chunk_id.clone(), row.seq_no)));
    }
    engine.state.quarantine_clear(engine.id, &released).await?;
    Ok(())
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
