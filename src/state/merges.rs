//! Merges: the claim of a destination, and the few facts the engine keeps about a merge as a whole.

use jiff::Timestamp;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use super::{MergeId, Result, State, StateError, timestamp};

/// A merge that wants its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMerge {
    /// `namespace/name`, or `cli/name`.
    pub owner: String,
    /// The uuid of the destination's cluster.
    pub destination_cluster: String,
    /// The name of the destination index.
    pub destination_index: String,
    /// Fingerprint of the immutable part of the spec.
    pub identity: String,
}

/// Who has the destination.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The asker, newly or since before.
    Ours(MergeRow),
    /// Another owner.
    HeldBy {
        /// `namespace/name` of the other.
        owner: String,
        /// When that merge began.
        since: Timestamp,
    },
    /// The same owner, for a merge of another identity: the resource was deleted and made anew with another
    /// source. That merge must be released first.
    OtherIdentity {
        /// The merge that holds the claim.
        held: MergeRow,
    },
}

/// A merge as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeRow {
    /// Its id.
    pub id: MergeId,
    /// See [`NewMerge::owner`].
    pub owner: String,
    /// See [`NewMerge::destination_cluster`].
    pub destination_cluster: String,
    /// See [`NewMerge::destination_index`].
    pub destination_index: String,
    /// See [`NewMerge::identity`].
    pub identity: String,
    /// The engine's name of the phase; `Pending` at first.
    pub phase: String,
    /// The pass over the logs that is planned or done; 0 is the first.
    pub pass: i32,
    /// What the engine wants to remember; an object, `{}` at first.
    pub memo: Value,
    /// The last retry token that was acted upon; empty at first.
    pub retry_token: String,
    /// When the claim was made.
    pub started_at: Timestamp,
    /// When `Completed` was entered; gone when it is left again.
    pub completed_at: Option<Timestamp>,
    /// When the phase was entered.
    pub phase_since: Timestamp,
    /// When the claim was given up.
    pub released_at: Option<Timestamp>,
}

impl FromRow<'_, PgRow> for MergeRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let time =
            |microseconds: i64| timestamp(microseconds).map_err(|error| sqlx::Error::Decode(Box::new(error)));
        Ok(Self {
            id: row.try_get("id")?,
            owner: row.try_get("owner")?,
            destination_cluster: row.try_get("destination_cluster")?,
            destination_index: row.try_get("destination_index")?,
            identity: row.try_get("identity")?,
            phase: row.try_get("phase")?,
            pass: row.try_get("pass")?,
            memo: row.try_get("memo")?,
            retry_token: row.try_get("retry_token")?,
            started_at: time(row.try_get("started_at")?)?,
            completed_at: row.try_get::<Option<i64>, _>("completed_at")?.map(time).transpose()?,
            phase_since: time(row.try_get("phase_since")?)?,
            released_at: row.try_get::<Option<i64>, _>("released_at")?.map(time).transpose()?,
        })
    }
}

impl State {
    /// Claims the destination for a merge, or says who has it. Of any number of processes asking at once for
    /// different owners exactly one gets it; the same owner and identity gets the same merge each time.
    pub async fn claim(&self, new: &NewMerge) -> Result<Claim> {
        let during = StateError::during("claiming the destination");
        // The holder may give up between the two statements; then the destination is free, so try again.
        for _ in 0..3 {
            let inserted: Option<MergeRow> = sqlx::query_as(include_str!("queries/merge_claim.sql"))
                .bind(uuid::Uuid::new_v4())
                .bind(&new.owner)
                .bind(&new.destination_cluster)
                .bind(&new.destination_index)
                .bind(&new.identity)
                .fetch_optional(&self.pool)
                .await
                .map_err(&during)?;
            if let Some(ours) = inserted {
                return Ok(Claim::Ours(ours));
            }
            if let Some(claim) = self.claimed(new).await? {
                return Ok(claim);
            }
        }
        Err(during(sqlx::Error::BeginFailed))
    }

    /// Who has the destination now, seen by that merge; `None` if nobody has it. Claims nothing.
    pub async fn claimed(&self, new: &NewMerge) -> Result<Option<Claim>> {
        let holder: Option<MergeRow> = sqlx::query_as(include_str!("queries/merge_holder.sql"))
            .bind(&new.destination_cluster)
            .bind(&new.destination_index)
            .fetch_optional(&self.pool)
            .await
            .map_err(StateError::during("looking who has the destination"))?;
        Ok(holder.map(|held| judge_claim(new, held)))
    }

    /// The merge, also when released.
    pub async fn merge(&self, merge: MergeId) -> Result<Option<MergeRow>> {
        sqlx::query_as(include_str!("queries/merge_get.sql"))
            .bind(merge)
            .fetch_optional(&self.pool)
            .await
            .map_err(StateError::during("reading the merge"))
    }

    /// The merge of an owner: the one that holds its destination, else the last that did.
    pub async fn merge_of(&self, owner: &str, identity: &str) -> Result<Option<MergeRow>> {
        sqlx::query_as(include_str!("queries/merge_of_owner.sql"))
            .bind(owner)
            .bind(identity)
            .fetch_optional(&self.pool)
            .await
            .map_err(StateError::during("looking for the merge"))
    }

    /// The owners of merges, released ones too.
    pub async fn owners(&self) -> Result<Vec<String>> {
        sqlx::query_scalar("SELECT DISTINCT owner FROM merge ORDER BY owner LIMIT 100")
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during("listing the merges"))
    }

    /// Gives the destination up; the rows stay. A released merge leases no more units.
    pub async fn release(&self, merge: MergeId) -> Result<()> {
        sqlx::query("UPDATE merge SET released_at = now() WHERE id = $1 AND released_at IS NULL")
            .bind(merge)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("releasing the destination"))
    }

    /// Deletes the merge and all that belongs to it, its claim too. Unknown merges are fine.
    pub async fn forget(&self, merge: MergeId) -> Result<()> {
        sqlx::query("DELETE FROM merge WHERE id = $1")
            .bind(merge)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("deleting the merge's state"))
    }

    /// Compare and set: `true` if the merge was in phase `from` and is now in `to`. Entering `Completed` sets
    /// `completed_at`; entering any other phase clears it.
    pub async fn enter_phase(&self, merge: MergeId, from: &str, to: &str) -> Result<bool> {
        sqlx::query(include_str!("queries/merge_enter_phase.sql"))
            .bind(merge)
            .bind(from)
            .bind(to)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected() == 1)
            .map_err(StateError::during("entering a phase"))
    }

    /// Changes the memo: reads it, lets `change` make another of it, and stores that, as one transaction on the locked
    /// row, so that of two processes which do so at once none undoes what the other did. Returns what is stored.
    ///
    /// An error of `change` stores nothing and is returned as the inner one.
    pub async fn edit_memo<E>(
        &self,
        merge: MergeId,
        change: impl FnOnce(Value) -> std::result::Result<Value, E> + Send,
    ) -> Result<std::result::Result<Value, E>> {
        let during = StateError::during("saving the memo");
        let mut transaction = self.pool.begin().await.map_err(&during)?;
        let before: Value = sqlx::query_scalar("SELECT memo FROM merge WHERE id = $1 FOR UPDATE")
            .bind(merge)
            .fetch_one(&mut transaction)
            .await
            .map_err(&during)?;
        let after = match change(before.clone()) {
            Ok(after) => after,
            Err(error) => {
                transaction.rollback().await.map_err(&during)?;
                return Ok(Err(error));
            }
        };
        if after == before {
            // The disk need not be waited for.
            transaction.rollback().await.map_err(&during)?;
            return Ok(Ok(after));
        }
        sqlx::query("UPDATE merge SET memo = $2 WHERE id = $1")
            .bind(merge)
            .bind(&after)
            .execute(&mut transaction)
            .await
            .map_err(&during)?;
        transaction.commit().await.map_err(&during)?;
        Ok(Ok(after))
    }

    /// Raises the number of the last pass to at least this one.
    pub async fn raise_pass(&self, merge: MergeId, pass: i32) -> Result<()> {
        sqlx::query("UPDATE merge SET pass = $2 WHERE id = $1 AND pass < $2")
            .bind(merge)
            .bind(pass)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("saving the pass"))
    }

    /// Remembers the retry token that was acted upon.
    pub async fn set_retry_token(&self, merge: MergeId, token: &str) -> Result<()> {
        sqlx::query("UPDATE merge SET retry_token = $2 WHERE id = $1 AND retry_token <> $2")
            .bind(merge)
            .bind(token)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("saving the retry token"))
    }
}

fn judge_claim(new: &NewMerge, held: MergeRow) -> Claim {
    if held.owner != new.owner {
        Claim::HeldBy { owner: held.owner, since: held.started_at }
    } else if held.identity != new.identity {
        Claim::OtherIdentity { held }
    } else {
        Claim::Ours(held)
    }
}
