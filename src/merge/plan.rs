//! What to do next, decided purely: `(spec, what is seen, now)` in, a list of actions out.
//!
//! The whole walk of a merge can be read here, phase by phase. Nothing in this file does I/O, and
//! nothing outside it decides. Every action is idempotent and leaves its trace in what is seen next
//! time, so a crash between two actions only means that the plan is made again:
//!
//! 1. A phase is entered by the *last* action of a list. Until then the whole list is repeated.
//! 2. `PlanPass(Copy)` reads the shard logs' ends and stores units up to them; `PlanPass(Verify)` stores
//!    units for what has been copied but not yet compared. Units are worked on by `RunWorkers`.
//! 3. The plan makes progress: with no open units and unchanged sources each phase leads to the next
//!    (see the property tests), and only `CuttingOver` and a retry lead back.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::memo::GraphMemo;
use super::observe::Observation;
use super::phase::Phase;
use super::valid::{SourceWrites, ValidMerge, Verification};
use crate::state::{SourceId, UnitKind};

/// What to do now, and when to look again.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In this order; the first that fails ends the step, and so does one that finds that the rest must not be done.
    pub actions: Vec<Action>,
    /// When the next step is due.
    pub next: Next,
    /// Set when the merge cannot go on by itself right now.
    pub waiting: Option<Waiting>,
}

/// One idempotent, time-limited act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Create the destination, or adopt it, with the settings for the load.
    PrepareDestination,
    /// Collections of Postgres x indices of Elasticsearch -> sources; those that are gone are purged.
    ResolveSources,
    /// Copy: ends of the logs, refresh, units up to them. Verify: refresh, units for what was copied.
    PlanPass(UnitKind),
    /// Let workers take units of that kind.
    RunWorkers(UnitKind),
    /// Workers stop at their next checkpoint.
    RestWorkers,
    /// The wanted index options into the mapping; marks for the segments that are still flat.
    SwitchIndexOptions,
    /// Have the segments at or below the marks rewritten.
    RewriteSegments,
    /// Put back what was changed for the load.
    SettleDestination,
    /// Open an attempt to cut over.
    BeginCutover,
    /// Give workers the alias back through which they write, which an earlier attempt took away.
    LetWorkersWrite,
    /// Set the write block on every source.
    BlockSources,
    /// Last pass: shards must be drained (max = local = global), then as `PlanPass(Copy)`.
    PlanLastPass,
    /// Look where chunks were deleted since the last time; there compare the keys and delete what is too much.
    FollowDeletions,
    /// Compare the counts of both sides; where they differ compare the keys and delete what is too much.
    ReconcileKeys,
    /// Judge every collection, store the verdict.
    Judge,
    /// End the attempt: blocks that we set come off, with the reason.
    AbandonCutover(String),
    /// Lift the blocks that we set.
    UnblockSources,
    /// Our own alias and settings away, aliases asked for; ends the list if there has to be another verdict or attempt first.
    Finish,
    /// After the end: look for collections that came after the verdict. Changes nothing but what is told.
    LookForNewcomers,
    /// A new `spec.retryToken`: what failed is tried again at once, chunks in quarantine are compared once more.
    Retry,
    /// Look at one source index of a complete merge; delete it if it still is what was verified, else keep it.
    DeleteSource(SourceId),
    /// A new `spec.retryToken` after the end: source indices that were kept are looked at again.
    ReconsiderKept,
    /// Compare-and-set of the stored phase.
    Enter(Phase),
}

impl Action {
    /// Whether it plans, writes or deletes, or has others do it, under versions that begin with the number of the pass, or makes
    /// the destination fit for that.
    #[must_use]
    pub fn goes_by_passes(&self) -> bool {
        matches!(
            self,
            Action::ResolveSources
                | Action::PlanPass(_)
                | Action::RunWorkers(_)
                | Action::PlanLastPass
                | Action::FollowDeletions
                | Action::ReconcileKeys
                | Action::Retry
                | Action::SwitchIndexOptions
                | Action::RewriteSegments
                | Action::SettleDestination
                | Action::LetWorkersWrite
        )
    }

    /// False for what only lets workers go or rest.
    #[must_use]
    pub fn changes_what_is_seen(&self) -> bool {
        !matches!(self, Action::RunWorkers(_) | Action::RestWorkers)
    }
}

/// When to make the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Now,
    /// After this time, when the workers report, or at once if what the actions changed asks for others.
    After(Duration),
    /// Not before the spec changes.
    Settled,
}

/// Why a merge does not go on by itself: a value, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// One of a bounded set, CamelCase.
    pub reason: &'static str,
    /// A sentence for a person, without counters or times.
    pub message: String,
}

/// The reason of waiting where every open unit has failed and is tried again.
pub const UNITS_FAILING: &str = "UnitsFailing";

/// How often a step looks at workers that are busy: they wake the engine when they are done.
const WORKING: Duration = Duration::from_secs(5);
/// How often a server that works by itself (merging, allocating) is asked.
const SERVER_BUSY: Duration = Duration::from_millis(250);
/// How often a process that only helps looks whether it is to decide.
const HELPING: Duration = Duration::from_secs(1);
/// How often drained shards are looked for: writers are refused meanwhile.
const DRAINING: Duration = Duration::from_millis(100);

/// The least pause between two looks for collections that came after the verdict.
const NEWCOMERS_EVERY: Duration = Duration::from_mins(5);

/// The longest pause between two attempts to cut over.
pub(super) const CUTOVER_RETRY_MAX: Duration = Duration::from_mins(30);

/// The next actions of a merge. Total: every observation has a plan.
#[must_use]
pub fn plan(spec: &ValidMerge, seen: &Observation, now: Timestamp) -> Plan {
    if seen.phase == Phase::CuttingOver && seen.cutover.handed_over {
        return finish();
    }
    if spec.suspend && !matches!(seen.phase, Phase::Completed | Phase::Failed) {
        return suspend(seen);
    }
    if spec.retry_token != seen.retry_token && !matches!(seen.phase, Phase::Failed | Phase::Completed) {
        return go(vec![Action::Retry]);
    }
    match seen.phase {
        Phase::Pending | Phase::Suspended => go(vec![Action::Enter(Phase::Preparing)]),
        Phase::Preparing => go(vec![
            Action::PrepareDestination,
            Action::ResolveSources,
            Action::PlanPass(UnitKind::Copy),
            Action::Enter(Phase::Copying),
        ]),
        Phase::Copying => copying(spec, seen, now),
        Phase::Indexing => indexing(spec, seen),
        Phase::Verifying => verifying(spec, seen, now),
        Phase::Synced => synced(spec, seen, now),
        Phase::CuttingOver => cutting_over(spec, seen, now),
        Phase::Completed => completed(spec, seen, now),
        Phase::Failed => failed(spec, seen),
    }
}

/// What a process does while another one decides for the merge: its workers help, and it looks again soon.
#[must_use]
pub fn help(spec: &ValidMerge, seen: &Observation) -> Plan {
    let is_moving = matches!(
        seen.phase,
        Phase::Copying | Phase::Indexing | Phase::Verifying | Phase::Synced | Phase::CuttingOver
    );
    let action = if spec.suspend || !is_moving {
        Action::RestWorkers
    } else if seen.copy.open > 0 {
        Action::RunWorkers(UnitKind::Copy)
    } else if seen.verify.open > 0 {
        Action::RunWorkers(UnitKind::Verify)
    } else {
        return poll(HELPING);
    };
    Plan { actions: vec![action], ..poll(HELPING) }
}

/// Nothing is held while suspended: an attempt to cut over is given up, so that writers are served again.
fn suspend(seen: &Observation) -> Plan {
    let mut actions = vec![Action::RestWorkers];
    if seen.phase != Phase::CuttingOver && seen.blocked_sources > 0 {
        actions.push(Action::UnblockSources);
    }
    if seen.phase == Phase::CuttingOver {
        actions.push(Action::AbandonCutover("the merge was suspended".to_owned()));
        actions.push(Action::Enter(Phase::Synced));
    }
    Plan { actions, next: Next::Settled, waiting: None }
}

/// The base pass; when it is done the catch-up pass is planned on the way out, unless the base pass is young.
fn copying(spec: &ValidMerge, seen: &Observation, now: Timestamp) -> Plan {
    if seen.copy.open > 0 {
        return work(UnitKind::Copy, seen);
    }
    if seen.lag(now) <= pace(spec) {
        return go(vec![Action::Enter(Phase::Indexing)]);
    }
    go(vec![Action::ResolveSources, Action::PlanPass(UnitKind::Copy), Action::Enter(Phase::Indexing)])
}

/// Catch-up first, so that the graph is built once over nearly everything; then the graph, then the
/// settings of service, then green.
fn indexing(spec: &ValidMerge, seen: &Observation) -> Plan {
    if seen.copy.open > 0 {
        return work(UnitKind::Copy, seen);
    }
    match &seen.graph {
        GraphMemo::Loading => return go(vec![Action::RestWorkers, Action::SwitchIndexOptions]),
        GraphMemo::Switched { .. } if seen.destination.merges_running > 0 => return poll(SERVER_BUSY),
        GraphMemo::Switched { rounds: 0, .. } => return go(vec![Action::RewriteSegments]),
        GraphMemo::Switched { .. } => {
            return Plan { next: Next::After(SERVER_BUSY), ..go(vec![Action::RewriteSegments]) };
        }
        GraphMemo::Direct | GraphMemo::Built => {}
    }
    if !seen.destination.settled {
        return go(vec![Action::SettleDestination]);
    }
    if !seen.destination.serving {
        let message = "waits until every shard and replica of the destination is assigned".to_owned();
        return because(Waiting { reason: "DestinationNotGreen", message }, poll(SERVER_BUSY));
    }
    match spec.verification {
        Verification::Full => go(vec![Action::PlanPass(UnitKind::Verify), Action::Enter(Phase::Verifying)]),
        Verification::Counts => go(vec![Action::Enter(Phase::Verifying)]),
    }
}

/// The walk over everything that was copied so far.
fn verifying(spec: &ValidMerge, seen: &Observation, now: Timestamp) -> Plan {
    if seen.verify.open > 0 {
        return work(UnitKind::Verify, seen);
    }
    if seen.lag(now) <= pace(spec) {
        // Not without a look at which sources there are: no writer is refused for the sake of one that cannot be read.
        return go(vec![Action::ResolveSources, Action::Enter(Phase::Synced)]);
    }
    go(vec![Action::ResolveSources, Action::PlanPass(UnitKind::Copy), Action::Enter(Phase::Synced)])
}

/// Passes repeat, each copied and compared, until the lag is small and nobody holds the cutover.
fn synced(spec: &ValidMerge, seen: &Observation, now: Timestamp) -> Plan {
    if seen.blocked_sources > 0 {
        // Left by a process that was stopped in the middle of an attempt and went on after it was given up.
        return go(vec![Action::UnblockSources]);
    }
    if !seen.destination.settled {
        // It was set back to a state of the load.
        return go(vec![Action::Enter(Phase::Indexing)]);
    }
    let lag = seen.lag(now);
    // Further away than any pause: the clock was set back since.
    let is_ahead = |retry_at: Timestamp| retry_at > now && super::elapsed(now, retry_at) <= CUTOVER_RETRY_MAX;
    // Whoever led back here from a negative verdict asked for another one, and does not wait for it.
    let is_pausing = !is_negative(seen) && seen.cutover.retry_at.is_some_and(is_ahead);
    let held_up = if spec.cutover.hold {
        let message = "follows the sources until spec.cutover.hold is false".to_owned();
        Some(Waiting { reason: "CutoverHeld", message })
    } else if is_pausing {
        let reason = seen.cutover.last_failure.as_deref().unwrap_or_default();
        let message = format!("the cutover is tried again: {reason}");
        Some(Waiting { reason: "CutoverRetrying", message })
    } else {
        // No writer is refused for the sake of an index that could not be judged.
        seen.unavailable.as_deref().map(index_unavailable)
    };
    let is_late = lag > spec.cutover.max_lag;
    if let Some(unfinished) = finish_pass(spec, seen) {
        return match held_up {
            Some(why) => because(why, unfinished),
            None if is_late => catching_up(spec, unfinished),
            None => unfinished,
        };
    }
    let next_pass = go(vec![Action::ResolveSources, Action::PlanPass(UnitKind::Copy)]);
    let pace = pace(spec);
    match held_up {
        Some(why) if lag >= pace => because(why, next_pass),
        Some(why) => because(why, poll(pace.saturating_sub(lag))),
        None if is_late => next_pass,
        None => go(vec![Action::BeginCutover, Action::Enter(Phase::CuttingOver)]),
    }
}

/// How far the destination may be behind before it is worth another pass.
fn pace(spec: &ValidMerge) -> Duration {
    (spec.cutover.max_lag / 3).clamp(Duration::from_secs(1), Duration::from_secs(30))
}

/// A pass that takes longer than the cutover allows: the next one is shorter, unless the sources are written to faster
/// than they are followed. Then it must be said.
fn catching_up(spec: &ValidMerge, pass: Plan) -> Plan {
    if pass.next == Next::Now {
        return pass;
    }
    let message = format!(
        "the cutover comes after a pass that takes less than spec.cutover.maxLag ({} s); if none does, raise it, or \
         spec.workers.maxDocumentsPerSecond or concurrency",
        spec.cutover.max_lag.as_secs()
    );
    because(Waiting { reason: "CatchingUp", message }, pass)
}

fn index_unavailable(which: &str) -> Waiting {
    let remedy =
        "look at the health of the source cluster, or put the collection into spec.collections.exclude";
    Waiting { reason: "IndexUnavailable", message: format!("the cutover waits: {which}; {remedy}") }
}

/// A transaction: blocked, drained, last pass, compared, judged - or the blocks come off again.
fn cutting_over(spec: &ValidMerge, seen: &Observation, now: Timestamp) -> Plan {
    let cutover = &seen.cutover;
    let Some(started_at) = cutover.started_at else {
        // Given up by a process that died before it left the phase: nothing is blocked without an attempt, as only an
        // attempt has a time-out.
        return go(vec![Action::Enter(if is_negative(seen) { Phase::Failed } else { Phase::Synced })]);
    };
    if !is_negative(seen) && is_overdue(started_at, spec.cutover.timeout, now) {
        let mut reason =
            format!("not done within spec.cutover.timeout ({} s)", spec.cutover.timeout.as_secs());
        if let Some(unavailable) = &seen.unavailable {
            reason.push_str(": ");
            reason.push_str(unavailable);
        }
        return go(vec![Action::RestWorkers, Action::AbandonCutover(reason), Action::Enter(Phase::Synced)]);
    }
    if !seen.destination.settled {
        let reason =
            "the destination was set back to a state of its load, and has to be made fit for service again";
        let abandon = Action::AbandonCutover(reason.to_owned());
        return go(vec![Action::RestWorkers, abandon, Action::Enter(Phase::Synced)]);
    }
    if !cutover.blocked && spec.cutover.source_writes == SourceWrites::Block {
        return go(vec![Action::ResolveSources, Action::BlockSources]);
    }
    if !cutover.last_pass_planned {
        return Plan { next: Next::After(DRAINING), ..go(vec![Action::PlanLastPass]) };
    }
    if let Some(unfinished) = finish_pass(spec, seen) {
        return unfinished;
    }
    if !cutover.keys_reconciled {
        let reconcile = vec![Action::ReconcileKeys];
        let Some(unavailable) = &seen.unavailable else { return go(reconcile) };
        // Made a moment ago, or its node restarts: a verdict without it would be negative for nothing. It is looked
        // for each time.
        return because(index_unavailable(unavailable), Plan { actions: reconcile, ..poll(SERVER_BUSY) });
    }
    match &seen.verdict {
        None => go(vec![Action::Judge]),
        Some(verdict) if verdict.positive => finish(),
        Some(verdict) => {
            go(vec![Action::AbandonCutover(verdict.message.clone()), Action::Enter(Phase::Failed)])
        }
    }
}

/// Whether an attempt to cut over took too long. Also when it began far in the future: then the clock was set back, and
/// nobody knows how long writers waited.
pub(super) fn is_overdue(started_at: Timestamp, timeout: Duration, now: Timestamp) -> bool {
    super::apart(started_at, now) > timeout
}

/// Whether the last judgement is against the merge.
fn is_negative(seen: &Observation) -> bool {
    seen.verdict.as_ref().is_some_and(|verdict| !verdict.positive)
}

fn finish() -> Plan {
    go(vec![Action::Finish, Action::Enter(Phase::Completed)])
}

/// Whether something of the present pass is left to be done.
pub(super) fn is_unfinished(spec: &ValidMerge, seen: &Observation) -> bool {
    finish_pass(spec, seen).is_some()
}

/// Copy what is planned, compare what is copied, delete what was deleted.
fn finish_pass(spec: &ValidMerge, seen: &Observation) -> Option<Plan> {
    if seen.copy.open > 0 {
        return Some(work(UnitKind::Copy, seen));
    }
    if seen.verify_behind && (spec.verification == Verification::Full || seen.destination.was_set_back) {
        return Some(go(vec![Action::PlanPass(UnitKind::Verify)]));
    }
    if seen.verify.open > 0 {
        return Some(work(UnitKind::Verify, seen));
    }
    seen.keys_behind.then(|| writing(seen, go(vec![Action::FollowDeletions])))
}

/// The end. What is left is the way back for the sources, a look at what came later, and, after some time, the deletion of
/// the sources.
fn completed(spec: &ValidMerge, seen: &Observation, now: Timestamp) -> Plan {
    let mut actions = vec![Action::RestWorkers];
    if spec.cutover.source_writes == SourceWrites::Allow && seen.blocked_sources > 0 {
        actions.push(Action::UnblockSources);
    }
    if is_look_due(spec, seen, now) {
        actions.push(Action::LookForNewcomers);
    }
    let Some(from) = sources_deleted_from(spec, seen) else {
        return Plan { actions, next: Next::Settled, waiting: None };
    };
    if spec.retry_token != seen.retry_token {
        actions.push(Action::ReconsiderKept);
        return go(actions);
    }
    match seen.deletion.next {
        None => Plan { actions, next: Next::Settled, waiting: None },
        Some(_) if now < from => Plan { actions, ..poll(super::elapsed(now, from)) },
        Some(source) => {
            // One in a step: the spec is read anew before the next.
            actions.push(Action::DeleteSource(source));
            go(actions)
        }
    }
}

/// Whether collections are to be looked for that came after the verdict. Nobody makes a step, or connects, for that alone: the
/// servers may be gone by then.
fn is_look_due(spec: &ValidMerge, seen: &Observation, now: Timestamp) -> bool {
    // One that lies ahead was made before the clock was set back.
    let is_recent = |looked_at| looked_at <= now && super::elapsed(looked_at, now) < NEWCOMERS_EVERY;
    !spec.suspend && !seen.newcomers_looked_at.is_some_and(is_recent)
}

/// From when on the source indices are deleted; `None`: they are not, as things are.
///
/// Never without the verdict, never where writes were allowed again, and not while the merge is suspended.
pub(super) fn sources_deleted_from(spec: &ValidMerge, seen: &Observation) -> Option<Timestamp> {
    let retain_for = spec.cutover.delete_sources_after?;
    let is_verified =
        seen.phase == Phase::Completed && seen.verdict.as_ref().is_some_and(|verdict| verdict.positive);
    let are_blocked = spec.cutover.source_writes == SourceWrites::Block;
    if !is_verified || !are_blocked || spec.suspend {
        return None;
    }
    seen.completed_at?.checked_add(SignedDuration::try_from(retain_for).ok()?).ok()
}

/// A negative verdict stands until what it was based on changes, or somebody asked for a comparison. Where there is none (a
/// process that was paused cleared it) there has to be another.
fn failed(spec: &ValidMerge, seen: &Observation) -> Plan {
    if seen.blocked_sources > 0 {
        return go(vec![Action::UnblockSources]);
    }
    let basis = spec.verdict_basis();
    let has_changed = seen.verdict.as_ref().is_none_or(|verdict| verdict.basis != basis);
    if !has_changed && seen.verify.open == 0 {
        return Plan { actions: vec![Action::RestWorkers], next: Next::Settled, waiting: None };
    }
    let mut actions = Vec::new();
    if spec.retry_token != seen.retry_token {
        actions.push(Action::Retry);
    }
    actions.extend([Action::ResolveSources, Action::PlanPass(UnitKind::Copy), Action::Enter(Phase::Synced)]);
    go(actions)
}

/// Workers are let go at open units; they wake the engine when none is left.
fn work(kind: UnitKind, seen: &Observation) -> Plan {
    let walk = match kind {
        UnitKind::Copy => &seen.copy,
        UnitKind::Verify => &seen.verify,
    };
    let all_fail = walk.failing > 0 && walk.failing == walk.open;
    let mut actions = vec![Action::RunWorkers(kind)];
    if all_fail {
        // Their index may be closed or gone: then they are set aside, and nobody waits for them.
        actions.insert(0, Action::ResolveSources);
    }
    let waiting = all_fail.then(|| Waiting {
        reason: UNITS_FAILING,
        message: format!(
            "every open unit failed and is retried with backoff: {}",
            walk.last_error.as_deref().unwrap_or("no error was stored")
        ),
    });
    writing(seen, Plan { actions, next: Next::After(WORKING), waiting })
}

/// What writes to the destination, once it may.
fn writing(seen: &Observation, plan: Plan) -> Plan {
    if seen.workers_stopped { go(vec![Action::LetWorkersWrite]) } else { plan }
}

fn go(actions: Vec<Action>) -> Plan {
    Plan { actions, next: Next::Now, waiting: None }
}

fn poll(after: Duration) -> Plan {
    Plan { actions: Vec::new(), next: Next::After(after), waiting: None }
}

/// The plan, with why it does not lead further; what it says itself is nearer.
fn because(why: Waiting, plan: Plan) -> Plan {
    Plan { waiting: plan.waiting.or(Some(why)), ..plan }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "plan_deletion_tests.rs"]
mod deletion_tests;

#[cfg(test)]
#[path = "plan_newcomers_tests.rs"]
mod newcomers_tests;
