//! The lease of a step: of several processes that work for one merge, one at a time decides.
//!
//! It is held for the length of a step and renewed while it lasts; whoever dies or is stopped in the middle of one
//! loses it after a few seconds. Safety does not rest on it: phases change by compare-and-set and every write
//! carries a version. It keeps two processes from undoing each other's work on the servers' settings and blocks.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::{MergeId, Result, State, StateError};

impl State {
    /// Takes the lease, or renews it if `process` has it: `true` if it is that process's until `lease` from now, by
    /// the database's clock. One that ends later than any can is void: the clock was set back since.
    pub async fn take_step(&self, merge: MergeId, process: &str, lease: Duration) -> Result<bool> {
        let take = sqlx::query(
            "UPDATE merge SET stepper = $2, stepper_until = clock_timestamp() + make_interval(secs => $3) \
             WHERE id = $1 AND (stepper = $2 OR stepper IS NULL OR stepper_until < clock_timestamp() \
                                OR stepper_until > clock_timestamp() + make_interval(secs => 4 * $3))",
        );
        self.change_lease(
            "taking the lease of a step",
            take.bind(merge).bind(process).bind(lease.as_secs_f64()),
        )
        .await
    }

    /// Renews the lease: `false` if it ran out and somebody else took it.
    pub async fn keep_step(&self, merge: MergeId, process: &str, lease: Duration) -> Result<bool> {
        let keep = sqlx::query(
            "UPDATE merge SET stepper_until = clock_timestamp() + make_interval(secs => $3) \
             WHERE id = $1 AND stepper = $2",
        );
        self.change_lease(
            "renewing the lease of a step",
            keep.bind(merge).bind(process).bind(lease.as_secs_f64()),
        )
        .await
    }

    /// Until when the last lease was given, by the database's clock, in microseconds; it says so when the lease is given back
    /// too. Each step changes it.
    pub async fn last_step(&self, merge: MergeId) -> Result<Option<i64>> {
        sqlx::query_scalar(
            "SELECT (extract(epoch FROM stepper_until) * 1000000)::bigint FROM merge WHERE id = $1",
        )
        .bind(merge)
        .fetch_optional(&self.pool)
        .await
        .map(Option::flatten)
        .map_err(StateError::during("looking whether anybody makes steps"))
    }

    /// Gives the lease back, if it is still that process's.
    pub async fn end_step(&self, merge: MergeId, process: &str) -> Result<()> {
        let end = sqlx::query("UPDATE merge SET stepper = NULL WHERE id = $1 AND stepper = $2");
        self.change_lease("giving the lease of a step back", end.bind(merge).bind(process)).await.map(drop)
    }

    /// Runs `change`, and says whether a row was changed. A lease is worth nothing after a crash of the database, so
    /// its disk is not waited for.
    async fn change_lease(
        &self,
        doing: &'static str,
        change: Query<'_, Postgres, PgArguments>,
    ) -> Result<bool> {
        let during = StateError::during(doing);
        let mut transaction = self.begin_relaxed(doing).await?;
        let done = change.execute(&mut transaction).await.map_err(&during)?;
        transaction.commit().await.map_err(&during)?;
        Ok(done.rows_affected() == 1)
    }
}
