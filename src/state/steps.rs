//! The lease of a step: of several processes that work for one merge, one at a time decides.
//!
//! It is held for the length of a step and renewed while it lasts; whoever dies or is stopped in the middle of one
//! loses it after a few seconds. Safety does not rest on it: phases change by compare-and-set and every write
//! carries a version. It keeps two processes from undoing each other's work on the servers' settings and blocks.

use std::time::Duration;

use super::{MergeId, Result, State, StateError};

impl State {
    /// Takes the lease, or renews it if `process` has it: `true` if it is that process's until `lease` from now, by
    /// the database's clock.
    pub async fn take_step(&self, merge: MergeId, process: &str, lease: Duration) -> Result<bool> {
        sqlx::query(
            "UPDATE merge SET stepper = $2, stepper_until = clock_timestamp() + make_interval(secs => $3) \
             WHERE id = $1 AND (stepper = $2 OR stepper IS NULL OR stepper_until < clock_timestamp())",
        )
        .bind(merge)
        .bind(process)
        .bind(lease.as_secs_f64())
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(StateError::during("taking the lease of a step"))
    }

    /// Renews the lease: `false` if it ran out and somebody else took it.
    pub async fn keep_step(&self, merge: MergeId, process: &str, lease: Duration) -> Result<bool> {
        sqlx::query(
            "UPDATE merge SET stepper_until = clock_timestamp() + make_interval(secs => $3) \
             WHERE id = $1 AND stepper = $2",
        )
        .bind(merge)
        .bind(process)
        .bind(lease.as_secs_f64())
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(StateError::during("renewing the lease of a step"))
    }

    /// Gives the lease back, if it is still that process's.
    pub async fn end_step(&self, merge: MergeId, process: &str) -> Result<()> {
        sqlx::query("UPDATE merge SET stepper = NULL WHERE id = $1 AND stepper = $2")
            .bind(merge)
            .bind(process)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("giving the lease of a step back"))
    }
}
