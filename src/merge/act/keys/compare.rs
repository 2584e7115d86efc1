//! The keys of one source against those of its collection in the destination; what is too much there is deleted.
//!
//! First by places: which chunks live, and which documents were written from one of them ([`Live`]). That settles all
//! but what was deleted, updated, or shares its key; of that the keys are read. So the cost is that of walking two logs
//! without reading what they hold, and that of the differences.
//!
//! It may run while the source is written to. Each shard is read upwards and its new end after that, so a chunk that
//! is updated meanwhile moves ahead of the reading and is seen there. What is deleted carries a version
//! below that of everything that comes later ([`crate::merge::version::of_deletion`]), so the worst that a race can do
//! is to delete a chunk that the next pass brings back.
//!
//! Memory is bounded whatever the size of the collection: places are bits, and keys are held in buckets by their hash.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::documents::{COLLECTION_FIELD, Documents, Judgement};
use super::live::Live;
use super::withheld::Withheld;
use crate::chunk::key_of;
use crate::elastic::{
    ElasticError, ErrorCategory, Hit, IndexName, Lookup, MAX_WINDOW, ReadLane, SeqNo, ShardNumber,
    WindowRequest,
};
use crate::merge::act::sources::index_name;
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::key_lane;
use crate::merge::version::Origin;
use crate::state::invariants::Place;
use crate::state::{ShardRow, SourceRow};

/// Keys held in memory at once: about 80 bytes each with the map's overhead.
const BUCKET: u64 = 500_000;
/// Windows read with one request.
const WINDOWS: usize = 8;
/// Chunks whose keys are read with one request.
const KEYS: usize = 5_000;
/// How often the end of a log that grows while it is read is read again.
const TAILS: u32 = 5;

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
    /// Its shards, as they are planned.
    pub shards: &'a [ShardRow],
    pub withheld: Withheld,
}

type Ends = BTreeMap<ShardNumber, SeqNo>;

/// Live chunks with a key of one bucket, by where they are; those of which the document was found aside.
#[derive(Default)]
struct Keys {
    first: HashMap<u128, (ShardNumber, SeqNo)>,
    /// The others with the same key: rare.
    twins: HashMap<u128, Vec<(ShardNumber, SeqNo)>>,
    /// Chunks that have the key of one whose document was found, and that one.
    of_found: Vec<(ShardNumber, SeqNo)>,
    /// Chunks without a key.
    keyless: u64,
    /// Chunks that came after the places were read, and how many of them are withheld.
    late: u64,
    late_withheld: u64,
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

    /// Where the chunks are that share their key.
    fn shared(&self) -> impl Iterator<Item = (ShardNumber, SeqNo)> {
        self.twins.keys().flat_map(|&key| self.places(key)).chain(self.of_found.iter().copied())
    }
}

impl Comparison<'_> {
    /// Compares and deletes. `None`: the index cannot be read now, and nothing is known of it.
    pub async fn run(&self) -> Result<Option<Compared>, MergeError> {
        let name = index_name(self.source)?;
        let Some(ends) = self.ends(&name).await? else { return Ok(None) };
        let Some((mut live, withheld)) = self.read_live(&name, &ends).await? else { return Ok(None) };
        let known = |version| live.find(version);
        let (documents, found) = Documents::unknown(self.engine, self.source.collection_id, known).await?;
        let mut sum = Compared {
            live: live.len() + withheld,
            withheld,
            distinct: live.found_len(),
            kept: found,
            ..Compared::default()
        };
        let unfound = live.len() - live.found_len();
        let buckets = if unfound == 0 && documents.is_empty() { 0 } else { unfound / BUCKET + 1 };
        let (of_places, withheld_of_places) = (sum.live, sum.withheld);
        for bucket in 0..buckets {
            let in_bucket = |key: u128| (key >> 64) as u64 % buckets == bucket;
            let Some(keys) = self.read_keys(&name, &live, &ends, &in_bucket).await? else { return Ok(None) };
            // Each bucket reads all of them: the last look counts.
            sum.live = of_places + keys.late;
            sum.withheld = withheld_of_places + keys.late_withheld;
            sum.keyless = keys.keyless;
            sum.distinct += keys.first.len() as u64;
            let place = |(shard, seq_no)| Place { source: self.source.id, shard, seq_no };
            sum.shared.extend(keys.shared().map(place));
            let judge = |id: &str, version| {
                let key = short_key(id);
                if !in_bucket(key) {
                    return Judgement::Other;
                }
                if keys.places(key).next().is_none() {
                    return Judgement::TooMuch;
                }
                if self.is_stale(&keys, key, version) {
                    sum.stale.extend(self.copied(&keys, key).map(place));
                }
                Judgement::Kept
            };
            let judged = documents.judge(self.engine, self.pass, judge).await?;
            sum.kept += judged.kept;
            sum.deleted += judged.deleted;
        }
        for places in [&mut sum.shared, &mut sum.stale] {
            places.sort_unstable();
            places.dedup();
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

    /// Whether all chunks with that key that are copied are others than the one that its document was written from.
    fn is_stale(&self, keys: &Keys, key: u128, version: i64) -> bool {
        let there = Origin::of(version);
        let mut copied = self.copied(keys, key).peekable();
        copied.peek().is_some() && copied.all(|(shard, seq_no)| Origin::new(shard, seq_no) != there)
    }

    /// The live chunks with that key that are copied: what is beyond comes with the next pass.
    fn copied(&self, keys: &Keys, key: u128) -> impl Iterator<Item = (ShardNumber, SeqNo)> {
        let end =
            |shard| self.shards.iter().find(|row| row.shard == shard).map_or(0, |row| row.copy_planned_to);
        keys.places(key).filter(move |&(shard, seq_no)| seq_no < end(shard))
    }

    /// The places of all live chunks up to these ends, and how many of them are withheld beside them.
    async fn read_live(&self, name: &IndexName, ends: &Ends) -> Result<Option<(Live, u64)>, MergeError> {
        let mut live = Live::new(self.shards, self.source.shards, self.pass);
        let mut withheld = 0;
        for part in windows(&Ends::new(), ends).chunks(WINDOWS) {
            let Some(pages) = self.read_windows(name, part, ReadLane::Places).await? else { return Ok(None) };
            for (shard, hits) in pages {
                for hit in hits {
                    if self.withheld.holds(shard, hit.seq_no) {
                        withheld += 1;
                    } else {
                        live.add(shard, hit.seq_no);
                    }
                }
            }
        }
        Ok(Some((live, withheld)))
    }

    /// The keys of the bucket, of the chunks whose document was not found, and of all that came since.
    async fn read_keys(
        &self,
        name: &IndexName,
        live: &Live,
        ends: &Ends,
        in_bucket: &impl Fn(u128) -> bool,
    ) -> Result<Option<Keys>, MergeError> {
        let mut keys = Keys::default();
        for (shard, places) in live.unfound() {
            let places: Vec<SeqNo> = places.iter().collect();
            for part in places.chunks(KEYS) {
                let page = self.engine.source.read_places(name, shard, part, key_lane()).await;
                let Some(page) = readable(page.map_err(MergeError::Source)?)? else { return Ok(None) };
                self.take(&mut keys, live, shard, &page.hits, in_bucket).await?;
            }
        }
        let mut read = ends.clone();
        for _ in 0..TAILS {
            let Some(now) = self.ends(name).await? else { return Ok(None) };
            let open = windows(&read, &now);
            if open.is_empty() {
                break;
            }
            read = now;
            for part in open.chunks(WINDOWS) {
                let Some(pages) = self.read_windows(name, part, key_lane()).await? else { return Ok(None) };
                for (shard, mut hits) in pages {
                    let all = hits.len();
                    hits.retain(|hit| !self.withheld.holds(shard, hit.seq_no));
                    keys.late += all as u64;
                    keys.late_withheld += (all - hits.len()) as u64;
                    self.take(&mut keys, live, shard, &hits, in_bucket).await?;
                }
            }
        }
        Ok(Some(keys))
    }

    /// Adds the keys of these chunks that are in the bucket.
    async fn take(
        &self,
        keys: &mut Keys,
        live: &Live,
        shard: ShardNumber,
        hits: &[Hit],
        in_bucket: &impl Fn(u128) -> bool,
    ) -> Result<(), MergeError> {
        let mut taken = Vec::with_capacity(hits.len());
        for hit in hits {
            match key_of(hit.source()) {
                Ok(id) if in_bucket(short_key(&id)) => taken.push((id, hit.seq_no)),
                Ok(_) => {}
                Err(_) => keys.keyless += 1,
            }
        }
        let there = if live.found_len() == 0 { Lookup::default() } else { self.look_up(&taken).await? };
        for (id, seq_no) in taken {
            match there.get(&id).and_then(|hit| live.found(hit.version)) {
                Some(own) => keys.of_found.extend([own, (shard, seq_no)]),
                None => keys.add(short_key(&id), (shard, seq_no)),
            }
        }
        Ok(())
    }

    /// The documents of the collection under these ids.
    async fn look_up(&self, taken: &[(String, SeqNo)]) -> Result<Lookup, MergeError> {
        let ids: Vec<&str> = taken.iter().map(|(id, _)| id.as_str()).collect();
        let of = (COLLECTION_FIELD, self.source.collection_id);
        let destination = &self.engine.merge.destination.index;
        self.engine
            .destination
            .lookup_where(destination, &ids, of, ReadLane::Keys)
            .await
            .map_err(MergeError::Destination)
    }

    /// Reads windows with one request. `None`: the index cannot be read now.
    async fn read_windows(
        &self,
        name: &IndexName,
        windows: &[(ShardNumber, SeqNo, SeqNo)],
        lane: ReadLane,
    ) -> Result<Option<Vec<(ShardNumber, Vec<Hit>)>>, MergeError> {
        let request = |&(shard, from, to): &(ShardNumber, SeqNo, SeqNo)| WindowRequest {
            index: name.clone(),
            shard,
            from,
            to,
            lane: lane.clone(),
            most: None,
        };
        let requests: Vec<WindowRequest> = windows.iter().map(request).collect();
        let pages = self.engine.source.read_windows(&requests).await.map_err(MergeError::Source)?;
        windows
            .iter()
            .zip(pages)
            .map(|(&(shard, ..), page)| Ok(readable(page)?.map(|page| (shard, page.hits))))
            .collect()
    }

    /// The present ends of the logs, with everything below them visible. `None` also if they are not the logs that were
    /// planned.
    async fn ends(&self, name: &IndexName) -> Result<Option<Ends>, MergeError> {
        let names = std::slice::from_ref(name);
        let Some(mut stats) = existing(self.engine.source.primary_stats(names).await)? else {
            return Ok(None);
        };
        let Some(stats) = stats.remove(name) else { return Ok(None) };
        let Some(now) = readable(stats)? else { return Ok(None) };
        let history = |shard| self.shards.iter().find(|row| row.shard == shard).map(|row| &row.history_uuid);
        let is_planned = now.iter().all(|shard| {
            shard.index_uuid.0 == self.source.index_uuid
                && history(shard.shard).is_none_or(|planned| *planned == shard.history_uuid)
        });
        if !is_planned || existing(self.engine.source.refresh(names).await)?.is_none() {
            return Ok(None);
        }
        Ok(Some(now.iter().map(|shard| (shard.shard, shard.max_seq_no + 1)).collect()))
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

/// The first 128 bits of a destination id (SHA-256 in hex): enough to tell keys apart.
fn short_key(id: &str) -> u128 {
    id.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok()).unwrap_or_else(|| {
        // Not one of ours: an id that no chunk can have. It must not collide with one that can.
        id.bytes()
            .fold(0_u128, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3).wrapping_add(u128::from(byte)))
    })
}
