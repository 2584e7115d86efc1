//! A batch of leased units, and the rounds over it.
//!
//! While a round is acted on, the windows of the next one are read: the network waits for nobody. What was read
//! ahead counts for nothing until its own round is checkpointed, and is dropped with the batch, so a stop, a failure
//! or a lost lease needs no care for it. How much is read at once is decided in [`super::walks`].

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::facts::Facts;
use super::walks::{Asked, Walks, answer_limit, single};
use super::{HEARTBEAT, LEASE, Shared, copy, verify};
use crate::elastic::{ElasticError, ErrorCategory, Page, ReadLane, SeqNo, WindowRequest};
use crate::merge::error::MergeError;
use crate::merge::shrunk;
use crate::state::{
    Advance, Counts, LeasedUnit, Quarantined, SourceCuts, SourceState, State, UnitId, UnitKind,
};

/// How a window is read whose index was not there when lanes were looked up: only to see whether it is gone, which
/// is an answer that gives its units up. Nothing is taken from such a page.
const PROBE: ReadLane = ReadLane::Keys;

/// Units that one task works on.
pub(super) struct Batch {
    walks: Walks,
    facts: Facts,
}

/// One window of one unit, with what was read of it.
pub(super) struct ReadWindow {
    /// The unit it belongs to.
    pub unit: LeasedUnit,
    /// First sequence number.
    pub from: SeqNo,
    /// One past the last.
    pub to: SeqNo,
    /// Its live documents.
    pub page: Page,
}

/// What became of one window: all of its documents are acknowledged, equal or in quarantine.
#[derive(Default)]
pub(super) struct Settled {
    /// Sums for its checkpoint.
    pub counts: Counts,
    /// What could not go over.
    pub quarantined: Vec<Quarantined>,
    /// What the contract had to cut.
    pub cuts: Option<SourceCuts>,
}

impl Batch {
    pub fn new(units: Vec<LeasedUnit>) -> Batch {
        Batch { walks: Walks::new(units), facts: Facts::default() }
    }

    /// Rounds until every unit is closed, the stop, or a failure that concerns them all.
    pub async fn run(
        &mut self,
        shared: &Shared,
        kind: UnitKind,
        stop: &CancellationToken,
    ) -> Result<(), MergeError> {
        let leases = self.open_leases();
        tokio::select! {
            result = self.rounds(shared, kind, stop) => result,
            () = heartbeat(&shared.context.state, leases) => {
                tracing::info!("the leases of a batch went to another worker; it is left to that one");
                Ok(())
            }
        }
    }

    /// Leases that this batch still holds.
    pub fn open_leases(&self) -> Vec<(UnitId, i64)> {
        self.open_units().map(|unit| (unit.id, unit.epoch)).collect()
    }

    /// Units that are not closed.
    pub fn open_units(&self) -> impl Iterator<Item = &LeasedUnit> {
        self.walks.open()
    }

    async fn rounds(
        &mut self,
        shared: &Shared,
        kind: UnitKind,
        stop: &CancellationToken,
    ) -> Result<(), MergeError> {
        let first = self.next_windows(shared)?;
        let mut read = fetch(shared, first).await?;
        while !read.is_empty() && !stop.is_cancelled() {
            let windows = self.take_in(shared, read).await?;
            let hits = windows.iter().map(|window| window.page.hits.len()).sum();
            tokio::select! {
                biased;
                // What was read is thrown away: nothing was written yet.
                () = stop.cancelled() => return Ok(()),
                () = shared.limits.pay(hits) => {}
            }
            let next = self.next_windows(shared)?;
            let acting = async {
                match kind {
                    UnitKind::Copy => copy::act(shared, &mut self.facts, windows).await.map(Some),
                    UnitKind::Verify => verify::act(shared, &mut self.facts, windows).await,
                }
            };
            let (acted, following) = tokio::join!(acting, fetch(shared, next));
            // What was acted on is checkpointed first, whatever became of the next read.
            let Some((windows, settled)) = acted? else {
                tracing::info!("a lease of a batch went to another worker; the others are given back");
                return Ok(());
            };
            self.checkpoint(shared, &windows, settled).await?;
            read = following?;
        }
        Ok(())
    }

    /// Windows of the open units, as many as fit the share of bytes.
    fn next_windows(&mut self, shared: &Shared) -> Result<Vec<Asked>, MergeError> {
        let lane = |unit: &LeasedUnit| shared.lane(&unit.index_uuid).unwrap_or(PROBE);
        self.walks.next_windows(shared.limits.piece(), lane)
    }

    /// Takes in what was read. A window that failed closes its unit only; a missing index closes its source. What
    /// belongs to a unit that was closed meanwhile is dropped.
    async fn take_in(&mut self, shared: &Shared, read: Read) -> Result<Vec<ReadWindow>, MergeError> {
        let pages = match read {
            Read::Pages(pages) => pages,
            Read::TooLarge(all, error) => {
                self.ask_for_less(shared, &all, error).await?;
                return Ok(Vec::new());
            }
        };
        let mut windows = Vec::with_capacity(pages.len());
        for (asked, page) in pages {
            let Some(unit) = self.walks.open_at(asked.position).cloned() else { continue };
            match page {
                Ok(_) if asked.request.lane == PROBE => {
                    let reason = "how its index is read is not known yet";
                    self.close_failed(shared, &asked, ElasticError::unavailable(reason)).await?;
                }
                Ok(page) => {
                    self.walks.learn(&asked, &page);
                    let WindowRequest { from, to, .. } = asked.request;
                    windows.push(ReadWindow { unit, from, to, page });
                }
                // More is live there than the plan knew: nothing of it is taken, and less is asked for.
                Err(error) if error.category() == ErrorCategory::TooLarge => self.walks.ask_again(&asked),
                Err(error) => self.close_failed(shared, &asked, error).await?,
            }
        }
        Ok(windows)
    }

    /// Asks for less after an answer that was too large. A chunk that is too large alone closes its unit.
    async fn ask_for_less(
        &mut self,
        shared: &Shared,
        all: &[Asked],
        error: ElasticError,
    ) -> Result<(), MergeError> {
        let Some(asked) = single(all) else {
            self.walks.ask_for_less(all, answer_limit(all, shared.limits.piece()));
            return Ok(());
        };
        let WindowRequest { index, shard, from, .. } = &asked.request;
        let what = format!("index `{index}`, shard {shard}, the chunk at {from} alone");
        self.close_failed(shared, asked, error.about(what)).await
    }

    async fn close_failed(
        &mut self,
        shared: &Shared,
        asked: &Asked,
        error: ElasticError,
    ) -> Result<(), MergeError> {
        let Some(unit) = self.walks.open_at(asked.position).cloned() else { return Ok(()) };
        self.walks.close(asked.position);
        let super::Context { state, source, id, .. } = &shared.context;
        if error.category() == ErrorCategory::NotFound {
            tracing::info!(
                collection = unit.collection_id,
                "the source index is gone; resolved again at the next pass"
            );
            // Should it be there after all, it is walked anew.
            state.set_source_state(&[unit.source], SourceState::Gone).await?;
            state.abandon_units(unit.source).await?;
        } else {
            if error.is_shared_seq_no() && shrunk::is_confirmed(source, &asked.request).await {
                shrunk::set_aside(state, *id, &unit).await?;
            }
            tracing::warn!(collection = unit.collection_id, %error, "a window could not be read");
            let pause = Duration::from_secs(1 << unit.attempts.clamp(0, 6));
            state.fail_unit(unit.id, unit.epoch, &error.to_string(), pause).await?;
        }
        Ok(())
    }

    /// Moves the cursors of all windows of the round in one transaction.
    async fn checkpoint(
        &mut self,
        shared: &Shared,
        windows: &[ReadWindow],
        settled: Vec<Settled>,
    ) -> Result<(), MergeError> {
        let mut advances = Vec::with_capacity(windows.len());
        let mut quarantined = Vec::new();
        let mut cuts = Vec::new();
        for (window, outcome) in windows.iter().zip(settled) {
            advances.push(Advance {
                unit: window.unit.id,
                epoch: window.unit.epoch,
                from: window.from,
                to: window.to,
                counts: outcome.counts,
            });
            quarantined.extend(outcome.quarantined);
            cuts.extend(outcome.cuts);
        }
        let context = &shared.context;
        let accepted = context.state.checkpoint(context.id, &advances, &quarantined, &cuts).await?;
        self.walks.checkpointed(&advances, &accepted);
        Ok(())
    }
}

/// What came of a request for windows.
enum Read {
    /// A page, or an error, of each.
    Pages(Vec<(Asked, Result<Page, ElasticError>)>),
    /// Nothing: the answer was too large.
    TooLarge(Vec<Asked>, ElasticError),
}

impl Read {
    /// Whether nothing was asked for.
    fn is_empty(&self) -> bool {
        matches!(self, Read::Pages(pages) if pages.is_empty())
    }
}

/// Reads windows with one request.
async fn fetch(shared: &Shared, all: Vec<Asked>) -> Result<Read, MergeError> {
    let requests: Vec<WindowRequest> = all.iter().map(|asked| asked.request.clone()).collect();
    let limit = answer_limit(&all, shared.limits.piece());
    match shared.context.source.read_windows_within(&requests, limit).await {
        Ok(pages) => Ok(Read::Pages(all.into_iter().zip(pages).collect())),
        Err(error) if error.category() == ErrorCategory::TooLarge => Ok(Read::TooLarge(all, error)),
        Err(error) => Err(MergeError::Source(error)),
    }
}

/// Renews the leases until none is ours any more. A connection that does not answer is not waited for as long as they last.
async fn heartbeat(state: &State, leases: Vec<(UnitId, i64)>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        match timeout(HEARTBEAT, state.renew(&leases, LEASE)).await {
            Ok(Ok(ours)) if ours.is_empty() => return,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "leases could not be renewed; tried again before they expire");
            }
            Err(_) => tracing::warn!("no answer about leases; they are renewed by another connection"),
        }
    }
}
