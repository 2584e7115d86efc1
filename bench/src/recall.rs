//! Search quality: an index whose graph came last, against one whose graph was built while it was filled.
//!
//! The text is real (manual pages), its vectors are made of the text, and the queries are parts of chunks that are not
//! in the index as they are. Both indices hold the same documents under the same ids on the same shards.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use demo::cluster::{Access, Cluster};
use demo::seed::{corpus, embedding, library};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use testenv::postgres::Postgres;

use crate::destination::NAME;
use crate::ours::{self, Ask};
use crate::server::Server;
use crate::{destination, source};

const DIMENSIONS: usize = 1024;
/// The index whose graph is built while it is filled.
const DIRECT: &str = "merged-directly";
const QUERIES: usize = 200;
const NEIGHBOURS: usize = 10;
/// Exact similarities are asked for so many chunks, so that equal ones are known as such.
const KNOWN: usize = 100;

/// Measures it; gives lines of Markdown.
pub async fn measure(server: &Server, postgres: &Postgres, chunks: usize) -> Result<String> {
    destination::remove(server).await?;
    source::empty(server).await?;
    let database = postgres.database()?;
    let pages = corpus::pages(&corpus::PACKAGES).context("the manual pages")?;
    let options = library::Options { dimensions: DIMENSIONS, large: chunks / 2, tiny: 0, total: chunks };
    let shelves = library::arrange(pages, &options)?;
    let queries = queries(&shelves);
    let pool = PgPoolOptions::new().max_connections(2).connect(&database.url).await?;
    let cluster = Cluster::connect(Access::of(&server.access)?).await?;
    let filled = library::fill(&cluster, &pool, shelves, &options, &|_: &str| {}).await?;
    pool.close().await;

    let url = &server.access.url;
    let ask = Ask { verification: "Counts", more: String::new() };
    let manifest = ours::manifest(url, url, (server, server), &database, DIMENSIONS, &ask);
    tokio::task::spawn_blocking(move || ours::run(&manifest)).await??;
    fill_directly(server).await?;

    let (mut deferred, mut direct) = (0, 0);
    for query in &queries {
        let exact = exact(server, query).await?;
        deferred += hits(server, NAME, query, &exact).await?;
        direct += hits(server, DIRECT, query, &exact).await?;
    }
    server.delete(DIRECT).await?;
    let recall = |hits: usize| hits as f64 / (queries.len() * NEIGHBOURS) as f64;
    Ok(format!(
        "Recall@{NEIGHBOURS} of {} queries over {} chunks of manual pages in {} collections, {DIMENSIONS} dimensions, `{}`, 100 candidates: {:.3} with the graph last, {:.3} where the graph was built while the index was filled.\n\n",
        queries.len(),
        filled.chunks,
        filled.collections,
        destination::index_options(server, DIMENSIONS)["type"].as_str().unwrap_or_default(),
        recall(deferred),
        recall(direct),
    ))
}

/// The middle words of chunks from all over the library.
fn queries(shelves: &[library::Shelf]) -> Vec<Vec<f32>> {
    let texts: Vec<&String> =
        shelves.iter().flat_map(|shelf| &shelf.pages).flat_map(|page| &page.paragraphs).collect();
    let step = (texts.len() / QUERIES).max(1);
    let middle = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let third = words.len() / 3;
        words[third..words.len() - third].join(" ")
    };
    texts.iter().step_by(step).take(QUERIES).map(|text| embedding::embed(&middle(text), DIMENSIONS)).collect()
}

/// The same documents into an index that has the same mapping from its start.
async fn fill_directly(server: &Server) -> Result<()> {
    let made = server.get(&format!("/{NAME}")).await?;
    let (mapping, settings) = (&made[NAME]["mappings"], &made[NAME]["settings"]["index"]);
    let body = json!({"mappings": mapping, "settings": {
        "number_of_shards": settings["number_of_shards"], "number_of_replicas": 0, "refresh_interval": "-1",
        "analysis": settings["analysis"], "similarity": settings["similarity"],
    }});
    server.delete(DIRECT).await?;
    server.put(&format!("/{DIRECT}"), &body).await?;
    let copy = json!({"source": {"index": NAME}, "dest": {"index": DIRECT}});
    let answer = server.post("/_reindex?wait_for_completion=false", &copy).await?;
    let task = answer["task"].as_str().context("a task")?;
    destination::wait_for(server, task, Duration::from_hours(1)).await?;
    server.command(&format!("/{DIRECT}/_forcemerge?max_num_segments=1")).await?;
    server.command(&format!("/{DIRECT}/_refresh")).await?;
    let count = |answer: Value| answer["count"].as_u64();
    let (here, there) =
        (server.get(&format!("/{NAME}/_count")).await?, server.get(&format!("/{DIRECT}/_count")).await?);
    ensure!(count(here) == count(there), "the two indices do not hold the same");
    Ok(())
}

/// The most similar chunks with their exact similarities.
async fn exact(server: &Server, query: &[f32]) -> Result<HashMap<String, f64>> {
    let score = json!({"source": "cosineSimilarity(params.q, 'embedding') + 1.0", "params": {"q": query}});
    let body = json!({"size": KNOWN, "_source": false,
        "query": {"script_score": {"query": {"match_all": {}}, "script": score}}});
    let answer = server.post(&format!("/{NAME}/_search"), &body).await?;
    let hits = answer["hits"]["hits"].as_array().context("hits")?;
    let scored = |hit: &Value| Some((hit["_id"].as_str()?.to_owned(), hit["_score"].as_f64()?));
    hits.iter().map(|hit| scored(hit).context("a score")).collect()
}

/// How many of the nearest that a search gives are among the nearest indeed. Of several that are equally near at the
/// end any is right.
async fn hits(server: &Server, index: &str, query: &[f32], exact: &HashMap<String, f64>) -> Result<usize> {
    let mut scores: Vec<f64> = exact.values().copied().collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    let last = scores.get(NEIGHBOURS - 1).context("too few chunks")? - 1e-6;
    let body = json!({"size": NEIGHBOURS, "_source": false,
        "knn": {"field": "embedding", "query_vector": query, "k": NEIGHBOURS, "num_candidates": 100}});
    let answer = server.post(&format!("/{index}/_search"), &body).await?;
    let found = answer["hits"]["hits"].as_array().context("hits")?;
    let is_near =
        |hit: &&Value| hit["_id"].as_str().and_then(|id| exact.get(id)).is_some_and(|&score| score >= last);
    Ok(found.iter().filter(is_near).count())
}
