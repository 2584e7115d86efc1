//! `_reindex`, at its best setting, with the script that makes the same documents.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::corpus::Corpus;
use crate::destination::{self, NAME};
use crate::server::Server;

const LIMIT: Duration = Duration::from_hours(1);

/// The contract's document and its key, in the server's own language.
const SCRIPT: &str = r"
Map s = ctx._source;
Map m = (Map) s.remove('metadata');
long document = ((Number) m.remove('document_id')).longValue();
m.remove('collection_id');
ctx._id = (document + '|' + s.id).sha256();
s.put('document_id', document);
s.put('collection_id', Integer.parseInt(ctx._index));
s.put('document_name', m.remove('document_name'));
s.put('created', Instant.ofEpochSecond(((Number) m.remove('document_created_at')).longValue()).toString());
s.put('metadata', m.isEmpty() ? null : m);
ctx._index = params.destination;
";

/// Which sources go into one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// All.
    One,
    /// One after the other.
    EachSource,
}

/// Copies everything into an index with its graph from the start, then merges its segments.
pub async fn run(source: &Server, destination: &Server, corpus: &Corpus, requests: Requests) -> Result<()> {
    destination::create(
        destination,
        corpus.dimensions,
        &destination::index_options(destination, corpus.dimensions),
    )
    .await?;
    let names: Vec<String> = corpus.collections.iter().map(|collection| collection.id.to_string()).collect();
    match requests {
        Requests::One => reindex(source, destination, json!(names)).await?,
        Requests::EachSource => {
            for name in names {
                reindex(source, destination, json!(name)).await?;
            }
        }
    }
    Ok(())
}

async fn reindex(source: &Server, destination: &Server, index: Value) -> Result<()> {
    let is_local = source.access.url == destination.access.url;
    let mut from = json!({"index": index, "size": 1_000});
    if !is_local {
        from["remote"] = json!({
            "host": source.access.url,
            "username": source.access.username,
            "password": source.access.password,
            "socket_timeout": "5m",
        });
    }
    let body = json!({
        "source": from,
        "dest": {"index": NAME},
        "script": {"lang": "painless", "source": SCRIPT, "params": {"destination": NAME}},
    });
    // A remote source cannot be sliced.
    let slices = if is_local { "&slices=auto" } else { "" };
    let path = format!("/_reindex?wait_for_completion=false&refresh=false&requests_per_second=-1{slices}");
    let answer = destination.post(&path, &body).await?;
    let task = answer["task"].as_str().context("a task")?;
    destination::wait_for(destination, task, LIMIT).await.map(drop)
}
