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
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::documents::{self, COLLECTION_FIELD, Document, Documents};
use super::live::{Live, Places, batches};
use super::log::{Ends, Halt, Log, WINDOWS};
use super::withheld::Withheld;
use crate::chunk::key_of;
use crate::elastic::{Hit, Lookup, ReadLane, SeqNo, ShardNumber, Walk};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::key_lane;
use crate::merge::version::Origin;
use crate::state::invariants::Place;
use crate::state::{ShardRow, SourceId, SourceRow};

/// Keys of a source held in memory at once, about 80 bytes each with the map's overhead. Some sources are compared at the
/// same time.
const BUCKET: u64 = 500_000;
/// Chunks whose keys are read with one request.
const KEYS: usize = 10_000;
/// The most missing chunks that are named, of all sources together.
pub(super) const MISSING: usize = 100_000;
/// How long is waited until all that was under way is done, and the pause between two looks.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(100);

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
    /// Live chunks that were copied and share their key with another one.
    pub shared: Vec<Place>,
    /// Live chunks that were copied and are to be written again: there is no document with their key, or it was written from
    /// a chunk that lives no more.
    pub unwritten: Vec<Place>,
    /// Whether there was no more room for all of them.
    pub has_more_unwritten: bool,
    /// Live chunks that are beyond what is planned, and of whose key there is no document: they are not copied yet, which
    /// they may be only where writes are allowed.
    pub later: u64,
}

/// A source to compare.
pub(super) struct Comparison<'a> {
    pub engine: &'a Engine,
    pub source: &'a SourceRow,
    /// The last pass that was planned before anything else was read.
    pub pass: i32,
    /// Its shards, as they are planned.
    pub shards: &'a [ShardRow],
    /// Where its logs end, all of it visible and copied, if nobody writes to it: then it is not looked at any more.
    pub ends: Option<Ends>,
    /// The way over the destination.
    pub walks: &'a [Walk],
    /// How many more missing chunks may be named, of all sources together.
    pub room: &'a AtomicUsize,
}

/// Live chunks with a key of one bucket, by where they are, except those whose document was found.
#[derive(Default)]
struct Keys {
    first: HashMap<u128, (ShardNumber, SeqNo)>,
    /// The others with the same key: rare.
    twins: HashMap<u128, Vec<(ShardNumber, SeqNo)>>,
    /// Chunks that have the key of one whose document was found, each after that one.
    of_found: Vec<[(ShardNumber, SeqNo); 2]>,
    /// Chunks without a key, and those of them that are beyond what is planned.
    keyless: u64,
    keyless_later: u64,
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
        self.twins.keys().flat_map(|&key| self.places(key)).chain(self.of_found.iter().flatten().copied())
    }
}

impl Comparison<'_> {
    /// Compares and deletes. `None`: the index cannot be read now, and nothing is known of it.
    pub async fn run(self) -> Result<(SourceId, Option<Compared>), MergeError> {
        let compared = match self.compare().await {
            Ok(compared) => compared,
            Err(Halt::Unreadable) => return Ok((self.source.id, None)),
            Err(Halt::Failed(error)) => return Err(*error),
        };
        tracing::info!(
            collection = self.source.collection_id,
            kept = compared.kept,
            deleted = compared.deleted,
            unwritten = compared.unwritten.len(),
            "keys compared"
        );
        Ok((self.source.id, Some(compared)))
    }

    async fn compare(&self) -> Result<Compared, Halt> {
        let withheld = Withheld::read(self.engine, self.source.id).await?;
        let log = Log::new(self.engine, self.source)?;
        let ends = match &self.ends {
            Some(ends) => ends.clone(),
            None => log.ends().await?,
        };
        let (mut live, withheld_live) = self.read_live(&log, &ends, &withheld).await?;
        let collection = self.source.collection_id;
        let known = |version| live.find(version);
        let (mut documents, mut found) =
            Documents::unknown(self.engine, collection, self.walks, known).await?;
        if live.is_deceived(found) {
            tracing::info!(collection, "versions in the destination are not all ours: all keys are read");
            live.disbelieve();
            (documents, found) = Documents::unknown(self.engine, collection, self.walks, |_| false).await?;
        }
        let mut sum = Compared {
            live: live.len() + withheld_live,
            withheld: withheld_live,
            distinct: found,
            kept: found,
            ..Compared::default()
        };
        let unfound = live.len() - found;
        let buckets = if unfound == 0 && documents.is_empty() { 0 } else { unfound / BUCKET + 1 };
        let reading =
            Reading { comparison: self, log: &log, withheld: &withheld, live: &live, ends: &ends, buckets };
        let mut keyless_later = 0;
        for bucket in 0..buckets {
            let keys = reading.keys(bucket).await?;
            // Each bucket reads all of them: the last look counts.
            sum.live = live.len() + withheld_live + keys.late;
            sum.withheld = withheld_live + keys.late_withheld;
            sum.keyless = keys.keyless;
            keyless_later = keys.keyless_later;
            sum.distinct += keys.first.len() as u64;
            let is_copied = |&(shard, seq_no): &_| self.is_copied(shard, seq_no);
            sum.shared.extend(keys.shared().filter(is_copied).map(|place| self.place(place)));
            let kept = self.judge(&reading, bucket, &keys, &documents, &mut sum).await?;
            self.without_document(&keys, &kept, &mut sum);
        }
        sum.later += keyless_later;
        if sum.deleted > 0 {
            let destination = std::slice::from_ref(&self.engine.merge.destination.index);
            let refreshed = self.engine.destination.refresh(destination).await;
            refreshed.map_err(MergeError::Destination)?;
        }
        if self.ends.is_none() && !ends.goes_on(&log.ends().await?) {
            return Err(Halt::Unreadable);
        }
        for places in [&mut sum.shared, &mut sum.unwritten] {
            places.sort_unstable();
            places.dedup();
        }
        Ok(sum)
    }

    /// Keeps the documents that have a key of the bucket, and deletes the others of it. Returns the keys of those that are
    /// kept.
    async fn judge(
        &self,
        reading: &Reading<'_>,
        bucket: u64,
        keys: &Keys,
        documents: &Documents,
        sum: &mut Compared,
    ) -> Result<HashSet<u128>, Halt> {
        let mut kept = HashSet::new();
        for batch in documents.batches() {
            let mut extra = Vec::new();
            for (id, version) in documents::read(self.engine, batch).await? {
                let key = short_key(&id);
                if !reading.is_in(bucket, key) {
                    continue;
                }
                if keys.places(key).next().is_none() {
                    extra.push((id, version));
                    continue;
                }
                kept.insert(key);
                if self.is_stale(keys, key, version) {
                    sum.unwritten.extend(self.copied(keys, key).map(|place| self.place(place)));
                }
            }
            let extra = reading.without_revived(extra).await?;
            sum.deleted += documents::delete(self.engine, &extra, self.pass).await?;
        }
        sum.kept += kept.len() as u64;
        Ok(kept)
    }

    /// Adds the chunks of the bucket whose key none of the documents has that are kept.
    fn without_document(&self, keys: &Keys, kept: &HashSet<u128>, sum: &mut Compared) {
        for &key in keys.first.keys().filter(|key| !kept.contains(key)) {
            if self.copied(keys, key).next().is_none() {
                sum.later += keys.places(key).count() as u64;
                sum.distinct -= 1;
            } else if self.room.fetch_update(Relaxed, Relaxed, |room| room.checked_sub(1)).is_ok() {
                sum.unwritten.extend(self.copied(keys, key).map(|place| self.place(place)));
            } else {
                sum.has_more_unwritten = true;
            }
        }
    }

    fn place(&self, (shard, seq_no): (ShardNumber, SeqNo)) -> Place {
        Place { source: self.source.id, shard, seq_no }
    }

    /// Whether all chunks with that key that are copied are others than the one that its document was written from.
    fn is_stale(&self, keys: &Keys, key: u128, version: i64) -> bool {
        let there = Origin::of(version);
        let mut copied = self.copied(keys, key).peekable();
        copied.peek().is_some() && copied.all(|(shard, seq_no)| Some(Origin::new(shard, seq_no)) != there)
    }

    /// The live chunks with that key that are copied: what is beyond comes with the next pass.
    fn copied(&self, keys: &Keys, key: u128) -> impl Iterator<Item = (ShardNumber, SeqNo)> {
        keys.places(key).filter(|&(shard, seq_no)| self.is_copied(shard, seq_no))
    }

    fn is_copied(&self, shard: ShardNumber, seq_no: SeqNo) -> bool {
        self.shards.iter().any(|row| row.shard == shard && seq_no < row.copy_planned_to)
    }

    /// The places of all live chunks up to these ends, and how many of them are withheld beside them.
    async fn read_live(&self, log: &Log<'_>, ends: &Ends, withheld: &Withheld) -> Result<(Live, u64), Halt> {
        let is_planned = |row: &&ShardRow| ends.is_of(row.shard, &row.history_uuid);
        let mut live = Live::new(self.shards.iter().filter(is_planned), self.source.shards, self.pass);
        let mut withheld_live = 0;
        for part in ends.windows(None).chunks(WINDOWS) {
            for (shard, hits) in log.read(part, &ReadLane::Places).await? {
                for hit in hits {
                    if withheld.holds(shard, hit.seq_no) {
                        withheld_live += 1;
                    } else {
                        live.add(shard, hit.seq_no);
                    }
                }
            }
        }
        Ok((live, withheld_live))
    }

    /// The documents of the collection under these ids.
    async fn look_up(&self, ids: &[&str]) -> Result<Lookup, Halt> {
        let of = (COLLECTION_FIELD, self.source.collection_id);
        let destination = &self.engine.merge.destination.index;
        let found = self.engine.destination.lookup_where(destination, ids, of, ReadLane::Keys).await;
        Ok(found.map_err(MergeError::Destination)?)
    }
}

/// The reading of keys after the places are known.
struct Reading<'a> {
    comparison: &'a Comparison<'a>,
    log: &'a Log<'a>,
    withheld: &'a Withheld,
    live: &'a Live,
    ends: &'a Ends,
    buckets: u64,
}

impl Reading<'_> {
    fn is_in(&self, bucket: u64, key: u128) -> bool {
        (key >> 64) as u64 % self.buckets == bucket
    }

    /// The keys of the bucket, of the chunks whose document was not found, and of all that came since.
    async fn keys(&self, bucket: u64) -> Result<Keys, Halt> {
        let mut keys = Keys::default();
        if self.live.found_len() == 0 {
            for part in self.ends.windows(None).chunks(WINDOWS) {
                for (shard, mut hits) in self.log.read(part, &key_lane()).await? {
                    hits.retain(|hit| !self.withheld.holds(shard, hit.seq_no));
                    self.take(&mut keys, bucket, shard, &hits).await?;
                }
            }
        } else {
            for batch in batches(&self.live.unfound(), KEYS) {
                for (shard, hits) in self.log.at(batch, &key_lane()).await? {
                    self.take(&mut keys, bucket, shard, &hits).await?;
                }
            }
        }
        if self.comparison.ends.is_none() {
            self.late_keys(&mut keys, bucket).await?;
        }
        Ok(keys)
    }

    /// What came since the places were read: a chunk that was updated is at another one now.
    async fn late_keys(&self, keys: &mut Keys, bucket: u64) -> Result<(), Halt> {
        let mut read = self.ends.clone();
        let (mut needed, mut waiting_since) = (None::<Ends>, None);
        loop {
            let now = self.log.ends().await?;
            for part in now.windows(Some(&read)).chunks(WINDOWS) {
                for (shard, mut hits) in self.log.read(part, &key_lane()).await? {
                    let all = hits.len();
                    hits.retain(|hit| !self.withheld.holds(shard, hit.seq_no));
                    keys.late += all as u64;
                    keys.late_withheld += (all - hits.len()) as u64;
                    self.take(keys, bucket, shard, &hits).await?;
                }
            }
            // Whatever moved a chunk before its place was read was under way at the first look.
            if now.reach(needed.get_or_insert_with(|| now.clone())) {
                return Ok(());
            }
            if waiting_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(Halt::Unreadable);
            }
            read.raise_to(&now);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Adds the keys of these chunks that are in the bucket.
    async fn take(&self, keys: &mut Keys, bucket: u64, shard: ShardNumber, hits: &[Hit]) -> Result<(), Halt> {
        let mut taken = Vec::with_capacity(hits.len());
        for hit in hits {
            match key_of(hit.source()) {
                Ok(id) if self.is_in(bucket, short_key(&id)) => taken.push((id, hit.seq_no)),
                Ok(_) => {}
                Err(_) if self.comparison.is_copied(shard, hit.seq_no) => keys.keyless += 1,
                Err(_) => keys.keyless_later += 1,
            }
        }
        let ids: Vec<&str> = taken.iter().map(|(id, _)| id.as_str()).collect();
        // Where no document was found none can be that of another chunk.
        let there = if self.live.found_len() == 0 {
            Lookup::default()
        } else {
            self.comparison.look_up(&ids).await?
        };
        for (id, seq_no) in taken {
            match there.get(&id).and_then(|hit| self.live.found(hit.version)) {
                Some(owner) => keys.of_found.push([owner, (shard, seq_no)]),
                None => keys.add(short_key(&id), (shard, seq_no)),
            }
        }
        Ok(())
    }

    /// These documents, except those whose operation lives after all: where a primary fails, what it did last
    /// may be undone.
    async fn without_revived(&self, documents: Vec<Document>) -> Result<Vec<Document>, Halt> {
        let mut named: BTreeMap<ShardNumber, Places> = BTreeMap::new();
        for (shard, seq_no) in documents.iter().filter_map(|(_, version)| self.live.names(*version)) {
            named.entry(shard).or_default().add(seq_no);
        }
        let mut revived = HashSet::new();
        for batch in batches(&named, KEYS) {
            for (shard, hits) in self.log.at(batch, &ReadLane::Places).await? {
                let withheld = |hit: &&Hit| self.withheld.holds(shard, hit.seq_no);
                revived.extend(hits.iter().filter(|hit| !withheld(hit)).map(|hit| (shard, hit.seq_no)));
            }
        }
        let lives = |version| self.live.names(version).is_some_and(|place| revived.contains(&place));
        Ok(documents.into_iter().filter(|(_, version)| !lives(*version)).collect())
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
