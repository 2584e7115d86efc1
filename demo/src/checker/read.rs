//! Reading indices whole: a point in time, `_shard_doc` order, every page checked.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::mpsc;

use super::expected::Row;
use crate::cluster::Cluster;

/// Pages that wait for the comparison at most; the reader stops until there is room.
const PAGES_AHEAD: usize = 2;
/// A page has about this many bytes.
const PAGE_BYTES: usize = 8 << 20;

/// One answer to a search.
pub struct Page(Bytes);

/// One document of a page.
pub struct Hit<'a> {
    /// Its index.
    pub index: String,
    /// Its `_id`.
    pub id: String,
    /// Its `_source` as JSON.
    pub source: &'a str,
}

#[derive(Deserialize)]
struct Answer<'a> {
    timed_out: bool,
    pit_id: Option<String>,
    #[serde(rename = "_shards")]
    shards: Shards,
    #[serde(borrow)]
    hits: Hits<'a>,
}

#[derive(Deserialize)]
struct Shards {
    failed: u64,
    total: u64,
}

#[derive(Deserialize)]
struct Hits<'a> {
    total: Option<Total>,
    #[serde(borrow)]
    hits: Vec<RawHit<'a>>,
}

#[derive(Deserialize)]
struct Total {
    value: u64,
}

#[derive(Deserialize)]
struct RawHit<'a> {
    #[serde(rename = "_index")]
    index: String,
    #[serde(rename = "_id")]
    id: String,
    #[serde(borrow, rename = "_source")]
    source: &'a RawValue,
    sort: Value,
}

impl Page {
    /// The documents of the page.
    pub fn hits(&self) -> Result<Vec<Hit<'_>>> {
        let answer: Answer<'_> = serde_json::from_slice(&self.0).context("a page cannot be read")?;
        Ok(answer
            .hits
            .hits
            .into_iter()
            .map(|hit| Hit { index: hit.index, id: hit.id, source: hit.source.get() })
            .collect())
    }
}

/// Reads all documents of `indices`, in `slices` streams at a time; pages arrive as they come. The receiver gets
/// an error, and nothing after it, when an index cannot be read completely.
pub fn pages(
    cluster: &Cluster,
    groups: &[String],
    slices: usize,
    dimensions: usize,
) -> mpsc::Receiver<Result<Page>> {
    let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
    let size = (PAGE_BYTES / (dimensions * 14 + 1000)).clamp(10, 5000);
    for slice in 0..slices {
        let (cluster, sender, groups) = (cluster.clone(), sender.clone(), groups.to_vec());
        tokio::spawn(async move {
            for group in groups {
                if let Err(error) = walk(&cluster, &group, slice, slices, size, &sender).await {
                    // Nobody listens any more when the comparison has failed by itself.
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            }
        });
    }
    receiver
}

async fn walk(
    cluster: &Cluster,
    group: &str,
    slice: usize,
    slices: usize,
    size: usize,
    sender: &mpsc::Sender<Result<Page>>,
) -> Result<()> {
    let opened = cluster.require(Method::POST, &format!("/{group}/_pit?keep_alive=5m"), None).await?;
    let mut pit = opened["id"].as_str().context("no point in time was opened")?.to_owned();
    let mut after: Option<Value> = None;
    let (mut read, mut total) = (0_u64, None);
    loop {
        let mut body = json!({
            "size": size,
            "pit": {"id": pit, "keep_alive": "5m"},
            "sort": [{"_shard_doc": "asc"}],
            "track_total_hits": after.is_none(),
        });
        if cluster.version() >= (9, 2) {
            // These servers leave vectors out of `_source` unless asked.
            body["_source"] = json!({"exclude_vectors": false});
        }
        if slices > 1 {
            body["slice"] = json!({"id": slice, "max": slices});
        }
        if let Some(after) = &after {
            body["search_after"] = after.clone();
        }
        let answer = cluster.require_raw(Method::POST, "/_search", Some(&body)).await?.body;
        let page: Answer<'_> = serde_json::from_slice(&answer).context("a page cannot be read")?;
        ensure!(
            !page.timed_out && page.shards.failed == 0 && page.shards.total > 0,
            "{group}: a page is not complete"
        );
        if let Some(found) = &page.hits.total {
            total = Some(found.value);
        }
        read += page.hits.hits.len() as u64;
        let Some(last) = page.hits.hits.last() else { break };
        after = Some(last.sort.clone());
        if let Some(id) = page.pit_id {
            pit = id;
        }
        if sender.send(Ok(Page(answer))).await.is_err() {
            break;
        }
    }
    cluster.require(Method::DELETE, "/_pit", Some(&json!({ "id": pit }))).await?;
    match total {
        Some(total) if total != read && !sender.is_closed() => {
            bail!("{group}: {total} documents found and {read} read")
        }
        _ => Ok(()),
    }
}

/// Names and document counts of all open indices that are named by an integer.
pub async fn integer_indices(cluster: &Cluster) -> Result<Vec<i64>> {
    let all = cluster.list("/_cat/indices?format=json&h=index,status&expand_wildcards=open").await?;
    let names = all
        .as_array()
        .context("the list of indices is no list")?
        .iter()
        .filter_map(|index| index["index"].as_str());
    let mut ids: Vec<i64> =
        names.filter_map(|name| name.parse::<i64>().ok().filter(|id| id.to_string() == name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The ids of all collections.
pub async fn collections(pool: &PgPool) -> Result<Vec<i64>> {
    sqlx::query_scalar("SELECT id::bigint FROM collection ORDER BY id")
        .fetch_all(pool)
        .await
        .context("cannot read the collections")
}

/// Names and dates of all documents, whatever the columns are called.
pub async fn documents(pool: &PgPool) -> Result<HashMap<i64, Row>> {
    // A column that is not there is null in the row's JSON; a date without a zone is in UTC.
    let rows: Vec<(i64, Option<String>, Option<i64>)> = sqlx::query_as(
        "WITH rows AS (SELECT id::bigint AS id, to_jsonb(document) AS row FROM document), \
         texts AS (SELECT id, row->>'name' AS name, coalesce(row->>'created_at', row->>'created') AS date FROM rows) \
         SELECT id, name, floor(extract(epoch FROM CASE WHEN date ~ '([+-][0-9:]+|Z)$' AND date ~ 'T.*([+-]|Z)' \
         THEN date::timestamptz ELSE (date::timestamp AT TIME ZONE 'UTC') END) * 1000)::bigint FROM texts",
    )
    .fetch_all(pool)
    .await
    .context("cannot read the documents")?;
    Ok(rows.into_iter().map(|(id, name, created)| (id, Row { name, created })).collect())
}
