//! Leases: who works on which unit, until when.
//!
//! The database's clock alone decides whether a lease ran out. Each lease raises the epoch, so whoever held
//! the unit before can no longer write to it ([`super::invariants::judge`]).

use std::collections::HashSet;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{MergeId, Result, SourceId, State, StateError, UnitId, UnitKind, storable};

/// How much of an error is kept.
const ERROR_CHARACTERS: usize = 2_000;

/// A unit with all a worker needs to work on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedUnit {
    /// Its id.
    pub id: UnitId,
    /// The epoch of this lease; names the lease in all further calls.
    pub epoch: i64,
    /// What to do.
    pub kind: UnitKind,
    /// The pass it belongs to.
    pub pass: i32,
    /// The source.
    pub source: SourceId,
    /// Its collection.
    pub collection_id: i64,
    /// Its index.
    pub index_name: String,
    /// The uuid the index must still have.
    pub index_uuid: String,
    /// The shard.
    pub shard: i32,
    /// First position.
    pub from: i64,
    /// End (exclusive).
    pub to: i64,
    /// Where to go on.
    pub cursor: i64,
    /// Failures in a row since the last progress.
    pub attempts: i32,
    /// Live documents expected in `[from, to)`.
    pub estimated_documents: i64,
    /// Shards of the index.
    pub shards: i32,
    /// What the index takes on its disk for each live document, in bytes.
    pub bytes_per_document: i64,
    /// Whether all of the log before it was copied before, and its keys compared or known: an update in it is one of a
    /// chunk that the destination holds.
    pub is_follow_up: bool,
}

impl State {
    /// Leases units of one kind for `lease`, the largest first: as many as together are estimated to hold at
    /// most `max_documents`, but at least one and at most `max_units`. So a caller gets many tiny units or one
    /// large one. Empty when nothing can be leased now.
    ///
    /// Taken are units that nobody has or whose lease ran out, whose wait after a failure is over, and whose
    /// source is active; none of a released merge.
    pub async fn lease_units(
        &self,
        merge: MergeId,
        kind: UnitKind,
        worker: &str,
        lease: Duration,
        max_units: i64,
        max_documents: i64,
    ) -> Result<Vec<LeasedUnit>> {
        let during = StateError::during("leasing units");
        let mut transaction = self.pool.begin().await.map_err(&during)?;
        // One at a time for each merge and kind: else the units that another call merely considers would look
        // taken, and a worker would go idle while there is work. Ends with the transaction.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('es-index-merge lease ' || $1, 0))")
            .bind(format!("{merge} {}", kind.as_str()))
            .execute(&mut transaction)
            .await
            .map_err(&during)?;
        let rows = sqlx::query(include_str!("queries/unit_lease.sql"))
            .bind(merge)
            .bind(kind.as_str())
            .bind(worker)
            .bind(lease.as_secs_f64())
            .bind(max_units.max(1))
            .bind(max_documents)
            .fetch_all(&mut transaction)
            .await
            .map_err(&during)?;
        transaction.commit().await.map_err(&during)?;
        let mut units = rows.iter().map(read_unit).collect::<Result<Vec<_>>>()?;
        units.sort_by_key(|unit| (std::cmp::Reverse(unit.estimated_documents), unit.id));
        Ok(units)
    }

    /// Extends leases to `lease` from now and returns the units that are still the caller's. The others were
    /// taken by someone, closed, done or given back.
    pub async fn renew(&self, leases: &[(UnitId, i64)], lease: Duration) -> Result<HashSet<UnitId>> {
        if leases.is_empty() {
            return Ok(HashSet::new());
        }
        let (units, epochs) = columns(leases);
        let kept: Vec<UnitId> = sqlx::query_scalar(include_str!("queries/unit_renew.sql"))
            .bind(units)
            .bind(epochs)
            .bind(lease.as_secs_f64())
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during("renewing leases"))?;
        Ok(kept.into_iter().collect())
    }

    /// Frees the units that workers of this name hold: for a process that comes back under its name. Should the
    /// former one live after all, the epochs keep the two apart. Returns how many.
    pub async fn take_back(&self, merge: MergeId, worker: &str) -> Result<u64> {
        sqlx::query(
            "UPDATE unit SET worker = NULL, available_at = '-infinity' \
             WHERE merge = $1 AND worker = $2 AND state = 'open'",
        )
        .bind(merge)
        .bind(worker)
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected())
        .map_err(StateError::during("taking leases back"))
    }

    /// Ends leases at once, so that others may go on from the last checkpoint. Lost leases are fine.
    pub async fn give_back(&self, leases: &[(UnitId, i64)]) -> Result<()> {
        if leases.is_empty() {
            return Ok(());
        }
        let (units, epochs) = columns(leases);
        sqlx::query(include_str!("queries/unit_give_back.sql"))
            .bind(units)
            .bind(epochs)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("giving units back"))
    }

    /// Ends a lease after a failure; the unit is not leased again before `retry_in` has passed. `false` if the
    /// lease was lost (then nothing is stored).
    pub async fn fail_unit(&self, unit: UnitId, epoch: i64, error: &str, retry_in: Duration) -> Result<bool> {
        let shortened: String = error.chars().take(ERROR_CHARACTERS).collect();
        sqlx::query(include_str!("queries/unit_fail.sql"))
            .bind(unit)
            .bind(epoch)
            .bind(storable(&shortened))
            .bind(retry_in.as_secs_f64())
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected() == 1)
            .map_err(StateError::during("recording a failure"))
    }

    /// Ends the waits after failures (a new retry token). Returns of how many units.
    pub async fn retry_now(&self, merge: MergeId) -> Result<u64> {
        sqlx::query(include_str!("queries/unit_retry_now.sql"))
            .bind(merge)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected())
            .map_err(StateError::during("retrying what failed"))
    }

    /// Closes the open units of a source that is gone; workers lose them. Returns how many.
    pub async fn abandon_units(&self, source: SourceId) -> Result<u64> {
        sqlx::query(include_str!("queries/unit_abandon.sql"))
            .bind(source)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected())
            .map_err(StateError::during("closing the units of a source"))
    }
}

/// Sorted by unit, so that rows are locked in one order.
fn columns(leases: &[(UnitId, i64)]) -> (Vec<UnitId>, Vec<i64>) {
    let mut sorted = leases.to_vec();
    sorted.sort_unstable();
    sorted.into_iter().unzip()
}

fn read_unit(row: &PgRow) -> Result<LeasedUnit> {
    let during = StateError::during("leasing units");
    let kind: &str = row.try_get("kind").map_err(&during)?;
    Ok(LeasedUnit {
        id: row.try_get("id").map_err(&during)?,
        epoch: row.try_get("epoch").map_err(&during)?,
        kind: UnitKind::parse(kind)
            .ok_or_else(|| StateError::unreadable(format!("a unit of kind `{kind}`")))?,
        pass: row.try_get("pass").map_err(&during)?,
        source: row.try_get("source").map_err(&during)?,
        collection_id: row.try_get("collection_id").map_err(&during)?,
        index_name: row.try_get("index_name").map_err(&during)?,
        index_uuid: row.try_get("index_uuid").map_err(&during)?,
        shard: row.try_get("shard").map_err(&during)?,
        from: row.try_get("from_seq").map_err(&during)?,
        to: row.try_get("to_seq").map_err(&during)?,
        cursor: row.try_get("cursor_seq").map_err(&during)?,
        attempts: row.try_get("attempts").map_err(&during)?,
        estimated_documents: row.try_get("estimated_documents").map_err(&during)?,
        shards: row.try_get("shards").map_err(&during)?,
        bytes_per_document: row.try_get("bytes_per_document").map_err(&during)?,
        is_follow_up: row.try_get("is_follow_up").map_err(&during)?,
    })
}
