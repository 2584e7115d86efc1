//! Checkpoints: the only place where progress is written.
//!
//! One transaction: lock the units, move the cursors of those whose id, epoch and cursor match, add their
//! counts, and write quarantine rows and cuts for exactly those. Six statements at most, whatever their number.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::types::Json;

use super::invariants::{self, Judgement, UnitFacts};
use super::quarantine::write_quarantine;
use super::{MergeId, Quarantined, Result, SourceId, State, StateError, UnitId};
use crate::postgres::Transaction;

const DOING: &str = "checkpointing";

/// A unit went from `from` to `to`: everything in between is acknowledged or in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The unit.
    pub unit: UnitId,
    /// The epoch of the lease.
    pub epoch: i64,
    /// The cursor it had.
    pub from: i64,
    /// The cursor it gets (exclusive end of what is done).
    pub to: i64,
    /// What happened in between.
    pub counts: Counts,
}

/// What happened in one or many windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunks read.
    pub documents: i64,
    /// Bytes of the answers read.
    pub bytes_read: i64,
    /// Bytes of the bulk bodies sent.
    pub bytes_written: i64,
    /// Chunks that the destination took.
    pub written: i64,
    /// Chunks that the destination had already.
    pub already_there: i64,
    /// Chunks whose key another chunk of the collection has too.
    pub collapsed: i64,
    /// Chunks put into quarantine.
    pub quarantined: i64,
    /// Chunks compared with the destination.
    pub compared: i64,
    /// Of these: different, and still so after repair.
    pub different: i64,
    /// Of these: different at first, written again.
    pub repaired: i64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.documents += other.documents;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.written += other.written;
        self.already_there += other.already_there;
        self.collapsed += other.collapsed;
        self.quarantined += other.quarantined;
        self.compared += other.compared;
        self.different += other.different;
        self.repaired += other.repaired;
    }
}

/// What was cut from chunks of a window because the contract's readers would refuse it: reason and number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceCuts {
    /// The unit that the window belongs to.
    pub unit: UnitId,
    /// Its source.
    pub source: SourceId,
    /// How often, by reason.
    pub cuts: BTreeMap<String, i64>,
}

impl State {
    /// Stores what was done, in one transaction, and returns the units for which it was accepted. A unit that is
    /// missing there was lost to another worker (or closed): stop working on it; nothing of it was stored, its
    /// quarantine rows and cuts neither. Several advances of one unit must continue each other.
    ///
    /// After an error nothing is stored, or (if the answer to the commit was lost) everything: call again with
    /// the same arguments, an advance stored before is recognised, told accepted and not counted twice.
    ///
    /// It does not wait for Postgres's disk, which the servers keep busy: if its machine loses the last moments, they
    /// are copied again, which changes nothing.
    pub async fn checkpoint(
        &self,
        merge: MergeId,
        advances: &[Advance],
        quarantined: &[Quarantined],
        cuts: &[SourceCuts],
    ) -> Result<HashSet<UnitId>> {
        if advances.is_empty() {
            return Ok(HashSet::new());
        }
        let advances = checked(advances)?;
        let during = StateError::during(DOING);
        let mut transaction = self.begin_relaxed(DOING).await?;
        let units = lock(&mut transaction, merge, &advances).await?;
        let moved = advance(&mut transaction, merge, &advances).await?;
        debug_assert_eq!(moved, accepted_by_rule(&units, &advances), "the statement and the rule differ");
        let of_moved = |unit: UnitId| moved.contains(&unit);
        forget_what_was_said_before(&mut transaction, &units, advances.iter().filter(|a| of_moved(a.unit)))
            .await?;
        write_quarantine(&mut transaction, merge, quarantined.iter().filter(|row| of_moved(row.unit)))
            .await?;
        write_cuts(&mut transaction, &units, cuts.iter().filter(|row| of_moved(row.unit))).await?;
        transaction.commit().await.map_err(&during)?;
        let mut accepted = moved;
        accepted.extend(repeated(&units, &advances));
        Ok(accepted)
    }
}

fn checked(advances: &[Advance]) -> Result<Vec<Advance>> {
    let forward = advances.iter().all(|advance| advance.from < advance.to);
    let countable = advances.iter().all(|advance| invariants::is_countable(&advance.counts));
    if !forward || !countable {
        return Err(StateError::argument(DOING, "an advance goes backwards or has negative counts"));
    }
    invariants::coalesce(advances)
        .ok_or_else(|| StateError::argument(DOING, "two advances of one unit do not continue each other"))
}

struct Locked {
    facts: UnitFacts,
    /// Another walk went over its range before.
    is_second_walk: bool,
    cuts: Option<BTreeMap<String, i64>>,
}

type LockedRow = (UnitId, i64, i64, i64, i64, bool, bool, bool, Option<Json<BTreeMap<String, i64>>>);

/// Locks in the order of ids, so that two checkpoints never wait for each other in a circle.
async fn lock(
    transaction: &mut Transaction,
    merge: MergeId,
    advances: &[Advance],
) -> Result<HashMap<UnitId, Locked>> {
    let ids: Vec<UnitId> = advances.iter().map(|advance| advance.unit).collect();
    let rows: Vec<LockedRow> = sqlx::query_as(include_str!("queries/unit_lock.sql"))
        .bind(merge)
        .bind(ids)
        .fetch_all(transaction)
        .await
        .map_err(StateError::during(DOING))?;
    Ok(rows
        .into_iter()
        .map(|(id, from, to, cursor, epoch, open, leased, is_second_walk, cuts)| {
            let facts = UnitFacts { from, to, cursor, epoch, open, leased };
            debug_assert!(invariants::is_sound(&facts), "{facts:?}");
            (id, Locked { facts, is_second_walk, cuts: cuts.map(|Json(map)| map) })
        })
        .collect())
}

/// Moves the cursors; the statement repeats the whole rule.
async fn advance(
    transaction: &mut Transaction,
    merge: MergeId,
    advances: &[Advance],
) -> Result<HashSet<UnitId>> {
    let column = |get: fn(&Advance) -> i64| advances.iter().map(get).collect::<Vec<i64>>();
    let moved: Vec<UnitId> = sqlx::query_scalar(include_str!("queries/unit_advance.sql"))
        .bind(merge)
        .bind(column(|advance| advance.unit))
        .bind(column(|advance| advance.epoch))
        .bind(column(|advance| advance.from))
        .bind(column(|advance| advance.to))
        .bind(column(|advance| advance.counts.documents))
        .bind(column(|advance| advance.counts.bytes_read))
        .bind(column(|advance| advance.counts.bytes_written))
        .bind(column(|advance| advance.counts.written))
        .bind(column(|advance| advance.counts.already_there))
        .bind(column(|advance| advance.counts.collapsed))
        .bind(column(|advance| advance.counts.quarantined))
        .bind(column(|advance| advance.counts.compared))
        .bind(column(|advance| advance.counts.different))
        .bind(column(|advance| advance.counts.repaired))
        .fetch_all(transaction)
        .await
        .map_err(StateError::during(DOING))?;
    Ok(moved.into_iter().collect())
}

/// What is in quarantine is what the last walk over a window put there: a chunk that went over meanwhile leaves it.
async fn forget_what_was_said_before(
    transaction: &mut Transaction,
    units: &HashMap<UnitId, Locked>,
    moved: impl Iterator<Item = &Advance>,
) -> Result<()> {
    let again: Vec<&Advance> =
        moved.filter(|advance| units.get(&advance.unit).is_some_and(|unit| unit.is_second_walk)).collect();
    if again.is_empty() {
        return Ok(());
    }
    sqlx::query(include_str!("queries/quarantine_rewalked.sql"))
        .bind(again.iter().map(|advance| advance.unit).collect::<Vec<_>>())
        .bind(again.iter().map(|advance| advance.from).collect::<Vec<_>>())
        .bind(again.iter().map(|advance| advance.to).collect::<Vec<_>>())
        .execute(transaction)
        .await
        .map(|_| ())
        .map_err(StateError::during(DOING))
}

/// Adds the cuts to those the (locked) units have.
async fn write_cuts(
    transaction: &mut Transaction,
    units: &HashMap<UnitId, Locked>,
    cuts: impl Iterator<Item = &SourceCuts>,
) -> Result<()> {
    let mut sums: BTreeMap<UnitId, BTreeMap<String, i64>> = BTreeMap::new();
    for row in cuts.filter(|row| !row.cuts.is_empty()) {
        let sum = sums
            .entry(row.unit)
            .or_insert_with(|| units.get(&row.unit).and_then(|unit| unit.cuts.clone()).unwrap_or_default());
        for (reason, number) in &row.cuts {
            *sum.entry(reason.clone()).or_default() += number;
        }
    }
    if sums.is_empty() {
        return Ok(());
    }
    let ids: Vec<UnitId> = sums.keys().copied().collect();
    let values: Vec<Json<BTreeMap<String, i64>>> = sums.into_values().map(Json).collect();
    sqlx::query(include_str!("queries/unit_cuts.sql"))
        .bind(ids)
        .bind(values)
        .execute(transaction)
        .await
        .map(|_| ())
        .map_err(StateError::during(DOING))
}

fn accepted_by_rule(units: &HashMap<UnitId, Locked>, advances: &[Advance]) -> HashSet<UnitId> {
    judged(units, advances, |judgement| matches!(judgement, Judgement::Accepted { .. }))
}

fn repeated(units: &HashMap<UnitId, Locked>, advances: &[Advance]) -> HashSet<UnitId> {
    judged(units, advances, |judgement| judgement == Judgement::Repeated)
}

fn judged(
    units: &HashMap<UnitId, Locked>,
    advances: &[Advance],
    wanted: fn(Judgement) -> bool,
) -> HashSet<UnitId> {
    advances
        .iter()
        .filter(|advance| {
            units.get(&advance.unit).is_some_and(|unit| wanted(invariants::judge(&unit.facts, advance)))
        })
        .map(|advance| advance.unit)
        .collect()
}
