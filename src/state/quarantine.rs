//! Quarantine: chunks that could not be moved, with their original, so that nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::{MergeId, Result, SourceId, State, StateError, UnitId, storable, timestamp};
use crate::postgres::Transaction;

/// A chunk that could not be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The unit whose window held it; stored only if that unit's advance is.
    pub unit: UnitId,
    /// The source; must be that of the unit.
    pub source: SourceId,
    /// The shard; must be that of the unit.
    pub shard: i32,
    /// The collection.
    pub collection_id: i64,
    /// The chunk's `_id` in the source.
    pub chunk_id: String,
    /// Its id in the destination, if it has one.
    pub destination_id: Option<String>,
    /// Where in the log it is.
    pub seq_no: i64,
    /// The class of the refusal; from a bounded set.
    pub class: String,
    /// Why, for people.
    pub reason: String,
    /// The `_source` as it came, and the embedding if that came beside it.
    pub original: Vec<u8>,
}

/// A chunk in quarantine as listed; without the original, which may be large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedRow {
    /// The source.
    pub source: SourceId,
    /// The source's index.
    pub index_name: String,
    /// The shard of the source's index.
    pub shard: i32,
    /// The collection.
    pub collection_id: i64,
    /// The chunk's `_id` in the source.
    pub chunk_id: String,
    /// Its id in the destination, if it has one.
    pub destination_id: Option<String>,
    /// Where in the log it is.
    pub seq_no: i64,
    /// The class of the refusal.
    pub class: String,
    /// Why, for people.
    pub reason: String,
    /// Size of the stored original in bytes; `None`: it is in the source's index only.
    pub bytes: Option<i64>,
    /// When it was put there.
    pub seen_at: jiff::Timestamp,
}

/// A chunk in quarantine by its place, without what is stored for people.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct QuarantinedPlace {
    /// The source.
    pub source: SourceId,
    /// The shard of the source's index.
    pub shard: i32,
    /// Where in the log it is.
    pub seq_no: i64,
    /// The chunk's `_id` in the source.
    pub chunk_id: String,
    /// The class of the refusal.
    pub class: String,
}

/// Which chunks of the quarantine are meant; by default all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuarantineFilter {
    /// Only those of this collection.
    pub collection: Option<i64>,
    /// Only those of this class.
    pub class: Option<String>,
}

type ListedRow = (SourceId, String, i32, i64, String, Option<String>, i64, String, String, Option<i64>, i64);

/// Originals that are stored of one source. A collection whose chunks are all refused, because its embeddings have another
/// size, would else be copied into the database whole: a million chunks are 10 GB and more. These are enough to see what is wrong
/// with them, and all that are usually there; the others are in the index, which is never deleted while a chunk of it is
/// in quarantine.
const ORIGINALS: i64 = 1_000;

impl State {
    /// How many chunks of each collection are in quarantine, by class; collections without any are absent.
    pub async fn quarantine_counts(&self, merge: MergeId) -> Result<BTreeMap<i64, BTreeMap<String, i64>>> {
        self.count_classes(include_str!("queries/quarantine_classes.sql"), merge).await
    }

    /// How many chunks of each source are in quarantine, by class; sources without any are absent.
    pub async fn quarantine_by_source(
        &self,
        merge: MergeId,
    ) -> Result<BTreeMap<SourceId, BTreeMap<String, i64>>> {
        self.count_classes(include_str!("queries/quarantine_sources.sql"), merge).await
    }

    async fn count_classes(
        &self,
        query: &'static str,
        merge: MergeId,
    ) -> Result<BTreeMap<i64, BTreeMap<String, i64>>> {
        let rows: Vec<(i64, String, i64)> = sqlx::query_as(query)
            .bind(merge)
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during("counting the quarantine"))?;
        let mut counts: BTreeMap<i64, BTreeMap<String, i64>> = BTreeMap::new();
        for (of, class, count) in rows {
            counts.entry(of).or_default().insert(class, count);
        }
        Ok(counts)
    }

    /// At most `limit` chunks in quarantine, after the given one, ordered by collection and chunk.
    pub async fn quarantine_page(
        &self,
        merge: MergeId,
        filter: &QuarantineFilter,
        after: Option<&QuarantinedRow>,
        limit: i64,
    ) -> Result<Vec<QuarantinedRow>> {
        let rows: Vec<ListedRow> = sqlx::query_as(include_str!("queries/quarantine_list.sql"))
            .bind(merge)
            .bind(filter.collection)
            .bind(filter.class.as_deref().map(storable))
            .bind(after.map(|row| row.collection_id))
            .bind(after.map(|row| row.source))
            .bind(after.map(|row| row.shard))
            .bind(after.map(|row| row.chunk_id.as_str()))
            .bind(limit.max(0))
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during("listing the quarantine"))?;
        rows.into_iter().map(read_listed).collect()
    }

    /// At most `limit` chunks in quarantine of these sources, after the given one, ordered by source, shard and chunk.
    pub async fn quarantine_of(
        &self,
        merge: MergeId,
        sources: &RangeInclusive<SourceId>,
        after: Option<&QuarantinedPlace>,
        limit: i64,
    ) -> Result<Vec<QuarantinedPlace>> {
        let before_all = (*sources.start(), i32::MIN, "");
        let (source, shard, chunk) =
            after.map_or(before_all, |row| (row.source, row.shard, row.chunk_id.as_str()));
        sqlx::query_as(include_str!("queries/quarantine_of_sources.sql"))
            .bind(merge)
            .bind(source)
            .bind(shard)
            .bind(chunk)
            .bind(*sources.end())
            .bind(limit.max(0))
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during("listing the quarantine"))
    }

    /// The original of one chunk in quarantine, if it is stored.
    pub async fn quarantine_original(&self, merge: MergeId, row: &QuarantinedRow) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar(
            "SELECT original FROM quarantine WHERE merge = $1 AND source = $2 AND shard = $3 AND chunk_id = $4",
        )
        .bind(merge)
        .bind(row.source)
        .bind(row.shard)
        .bind(storable(&row.chunk_id))
        .fetch_optional(&self.pool)
        .await
        .map(Option::flatten)
        .map_err(StateError::during("reading a chunk in quarantine"))
    }

    /// The shards of these chunks, which were updated and are not written, but for the chunks that are in quarantine
    /// already: of those the destination holds no former words.
    pub async fn left_behind(
        &self,
        merge: MergeId,
        chunks: &[(SourceId, i32, &str)],
    ) -> Result<BTreeSet<(SourceId, i32)>> {
        if chunks.is_empty() {
            return Ok(BTreeSet::new());
        }
        let rows: Vec<(SourceId, i32)> = sqlx::query_as(include_str!("queries/quarantine_left_behind.sql"))
            .bind(merge)
            .bind(chunks.iter().map(|(source, _, _)| *source).collect::<Vec<_>>())
            .bind(chunks.iter().map(|(_, shard, _)| *shard).collect::<Vec<_>>())
            .bind(chunks.iter().map(|(_, _, chunk)| storable(chunk)).collect::<Vec<_>>())
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during("looking for chunks in quarantine"))?;
        Ok(rows.into_iter().collect())
    }

    /// Takes chunks out of quarantine whose refused state exists no more: the chunk was deleted or a newer
    /// version of it was moved. A row that speaks of a later state than the given one stays. Returns how many.
    pub async fn quarantine_clear(&self, merge: MergeId, resolved: &[&QuarantinedPlace]) -> Result<u64> {
        let places: Vec<(SourceId, i32, &str, i64)> =
            resolved.iter().map(|row| (row.source, row.shard, row.chunk_id.as_str(), row.seq_no)).collect();
        self.clear_places(merge, &places).await
    }

    /// Takes the chunks of sources that are gone out of quarantine. Returns how many.
    pub async fn quarantine_clear_gone(&self, merge: MergeId) -> Result<u64> {
        sqlx::query(
            "DELETE FROM quarantine q
             USING source s
             WHERE q.merge = $1 AND s.merge = $1 AND s.id = q.source AND s.state IN ('gone', 'purged')",
        )
        .bind(merge)
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected())
        .map_err(StateError::during("clearing the quarantine"))
    }

    /// Takes the former states of these chunks out of quarantine: source, shard, `_id` and where each is in the log now.
    pub async fn quarantine_outlived(
        &self,
        merge: MergeId,
        updated: &[(SourceId, i32, &str, i64)],
    ) -> Result<u64> {
        let before: Vec<(SourceId, i32, &str, i64)> = updated
            .iter()
            .map(|&(source, shard, chunk, seq_no)| (source, shard, chunk, seq_no - 1))
            .collect();
        self.clear_places(merge, &before).await
    }

    async fn clear_places(&self, merge: MergeId, up_to: &[(SourceId, i32, &str, i64)]) -> Result<u64> {
        if up_to.is_empty() {
            return Ok(0);
        }
        sqlx::query(include_str!("queries/quarantine_clear.sql"))
            .bind(merge)
            .bind(up_to.iter().map(|(source, ..)| *source).collect::<Vec<_>>())
            .bind(up_to.iter().map(|(_, shard, ..)| *shard).collect::<Vec<_>>())
            .bind(up_to.iter().map(|(_, _, chunk, _)| storable(chunk)).collect::<Vec<_>>())
            .bind(up_to.iter().map(|(.., seq_no)| *seq_no).collect::<Vec<_>>())
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected())
            .map_err(StateError::during("clearing the quarantine"))
    }
}

/// Writes rows of units whose advance was accepted; of two rows for one chunk the newer stays. Without the original where
/// enough of the source are stored.
pub(super) async fn write_quarantine(
    transaction: &mut Transaction,
    merge: MergeId,
    rows: impl Iterator<Item = &Quarantined>,
) -> Result<()> {
    let mut newest: BTreeMap<(SourceId, i32, String), &Quarantined> = BTreeMap::new();
    for row in rows {
        let kept = newest.entry((row.source, row.shard, storable(&row.chunk_id))).or_insert(row);
        if row.seq_no > kept.seq_no {
            *kept = row;
        }
    }
    if newest.is_empty() {
        return Ok(());
    }
    let rows: Vec<&Quarantined> = newest.into_values().collect();
    sqlx::query(include_str!("queries/quarantine_write.sql"))
        .bind(merge)
        .bind(rows.iter().map(|row| row.source).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| storable(&row.chunk_id)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.unit).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.collection_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.destination_id.as_deref().map(storable)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.seq_no).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| storable(&row.class)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| storable(&row.reason)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.original.as_slice()).collect::<Vec<_>>())
        .bind(ORIGINALS)
        .execute(transaction)
        .await
        .map(|_| ())
        .map_err(StateError::during("writing to quarantine"))
}

fn read_listed(row: ListedRow) -> Result<QuarantinedRow> {
    let (
        source,
        index_name,
        shard,
        collection_id,
        chunk_id,
        destination_id,
        seq_no,
        class,
        reason,
        bytes,
        seen_at,
    ) = row;
    Ok(QuarantinedRow {
        source,
        index_name,
        shard,
        collection_id,
        chunk_id,
        destination_id,
        seq_no,
        class,
        reason,
        bytes,
        seen_at: timestamp(seen_at)?,
    })
}
