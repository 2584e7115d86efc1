//! Sums over units, for progress and for the verdict. Closed units count nowhere.

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use super::{Counts, MergeId, Result, State, StateError, UnitKind};

/// Where a merge stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// The copy walk.
    pub copy: KindTotals,
    /// The verify walk.
    pub verify: KindTotals,
    /// Chunks in quarantine.
    pub quarantined: i64,
    /// Workers with a lease that has not run out.
    pub workers: i64,
}

/// Where one walk of a merge stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KindTotals {
    /// Units planned.
    pub units: i64,
    /// Of these: done.
    pub units_done: i64,
    /// Units with work left, of sources that can be read.
    pub open: i64,
    /// Positions planned (sequence numbers, holes included).
    pub positions_total: i64,
    /// Of these: checkpointed.
    pub positions_done: i64,
    /// Live documents expected.
    pub estimated_documents: i64,
    /// What happened.
    pub counts: Counts,
    /// Of the open units: those whose last attempt failed.
    pub failing: i64,
    /// The latest of their errors.
    pub last_error: Option<String>,
}

impl FromRow<'_, PgRow> for Counts {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            documents: row.try_get("documents")?,
            bytes_read: row.try_get("bytes_read")?,
            bytes_written: row.try_get("bytes_written")?,
            written: row.try_get("written")?,
            already_there: row.try_get("already_there")?,
            collapsed: row.try_get("collapsed")?,
            quarantined: row.try_get("quarantined")?,
            compared: row.try_get("compared")?,
            different: row.try_get("different")?,
            repaired: row.try_get("repaired")?,
        })
    }
}

impl State {
    /// How many sources that can be read have open units of that kind.
    pub async fn open_sources(&self, merge: MergeId, kind: UnitKind) -> Result<i64> {
        sqlx::query_scalar(
            "SELECT count(DISTINCT u.source) FROM unit u JOIN source s ON s.id = u.source \
             WHERE u.merge = $1 AND u.kind = $2 AND u.state = 'open' AND s.state = 'active'",
        )
        .bind(merge)
        .bind(kind.as_str())
        .fetch_one(&self.pool)
        .await
        .map_err(StateError::during("counting the open sources"))
    }

    /// The sums of the merge, for both walks.
    pub async fn totals(&self, merge: MergeId) -> Result<Totals> {
        let during = StateError::during("summing up");
        let rows = sqlx::query(include_str!("queries/totals.sql"))
            .bind(merge)
            .fetch_all(&self.pool)
            .await
            .map_err(&during)?;
        let mut totals = Totals::default();
        for row in &rows {
            let kind: &str = row.try_get("kind").map_err(&during)?;
            let sums = read_kind(row).map_err(&during)?;
            match UnitKind::parse(kind) {
                Some(UnitKind::Copy) => totals.copy = sums,
                Some(UnitKind::Verify) => totals.verify = sums,
                None => return Err(StateError::unreadable(format!("units of kind `{kind}`"))),
            }
        }
        let (quarantined, workers): (i64, i64) = sqlx::query_as(include_str!("queries/totals_merge.sql"))
            .bind(merge)
            .fetch_one(&self.pool)
            .await
            .map_err(&during)?;
        Ok(Totals { quarantined, workers, ..totals })
    }

    /// The sums of each collection that has an index with units, ordered by collection. What copying does (documents,
    /// bytes, written, already there) is summed over copy units, what verifying does (collapsed, compared, different,
    /// repaired) over verify units, quarantined over both. What was done with indices that are gone is left out: it is
    /// held against the documents that the destination has now.
    pub async fn collection_counts(&self, merge: MergeId) -> Result<Vec<(i64, Counts)>> {
        let during = StateError::during("summing up collections");
        let rows = sqlx::query(include_str!("queries/collection_counts.sql"))
            .bind(merge)
            .fetch_all(&self.pool)
            .await
            .map_err(&during)?;
        rows.iter()
            .map(|row| {
                let collection_id: i64 = row.try_get("collection_id").map_err(&during)?;
                Ok((collection_id, Counts::from_row(row).map_err(&during)?))
            })
            .collect()
    }
}

fn read_kind(row: &PgRow) -> sqlx::Result<KindTotals> {
    Ok(KindTotals {
        units: row.try_get("units")?,
        units_done: row.try_get("units_done")?,
        open: row.try_get("open")?,
        positions_total: row.try_get("positions_total")?,
        positions_done: row.try_get("positions_done")?,
        estimated_documents: row.try_get("estimated_documents")?,
        counts: Counts::from_row(row)?,
        failing: row.try_get("failing")?,
        last_error: row.try_get("last_error")?,
    })
}
