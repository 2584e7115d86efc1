//! The controller as a whole.

use std::{net::SocketAddr, sync::Arc};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, join_all, select_all},
};
use kube::Client;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    events::Publisher,
    leadership,
    reconcile::Context,
    registry::Registry,
    watch::{self, Scope},
    write,
};
use crate::{
    metrics::Metrics,
    server::{Readiness, Server, ServerError},
};

/// How the controller runs.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// The namespaces whose resources are served; empty: all.
    pub namespaces: Vec<String>,
    /// Whether only one replica works at a time. Without it, several replicas do work twice, safely.
    pub leader_election: bool,
    /// The namespace of the lease; `None`: that of the pod.
    pub lease_namespace: Option<String>,
    /// The name of the lease: the same for the replicas of one installation, and another one for each installation in
    /// that namespace.
    pub lease: String,
    /// Where the probes and the metrics are served.
    pub listen: SocketAddr,
    /// The name of this process, unique among the replicas: the pod's name.
    pub worker: String,
}

/// Why the controller could not run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// There is no way to a cluster.
    #[error(
        "there is no Kubernetes to connect to: {0}; run inside a pod with a service account, or set KUBECONFIG"
    )]
    Kubernetes(#[from] Box<kube::Error>),
    /// The probes cannot be served.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Without a name, two replicas would both take themselves for the leader.
    #[error("the name of this process is empty; set --worker, or POD_NAME")]
    Nameless,
}

/// Runs the controller until `shutdown`, then stops every engine at a checkpoint and hands the lease over.
///
/// The cluster is that of the pod, or else of the kubeconfig.
pub async fn run(config: ControllerConfig, shutdown: CancellationToken) -> Result<(), ControllerError> {
    let client = Client::try_default().await.map_err(Box::new)?;
    run_with(client, config, shutdown).await
}

/// [`run`] for the cluster of that client.
pub async fn run_with(
    client: Client,
    config: ControllerConfig,
    shutdown: CancellationToken,
) -> Result<(), ControllerError> {
    if config.worker.is_empty() {
        return Err(ControllerError::Nameless);
    }
    let metrics = Metrics::default();
    let scopes = scopes(&config.namespaces);
    let needed: Vec<String> = scopes.iter().map(watch::definition).collect();
    let readiness = Readiness::waiting_for(&needed.iter().map(String::as_str).collect::<Vec<_>>());

    // First the probes: a controller that waits for its definition can say so.
    let server = Server::bind(config.listen, metrics.clone(), readiness.clone()).await?;
    info!(address = %server.address()?, "serving /livez, /readyz and /metrics");
    let serving = CancellationToken::new();
    let server = tokio::spawn(server.serve(serving.clone()));

    let context = Arc::new(Context {
        registry: Registry::new(),
        events: Publisher::new(client.clone(), &config.worker, metrics.clone()),
        metrics: metrics.clone(),
        worker: config.worker.clone(),
        client: client.clone(),
    });
    // Each for itself: a namespace that cannot be read holds up no other one.
    let waiting: Vec<Listable> = scopes
        .iter()
        .map(|scope| {
            watch::until_listable(client.clone(), scope.clone(), readiness.clone(), shutdown.clone())
                .boxed()
                .shared()
        })
        .collect();
    // Also while another process leads: who stands by says whether it could.
    tokio::spawn(join_all(waiting.clone()));
    // Who can read nothing does not lead.
    select_all(waiting.clone()).await;

    let election = config.leader_election.then(|| {
        let own = client.default_namespace().to_owned();
        let namespace = config.lease_namespace.clone().unwrap_or(own);
        leadership::election(client.clone(), &namespace, &config.lease, &config.worker)
    });
    let work = || async {
        let watches = scopes.iter().zip(&waiting).map(|(scope, listable)| {
            let watch = watch::watch_and_reconcile(
                Arc::clone(&context),
                scope.clone(),
                readiness.clone(),
                shutdown.clone(),
            );
            let (is_listable, ending) = (listable.clone(), shutdown.clone());
            async move {
                is_listable.await;
                // A shutdown ends the waiting too, and then there is nothing to watch any more.
                if !ending.is_cancelled() {
                    watch.await;
                }
            }
        });
        join_all(watches).await;
    };
    leadership::while_leading(election, &metrics, &shutdown, work, || write::stop_all(&context)).await;

    info!("every engine has stopped");
    serving.cancel();
    match server.await {
        Ok(result) => Ok(result?),
        // Only a panic of the server's task, which has been reported on standard error.
        Err(join) => Err(ServerError::Serve(std::io::Error::other(join)).into()),
    }
}

/// Resolves when the resources of a scope can be listed, or at the shutdown.
type Listable = Shared<BoxFuture<'static, ()>>;

fn scopes(namespaces: &[String]) -> Vec<Scope> {
    if namespaces.is_empty() {
        return vec![Scope::All];
    }
    let mut names = namespaces.to_vec();
    names.sort();
    names.dedup();
    names.into_iter().map(Scope::Namespace).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn no_namespace_is_every_namespace_and_each_is_watched_once() {
        assert_eq!(scopes(&[]), [Scope::All]);
        let twice = ["b".to_owned(), "a".to_owned(), "b".to_owned()];
        assert_eq!(scopes(&twice), [Scope::Namespace("a".to_owned()), Scope::Namespace("b".to_owned())]);
    }
}
