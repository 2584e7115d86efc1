//! Executes actions. Each is idempotent, limited in time, and leaves its trace in what is observed next.

mod blocks;
mod cutover;
mod deletion;
mod destination;
mod graph;
mod handover;
mod judge;
mod keys;
mod newcomers;
mod passes;
mod set_back;
mod sources;

use jiff::Timestamp;

use super::engine::Engine;
use super::error::MergeError;
use super::memo::Rechecked;
use super::observe::parse_memo;
use super::phase::Phase;
use super::plan::Action;
use super::shrunk;
use super::valid::ValidMerge;
use crate::state::{QuarantineFilter, UnitKind};

pub(super) use blocks::lift as lift_blocks;
pub(super) use cutover::abandon;
pub(super) use destination::{
    index_spec, interferences, is_destination_lost, lost, misfits, pinned_index_options,
};
pub(super) use graph::Places;
pub(super) use handover::objection as handed_over;
pub(super) use set_back::{KnownPasses, notice_missing_alias, outnumber_forgotten_passes};
pub(super) use sources::{Matched, match_sources, partial_aliases, readable};

/// The field that holds the embedding, in the sources and in the destination of every contract.
pub(super) const VECTOR_FIELD: &str = "embedding";
/// How long resting workers are waited for within a step.
const REST_LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// The alias through which workers write: it vanishes with the index, and a bulk with `require_alias` then
/// fails instead of creating an index with guessed mappings.
pub(super) fn writer_alias(merge: &ValidMerge) -> String {
    format!("{}-merge-writer", merge.destination.index)
}

/// Executes one action.
pub(super) async fn act(
    engine: &Engine,
    spec: &ValidMerge,
    action: &Action,
    phase: Phase,
    now: Timestamp,
) -> Result<bool, MergeError> {
    tracing::debug!(?action, %phase, "act");
    let done = match action {
        Action::PrepareDestination => destination::prepare(engine, spec).await,
        Action::ResolveSources => sources::resolve(engine, spec).await.map(drop),
        Action::PlanPass(UnitKind::Copy) => {
            passes::plan_copy(engine, passes::Drained::Whatever, now).await.map(drop)
        }
        Action::PlanPass(UnitKind::Verify) => passes::plan_verify(engine).await,
        Action::RunWorkers(kind) => {
            sources::ensure_lanes(engine).await?;
            engine.pool.run(*kind).await;
            Ok(())
        }
        Action::RestWorkers => {
            engine.pool.rest(REST_LIMIT).await;
            Ok(())
        }
        Action::SwitchIndexOptions => graph::switch(engine).await,
        Action::RewriteSegments => graph::rewrite(engine).await,
        Action::SettleDestination => destination::settle(engine, spec).await,
        Action::BeginCutover => cutover::begin(engine, now).await,
        Action::LetWorkersWrite => destination::let_workers_write(engine).await,
        Action::BlockSources => blocks::block(engine, now).await,
        Action::PlanLastPass => cutover::plan_last_pass(engine, spec, now).await,
        Action::FollowDeletions => keys::follow(engine).await,
        Action::ReconcileKeys => keys::reconcile(engine, spec, now).await,
        Action::Judge => judge::judge(engine, spec).await,
        Action::AbandonCutover(reason) => {
            cutover::abandon(&engine.state, &engine.source, engine.id, reason, now).await
        }
        Action::UnblockSources => blocks::unblock(engine).await,
        Action::Finish => return cutover::finish(engine, spec, now).await,
        Action::LookForNewcomers => newcomers::look(engine, spec, now).await,
        Action::Retry => retry(engine, spec, phase).await,
        Action::DeleteSource(source) => deletion::delete(engine, spec, *source).await,
        Action::ReconsiderKept => reconsider_kept(engine, spec).await,
        Action::Enter(next) => enter(engine, phase, *next).await,
    };
    done.map(|()| true)
}

/// What the source cluster refuses, or answers as if it were asked about something else, may be due to an index that is
/// another one by now, or behind an alias, or gone: the next step speaks of those that are there.
pub(super) async fn look_for_sources_anew(
    engine: &Engine,
    spec: &ValidMerge,
    action: &Action,
    error: &MergeError,
) {
    let MergeError::Source(refusal) = error else { return };
    let reads_what_was_resolved = matches!(
        action,
        Action::RunWorkers(_)
            | Action::PlanPass(_)
            | Action::FollowDeletions
            | Action::BlockSources
            | Action::PlanLastPass
            | Action::ReconcileKeys
    );
    if refusal.is_transient() || !reads_what_was_resolved {
        return;
    }
    if let Err(error) = sources::resolve(engine, spec).await {
        tracing::debug!(%error, "the sources cannot be resolved anew");
    }
}

/// Tries again what failed. The token is stored last: until then all of it is done again.
async fn retry(engine: &Engine, spec: &ValidMerge, phase: Phase) -> Result<(), MergeError> {
    shrunk::look_again(&engine.state, engine.id).await?;
    let units = engine.state.retry_now(engine.id).await?;
    let chunks = engine.state.retry_quarantined(engine.id, &QuarantineFilter::default()).await?;
    engine
        .edit_memo(|memo| {
            memo.cutover.retry_at = None;
            // What was reconciled and judged before the chunks are compared again holds no more.
            memo.cutover.rechecked = Rechecked::Nothing;
            memo.cutover.keys_reconciled = false;
            if phase == Phase::CuttingOver {
                memo.verdict = None;
            }
        })
        .await?;
    engine.state.set_retry_token(engine.id, &spec.retry_token).await?;
    tracing::info!(units, chunks, "a new retry token: what failed is tried again");
    Ok(())
}

/// Has the source indices that were kept looked at again. The token is stored last.
async fn reconsider_kept(engine: &Engine, spec: &ValidMerge) -> Result<(), MergeError> {
    let sources = engine.state.reconsider_kept_sources(engine.id).await?;
    engine.state.set_retry_token(engine.id, &spec.retry_token).await?;
    tracing::info!(sources, "a new retry token: source indices that were kept are looked at again");
    Ok(())
}

/// The compare-and-set that ends a list of actions. Losing it means that another process was faster.
async fn enter(engine: &Engine, from: Phase, to: Phase) -> Result<(), MergeError> {
    if engine.state.enter_phase(engine.id, from.as_str(), to.as_str()).await? {
        tracing::info!(from = from.as_str(), to = to.as_str(), "phase");
    }
    Ok(())
}

/// See [`Engine::dismantle`].
pub(super) async fn dismantle(engine: &Engine, delete_destination: bool) -> Result<(), MergeError> {
    let row = engine.merge_row().await?;
    let memo = parse_memo(&row)?;
    let is_complete = row.phase == Phase::Completed.as_str();
    if !is_complete && !memo.cutover.handed_over {
        // A process that is about to set blocks finds its attempt gone.
        let reason = "the resource is deleted";
        cutover::abandon(&engine.state, &engine.source, engine.id, reason, Timestamp::now()).await?;
        if memo.marked.is_some() && !destination::is_destination_lost(engine).await? {
            handover::unmark(engine, &memo).await?;
        }
    }
    // One that is complete holds nothing but its claim, and its servers may be gone by now.
    if !is_complete || delete_destination {
        destination::put_everything_back(engine).await?;
    }
    if delete_destination {
        destination::delete(engine).await?;
    }
    engine.state.release(engine.id).await?;
    Ok(())
}
