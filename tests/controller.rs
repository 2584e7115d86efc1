//! The controller against a real API server: what it says, and what it leaves alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/kubernetes.rs"]
mod kubernetes;

use std::{net::SocketAddr, time::Duration};

use es_index_merge::{
    api::EsIndexMerge,
    controller::{ControllerConfig, ControllerError, run_with},
};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Secret},
    events::v1::Event,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Client, Config,
    api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};
use kubernetes::client_with_definition;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LEASE: &str = "one-of-several";

const SOON: Duration = Duration::from_secs(30);

/// A namespace of its own with a controller that serves only it.
struct Served {
    client: Client,
    namespace: String,
    probes: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), ControllerError>>,
}

impl Served {
    async fn start() -> Self {
        let client = client_with_definition().await;
        let namespace = new_namespace(&client).await;
        Self::start_with(client.clone(), client, namespace.clone(), vec![namespace])
    }

    /// A controller that is asked to serve another namespace too and has no right there.
    async fn start_beside(forbidden: &str) -> Self {
        let client = client_with_definition().await;
        let namespace = new_namespace(&client).await;
        let confined = client_confined_to(&client, &namespace).await;
        // The one that cannot be read comes first.
        let namespaces = vec![forbidden.to_owned(), namespace.clone()];
        Self::start_with(client, confined, namespace, namespaces)
    }

    fn start_with(client: Client, own: Client, namespace: String, namespaces: Vec<String>) -> Self {
        let probes = free_address();
        let config = ControllerConfig {
            namespaces,
            leader_election: true,
            lease_namespace: Some(namespace.clone()),
            lease: LEASE.to_owned(),
            listen: probes,
            worker: format!("worker-of-{namespace}"),
        };
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(run_with(own, config, shutdown.clone()));
        Self { client, namespace, probes, shutdown, running }
    }

    fn merges(&self) -> Api<EsIndexMerge> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn create(&self, name: &str, patch: Value) -> EsIndexMerge {
        let mut object = json!({
            "apiVersion": "indexmerge.dev/v1alpha1", "kind": "EsIndexMerge", "metadata": { "name": name },
            "spec": {
                "collections": { "postgres": { "urlSecretRef": { "name": "postgres", "key": "url" } } },
                "source": { "url": "http://127.0.0.1:1" },
                "destination": {
                    "url": "http://127.0.0.1:1",
                    "index": { "name": name, "language": "french", "vectorSize": 8 }
                },
                "contract": "OpenGateLLM"
            }
        });
        for (key, value) in patch.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        let object = serde_json::from_value(object).unwrap();
        self.merges().create(&PostParams::default(), &object).await.unwrap()
    }

    /// The resource, once its condition `Ready` has that reason.
    async fn until_reason(&self, name: &str, reason: &str) -> EsIndexMerge {
        let wanted = |merge: Option<&EsIndexMerge>| {
            let conditions = merge.and_then(|merge| merge.status.as_ref()).map(|status| &status.conditions);
            conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.reason == reason)
        };
        let seen = tokio::time::timeout(SOON, await_condition(self.merges(), name, wanted)).await;
        let Ok(merge) = seen else {
            panic!("no {reason}; the status is {:#?}", self.merges().get(name).await.unwrap().status)
        };
        merge.unwrap().unwrap()
    }

    async fn events(&self, name: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = events.list(&ListParams::default()).await.unwrap().items;
        all.into_iter()
            .filter(|e| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name))
            .collect()
    }

    async fn lease(&self) -> Option<Lease> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        leases.get_opt(LEASE).await.unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(SOON, self.running)
            .await
            .expect("the controller does not end")
            .unwrap()
            .unwrap();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }
}

async fn new_namespace(client: &Client) -> String {
    let name = format!("controller-{}", uuid::Uuid::new_v4());
    let body = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &body).await.unwrap();
    name
}

/// A client that may do everything in that namespace and nothing elsewhere.
async fn client_confined_to(client: &Client, namespace: &str) -> Client {
    let user = format!("only-{namespace}");
    let binding = json!({
        "metadata": { "name": "everything" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "everything" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    });
    let role = json!({
        "metadata": { "name": "everything" },
        "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }],
    });
    let roles: Api<Role> = Api::namespaced(client.clone(), namespace);
    let role = serde_json::from_value(role).unwrap();
    roles.create(&PostParams::default(), &role).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let binding = serde_json::from_value(binding).unwrap();
    bindings.create(&PostParams::default(), &binding).await.unwrap();

    let kubeconfig = Kubeconfig::read_from(kubernetes::access().await.kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.headers.push(("impersonate-user".parse().unwrap(), user.parse().unwrap()));
    Client::try_from(config).unwrap()
}

fn free_address() -> SocketAddr {
    // Outside the range of outgoing connections, which may take it meanwhile.
    SocketAddr::from(([127, 0, 0, 1], testenv::free_port().unwrap()))
}

fn condition(merge: &EsIndexMerge, type_: &str) -> String {
    let status = merge.status.as_ref().unwrap();
    status.conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.clone()).unwrap_or_default()
}

async fn get(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_missing_secret_is_a_condition_and_an_event_and_nothing_is_written_twice() {
    let served = Served::start().await;
    served.create("merge", json!({})).await;
    let merge = served.until_reason("merge", "SecretInvalid").await;

    let status = merge.status.clone().unwrap();
    let message = status.message.as_deref().unwrap();
    assert!(message.contains("\"postgres\"") && message.contains(&served.namespace), "{message}");
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(status.observed_generation, merge.metadata.generation);
    assert_eq!(condition(&merge, "Ready"), "False");
    assert_eq!(condition(&merge, "Reconciling"), "True", "it is tried again");
    assert_eq!(condition(&merge, "Stalled"), "False");
    assert_eq!(condition(&merge, "Failing"), "True");
    assert!(merge.metadata.finalizers.unwrap_or_default().is_empty(), "nothing to put back, so no finalizer");

    // Three more attempts later (after 1, 2 and 4 s) nothing has been written and no second event published.
    let attempts = async {
        loop {
            let metrics = get(served.probes, "/metrics").await;
            let count = metrics.lines().find_map(|line| {
                line.strip_prefix("es_index_merge_reconciles_total{outcome=\"SecretInvalid\"} ")?.parse().ok()
            });
            if count.unwrap_or(0) >= 4 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(SOON, attempts).await.expect("it is not tried again");
    let later = served.merges().get("merge").await.unwrap();
    assert_eq!(later.metadata.resource_version, merge.metadata.resource_version);
    let events = served.events("merge").await;
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0].reason.as_deref(), Some("SecretInvalid"));
    assert_eq!(events[0].type_.as_deref(), Some("Warning"));

    let failing = format!(
        "es_index_merge_failing{{namespace=\"{}\",name=\"merge\",reason=\"SecretInvalid\"}} 1",
        served.namespace
    );
    let metrics = get(served.probes, "/metrics").await;
    assert!(metrics.contains(&failing), "{metrics}");

    // Without a finalizer the deletion takes place at once, and the controller forgets it.
    served.merges().delete("merge", &DeleteParams::default()).await.unwrap();
    assert!(served.merges().get_opt("merge").await.unwrap().is_none());
    served.stop().await;
}

#[tokio::test]
async fn the_controller_writes_only_the_status_and_owns_only_that() {
    let served = Served::start().await;
    let created = served.create("merge", json!({ "workers": { "concurrency": 8 } })).await;
    let merge = served.until_reason("merge", "SecretInvalid").await;
    assert_eq!(merge.spec, created.spec);
    assert_eq!(merge.metadata.generation, created.metadata.generation);
    let managed = merge.metadata.managed_fields.unwrap();
    let ours: Vec<_> =
        managed.iter().filter(|m| m.manager.as_deref() == Some("es-index-merge-status")).collect();
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0].subresource.as_deref(), Some("status"));
    assert!(ours[0].fields_v1.as_ref().unwrap().0.get("f:spec").is_none());
    served.stop().await;
}

#[tokio::test]
async fn a_secret_that_appears_or_is_mended_is_taken_at_the_next_attempt() {
    let served = Served::start().await;
    served.create("merge", json!({})).await;
    served.until_reason("merge", "SecretInvalid").await;
    let secrets: Api<Secret> = Api::namespaced(served.client.clone(), &served.namespace);
    let secret = serde_json::from_value(json!({
        "metadata": { "name": "postgres" },
        "stringData": { "url": "postgresql://nobody@127.0.0.1:1/nothing" }
    }));
    secrets.create(&PostParams::default(), &secret.unwrap()).await.unwrap();
    // The secret is fine now; what it leads to is not there, and the reason says so.
    let changed = |merge: Option<&EsIndexMerge>| {
        let conditions = merge.and_then(|merge| merge.status.as_ref()).map(|status| &status.conditions);
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.reason != "SecretInvalid")
    };
    let waiting = await_condition(served.merges(), "merge", changed);
    let merge = tokio::time::timeout(SOON, waiting).await.expect("still SecretInvalid").unwrap().unwrap();
    assert_eq!(condition(&merge, "Failing"), "True");
    served.stop().await;
}

#[tokio::test]
async fn a_resource_that_is_created_suspended_is_not_begun() {
    let served = Served::start().await;
    served.create("merge", json!({ "suspend": true })).await;
    let merge = served.until_reason("merge", "Suspended").await;
    assert_eq!(merge.status.clone().unwrap().phase.as_deref(), Some("Suspended"));
    assert_eq!(condition(&merge, "Reconciling"), "False");
    assert!(merge.metadata.finalizers.is_none());
    let resume = json!({ "spec": { "suspend": false } });
    served.merges().patch("merge", &PatchParams::default(), &Patch::Merge(resume)).await.unwrap();
    served.until_reason("merge", "SecretInvalid").await;
    served.stop().await;
}

#[tokio::test]
async fn one_replica_leads_and_hands_the_lease_over_when_it_ends() {
    let served = Served::start().await;
    served.create("merge", json!({ "suspend": true })).await;
    served.until_reason("merge", "Suspended").await;
    let holder = |lease: Option<Lease>| lease.and_then(|l| l.spec).and_then(|s| s.holder_identity);
    assert_eq!(holder(served.lease().await), Some(format!("worker-of-{}", served.namespace)));
    assert!(get(served.probes, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(served.probes, "/metrics").await.contains("es_index_merge_leader 1"));
    served.shutdown.cancel();
    let released = async {
        while holder(served.lease().await).is_some_and(|holder| !holder.is_empty()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, released).await.expect("the lease is still held");
    served.stop().await;
}

#[tokio::test]
async fn a_namespace_that_cannot_be_read_holds_up_no_other_one_and_is_named() {
    let served = Served::start_beside("default").await;
    served.create("merge", json!({ "suspend": true })).await;
    served.until_reason("merge", "Suspended").await;
    let answer = get(served.probes, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("definition for namespace default"), "{answer}");
    assert!(answer.contains("bind the controller's service account to its role"), "{answer}");
    assert!(!answer.contains(&format!("for namespace {}", served.namespace)), "{answer}");
    served.stop().await;
}
