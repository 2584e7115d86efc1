//! What the controller measures, in the text format of Prometheus.
//!
//! Labels come from finite sets (phases, error categories), but for the series of a merge, whose labels are the
//! names of existing resources; they are removed with the resource.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// How something ended: `ok`, or the category of its error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Which merge a series is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Merge {
    namespace: String,
    name: String,
}

/// Which merge, and its phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MergePhase {
    namespace: String,
    name: String,
    phase: &'static str,
}

/// Which merge, and why it cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MergeReason {
    namespace: String,
    name: String,
    reason: &'static str,
}

/// The labels of a merge that change while it runs, as its series have them now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Labels {
    /// Its phase.
    pub phase: Option<&'static str>,
    /// Why its last attempt failed.
    pub failing: Option<&'static str>,
    /// What it waits for.
    pub waiting: Option<&'static str>,
}

/// A merge's numbers, as they stand in its status.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MergeNumbers {
    /// The phase by name.
    pub phase: &'static str,
    /// Share of the phase's work, 0 to 1.
    pub progress: f64,
    /// Chunks done and all.
    pub documents: (u64, u64),
    /// Collections done and all.
    pub collections: (u64, u64),
    /// Bytes copied and compared since the start.
    pub bytes: u64,
    /// Chunks in quarantine.
    pub quarantined: u64,
    /// Collections that need attention.
    pub attention: u64,
    /// How far the destination is behind.
    pub lag: Option<Duration>,
    /// Processes that hold work.
    pub workers: u64,
    /// Source indices that were deleted, and that were to be deleted and are kept.
    pub sources: (u64, u64),
}

/// Every metric of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<Outcome, Counter>,
    reconcile_seconds: Histogram,
    status_writes: Family<Outcome, Counter>,
    events: Family<Outcome, Counter>,
    leader: Gauge,
    engines: Gauge,
    in_backoff: Gauge,
    phase: Family<MergePhase, Gauge>,
    failing: Family<MergeReason, Gauge>,
    waiting: Family<MergeReason, Gauge>,
    progress: Family<Merge, Gauge<f64, AtomicU64>>,
    documents_done: Family<Merge, Gauge<i64, AtomicI64>>,
    documents: Family<Merge, Gauge<i64, AtomicI64>>,
    collections_done: Family<Merge, Gauge<i64, AtomicI64>>,
    collections: Family<Merge, Gauge<i64, AtomicI64>>,
    bytes_done: Family<Merge, Gauge<i64, AtomicI64>>,
    quarantined: Family<Merge, Gauge<i64, AtomicI64>>,
    attention: Family<Merge, Gauge<i64, AtomicI64>>,
    workers: Family<Merge, Gauge<i64, AtomicI64>>,
    sources_deleted: Family<Merge, Gauge<i64, AtomicI64>>,
    sources_kept: Family<Merge, Gauge<i64, AtomicI64>>,
    lag_seconds: Family<Merge, Gauge<f64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("es_index_merge");
        let reconcile_seconds = Histogram::new(exponential_buckets(0.005, 2.0, 15));
        registry.register("reconcile_seconds", "How long a reconcile took", reconcile_seconds.clone());
        Self {
            reconciles: registered(&mut registry, "reconciles", "Reconciles, by how they ended"),
            status_writes: registered(
                &mut registry,
                "status_writes",
                "Writes of a status, by how they ended",
            ),
            events: registered(&mut registry, "events", "Events published, by how that ended"),
            leader: registered(&mut registry, "leader", "1 while this process is the leader"),
            engines: registered(&mut registry, "engines", "Merges that are connected in this process"),
            in_backoff: registered(
                &mut registry,
                "objects_in_backoff",
                "Resources that are retried after a failure",
            ),
            phase: registered(&mut registry, "phase", "1 for the phase in which a merge is"),
            failing: registered(
                &mut registry,
                "failing",
                "1 while a merge's last attempt failed, by reason; no series when it did not",
            ),
            waiting: registered(
                &mut registry,
                "waiting",
                "1 while a merge does not go on by itself, by reason; no series when it does",
            ),
            progress: registered(&mut registry, "progress_ratio", "Share of the phase's work that is done"),
            documents_done: registered(&mut registry, "documents_done", "Chunks done in the phase"),
            documents: registered(&mut registry, "documents", "Chunks in all"),
            collections_done: registered(&mut registry, "collections_done", "Collections done in the phase"),
            collections: registered(&mut registry, "collections", "Collections in all"),
            bytes_done: registered(&mut registry, "bytes_done", "Bytes copied and compared since the start"),
            quarantined: registered(&mut registry, "quarantined", "Chunks in quarantine"),
            attention: registered(&mut registry, "attention", "Collections that need attention"),
            workers: registered(&mut registry, "workers", "Processes that hold work"),
            sources_deleted: registered(
                &mut registry,
                "sources_deleted",
                "Source indices deleted after the verdict",
            ),
            sources_kept: registered(
                &mut registry,
                "sources_kept",
                "Source indices that were to be deleted and are kept",
            ),
            lag_seconds: registered(
                &mut registry,
                "lag_seconds",
                "How far the destination is behind the sources",
            ),
            reconcile_seconds,
            registry: Arc::new(registry),
        }
    }
}

fn registered<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: prometheus_client::registry::Metric + Clone + Default,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Everything, in the text format of `OpenMetrics`.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// A reconcile ended: `ok`, or the category of its error.
    pub fn reconciled(&self, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Outcome { outcome }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// A status was written, or could not be.
    pub fn status_written(&self, outcome: &'static str) {
        self.status_writes.get_or_create(&Outcome { outcome }).inc();
    }

    /// An event was published, or could not be.
    pub fn event_published(&self, outcome: &'static str) {
        self.events.get_or_create(&Outcome { outcome }).inc();
    }

    /// Whether this process is the leader.
    pub fn leading(&self, leading: bool) {
        self.leader.set(i64::from(leading));
    }

    /// How many merges are connected, and how many resources wait for a retry.
    pub fn registry_size(&self, engines: usize, in_backoff: usize) {
        self.engines.set(i64::try_from(engines).unwrap_or(i64::MAX));
        self.in_backoff.set(i64::try_from(in_backoff).unwrap_or(i64::MAX));
    }

    /// The numbers of a merge; `before` is the phase that was last reported, if any.
    pub fn merge(&self, namespace: &str, name: &str, before: Option<&'static str>, numbers: &MergeNumbers) {
        let merge = Merge { namespace: namespace.to_owned(), name: name.to_owned() };
        if let Some(before) = before.filter(|before| *before != numbers.phase) {
            self.phase.remove(&merge.in_phase(before));
        }
        self.phase.get_or_create(&merge.in_phase(numbers.phase)).set(1);
        self.progress.get_or_create(&merge).set(numbers.progress);
        for (family, value) in [
            (&self.documents_done, numbers.documents.0),
            (&self.documents, numbers.documents.1),
            (&self.collections_done, numbers.collections.0),
            (&self.collections, numbers.collections.1),
            (&self.bytes_done, numbers.bytes),
            (&self.quarantined, numbers.quarantined),
            (&self.attention, numbers.attention),
            (&self.workers, numbers.workers),
            (&self.sources_deleted, numbers.sources.0),
            (&self.sources_kept, numbers.sources.1),
        ] {
            family.get_or_create(&merge).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        match numbers.lag {
            Some(lag) => {
                self.lag_seconds.get_or_create(&merge).set(lag.as_secs_f64());
            }
            None => {
                self.lag_seconds.remove(&merge);
            }
        }
    }

    /// Why a merge cannot go on, `None` if it can; `before` is what was last said.
    pub fn failing(
        &self,
        namespace: &str,
        name: &str,
        before: Option<&'static str>,
        reason: Option<&'static str>,
    ) {
        let merge = Merge { namespace: namespace.to_owned(), name: name.to_owned() };
        merge.gives_reason(&self.failing, before, reason);
    }

    /// What a merge waits for, `None` if it goes on; `before` is what was last said.
    pub fn waiting(
        &self,
        namespace: &str,
        name: &str,
        before: Option<&'static str>,
        reason: Option<&'static str>,
    ) {
        let merge = Merge { namespace: namespace.to_owned(), name: name.to_owned() };
        merge.gives_reason(&self.waiting, before, reason);
    }

    /// A step failed: what was measured in the last good one says nothing any more.
    pub fn unmeasured(&self, namespace: &str, name: &str) {
        let merge = Merge { namespace: namespace.to_owned(), name: name.to_owned() };
        self.lag_seconds.remove(&merge);
        self.workers.remove(&merge);
    }

    /// The resource is gone, or this process does not lead any more: its series go.
    pub fn forget(&self, namespace: &str, name: &str, labels: Labels) {
        let merge = Merge { namespace: namespace.to_owned(), name: name.to_owned() };
        if let Some(phase) = labels.phase {
            self.phase.remove(&merge.in_phase(phase));
        }
        merge.gives_reason(&self.failing, labels.failing, None);
        merge.gives_reason(&self.waiting, labels.waiting, None);
        self.progress.remove(&merge);
        self.lag_seconds.remove(&merge);
        for family in [
            &self.documents_done,
            &self.documents,
            &self.collections_done,
            &self.collections,
            &self.bytes_done,
            &self.quarantined,
            &self.attention,
            &self.workers,
            &self.sources_deleted,
            &self.sources_kept,
        ] {
            family.remove(&merge);
        }
    }
}

impl Merge {
    fn in_phase(&self, phase: &'static str) -> MergePhase {
        MergePhase { namespace: self.namespace.clone(), name: self.name.clone(), phase }
    }

    fn with_reason(&self, reason: &'static str) -> MergeReason {
        MergeReason { namespace: self.namespace.clone(), name: self.name.clone(), reason }
    }

    /// At most one series of `family` is about this merge: that of its present reason.
    fn gives_reason(
        &self,
        family: &Family<MergeReason, Gauge>,
        before: Option<&'static str>,
        reason: Option<&'static str>,
    ) {
        if let Some(before) = before.filter(|_| before != reason) {
            family.remove(&self.with_reason(before));
        }
        if let Some(reason) = reason {
            family.get_or_create(&self.with_reason(reason)).set(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn numbers(phase: &'static str) -> MergeNumbers {
        MergeNumbers {
            phase,
            progress: 0.5,
            documents: (5, 10),
            lag: Some(Duration::from_secs(3)),
            ..Default::default()
        }
    }

    #[test]
    fn a_merge_is_in_one_phase_at_a_time() {
        let metrics = Metrics::default();
        metrics.merge("ns", "a", None, &numbers("Copying"));
        metrics.merge("ns", "a", Some("Copying"), &numbers("Indexing"));
        let text = metrics.render().unwrap();
        assert!(
            text.contains(r#"es_index_merge_phase{namespace="ns",name="a",phase="Indexing"} 1"#),
            "{text}"
        );
        assert!(!text.contains("Copying"), "{text}");
        assert!(text.contains(r#"es_index_merge_documents_done{namespace="ns",name="a"} 5"#), "{text}");
        assert!(text.contains(r#"es_index_merge_lag_seconds{namespace="ns",name="a"} 3.0"#), "{text}");
    }

    #[test]
    fn a_merge_that_is_gone_leaves_no_series() {
        let metrics = Metrics::default();
        metrics.merge("ns", "a", None, &numbers("Copying"));
        metrics.failing("ns", "a", None, Some("SourceUnavailable"));
        metrics.waiting("ns", "a", None, Some("UnitsFailing"));
        let labels = Labels {
            phase: Some("Copying"),
            failing: Some("SourceUnavailable"),
            waiting: Some("UnitsFailing"),
        };
        metrics.forget("ns", "a", labels);
        assert!(!metrics.render().unwrap().contains(r#"name="a""#));
    }

    #[test]
    fn a_merge_fails_for_one_reason_at_a_time_and_for_none_when_it_works_again() {
        let metrics = Metrics::default();
        let failing =
            |reason| format!(r#"es_index_merge_failing{{namespace="ns",name="a",reason="{reason}"}} 1"#);
        metrics.failing("ns", "a", None, Some("SourceUnavailable"));
        metrics.failing("ns", "a", Some("SourceUnavailable"), Some("StateUnavailable"));
        let text = metrics.render().unwrap();
        assert!(text.contains(&failing("StateUnavailable")) && !text.contains("SourceUnavailable"), "{text}");
        metrics.failing("ns", "a", Some("StateUnavailable"), Some("StateUnavailable"));
        assert!(metrics.render().unwrap().contains(&failing("StateUnavailable")));
        metrics.failing("ns", "a", Some("StateUnavailable"), None);
        assert!(!metrics.render().unwrap().contains(r#"name="a""#));
    }

    #[test]
    fn a_merge_waits_for_one_thing_at_a_time_and_for_none_when_it_goes_on() {
        let metrics = Metrics::default();
        metrics.waiting("ns", "a", None, Some("CutoverHeld"));
        metrics.waiting("ns", "a", Some("CutoverHeld"), Some("UnitsFailing"));
        let text = metrics.render().unwrap();
        let series = r#"es_index_merge_waiting{namespace="ns",name="a",reason="UnitsFailing"} 1"#;
        assert!(text.contains(series) && !text.contains("CutoverHeld"), "{text}");
        metrics.waiting("ns", "a", Some("UnitsFailing"), None);
        assert!(!metrics.render().unwrap().contains(r#"name="a""#));
    }

    #[test]
    fn no_lag_and_no_workers_are_told_of_a_step_that_failed() {
        let metrics = Metrics::default();
        metrics.merge("ns", "a", None, &numbers("Copying"));
        metrics.unmeasured("ns", "a");
        let text = metrics.render().unwrap();
        assert!(!text.contains("lag_seconds{") && !text.contains("workers{"), "{text}");
        assert!(text.contains(r#"es_index_merge_documents_done{namespace="ns",name="a"} 5"#), "{text}");
    }

    #[test]
    fn reconciles_are_counted_by_outcome() {
        let metrics = Metrics::default();
        metrics.reconciled("ok", Duration::from_millis(20));
        metrics.reconciled("SourceUnavailable", Duration::from_millis(20));
        let text = metrics.render().unwrap();
        assert!(text.contains(r#"es_index_merge_reconciles_total{outcome="ok"} 1"#), "{text}");
        assert!(text.contains("es_index_merge_reconcile_seconds_count 2"), "{text}");
    }
}
