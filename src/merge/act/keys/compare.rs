//! The keys of one source against those of its collection in the destination; what is too much there is deleted.
//!
//! It may run while the source is written to. Each shard is read upwards and its new end after that, so a chunk that
//! is updated meanwhile moves ahead of the reading and is seen there. What is deleted carries a version
//! below that of everything that comes later ([`of_deletion`]), so the worst that a race can do
//! is to delete a chunk that the next pass brings back.
//!
//! Memory is bounded whatever the size of the collection: keys are held in buckets by their hash.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::withheld::Withheld;
use crate::chunk::key_of;
use crate::elastic::{
    BulkBody, BulkItem, ElasticError, ErrorCategory, IndexName, MAX_WINDOW, SeqNo, ShardNumber, WindowRequest,
};
use crate::merge::act::sources::index_name;
use crate::merge::act::writer_alias;
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::key_lane;
use crate::merge::version::{Origin, of_deletion};
use crate::state::SourceRow;
use crate::state::invariants::Place;

/// Keys held in memory at once: about 80 bytes each with the map's overhead.
const BUCKET: u64 = 500_000;
/// Deletions in one bulk.
const DELETIONS: usize = 1_000;
/// How often a bulk of deletions is sent while some are rejected.
const DELETION_ATTEMPTS: u32 = 8;
/// Windows of keys read with one request.
const WINDOWS: usize = 8;
/// How often the end of a log that grows while it is read is read again.
const TAILS: u32 = 5;
/// The field by which the destination's documents belong to a collection.
pub(in crate::merge::act) const COLLECTION_FIELD: &str = "collection_id";

/// What a comparison found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// Live chunks of the source.
    pub live: u64,
    /// Of these, the ones that are in quarantine and not in the destination.
    pub withheld: u64,
    /// Those without a key that are in quarantine nowhere: they can be in no destination, and are missing there.
    pub keyless: u64,
    /// Different keys of the others.
    pub distinct: u64,
    /// Documents of the destination that the source has.
    pub kept: u64,
    /// Documents of the destination that were deleted.
    pub deleted: u64,
    /// Live chunks that share their key with another one.
    pub shared: Vec<Place>,
    /// Live chunks that were copied, and whose document was written from one with their key that lives no more.
    pub stale: Vec<Place>,
}

/// A source to compare.
pub(super) struct Comparison<'a> {
    pub engine: &'a Engine,
    pub source: &'a SourceRow,
    /// The last pass that was planned before anything else was read.
    pub pass: i32,
    /// How far each shard is copied.
    pub copied: BTreeMap<ShardNumber, SeqNo>,
    pub withheld: Withheld,
}

/// Chunks of a source that was read: all, those that are withheld, those that have no key and are not withheld.
#[derive(Debug, Clone, Copy, Default)]
struct Read {
    live: u64,
    withheld: u64,
    keyless: u64,
}

/// The live chunks of each key, by where they are.
#[derive(Default)]
struct Keys {
    first: HashMap<u128, (ShardNumber, SeqNo)>,
    /// The others with the same key: rare.
    twins: HashMap<u128, Vec<(ShardNumber, SeqNo)>>,
}

impl Keys {
    fn add(&mut self, key: u128, place: (ShardNumber, SeqNo)) {
        match self.first.entry(key) {
            Entry::Vacant(free) => drop(free.insert(place)),
            Entry::Occupied(_) => self.twins.entry(key).or_default().push(place),
        }
    }

    /// Where the chunks with that key are; empty if there is none.
    fn places(&self, key: u128) -> impl Iterator<Item = (ShardNumber, SeqNo)> {
        let twins = self.twins.get(&key).map_or(&[][..], Vec::as_slice);
        self.first.get(&key).copied().into_iter().chain(twins.iter().copied())
    }
}

impl Comparison<'_> {
    /// Compares and deletes. `None`: the index cannot be read now, and nothing is known of it.
    pub async fn run(&self, expected: u64) -> Result<Option<Compared>, MergeError> {
        let buckets = (expected / BUCKET + 1).min(256);
        let mut sum = Compared::default();
        for bucket in 0..buckets {
            let in_bucket = |key: u128| (key >> 120) as u64 % buckets == bucket;
            let mut keys = Keys::default();
            let Some(read) = self.read_source(&in_bucket, &mut keys).await? else { return Ok(None) };
            // Each bucket reads the whole log: the last look counts.
            (sum.live, sum.withheld, sum.keyless) = (read.live, read.withheld, read.keyless);
            sum.distinct += keys.first.len() as u64;
            let place = |(shard, seq_no)| Place { source: self.source.id, shard, seq_no };
            sum.shared.extend(keys.twins.keys().flat_map(|&key| keys.places(key)).map(place));
            let mut stale = Vec::new();
            let judge = |key, version| {
                let judgement =
                    if in_bucket(key) { self.judge(&keys, key, version) } else { Judgement::Other };
                if judgement == Judgement::Stale {
                    stale.extend(self.copied(&keys, key).map(place));
                }
                judgement
            };
            let found = delete_others(self.engine, self.source.collection_id, self.pass, judge).await?;
            sum.kept += found.kept;
            sum.deleted += found.deleted;
            sum.stale.append(&mut stale);
        }
        tracing::info!(
            collection = self.source.collection_id,
            kept = sum.kept,
            deleted = sum.deleted,
            stale = sum.stale.len(),
            "keys compared"
        );
        Ok(Some(sum))
    }

    fn judge(&self, keys: &Keys, key: u128, version: i64) -> Judgement {
        let there = Origin::of(version);
        if keys.places(key).next().is_none() {
            return Judgement::TooMuch;
        }
        let mut copied = self.copied(keys, key).peekable();
        let is_stale =
            copied.peek().is_some() && copied.all(|(shard, seq_no)| Origin::new(shard, seq_no) != there);
        if is_stale { Judgement::Stale } else { Judgement::Kept }
    }

    /// The live chunks with that key that are copied: what is beyond comes with the next pass.
    fn copied(&self, keys: &Keys, key: u128) -> impl Iterator<Item = (ShardNumber, SeqNo)> {
        keys.places(key).filter(|(shard, seq_no)| self.copied.get(shard).is_some_and(|end| seq_no < end))
    }

    /// Reads every key of the source once.
    async fn read_source(
        &self,
        in_bucket: &impl Fn(u128) -> bool,
        keys: &mut Keys,
    ) -> Result<Option<Read>, MergeError> {
        let name = index_name(self.source)?;
        let mut read: BTreeMap<ShardNumber, SeqNo> = BTreeMap::new();
        let mut sum = Read::default();
        for _ in 0..TAILS {
            let Some(ends) = self.ends(&name).await? else { return Ok(None) };
            let mut open = windows(&read, &ends);
            if open.is_empty() {
                break;
            }
            read = ends;
            while !open.is_empty() {
                let part: Vec<WindowRequest> = open
                    .drain(..WINDOWS.min(open.len()))
                    .map(|(shard, from, to)| WindowRequest {
                        index: name.clone(),
                        shard,
                        from,
                        to,
                        lane: key_lane(),
                        most: None,
                    })
                    .collect();
                let pages = self.engine.source.read_windows(&part).await.map_err(MergeError::Source)?;
                for (request, page) in part.iter().zip(pages) {
                    let Some(page) = readable(page)? else { return Ok(None) };
                    sum.live += page.hits.len() as u64;
                    for hit in &page.hits {
                        if self.withheld.holds(request.shard, hit.seq_no) {
                            sum.withheld += 1;
                            continue;
                        }
                        let Ok(id) = key_of(hit.source()) else {
                            sum.keyless += 1;
                            continue;
                        };
                        let key = short_key(&id);
                        if in_bucket(key) {
                            keys.add(key, (request.shard, hit.seq_no));
                        }
                    }
                }
            }
        }
        Ok(Some(sum))
    }

    /// The present ends of the logs, with everything below them visible.
    async fn ends(&self, name: &IndexName) -> Result<Option<BTreeMap<ShardNumber, SeqNo>>, MergeError> {
        let names = std::slice::from_ref(name);
        let Some(mut stats) = existing(self.engine.source.primary_stats(names).await)? else {
            return Ok(None);
        };
        let Some(stats) = stats.remove(name) else { return Ok(None) };
        let Some(shards) = readable(stats)? else { return Ok(None) };
        if shards.iter().any(|shard| shard.index_uuid.0 != self.source.index_uuid) {
            return Ok(None);
        }
        if existing(self.engine.source.refresh(names).await)?.is_none() {
            return Ok(None);
        }
        Ok(Some(shards.iter().map(|shard| (shard.shard, shard.max_seq_no + 1)).collect()))
    }
}

/// The windows between what was read and the ends.
fn windows(
    read: &BTreeMap<ShardNumber, SeqNo>,
    ends: &BTreeMap<ShardNumber, SeqNo>,
) -> Vec<(ShardNumber, SeqNo, SeqNo)> {
    let mut windows = Vec::new();
    for (&shard, &end) in ends {
        let mut from = read.get(&shard).copied().unwrap_or(0);
        while from < end {
            let to = end.min(from + MAX_WINDOW);
            windows.push((shard, from, to));
            from = to;
        }
    }
    windows
}

/// The answer about one index among others; `None` if it is gone, closed, red or an alias now, which the next resolve looks into.
pub(super) fn readable<T>(result: Result<T, ElasticError>) -> Result<Option<T>, MergeError> {
    match result {
        Err(error) if error.category() == ErrorCategory::Unavailable => Ok(None),
        result => existing(result),
    }
}

/// The answer to a request for one index alone: unavailable may be the whole cluster, which is an error.
fn existing<T>(result: Result<T, ElasticError>) -> Result<Option<T>, MergeError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_missing_index() || error.is_closed_index() || error.is_alias() => Ok(None),
        Err(error) => Err(MergeError::Source(error)),
    }
}

/// What is to become of a document of the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Not looked at this time.
    Other,
    /// It stays.
    Kept,
    /// It stays, and what it was written from lives no more.
    Stale,
    /// It is deleted.
    TooMuch,
}

/// Walks over the collection's documents in the destination, deletes what is judged too much and counts the rest.
pub(super) async fn delete_others(
    engine: &Engine,
    collection: i64,
    pass: i32,
    mut judge: impl FnMut(u128, i64) -> Judgement,
) -> Result<Compared, MergeError> {
    let destination = &engine.merge.destination.index;
    let (mut found, mut deletes) = (Compared::default(), false);
    let mut open: Vec<(ShardNumber, SeqNo)> =
        (0..engine.merge.destination.shards).filter_map(|shard| Some((shard.try_into().ok()?, 0))).collect();
    while !open.is_empty() {
        let pages = engine
            .destination
            .keys_where(destination, &open, COLLECTION_FIELD, collection)
            .await
            .map_err(MergeError::Destination)?;
        let (mut next, mut extra) = (Vec::new(), Vec::new());
        for ((shard, _), page) in open.into_iter().zip(pages) {
            next.extend(page.next.map(|from| (shard, from)));
            for (id, version) in page.keys {
                match judge(short_key(&id), version) {
                    Judgement::Other => {}
                    Judgement::Kept | Judgement::Stale => found.kept += 1,
                    Judgement::TooMuch => extra.push(id),
                }
            }
        }
        // Page by page, so that memory does not grow with the collection: the walk goes upwards, past what is deleted.
        found.deleted += delete(engine, &extra, of_deletion(pass)).await?;
        deletes |= !extra.is_empty();
        open = next;
    }
    if deletes {
        let name = std::slice::from_ref(destination);
        engine.destination.refresh(name).await.map_err(MergeError::Destination)?;
    }
    Ok(found)
}

/// Deletes by id; returns how many. One that has a higher version came back meanwhile, and stays.
async fn delete(engine: &Engine, ids: &[String], version: i64) -> Result<u64, MergeError> {
    let alias = writer_alias(&engine.merge);
    let mut deleted = 0;
    for part in ids.chunks(DELETIONS) {
        let mut open: Vec<&String> = part.iter().collect();
        for _ in 0..DELETION_ATTEMPTS {
            let mut body = BulkBody::with_capacity(open.len() * 128);
            for id in &open {
                body.push_delete(id, version);
            }
            let outcome =
                engine.destination.bulk(&alias, true, body).await.map_err(MergeError::Destination)?;
            let mut rejected = Vec::new();
            for (id, item) in open.into_iter().zip(outcome.items) {
                match item {
                    BulkItem::Retry(_) => rejected.push(id),
                    BulkItem::Applied | BulkItem::Missing => deleted += 1,
                    BulkItem::AlreadyThere => {}
                    BulkItem::Refused(refusal) => {
                        return Err(MergeError::Internal(format!(
                            "a deletion was refused: {}: {}",
                            refusal.kind, refusal.reason
                        )));
                    }
                }
            }
            open = rejected;
            if open.is_empty() {
                break;
            }
        }
        if !open.is_empty() {
            let reason = format!("{} deletions were rejected again and again", open.len());
            return Err(MergeError::Destination(ElasticError::rejected(reason)));
        }
    }
    Ok(deleted)
}

/// The first 128 bits of a destination id (SHA-256 in hex): enough to tell keys apart.
fn short_key(id: &str) -> u128 {
    id.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok()).unwrap_or_else(|| {
        // Not one of ours: an id that no chunk can have. It must not collide with one that can.
        id.bytes()
            .fold(0_u128, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3).wrapping_add(u128::from(byte)))
    })
}
