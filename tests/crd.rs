//! What the definition of `EsIndexMerge` accepts and refuses, asked of a real API server.
//!
//! Two tables: manifests that are created (`support/manifests.rs`), and changes of a manifest that is already there. Each
//! refused row says what the API server's message must contain, because the message is what the user sees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::too_many_lines)] // tables

#[path = "support/kubernetes.rs"]
mod kubernetes;
#[path = "support/manifests.rs"]
mod manifests;

use es_index_merge::api;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client,
    api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use kubernetes::client_with_definition;
use manifests::{Accepted, Answer, Refused, at, created, index, merge, shortest};
use serde_json::{Value, json};

/// What the manifest has first, what is changed, and the answer.
fn changed() -> Vec<(&'static str, Value, Value, Answer)> {
    let none = || json!({});
    let other_postgres = json!({ "urlSecretRef": { "name": "other", "key": "url" } });
    let authority = json!({ "name": "ca", "key": "ca.crt" });
    let state = json!({ "state": { "schema": "merges" } });
    let options = json!({ "type": "int8_hnsw" });
    vec![
        // What tunes the merge is live, also when it was not there before.
        (
            "everything that tunes",
            none(),
            json!({
                "collections": {"include": [1], "exclude": [2]},
                "source": {"credentialsSecretRef": {"name": "a"}, "caSecretRef": {"name": "b", "key": "c"}},
                "destination": {"insecureSkipVerify": true, "index": {"numberOfReplicas": 3}},
                "workers": {"concurrency": 8, "maxBytesInFlight": "128Mi", "maxDocumentsPerSecond": 10},
                "verification": {"mode": "Counts"},
                "tolerations": {"maxQuarantined": 5},
                "cutover": {"hold": true, "maxLag": "1m", "aliases": ["rag"]},
                "suspend": true, "retryToken": "again", "deletionPolicy": "DeleteDestination"
            }),
            Accepted,
        ),
        (
            "tuning taken away",
            json!({"workers": {"concurrency": 8}, "suspend": true, "cutover": {"hold": true}}),
            json!({"workers": null, "suspend": null, "cutover": null}),
            Accepted,
        ),
        ("the default of the shards written down", none(), index("numberOfShards", 24), Accepted),
        (
            "the default of the shards left out",
            index("numberOfShards", 24),
            index("numberOfShards", Value::Null),
            Accepted,
        ),
        (
            "sources deleted after all",
            none(),
            json!({"cutover": {"deleteSources": "AfterVerification", "retainFor": "24h"}}),
            Accepted,
        ),
        (
            "their deletion given up by the one word",
            json!({"cutover": {"deleteSources": "AfterVerification", "retainFor": "24h"}}),
            at("cutover.deleteSources", "Never".into()),
            Accepted,
        ),
        (
            "a retention without a deletion",
            none(),
            at("cutover.retainFor", "24h".into()),
            Refused(&[
                "spec.cutover.retainFor is \"24h\", but deleteSources is Never",
                "remove retainFor, or set deleteSources to AfterVerification",
            ]),
        ),
        (
            "writes allowed while the sources are to be deleted",
            at("cutover.deleteSources", "AfterVerification".into()),
            at("cutover.sourceWrites", "Allow".into()),
            Refused(&["set deleteSources to Never, or sourceWrites to Block"]),
        ),
        // What identifies it is not.
        (
            "another number of shards",
            none(),
            index("numberOfShards", 12),
            Refused(&[
                "spec.destination.index.numberOfShards cannot change from \"24\" to \"12\"",
                "put the old value back, or delete this resource",
            ]),
        ),
        (
            "another index",
            none(),
            index("name", "other"),
            Refused(&["spec.destination.index.name cannot change from \"opengatellm\" to \"other\""]),
        ),
        (
            "another language",
            none(),
            index("language", "english"),
            Refused(&["spec.destination.index.language cannot change from \"french\" to \"english\""]),
        ),
        (
            "another vector size",
            none(),
            index("vectorSize", 768),
            Refused(&["spec.destination.index.vectorSize cannot change from \"1024\" to \"768\""]),
        ),
        (
            "another contract",
            none(),
            json!({"contract": "OpenGateRAG"}),
            Refused(&["spec.contract cannot change from \"OpenGateLLM\" to \"OpenGateRAG\""]),
        ),
        (
            "another source",
            none(),
            at("source.url", "https://other:9200".into()),
            Refused(&["spec.source.url cannot change"]),
        ),
        (
            "another destination",
            none(),
            at("destination.url", "https://other:9200".into()),
            Refused(&["spec.destination.url cannot change"]),
        ),
        (
            "another database",
            none(),
            at("collections.postgres", other_postgres),
            Refused(&["spec.collections.postgres.urlSecretRef cannot be changed"]),
        ),
        (
            "an authority for the database",
            none(),
            at("collections.postgres.caSecretRef", authority.clone()),
            Accepted,
        ),
        (
            "another authority for the database",
            at("collections.postgres.caSecretRef", authority.clone()),
            at("collections.postgres.caSecretRef.name", "other".into()),
            Accepted,
        ),
        (
            "no authority for the database any more",
            at("collections.postgres.caSecretRef", authority),
            at("collections.postgres.caSecretRef", Value::Null),
            Accepted,
        ),
        (
            "the only copy given up",
            at("cutover.deleteSources", "AfterVerification".into()),
            json!({"deletionPolicy": "DeleteDestination"}),
            Refused(&["spec.deletionPolicy", "deleting the resource would delete the only copy"]),
        ),
        (
            "index options added",
            none(),
            index("vectorIndexOptions", options.clone()),
            Refused(&["spec.destination.index.vectorIndexOptions cannot be changed, added or removed"]),
        ),
        (
            "index options removed",
            index("vectorIndexOptions", options.clone()),
            index("vectorIndexOptions", Value::Null),
            Refused(&["vectorIndexOptions cannot be changed, added or removed"]),
        ),
        (
            "index options changed",
            index("vectorIndexOptions", options),
            index("vectorIndexOptions", json!({"m": 32})),
            Refused(&["vectorIndexOptions cannot be changed"]),
        ),
        ("state added", none(), state.clone(), Refused(&["spec.state cannot be changed, added or removed"])),
        (
            "state removed",
            state.clone(),
            json!({"state": null}),
            Refused(&["spec.state cannot be changed, added or removed"]),
        ),
        (
            "state changed",
            state,
            at("state.schema", "others".into()),
            Refused(&["spec.state cannot be changed"]),
        ),
        // Rules that hold at creation hold for changes.
        (
            "a collection excluded that is included",
            at("collections.include", json!([7])),
            at("collections.exclude", json!([7])),
            Refused(&["7 is in include and in exclude"]),
        ),
    ]
}

fn manifest(name: &str, patches: &[&Value]) -> DynamicObject {
    let mut manifest = shortest();
    manifest["metadata"]["name"] = name.into();
    for patch in patches {
        merge(&mut manifest["spec"], patch);
    }
    serde_json::from_value(manifest).unwrap()
}

/// What is wrong with an answer; nothing if it is the expected one.
fn complaint<T>(row: &str, expected: &Answer, actual: Result<T, kube::Error>) -> Option<String> {
    match (expected, actual) {
        (Accepted, Ok(_)) => None,
        (Accepted, Err(error)) => Some(format!("{row}: should be accepted, but: {error}")),
        (Refused(_), Ok(_)) => Some(format!("{row}: should be refused, but is accepted")),
        (Refused(parts), Err(kube::Error::Api(status))) if status.code == 422 => {
            let missing: Vec<_> = parts.iter().filter(|part| !status.message.contains(**part)).collect();
            (!missing.is_empty()).then(|| format!("{row}: {missing:?} is not in: {}", status.message))
        }
        (Refused(_), Err(error)) => Some(format!("{row}: refused, but not by a rule: {error:?}")),
    }
}

/// A namespace of its own for one test.
async fn namespace(client: &Client, name: &str) -> String {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let name = format!("{name}-{}", uuid::Uuid::new_v4());
    let namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    name
}

fn resources(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<api::EsIndexMerge>(&()))
}

async fn remove(client: &Client, namespace: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete(namespace, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn the_api_server_refuses_wrong_manifests_with_a_message_that_helps() {
    let client = client_with_definition().await;
    let namespace = namespace(&client, "created").await;
    let resources = resources(&client, &namespace);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let mut complaints = Vec::new();
    for (row, patch, expected) in created() {
        // A patch of `null` in the first place stays a null in the manifest, as a user would write it.
        let object = if row.starts_with("null") {
            let mut object = manifest("row", &[]);
            object.data["spec"]["workers"] = patch["workers"].clone();
            object.data["spec"]["state"] = patch["state"].clone();
            object
        } else {
            manifest("row", &[&patch])
        };
        complaints.extend(complaint(row, &expected, resources.create(&dry_run, &object).await));
    }
    remove(&client, &namespace).await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test]
async fn the_api_server_lets_tuning_change_and_identity_not() {
    let client = client_with_definition().await;
    let namespace = namespace(&client, "changed").await;
    let resources = resources(&client, &namespace);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let mut complaints = Vec::new();
    for (number, (row, before, after, expected)) in changed().into_iter().enumerate() {
        let name = format!("row-{number}");
        let old = resources.create(&PostParams::default(), &manifest(&name, &[&before])).await.unwrap();
        let mut new = manifest(&name, &[&before, &after]);
        new.metadata.resource_version.clone_from(&old.metadata.resource_version);
        complaints.extend(complaint(row, &expected, resources.replace(&name, &dry_run, &new).await));
    }
    remove(&client, &namespace).await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test]
async fn a_retention_that_says_nothing_any_more_may_stay_but_not_change() {
    let client = client_with_definition().await;
    let namespace = namespace(&client, "retained").await;
    let resources = resources(&client, &namespace);
    let wanted = json!({"cutover": {"deleteSources": "AfterVerification", "retainFor": "24h"}});
    resources.create(&PostParams::default(), &manifest("merge", &[&wanted])).await.unwrap();
    let patch = async |spec: Value| {
        let patch = Patch::Merge(json!({ "spec": spec }));
        resources.patch("merge", &PatchParams::default(), &patch).await
    };
    let given_up = patch(at("cutover.deleteSources", "Never".into())).await;
    let another_field = patch(at("cutover.hold", true.into())).await;
    let another_time = patch(at("cutover.retainFor", "48h".into())).await;
    remove(&client, &namespace).await;
    given_up.unwrap();
    another_field.unwrap();
    let refused = Refused(&["spec.cutover.retainFor is \"48h\", but deleteSources is Never"]);
    assert_eq!(complaint("another time", &refused, another_time), None);
}

#[tokio::test]
async fn a_new_resource_is_stored_as_written_with_a_status_that_says_nothing_was_observed() {
    let client = client_with_definition().await;
    let namespace = namespace(&client, "stored").await;
    let resources = resources(&client, &namespace);
    let object = manifest("merge", &[&at("workers.concurrency", 8.into())]);
    let stored = resources.create(&PostParams::default(), &object).await.unwrap();
    remove(&client, &namespace).await;
    assert_eq!(stored.data["spec"], object.data["spec"], "nothing was written into the spec");
    assert_eq!(stored.data["status"], json!({ "observedGeneration": -1 }));
}
