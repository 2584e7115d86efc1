//! What becomes of the source indices after a merge is complete, where their deletion is asked for.

use std::time::Duration;

use super::{MergeId, Result, SourceId, State, StateError, storable};

/// What became of a source's index. Without any, nobody has looked at it yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceDeletion {
    /// It is about to be deleted by us. Stored before it is, so an index that is gone then was deleted by us.
    Intended,
    /// It is deleted.
    Deleted,
    /// It stays, for this reason (`Reason: sentence`).
    Kept(String),
    /// It was gone when we came: somebody else deleted it.
    Missing,
}

impl SourceDeletion {
    /// As it is stored.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Deleted => "deleted",
            Self::Kept(_) => "kept",
            Self::Missing => "missing",
        }
    }

    /// From the two columns; `None` for what no version of this program wrote.
    pub(super) fn parse(stored: &str, kept_because: Option<String>) -> Option<Self> {
        match (stored, kept_because) {
            ("intended", None) => Some(Self::Intended),
            ("deleted", None) => Some(Self::Deleted),
            ("kept", Some(reason)) => Some(Self::Kept(reason)),
            ("missing", None) => Some(Self::Missing),
            _ => None,
        }
    }
}

impl State {
    /// Stores what became of a source's index. Of one that is gone, no write block is ours any more.
    pub async fn set_source_deletion(&self, source: SourceId, deletion: &SourceDeletion) -> Result<()> {
        let kept_because = match deletion {
            SourceDeletion::Kept(reason) => Some(storable(reason)),
            SourceDeletion::Intended | SourceDeletion::Deleted | SourceDeletion::Missing => None,
        };
        sqlx::query(
            "UPDATE source SET deletion = $2, kept_because = $3,
                    blocked_by_us = blocked_by_us AND $2 NOT IN ('deleted', 'missing')
             WHERE id = $1",
        )
        .bind(source)
        .bind(deletion.as_str())
        .bind(kept_because)
        .execute(&self.pool)
        .await
        .map(|_| ())
        .map_err(StateError::during("saving what became of a source index"))
    }

    /// How long it is until the merge has been complete for `time`, by the database's clock; `None` if it is not complete.
    pub async fn until_complete_for(&self, merge: MergeId, time: Duration) -> Result<Option<Duration>> {
        let left: Option<f64> = sqlx::query_scalar(
            "SELECT extract(epoch FROM completed_at + make_interval(secs => $2) - clock_timestamp())::float8
             FROM merge WHERE id = $1",
        )
        .bind(merge)
        .bind(time.as_secs_f64())
        .fetch_optional(&self.pool)
        .await
        .map_err(StateError::during("asking how long the merge has been complete"))?
        .flatten();
        Ok(left.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
    }

    /// Forgets that sources were kept, so that each is looked at again. Returns how many.
    pub async fn reconsider_kept_sources(&self, merge: MergeId) -> Result<u64> {
        sqlx::query(
            "UPDATE source SET deletion = NULL, kept_because = NULL WHERE merge = $1 AND deletion = 'kept'",
        )
        .bind(merge)
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected())
        .map_err(StateError::during("forgetting that source indices were kept"))
    }
}
