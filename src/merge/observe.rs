//! What is so right now, gathered from Postgres and, where the phase needs it, from the destination.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::engine::Engine;
use super::error::MergeError;
use super::memo::{CutoverMemo, DestinationMemo, GraphMemo, Memo, VerdictMemo};
use super::phase::Phase;
use crate::elastic::Health;
use crate::state::{
    KindTotals, MergeRow, ShardRow, SourceDeletion, SourceId, SourceRow, SourceState, Totals, UnitKind,
};

/// Everything that the plan and the report are made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The stored phase.
    pub phase: Phase,
    /// The copy units.
    pub copy: Walk,
    /// The verify units.
    pub verify: Walk,
    /// Something was copied that no verify unit covers yet.
    pub verify_behind: bool,
    /// Something was copied since the deletions were last followed.
    pub keys_behind: bool,
    /// The deferred graph.
    pub graph: GraphMemo,
    /// The destination index.
    pub destination: DestinationSeen,
    /// The present attempt to cut over.
    pub cutover: CutoverMemo,
    /// The last judgement, if it belongs to the present attempt.
    pub verdict: Option<VerdictMemo>,
    /// An index that could not be read when the sources were last resolved, and why: for now, so it is waited for.
    pub unavailable: Option<String>,
    /// Workers have no alias to write through.
    pub workers_stopped: bool,
    /// Sources with a write block that we set.
    pub blocked_sources: u64,
    /// When the ends of the logs were last read for a pass.
    pub pass_taken_at: Option<Timestamp>,
    /// All operations before that moment are in the destination, also while the last pass is not copied.
    pub copied_until: Option<Timestamp>,
    /// The last `spec.retryToken` that was acted upon.
    pub retry_token: String,
    /// When `Completed` was entered.
    pub completed_at: Option<Timestamp>,
    /// When collections were last looked for that came after the verdict.
    pub newcomers_looked_at: Option<Timestamp>,
    /// What became of the source indices.
    pub deletion: DeletionSeen,
}

/// What became of the source indices since the merge is complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeletionSeen {
    /// Deleted by this merge.
    pub deleted: u64,
    /// Kept, because they are not what was verified.
    pub kept: u64,
    /// Deleted by somebody else.
    pub missing: u64,
    /// Not looked at yet.
    pub remaining: u64,
    /// The next of these: one whose deletion was begun, else the first.
    pub next: Option<SourceId>,
}

impl DeletionSeen {
    fn of(sources: &[SourceRow]) -> DeletionSeen {
        let mut seen = DeletionSeen::default();
        let mut first = None;
        for source in active(sources) {
            match &source.deletion {
                Some(SourceDeletion::Deleted) => seen.deleted += 1,
                Some(SourceDeletion::Kept(_)) => seen.kept += 1,
                Some(SourceDeletion::Missing) => seen.missing += 1,
                Some(SourceDeletion::Intended) => {
                    seen.remaining += 1;
                    seen.next.get_or_insert(source.id);
                }
                None => {
                    seen.remaining += 1;
                    first.get_or_insert(source.id);
                }
            }
        }
        seen.next = seen.next.or(first);
        seen
    }

    /// Whether any source index was looked at to be deleted.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.deleted + self.kept + self.missing > 0
    }
}

/// The units of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// Units that are not done, of sources that can be read.
    pub open: u64,
    /// Of those, the ones whose last attempt failed.
    pub failing: u64,
    /// The last error of a failing unit.
    pub last_error: Option<String>,
}

/// The destination as the plan needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationSeen {
    /// What was changed for the load has been put back.
    pub settled: bool,
    /// It was set back to an older state once, so that what it holds must be compared.
    pub was_set_back: bool,
    /// Every shard is assigned, and every replica that this cluster has a node for.
    pub serving: bool,
    /// Merges that run in the server.
    pub merges_running: u64,
}

impl Observation {
    /// How far the destination may be behind the sources, once the units of the last pass are done. Not known, and
    /// so the longest there is, before the first pass and when the clock was set back since the last one.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> Duration {
        since(self.pass_taken_at, now)
    }

    /// How far the destination may be behind the sources now: while units of the last pass are open, that one does not count.
    #[must_use]
    pub fn lag_now(&self, now: Timestamp) -> Duration {
        if self.copy.open > 0 { since(self.copied_until, now) } else { self.lag(now) }
    }
}

/// The time since that moment; the longest there is where it is not known, or lies ahead.
fn since(moment: Option<Timestamp>, now: Timestamp) -> Duration {
    let moment = moment.filter(|&moment| moment <= now);
    moment.map_or(Duration::MAX, |moment| super::elapsed(moment, now))
}

/// A merge of which nothing is done yet, for the tests of the plan.
#[cfg(test)]
pub(super) fn test_observation(graph: GraphMemo) -> Observation {
    Observation {
        phase: Phase::Pending,
        copy: Walk::default(),
        verify: Walk::default(),
        verify_behind: false,
        keys_behind: false,
        graph,
        destination: DestinationSeen { serving: true, ..DestinationSeen::default() },
        cutover: CutoverMemo::default(),
        verdict: None,
        unavailable: None,
        workers_stopped: false,
        blocked_sources: 0,
        pass_taken_at: None,
        copied_until: None,
        retry_token: String::new(),
        completed_at: None,
        newcomers_looked_at: None,
        deletion: DeletionSeen::default(),
    }
}

/// The rows behind an observation, kept for the report.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The merge.
    pub merge: MergeRow,
    /// Its memo, parsed.
    pub memo: Memo,
    /// Its sources.
    pub sources: Vec<SourceRow>,
    /// Sums over its units.
    pub totals: Totals,
    /// Chunks in quarantine, by collection and class.
    pub quarantine: BTreeMap<i64, BTreeMap<String, i64>>,
    /// Sources with open units of the walk that is under way.
    pub sources_open: u64,
}

impl Engine {
    /// Looks, changes nothing.
    pub(super) async fn observe(&self) -> Result<(Observation, Rows), MergeError> {
        let merge = self.merge_row().await?;
        let memo = parse_memo(&merge)?;
        let phase = Phase::parse(&merge.phase)
            .ok_or_else(|| MergeError::Internal(format!("the stored phase {:?} is unknown", merge.phase)))?;
        let (totals, sources, shards) = tokio::try_join!(
            self.state.totals(self.id),
            self.state.sources(self.id),
            self.state.shards(self.id),
        )?;
        let readable: BTreeSet<SourceId> = active(&sources).map(|source| source.id).collect();
        let any_shard = |is_behind: fn(&ShardRow) -> bool| {
            shards.iter().any(|shard| readable.contains(&shard.source) && is_behind(shard))
        };
        let destination = self.see_destination(phase, &memo).await?;
        let observation = Observation {
            phase,
            copy: walk(&totals.copy),
            verify: walk(&totals.verify),
            verify_behind: any_shard(is_verify_behind),
            keys_behind: any_shard(ShardRow::are_keys_behind),
            graph: memo.graph.clone(),
            destination,
            cutover: memo.cutover.clone(),
            verdict: memo.verdict.clone(),
            unavailable: memo.unavailable(),
            workers_stopped: memo.workers_stopped,
            blocked_sources: sources.iter().filter(|source| source.blocked_by_us).count() as u64,
            pass_taken_at: memo.pass_taken_at,
            copied_until: memo.copied_until,
            retry_token: merge.retry_token.clone(),
            completed_at: merge.completed_at,
            newcomers_looked_at: memo.newcomers.looked_at,
            deletion: DeletionSeen::of(&sources),
        };
        let kind = if observation.copy.open > 0 { UnitKind::Copy } else { UnitKind::Verify };
        let sources_open = self.state.open_sources(self.id, kind).await?.max(0).unsigned_abs();
        let quarantine = match totals.quarantined {
            0 => BTreeMap::new(),
            _ => self.state.quarantine_counts(self.id).await?,
        };
        Ok((observation, Rows { merge, memo, sources, totals, quarantine, sources_open }))
    }

    async fn see_destination(&self, phase: Phase, memo: &Memo) -> Result<DestinationSeen, MergeError> {
        let is_so = |what: fn(&DestinationMemo) -> bool| memo.destination.as_ref().is_some_and(what);
        let settled = is_so(|destination| destination.settled);
        let was_set_back = is_so(|destination| destination.was_set_back);
        if phase != Phase::Indexing {
            return Ok(DestinationSeen { settled, was_set_back, serving: true, merges_running: 0 });
        }
        let name = &self.merge.destination.index;
        let merges_running = match memo.graph {
            GraphMemo::Switched { .. } => {
                self.destination.merges_running(name).await.map_err(MergeError::Destination)?
            }
            GraphMemo::Direct | GraphMemo::Loading | GraphMemo::Built => 0,
        };
        let serving = settled && self.is_serving().await?;
        Ok(DestinationSeen { settled, was_set_back, serving, merges_running })
    }

    /// Green; or yellow where the wanted replicas cannot be assigned for lack of nodes, which waiting would not mend.
    async fn is_serving(&self) -> Result<bool, MergeError> {
        let health =
            self.destination.health(&self.merge.destination.index).await.map_err(MergeError::Destination)?;
        let too_few_nodes = health.data_nodes <= u64::from(self.merge.destination.replicas);
        Ok(match health.status {
            Health::Green => true,
            Health::Yellow => too_few_nodes,
            Health::Red => false,
        })
    }
}

/// The memo in a merge's row; an empty one for a new merge.
pub(super) fn parse_memo(row: &MergeRow) -> Result<Memo, MergeError> {
    Memo::parse(row.memo.clone())
}

fn is_verify_behind(shard: &ShardRow) -> bool {
    shard.verify_planned_to < shard.copy_planned_to
}

fn walk(totals: &KindTotals) -> Walk {
    Walk {
        open: totals.open.try_into().unwrap_or(0),
        failing: totals.failing.try_into().unwrap_or(0),
        last_error: totals.last_error.clone(),
    }
}

/// Sources that are copied and judged.
pub(super) fn active(sources: &[SourceRow]) -> impl Iterator<Item = &SourceRow> {
    sources.iter().filter(|source| source.state == SourceState::Active)
}
