//! Planning: the log of a shard, from where the last plan ended to its end now, becomes units.
//!
//! The shard's row is locked while its log is cut, so each position belongs to exactly one unit of its kind,
//! however often and by how many processes the same plan is made.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::invariants::cut;
use super::{MergeId, Result, SourceId, State, StateError, UnitKind};

const DOING: &str = "planning units";

/// Units are inserted in groups of this size, which bounds the size of a statement (about 1 MB).
const INSERT_GROUP: usize = 20_000;

/// How far the log of a shard reaches now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardTarget {
    /// The source.
    pub source: SourceId,
    /// The shard's number.
    pub shard: i32,
    /// The history that the positions belong to.
    pub history_uuid: String,
    /// End of the log (exclusive): global checkpoint + 1.
    pub to: i64,
    /// Live documents expected between the end of the last plan and `to`.
    pub estimated_documents: i64,
}

/// The columns of `unit` that planning fills.
#[derive(Default)]
struct NewUnits {
    sources: Vec<SourceId>,
    shards: Vec<i32>,
    from: Vec<i64>,
    to: Vec<i64>,
    estimates: Vec<i64>,
}

/// What becomes of the rows of `shard`.
#[derive(Default)]
struct ShardChanges {
    sources: Vec<SourceId>,
    shards: Vec<i32>,
    histories: Vec<String>,
    ends: Vec<i64>,
    restarted: Vec<bool>,
}

impl State {
    /// Creates units for `[end of the last plan of that kind, to)` of each shard, in ranges of at most `split`
    /// positions, and moves the end of the plan in the same transaction. Returns how many units were made;
    /// planning the same again makes none.
    ///
    /// A shard whose `history_uuid` is not the stored one starts again at 0: the units of both kinds that were
    /// made on the old history are closed (workers lose them, their counts count no more) and its quarantine
    /// is emptied. So planning `Verify` on a new history makes a new `Copy` plan necessary.
    pub async fn plan_units(
        &self,
        merge: MergeId,
        kind: UnitKind,
        pass: i32,
        targets: &[ShardTarget],
        split: i64,
    ) -> Result<u64> {
        if targets.is_empty() {
            return Ok(0);
        }
        let by_shard: BTreeMap<(SourceId, i32), &ShardTarget> =
            targets.iter().map(|target| ((target.source, target.shard), target)).collect();
        if by_shard.len() != targets.len() || split < 1 {
            return Err(StateError::argument(DOING, "a shard is named twice, or the split is not positive"));
        }
        let during = StateError::during(DOING);
        let mut transaction = self.pool.begin().await.map_err(&during)?;
        let planned = lock_shards(&mut transaction, merge, kind, &by_shard).await?;
        let (units, changes) = decide(&by_shard, &planned, split);
        close_restarted(&mut transaction, &changes).await?;
        insert_units(&mut transaction, merge, kind, pass, &units).await?;
        move_ends(&mut transaction, kind, &changes).await?;
        transaction.commit().await.map_err(&during)?;
        Ok(units.from.len() as u64)
    }

    /// Forgets what was compared, so that the next plan of kind `Verify` begins at 0 everywhere: for a destination
    /// that is no longer the one which was compared. Workers lose their verify units.
    pub async fn verify_again(&self, merge: MergeId) -> Result<()> {
        let during = StateError::during("planning the verification anew");
        let mut transaction = self.pool.begin().await.map_err(&during)?;
        // Shards before units, as planning locks them.
        for statement in [
            include_str!("queries/verify_again_shards.sql"),
            include_str!("queries/verify_again_quarantine.sql"),
            include_str!("queries/verify_again_units.sql"),
        ] {
            sqlx::query(statement).bind(merge).execute(&mut *transaction).await.map_err(&during)?;
        }
        transaction.commit().await.map_err(&during)
    }
}

/// The stored history and end of each shard; shards seen for the first time are made, with an end of 0.
async fn lock_shards(
    connection: &mut PgConnection,
    merge: MergeId,
    kind: UnitKind,
    targets: &BTreeMap<(SourceId, i32), &ShardTarget>,
) -> Result<BTreeMap<(SourceId, i32), (String, i64)>> {
    let during = StateError::during(DOING);
    let sources: Vec<SourceId> = targets.keys().map(|(source, _)| *source).collect();
    let shards: Vec<i32> = targets.keys().map(|(_, shard)| *shard).collect();
    let histories: Vec<&str> = targets.values().map(|target| target.history_uuid.as_str()).collect();
    sqlx::query(include_str!("queries/shard_create.sql"))
        .bind(merge)
        .bind(&sources)
        .bind(&shards)
        .bind(histories)
        .execute(&mut *connection)
        .await
        .map_err(&during)?;
    let rows: Vec<(SourceId, i32, String, i64, i64)> = sqlx::query_as(include_str!("queries/shard_lock.sql"))
        .bind(merge)
        .bind(&sources)
        .bind(&shards)
        .fetch_all(connection)
        .await
        .map_err(&during)?;
    if rows.len() != targets.len() {
        return Err(StateError::argument(DOING, "a source does not belong to the merge"));
    }
    Ok(rows
        .into_iter()
        .map(|(source, shard, history, copied, verified)| {
            let end = match kind {
                UnitKind::Copy => copied,
                UnitKind::Verify => verified,
            };
            ((source, shard), (history, end))
        })
        .collect())
}

/// Pure: what to make and what to change. Shards about which nothing changes are left out.
fn decide(
    targets: &BTreeMap<(SourceId, i32), &ShardTarget>,
    planned: &BTreeMap<(SourceId, i32), (String, i64)>,
    split: i64,
) -> (NewUnits, ShardChanges) {
    let mut units = NewUnits::default();
    let mut changes = ShardChanges::default();
    for ((key, target), (history, end)) in targets.iter().zip(planned.values()) {
        let restarted = *history != target.history_uuid;
        let from = if restarted { 0 } else { *end };
        for range in cut(from, target.to, target.estimated_documents, split) {
            units.sources.push(key.0);
            units.shards.push(key.1);
            units.from.push(range.from);
            units.to.push(range.to);
            units.estimates.push(range.estimated_documents);
        }
        if restarted || target.to > from {
            changes.sources.push(key.0);
            changes.shards.push(key.1);
            changes.histories.push(target.history_uuid.clone());
            changes.ends.push(target.to.max(from));
            changes.restarted.push(restarted);
        }
    }
    (units, changes)
}

async fn close_restarted(connection: &mut PgConnection, changes: &ShardChanges) -> Result<()> {
    if !changes.restarted.contains(&true) {
        return Ok(());
    }
    for statement in [
        include_str!("queries/shard_restart_units.sql"),
        include_str!("queries/shard_restart_quarantine.sql"),
    ] {
        sqlx::query(statement)
            .bind(&changes.sources)
            .bind(&changes.shards)
            .bind(&changes.restarted)
            .execute(&mut *connection)
            .await
            .map_err(StateError::during(DOING))?;
    }
    Ok(())
}

async fn insert_units(
    connection: &mut PgConnection,
    merge: MergeId,
    kind: UnitKind,
    pass: i32,
    units: &NewUnits,
) -> Result<()> {
    let total = units.from.len();
    for start in (0..total).step_by(INSERT_GROUP) {
        let group = start..total.min(start + INSERT_GROUP);
        sqlx::query(include_str!("queries/unit_insert.sql"))
            .bind(merge)
            .bind(kind.as_str())
            .bind(pass)
            .bind(units.sources.get(group.clone()))
            .bind(units.shards.get(group.clone()))
            .bind(units.from.get(group.clone()))
            .bind(units.to.get(group.clone()))
            .bind(units.estimates.get(group))
            .execute(&mut *connection)
            .await
            .map_err(StateError::during(DOING))?;
    }
    Ok(())
}

async fn move_ends(connection: &mut PgConnection, kind: UnitKind, changes: &ShardChanges) -> Result<()> {
    if changes.ends.is_empty() {
        return Ok(());
    }
    sqlx::query(include_str!("queries/shard_move.sql"))
        .bind(kind.as_str())
        .bind(&changes.sources)
        .bind(&changes.shards)
        .bind(&changes.histories)
        .bind(&changes.ends)
        .bind(&changes.restarted)
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(StateError::during(DOING))
}
