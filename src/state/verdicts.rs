//! Verdicts: what the comparison of each collection came to.

use super::{MergeId, ROWS_AT_ONCE, Result, State, StateError, storable};

/// The verdict on one collection, with the numbers it rests on.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct CollectionVerdict {
    /// The collection.
    pub collection_id: i64,
    /// Live chunks in the source.
    pub source_documents: i64,
    /// Chunks of the collection in the destination.
    pub destination_documents: i64,
    /// Chunks compared.
    pub compared: i64,
    /// Of these: different.
    pub different: i64,
    /// Chunks in quarantine.
    pub quarantined: i64,
    /// Chunks whose key another chunk has too.
    pub collapsed: i64,
    /// Whether the collection is whole in the destination.
    pub verdict: bool,
    /// Why not, or what to know.
    pub reason: Option<String>,
}

impl State {
    /// Stores verdicts; a newer one replaces the collection's older one. Each collection at most once a call.
    pub async fn save_verdicts(&self, merge: MergeId, verdicts: &[CollectionVerdict]) -> Result<()> {
        let during = StateError::during("saving verdicts");
        let mut transaction = self.pool.begin().await.map_err(&during)?;
        for rows in verdicts.chunks(ROWS_AT_ONCE) {
            let column = |get: fn(&CollectionVerdict) -> i64| rows.iter().map(get).collect::<Vec<i64>>();
            sqlx::query(include_str!("queries/verdict_save.sql"))
                .bind(merge)
                .bind(column(|row| row.collection_id))
                .bind(column(|row| row.source_documents))
                .bind(column(|row| row.destination_documents))
                .bind(column(|row| row.compared))
                .bind(column(|row| row.different))
                .bind(column(|row| row.quarantined))
                .bind(column(|row| row.collapsed))
                .bind(rows.iter().map(|row| row.verdict).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.reason.as_deref().map(storable)).collect::<Vec<_>>())
                .execute(&mut transaction)
                .await
                .map_err(&during)?;
        }
        transaction.commit().await.map_err(&during)
    }

    /// Forgets the verdicts on all other collections: those that take no part any more must not be judged by.
    pub async fn keep_verdicts(&self, merge: MergeId, collections: &[i64]) -> Result<u64> {
        sqlx::query("DELETE FROM collection_verdict WHERE merge = $1 AND collection_id <> ALL ($2)")
            .bind(merge)
            .bind(collections)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected())
            .map_err(StateError::during("forgetting verdicts"))
    }

    /// All verdicts of the merge, ordered by collection.
    pub async fn verdicts(&self, merge: MergeId) -> Result<Vec<CollectionVerdict>> {
        sqlx::query_as(include_str!("queries/verdict_list.sql"))
            .bind(merge)
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during("reading verdicts"))
    }
}
