//! Units that are done become one for each shard, so that a merge that follows its sources for weeks keeps as few as
//! one that does so for an hour.

use super::{MergeId, Result, StateError, UnitId};
use crate::postgres::Transaction;

const DOING: &str = "folding units that are done";

/// Done units of one kind that a shard may have before they become one.
const MANY: i64 = 64;

/// Folds what is done, and removes what counts nowhere. What is in quarantine stays, with the unit that is kept.
pub(super) async fn fold(transaction: &mut Transaction, merge: MergeId) -> Result<()> {
    let during = StateError::during(DOING);
    let rows: Vec<(UnitId, UnitId)> = sqlx::query_as(include_str!("queries/unit_foldable.sql"))
        .bind(merge)
        .bind(MANY)
        .fetch_all(&mut *transaction)
        .await
        .map_err(&during)?;
    if !rows.is_empty() {
        let (units, keeps): (Vec<UnitId>, Vec<UnitId>) = rows.into_iter().unzip();
        for statement in [
            include_str!("queries/unit_fold.sql"),
            "UPDATE quarantine q SET unit = f.keep
             FROM unnest($1::bigint[], $2::bigint[]) AS f (keep, id)
             WHERE q.unit = f.id AND f.id <> f.keep",
            "DELETE FROM unit u
             USING unnest($1::bigint[], $2::bigint[]) AS f (keep, id)
             WHERE u.id = f.id AND f.id <> f.keep",
        ] {
            sqlx::query(statement)
                .bind(&keeps)
                .bind(&units)
                .execute(&mut *transaction)
                .await
                .map_err(&during)?;
        }
        tracing::debug!(units = units.len(), "units that are done became one for each shard");
    }
    sqlx::query(
        "DELETE FROM unit u
         WHERE u.merge = $1 AND (u.state = 'closed' OR u.recheck AND u.state = 'done')
           AND NOT EXISTS (SELECT FROM quarantine q WHERE q.unit = u.id)",
    )
    .bind(merge)
    .execute(transaction)
    .await
    .map(drop)
    .map_err(during)
}
