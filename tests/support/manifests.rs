//! What the definition of `EsIndexMerge` accepts and refuses at creation: a table that is put to the API server and to
//! the engine, which also runs without one.

use serde_json::{Value, json};

/// What is expected.
pub enum Answer {
    Accepted,
    /// The message contains each of these.
    Refused(&'static [&'static str]),
}
pub use Answer::{Accepted, Refused};

/// The shortest manifest that is accepted.
pub fn shortest() -> Value {
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

pub fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |inner, key| json!({ key: inner }))
}

pub fn index(field: &str, value: impl Into<Value>) -> Value {
    at(&format!("destination.index.{field}"), value.into())
}

/// What is merged into the `spec` of the shortest manifest (`null` removes), and the answer.
pub fn created() -> Vec<(&'static str, Value, Answer)> {
    let longest = "x".repeat(242);
    let long = "x".repeat(243);
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
            "deletion of the destination and never of the sources",
            json!({"deletionPolicy": "DeleteDestination", "cutover": {"deleteSources": "Never"}}),
            Accepted,
        ),
        (
            "deletion of sources and destination",
            json!({"deletionPolicy": "DeleteDestination", "cutover": {"deleteSources": "AfterVerification"}}),
            Refused(&[
                "spec.deletionPolicy is \"DeleteDestination\" and spec.cutover.deleteSources is \"AfterVerification\"",
                "deleting the resource would delete the only copy",
                "set deletionPolicy to Retain, or deleteSources to Never",
            ]),
        ),
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
        ("an index name of 242 letters", index("name", longest), Accepted),
        (
            "an index name of 243 letters, so that an alias of the workers is too long",
            index("name", long),
            Refused(&["spec.destination.index.name", "Too long"]),
        ),
        (
            "an index name of 244 bytes in 122 letters",
            index("name", "é".repeat(122)),
            Refused(&["is not a name for an index", "at most 242 bytes", "-merge-writer"]),
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
            Refused(&["spec.collections.exclude: 9 is in include and in exclude"]),
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
            "an alias that is that of the workers",
            at("cutover.aliases", json!(["ok", "opengatellm-merge-writer"])),
            Refused(&[
                "spec.cutover.aliases contains \"opengatellm-merge-writer\"",
                "through which the merge itself writes",
            ]),
        ),
        ("an alias that only ends like it", at("cutover.aliases", json!(["other-merge-writer"])), Accepted),
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

/// JSON merge patch (RFC 7396).
pub fn merge(into: &mut Value, patch: &Value) {
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
