//! Every write to the Kubernetes API, but for events. Each has ten seconds.
//!
//! The status is applied by server-side apply under one field manager, and nothing else of the resource is: `spec`
//! is the user's. The finalizer is changed only if the resource is still the one that was looked at.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::json;

use super::{
    reconcile::{Context, ReconcileError, Seen},
    registry::Named,
};
use crate::{
    api::{EsIndexMerge, EsIndexMergeStatus, FINALIZER},
    merge::Report,
    metrics::{Labels, MergeNumbers},
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Who owns the fields of the status.
const FIELD_MANAGER: &str = "es-index-merge-status";

/// What an event is about.
pub(super) fn reference(seen: &Seen) -> ObjectReference {
    ObjectReference {
        api_version: Some(EsIndexMerge::api_version(&()).into_owned()),
        kind: Some(EsIndexMerge::kind(&()).into_owned()),
        namespace: Some(seen.named.namespace.clone()),
        name: Some(seen.named.name.clone()),
        uid: Some(seen.uid.clone()),
        ..ObjectReference::default()
    }
}

/// Writes the status. A resource that is gone needs none.
pub(super) async fn status(
    context: &Context,
    seen: &Seen,
    status: &EsIndexMergeStatus,
) -> Result<(), ReconcileError> {
    let patch = json!({
        "apiVersion": EsIndexMerge::api_version(&()),
        "kind": EsIndexMerge::kind(&()),
        "metadata": { "name": seen.named.name, "uid": seen.uid },
        "status": status,
    });
    let resources = resources(&context.client, seen);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&patch);
    let written = resources.patch_status(&seen.named.name, &params, &patch);
    let result = gone_is_fine("the status", bounded("the status", written).await);
    context.metrics.status_written(if result.is_ok() { "ok" } else { "failed" });
    result
}

/// Puts our finalizer on the resource: from now on there is something to put back.
pub(super) async fn add_finalizer(client: &Client, seen: &Seen) -> Result<(), ReconcileError> {
    let mut finalizers = seen.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let result = set_finalizers(client, seen, &finalizers).await;
    bounded_result("the finalizer", result)
}

/// Takes our finalizer away. A resource that is gone has none.
pub(super) async fn remove_finalizer(client: &Client, seen: &Seen) -> Result<(), ReconcileError> {
    let mut finalizers = seen.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(());
    }
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    gone_is_fine("the finalizer", set_finalizers(client, seen, &finalizers).await)
}

async fn set_finalizers(
    client: &Client,
    seen: &Seen,
    finalizers: &[String],
) -> Result<Result<(), kube::Error>, ReconcileError> {
    let patch = json!({
        "metadata": { "resourceVersion": seen.metadata.resource_version, "uid": seen.uid, "finalizers": finalizers }
    });
    let resources = resources(client, seen);
    let params = PatchParams::default();
    bounded("the finalizer", resources.patch_metadata(&seen.named.name, &params, &Patch::Merge(&patch))).await
}

/// The numbers of a step.
pub(super) fn measure(context: &Context, seen: &Seen, report: &Report, status: &EsIndexMergeStatus) {
    let phase = report.phase.as_str();
    let percent = status.progress.as_ref().map_or(0, |progress| progress.percent);
    let numbers = MergeNumbers {
        phase,
        progress: f64::from(percent) / 100.0,
        documents: (report.progress.documents_done, report.progress.documents),
        collections: (report.progress.collections_done, report.progress.collections),
        bytes: report.progress.bytes_done,
        quarantined: report.quarantined,
        attention: report.attention_total,
        lag: report.lag,
        workers: report.workers,
        sources: report.source_deletion.as_ref().map_or((0, 0), |sources| (sources.deleted, sources.kept)),
    };
    let before = context.registry.measured(&seen.uid, &seen.named, phase);
    context.metrics.merge(&seen.named.namespace, &seen.named.name, before, &numbers);
}

/// Why the resource fails, or that it does not.
pub(super) fn measure_failure(context: &Context, seen: &Seen, reason: Option<&'static str>) {
    let before = context.registry.fails(&seen.uid, &seen.named, reason);
    context.metrics.failing(&seen.named.namespace, &seen.named.name, before, reason);
}

/// What the merge waits for, or that it goes on.
pub(super) fn measure_waiting(context: &Context, seen: &Seen, reason: Option<&'static str>) {
    let before = context.registry.waits(&seen.uid, &seen.named, reason);
    context.metrics.waiting(&seen.named.namespace, &seen.named.name, before, reason);
}

/// This process does not lead any more: every engine is stopped, and what is measured is for the next leader to say.
pub(super) async fn stop_all(context: &Context) {
    let unmeasure =
        |named: &Named, labels: Labels| context.metrics.forget(&named.namespace, &named.name, labels);
    context.registry.stop_all(unmeasure).await;
    context.metrics.registry_size(0, 0);
}

/// The resource is gone: its engine is stopped, its series are removed.
pub(super) async fn forget(context: &Context, uid: &str, named: &Named) {
    let (engine, labels) = context.registry.forget(uid);
    context.metrics.forget(&named.namespace, &named.name, labels);
    if let Some(engine) = engine {
        engine.stop().await;
    }
}

/// Untyped, so that a resource whose spec cannot be read can be written to all the same.
fn resources(client: &Client, seen: &Seen) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), &seen.named.namespace, &ApiResource::erase::<EsIndexMerge>(&()))
}

async fn bounded<T>(
    what: &'static str,
    write: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<(), kube::Error>, ReconcileError> {
    let written = tokio::time::timeout(TIMEOUT, write).await;
    Ok(written.map_err(|_| ReconcileError::Timeout { what })?.map(|_| ()))
}

fn bounded_result(
    what: &'static str,
    result: Result<Result<(), kube::Error>, ReconcileError>,
) -> Result<(), ReconcileError> {
    result?.map_err(|source| ReconcileError::Write { what, source: Box::new(source) })
}

fn gone_is_fine(
    what: &'static str,
    result: Result<Result<(), kube::Error>, ReconcileError>,
) -> Result<(), ReconcileError> {
    match result {
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        other => bounded_result(what, other),
    }
}
