//! What is done for writers while not everything can be reached that a merge needs.
//!
//! A destination that is down keeps an engine from being connected, and with it from ending what it began. But nobody
//! may be refused for ever: the state and the source are enough to lift write blocks.

use jiff::Timestamp;

use super::act;
use super::engine::{STEP_LEASE, lose_step};
use super::error::MergeError;
use super::observe::parse_memo;
use super::phase::Phase;
use super::plan::is_overdue;
use super::preflight;
use super::secrets::Secrets;
use super::valid::{SourceWrites, ValidMerge};
use crate::elastic::Cluster;
use crate::state::{MergeId, MergeRow, State};

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

/// Lifts the blocks of a complete merge that is asked to go back, and those that an attempt left which is over; gives one up
/// that took too long or is suspended.
pub(super) async fn serve_writers(
    merge: &ValidMerge,
    secrets: &Secrets,
    process: &str,
    now: Timestamp,
) -> Result<(), MergeError> {
    let state = State::connect(&secrets.state, &merge.state_schema).await?;
    let row = state.merge_of(&merge.owner, &merge.identity()).await?;
    let Some(row) = row.filter(|row| row.released_at.is_none()) else { return Ok(()) };
    let Some(why) = reason(merge, &row, now)? else { return Ok(()) };
    if why != Reason::Cutover && !state.sources(row.id).await?.iter().any(|source| source.blocked_by_us) {
        return Ok(());
    }
    let source = preflight::source(merge, secrets).await.map_err(MergeError::Source)?;
    if !state.take_step(row.id, process, STEP_LEASE).await? {
        // Somebody who reaches everything decides.
        return Ok(());
    }
    tokio::select! {
        served = serve(merge, &state, &source, row.id, now) => served?,
        () = lose_step(&state, row.id, process) => return Ok(()),
    }
    Ok(state.end_step(row.id, process).await?)
}

/// With the lease for a step, so that nobody else decides.
async fn serve(
    merge: &ValidMerge,
    state: &State,
    source: &Cluster,
    id: MergeId,
    now: Timestamp,
) -> Result<(), MergeError> {
    // As it is now.
    let Some(row) = state.merge(id).await? else { return Ok(()) };
    match reason(merge, &row, now)? {
        Some(Reason::Cutover) => {
            let why = "not everything that it needs can be reached";
            act::abandon(state, source, id, why, now).await?;
            state.enter_phase(id, Phase::CuttingOver.as_str(), Phase::Synced.as_str()).await?;
        }
        Some(why @ (Reason::WayBack | Reason::LeftOver)) => {
            act::lift_blocks(state, source, id, |_| true).await?;
            tracing::info!(?why, "writes to the sources are allowed again");
        }
        None => {}
    }
    Ok(())
}

fn reason(merge: &ValidMerge, row: &MergeRow, now: Timestamp) -> Result<Option<Reason>, MergeError> {
    let reason = match Phase::parse(&row.phase) {
        Some(Phase::Completed) => {
            (merge.cutover.source_writes == SourceWrites::Allow).then_some(Reason::WayBack)
        }
        Some(Phase::CuttingOver) => {
            let memo = parse_memo(row)?;
            let is_negative = memo.verdict.is_some_and(|verdict| !verdict.positive);
            match memo.cutover.started_at {
                _ if memo.cutover.handed_over => None,
                Some(started_at) if !is_negative => {
                    let is_over = merge.suspend || is_overdue(started_at, merge, now);
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
