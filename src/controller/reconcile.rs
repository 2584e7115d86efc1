//! One look at one resource: observe, decide, act, report, write.
//!
//! What fails in a merge is an outcome that ends up in the status, not an error; an error here means that the
//! Kubernetes API did not do what was asked, and is retried with the resource's own backoff.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Client, Resource, ResourceExt,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::controller::Action,
};
use tracing::{debug, info, warn};

use super::{
    act::act,
    backoff,
    events::Publisher,
    registry::{Named, Registry},
    report::{Failure, Outcome, happenings, next_status, worth_writing},
    write,
};
use crate::{
    api::{
        DeletionPolicy, EsIndexMerge, EsIndexMergeSpec, EsIndexMergeStatus, FINALIZER,
        FORCE_DELETE_ANNOTATION,
    },
    merge::{Engine, Next, Phase, ValidMerge},
    metrics::Metrics,
};

/// After a step that asks to be followed at once.
const AT_ONCE: Duration = Duration::from_millis(10);

/// What metrics call an error of [`reconcile`] itself.
const UNAVAILABLE: &str = "KubernetesUnavailable";

/// What every reconcile shares.
pub(super) struct Context {
    pub client: Client,
    pub registry: Registry<Engine>,
    pub events: Publisher,
    pub metrics: Metrics,
    /// The name of this process in leases of units.
    pub worker: String,
}

/// The Kubernetes API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReconcileError {
    /// A write was refused or got no answer.
    #[error("{what} could not be written: {source}")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Why it was not.
        source: Box<kube::Error>,
    },
    /// A write got no answer.
    #[error("{what} could not be written: no answer within 10 s")]
    Timeout {
        /// What was to be written.
        what: &'static str,
    },
}

/// One look at one resource.
pub(super) async fn reconcile(
    object: Arc<DeserializeGuard<EsIndexMerge>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let now = Timestamp::now();
    // Pure: the resource, what we last said about it, and whether it is going away.
    let seen = Seen::new(&object, &context.registry, now);
    // Pure: what is to be done about it.
    let intent = decide(&seen, context.registry.runs(&seen.uid));
    // Client required: make one step of the merge, or stop it, or clean up after it.
    let outcome = act(&context, &seen, intent, now).await?;
    // Client required: status, events, metrics and finalizer, each only if it changed.
    report(&context, &seen, &outcome, now).await?;
    // Pure: when to look again.
    let action = next(&context.registry, &seen, &outcome, rand::random());
    let category = outcome.failure().map_or("ok", |failure| failure.category);
    context.metrics.reconciled(category, (Timestamp::now().duration_since(now)).unsigned_abs());
    Ok(action)
}

/// After an error of [`reconcile`] itself.
#[allow(clippy::needless_pass_by_value)] // the signature that kube asks for
pub(super) fn after_error(
    object: Arc<DeserializeGuard<EsIndexMerge>>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Action {
    let seen = Seen::new(&object, &context.registry, Timestamp::now());
    let wait = after_failure(&context.registry, &seen, rand::random());
    context.metrics.reconciled(UNAVAILABLE, Duration::ZERO);
    write::measure_failure(&context, &seen, Some(UNAVAILABLE));
    warn!(namespace = seen.named.namespace, name = seen.named.name, %error, ?wait, "a reconcile failed");
    Action::requeue(wait)
}

/// A resource, as far as a decision needs it.
pub(super) struct Seen {
    pub uid: String,
    pub named: Named,
    pub metadata: ObjectMeta,
    /// The spec, or why it cannot be read.
    pub spec: Result<EsIndexMergeSpec, InvalidObject>,
    /// What we last said, according to ourselves or else to the resource.
    pub status: EsIndexMergeStatus,
    /// When we said it; `None` if another process did.
    pub written_at: Option<Timestamp>,
    /// Our finalizer is on it.
    pub finalized: bool,
    /// Since when it is being deleted.
    pub deleting_for: Option<Duration>,
    /// Its owner wants it gone although nothing could be cleaned up.
    pub force_delete: bool,
}

impl Seen {
    fn new(object: &DeserializeGuard<EsIndexMerge>, registry: &Registry<Engine>, now: Timestamp) -> Self {
        let metadata = object.meta().clone();
        let uid = metadata.uid.clone().unwrap_or_default();
        let named = Named { namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
        let (status, written_at) = match registry.written(&uid) {
            Some((status, at)) => (status, Some(at)),
            None => (object.0.as_ref().ok().and_then(|merge| merge.status.clone()).unwrap_or_default(), None),
        };
        let has_finalizer = object.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        Self {
            finalized: has_finalizer || registry.finalized(&uid),
            deleting_for: metadata
                .deletion_timestamp
                .as_ref()
                .map(|since| now.duration_since(since.0).unsigned_abs()),
            force_delete: object
                .annotations()
                .get(FORCE_DELETE_ANNOTATION)
                .is_some_and(|value| value == "true"),
            spec: object.0.as_ref().map(|merge| merge.spec.clone()).map_err(Clone::clone),
            uid,
            named,
            metadata,
            status,
            written_at,
        }
    }

    /// `namespace/name`: who asks, for the claim of the destination.
    pub(super) fn owner(&self) -> String {
        format!("{}/{}", self.named.namespace, self.named.name)
    }
}

/// What is to be done about a resource.
#[derive(Debug)]
pub(super) enum Intent {
    /// Nothing: it is as it should be, or not ours to handle.
    Nothing,
    /// Nothing but to say so: it is suspended and was never begun.
    Rest,
    /// Stop; a person must change the resource first.
    Reject(Failure),
    /// Make a step.
    Work(Box<ValidMerge>),
    /// It is being deleted: put back, release, let go.
    Release {
        /// How to reach what must be put back, or why that is not known.
        merge: Result<Box<ValidMerge>, Failure>,
        /// Delete the destination too.
        delete_destination: bool,
    },
}

/// What is to be done about a resource; `running`: an engine of it runs in this process.
fn decide(seen: &Seen, running: bool) -> Intent {
    let merge = match &seen.spec {
        Ok(spec) => ValidMerge::parse(&seen.owner(), spec).map(Box::new).map_err(|problems| {
            let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Failure { category: "InvalidSpec", message, terminal: true, needs_a_person: true }
        }),
        Err(invalid) => Err(Failure {
            category: "Malformed",
            message: format!("the resource cannot be read: {}; write it anew", invalid.error),
            terminal: true,
            needs_a_person: true,
        }),
    };
    if seen.deleting_for.is_some() {
        let policy = seen.spec.as_ref().map(|spec| spec.deletion_policy).unwrap_or_default();
        let delete_destination = policy == DeletionPolicy::DeleteDestination;
        return if seen.finalized || running {
            Intent::Release { merge, delete_destination }
        } else {
            Intent::Nothing
        };
    }
    match merge {
        Err(failure) => Intent::Reject(failure),
        Ok(merge) if merge.suspend && !seen.finalized && !running => Intent::Rest,
        Ok(merge) if !running && is_settled(seen) && !deletes_more(seen, &merge) => Intent::Nothing,
        Ok(merge) => Intent::Work(merge),
    }
}

/// Whether what we last said was about this very spec, and nothing more is to be done for it.
fn is_settled(seen: &Seen) -> bool {
    let phase = seen.status.phase.as_deref();
    let resting = [Phase::Completed, Phase::Suspended].into_iter().any(|rest| phase == Some(rest.as_str()));
    let failing = seen.status.conditions.iter().any(|c| c.type_ == "Failing" && c.status == "True");
    resting && !failing && seen.status.observed_generation == seen.metadata.generation
}

/// Whether source indices are still to be deleted, now or when their time has come.
fn deletes_more(seen: &Seen, merge: &ValidMerge) -> bool {
    let is_complete = seen.status.phase.as_deref() == Some(Phase::Completed.as_str());
    let are_done = seen.status.source_deletion.as_ref().is_some_and(|deletion| deletion.remaining == 0);
    merge.cutover.delete_sources_after.is_some() && is_complete && !merge.suspend && !are_done
}

/// Tells what came of it.
async fn report(
    context: &Context,
    seen: &Seen,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let status = next_status(&seen.status, outcome, seen.metadata.generation, now);
    write::measure_failure(context, seen, outcome.failure().map(|failure| failure.category));
    write::measure_waiting(context, seen, outcome.waiting());
    let about = write::reference(seen);
    context.events.publish(&about, &happenings(&seen.status, &status, outcome)).await;
    match outcome {
        Outcome::Released | Outcome::Abandoned(_) => {
            info!(namespace = seen.named.namespace, name = seen.named.name, "released");
            write::remove_finalizer(&context.client, seen).await?;
            write::forget(context, &seen.uid, &seen.named).await;
            return Ok(());
        }
        Outcome::Nothing => return Ok(()),
        Outcome::Stepped(report) | Outcome::Hindered(report, _) => {
            write::measure(context, seen, report, &status);
        }
        Outcome::Failed(_) => context.metrics.unmeasured(&seen.named.namespace, &seen.named.name),
        Outcome::Rested => {}
    }
    if let Outcome::Failed(Failure { category, message, .. }) = outcome {
        warn!(
            namespace = seen.named.namespace,
            name = seen.named.name,
            category,
            why = %message,
            "the merge cannot go on"
        );
    }
    if worth_writing(&seen.status, &status, seen.written_at, now) {
        write::status(context, seen, &status).await?;
        context.registry.has_written(&seen.uid, &seen.named, status, now);
    }
    Ok(())
}

/// When to look again.
fn next(registry: &Registry<Engine>, seen: &Seen, outcome: &Outcome, jitter: f64) -> Action {
    let action = match outcome {
        Outcome::Failed(failure) if !failure.terminal || seen.deleting_for.is_some() => {
            let wait = after_failure(registry, seen, jitter);
            debug!(namespace = seen.named.namespace, name = seen.named.name, ?wait, "retry");
            return Action::requeue(wait);
        }
        Outcome::Stepped(report) | Outcome::Hindered(report, _) => match report.next {
            Next::Now => Action::requeue(AT_ONCE),
            Next::After(wait) => Action::requeue(wait.max(AT_ONCE)),
            Next::Settled => Action::await_change(),
        },
        Outcome::Nothing
        | Outcome::Rested
        | Outcome::Failed(_)
        | Outcome::Released
        | Outcome::Abandoned(_) => Action::await_change(),
    };
    registry.succeeded(&seen.uid);
    action
}

/// How long to wait after one more failure of a resource.
fn after_failure(registry: &Registry<Engine>, seen: &Seen, jitter: f64) -> Duration {
    // What is stored may be behind the last step.
    let phases = [registry.phase(&seen.uid), seen.status.phase.as_deref()];
    let longest = if phases.contains(&Some(Phase::CuttingOver.as_str())) {
        backoff::LONGEST_IN_CUTOVER
    } else {
        backoff::LONGEST
    };
    registry.failed(&seen.uid, &seen.named, longest, jitter)
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
