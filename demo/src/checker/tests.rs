//! The checker and the hostile data on real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use testenv::elasticsearch::{Elasticsearch, Flavor};
use testenv::postgres::Postgres;

use super::*;
use crate::cluster::Access;
use crate::seed::bulk::{Bulk, VectorText, write_vector};
use crate::seed::odd;
use crate::seed::tables::Naming;
use crate::seed::writer::{self, Writer};

async fn cluster(flavor: Flavor) -> Cluster {
    let access = tokio::task::spawn_blocking(move || {
        let server = Elasticsearch::shared(flavor).expect("Elasticsearch");
        Access::of(server).expect("its files can be read")
    });
    Cluster::connect(access.await.unwrap()).await.unwrap()
}

struct Database {
    pool: PgPool,
    // Dropped with this.
    _database: testenv::postgres::Database,
}

async fn database() -> Database {
    let database =
        tokio::task::spawn_blocking(|| Postgres::shared().expect("Postgres").database().expect("a database"))
            .await
            .unwrap();
    let pool = PgPoolOptions::new().max_connections(3).connect(&database.url).await.unwrap();
    Database { pool, _database: database }
}

/// Ids that no other test uses; small enough for `integer`.
fn range() -> i64 {
    1_000_000 + i64::from(std::process::id() % 100_000) * 1_000
}

async fn forget(cluster: &Cluster, model: &odd::Model) {
    for index in model.collections.keys().map(i64::to_string).chain(model.strangers.iter().cloned()) {
        cluster.delete_index(&index).await.unwrap();
    }
}

/// The destination as it should be, written by the plainest means there are.
async fn write_expected(
    source: &Cluster,
    destination: &Cluster,
    index: &str,
    pool: &PgPool,
    model: &odd::Model,
    dimensions: usize,
) {
    let body = json!({"settings": {"number_of_replicas": 0}, "mappings": {"dynamic": false, "properties": {
        "id": {"type": "integer"}, "collection_id": {"type": "integer"}, "document_id": {"type": "integer"},
        "document_name": {"type": "keyword"}, "content": {"type": "text"}, "metadata": {"type": "flattened"}, "created": {"type": "date"},
        "embedding": {"type": "dense_vector", "dims": dimensions, "index": true, "similarity": "cosine"},
    }}});
    destination.put(&format!("/{index}"), &body).await.unwrap();
    let rows = read::documents(pool).await.unwrap();
    let mut bulk = Bulk::default();
    let groups = model
        .collections
        .iter()
        .filter(|(_, collection)| collection.mapping.is_some())
        .map(|(id, _)| id.to_string())
        .collect::<Vec<_>>();
    let mut pages = read::pages(source, &groups, 1, dimensions);
    while let Some(page) = pages.recv().await {
        let page = page.unwrap();
        for hit in page.hits().unwrap() {
            let collection = hit.index.parse().unwrap();
            let Ok(expected) = expect(hit.source, collection, Contract::OpenGateLLM, dimensions, &rows)
            else {
                continue;
            };
            bulk.index(index, Some(&expected.key), &render(&expected, hit.source));
        }
    }
    bulk.send(destination).await.unwrap();
}

fn render(expected: &expected::Expected, source: &str) -> String {
    let raw: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(source).unwrap();
    let entries: BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(raw["metadata"].get()).unwrap();
    let kept: Vec<String> = entries
        .iter()
        .filter(|(key, _)| expected.metadata.as_ref().is_some_and(|metadata| metadata.contains_key(*key)))
        .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), value.get()))
        .collect();
    let metadata = if kept.is_empty() { "null".to_owned() } else { format!("{{{}}}", kept.join(",")) };
    let mut vector = String::new();
    write_vector(&expected.vector, VectorText::Floats, &mut vector);
    let created =
        expected.created.map(|millis| jiff::Timestamp::from_millisecond(millis).unwrap().to_string());
    format!(
        "{{\"id\":{},\"collection_id\":{},\"document_id\":{},\"document_name\":{},\"content\":{},\"created\":{},\"metadata\":{metadata},\"embedding\":{vector}}}",
        expected.id,
        expected.collection,
        expected.document,
        json!(expected.name),
        json!(expected.content),
        json!(created),
    )
}

async fn finds_each_kind_of_damage_and_nothing_else(from: Flavor, to: Flavor, offset: i64) {
    let (source, destination, database) = (cluster(from).await, cluster(to).await, database().await);
    let dimensions = 8;
    let first = range() + offset;
    let options = odd::Options {
        dimensions,
        collections: 12,
        first_collection: first,
        first_document: first,
        naming: Naming::CreatedAt,
        bad: true,
        twins: true,
        ..odd::Options::default()
    };
    let model = odd::fill(&source, &database.pool, &options).await.unwrap();
    let index = format!("checker-test-{first}");
    write_expected(&source, &destination, &index, &database.pool, &model, dimensions).await;
    let options = Options {
        index: index.clone(),
        contract: Contract::OpenGateLLM,
        dimensions,
        include: Vec::new(),
        exclude: Vec::new(),
    };
    let judge = || check(&source, &destination, &database.pool, &options);

    let verdict = judge().await.unwrap();
    assert!(verdict.is_good(), "{verdict}");
    // The model that the seed returns is what the servers hold.
    assert_eq!(verdict.source_chunks as usize, model.good_chunks() + model.bad_chunks(), "{verdict}");
    assert_eq!(verdict.quarantined_total() as usize, model.bad_chunks(), "{verdict}");
    assert!(verdict.collapsed > 0 && verdict.quarantined_total() > 0, "{verdict}");

    let any = destination
        .post(&format!("/{index}/_search"), &json!({"size": 3, "_source": {"excludes": ["embedding"]}}))
        .await
        .unwrap();
    let ids: Vec<&str> =
        any["hits"]["hits"].as_array().unwrap().iter().map(|hit| hit["_id"].as_str().unwrap()).collect();
    destination.require(Method::DELETE, &format!("/{index}/_doc/{}", ids[0]), None).await.unwrap();
    destination
        .post(&format!("/{index}/_update/{}", ids[1]), &json!({"doc": {"content": "changed"}}))
        .await
        .unwrap();
    let mut twin = any["hits"]["hits"][2]["_source"].clone();
    twin["embedding"] = json!([1, 0, 0, 0, 0, 0, 0, 0]);
    destination.put(&format!("/{index}/_doc/another"), &twin).await.unwrap();
    let verdict = judge().await.unwrap();
    assert!(!verdict.is_good());
    assert_eq!(
        (verdict.missing.count, verdict.different.count, verdict.extra.count, verdict.duplicated.count),
        (1, 1, 1, 1),
        "{verdict}"
    );

    destination.delete_index(&index).await.unwrap();
    forget(&source, &model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_each_kind_of_damage_from_8_to_9() {
    finds_each_kind_of_damage_and_nothing_else(Flavor::V8, Flavor::V9, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_each_kind_of_damage_from_9_to_9() {
    finds_each_kind_of_damage_and_nothing_else(Flavor::V9, Flavor::V9, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_writer_goes_on_past_a_write_block_and_counts_it() {
    let (source, database) = (cluster(Flavor::V8).await, database().await);
    let tables = crate::seed::tables::Tables::create(&database.pool, Naming::Created).await.unwrap();
    let first = range() + 200;
    let options = writer::Options {
        seed: 1,
        dimensions: 8,
        per_second: 50,
        first_collection: first,
        first_document: first,
        collections: 3,
        outages: writer::Outages::End,
    };
    let writer = Writer::start(source.clone(), tables, options);
    let block = async {
        // Until it has collections with chunks.
        loop {
            // An index whose shard is not started yet answers with an error.
            let count = source.get(&format!("/{first},{}/_count?ignore_unavailable=true", first + 1)).await;
            if count.is_ok_and(|count| count["count"].as_u64().unwrap() > 20) {
                break;
            }
        }
        source.require(Method::PUT, &format!("/{first},{}/_block/write", first + 1), None).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    };
    tokio::time::timeout(std::time::Duration::from_mins(2), block).await.expect("the writer writes");
    let counts = writer.stop().await.unwrap();
    assert!(counts.inserted > 20 && counts.refused > 0 && counts.first_refusal.is_some(), "{counts:?}");
    for id in first..first + 20 {
        source.delete_index(&id.to_string()).await.unwrap();
    }
}
