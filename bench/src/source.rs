//! Filling a server with the old layout: one index for each collection.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::corpus::{Collection, Corpus, VectorForm};
use crate::server::Server;

/// Chunks in one bulk request.
const BULK: u64 = 250;
/// Requests under way.
const AT_ONCE: usize = 4;

/// Creates and fills the indices of all collections, unless they are there already.
pub async fn fill(server: &Server, corpus: &std::sync::Arc<Corpus>) -> Result<()> {
    // A case that has as many chunks in other collections is another case.
    if names(server).await?.len() == corpus.collections.len() && count(server).await? == corpus.chunks() {
        return Ok(());
    }
    empty(server).await?;
    let body = json!({
        "settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"},
        "mappings": {"properties": {
            "id": {"type": "integer"},
            "content": {"type": "text"},
            // How the source searches is of no interest to reading it, and a graph would take minutes to fill.
            "embedding": {"type": "dense_vector", "dims": corpus.dimensions, "index": true, "similarity": "cosine",
                "index_options": {"type": "flat"}},
        }},
    });
    futures::stream::iter(&corpus.collections)
        .map(|collection| {
            let path = format!("/{}", collection.id);
            let body = &body;
            async move { server.put(&path, body).await }
        })
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let form = if server.hides_vectors() { VectorForm::Base64 } else { VectorForm::Floats };
    let bodies = bodies(corpus);
    futures::stream::iter(bodies)
        .map(|parts| {
            let corpus = std::sync::Arc::clone(corpus);
            async move {
                let body = tokio::task::spawn_blocking(move || lines(&corpus, &parts, form)).await?;
                server.bulk("/_bulk", body).await
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    set(server, &json!({"index.refresh_interval": null})).await?;
    server.command("/*/_flush").await?;
    let filled = count(server).await?;
    ensure!(filled == corpus.chunks(), "{filled} chunks are in the sources, not {}", corpus.chunks());
    Ok(())
}

/// Deletes every index.
pub async fn empty(server: &Server) -> Result<()> {
    let listed = server.get("/_resolve/index/*").await?;
    for group in listed_names(&listed).chunks(200) {
        server.delete(&group.join(",")).await?;
    }
    Ok(())
}

/// The source indices that are there.
async fn names(server: &Server) -> Result<Vec<String>> {
    let listed = server.get("/_resolve/index/*").await?;
    let is_source = |name: &&str| !name.starts_with('.') && !name.starts_with("merged");
    Ok(listed_names(&listed).into_iter().filter(is_source).map(str::to_owned).collect())
}

fn listed_names(listed: &serde_json::Value) -> Vec<&str> {
    listed["indices"].as_array().into_iter().flatten().filter_map(|index| index["name"].as_str()).collect()
}

async fn count(server: &Server) -> Result<u64> {
    let mut chunks = 0;
    for group in names(server).await?.chunks(200) {
        let list = group.join(",");
        server.command(&format!("/{list}/_refresh")).await?;
        chunks += server.get(&format!("/{list}/_count")).await?["count"].as_u64().unwrap_or(0);
    }
    Ok(chunks)
}

/// Changes settings of all sources, by their names: 8.x takes no pattern that leaves the server's own out.
async fn set(server: &Server, settings: &serde_json::Value) -> Result<()> {
    for group in names(server).await?.chunks(200) {
        server.put(&format!("/{}/_settings", group.join(",")), settings).await?;
    }
    Ok(())
}

/// Which chunks go into which request.
type Part = (Collection, std::ops::Range<u64>);

fn bodies(corpus: &Corpus) -> Vec<Vec<Part>> {
    let mut bodies: Vec<Vec<Part>> = vec![Vec::new()];
    let mut held = 0;
    for collection in &corpus.collections {
        let mut at = 0;
        while at < collection.chunks {
            if held >= BULK {
                bodies.push(Vec::new());
                held = 0;
            }
            let end = collection.chunks.min(at + BULK - held);
            if let Some(last) = bodies.last_mut() {
                last.push((*collection, at..end));
            }
            held += end - at;
            at = end;
        }
    }
    bodies
}

fn lines(corpus: &Corpus, parts: &[Part], form: VectorForm) -> Bytes {
    let mut body = String::with_capacity(4 << 20);
    for (collection, range) in parts {
        for at in range.clone() {
            let _ = writeln!(body, "{{\"index\":{{\"_index\":\"{}\"}}}}", collection.id);
            body.push_str(&corpus.source(collection, at, form));
            body.push('\n');
        }
    }
    Bytes::from(body)
}

/// Writers are let in again: a merge leaves its sources blocked.
pub async fn unblock(server: &Server) -> Result<()> {
    set(server, &json!({"index.blocks.write": null})).await
}
