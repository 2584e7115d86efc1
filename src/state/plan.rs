//! Planning: the log of a shard, from where the last plan ended to its end now, becomes units.
//!
//! The shard's row is locked while its log is cut, so each position belongs to exactly one unit of its kind,
//! however often and by how many processes the same plan is made.

use std::collections::BTreeMap;
use std::ops::Range;

use super::fold::fold;
use super::invariants::cut;
use super::{MergeId, ROWS_AT_ONCE, Result, SourceId, State, StateError, UnitKind};
use crate::postgres::Transaction;

/// Units that are done are folded at each such pass.
const FOLD_EVERY: i32 = 16;
const DOING: &str = "planning units";

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
    /// The destination cannot hold a chunk of the collection yet. Matters when the shard is planned first.
    pub is_new: bool,
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
        let by_shard = by_shard(targets, split)?;
        let during = StateError::during(DOING);
        let mut transaction = self.pool.begin().await.map_err(&during)?;
        let made = plan_locked(&mut transaction, merge, kind, pass, &by_shard, split).await?;
        transaction.commit().await.map_err(&during)?;
        Ok(made)
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
            sqlx::query(statement).bind(merge).execute(&mut transaction).await.map_err(&during)?;
        }
        transaction.commit().await.map_err(&during)
    }

    /// Plans the next pass of copying up to the ends in `targets`, which were read after the pass numbered `seen` had
    /// been planned. Units and the new number of the pass are one transaction, and `None` is returned, with nothing
    /// stored, if another process planned a pass since: so every operation that pass n does not cover belongs to a
    /// pass above n. A plan without units leaves the number as it is.
    pub async fn plan_pass(
        &self,
        merge: MergeId,
        seen: i32,
        targets: &[ShardTarget],
        split: i64,
    ) -> Result<Option<u64>> {
        let by_shard = by_shard(targets, split)?;
        let during = StateError::during(DOING);
        let mut transaction = self.pool.begin().await.map_err(&during)?;
        if lock_pass(&mut transaction, merge).await? != seen {
            transaction.rollback().await.map_err(&during)?;
            return Ok(None);
        }
        if seen % FOLD_EVERY == FOLD_EVERY - 1 {
            fold(&mut transaction, merge).await?;
        }
        let made = plan_locked(&mut transaction, merge, UnitKind::Copy, seen + 1, &by_shard, split).await?;
        if made > 0 {
            sqlx::query("UPDATE merge SET pass = $2 WHERE id = $1")
                .bind(merge)
                .bind(seen + 1)
                .execute(&mut transaction)
                .await
                .map_err(&during)?;
        }
        transaction.commit().await.map_err(&during)?;
        Ok(Some(made))
    }

    /// Creates verify units for everything that was copied from sources that can be read and not yet compared.
    /// Their pass is the last one that was planned, and they cover exactly what was planned up to it.
    pub async fn plan_comparison(&self, merge: MergeId, split: i64) -> Result<u64> {
        let during = StateError::during(DOING);
        let mut transaction = self.pool.begin().await.map_err(&during)?;
        let pass = lock_pass(&mut transaction, merge).await?;
        let rows: Vec<(SourceId, i32, String, i64, i64)> =
            sqlx::query_as(include_str!("queries/shard_uncompared.sql"))
                .bind(merge)
                .fetch_all(&mut transaction)
                .await
                .map_err(&during)?;
        let targets: Vec<ShardTarget> = rows
            .into_iter()
            .map(|(source, shard, history_uuid, to, estimated_documents)| ShardTarget {
                source,
                shard,
                history_uuid,
                to,
                estimated_documents,
                is_new: false,
            })
            .collect();
        let by_shard = by_shard(&targets, split)?;
        let made = plan_locked(&mut transaction, merge, UnitKind::Verify, pass, &by_shard, split).await?;
        transaction.commit().await.map_err(&during)?;
        Ok(made)
    }
}

type ByShard<'a> = BTreeMap<(SourceId, i32), &'a ShardTarget>;

fn by_shard(targets: &[ShardTarget], split: i64) -> Result<ByShard<'_>> {
    let by_shard: ByShard<'_> =
        targets.iter().map(|target| ((target.source, target.shard), target)).collect();
    if by_shard.len() != targets.len() || split < 1 {
        return Err(StateError::argument(DOING, "a shard is named twice, or the split is not positive"));
    }
    Ok(by_shard)
}

/// The number of the last pass; nobody else plans one until the transaction ends.
async fn lock_pass(transaction: &mut Transaction, merge: MergeId) -> Result<i32> {
    sqlx::query_scalar("SELECT pass FROM merge WHERE id = $1 FOR NO KEY UPDATE")
        .bind(merge)
        .fetch_one(transaction)
        .await
        .map_err(StateError::during(DOING))
}

async fn plan_locked(
    transaction: &mut Transaction,
    merge: MergeId,
    kind: UnitKind,
    pass: i32,
    targets: &ByShard<'_>,
    split: i64,
) -> Result<u64> {
    if targets.is_empty() {
        return Ok(0);
    }
    let planned = lock_shards(transaction, merge, kind, targets).await?;
    let (units, changes) = decide(targets, &planned, split);
    close_restarted(transaction, &changes).await?;
    insert_units(transaction, merge, kind, pass, &units).await?;
    move_ends(transaction, kind, pass, &changes).await?;
    Ok(units.from.len() as u64)
}

/// The stored history and end of each shard; shards seen for the first time are made, with an end of 0.
async fn lock_shards(
    transaction: &mut Transaction,
    merge: MergeId,
    kind: UnitKind,
    targets: &ByShard<'_>,
) -> Result<BTreeMap<(SourceId, i32), (String, i64)>> {
    let during = StateError::during(DOING);
    let all: Vec<&ShardTarget> = targets.values().copied().collect();
    let mut locked = BTreeMap::new();
    for targets in all.chunks(ROWS_AT_ONCE) {
        let sources: Vec<SourceId> = targets.iter().map(|target| target.source).collect();
        let shards: Vec<i32> = targets.iter().map(|target| target.shard).collect();
        sqlx::query(include_str!("queries/shard_create.sql"))
            .bind(merge)
            .bind(&sources)
            .bind(&shards)
            .bind(targets.iter().map(|target| target.history_uuid.as_str()).collect::<Vec<_>>())
            .bind(targets.iter().map(|target| target.to).collect::<Vec<_>>())
            .bind(targets.iter().map(|target| target.is_new).collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await
            .map_err(&during)?;
        let rows: Vec<(SourceId, i32, String, i64, i64)> =
            sqlx::query_as(include_str!("queries/shard_lock.sql"))
                .bind(merge)
                .bind(&sources)
                .bind(&shards)
                .fetch_all(&mut *transaction)
                .await
                .map_err(&during)?;
        locked.extend(rows.into_iter().map(|(source, shard, history, copied, verified)| {
            let end = match kind {
                UnitKind::Copy => copied,
                UnitKind::Verify => verified,
            };
            ((source, shard), (history, end))
        }));
    }
    if locked.len() != targets.len() {
        return Err(StateError::argument(DOING, "a source does not belong to the merge"));
    }
    Ok(locked)
}

/// Pure: what to make and what to change. Shards about which nothing changes are left out.
fn decide(
    targets: &ByShard<'_>,
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

async fn close_restarted(transaction: &mut Transaction, changes: &ShardChanges) -> Result<()> {
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
            .execute(&mut *transaction)
            .await
            .map_err(StateError::during(DOING))?;
    }
    Ok(())
}

/// So many rows, as statements take them.
fn pieces(total: usize) -> impl Iterator<Item = Range<usize>> {
    (0..total).step_by(ROWS_AT_ONCE).map(move |start| start..total.min(start + ROWS_AT_ONCE))
}

async fn insert_units(
    transaction: &mut Transaction,
    merge: MergeId,
    kind: UnitKind,
    pass: i32,
    units: &NewUnits,
) -> Result<()> {
    for group in pieces(units.from.len()) {
        sqlx::query(include_str!("queries/unit_insert.sql"))
            .bind(merge)
            .bind(kind.as_str())
            .bind(pass)
            .bind(units.sources.get(group.clone()))
            .bind(units.shards.get(group.clone()))
            .bind(units.from.get(group.clone()))
            .bind(units.to.get(group.clone()))
            .bind(units.estimates.get(group))
            .execute(&mut *transaction)
            .await
            .map_err(StateError::during(DOING))?;
    }
    Ok(())
}

async fn move_ends(
    transaction: &mut Transaction,
    kind: UnitKind,
    pass: i32,
    changes: &ShardChanges,
) -> Result<()> {
    for group in pieces(changes.ends.len()) {
        sqlx::query(include_str!("queries/shard_move.sql"))
            .bind(kind.as_str())
            .bind(changes.sources.get(group.clone()))
            .bind(changes.shards.get(group.clone()))
            .bind(changes.histories.get(group.clone()))
            .bind(changes.ends.get(group.clone()))
            .bind(changes.restarted.get(group))
            .bind(pass)
            .execute(&mut *transaction)
            .await
            .map_err(StateError::during(DOING))?;
    }
    Ok(())
}
