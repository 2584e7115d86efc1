//! One collection under a test's hand: its chunks have ids that the server makes, as the old application's have.

use demo::seed::bulk::{Bulk, VectorText, source};
use demo::seed::embedding::embed;
use demo::seed::layout::Mapping;
use demo::seed::tables::{CollectionRow, Naming, Tables};
use serde_json::{Value, json};

use crate::scene::{DIMENSIONS, Scene};

pub struct Shelf<'a> {
    scene: &'a Scene,
    pub collection: i64,
    pub index: String,
}

/// One chunk: its document, its number and what it says.
#[derive(Clone, Copy)]
pub struct Chunk<'a>(pub i64, pub i64, pub &'a str);

impl Chunk<'_> {
    pub fn source(self) -> String {
        let Chunk(document, number, text) = self;
        let metadata = format!(
            "{{\"document_id\":{document},\"document_name\":\"{document}.txt\",\"document_created_at\":1700000000}}"
        );
        source(number, text, &embed(text, DIMENSIONS), VectorText::Floats, &metadata)
    }
}

impl<'a> Shelf<'a> {
    /// The tables, empty. Once in a scene.
    pub async fn tables(scene: &Scene) -> Tables {
        Tables::create(&scene.pool, Naming::Created).await.expect("the tables are made")
    }

    /// A collection with an empty index of that many shards.
    pub async fn create(scene: &'a Scene, collection: i64, shards: u32) -> Shelf<'a> {
        let shelf = Shelf::row(scene, collection).await;
        shelf.create_index(shards).await;
        shelf
    }

    /// A collection without an index.
    pub async fn row(scene: &'a Scene, collection: i64) -> Shelf<'a> {
        let tables = Tables::existing(&scene.pool, Naming::Created);
        let row = CollectionRow { id: collection, name: format!("shelf {collection}") };
        tables.insert_collections(&[row]).await.unwrap();
        Shelf { scene, collection, index: collection.to_string() }
    }

    /// The collection with another index, which it finds behind an alias.
    pub fn under(&self, index: &str) -> Shelf<'a> {
        Shelf { index: index.to_owned(), ..*self }
    }

    /// A collection that Postgres does not know, without an index.
    pub fn nameless(scene: &'a Scene, collection: i64) -> Shelf<'a> {
        Shelf { scene, collection, index: collection.to_string() }
    }

    pub async fn create_index(&self, shards: u32) {
        let body = Mapping::Templates.body(DIMENSIONS, shards).unwrap();
        self.scene.source_cluster.put(&format!("/{}", self.index), &body).await.unwrap();
    }

    /// An index whose only shard no node may have. It is a clone, so that its chunks are there as soon as it has a place.
    pub async fn create_index_without_a_place(&self, document: i64, chunks: i64) {
        let model = self.model();
        model.create_index(1).await;
        model.put_document(document, chunks, "there at last").await;
        let cluster = &self.scene.source_cluster;
        let blocked = json!({"index.blocks.write": true});
        cluster.put(&format!("/{}/_settings", model.index), &blocked).await.unwrap();
        let nowhere = json!({"settings": {
            "index.blocks.write": false,
            "index.routing.allocation.require._name": "nobody",
        }});
        let path = format!("/{}/_clone/{}?wait_for_active_shards=0", model.index, self.index);
        cluster.put(&path, &nowhere).await.unwrap();
    }

    pub async fn give_it_a_place(&self) {
        let cluster = &self.scene.source_cluster;
        let anywhere = json!({"index.routing.allocation.require._name": null});
        cluster.put(&format!("/{}/_settings", self.index), &anywhere).await.unwrap();
        let placed = format!("/_cluster/health/{}?wait_for_status=yellow", self.index);
        assert_eq!(cluster.get(&placed).await.unwrap()["timed_out"], false);
        self.model().delete_index().await;
    }

    fn model(&self) -> Shelf<'a> {
        Shelf { index: format!("model-of-{}", self.collection), ..*self }
    }

    pub async fn delete_index(&self) {
        assert!(self.scene.source_cluster.delete_index(&self.index).await.unwrap());
    }

    pub async fn delete_row(&self) {
        Tables::existing(&self.scene.pool, Naming::Created).delete_collection(self.collection).await.unwrap();
    }

    /// Writes chunks; the server makes their ids.
    pub async fn put(&self, chunks: &[Chunk<'_>]) {
        let mut bulk = Bulk::default();
        for chunk in chunks {
            bulk.index(&self.index, None, &chunk.source());
        }
        bulk.send(&self.scene.source_cluster).await.unwrap();
        self.scene.source_cluster.refresh(&self.index).await.unwrap();
    }

    /// Chunks 0 to `count` of a document.
    pub async fn put_document(&self, document: i64, count: i64, text: &str) {
        let texts: Vec<String> = (0..count).map(|number| format!("{text} {document} {number}")).collect();
        let chunks: Vec<Chunk> =
            texts.iter().zip(0..).map(|(text, number)| Chunk(document, number, text)).collect();
        self.put(&chunks).await;
    }

    pub async fn delete_document(&self, document: i64) {
        let query = json!({"query": {"term": {"metadata.document_id": document}}});
        let path = format!("/{}/_delete_by_query?refresh=true", self.index);
        let answer = self.scene.source_cluster.post(&path, &query).await.unwrap();
        assert_eq!(answer["failures"], json!([]));
    }

    /// Writes the same chunk again and again, so that its shard has had many more operations than the others.
    pub async fn age_one_shard(&self, document: i64, operations: usize) {
        let mut bulk = Bulk::default();
        for _ in 0..operations {
            bulk.index(&self.index, Some("often"), &Chunk(document, 0, "written often").source());
        }
        bulk.send(&self.scene.source_cluster).await.unwrap();
        self.scene.source_cluster.refresh(&self.index).await.unwrap();
    }

    /// What the destination holds of the collection, by document and chunk number.
    pub async fn in_destination(&self) -> std::collections::BTreeMap<(i64, i64), Value> {
        let query = json!({"size": 10_000, "query": {"term": {"collection_id": self.collection}}});
        let path = format!("/{}/_search?version=true", self.scene.index);
        self.scene.destination_cluster.refresh(&self.scene.index).await.unwrap();
        let answer = self.scene.destination_cluster.post(&path, &query).await.unwrap();
        let hits = answer["hits"]["hits"].as_array().unwrap().clone();
        let key = |hit: &Value| {
            let number = |field: &str| hit["_source"][field].as_i64().unwrap();
            (number("document_id"), number("id"))
        };
        hits.into_iter().map(|hit| (key(&hit), hit)).collect()
    }
}
