//! The resources, as a stream of those that are worth a look.
//!
//! A change of the status alone is none of them: it is our own. A resource that cannot be decoded is passed on as
//! such and does not disturb the others. One controller for each namespace (or one for all), because a reflector
//! takes one watch.

use std::{
    fmt,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::DeserializeGuard,
    runtime::{
        Config, Controller, Predicate, WatchStreamExt, controller, predicates,
        reflector::{self, ObjectRef},
        watcher,
    },
};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    reconcile::{Context, after_error, reconcile},
    registry::Named,
    write,
};
use crate::{api::EsIndexMerge, server::Readiness};

/// How many resources of a namespace are looked at at the same time. A look is a short step, but may wait for a slow
/// server.
const CONCURRENCY: u16 = 64;

/// How often it is tried again to list the resources.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long that may take.
const ANSWER: Duration = Duration::from_secs(10);

/// How long what is under way may take to end at a shutdown. The engines stop after it, within the grace period of a pod.
const LAST_STEPS: Duration = Duration::from_secs(20);

/// A resource, or why it cannot be read.
type Guarded = DeserializeGuard<EsIndexMerge>;

/// Which resources are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those of every namespace.
    All,
    /// Those of one.
    Namespace(String),
}

impl Scope {
    fn api(&self, client: Client) -> Api<Guarded> {
        match self {
            Self::All => Api::all(client),
            Self::Namespace(namespace) => Api::namespaced(client, namespace),
        }
    }

    fn includes(&self, named: &Named) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => *namespace == named.namespace,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all namespaces"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
        }
    }
}

/// What readiness says about one watch. When the watch ends, for instance because another process leads now, nothing
/// is missing any more.
struct Watched {
    readiness: Readiness,
    /// What readiness calls it; each scope has its own.
    need: String,
}

impl Watched {
    fn new(readiness: Readiness, scope: &Scope) -> Self {
        Self { readiness, need: format!("watch of {scope}") }
    }

    fn seen<T>(&self, event: &watcher::Result<T>) {
        match event {
            Ok(_) => self.readiness.ready(&self.need),
            Err(error) => {
                self.readiness.missing(&self.need, &format!("the resources cannot be watched: {error}"));
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.readiness.ready(&self.need);
    }
}

/// What readiness calls the definition of the resource, as it is needed for `scope`.
pub(super) fn definition(scope: &Scope) -> String {
    format!("definition for {scope}")
}

/// Waits until the resources of `scope` can be listed; readiness says what is missing until then.
pub(super) async fn until_listable(
    client: Client,
    scope: Scope,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let api = scope.api(client);
    let one = ListParams::default().limit(1);
    let need = definition(&scope);
    let asking = async {
        let mut said = String::new();
        loop {
            let message = match tokio::time::timeout(ANSWER, api.list(&one)).await {
                Ok(Ok(_)) => {
                    readiness.ready(&need);
                    return;
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                    "the definition of esindexmerges.indexmerge.dev is not installed; kubectl apply -f crds/"
                        .to_owned()
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                    format!("{}; bind the controller's service account to its role", status.message)
                }
                Ok(Err(error)) => format!("the Kubernetes API does not answer: {error}"),
                Err(_) => format!("the Kubernetes API does not answer within {} s", ANSWER.as_secs()),
            };
            readiness.missing(&need, &message);
            if said != message {
                warn!(%scope, why = %message, "waiting for the definition");
                said = message;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    shutdown.run_until_cancelled(asking).await;
}

/// Watches the resources of `scope` and reconciles each, until `shutdown`; what is under way then has some seconds to end.
pub(super) async fn watch_and_reconcile(
    context: Arc<Context>,
    scope: Scope,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let watched = Watched::new(readiness, &scope);
    let listed = Arc::new(AtomicBool::new(false));
    let is_listed = Arc::clone(&listed);
    let (reader, writer) = reflector::store();
    let woken = Arc::clone(&context);
    let resources = watcher(scope.api(context.client.clone()), watcher::Config::default().any_semantic())
        .inspect(move |event| {
            watched.seen(event);
            if matches!(event, Ok(watcher::Event::InitDone)) {
                listed.store(true, Ordering::Relaxed);
            }
        })
        .default_backoff()
        .reflect(writer)
        .inspect(move |event| {
            // The predicates hold it back: one that is gone looks as it did before.
            if let Ok(watcher::Event::Delete(object)) = event {
                let namespace = object.namespace().unwrap_or_default();
                woken.registry.wake(Named { namespace, name: object.name_any() });
            }
        })
        .touched_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::annotations).combine(predicates::finalizers),
            kube::runtime::PredicateConfig::default(),
        );
    let wakes = wakes(context.registry.wakes(), scope.clone());
    info!(?scope, "watching");
    let controller = Controller::for_stream(resources, reader)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(wakes)
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(reconcile, after_error, Arc::clone(&context))
        // The engine of one that is gone may take a while to stop, and the others go on.
        .for_each_concurrent(None, |result| after(&context, result));
    tokio::select! {
        () = controller => {}
        () = waited_long_enough(&is_listed, &shutdown) => {}
    }
}

/// Resolves at the shutdown if the resources were never listed, and otherwise when the last steps have had their time. A
/// controller begins, and ends, only after its first list; before that it has nothing to end, but would hold up the
/// hand-over of the lease, and so would a step that waits for a server for minutes.
async fn waited_long_enough(is_listed: &AtomicBool, shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    if is_listed.load(Ordering::Relaxed) {
        tokio::time::sleep(LAST_STEPS).await;
        warn!("what is under way is not waited for any longer");
    }
}

type Reconciled = Result<
    (ObjectRef<Guarded>, controller::Action),
    controller::Error<super::reconcile::ReconcileError, watcher::Error>,
>;

async fn after(context: &Context, result: Reconciled) {
    let (engines, in_backoff) = context.registry.size();
    context.metrics.registry_size(engines, in_backoff);
    match result {
        Ok((object, action)) => debug!(%object, ?action, "reconciled"),
        // It is gone, without a finalizer of ours: nothing to put back, but perhaps an engine to stop.
        Err(controller::Error::ObjectNotFound(object)) => {
            let named =
                Named { namespace: object.namespace.clone().unwrap_or_default(), name: object.name.clone() };
            for uid in context.registry.uids(&named) {
                write::forget(context, &uid, &named).await;
            }
        }
        // Logged and counted where it is answered with a wait.
        Err(controller::Error::ReconcilerFailed(..)) => {}
        Err(error) => warn!(%error, "watching the resources failed; it is tried again"),
    }
}

/// What the registry wakes, as the controller wants it.
fn wakes(receiver: broadcast::Receiver<Named>, scope: Scope) -> impl Stream<Item = ObjectRef<Guarded>> {
    let woken = stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(named) => return Some((named, receiver)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    woken
        .filter(move |named| ready(scope.includes(named)))
        .map(|named| ObjectRef::new(&named.name).within(&named.namespace))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn watched(readiness: &Readiness, namespace: &str) -> Watched {
        Watched::new(readiness.clone(), &Scope::Namespace(namespace.to_owned()))
    }

    fn missing(readiness: &Readiness) -> Vec<String> {
        readiness.report().into_keys().collect()
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_no_first_list_that_does_not_come() {
        // Nobody listens there, so no list ever succeeds.
        let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let metrics = crate::metrics::Metrics::default();
        let context = Arc::new(Context {
            registry: super::super::registry::Registry::new(),
            events: super::super::events::Publisher::new(client.clone(), "test", metrics.clone()),
            metrics,
            worker: "test".to_owned(),
            client,
        });
        let (readiness, shutdown) = (Readiness::default(), CancellationToken::new());
        let watching = watch_and_reconcile(context, Scope::All, readiness.clone(), shutdown.clone());
        let watching = tokio::spawn(watching);
        while missing(&readiness).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!watching.is_finished(), "it is tried again");
        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(5), watching).await.expect("it holds up the end").unwrap();
        assert!(missing(&readiness).is_empty());
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_what_is_under_way_once_there_was_a_list() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let is_listed = AtomicBool::new(false);
        waited_long_enough(&is_listed, &shutdown).await;
        is_listed.store(true, Ordering::Relaxed);
        let waiting = waited_long_enough(&is_listed, &shutdown);
        let waiting = tokio::time::timeout(Duration::from_millis(50), waiting);
        assert!(waiting.await.is_err(), "the controller ends by itself, when its reconciles have ended");
    }

    #[test]
    fn each_watch_that_fails_is_named_until_it_works_or_ends() {
        let readiness = Readiness::default();
        let (a, b) = (watched(&readiness, "a"), watched(&readiness, "b"));
        let failed = || watcher::Result::<()>::Err(watcher::Error::NoResourceVersion);
        a.seen(&failed());
        b.seen(&failed());
        a.seen(&Ok(()));
        assert_eq!(missing(&readiness), ["watch of namespace b"], "one does not speak for the other");
        a.seen(&failed());
        assert_eq!(missing(&readiness), ["watch of namespace a", "watch of namespace b"]);
        drop((a, b));
        assert!(missing(&readiness).is_empty(), "who does not lead watches nothing and is ready");
    }
}
