//! The Kubernetes of the tests: the one that `KUBECONFIG` names, that of the run that is up, or one of this process.

use std::time::Duration;

use es_index_merge::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Client, Config,
    api::{Api, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{conditions, wait::await_condition},
};
use testenv::kubernetes::{Access, Kubernetes};

/// A test that needs Kubernetes fails where none can be had.
pub async fn access() -> Access {
    // The first test of a process may start a cluster.
    let shared = tokio::task::spawn_blocking(|| Kubernetes::shared().map(|cluster| Access::clone(cluster)));
    shared.await.unwrap().expect("a Kubernetes")
}

/// An administrator, with the current definition in force.
pub async fn client_with_definition() -> Client {
    let kubeconfig = Kubeconfig::read_from(access().await.kubeconfig).expect("the kubeconfig");
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a cluster");
    let client = Client::try_from(config).expect("a client");
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = api::crd();
    let name = definition.metadata.name.clone().unwrap();
    let force = PatchParams::apply("es-index-merge-tests").force();
    definitions.patch(&name, &force, &Patch::Apply(&definition)).await.expect("the definition is refused");
    let established = await_condition(definitions, &name, conditions::is_crd_established());
    tokio::time::timeout(Duration::from_secs(30), established).await.expect("30 s").expect("established");
    client
}
