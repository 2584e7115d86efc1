//! Comparing places of the logs once more: chunks in quarantine that are to be tried again, and keys that more than
//! one chunk has.
//!
//! Such ranges are verify units beside the plan: they overlap it and count nowhere. A walk of comparison writes what is
//! missing, and its checkpoint replaces what was in quarantine at its windows, so nothing else is needed: a chunk stays
//! in quarantine until the walk over its place has said otherwise, whoever dies meanwhile.

use super::invariants::{Place, PlaceRange, ranges};
use super::{MergeId, QuarantineFilter, Result, State, StateError};

const DOING: &str = "planning a comparison";

/// Places are read and planned in groups of this size.
const GROUP: usize = 20_000;

impl State {
    /// Plans the comparison of every place in quarantine that is meant. Returns how many chunks those are; what
    /// waits for its comparison already is not planned twice.
    pub async fn retry_quarantined(&self, merge: MergeId, filter: &QuarantineFilter) -> Result<u64> {
        let mut chunks = 0;
        let mut after = Place { source: i64::MIN, shard: i32::MIN, seq_no: i64::MIN };
        loop {
            let page = self.quarantined_places(merge, filter, after).await?;
            let Some(&last) = page.last() else { return Ok(chunks) };
            self.plan_recheck(merge, &page).await?;
            chunks += page.len() as u64;
            after = last;
        }
    }

    /// Plans the comparison of these places, with whatever lies between near ones. Returns how many units were made.
    /// Places that the copy plan does not cover, or of a source that takes no part, are left out.
    pub async fn plan_recheck(&self, merge: MergeId, places: &[Place]) -> Result<u64> {
        let mut made = 0;
        for group in ranges(places).chunks(GROUP) {
            let column = |get: fn(&PlaceRange) -> i64| group.iter().map(get).collect::<Vec<i64>>();
            made += sqlx::query(include_str!("queries/unit_recheck.sql"))
                .bind(merge)
                .bind(column(|range| range.source))
                .bind(group.iter().map(|range| range.shard).collect::<Vec<_>>())
                .bind(column(|range| range.from))
                .bind(column(|range| range.to))
                .bind(column(|range| range.places))
                .execute(&self.pool)
                .await
                .map_err(StateError::during(DOING))?
                .rows_affected();
        }
        Ok(made)
    }

    async fn quarantined_places(
        &self,
        merge: MergeId,
        filter: &QuarantineFilter,
        after: Place,
    ) -> Result<Vec<Place>> {
        let rows: Vec<(i64, i32, i64)> = sqlx::query_as(include_str!("queries/quarantine_places.sql"))
            .bind(merge)
            .bind(filter.collection)
            .bind(filter.class.as_deref())
            .bind(after.source)
            .bind(after.shard)
            .bind(after.seq_no)
            .bind(i64::try_from(GROUP).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await
            .map_err(StateError::during(DOING))?;
        Ok(rows.into_iter().map(|(source, shard, seq_no)| Place { source, shard, seq_no }).collect())
    }
}
