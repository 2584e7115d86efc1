//! What the definition of `EsIndexMerge` accepts and refuses, asked of a real API server.
//!
//! Two tables: manifests that are created, and changes of a manifest that is already there. Each refused row says
//! what the API server's message must contain, because the message is what the user sees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::too_many_lines)] // tables

#[path = "support/kubernetes.rs"]
mod kubernetes;

use es_index_merge::api;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client,
    api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use kubernetes::client_with_definition;
use serde_json::{Value, json};

/// What the API server is expected to answer.
enum Answer {
    Accepted,
    /// The message contains each of these.
    Refused(&'static [&'static str]),
}
use Answer::{Accepted, Refused};

/// The shortest manifest that is accepted.
fn shortest() -> Value {
    json!({
        "apiVersion": "indexmerge.dev/v1alpha1",
        "kind": "EsIndexMerge",
        "metadata": { "name": "merge" },
        "spec": {
            "collections": { "postgres": { "urlSecretRef": { "name": "postgres", "key": "url" } } },
            "source": { "url": "https://source:9200" },
            "destination": {
                "url": "https://destination:9200",
                "index": { "name": "opengatellm", "language": "french", "vectorSize": 1024 }
            },
            "contract": "OpenGateLLM"
        }
    })
}

/// Everything the resource offers, at once.
fn everything() -> Value {
    json!({
        "collections": { "include": [1, 2, 3], "exclude": [4] },
        "source": {
            "credentialsSecretRef": { "name": "es-source" },
            "caSecretRef": { "name": "es-ca", "key": "ca.crt" }
        },
        "destination": {
            "credentialsSecretRef": { "name": "es-destination" },
            "caSecretRef": { "name": "es-ca", "key": "ca.crt" },
            "index": {
                "numberOfShards": 24,
                "numberOfReplicas": 1,
                "vectorIndexOptions": { "type": "bbq_hnsw", "m": 16, "efConstruction": 100 }
            }
        },
        "state": { "postgres": { "urlSecretRef": { "name": "state", "key": "url" } }, "schema": "es_index_merge" },
        "workers": {
            "mode": "InProcess", "replicas": 1, "concurrency": 4, "maxBytesInFlight": "64Mi",
            "maxDocumentsPerSecond": 500
        },
        "verification": { "mode": "Full" },
        "tolerations": { "maxQuarantined": 0, "unknownDocuments": "Keep" },
        "cutover": {
            "hold": true, "maxLag": "30s", "timeout": "5m", "sourceWrites": "Block", "aliases": ["rag"],
            "deleteSources": "AfterVerification", "retainFor": "168h"
        },
        "suspend": true,
        "retryToken": "2026-11-23",
        "deletionPolicy": "Retain"
    })
}

fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |inner, key| json!({ key: inner }))
}

fn index(field: &str, value: impl Into<Value>) -> Value {
    at(&format!("destination.index.{field}"), value.into())
}

/// What is merged into the `spec` of the shortest manifest (`null` removes), and the answer.
fn created() -> Vec<(&'static str, Value, Answer)> {
    let long = "x".repeat(256);
    let many: Vec<i64> = (0..1001).collect();
    vec![
        ("the shortest manifest", json!({}), Accepted),
        ("everything at once", everything(), Accepted),
        (
            "null is the same as leaving out",
            json!({"workers": {"maxDocumentsPerSecond": null}, "state": null}),
            Accepted,
        ),
        // What must be there.
        ("no collections", json!({"collections": null}), Refused(&["spec.collections: Required value"])),
        ("no contract", json!({"contract": null}), Refused(&["spec.contract: Required value"])),
        ("no vector size", index("vectorSize", Value::Null), Refused(&["vectorSize: Required value"])),
        ("no language", index("language", Value::Null), Refused(&["language: Required value"])),
        (
            "no key of a secret",
            at("collections.postgres.urlSecretRef", json!({"key": null})),
            Refused(&["key: Required value"]),
        ),
        // Values from a list: only what works is offered.
        (
            "an unknown contract",
            json!({"contract": "Passthrough"}),
            Refused(&["Unsupported value: \"Passthrough\"", "\"OpenGateLLM\", \"OpenGateRAG\""]),
        ),
        (
            "an unknown language",
            index("language", "klingon"),
            Refused(&["Unsupported value: \"klingon\"", "\"dutch\""]),
        ),
        (
            "workers as jobs",
            at("workers.mode", "Job".into()),
            Refused(&["Unsupported value: \"Job\"", "\"InProcess\""]),
        ),
        (
            "verification of a sample",
            at("verification.mode", "Sample".into()),
            Refused(&["\"Full\", \"Counts\""]),
        ),
        ("verification by counts", at("verification.mode", "Counts".into()), Accepted),
        ("deletion of sources", at("cutover.deleteSources", "AfterVerification".into()), Accepted),
        (
            "deletion of sources at once",
            json!({"cutover": {"deleteSources": "AfterVerification", "retainFor": "0s"}}),
            Accepted,
        ),
        (
            "deletion of sources at another time",
            at("cutover.deleteSources", "Always".into()),
            Refused(&["Unsupported value: \"Always\"", "\"Never\", \"AfterVerification\""]),
        ),
        (
            "a retention without a deletion",
            at("cutover.retainFor", "24h".into()),
            Refused(&["spec.cutover.retainFor is \"24h\", but deleteSources is Never"]),
        ),
        (
            "a retention of more than a year",
            json!({"cutover": {"deleteSources": "AfterVerification", "retainFor": "8761h"}}),
            Refused(&["spec.cutover.retainFor is \"8761h\"", "from 0s to 8760h"]),
        ),
        (
            "deletion of sources that are written to",
            json!({"cutover": {"deleteSources": "AfterVerification", "sourceWrites": "Allow"}}),
            Refused(&[
                "spec.cutover.deleteSources is \"AfterVerification\" and spec.cutover.sourceWrites is \"Allow\"",
                "set deleteSources to Never, or sourceWrites to Block",
            ]),
        ),
        (
            "deletion of sources that were only counted",
            json!({"cutover": {"deleteSources": "AfterVerification"}, "verification": {"mode": "Counts"}}),
            Refused(&[
                "spec.cutover.deleteSources is \"AfterVerification\" and spec.verification.mode is \"Counts\"",
                "set deleteSources to Never, or the mode to Full",
            ]),
        ),
        ("deletion of the destination", json!({"deletionPolicy": "DeleteDestination"}), Accepted),
        (
            "an unknown type of index",
            index("vectorIndexOptions", json!({"type": "bbq_disk"})),
            Refused(&["Unsupported value: \"bbq_disk\""]),
        ),
        // URLs.
        (
            "several nodes",
            at("source.url", "https://a:9200, https://b:9200,http://10.0.0.1:9200/path".into()),
            Accepted,
        ),
        ("an address of version 6", at("source.url", "https://[::1]:9200".into()), Accepted),
        ("the highest port", at("source.url", "https://es.example.org.:65535/".into()), Accepted),
        ("a name that only begins with a number", at("source.url", "https://9-es_1.0a:1".into()), Accepted),
        (
            "a port that there is not",
            at("source.url", "https://a:9200,https://es:65536".into()),
            Refused(&["spec.source.url must be https://host:port", "a port from 1 to 65535"]),
        ),
        (
            "no port after the colon",
            at("source.url", "https://es:/".into()),
            Refused(&["spec.source.url must be"]),
        ),
        (
            "a port without a host",
            at("destination.url", "https://:9200".into()),
            Refused(&["https://host:port"]),
        ),
        (
            "a path without a host",
            at("source.url", "https:///es".into()),
            Refused(&["spec.source.url must be"]),
        ),
        (
            "a number too large in an address",
            at("source.url", "https://10.0.0.256:9200".into()),
            Refused(&["spec.source.url must be"]),
        ),
        (
            "an address of five parts",
            at("source.url", "https://10.0.0.0.1:9200".into()),
            Refused(&["spec.source.url must be"]),
        ),
        (
            "a password in a URL",
            at("source.url", "https://elastic:secret@es:9200".into()),
            Refused(&["spec.source.url must not contain a user name or a password", "credentialsSecretRef"]),
        ),
        (
            "a password in the other URL",
            at("destination.url", "https://elastic:secret@es:9200".into()),
            Refused(&["spec.destination.url must not contain a user name"]),
        ),
        (
            "a URL without a scheme",
            at("source.url", "elasticsearch:9200".into()),
            Refused(&[
                "spec.source.url must be https://host:port",
                "for instance https://elasticsearch:9200",
            ]),
        ),
        (
            "a URL with a query",
            at("destination.url", "https://es:9200/?pretty".into()),
            Refused(&["spec.destination.url must be https://host:port", "without query"]),
        ),
        (
            "a list with an empty node",
            at("source.url", "https://a:9200,".into()),
            Refused(&["spec.source.url must be"]),
        ),
        (
            "authority and no verification",
            json!({"source": {"insecureSkipVerify": true, "caSecretRef": {"name": "ca", "key": "ca.crt"}}}),
            Refused(&["spec.source: caSecretRef and insecureSkipVerify exclude each other"]),
        ),
        ("no verification", at("source.insecureSkipVerify", true.into()), Accepted),
        (
            "a name no secret can have",
            at("source.credentialsSecretRef", json!({"name": "Es_Source"})),
            Refused(&["spec.source.credentialsSecretRef.name", "should match"]),
        ),
        // The destination's name.
        ("an index name with every allowed sign", index("name", "a1-b_c.d+é"), Accepted),
        (
            "an index name in upper case",
            index("name", "OpenGateLLM"),
            Refused(&[
                "spec.destination.index.name \"OpenGateLLM\" is not a name for an index",
                "lower case",
            ]),
        ),
        (
            "an index name that begins with a sign",
            index("name", "_all"),
            Refused(&["\"_all\" is not a name for an index"]),
        ),
        (
            "an index name with a dot in front",
            index("name", ".kibana"),
            Refused(&["\".kibana\" is not a name"]),
        ),
        ("an index name with a star", index("name", "a*"), Refused(&["\"a*\" is not a name"])),
        ("an index name with a backslash", index("name", "a\\b"), Refused(&["is not a name for an index"])),
        ("an index name with a comma", index("name", "a,b"), Refused(&["\"a,b\" is not a name"])),
        ("an index name with a space", index("name", "a b"), Refused(&["\"a b\" is not a name"])),
        (
            "an index name that is a number",
            index("name", "42"),
            Refused(&["\"42\" is a number, as the names of the sources are"]),
        ),
        (
            "an index name of 256 letters",
            index("name", long),
            Refused(&["spec.destination.index.name: Too long"]),
        ),
        (
            "an index name of 256 bytes in 128 letters",
            index("name", "é".repeat(128)),
            Refused(&["is not a name for an index", "255 bytes"]),
        ),
        ("an empty index name", index("name", ""), Refused(&["spec.destination.index.name"])),
        // Numbers.
        ("no shards", index("numberOfShards", 0), Refused(&["numberOfShards", "greater than or equal to 1"])),
        ("the most shards", index("numberOfShards", 1024), Accepted),
        (
            "too many shards",
            index("numberOfShards", 1025),
            Refused(&["numberOfShards", "less than or equal to 1024"]),
        ),
        ("no replicas", index("numberOfReplicas", 0), Accepted),
        ("no dimensions", index("vectorSize", 0), Refused(&["vectorSize", "greater than or equal to 1"])),
        (
            "too many dimensions",
            index("vectorSize", 4097),
            Refused(&["vectorSize", "less than or equal to 4096"]),
        ),
        (
            "no concurrency",
            at("workers.concurrency", 0.into()),
            Refused(&["spec.workers.concurrency", "greater than or equal to 1"]),
        ),
        (
            "two processes",
            at("workers.replicas", 2.into()),
            Refused(&["spec.workers.replicas", "less than or equal to 1"]),
        ),
        (
            "less than nothing in quarantine",
            at("tolerations.maxQuarantined", (-1).into()),
            Refused(&["maxQuarantined", "greater than or equal to 0"]),
        ),
        // Index options.
        (
            "int4 with an odd size",
            json!({"destination": {"index": {"vectorSize": 1023, "vectorIndexOptions": {"type": "int4_hnsw"}}}}),
            Refused(&["vectorSize is 1023", "\"int4_hnsw\" needs an even number", "int8_hnsw"]),
        ),
        (
            "int4 with an even size",
            json!({"destination": {"index": {"vectorSize": 2, "vectorIndexOptions": {"type": "int4_flat"}}}}),
            Accepted,
        ),
        (
            "bbq with a short vector",
            json!({"destination": {"index": {"vectorSize": 63, "vectorIndexOptions": {"type": "bbq_hnsw"}}}}),
            Refused(&["vectorSize is 63", "\"bbq_hnsw\" needs at least 64"]),
        ),
        (
            "bbq with 64 dimensions",
            json!({"destination": {"index": {"vectorSize": 64, "vectorIndexOptions": {"type": "bbq_flat"}}}}),
            Accepted,
        ),
        (
            "a graph option without a graph",
            index("vectorIndexOptions", json!({"type": "flat", "m": 16})),
            Refused(&["type \"flat\" has no graph", "m and efConstruction mean nothing"]),
        ),
        (
            "m too small",
            index("vectorIndexOptions", json!({"type": "hnsw", "m": 1})),
            Refused(&["vectorIndexOptions.m", "greater than or equal to 2"]),
        ),
        // Collections.
        (
            "a collection in both lists",
            json!({"collections": {"include": [1, 7, 9], "exclude": [9]}}),
            Refused(&["spec.collections: 9 is in include and in exclude"]),
        ),
        (
            "a collection twice in a list",
            at("collections.include", json!([1, 1])),
            Refused(&["spec.collections.include[1]: Duplicate value: 1"]),
        ),
        (
            "a negative collection",
            at("collections.exclude", json!([-1])),
            Refused(&["spec.collections.exclude[0]"]),
        ),
        (
            "too many collections in a list",
            at("collections.include", json!(many)),
            Refused(&["spec.collections.include: Too many: 1001: must have at most 1000 items"]),
        ),
        // State.
        (
            "a schema of Postgres",
            at("state.schema", "pg_catalog".into()),
            Refused(&["spec.state.schema \"pg_catalog\" is reserved by Postgres"]),
        ),
        (
            "a schema that is no name",
            at("state.schema", "a-b".into()),
            Refused(&["spec.state.schema", "should match"]),
        ),
        // Quantities and times.
        ("no unit is bytes", at("workers.maxBytesInFlight", "67108864".into()), Accepted),
        (
            "too few bytes",
            at("workers.maxBytesInFlight", "1Ki".into()),
            Refused(&["spec.workers.maxBytesInFlight is \"1Ki\"", "from 1Mi to 16Gi", "for instance 64Mi"]),
        ),
        (
            "too many bytes",
            at("workers.maxBytesInFlight", "17Gi".into()),
            Refused(&["maxBytesInFlight is \"17Gi\""]),
        ),
        (
            "bytes that are none",
            at("workers.maxBytesInFlight", "64MiB".into()),
            Refused(&["spec.workers.maxBytesInFlight", "should match"]),
        ),
        ("a time in two parts", at("cutover.maxLag", "1m30s".into()), Accepted),
        (
            "a lag too short",
            at("cutover.maxLag", "500ms".into()),
            Refused(&["spec.cutover.maxLag is \"500ms\"", "from 1s to 24h"]),
        ),
        (
            "a cutover too long",
            at("cutover.timeout", "7h".into()),
            Refused(&["spec.cutover.timeout is \"7h\"", "from 10s to 6h"]),
        ),
        (
            "a time that is none",
            at("cutover.timeout", "soon".into()),
            Refused(&["spec.cutover.timeout", "should match"]),
        ),
        // Aliases.
        (
            "an alias that is the index",
            at("cutover.aliases", json!(["opengatellm"])),
            Refused(&["spec.cutover.aliases contains \"opengatellm\"", "remove it"]),
        ),
        (
            "an alias that is no name",
            at("cutover.aliases", json!(["ok", "Not"])),
            Refused(&["spec.cutover.aliases: each must be a name"]),
        ),
        (
            "an alias that is a number",
            at("cutover.aliases", json!(["ok", "42"])),
            Refused(&[
                "spec.cutover.aliases contains \"42\", which is a number, as the names of the sources are",
            ]),
        ),
        ("an alias with a number in it", at("cutover.aliases", json!(["42-a"])), Accepted),
        (
            "too many aliases",
            at("cutover.aliases", json!((0..17).map(|i| format!("a{i}")).collect::<Vec<_>>())),
            Refused(&["spec.cutover.aliases: Too many"]),
        ),
        (
            "a retry token too long",
            json!({"retryToken": "x".repeat(65)}),
            Refused(&["spec.retryToken: Too long"]),
        ),
    ]
}

/// What the manifest has first, what is changed, and the answer.
fn changed() -> Vec<(&'static str, Value, Value, Answer)> {
    let none = || json!({});
    let other_postgres = json!({ "urlSecretRef": { "name": "other", "key": "url" } });
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
            Refused(&["spec.collections.postgres cannot be changed"]),
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

/// JSON merge patch (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let into = into.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
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
