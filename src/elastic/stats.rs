//! How far each shard's log goes, from its primary.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::call::Call;
use super::catalog::{ask_each, not_concrete};
use super::cluster::{Cluster, parse};
use super::error::{ElasticError, ErrorCategory, Result};
use super::names::{IndexName, IndexUuid, SeqNo, ShardNumber};

const COUNTING: &str = "read the checkpoints of shards";

/// The state of a shard, as its primary says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryStats {
    /// The index's uuid.
    pub index_uuid: IndexUuid,
    /// The shard.
    pub shard: ShardNumber,
    /// Changes when the shard's log is no longer the same one (restored, or forced from a stale copy).
    pub history_uuid: String,
    /// The last operation; -1: none yet.
    pub max_seq_no: SeqNo,
    /// Up to here every operation is on the primary.
    pub local_checkpoint: SeqNo,
    /// Up to here every operation is on all copies, and will stay; -1: none yet. The bound of what may be read.
    pub global_checkpoint: SeqNo,
    /// Live chunks.
    pub docs: u64,
    /// Deleted ones that still take space.
    pub deleted: u64,
    /// Size on disk, in bytes.
    pub store_bytes: u64,
}

#[derive(Deserialize)]
struct Stats {
    #[serde(default)]
    indices: BTreeMap<String, IndexStats>,
}

#[derive(Deserialize)]
struct IndexStats {
    uuid: IndexUuid,
    #[serde(default)]
    shards: BTreeMap<String, Vec<CopyStats>>,
}

#[derive(Deserialize)]
struct CopyStats {
    routing: Routing,
    seq_no: Option<SeqNoStats>,
    commit: Option<Commit>,
    docs: Option<Docs>,
    store: Option<Store>,
}

#[derive(Deserialize)]
struct Routing {
    primary: bool,
}

#[derive(Deserialize)]
#[allow(clippy::struct_field_names)]
struct SeqNoStats {
    max_seq_no: SeqNo,
    local_checkpoint: SeqNo,
    global_checkpoint: SeqNo,
}

#[derive(Deserialize)]
struct Commit {
    user_data: UserData,
}

#[derive(Deserialize)]
struct UserData {
    history_uuid: String,
}

#[derive(Deserialize)]
struct Docs {
    count: u64,
    deleted: u64,
}

#[derive(Deserialize)]
struct Store {
    size_in_bytes: u64,
}

/// The number of shards of an index, from its settings.
type ShardCounts = BTreeMap<String, ShardSettings>;

#[derive(Deserialize)]
struct ShardSettings {
    settings: BTreeMap<String, String>,
}

/// What is used of the statistics; all of them would be kilobytes for each shard.
const PARTS: &str = "indices.*.uuid,indices.*.shards.*.routing.primary,indices.*.shards.*.seq_no,\
    indices.*.shards.*.commit.user_data.history_uuid,indices.*.shards.*.docs.count,\
    indices.*.shards.*.docs.deleted,indices.*.shards.*.store.size_in_bytes";

impl Cluster {
    /// The state of every shard of each index, by its primaries; indices that do not exist are absent.
    ///
    /// An inner error is of that index alone: a shard has no active primary ([`ErrorCategory::Unavailable`]), so
    /// that a red index is never taken for a smaller one, nor keeps the others from going on; or the server refuses to tell,
    /// by a block or for want of a privilege ([`ErrorCategory::Forbidden`]). If it refuses that for all of them, it is the outer
    /// error, and so is a closed index ([`ElasticError::is_closed_index`]).
    pub async fn primary_stats(
        &self,
        indices: &[IndexName],
    ) -> Result<BTreeMap<IndexName, Result<Vec<PrimaryStats>>>> {
        let found = ask_each(indices, |group| async move { self.stats_of(&group).await }).await?;
        Ok(found.into_iter().map(|(name, told)| (name, told.flatten())).collect())
    }

    pub(super) async fn stats_of(
        &self,
        group: &[&IndexName],
    ) -> Result<Vec<(IndexName, Result<Vec<PrimaryStats>>)>> {
        let call = |list: &str| {
            Call::get(COUNTING, format!("/{list}/_stats/docs,store"))
                .with("level", "shards")
                .with("filter_path", PARTS)
        };
        let (answer, asked) = self.send_for_existing(group, call).await?;
        let Some(answer) = answer else { return Ok(Vec::new()) };
        let mut stats: Stats = parse(COUNTING, &answer)?;
        self.learn_shard_counts(&asked, &stats).await?;
        let mut found = Vec::with_capacity(asked.len());
        for name in asked {
            let primaries = match stats.indices.remove(name.as_str()) {
                Some(index) => match self.shard_count(&index.uuid) {
                    Some(shards) => primaries(name, index, shards),
                    // Deleted or made anew between the two requests.
                    None => continue,
                },
                // A red index without a single active copy is not in the answer at all.
                None => Err(no_primary(name, 0)),
            };
            found.push((name.clone(), primaries));
        }
        Ok(found)
    }

    /// Asks how many shards these indices have, unless it is known: of one uuid it never changes.
    async fn learn_shard_counts(&self, names: &[&IndexName], stats: &Stats) -> Result<()> {
        let is_known = |name: &&&IndexName| {
            stats.indices.get(name.as_str()).is_some_and(|index| self.shard_count(&index.uuid).is_some())
        };
        let unknown: Vec<&IndexName> = names.iter().filter(|name| !is_known(name)).copied().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let call = |list: &str| {
            Call::get(COUNTING, format!("/{list}/_settings/index.number_of_shards,index.uuid"))
                .with("flat_settings", "true")
        };
        let (answer, asked) = self.send_for_existing(&unknown, call).await?;
        let Some(answer) = answer else { return Ok(()) };
        let counts: ShardCounts = parse(COUNTING, &answer)?;
        for name in asked {
            let (uuid, shards) = shard_count(&counts, name)?;
            self.remember_shard_count(uuid, shards);
        }
        Ok(())
    }
}

fn shard_count(counts: &ShardCounts, name: &IndexName) -> Result<(IndexUuid, ShardNumber)> {
    let index = counts.get(name.as_str()).ok_or_else(|| not_concrete(COUNTING, name))?;
    // An index without a shard would look like one without a chunk.
    let is_some = |shards: &ShardNumber| *shards > 0;
    let shards =
        index.settings.get("index.number_of_shards").and_then(|text| text.parse().ok()).filter(is_some);
    let uuid = index.settings.get("index.uuid").map(|uuid| IndexUuid(uuid.clone()));
    uuid.zip(shards).ok_or_else(|| {
        ElasticError::bad_answer(COUNTING, format!("index `{name}` comes without its number of shards"))
    })
}

/// Reads the answer of `_stats` alone, for an index that has so many shards; `None` if it is not in the answer.
#[cfg(any(test, feature = "internals"))]
pub(super) fn read(
    answer: &[u8],
    name: &IndexName,
    shards: ShardNumber,
) -> Result<Option<Vec<PrimaryStats>>> {
    let mut stats: Stats = parse(COUNTING, answer)?;
    stats.indices.remove(name.as_str()).map(|index| primaries(name, index, shards)).transpose()
}

/// Reads the answer that says how many shards an index has.
#[cfg(any(test, feature = "internals"))]
pub(super) fn read_shard_count(answer: &[u8], name: &IndexName) -> Result<ShardNumber> {
    shard_count(&parse(COUNTING, answer)?, name).map(|(_, shards)| shards)
}

fn no_primary(name: &IndexName, shard: ShardNumber) -> ElasticError {
    let reason = format!("shard {shard} of index `{name}` has no active primary");
    ElasticError::new(ErrorCategory::Unavailable, COUNTING, reason)
}

fn primaries(name: &IndexName, mut index: IndexStats, shards: ShardNumber) -> Result<Vec<PrimaryStats>> {
    (0..shards)
        .map(|shard| {
            let copies = index.shards.remove(&shard.to_string()).unwrap_or_default();
            let primary = copies.into_iter().find(|copy| copy.routing.primary);
            let lacking = || no_primary(name, shard);
            let CopyStats { seq_no: Some(seq_no), commit: Some(commit), docs: Some(docs), store, .. } =
                primary.ok_or_else(lacking)?
            else {
                return Err(lacking());
            };
            if seq_no.global_checkpoint < -1 {
                return Err(lacking());
            }
            Ok(PrimaryStats {
                index_uuid: index.uuid.clone(),
                shard,
                history_uuid: commit.user_data.history_uuid,
                max_seq_no: seq_no.max_seq_no,
                local_checkpoint: seq_no.local_checkpoint,
                global_checkpoint: seq_no.global_checkpoint,
                docs: docs.count,
                deleted: docs.deleted,
                store_bytes: store.map_or(0, |store| store.size_in_bytes),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_index_without_shards_is_a_bad_answer() {
        let name = IndexName::parse("a").unwrap();
        let answer = |shards: &str| {
            format!(r#"{{"a":{{"settings":{{"index.number_of_shards":"{shards}","index.uuid":"u"}}}}}}"#)
        };
        assert_eq!(read_shard_count(answer("2").as_bytes(), &name).unwrap(), 2);
        for bad in ["0", "-1", "", "x"] {
            let error = read_shard_count(answer(bad).as_bytes(), &name).unwrap_err();
            assert_eq!(error.category(), ErrorCategory::BadAnswer, "{bad}");
        }
    }
}
