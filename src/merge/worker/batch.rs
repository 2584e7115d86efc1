//! A batch of leased units, and the rounds over it.
//!
//! While a round is acted on, the windows of the next one are read: the network waits for nobody. What was read
//! ahead counts for nothing until its own round is checkpointed, and is dropped with the batch, so a stop, a failure
//! or a lost lease needs no care for it.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::facts::Facts;
use super::{HEARTBEAT, LEASE, Shared, copy, verify};
use crate::elastic::{ElasticError, ErrorCategory, Page, ReadLane, SeqNo, WindowRequest};
use crate::merge::error::MergeError;
use crate::merge::stored_index;
use crate::state::{
    Advance, Counts, LeasedUnit, Quarantined, SourceCuts, SourceState, State, UnitId, UnitKind,
};

/// The widest window: as many hits as an index returns by default (`index.max_result_window`).
const MAX_WINDOW: i64 = 10_000;
/// The most documents that a window is planned for, whatever their size: beyond it nothing gets faster.
const MAX_WINDOW_DOCUMENTS: f64 = 1_000.0;
/// Bytes per document assumed before the first page is read, unless the index takes more for each on its disk.
const ASSUMED_BYTES: f64 = 16_384.0;
/// A window holds at most this many times what it was planned for; if there is more, it is read again in parts.
const SLACK: f64 = 2.0;
/// So many chunks are always taken, whatever was planned.
const FEW: f64 = 64.0;

/// How a window is read whose index was not there when lanes were looked up: only to see whether it is gone, which
/// is an answer that gives its units up. Nothing is taken from such a page.
const PROBE: ReadLane = ReadLane::Keys;

/// Units that one task works on.
pub(super) struct Batch {
    units: Vec<Walked>,
    facts: Facts,
    /// Measured on the pages of this batch.
    bytes_per_document: f64,
}

/// One unit and how far this task has taken it.
struct Walked {
    unit: LeasedUnit,
    /// Everything before it is checkpointed.
    cursor: SeqNo,
    /// Everything before it is read, or asked for.
    ahead: SeqNo,
    /// Done, lost or failed: not to be touched any more by this batch.
    closed: bool,
    /// Hits per sequence number, measured: 1 where nothing was updated or deleted.
    density: f64,
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
        let on_disk = units.iter().map(|unit| unit.bytes_per_document as f64);
        let bytes_per_document = on_disk.fold(ASSUMED_BYTES, f64::max);
        let units = units
            .into_iter()
            .map(|unit| {
                let width = (unit.to - unit.from).max(1) as f64;
                let density = (unit.estimated_documents as f64 / width).clamp(0.01, 1.0);
                Walked {
                    cursor: unit.cursor,
                    ahead: unit.cursor,
                    closed: unit.cursor >= unit.to,
                    density,
                    unit,
                }
            })
            .collect();
        Batch { units, facts: Facts::default(), bytes_per_document }
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
        self.units.iter().filter(|walked| !walked.closed).map(|walked| &walked.unit)
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
                    UnitKind::Copy => copy::act(shared, &mut self.facts, windows).await,
                    UnitKind::Verify => verify::act(shared, &mut self.facts, windows).await,
                }
            };
            let (acted, following) = tokio::join!(acting, fetch(shared, next));
            // What was acted on is checkpointed first, whatever became of the next read.
            let (windows, settled) = acted?;
            self.checkpoint(shared, &windows, settled).await?;
            read = following?;
        }
        Ok(())
    }

    /// Windows of the open units, one each, as many as fit the share of bytes; they follow what is read already.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most the widest window, and positive
    fn next_windows(&mut self, shared: &Shared) -> Result<Vec<(usize, WindowRequest)>, MergeError> {
        let piece = shared.limits.piece() as f64;
        let mut room = (piece / self.bytes_per_document).clamp(1.0, MAX_WINDOW_DOCUMENTS);
        let mut requests = Vec::new();
        let unread = |walked: &Walked| !walked.closed && walked.ahead < walked.unit.to;
        for (position, walked) in self.units.iter_mut().enumerate().filter(|(_, walked)| unread(walked)) {
            if room < 1.0 && !requests.is_empty() {
                break;
            }
            let width = ((room / walked.density).ceil() as i64).clamp(1, MAX_WINDOW);
            let from = walked.ahead;
            let to = walked.unit.to.min(from + width);
            walked.ahead = to;
            let planned = (to - from) as f64 * walked.density;
            room -= planned;
            let index = stored_index(&walked.unit.index_name)?;
            requests.push((
                position,
                WindowRequest {
                    index,
                    shard: walked.unit.shard,
                    from,
                    to,
                    lane: shared.lane(&walked.unit.index_uuid).unwrap_or(PROBE),
                    most: Some((planned * SLACK).max(FEW).ceil() as usize),
                },
            ));
        }
        Ok(requests)
    }

    /// Takes in what was read. A window that failed closes its unit only; a missing index closes its source. What
    /// belongs to a unit that was closed meanwhile is dropped.
    async fn take_in(&mut self, shared: &Shared, read: Vec<Fetched>) -> Result<Vec<ReadWindow>, MergeError> {
        let mut windows = Vec::with_capacity(read.len());
        for Fetched { position, request, page } in read {
            if self.units[position].closed {
                continue;
            }
            match page {
                Ok(_) if request.lane == PROBE => {
                    let reason = "how its index is read is not known yet";
                    self.close_failed(shared, position, ElasticError::unavailable(reason)).await?;
                }
                Ok(page) => {
                    self.learn(position, request.to - request.from, &page);
                    let unit = self.units[position].unit.clone();
                    windows.push(ReadWindow { unit, from: request.from, to: request.to, page });
                }
                // More is live there than the plan knew: nothing of it is taken, and less is asked for.
                Err(error) if error.category() == ErrorCategory::TooLarge => {
                    let walked = &mut self.units[position];
                    (walked.ahead, walked.density) = (request.from, 1.0);
                }
                Err(error) => self.close_failed(shared, position, error).await?,
            }
        }
        Ok(windows)
    }

    /// Sizes the next windows by what this one held.
    fn learn(&mut self, position: usize, width: i64, page: &Page) {
        let hits = page.hits.len() as f64;
        let walked = &mut self.units[position];
        walked.density = (hits / width.max(1) as f64).clamp(0.01, 1.0);
        if hits > 0.0 {
            self.bytes_per_document = (page.bytes as f64 / hits).max(256.0);
        }
    }

    async fn close_failed(
        &mut self,
        shared: &Shared,
        position: usize,
        error: ElasticError,
    ) -> Result<(), MergeError> {
        let walked = &mut self.units[position];
        walked.closed = true;
        let unit = &walked.unit;
        let state = &shared.context.state;
        if error.category() == ErrorCategory::NotFound {
            tracing::info!(
                collection = unit.collection_id,
                "the source index is gone; resolved again at the next pass"
            );
            // Should it be there after all, it is walked anew.
            state.set_source_state(&[unit.source], SourceState::Gone).await?;
            state.abandon_units(unit.source).await?;
        } else {
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
        for walked in &mut self.units {
            let Some(advance) = advances.iter().find(|advance| advance.unit == walked.unit.id) else {
                continue;
            };
            if accepted.contains(&advance.unit) {
                walked.cursor = advance.to;
                walked.closed |= walked.cursor >= walked.unit.to;
            } else {
                tracing::info!(
                    unit = advance.unit,
                    "a checkpoint was refused: the unit has another owner now"
                );
                walked.closed = true;
            }
        }
        Ok(())
    }
}

/// A window as it was asked for, and what came back.
struct Fetched {
    position: usize,
    request: WindowRequest,
    page: Result<Page, ElasticError>,
}

/// Reads windows of units, by their places in the batch, with one request.
async fn fetch(shared: &Shared, requests: Vec<(usize, WindowRequest)>) -> Result<Vec<Fetched>, MergeError> {
    let (positions, requests): (Vec<usize>, Vec<WindowRequest>) = requests.into_iter().unzip();
    let pages = shared.context.source.read_windows(&requests).await.map_err(MergeError::Source)?;
    let fetched = positions.into_iter().zip(requests).zip(pages);
    Ok(fetched.map(|((position, request), page)| Fetched { position, request, page }).collect())
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
