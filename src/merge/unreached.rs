//! What is done for writers while not everything can be reached that a merge needs, or nobody goes on with it.
//!
//! A destination that is down keeps an engine from being connected, and with it from ending what it began; one that is
//! lost, a process that ends and a spec that is refused leave nobody to end it. But nobody may be refused for ever: the
//! state and the source are enough to lift write blocks, and so is the part of a spec that leads to them.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::act;
use super::engine::{Engine, STEP_LEASE, lose_step};
use super::error::MergeError;
use super::observe::parse_memo;
use super::phase::Phase;
use super::plan::is_overdue;
use super::preflight;
use super::secrets::{self, SecretSource, Secrets};
use super::valid::{SourceAndState, SourceWrites, ValidMerge};
use crate::api::EsIndexMergeSpec;
use crate::elastic::Cluster;
use crate::state::{MergeId, MergeRow, State};

/// The pause between two looks at the lease for a step.
const LOOK: Duration = Duration::from_millis(250);
/// How long another process is looked for that goes on: they pause for five seconds at most while a cutover is under way.
const OTHERS: Duration = Duration::from_secs(7);

/// Why writers are not to be refused any more.
#[derive(Debug, PartialEq, Eq)]
enum Reason {
    /// The merge is complete, and `sourceWrites: Allow` asks for the way back.
    WayBack,
    /// An attempt to cut over is to be given up.
    Cutover,
    /// No attempt is under way: what an earlier one left comes off.
    LeftOver,
}

/// What holds for writers.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// How long an attempt to cut over may take; `None`: nobody goes on with it, so it is given up.
    timeout: Option<Duration>,
    /// Whether those of a complete merge are refused.
    source_writes: SourceWrites,
}

impl Terms {
    /// Those of a spec that is refused: what it says of a complete merge is not believed.
    const REFUSED: Terms = Terms { timeout: None, source_writes: SourceWrites::Block };

    /// Those of the spec.
    fn of(merge: &ValidMerge) -> Terms {
        let timeout = (!merge.suspend).then_some(merge.cutover.timeout);
        Terms { timeout, source_writes: merge.cutover.source_writes }
    }

    /// Those of the spec, for a process that does not go on with the merge.
    fn left_alone(engine: &Engine) -> Terms {
        Terms { timeout: None, ..Terms::of(&engine.spec()) }
    }
}

/// Lifts the blocks of a complete merge that is asked to go back, and those that an attempt left which is over; gives one up
/// that took too long or is suspended.
pub(super) async fn serve_writers(
    merge: &ValidMerge,
    secrets: &Secrets,
    process: &str,
    now: Timestamp,
) -> Result<(), MergeError> {
    let state = State::connect(&secrets.state, &merge.state_schema).await?;
    let Some(row) = state.merge_of(&merge.owner, &merge.identity()).await? else { return Ok(()) };
    let terms = Terms::of(merge);
    if !are_to_be_served(&state, terms, &row, now).await? {
        return Ok(());
    }
    let source = preflight::source(merge, secrets).await.map_err(MergeError::Source)?;
    if !state.take_step(row.id, process, STEP_LEASE).await? {
        // Somebody who reaches everything decides.
        return Ok(());
    }
    let why = "not everything that it needs can be reached";
    let service = Service { terms, state: &state, source: &source, id: row.id, process, why, now };
    service.with_lease().await.map(drop)
}

/// The same for a merge that this process does not go on with, as if it were suspended: nothing is held then. True if anything
/// was to be done and is.
pub(super) async fn give_up(engine: &Engine, why: &str, now: Timestamp) -> Result<bool, MergeError> {
    let Engine { state, source, id, process, .. } = engine;
    let terms = Terms::left_alone(engine);
    Service { terms, state, source, id: *id, process: process.as_str(), why, now }.wait_and_serve().await
}

/// The same for a merge that no process goes on with, as its spec is refused. False also where the spec does not say, or
/// says otherwise, where the merge was begun.
pub(super) async fn give_up_refused(
    owner: &str,
    spec: &EsIndexMergeSpec,
    secrets: &impl SecretSource,
    process: &str,
    why: &str,
    now: Timestamp,
) -> Result<bool, MergeError> {
    let Ok(part) = SourceAndState::parse(spec) else { return Ok(false) };
    let login = secrets::resolve_state(spec, secrets).await?;
    let state = State::connect(&login, &part.state_schema).await?;
    let Some(row) = state.merge_of(owner, &part.identity).await? else { return Ok(false) };
    let terms = Terms::REFUSED;
    if !are_to_be_served(&state, terms, &row, now).await? {
        return Ok(false);
    }
    let access = secrets::resolve_source(spec, secrets).await?;
    let source = preflight::cluster(&part.source_urls, part.source_insecure, &access)
        .await
        .map_err(MergeError::Source)?;
    let service = Service { terms, state: &state, source: &source, id: row.id, process, why, now };
    service.wait_and_serve().await
}

/// The same for a process that ends: others that work at the merge go on with it, and each of them asks for the lease of a step
/// again and again.
pub(super) async fn leave(engine: &Engine, why: &str, now: Timestamp) -> Result<bool, MergeError> {
    let terms = Terms::left_alone(engine);
    if !are_to_be_served(&engine.state, terms, &engine.merge_row().await?, now).await? {
        return Ok(false);
    }
    // This process makes none any more.
    let last_step = engine.state.last_step(engine.id).await?;
    let asked = Instant::now();
    while asked.elapsed() < OTHERS {
        tokio::time::sleep(LOOK).await;
        if engine.state.last_step(engine.id).await? != last_step {
            return Ok(false);
        }
    }
    give_up(engine, why, now).await
}

/// Whether there is anything to be done for writers.
async fn are_to_be_served(
    state: &State,
    terms: Terms,
    row: &MergeRow,
    now: Timestamp,
) -> Result<bool, MergeError> {
    if row.released_at.is_some() {
        return Ok(false);
    }
    Ok(match reason(terms, row, now)? {
        Some(Reason::Cutover) => true,
        Some(Reason::WayBack | Reason::LeftOver) => {
            state.sources(row.id).await?.iter().any(|source| source.blocked_by_us)
        }
        None => false,
    })
}

/// Takes the lease for a step, once it is given back or has run out. False if it is renewed: whoever has it is alive, and
/// decides.
async fn wait_for_step(state: &State, id: MergeId, process: &str) -> Result<bool, MergeError> {
    let asked = Instant::now();
    while !state.take_step(id, process, STEP_LEASE).await? {
        if asked.elapsed() > STEP_LEASE {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(true)
}

/// What it takes to serve writers.
struct Service<'a> {
    terms: Terms,
    state: &'a State,
    source: &'a Cluster,
    id: MergeId,
    process: &'a str,
    why: &'a str,
    now: Timestamp,
}

impl Service<'_> {
    /// Serves writers with the lease for a step, unless another process decides. True if anything was to be done and is.
    async fn wait_and_serve(&self) -> Result<bool, MergeError> {
        let Service { terms, state, id, process, now, .. } = *self;
        loop {
            // As it is now.
            let Some(row) = state.merge(id).await? else { return Ok(false) };
            let is_due = are_to_be_served(state, terms, &row, now).await?;
            if !is_due || !wait_for_step(state, id, process).await? {
                return Ok(false);
            }
            // Where the lease was lost in the middle, what is left to be done is looked at again.
            if let Some(served) = self.with_lease().await? {
                return Ok(served);
            }
        }
    }

    /// For a process that has the lease for a step, which is given back afterwards. True if anything was to be done and is;
    /// `None` if the lease was lost before.
    async fn with_lease(&self) -> Result<Option<bool>, MergeError> {
        let served = tokio::select! {
            served = self.serve() => served.map(Some),
            () = lose_step(self.state, self.id, self.process) => Ok(None),
        };
        if let Err(error) = self.state.end_step(self.id, self.process).await {
            tracing::debug!(%error, "the lease of a step was not given back; it runs out by itself");
        }
        served
    }

    /// With the lease, so that nobody else decides.
    async fn serve(&self) -> Result<bool, MergeError> {
        let Service { terms, state, source, id, why, now, .. } = *self;
        // As it is now.
        let Some(row) = state.merge(id).await? else { return Ok(false) };
        match reason(terms, &row, now)? {
            Some(Reason::Cutover) => {
                act::abandon(state, source, id, why, now).await?;
                state.enter_phase(id, Phase::CuttingOver.as_str(), Phase::Synced.as_str()).await?;
            }
            Some(left @ (Reason::WayBack | Reason::LeftOver)) => {
                act::lift_blocks(state, source, id, |_| true).await?;
                tracing::info!(why = ?left, "writes to the sources are allowed again");
            }
            None => return Ok(false),
        }
        Ok(true)
    }
}

/// Why writers are to be served now; `None`: they are not, or nobody knows that phase.
fn reason(terms: Terms, row: &MergeRow, now: Timestamp) -> Result<Option<Reason>, MergeError> {
    let reason = match Phase::parse(&row.phase) {
        Some(Phase::Completed) => (terms.source_writes == SourceWrites::Allow).then_some(Reason::WayBack),
        Some(Phase::CuttingOver) => {
            let memo = parse_memo(row)?;
            let is_negative = memo.verdict.is_some_and(|verdict| !verdict.positive);
            match memo.cutover.started_at {
                _ if memo.cutover.handed_over => None,
                Some(started_at) if !is_negative => {
                    let is_over = terms.timeout.is_none_or(|timeout| is_overdue(started_at, timeout, now));
                    is_over.then_some(Reason::Cutover)
                }
                Some(_) | None => Some(Reason::LeftOver),
            }
        }
        Some(_) => Some(Reason::LeftOver),
        None => None,
    };
    Ok(reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::SignedDuration;

    use super::*;
    use crate::merge::memo::{CutoverMemo, Memo, VerdictMemo};
    use crate::merge::valid::test_merge;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A merge in that phase; `change` gives it a memo.
    fn row(phase: Phase, change: impl FnOnce(&mut Memo)) -> MergeRow {
        let mut memo = Memo::default();
        change(&mut memo);
        MergeRow {
            id: MergeId::nil(),
            owner: "default/test".to_owned(),
            destination_cluster: "uuid".to_owned(),
            destination_index: "merged".to_owned(),
            identity: String::new(),
            phase: phase.as_str().to_owned(),
            pass: 0,
            memo: serde_json::to_value(&memo).unwrap(),
            retry_token: String::new(),
            started_at: now(),
            completed_at: None,
            phase_since: now(),
            released_at: None,
        }
    }

    /// An attempt that began so many seconds ago.
    fn attempt(seconds: i64) -> impl Fn(&mut Memo) {
        move |memo| {
            let started_at = now().checked_sub(SignedDuration::from_secs(seconds)).ok();
            memo.cutover = CutoverMemo { started_at, ..CutoverMemo::default() };
        }
    }

    fn judged(positive: bool) -> VerdictMemo {
        VerdictMemo {
            positive,
            collections: 1,
            unequal: 0,
            quarantined: 0,
            unknown_documents: 0,
            counted_only: false,
            message: String::new(),
            basis: String::new(),
        }
    }

    fn why(merge: &ValidMerge, row: &MergeRow) -> Option<Reason> {
        reason(Terms::of(merge), row, now()).unwrap()
    }

    #[test]
    fn an_attempt_goes_on_until_it_takes_too_long_unless_nobody_goes_on_with_it() {
        let (merge, leaving) = (test_merge(), ValidMerge { suspend: true, ..test_merge() });
        let young = row(Phase::CuttingOver, attempt(10));
        assert_eq!(why(&merge, &young), None);
        assert_eq!(why(&leaving, &young), Some(Reason::Cutover));
        let old = row(Phase::CuttingOver, attempt(3_600));
        assert_eq!(why(&merge, &old), Some(Reason::Cutover));
        // The verdict is there, and not the end: somebody has to come and finish it.
        let verified = row(Phase::CuttingOver, |memo| {
            attempt(10)(memo);
            memo.verdict = Some(judged(true));
        });
        assert_eq!(why(&merge, &verified), None);
        assert_eq!(why(&leaving, &verified), Some(Reason::Cutover));
    }

    #[test]
    fn nothing_leads_back_from_a_destination_that_is_handed_over() {
        let handed_over = row(Phase::CuttingOver, |memo| {
            attempt(3_600)(memo);
            memo.cutover.handed_over = true;
        });
        let leaving = ValidMerge { suspend: true, ..test_merge() };
        assert_eq!(why(&test_merge(), &handed_over), None);
        assert_eq!(why(&leaving, &handed_over), None);
        assert_eq!(why(&leaving, &row(Phase::Completed, |_| ())), None);
    }

    #[test]
    fn what_an_attempt_left_that_is_over_comes_off_in_every_phase() {
        let negative = row(Phase::CuttingOver, |memo| {
            attempt(10)(memo);
            memo.verdict = Some(judged(false));
        });
        for row in [negative, row(Phase::CuttingOver, |_| ()), row(Phase::Synced, |_| ())] {
            assert_eq!(why(&test_merge(), &row), Some(Reason::LeftOver), "{row:?}");
        }
    }

    #[test]
    fn a_spec_that_is_refused_gives_a_cutover_up_and_leaves_a_complete_merge_as_it_is() {
        let why = |row: &MergeRow| reason(Terms::REFUSED, row, now()).unwrap();
        assert_eq!(why(&row(Phase::CuttingOver, attempt(10))), Some(Reason::Cutover));
        assert_eq!(why(&row(Phase::Failed, |_| ())), Some(Reason::LeftOver));
        assert_eq!(why(&row(Phase::Completed, |_| ())), None);
    }
}
