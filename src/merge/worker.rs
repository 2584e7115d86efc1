//! The workers of one process: tasks that lease units, walk their windows and checkpoint them.
//!
//! A task takes a batch of units (many tiny ones or a part of a large shard), and makes rounds over it:
//! read the next window of each unit in one request, act on the hits ([`copy`] or [`verify`]), then move
//! the checkpoints in one transaction. Reading and writing overlap: a task reads one round ahead, and several
//! tasks are under way.
//!
//! - A window is checkpointed only after each of its documents is acknowledged or in quarantine.
//! - Memory: each task holds two pages (one of them read ahead) and one bulk body; each is cut to its share of
//!   `maxBytesInFlight`. Of pages that is a plan, as nobody knows how large chunks are before they come: an answer that is
//!   some times as large is given up in the middle ([`walks`]).
//! - A task that is told to rest stops between two rounds and gives its leases back; one that dies leaves
//!   leases that expire. Neither loses more than the round in flight.

mod batch;
mod copy;
mod facts;
mod keys;
mod limits;
mod send;
mod verify;
mod walks;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::batch::Batch;
use self::limits::Limits;
use super::error::MergeError;
use super::valid::Workers;
use crate::chunk::{Transform, VectorForm};
use crate::collections::Collections;
use crate::elastic::{Cluster, IndexName, ReadLane};
use crate::state::{LeasedUnit, MergeId, State, UnitKind};

/// How long a lease lasts without a sign of life. Short, as a worker that comes back too late loses nothing but its
/// round: what it writes is there already, and its checkpoint is refused.
const LEASE: Duration = Duration::from_secs(20);
/// How often a lease is renewed.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The first pause after a unit failed; doubled at each further attempt, at most [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// See [`RETRY_FIRST`].
const RETRY_MAX: Duration = Duration::from_mins(1);
/// How long a task without units stays, so that the next pass finds it at hand.
const IDLE: Duration = Duration::from_secs(2);
/// Units in one batch: one `_msearch` reads a window of each. A checkpoint of them all fits into one TLS record: what is
/// larger waits for the peer's delayed acknowledgement, as the connections to Postgres do not switch that off.
const BATCH_UNITS: i64 = 90;
/// Documents in one batch, estimated; one unit may have more and is then a batch of its own.
const BATCH_DOCUMENTS: i64 = 1_000;

/// What every worker of a merge needs.
pub(super) struct Context {
    /// The merge.
    pub id: MergeId,
    /// The name of this process in leases.
    pub worker: String,
    /// Where chunks come from.
    pub source: Cluster,
    /// Where they go.
    pub destination: Cluster,
    /// Names and dates that chunks lack.
    pub collections: Collections,
    /// Units, checkpoints, quarantine.
    pub state: State,
    /// An old chunk to a new one. The form of its embedding is that of the destination as it is found.
    pub transform: Transform,
    /// The destination index, for reading.
    pub destination_index: IndexName,
    /// Our alias on it, for writing: gone with the index, so that a bulk never creates one by itself.
    pub writer_alias: String,
    /// Wakes the engine.
    pub progressed: Arc<Notify>,
}

/// The lane in which each source index is read, by index uuid, as found at the last resolve.
pub(super) type Lanes = BTreeMap<String, ReadLane>;

/// Tasks of one process for one merge.
pub(super) struct WorkerPool {
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

/// What tasks share.
pub(super) struct Shared {
    /// Connections and names.
    pub context: Context,
    /// Rate, bytes and concurrency; live.
    pub limits: Limits,
    lanes: Mutex<Arc<Lanes>>,
    destination: Mutex<DestinationLane>,
    /// New units were planned, or a failed one may be due.
    wake: Notify,
    /// A write found neither the destination nor its alias.
    destination_missed: AtomicBool,
}

/// How the destination is read and written, as found at the last resolve.
struct DestinationLane {
    lane: ReadLane,
    form: VectorForm,
}

struct Running {
    kind: UnitKind,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl WorkerPool {
    pub fn new(context: Context) -> WorkerPool {
        let form = context.transform.vector_form;
        let shared = Shared {
            context,
            limits: Limits::default(),
            lanes: Mutex::new(Arc::new(Lanes::new())),
            destination: Mutex::new(DestinationLane {
                lane: ReadLane::Source { ask_for_vectors: false },
                form,
            }),
            wake: Notify::new(),
            destination_missed: AtomicBool::new(false),
        };
        WorkerPool { shared: Arc::new(shared), running: Mutex::new(None) }
    }

    /// Takes over live limits.
    pub fn tune(&self, workers: &Workers) {
        self.shared.limits.tune(workers);
    }

    /// The lanes in which sources are read from now on, and how the destination is read and written.
    pub fn set_lanes(&self, lanes: Lanes, lane: ReadLane, form: VectorForm) {
        *lock(&self.shared.lanes) = Arc::new(lanes);
        *lock(&self.shared.destination) = DestinationLane { lane, form };
    }

    /// The lanes known so far.
    pub fn known_lanes(&self) -> Lanes {
        Lanes::clone(&lock(&self.shared.lanes))
    }

    /// Whether a write found neither the destination nor its alias since this was asked last.
    pub fn missed_destination(&self) -> bool {
        self.shared.destination_missed.swap(false, Ordering::SeqCst)
    }

    /// A word on the lanes in use, for the status: `binary 12, source 3`.
    pub fn lanes(&self) -> Option<String> {
        let lanes = Arc::clone(&lock(&self.shared.lanes));
        if lanes.is_empty() {
            return None;
        }
        let binary = lanes.values().filter(|lane| matches!(lane, ReadLane::Binary { .. })).count();
        let write = lock(&self.shared.destination).form.as_str();
        Some(format!("read binary {binary}, source {}; write {write}", lanes.len() - binary))
    }

    /// Lets tasks work on units of that kind until there is none; tasks of the other kind rest first.
    pub async fn run(&self, kind: UnitKind) {
        let other_kind = lock(&self.running).as_ref().is_some_and(|running| running.kind != kind);
        if other_kind {
            self.rest(LEASE).await;
        }
        let mut slot = lock(&self.running);
        let running = slot.get_or_insert_with(|| Running {
            kind,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        });
        while running.tasks.try_join_next().is_some() {}
        let wanted = self.shared.limits.concurrency();
        while running.tasks.len() < wanted {
            let shared = Arc::clone(&self.shared);
            let stop = running.stop.clone();
            running.tasks.spawn(async move { shared.task(kind, stop).await });
        }
        self.shared.wake.notify_waiters();
    }

    /// Tasks stop at their next checkpoint; those that do not within `limit` are aborted (their leases expire).
    pub async fn rest(&self, limit: Duration) {
        let Some(mut running) = lock(&self.running).take() else { return };
        running.stop.cancel();
        let drained = async { while running.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, drained).await.is_err() {
            tracing::warn!("workers did not stop in {limit:?}; their leases will expire");
            running.tasks.shutdown().await;
        }
    }
}

impl Shared {
    /// One task: batch after batch until no unit is left or it is told to stop.
    async fn task(self: Arc<Self>, kind: UnitKind, stop: CancellationToken) {
        let context = &self.context;
        let mut worked = false;
        while !stop.is_cancelled() {
            let woken = self.wake.notified();
            let leased = context
                .state
                .lease_units(context.id, kind, &context.worker, LEASE, BATCH_UNITS, BATCH_DOCUMENTS)
                .await;
            match leased {
                Ok(units) if units.is_empty() => {
                    // Only a task that did something has news: an idle one would keep the engine spinning.
                    if std::mem::take(&mut worked) {
                        context.progressed.notify_one();
                    } else if !self.woken(woken, &stop).await {
                        return;
                    }
                }
                Ok(units) => {
                    self.work(kind, units, &stop).await;
                    worked = true;
                }
                Err(error) => {
                    tracing::warn!(%error, "units could not be leased; the next step tries again");
                    context.progressed.notify_one();
                    return;
                }
            }
        }
    }

    /// An idle task waits a moment for new units; false when none came.
    async fn woken(&self, woken: tokio::sync::futures::Notified<'_>, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = woken => true,
            () = stop.cancelled() => false,
            () = tokio::time::sleep(IDLE) => false,
        }
    }

    /// Works on one batch to its end, to the stop or to a failure, which is stored with its units.
    async fn work(&self, kind: UnitKind, units: Vec<LeasedUnit>, stop: &CancellationToken) {
        let mut batch = Batch::new(units);
        let result = batch.run(self, kind, stop).await;
        let context = &self.context;
        let open = batch.open_leases();
        if open.is_empty() {
            return;
        }
        let outcome = match result {
            Ok(()) => context.state.give_back(&open).await,
            Err(error) => {
                tracing::warn!(%error, units = open.len(), "a batch failed; its units are retried with backoff");
                if matches!(error, MergeError::DestinationLost(_)) {
                    self.destination_missed.store(true, Ordering::SeqCst);
                    context.progressed.notify_one();
                }
                let text = error.to_string();
                self.fail(&batch, &text).await
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "leases could not be given back; they will expire");
        }
    }

    async fn fail(&self, batch: &Batch, error: &str) -> Result<(), crate::state::StateError> {
        for unit in batch.open_units() {
            let doublings = unit.attempts.clamp(0, 6).unsigned_abs();
            let pause = RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX);
            self.context.state.fail_unit(unit.id, unit.epoch, error, pause).await?;
        }
        Ok(())
    }

    /// The lane for a source index; `None` when it was not there when lanes were looked up last.
    fn lane(&self, uuid: &str) -> Option<ReadLane> {
        lock(&self.lanes).get(uuid).cloned()
    }

    fn destination_lane(&self) -> ReadLane {
        lock(&self.destination).lane.clone()
    }

    /// An old chunk to a new one.
    fn transform(&self) -> Transform {
        Transform { vector_form: lock(&self.destination).form, ..self.context.transform }
    }
}

/// A poisoned lock only says that another thread panicked; what it guards here is always whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
