//! Collections that a test fills by hand, chunk by chunk and shard by shard.

use demo::cluster::Cluster;
use demo::seed::tables::{CollectionRow, DocumentRow, Naming, Tables};
use serde_json::{Value, json};

use crate::scene::Scene;
use crate::scene::program::Run;

/// The documents' place among ids: above every collection of the scene.
const DOCUMENT: i64 = 3_000;
/// A vector that every destination takes.
pub const VECTOR: [f64; 8] = [0.5, -0.5, 0.25, 0.125, 0.75, -0.25, 0.0, 1.0];

/// The collections of one scene.
pub struct Hand<'a> {
    pub scene: &'a Scene,
    tables: Tables,
}

impl<'a> Hand<'a> {
    pub async fn new(scene: &'a Scene) -> Hand<'a> {
        let tables = Tables::create(scene.pool(), Naming::Created).await.expect("the tables");
        Hand { scene, tables }
    }

    fn source(&self) -> &Cluster {
        self.scene.source()
    }

    /// A collection in Postgres, with a document of its own; it has no index yet.
    pub async fn row(&self, nth: i64) -> i64 {
        let id = self.scene.first_id + nth;
        let row = CollectionRow { id, name: format!("by hand {nth}") };
        self.tables.insert_collections(&[row]).await.expect("a collection");
        let document =
            DocumentRow { id: document(id), collection: id, name: Some("a.pdf".to_owned()), created: None };
        self.tables.insert_documents(&[document]).await.expect("a document");
        id
    }

    /// A collection with an index that takes anything as an embedding and as metadata.
    pub async fn collection(&self, nth: i64, shards: u32) -> i64 {
        let id = self.row(nth).await;
        let mapping = json!({
            "settings": {"number_of_shards": shards, "number_of_replicas": 0},
            "mappings": {"dynamic": false, "properties": {"metadata": {"type": "object", "enabled": false}}},
        });
        self.source().put(&format!("/{id}"), &mapping).await.expect("an index");
        id
    }

    /// Writes a chunk, to the shard of that routing; returns its sequence number.
    pub async fn put(&self, collection: i64, id: &str, routing: &str, chunk: &Value) -> i64 {
        let path = format!("/{collection}/_doc/{id}?refresh=true&routing={routing}");
        let answer = self.source().put(&path, chunk).await.expect("a chunk");
        answer["_seq_no"].as_i64().expect("a sequence number")
    }

    pub async fn delete(&self, collection: i64, id: &str, routing: &str) {
        let path = format!("/{collection}/_delete_by_query?refresh=true&routing={routing}");
        let body = json!({"query": {"ids": {"values": [id]}}});
        let answer = self.source().post(&path, &body).await.expect("a deletion");
        assert_eq!(answer["deleted"], 1, "{answer}");
    }

    /// A routing value for each of that many shards.
    pub async fn routings(&self, collection: i64, shards: usize) -> Vec<String> {
        let mut found: Vec<Option<String>> = vec![None; shards];
        for value in 0..1_000 {
            let answer =
                self.source().get(&format!("/{collection}/_search_shards?routing={value}")).await.unwrap();
            let shard = usize::try_from(answer["shards"][0][0]["shard"].as_u64().unwrap()).unwrap();
            found[shard].get_or_insert_with(|| value.to_string());
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found.into_iter().map(|routing| routing.expect("a routing for each shard")).collect()
    }

    /// What is in quarantine: (collection, chunk, class), in order.
    pub async fn quarantined(&self) -> Vec<(i64, String, String)> {
        sqlx::query_as("SELECT collection_id, chunk_id, class FROM es_index_merge.quarantine ORDER BY 1, 2")
            .fetch_all(self.scene.pool())
            .await
            .unwrap()
    }

    /// The content of the destination's chunks of a collection, in order.
    pub async fn contents(&self, collection: i64) -> Vec<String> {
        let index = &self.scene.index;
        self.scene.destination().refresh(index).await.unwrap();
        let body = json!({"size": 100, "query": {"term": {"collection_id": collection}}});
        let answer = self.scene.destination().post(&format!("/{index}/_search"), &body).await.unwrap();
        let hits = answer["hits"]["hits"].as_array().unwrap();
        let mut contents: Vec<String> =
            hits.iter().map(|hit| hit["_source"]["content"].as_str().unwrap().to_owned()).collect();
        contents.sort();
        contents
    }

    /// `quarantine WHAT...` of the merge.
    pub async fn quarantine(&self, arguments: &[&str]) -> Run {
        let all: Vec<&str> = ["quarantine"].into_iter().chain(arguments.iter().copied()).collect();
        self.scene.with_arguments(&all, &self.scene.manifest(8)).await
    }
}

/// The document of a collection that was made here.
fn document(collection: i64) -> i64 {
    collection + DOCUMENT
}

/// A chunk that goes over.
pub fn chunk(collection: i64, id: i64, content: &str) -> Value {
    json!({
        "id": id, "content": content, "embedding": VECTOR, "metadata": {"document_id": document(collection)},
    })
}

/// The same with one field replaced.
pub fn with(mut chunk: Value, field: &str, value: Value) -> Value {
    chunk[field] = value;
    chunk
}

/// The same without one field.
pub fn without(mut chunk: Value, field: &str) -> Value {
    chunk.as_object_mut().unwrap().remove(field);
    chunk
}
