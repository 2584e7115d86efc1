//! Quarantine: chunks that could not be moved, with their original, so that nothing is lost.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::{MergeId, Result, SourceId, State, StateError, UnitId, storable, timestamp};

/// A chunk that could not be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The unit whose window held it; stored only if that unit's advance is.
    pub unit: UnitId,
    /// The source; must be that of the unit.
    pub source: SourceId,
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
    /// The raw `_source`.
    pub original: Vec<u8>,
}

/// A chunk in quarantine as listed; without the original, which may be large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedRow {
    /// The source.
    pub source: SourceId,
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
    /// Size of the stored original in bytes.
    pub bytes: i64,
    /// When it was put there.
    pub seen_at: jiff::Timestamp,
}

type ListedRow = (SourceId, i64, String, Option<String>, i64, String, String, i64, i64);

impl State {
    /// How many chunks of each collection are in quarantine; collections without any are absent.
    pub async fn quarantine_counts(&self, merge: MergeId) -> Result<BTreeMap<i64, i64>> {
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT collection_id, count(*) FROM quarantine WHERE merge = $1 GROUP BY collection_id",
        )
        .bind(merge)
        .fetch_all(&self.pool)
        .await
        .map_err(StateError::during("counting the quarantine"))?;
        Ok(rows.into_iter().collect())
    }

    /// The first `limit` chunks in quarantine, of one collection or of all, ordered by collection and chunk id.
    pub async fn quarantine_list(
        &self,
        merge: MergeId,
        collection: Option<i64>,
        limit: i64,
    ) -> Result<Vec<QuarantinedRow>> {
        let rows: Vec<ListedRow> = sqlx::query_as(include_str!("queries/quarantine_list.sql"))
            .bind(merge)
            .bind(collection)
            .bind(limit.max(0))
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during("listing the quarantine"))?;
        rows.into_iter().map(read_listed).collect()
    }

    /// The raw `_source` of one chunk in quarantine.
    pub async fn quarantine_original(
        &self,
        merge: MergeId,
        source: SourceId,
        chunk_id: &str,
    ) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar(
            "SELECT original FROM quarantine WHERE merge = $1 AND source = $2 AND chunk_id = $3",
        )
        .bind(merge)
        .bind(source)
        .bind(storable(chunk_id))
        .fetch_optional(&self.pool)
        .await
        .map_err(StateError::during("reading a chunk in quarantine"))
    }

    /// Takes chunks out of quarantine whose refused state exists no more: the chunk was deleted or a newer
    /// version of it (a higher sequence number than the given) was moved. Returns how many.
    pub async fn quarantine_clear(
        &self,
        merge: MergeId,
        resolved: &[(SourceId, String, i64 /* the sequence number up to which it is resolved */)],
    ) -> Result<u64> {
        if resolved.is_empty() {
            return Ok(0);
        }
        sqlx::query(include_str!("queries/quarantine_clear.sql"))
            .bind(merge)
            .bind(resolved.iter().map(|row| row.0).collect::<Vec<_>>())
            .bind(resolved.iter().map(|row| storable(&row.1)).collect::<Vec<_>>())
            .bind(resolved.iter().map(|row| row.2).collect::<Vec<_>>())
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected())
            .map_err(StateError::during("clearing the quarantine"))
    }
}

/// Writes rows of units whose advance was accepted; of two rows for one chunk the newer stays.
pub(super) async fn write_quarantine(
    connection: &mut PgConnection,
    merge: MergeId,
    rows: impl Iterator<Item = &Quarantined>,
) -> Result<()> {
    let mut newest: BTreeMap<(SourceId, String), &Quarantined> = BTreeMap::new();
    for row in rows {
        let kept = newest.entry((row.source, storable(&row.chunk_id))).or_insert(row);
        if row.seq_no > kept.seq_no {
            *kept = row;
        }
    }
    if newest.is_empty() {
        return Ok(());
    }
    let (sources, chunks): (Vec<SourceId>, Vec<String>) = newest.keys().cloned().unzip();
    let rows: Vec<&Quarantined> = newest.into_values().collect();
    sqlx::query(include_str!("queries/quarantine_write.sql"))
        .bind(merge)
        .bind(sources)
        .bind(chunks)
        .bind(rows.iter().map(|row| row.unit).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.collection_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.destination_id.as_deref().map(storable)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.seq_no).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| storable(&row.class)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| storable(&row.reason)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.original.as_slice()).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(StateError::during("writing to quarantine"))
}

fn read_listed(row: ListedRow) -> Result<QuarantinedRow> {
    let (source, collection_id, chunk_id, destination_id, seq_no, class, reason, bytes, seen_at) = row;
    Ok(QuarantinedRow {
        source,
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
