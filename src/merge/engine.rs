//! One merge in one process: its connections, its claim and its workers.
//!
//! Any number of engines may exist for the same merge, in any number of processes: units are leased,
//! every write carries an external version, and phases change by compare-and-set. Two engines only
//! do the same work twice; they cannot lose or double anything. One of them at a time decides (a lease for the
//! length of a step), so that none undoes what another did to settings and blocks; the others' workers help.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Mutex, Notify};

use super::act;
use super::error::{MergeCategory, MergeError, Problem};
use super::memo::Memo;
use super::observe::{Observation, Rows};
use super::phase::Phase;
use super::plan::{Action, Next, help, plan};
use super::preflight::{self, Parts};
use super::progress::Pace;
use super::report::{self, Report};
use super::secrets::{SecretSource, Secrets};
use super::unreached;
use super::valid::ValidMerge;
use super::worker::WorkerPool;
use crate::api::EsIndexMergeSpec;
use crate::chunk::Transform;
use crate::collections::Collections;
use crate::elastic::Cluster;
use crate::state::{Claim, Login, MergeId, MergeRow, NewMerge, State};

/// How long everything may take to be reached and checked.
const CONNECT: Duration = Duration::from_secs(80);
/// How long `stop` waits for workers to reach a checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the lease of a step lasts without a sign of life: whoever is stopped for longer must not go on acting.
pub(super) const STEP_LEASE: Duration = Duration::from_secs(5);
/// How often it is renewed within a long action.
const STEP_RENEWAL: Duration = Duration::from_secs(1);

/// A merge that is connected and claimed. Cheap to step, stoppable at any moment.
pub struct Engine {
    pub(super) id: MergeId,
    pub(super) merge: Arc<ValidMerge>,
    pub(super) source: Cluster,
    pub(super) destination: Cluster,
    pub(super) collections: Collections,
    pub(super) state: State,
    pub(super) pool: WorkerPool,
    pace: std::sync::Mutex<Pace>,
    tuning: RwLock<Arc<ValidMerge>>,
    progressed: Arc<Notify>,
    /// One step at a time.
    stepping: Mutex<()>,
    /// The name of this process in leases.
    pub(super) process: String,
    /// The passes that there were, which the state may have forgotten.
    pub(super) known_passes: act::KnownPasses,
    /// How far the segments of the destination were looked at.
    pub(super) places: std::sync::Mutex<act::Places>,
    /// Collections without an index of which it is known that one would be shown to us.
    pub(super) shown: std::sync::Mutex<BTreeSet<i64>>,
}

/// Everything is reached and checked; nothing is claimed yet.
pub struct Connected {
    merge: ValidMerge,
    worker: String,
    parts: Parts,
}

impl Connected {
    /// Whether the destination can be had. Claims nothing: another merge may still be faster.
    pub async fn check_claim(&self) -> Result<(), MergeError> {
        match self.parts.state.claimed(&self.wanted()).await? {
            Some(claim) => self.ours(claim).map(drop),
            None => Ok(()),
        }
    }

    /// Claims the destination's name: from here on there is something to release.
    pub async fn claim(self) -> Result<Engine, MergeError> {
        let row = self.ours(self.parts.state.claim(&self.wanted()).await?)?;
        Engine::begin(self, &row).await
    }

    fn wanted(&self) -> NewMerge {
        NewMerge {
            owner: self.merge.owner.clone(),
            destination_cluster: self.parts.destination.uuid().to_owned(),
            destination_index: self.merge.destination.index.to_string(),
            identity: self.merge.identity(),
        }
    }

    fn ours(&self, claim: Claim) -> Result<MergeRow, MergeError> {
        match claim {
            Claim::Ours(row) => Ok(row),
            Claim::HeldBy { owner, .. } => Err(preflight::claimed(&self.merge, &owner)),
            Claim::OtherIdentity { .. } => Err(preflight::other_identity(&self.merge)),
        }
    }
}

impl Engine {
    /// Connects everything and checks everything (all problems at once).
    ///
    /// Where that fails, writers that nobody has a reason to refuse any more are served all the same (see
    /// `unreached.rs`).
    ///
    /// `worker` names this process in leases; it must be unique among the processes of a merge.
    pub async fn connect(
        merge: ValidMerge,
        secrets: Secrets,
        worker: String,
    ) -> Result<Connected, MergeError> {
        let failure = match tokio::time::timeout(CONNECT, preflight::connect(&merge, &secrets)).await {
            Ok(Ok(parts)) => return Ok(Connected { merge, worker, parts }),
            Ok(Err(failure)) => failure,
            Err(_) => {
                let message = format!(
                    "could not be checked within {} s: a server that it names takes connections and does not answer; look at the clusters' health",
                    CONNECT.as_secs()
                );
                let problem = Problem { may_pass: true, ..Problem::new("spec", message) };
                MergeError::Problems { category: MergeCategory::ChecksFailed, problems: vec![problem] }
            }
        };
        if let Err(error) = unreached::serve_writers(&merge, &secrets, &worker, Timestamp::now()).await {
            tracing::debug!(%error, "whether writers can be served cannot be found out either");
        }
        Err(failure)
    }

    /// [`Engine::connect`], then [`Connected::claim`].
    pub async fn open(merge: ValidMerge, secrets: Secrets, worker: String) -> Result<Engine, MergeError> {
        Engine::connect(merge, secrets, worker).await?.claim().await
    }

    /// Releases a merge that is complete, which holds nothing but its claim: nothing on a server is to be put back, and
    /// the servers may be gone by then. One that was released already holds nothing at all. False if it is neither, or
    /// there is none.
    pub async fn release_complete(merge: &ValidMerge, state: &Login) -> Result<bool, MergeError> {
        let state = State::connect(state, &merge.state_schema).await?;
        let row = state.merge_of(&merge.owner, &merge.identity()).await?;
        let holds_its_claim_at_most = |row: &MergeRow| {
            let is_complete = row.phase == Phase::Completed.as_str()
                && row.destination_index == merge.destination.index.as_str();
            row.released_at.is_some() || is_complete
        };
        let Some(row) = row.filter(holds_its_claim_at_most) else { return Ok(false) };
        state.release(row.id).await?;
        Ok(true)
    }

    async fn begin(connected: Connected, row: &MergeRow) -> Result<Engine, MergeError> {
        let Connected { merge, worker, parts } = connected;
        let Parts { source, destination, collections, state } = parts;
        // A process of our name that held leases is dead (a container that was restarted): no need to wait for them.
        state.take_back(row.id, &worker).await?;
        // What failed may have failed for a secret that is another one now.
        state.retry_now(row.id).await?;
        let merge = Arc::new(merge);
        let progressed = Arc::new(Notify::new());
        let pool = WorkerPool::new(super::worker::Context {
            id: row.id,
            worker: worker.clone(),
            source: source.clone(),
            destination: destination.clone(),
            collections: collections.clone(),
            state: state.clone(),
            transform: Transform {
                contract: merge.destination.contract,
                vector_size: merge.destination.vector_size,
                vector_form: preflight::vector_form(destination.version(), None),
            },
            destination_index: merge.destination.index.clone(),
            writer_alias: act::writer_alias(&merge),
            progressed: Arc::clone(&progressed),
        });
        pool.tune(&merge.workers);
        Ok(Engine {
            id: row.id,
            tuning: RwLock::new(Arc::clone(&merge)),
            merge,
            source,
            destination,
            collections,
            state,
            pool,
            pace: std::sync::Mutex::new(Pace::default()),
            progressed,
            stepping: Mutex::new(()),
            process: worker,
            known_passes: act::KnownPasses::default(),
            places: std::sync::Mutex::default(),
            shown: std::sync::Mutex::default(),
        })
    }

    /// Takes over the live fields of a changed spec.
    pub fn retune(&self, merge: ValidMerge) {
        self.pool.tune(&merge.workers);
        let mut tuning = self.tuning.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *tuning = Arc::new(merge);
    }

    /// One short step: observe, plan, act, report. Bounded in time; the data is moved by workers beside it.
    ///
    /// While another process decides for this merge, the step only lets this one's workers help.
    pub async fn step(&self, now: Timestamp) -> Result<Report, MergeError> {
        let _one_at_a_time = self.stepping.lock().await;
        if !self.state.take_step(self.id, &self.process, STEP_LEASE).await? {
            return self.help(now).await;
        }
        let result = tokio::select! {
            result = Box::pin(self.decide(now)) => result,
            () = lose_step(&self.state, self.id, &self.process) => self.help(now).await,
        };
        if let Err(error) = self.state.end_step(self.id, &self.process).await {
            tracing::debug!(%error, "the lease of a step was not given back; it runs out by itself");
        }
        let missed = match &result {
            Ok(report) => self.pool.missed_destination() && report.phase != Phase::Completed,
            Err(MergeError::Destination(error)) => error.is_missing_index(),
            Err(MergeError::DestinationLost(_)) => true,
            Err(_) => false,
        };
        if missed {
            if act::is_destination_lost(self).await? {
                return Err(self.lost(now).await);
            }
            act::notice_missing_alias(self).await?;
        }
        result
    }

    /// The error of a destination that is lost. No verdict can come any more: nobody is refused until an attempt to cut
    /// over takes too long.
    async fn lost(&self, now: Timestamp) -> MergeError {
        let lost = act::lost(self);
        if let Err(error) = Box::pin(unreached::give_up(self, &lost.to_string(), now)).await {
            tracing::warn!(%error, "the cutover cannot be given up; the next step tries it again");
        }
        lost
    }

    /// This process does not go on with the merge: an attempt to cut over is given up, and what one left that is over comes
    /// off, as nobody may be there to see to it in time. Not once the destination is handed over, and not where another
    /// process decides at this moment. True if writers are served again by it.
    ///
    /// Needs the state and the source, whose own limits are minutes.
    pub async fn give_cutover_up(&self, why: &str, now: Timestamp) -> Result<bool, MergeError> {
        let _one_at_a_time = self.stepping.lock().await;
        Box::pin(unreached::give_up(self, why, now)).await
    }

    /// [`Engine::give_cutover_up`] for a merge that can have no engine, as its spec is refused: what leads to its source and
    /// to its state is enough. Nothing is done where that is refused too, or leads to no merge of that owner.
    pub async fn give_refused_up(
        owner: &str,
        spec: &EsIndexMergeSpec,
        secrets: &impl SecretSource,
        worker: &str,
        why: &str,
        now: Timestamp,
    ) -> Result<bool, MergeError> {
        Box::pin(unreached::give_up_refused(owner, spec, secrets, worker, why, now)).await
    }

    /// [`Engine::give_cutover_up`] for a process that ends, unless another one is seen to go on with the merge. Takes some
    /// seconds longer, and only in a cutover.
    pub async fn leave_cutover(&self, why: &str, now: Timestamp) -> Result<bool, MergeError> {
        let _one_at_a_time = self.stepping.lock().await;
        Box::pin(unreached::leave(self, why, now)).await
    }

    /// A step with the lease for it, which is looked at before each action: this process may have been stopped.
    async fn decide(&self, now: Timestamp) -> Result<Report, MergeError> {
        let spec = self.spec();
        let (seen, rows) = self.observe().await?;
        let decided = plan(&spec, &seen, now);
        self.note_what_there_was(&seen, &rows);
        self.outnumber_forgotten_passes(&decided.actions, &rows).await?;
        for action in &decided.actions {
            if !self.still_decides().await? {
                return self.help(now).await;
            }
            match act::act(self, &spec, action, seen.phase, now).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    act::look_for_sources_anew(self, &spec, action, &error).await;
                    return Err(error);
                }
            }
        }
        let enters = decided.actions.iter().any(|action| matches!(action, Action::Enter(_)));
        // The next step looks at once, but for the phase, which whoever makes the steps goes by.
        let is_left_to_the_next = decided.next == Next::Now && !enters;
        let changed = decided.actions.iter().any(Action::changes_what_is_seen) && !is_left_to_the_next;
        let (after, rows) = if changed { self.observe().await? } else { (seen.clone(), rows) };
        self.note_what_there_was(&after, &rows);
        let following = plan(&spec, &after, now);
        // What the plan would wait for has come: something else is to be done, and at once.
        let is_over = following.actions != decided.actions;
        let (next, waiting) =
            if is_over { (Next::Now, following.waiting) } else { (decided.next, decided.waiting) };
        Ok(self.report(&spec, &after, &rows, next, waiting, now))
    }

    /// Whether this process still has the lease of the step; renews it. Asked before what must not be done late.
    pub(super) async fn still_decides(&self) -> Result<bool, MergeError> {
        Ok(self.state.keep_step(self.id, &self.process, STEP_LEASE).await?)
    }

    /// What the state may not remember later, if it is set back.
    fn note_what_there_was(&self, seen: &Observation, rows: &Rows) {
        self.known_passes.note(rows.merge.pass);
        if seen.phase == Phase::Completed {
            self.known_passes.note_completion();
        } else if seen.cutover.handed_over {
            self.known_passes.note_handover(true);
        }
    }

    /// Before what goes by passes: the state may have forgotten some.
    async fn outnumber_forgotten_passes(&self, actions: &[Action], rows: &Rows) -> Result<(), MergeError> {
        if rows.memo.destination.is_some() && actions.iter().any(Action::goes_by_passes) {
            act::outnumber_forgotten_passes(self, &rows.memo, rows.merge.pass).await?;
        }
        Ok(())
    }

    /// A step while another process decides.
    async fn help(&self, now: Timestamp) -> Result<Report, MergeError> {
        let spec = self.spec();
        let (seen, rows) = self.observe().await?;
        self.note_what_there_was(&seen, &rows);
        let decided = help(&spec, &seen);
        self.outnumber_forgotten_passes(&decided.actions, &rows).await?;
        for action in &decided.actions {
            act::act(self, &spec, action, seen.phase, now).await?;
        }
        Ok(self.report(&spec, &seen, &rows, decided.next, decided.waiting, now))
    }

    /// Resolves when workers have made a step worthwhile: no open unit is left, or one failed.
    pub async fn progressed(&self) {
        self.progressed.notified().await;
    }

    /// Workers stop at their next checkpoint and give their leases back. Bounded.
    pub async fn stop(&self) {
        self.pool.rest(STOP_TIMEOUT).await;
    }

    /// The resource is going away: stop, put back what was changed for the load, lift our blocks unless
    /// the merge is complete, release the claim. Deletes the destination only if told so, and only if
    /// this merge created it.
    pub async fn dismantle(&self, delete_destination: bool) -> Result<(), MergeError> {
        self.stop().await;
        act::dismantle(self, delete_destination).await
    }

    /// The spec as last tuned.
    pub(super) fn spec(&self) -> Arc<ValidMerge> {
        Arc::clone(&self.tuning.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(super) async fn merge_row(&self) -> Result<MergeRow, MergeError> {
        self.state
            .merge(self.id)
            .await?
            .ok_or_else(|| MergeError::Internal("the merge's row is gone from the state database".to_owned()))
    }

    /// Lets `change` edit the stored memo, in one transaction; returns what is stored.
    pub(super) async fn edit_memo(&self, change: impl FnOnce(&mut Memo) + Send) -> Result<Memo, MergeError> {
        edit_memo(&self.state, self.id, change).await
    }

    fn report(
        &self,
        spec: &ValidMerge,
        seen: &super::observe::Observation,
        rows: &Rows,
        next: Next,
        waiting: Option<super::plan::Waiting>,
        now: Timestamp,
    ) -> Report {
        let mut pace = self.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lanes = self.pool.lanes();
        report::report(&report::Inputs { spec, seen, rows, next, waiting, lanes, now }, &mut pace)
    }
}

/// Renews the lease of the step; resolves when somebody else has it.
pub(super) async fn lose_step(state: &State, id: MergeId, process: &str) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(STEP_RENEWAL).await;
        let asked = Instant::now();
        let left = STEP_LEASE.saturating_sub(renewed.elapsed());
        match tokio::time::timeout(left, state.keep_step(id, process, STEP_LEASE)).await {
            Ok(Ok(true)) => renewed = asked,
            Ok(Ok(false)) => return,
            Ok(Err(error)) if renewed.elapsed() < STEP_LEASE => {
                tracing::debug!(%error, "the lease of a step could not be renewed");
            }
            // Postgres may answer others.
            Ok(Err(_)) | Err(_) => {
                tracing::info!("the lease of a step ran out");
                return;
            }
        }
    }
}

/// Lets `change` edit the stored memo of a merge, in one transaction; returns what is stored.
pub(super) async fn edit_memo(
    state: &State,
    id: MergeId,
    change: impl FnOnce(&mut Memo) + Send,
) -> Result<Memo, MergeError> {
    let edit = |value: serde_json::Value| {
        let mut memo = Memo::parse(value)?;
        change(&mut memo);
        serde_json::to_value(&memo)
            .map_err(|error| MergeError::Internal(format!("the memo cannot be written: {error}")))
    };
    Memo::parse(state.edit_memo(id, edit).await??)
}
