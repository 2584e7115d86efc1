//! Questions to the merged index, by text and by vector, and answers that can be read.

use std::collections::HashMap;

use anyhow::{Context, Result};
use demo::cluster::Cluster;
use demo::seed::embedding::embed;
use serde_json::{Value, json};

use crate::servers::Servers;

/// Answers shown for a question.
const SHOWN: usize = 3;
/// Characters of a chunk that are shown.
const SNIPPET: usize = 150;

/// Asked when nothing is: what a user of each language might want to know.
const QUESTIONS: [&str; 6] = [
    "attendre la fin d'un processus fils",
    "changer les droits d'accès d'un fichier",
    "how to wait for a child process to change state",
    "ein leeres Verzeichnis löschen",
    "cambiar el propietario de un fichero",
    "cosa restituisce la chiamata di sistema",
];

/// Asks each question by its words and by its vector, and one chunk of the source for itself.
pub async fn ask(servers: &Servers, index: &str, questions: &[String]) -> Result<()> {
    let (_, destination) = servers.clusters().await?;
    let names = collection_names(servers).await?;
    let dimensions = dimensions(&destination, index).await?;
    if questions.is_empty() {
        for question in QUESTIONS {
            both(&destination, index, question, dimensions, &names).await?;
        }
        return itself(&destination, index, dimensions, &names).await;
    }
    for question in questions {
        both(&destination, index, question, dimensions, &names).await?;
    }
    Ok(())
}

async fn both(
    cluster: &Cluster,
    index: &str,
    question: &str,
    dimensions: usize,
    names: &HashMap<i64, String>,
) -> Result<()> {
    println!("\n? {question}");
    let by_text = json!({"query": {"match": {"content": question}}});
    show("by text", &search(cluster, index, by_text).await?, names);
    let by_vector = json!({"knn": knn(question, dimensions)});
    show("by vector", &search(cluster, index, by_vector).await?, names);
    Ok(())
}

/// A chunk's own text must find that chunk, with a score of 1.
async fn itself(
    cluster: &Cluster,
    index: &str,
    dimensions: usize,
    names: &HashMap<i64, String>,
) -> Result<()> {
    let any = json!({"query": {"function_score": {"random_score": {"seed": 7, "field": "_seq_no"}}}});
    let chosen = search(cluster, index, any).await?;
    let Some(hit) = chosen.first() else { return Ok(()) };
    let content = hit["_source"]["content"].as_str().unwrap_or_default();
    println!("\n? the vector of one chunk, which must find itself: {}", snippet(content));
    let found = search(cluster, index, json!({"knn": knn(content, dimensions)})).await?;
    show("by vector", &found, names);
    let is_first =
        found.first().is_some_and(|first| first["_source"]["content"] == hit["_source"]["content"]);
    println!("  {}", if is_first { "found itself" } else { "did NOT find itself" });
    Ok(())
}

fn knn(text: &str, dimensions: usize) -> Value {
    json!({"field": "embedding", "query_vector": embed(text, dimensions), "k": SHOWN, "num_candidates": 100})
}

async fn search(cluster: &Cluster, index: &str, mut body: Value) -> Result<Vec<Value>> {
    body["size"] = json!(SHOWN);
    body["_source"] = json!({"excludes": ["embedding"]});
    let answer = cluster.post(&format!("/{index}/_search"), &body).await?;
    Ok(answer["hits"]["hits"].as_array().cloned().unwrap_or_default())
}

fn show(how: &str, hits: &[Value], names: &HashMap<i64, String>) {
    println!("  {how}:");
    for hit in hits {
        let source = &hit["_source"];
        let collection = source["collection_id"].as_i64().unwrap_or_default();
        println!(
            "    {:6.3}  {} ({}, collection {collection})",
            hit["_score"].as_f64().unwrap_or_default(),
            source["document_name"].as_str().unwrap_or("-"),
            names.get(&collection).map_or("?", String::as_str),
        );
        println!("            {}", snippet(source["content"].as_str().unwrap_or_default()));
    }
}

fn snippet(text: &str) -> String {
    let line: String = text.chars().take(SNIPPET).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > SNIPPET { format!("{line}…") } else { line }
}

async fn dimensions(cluster: &Cluster, index: &str) -> Result<usize> {
    let mapping = cluster.get(&format!("/{index}/_mapping")).await?;
    let dims = &mapping[index]["mappings"]["properties"]["embedding"]["dims"];
    let dims = dims.as_u64().with_context(|| format!("index {index} has no vectors of a known size"))?;
    usize::try_from(dims).context("the size of the vectors")
}

async fn collection_names(servers: &Servers) -> Result<HashMap<i64, String>> {
    let rows: Vec<(i64, String)> = sqlx::query_as("SELECT id::bigint, name FROM collection")
        .fetch_all(&servers.pool().await?)
        .await
        .context("the collections' names")?;
    Ok(rows.into_iter().collect())
}
