//! The destination as everybody has to leave it, and the proof that they did.
//!
//! The same for all: mapping, analysis, shards and index options of the contract, no replicas, every chunk there,
//! refreshed, one segment in each shard, and that segment with its graph.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::corpus::{Corpus, VectorForm};
use crate::server::Server;

/// Its name.
pub const NAME: &str = "merged";
/// Its primary shards.
pub const SHARDS: u64 = 2;
/// A shard with fewer chunks may have no graph: the server doesn't make one for very small segments.
const GRAPH_FROM: u64 = 5_000;

/// The index options that a merge pins on that server when the spec says none.
pub fn index_options(server: &Server, dimensions: usize) -> Value {
    let kind = if server.hides_vectors() && dimensions >= 384 { "bbq_hnsw" } else { "int8_hnsw" };
    json!({"type": kind})
}

/// Creates it; `options` are those to load with. The settings are the best for a load: no refresh, no replica.
pub async fn create(server: &Server, dimensions: usize, options: &Value) -> Result<()> {
    let body = json!({
        "settings": {
            "number_of_shards": SHARDS,
            "number_of_replicas": 0,
            "refresh_interval": "-1",
            "merge.scheduler.auto_throttle": false,
            "similarity": {"default": {"type": "BM25"}},
            "analysis": {
                "filter": {
                    "stop": {"type": "stop", "stopwords": "_french_"},
                    "stemmer": {"type": "stemmer", "language": "light_french"},
                },
                "analyzer": {"content_analyzer": {
                    "type": "custom", "tokenizer": "standard", "filter": ["lowercase", "stop", "stemmer"],
                }},
            },
        },
        "mappings": {"properties": {
            "id": {"type": "integer"},
            "collection_id": {"type": "integer"},
            "document_id": {"type": "integer"},
            "document_name": {"type": "keyword"},
            "embedding": embedding(dimensions, options),
            "content": {"type": "text", "analyzer": "content_analyzer"},
            "metadata": {"type": "flattened"},
            "created": {"type": "date"},
        }},
    });
    server.delete(NAME).await?;
    server.put(&format!("/{NAME}"), &body).await.map(drop)
}

fn embedding(dimensions: usize, options: &Value) -> Value {
    json!({"type": "dense_vector", "dims": dimensions, "index": true, "similarity": "cosine", "index_options": options})
}

/// Ends the load of an index that was filled with its graph from the start.
pub async fn finish(server: &Server) -> Result<()> {
    server.command(&format!("/{NAME}/_forcemerge?max_num_segments=1")).await?;
    settle(server).await
}

async fn settle(server: &Server) -> Result<()> {
    let settings = json!({"index.refresh_interval": null, "index.merge.scheduler.auto_throttle": null});
    server.put(&format!("/{NAME}/_settings"), &settings).await?;
    server.command(&format!("/{NAME}/_refresh")).await.map(drop)
}

/// Ends the load of an index that was filled as `flat`, as a merge does it: the wanted options, then one segment
/// in each shard, which is written anew because each shard has at least two before.
pub async fn finish_flat(server: &Server, dimensions: usize, bodies: &[bytes::Bytes]) -> Result<()> {
    server.command(&format!("/{NAME}/_flush")).await?;
    if server.hides_vectors() {
        // As a merge does it there: all cores at one graph.
        let setting = json!({"index.merge.intra_merge_parallelism_enabled": true});
        server.put(&format!("/{NAME}/_settings"), &setting).await?;
    }
    let options = index_options(server, dimensions);
    let mapping = json!({"properties": {"embedding": embedding(dimensions, &options)}});
    server.put(&format!("/{NAME}/_mapping"), &mapping).await?;
    // The last chunks once more, so that no shard has a single segment, which would be left as it is.
    if let Some(last) = bodies.last() {
        let again = String::from_utf8_lossy(last).replace("\"external\"", "\"external_gte\"");
        let few: Vec<&str> = again.lines().take(32).collect();
        server.bulk(&format!("/{NAME}/_bulk"), bytes::Bytes::from(few.join("\n") + "\n")).await?;
    }
    server.command(&format!("/{NAME}/_flush")).await?;
    finish(server).await
}

/// What was found of the graph.
#[derive(Debug, Clone)]
pub struct Proof {
    /// Segments of each shard.
    pub segments: Vec<usize>,
    /// Vectors that one kNN query compared, of how many.
    pub compared: (u64, u64),
}

/// Checks the final state.
pub async fn prove(server: &Server, corpus: &Corpus) -> Result<Proof> {
    let chunks = server.get(&format!("/{NAME}/_count")).await?["count"].as_u64().unwrap_or(0);
    ensure!(chunks == corpus.chunks(), "{chunks} chunks are in the destination, not {}", corpus.chunks());
    let settings = server.get(&format!("/{NAME}?flat_settings=true")).await?;
    let index = &settings[NAME];
    let wanted = index_options(server, corpus.dimensions);
    let found = &index["mappings"]["properties"]["embedding"]["index_options"]["type"];
    ensure!(*found == wanted["type"], "the index options are {found}, not {wanted}");
    for (setting, value) in [
        ("index.number_of_replicas", json!("0")),
        ("index.number_of_shards", json!(SHARDS.to_string())),
        ("index.refresh_interval", Value::Null),
    ] {
        ensure!(index["settings"][setting] == value, "{setting} is {}", index["settings"][setting]);
    }
    let segments = segments(server).await?;
    let compared = compared(server, corpus).await?;
    if chunks / SHARDS >= GRAPH_FROM {
        ensure!(compared.0 * 2 < compared.1, "a query compared {compared:?} vectors: the graph is missing");
    }
    same_content(server, corpus).await?;
    Ok(Proof { segments, compared })
}

async fn segments(server: &Server) -> Result<Vec<usize>> {
    let answer = server.get(&format!("/{NAME}/_segments")).await?;
    let shards = answer["indices"][NAME]["shards"].as_object().context("shards")?;
    let mut counts = Vec::new();
    for copies in shards.values() {
        let segments = copies[0]["segments"].as_object().context("segments")?;
        counts.push(segments.values().filter(|segment| segment["search"] == true).count());
    }
    Ok(counts)
}

/// A graph is walked, flat vectors are all compared: the number of comparisons of a query tells which.
async fn compared(server: &Server, corpus: &Corpus) -> Result<(u64, u64)> {
    let body = json!({
        "profile": true, "size": 1, "_source": false,
        "knn": {"field": "embedding", "query_vector": corpus.vector(0), "k": 10, "num_candidates": 100},
    });
    let answer = server.post(&format!("/{NAME}/_search"), &body).await?;
    let shards = answer["profile"]["shards"].as_array().context("a profile")?;
    let knn = shards.iter().flat_map(|shard| shard["dfs"]["knn"].as_array().into_iter().flatten());
    Ok((knn.filter_map(|query| query["vector_operations_count"].as_u64()).sum(), corpus.chunks()))
}

/// Some chunks, field by field: everybody has to write the same.
async fn same_content(server: &Server, corpus: &Corpus) -> Result<()> {
    let collection = corpus.collections.last().context("a collection")?;
    for at in [0, collection.chunks / 2, collection.chunks - 1] {
        let (_, expected) = corpus.merged(collection, at, VectorForm::Floats);
        let expected: Value = serde_json::from_str(&expected)?;
        let asked = json!({"size": 2, "query": {"bool": {"filter": [
            {"term": {"document_id": expected["document_id"]}}, {"term": {"id": expected["id"]}}]}}});
        let found = server.post(&format!("/{NAME}/_search?_source_includes=*"), &asked).await?;
        let hits = found["hits"]["hits"].as_array().context("hits")?;
        ensure!(hits.len() == 1, "{} chunks have the key of {expected}", hits.len());
        let source = &hits[0]["_source"];
        for field in ["id", "collection_id", "document_id", "document_name", "content", "metadata"] {
            ensure!(
                source[field] == expected[field],
                "{field}: {} is not {}",
                source[field],
                expected[field]
            );
        }
        // 2024-01-01T00:00:00Z, 2024-01-01T00:00:00+00:00 and 2024-01-01T00:00:00.000Z are the same.
        let created = |value: &Value| value.as_str().map(|text| text.chars().take(19).collect::<String>());
        ensure!(
            created(&source["created"]) == created(&expected["created"]),
            "created: {}",
            source["created"]
        );
        let numbers = |value: &Value| {
            let list = value["embedding"].as_array().cloned().unwrap_or_default();
            list.iter().filter_map(Value::as_f64).collect::<Vec<f64>>()
        };
        let (found, wanted) = (numbers(source), numbers(&expected));
        let near = found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-6);
        ensure!(found.len() == wanted.len() && near, "the embedding is another one");
    }
    Ok(())
}

/// Waits for a task of the server.
pub async fn wait_for(server: &Server, task: &str, limit: Duration) -> Result<Value> {
    let start = Instant::now();
    loop {
        let answer = server.get(&format!("/_tasks/{task}?wait_for_completion=true&timeout=30s")).await;
        match answer {
            Ok(answer) if answer["completed"] == true => {
                let failures = answer["response"]["failures"].as_array().map_or(0, Vec::len);
                if failures > 0 || !answer["error"].is_null() {
                    let text: String = answer.to_string().chars().take(1_500).collect();
                    bail!("the task failed: {text}");
                }
                return Ok(answer);
            }
            Ok(_) | Err(_) if start.elapsed() < limit => tokio::time::sleep(Duration::from_millis(100)).await,
            Ok(_) => bail!("the task did not end within {} s", limit.as_secs()),
            Err(error) => return Err(error),
        }
    }
}

/// Empty destination for the next run.
pub async fn remove(server: &Server) -> Result<()> {
    server.ask(Method::DELETE, &format!("/{NAME}?ignore_unavailable=true"), None).await.map(drop)
}
