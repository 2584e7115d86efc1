//! Sources (one index of one collection) and the shards of their logs.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;

use super::{MergeId, ROWS_AT_ONCE, Result, SourceDeletion, SourceId, State, StateError, storable};
use crate::postgres::Transaction;

/// An index found for a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSource {
    /// The collection.
    pub collection_id: i64,
    /// The index's name.
    pub index_name: String,
    /// The index's uuid; another uuid is another source.
    pub index_uuid: String,
    /// Number of primary shards.
    pub shards: i32,
    /// Live documents now.
    pub documents: i64,
    /// Size of the primaries in bytes now.
    pub bytes: i64,
}

/// Where a source stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceState {
    /// Takes part in the merge.
    Active,
    /// The index is gone.
    Gone,
    /// Gone, and its chunks were taken out of the destination.
    Purged,
    /// Cannot be read now (closed, red, ...); it will be looked at again.
    Waiting,
}

impl SourceState {
    /// As it is stored, and as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Gone => "gone",
            Self::Purged => "purged",
            Self::Waiting => "waiting",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "active" => Some(Self::Active),
            "gone" => Some(Self::Gone),
            "purged" => Some(Self::Purged),
            "waiting" => Some(Self::Waiting),
            _ => None,
        }
    }
}

/// A source as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRow {
    /// Its id.
    pub id: SourceId,
    /// The collection.
    pub collection_id: i64,
    /// The index's name.
    pub index_name: String,
    /// The index's uuid.
    pub index_uuid: String,
    /// Number of primary shards.
    pub shards: i32,
    /// Which history of the collection's index this is, from 0: a re-created index, or one that comes back
    /// after its chunks were purged, has a higher one.
    pub generation: i32,
    /// Live documents at the last look.
    pub documents: i64,
    /// Size of the primaries in bytes at the last look.
    pub bytes: i64,
    /// Where it stands.
    pub state: SourceState,
    /// Why someone should look at it.
    pub attention: Option<String>,
    /// Whether the write block on the index is ours.
    pub blocked_by_us: bool,
    /// What the contract's readers would refuse and was cut, by reason; summed over the copied windows. (A
    /// chunk that was updated and copied again counts again.)
    pub cuts: BTreeMap<String, i64>,
    /// What became of the index after the merge was complete.
    pub deletion: Option<SourceDeletion>,
}

/// How far the log of one shard is planned.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ShardRow {
    /// The source.
    pub source: SourceId,
    /// The shard's number.
    pub shard: i32,
    /// The history that the plans belong to.
    pub history_uuid: String,
    /// End (exclusive) of the copy plan, in sequence numbers.
    pub copy_planned_to: i64,
    /// End (exclusive) of the verify plan, in sequence numbers.
    pub verify_planned_to: i64,
    /// Up to where (exclusive) what was deleted in the log is known to be gone from the destination; `None`: the
    /// keys have to be compared, because the destination may hold some of a history before this one, or former ones of
    /// chunks that were given another.
    pub keys_checked_to: Option<i64>,
    /// The pass in which this history was planned first: what was written in it or later for the source speaks of a place
    /// in this log. `None`: not known, the shard was planned by an earlier release.
    pub copied_since: Option<i32>,
}

impl ShardRow {
    /// Whether something was copied since the deletions were last followed.
    #[must_use]
    pub fn are_keys_behind(&self) -> bool {
        self.keys_checked_to.is_none_or(|checked| checked < self.copy_planned_to)
    }
}

impl State {
    /// Stores the sources found now and returns all of the merge's, ordered by id. Known ones (same collection
    /// and index uuid) get their name, counts and state `Active`; if one was given up before (`Gone`, `Purged`)
    /// its shards are planned again from 0, because its open units were closed or its chunks deleted.
    pub async fn upsert_sources(&self, merge: MergeId, found: &[NewSource]) -> Result<Vec<SourceRow>> {
        let during = StateError::during("storing the sources");
        // By key, so that two processes lock in the same order, and once each.
        let unique: BTreeMap<(i64, &str), &NewSource> =
            found.iter().map(|source| ((source.collection_id, source.index_uuid.as_str()), source)).collect();
        let rows: Vec<&NewSource> = unique.into_values().collect();
        let mut transaction = self.pool.begin().await.map_err(&during)?;
        for rows in rows.chunks(ROWS_AT_ONCE) {
            upsert(&mut transaction, merge, rows).await?;
        }
        transaction.commit().await.map_err(&during)?;
        self.sources(merge).await
    }

    /// All sources of the merge, ordered by id.
    pub async fn sources(&self, merge: MergeId) -> Result<Vec<SourceRow>> {
        let during = StateError::during("reading the sources");
        let rows = sqlx::query(include_str!("queries/source_list.sql"))
            .bind(merge)
            .fetch_all(&self.pool)
            .await
            .map_err(&during)?;
        rows.iter().map(read_source).collect()
    }

    /// All shards that were ever planned, ordered by source and shard.
    pub async fn shards(&self, merge: MergeId) -> Result<Vec<ShardRow>> {
        sqlx::query_as(include_str!("queries/shard_list.sql"))
            .bind(merge)
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during("reading the shards"))
    }

    /// Stores that what was deleted on these shards, up to the end of their copy plan as given, is gone from the
    /// destination too. Passed over where the shard began anew or was planned further since `shards` were read.
    pub async fn keys_checked(&self, merge: MergeId, shards: &[ShardRow]) -> Result<()> {
        sqlx::query(include_str!("queries/shard_keys_checked.sql"))
            .bind(merge)
            .bind(shards.iter().map(|row| row.source).collect::<Vec<_>>())
            .bind(shards.iter().map(|row| row.shard).collect::<Vec<_>>())
            .bind(shards.iter().map(|row| row.history_uuid.as_str()).collect::<Vec<_>>())
            .bind(shards.iter().map(|row| row.copy_planned_to).collect::<Vec<_>>())
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("saving how far deletions are followed"))
    }

    /// Stores that the destination may hold keys that no chunk of these shards has any more: all keys of their
    /// sources are compared when the deletions of their pass are followed.
    pub async fn doubt_keys(&self, merge: MergeId, shards: &BTreeSet<(SourceId, i32)>) -> Result<()> {
        if shards.is_empty() {
            return Ok(());
        }
        let (sources, numbers): (Vec<SourceId>, Vec<i32>) = shards.iter().copied().unzip();
        sqlx::query(include_str!("queries/shard_doubt_keys.sql"))
            .bind(merge)
            .bind(sources)
            .bind(numbers)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("saving that keys are in doubt"))
    }

    /// Sets where these sources stand.
    pub async fn set_source_state(&self, sources: &[SourceId], state: SourceState) -> Result<()> {
        sqlx::query("UPDATE source SET state = $2 WHERE id = ANY($1) AND state <> $2")
            .bind(sources)
            .bind(state.as_str())
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("saving the state of sources"))
    }

    /// Sets or clears why someone should look at a collection. `true` if that changed anything.
    pub async fn set_attention(
        &self,
        merge: MergeId,
        collection_id: i64,
        reason: Option<&str>,
    ) -> Result<bool> {
        sqlx::query(
            "UPDATE source SET attention = $3
             WHERE merge = $1 AND collection_id = $2 AND attention IS DISTINCT FROM $3",
        )
        .bind(merge)
        .bind(collection_id)
        .bind(reason.map(storable))
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected() > 0)
        .map_err(StateError::during("saving what needs attention"))
    }

    /// Remembers on which sources the write block is ours. Intent before effect: `true` is stored before the
    /// block is set, `false` after it is lifted.
    pub async fn set_blocked(&self, sources: &[SourceId], blocked: bool) -> Result<()> {
        sqlx::query("UPDATE source SET blocked_by_us = $2 WHERE id = ANY($1) AND blocked_by_us <> $2")
            .bind(sources)
            .bind(blocked)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("saving the write blocks"))
    }
}

/// One piece of [`State::upsert_sources`].
async fn upsert(transaction: &mut Transaction, merge: MergeId, rows: &[&NewSource]) -> Result<()> {
    let during = StateError::during("storing the sources");
    let collections: Vec<i64> = rows.iter().map(|row| row.collection_id).collect();
    let uuids: Vec<&str> = rows.iter().map(|row| row.index_uuid.as_str()).collect();
    let given_up: Vec<SourceId> = sqlx::query_scalar(include_str!("queries/source_given_up.sql"))
        .bind(merge)
        .bind(&collections)
        .bind(&uuids)
        .fetch_all(&mut *transaction)
        .await
        .map_err(&during)?;
    // Shards before units, as planning locks them.
    for statement in [
        include_str!("queries/source_restart_shards.sql"),
        include_str!("queries/source_restart_units.sql"),
        include_str!("queries/source_restart_quarantine.sql"),
    ] {
        if !given_up.is_empty() {
            sqlx::query(statement).bind(&given_up).execute(&mut *transaction).await.map_err(&during)?;
        }
    }
    sqlx::query(include_str!("queries/source_upsert.sql"))
        .bind(merge)
        .bind(&collections)
        .bind(rows.iter().map(|row| row.index_name.as_str()).collect::<Vec<_>>())
        .bind(&uuids)
        .bind(rows.iter().map(|row| row.shards).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.documents).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.bytes).collect::<Vec<_>>())
        .execute(transaction)
        .await
        .map(|_| ())
        .map_err(&during)
}

fn read_source(row: &PgRow) -> Result<SourceRow> {
    let during = StateError::during("reading the sources");
    let state: &str = row.try_get("state").map_err(&during)?;
    let Json(cuts): Json<BTreeMap<String, i64>> = row.try_get("cuts").map_err(&during)?;
    Ok(SourceRow {
        id: row.try_get("id").map_err(&during)?,
        collection_id: row.try_get("collection_id").map_err(&during)?,
        index_name: row.try_get("index_name").map_err(&during)?,
        index_uuid: row.try_get("index_uuid").map_err(&during)?,
        shards: row.try_get("shards").map_err(&during)?,
        generation: row.try_get("generation").map_err(&during)?,
        documents: row.try_get("documents").map_err(&during)?,
        bytes: row.try_get("bytes").map_err(&during)?,
        state: SourceState::parse(state)
            .ok_or_else(|| StateError::unreadable(format!("a source in state `{state}`")))?,
        attention: row.try_get("attention").map_err(&during)?,
        blocked_by_us: row.try_get("blocked_by_us").map_err(&during)?,
        cuts,
        deletion: read_deletion(row)?,
    })
}

fn read_deletion(row: &PgRow) -> Result<Option<SourceDeletion>> {
    let during = StateError::during("reading the sources");
    let Some(stored): Option<String> = row.try_get("deletion").map_err(&during)? else { return Ok(None) };
    let kept_because = row.try_get("kept_because").map_err(&during)?;
    let unreadable = || StateError::unreadable(format!("a source whose deletion is `{stored}`"));
    SourceDeletion::parse(&stored, kept_because).map(Some).ok_or_else(unreadable)
}
