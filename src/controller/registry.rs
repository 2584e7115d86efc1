//! The engines that run in this process, by the uid of their resource.
//!
//! An engine is opened once and stepped many times; it is kept while its [`Key`] is the same, and stopped (workers
//! end at a checkpoint, leases are given back) when the key changes, when the resource is suspended, complete or
//! gone, and when this process ends or is no longer the leader. Stopping is safe at any moment, and so is not
//! stopping: every write is fenced by the engine itself.
//!
//! The registry does no I/O. It also remembers for each resource what only this process knows: how often it failed in
//! a row, and the status that was last written.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use jiff::Timestamp;
use tokio::{sync::broadcast, task::AbortHandle};

use super::{backoff, report::Failure};
use crate::{
    api::EsIndexMergeStatus,
    merge::{Engine, ValidMerge},
    metrics::Labels,
};

/// Between two wakes of the same resource, so that workers that fail at once do not make a hot loop.
const WAKE_EVERY: Duration = Duration::from_millis(250);

/// How many wakes may wait for a slow listener.
const WAKES: usize = 1024;

/// How often secrets are compared with those in use.
const SECRETS_EVERY: Duration = Duration::from_secs(30);

/// What the registry needs of an engine.
pub(super) trait Work: Send + Sync + 'static {
    /// Takes over the live fields of a changed spec.
    fn retune(&self, merge: ValidMerge);
    /// Resolves when a step has become worthwhile.
    fn progressed(&self) -> impl Future<Output = ()> + Send;
    /// Ends the workers at a checkpoint. Bounded in time.
    fn stop(&self) -> impl Future<Output = ()> + Send;
}

impl Work for Engine {
    fn retune(&self, merge: ValidMerge) {
        Engine::retune(self, merge);
    }

    async fn progressed(&self) {
        Engine::progressed(self).await;
    }

    async fn stop(&self) {
        Engine::stop(self).await;
    }
}

/// What an engine was opened with. Another key needs another engine; everything else is retuned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    identity: String,
    secrets: u64,
    insecure: (bool, bool),
    /// Asks for a privilege more, which is checked when an engine is opened.
    deletes_sources: bool,
}

impl Key {
    /// The key of a merge with secrets of that fingerprint.
    pub(super) fn new(merge: &ValidMerge, secrets: u64) -> Self {
        Self {
            identity: merge.identity(),
            secrets,
            insecure: (merge.source_insecure, merge.destination.insecure),
            deletes_sources: merge.cutover.delete_sources_after.is_some(),
        }
    }

    /// Whether an engine with this key serves that merge, as far as its secrets are the same.
    pub(super) fn fits(&self, merge: &ValidMerge) -> bool {
        *self == Self::new(merge, self.secrets)
    }
}

/// A resource, as the watch knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Named {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

struct Running<E> {
    engine: Arc<E>,
    key: Key,
    tuned: ValidMerge,
    /// When the secrets were last compared with the key.
    secrets_seen: Timestamp,
    /// What was wrong with them then, and how often in a row.
    hindrance: Option<(Failure, u32)>,
    waker: AbortHandle,
}

/// An engine that runs, with what is known about its secrets.
pub(super) struct Present<E> {
    /// The engine.
    pub engine: Arc<E>,
    /// What it was opened with.
    pub key: Key,
    /// Why it does not have the present secrets, if it does not.
    pub hindrance: Option<Failure>,
    /// Whether the secrets are to be looked at before the next step.
    pub secrets_are_due: bool,
}

struct Entry<E> {
    named: Named,
    running: Option<Running<E>>,
    failures: u32,
    finalized: bool,
    written: Option<(EsIndexMergeStatus, Timestamp)>,
    /// What the series in the metrics say.
    labels: Labels,
}

/// See the module.
pub(super) struct Registry<E> {
    entries: Mutex<HashMap<String, Entry<E>>>,
    wake: broadcast::Sender<Named>,
}

impl<E: Work> Registry<E> {
    /// An empty registry.
    pub(super) fn new() -> Self {
        let (wake, _) = broadcast::channel(WAKES);
        Self { entries: Mutex::new(HashMap::new()), wake }
    }

    /// Resources that are worth a reconcile: their engine progressed, or they are gone. Whoever is too slow misses some,
    /// which does little harm: a running merge is looked at every few seconds anyway.
    pub(super) fn wakes(&self) -> broadcast::Receiver<Named> {
        self.wake.subscribe()
    }

    /// Has a resource looked at.
    pub(super) fn wake(&self, named: Named) {
        // Nobody listens while this process is not the leader, and then nothing is to be looked at.
        let _listeners = self.wake.send(named);
    }

    /// The engine of `uid`.
    pub(super) fn running(&self, uid: &str, now: Timestamp) -> Option<Present<E>> {
        let entries = self.lock();
        let running = entries.get(uid)?.running.as_ref()?;
        let wait = match &running.hindrance {
            Some((_, times)) => backoff::delay(*times, backoff::LONGEST, 0.0),
            None => SECRETS_EVERY,
        };
        Some(Present {
            engine: Arc::clone(&running.engine),
            key: running.key.clone(),
            hindrance: running.hindrance.as_ref().map(|(failure, _)| failure.clone()),
            secrets_are_due: now.duration_since(running.secrets_seen).unsigned_abs() >= wait,
        })
    }

    /// Whether an engine of `uid` runs.
    pub(super) fn runs(&self, uid: &str) -> bool {
        self.lock().get(uid).is_some_and(|entry| entry.running.is_some())
    }

    /// Gives the engine of `uid` the live fields of `merge`, if they changed.
    pub(super) fn retune(&self, uid: &str, merge: &ValidMerge) {
        let mut entries = self.lock();
        if let Some(running) = entries.get_mut(uid).and_then(|entry| entry.running.as_mut())
            && running.tuned != *merge
        {
            running.engine.retune(merge.clone());
            running.tuned = merge.clone();
        }
    }

    /// The secrets of `uid` were looked at and are the same.
    pub(super) fn secrets_are_the_same(&self, uid: &str, now: Timestamp) {
        self.change_running(uid, |running| {
            running.secrets_seen = now;
            running.hindrance = None;
        });
    }

    /// The secrets of `uid` were looked at and cannot be taken. They are looked at again after one second, then after
    /// longer and longer: a password that is refused again and again may lock its user out.
    pub(super) fn secrets_cannot_be_taken(&self, uid: &str, failure: &Failure, now: Timestamp) {
        self.change_running(uid, |running| {
            let times = running.hindrance.as_ref().map_or(0, |(_, times)| *times);
            running.secrets_seen = now;
            running.hindrance = Some((failure.clone(), times.saturating_add(1)));
        });
    }

    /// The secrets of `uid` are looked at before its next step: it failed, perhaps because they changed. If it is known
    /// what is wrong with them, that has its own time.
    pub(super) fn suspect_secrets(&self, uid: &str) {
        self.change_running(uid, |running| {
            if running.hindrance.is_none() {
                running.secrets_seen = Timestamp::UNIX_EPOCH;
            }
        });
    }

    /// Keeps an engine that was just opened, and wakes its resource whenever it has progressed.
    ///
    /// Must be called inside the async runtime. An engine that was there before is returned for its owner to stop.
    pub(super) fn keep(
        &self,
        uid: &str,
        named: &Named,
        engine: Arc<E>,
        key: Key,
        merge: &ValidMerge,
        now: Timestamp,
    ) -> Option<Arc<E>> {
        let waker = tokio::spawn(wake_on_progress(Arc::clone(&engine), named.clone(), self.wake.clone()));
        let running = Running {
            engine,
            key,
            tuned: merge.clone(),
            secrets_seen: now,
            hindrance: None,
            waker: waker.abort_handle(),
        };
        let before = self.entry(uid, named, |entry| entry.running.replace(running));
        before.map(|before| {
            before.waker.abort();
            before.engine
        })
    }

    /// Stops the engine of `uid`, if one runs, and forgets it; the rest of what is known about `uid` stays.
    pub(super) async fn stop(&self, uid: &str) {
        let running = self.lock().get_mut(uid).and_then(|entry| entry.running.take());
        if let Some(running) = running {
            running.waker.abort();
            running.engine.stop().await;
        }
    }

    /// Stops every engine, all at the same time, and forgets everything; `unmeasure` removes the series of each
    /// resource, before anything is waited for.
    pub(super) async fn stop_all(&self, unmeasure: impl Fn(&Named, Labels)) {
        let entries = std::mem::take(&mut *self.lock());
        for entry in entries.values() {
            unmeasure(&entry.named, entry.labels);
        }
        let stopping = entries.into_values().filter_map(|entry| entry.running).map(|running| async move {
            running.waker.abort();
            running.engine.stop().await;
        });
        join_all(stopping).await;
    }

    /// Forgets everything about `uid`; returns its engine (for the caller to stop) and what its series say.
    pub(super) fn forget(&self, uid: &str) -> (Option<Arc<E>>, Labels) {
        let Some(entry) = self.lock().remove(uid) else { return (None, Labels::default()) };
        let engine = entry.running.map(|running| {
            running.waker.abort();
            running.engine
        });
        (engine, entry.labels)
    }

    /// The uids of what is known under that name: one, or more while a deleted resource lingers.
    pub(super) fn uids(&self, named: &Named) -> Vec<String> {
        let entries = self.lock();
        entries.iter().filter(|(_, entry)| entry.named == *named).map(|(uid, _)| uid.clone()).collect()
    }

    /// `uid` failed once more; returns how long to wait, at most `longest`. `jitter` is in `0.0..=1.0`.
    pub(super) fn failed(&self, uid: &str, named: &Named, longest: Duration, jitter: f64) -> Duration {
        self.entry(uid, named, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            backoff::delay(entry.failures, longest, jitter)
        })
    }

    /// `uid` works again.
    pub(super) fn succeeded(&self, uid: &str) {
        if let Some(entry) = self.lock().get_mut(uid) {
            entry.failures = 0;
        }
    }

    /// This process has put its finalizer on `uid`, whatever a cached copy of the resource says.
    pub(super) fn has_finalized(&self, uid: &str, named: &Named) {
        self.entry(uid, named, |entry| entry.finalized = true);
    }

    /// Whether this process has put its finalizer on `uid`.
    pub(super) fn finalized(&self, uid: &str) -> bool {
        self.lock().get(uid).is_some_and(|entry| entry.finalized)
    }

    /// The status that this process wrote last, and when.
    pub(super) fn written(&self, uid: &str) -> Option<(EsIndexMergeStatus, Timestamp)> {
        self.lock().get(uid)?.written.clone()
    }

    /// This process wrote that status.
    pub(super) fn has_written(&self, uid: &str, named: &Named, status: EsIndexMergeStatus, now: Timestamp) {
        self.entry(uid, named, |entry| entry.written = Some((status, now)));
    }

    /// The metrics of `uid` say that phase from now on; returns what they said before.
    pub(super) fn measured(&self, uid: &str, named: &Named, phase: &'static str) -> Option<&'static str> {
        self.entry(uid, named, |entry| entry.labels.phase.replace(phase))
    }

    /// The metrics of `uid` say from now on why it fails, or that it does not; returns what they said before.
    pub(super) fn fails(
        &self,
        uid: &str,
        named: &Named,
        reason: Option<&'static str>,
    ) -> Option<&'static str> {
        self.relabel(uid, named, reason, |labels| &mut labels.failing)
    }

    /// The metrics of `uid` say from now on what it waits for, or that it goes on; returns what they said before.
    pub(super) fn waits(
        &self,
        uid: &str,
        named: &Named,
        reason: Option<&'static str>,
    ) -> Option<&'static str> {
        self.relabel(uid, named, reason, |labels| &mut labels.waiting)
    }

    fn relabel(
        &self,
        uid: &str,
        named: &Named,
        reason: Option<&'static str>,
        label: fn(&mut Labels) -> &mut Option<&'static str>,
    ) -> Option<&'static str> {
        if reason.is_none() && !self.lock().contains_key(uid) {
            return None;
        }
        self.entry(uid, named, |entry| std::mem::replace(label(&mut entry.labels), reason))
    }

    /// The phase that the metrics of `uid` say: that of the last step, also if its status could not be written.
    pub(super) fn phase(&self, uid: &str) -> Option<&'static str> {
        self.lock().get(uid)?.labels.phase
    }

    /// How many engines run, and how many resources wait for a retry.
    pub(super) fn size(&self) -> (usize, usize) {
        let entries = self.lock();
        let running = entries.values().filter(|entry| entry.running.is_some()).count();
        (running, entries.values().filter(|entry| entry.failures > 0).count())
    }

    fn change_running(&self, uid: &str, change: impl FnOnce(&mut Running<E>)) {
        if let Some(running) = self.lock().get_mut(uid).and_then(|entry| entry.running.as_mut()) {
            change(running);
        }
    }

    fn entry<T>(&self, uid: &str, named: &Named, change: impl FnOnce(&mut Entry<E>) -> T) -> T {
        let mut entries = self.lock();
        change(entries.entry(uid.to_owned()).or_insert_with(|| Entry {
            named: named.clone(),
            running: None,
            failures: 0,
            finalized: false,
            written: None,
            labels: Labels::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry<E>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wake_on_progress<E: Work>(engine: Arc<E>, named: Named, wake: broadcast::Sender<Named>) {
    loop {
        engine.progressed().await;
        // Nobody listens while this process is not the leader, and then its engines are being stopped.
        let _listeners = wake.send(named.clone());
        tokio::time::sleep(WAKE_EVERY).await;
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
