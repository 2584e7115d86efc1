//! The old application at work while a merge runs: a bounded stream of changes until it is stopped.
//!
//! It does what the application does, in its order: rows in Postgres first, then the index. A refusal by a write
//! block (403) is counted and is no error: that is what cutover does to it; one by a server that is not ready yet
//! (503) is an outage like others. Collections that others delete are left out from then on. The writer works on
//! collections of its own (with its own ids), so that the model of other data stays true; all of them have
//! searchable `metadata.document_id`.

// A shelf is a collection, `self` the writer: the names are near, the things are not.
#![allow(clippy::similar_names)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::bulk::{VectorText, source};
use super::embedding::embed;
use super::layout::Mapping;
use super::random::Random;
use super::tables::{CollectionRow, DocumentRow, Tables};
use crate::cluster::{Cluster, short};

/// The application writes chunks in batches of this many.
const BATCH: usize = 32;
/// How the server names the block of `index.blocks.write`, also while it is being set.
const WRITE_BLOCK: &str = "[FORBIDDEN/8/";

/// How the writer behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The same seed gives the same sequence of operations.
    pub seed: u64,
    /// Size of the vectors.
    pub dimensions: usize,
    /// At most so many operations in a second.
    pub per_second: u32,
    /// The id of the first collection it creates.
    pub first_collection: i64,
    /// The id of the first document it creates.
    pub first_document: i64,
    /// It creates collections up to this many at a time.
    pub collections: usize,
    /// What it does when a server fails it.
    pub outages: Outages,
}

/// What the writer does when a server does not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outages {
    /// It ends with the error.
    End,
    /// It counts that and goes on with something else, as an application with many users does. What was asked may
    /// have been done or not.
    Endure,
}

/// What the writer did until it was stopped.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Chunks written for the first time.
    pub inserted: u64,
    /// Chunks written anew as a whole.
    pub updated: u64,
    /// Chunks changed by a partial update.
    pub partly_updated: u64,
    /// Documents deleted with their chunks.
    pub documents_deleted: u64,
    /// Collections created.
    pub collections_created: u64,
    /// Collections deleted with their index.
    pub collections_deleted: u64,
    /// Collections whose row and index were acknowledged, each with a moment after that, and which the writer did not
    /// begin to delete. One whose creation failed in any way is not among them, whether it is there or not.
    pub standing: BTreeMap<i64, Timestamp>,
    /// Operations that a write block refused.
    pub refused: u64,
    /// Operations that failed because a server did not do what was asked.
    pub failed: u64,
    /// When the first one was refused.
    pub first_refusal: Option<Instant>,
    /// When the last one was accepted.
    pub last_accepted: Option<Instant>,
}

/// A running writer.
pub struct Writer {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Counts>>,
}

impl Writer {
    /// Starts writing in the background.
    #[must_use]
    pub fn start(cluster: Cluster, tables: Tables, options: Options) -> Self {
        let (stop, stopped) = watch::channel(false);
        let work = Work {
            random: Random::new(options.seed),
            next_collection: options.first_collection,
            next_document: options.first_document,
            shelves: Vec::new(),
            counts: Counts::default(),
            cluster,
            tables,
            options,
        };
        Self { stop, task: tokio::spawn(work.run(stopped)) }
    }

    /// Stops after the operation under way and returns what was done, or the error that ended it earlier.
    pub async fn stop(self) -> Result<Counts> {
        // The writer may have ended by an error already, and is not listening then.
        let _ = self.stop.send(true);
        self.task.await.context("the writer ended unexpectedly")?
    }
}

struct Shelf {
    collection: i64,
    /// Documents with the `_id`s of their chunks.
    documents: Vec<(i64, Vec<String>)>,
}

struct Work {
    cluster: Cluster,
    tables: Tables,
    options: Options,
    random: Random,
    next_collection: i64,
    next_document: i64,
    shelves: Vec<Shelf>,
    counts: Counts,
}

enum Answered {
    Accepted,
    /// A write block.
    Refused,
    /// The index is gone.
    Gone,
}

impl Work {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Result<Counts> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.options.per_second.max(1));
        // After a slow operation the pace stays the same, instead of catching up in a burst.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stopped.changed() => return Ok(self.counts),
                _ = ticks.tick() => match (self.operation().await, self.options.outages) {
                    (Ok(()), _) => {}
                    (Err(_), Outages::Endure) => self.counts.failed += 1,
                    (Err(error), Outages::End) => return Err(error),
                },
            }
        }
    }

    async fn operation(&mut self) -> Result<()> {
        if self.shelves.len() < 2 {
            return self.create_collection().await;
        }
        let shelf = self.random.below(self.shelves.len());
        match self.random.below(100) {
            0..=1 if self.shelves.len() < self.options.collections => self.create_collection().await,
            2..=3 if self.shelves.len() > 2 && self.may_delete_collections() => {
                self.delete_collection(shelf).await
            }
            4..=11 => self.delete_document(shelf).await,
            12..=31 => self.update(shelf).await,
            32..=46 => self.partial_update(shelf).await,
            _ => self.insert_document(shelf).await,
        }
    }

    /// Not once a write block has refused something: a block does not keep an index from being deleted, and what happens
    /// after the verdict is nobody's business but the next application's.
    fn may_delete_collections(&self) -> bool {
        self.counts.refused == 0
    }

    async fn create_collection(&mut self) -> Result<()> {
        let id = self.next_collection;
        self.next_collection += 1;
        self.tables.insert_collections(&[CollectionRow { id, name: format!("written live {id}") }]).await?;
        let body = Mapping::Templates.body(self.options.dimensions, 1).context("this mapping is explicit")?;
        let answer = self.cluster.put(&format!("/{id}"), &body).await?;
        self.counts.collections_created += 1;
        // Else the server did not wait for the end of it.
        if answer["acknowledged"] == true {
            self.counts.standing.insert(id, Timestamp::now());
        }
        self.shelves.push(Shelf { collection: id, documents: Vec::new() });
        Ok(())
    }

    async fn delete_collection(&mut self, at: usize) -> Result<()> {
        let shelf = self.shelves.swap_remove(at);
        self.counts.standing.remove(&shelf.collection);
        self.tables.delete_collection(shelf.collection).await?;
        self.cluster.delete_index(&shelf.collection.to_string()).await?;
        self.counts.collections_deleted += 1;
        Ok(())
    }

    async fn insert_document(&mut self, at: usize) -> Result<()> {
        let collection = self.shelves[at].collection;
        let document = self.next_document;
        self.next_document += 1;
        let row = DocumentRow {
            id: document,
            collection,
            name: Some(format!("live {document}.txt")),
            created: None,
        };
        self.tables.insert_documents(&[row]).await?;
        let wanted = 1 + self.random.below(BATCH + BATCH / 2);
        let mut keys = Vec::new();
        for first in (0..wanted).step_by(BATCH) {
            let mut body = String::new();
            let mut batch = Vec::new();
            for number in first..wanted.min(first + BATCH) {
                let key = format!("live-{document}-{number}");
                body.push_str(&json!({"index": {"_index": collection.to_string(), "_id": key}}).to_string());
                body.push('\n');
                body.push_str(&self.chunk(document, number, "written"));
                body.push('\n');
                batch.push(key);
            }
            match self.post("/_bulk?refresh=true", body).await? {
                Answered::Accepted => {
                    self.counts.inserted += batch.len() as u64;
                    keys.append(&mut batch);
                }
                Answered::Refused => break,
                Answered::Gone => {
                    self.shelves.swap_remove(at);
                    return Ok(());
                }
            }
        }
        if !keys.is_empty() {
            self.shelves[at].documents.push((document, keys));
        }
        Ok(())
    }

    async fn update(&mut self, at: usize) -> Result<()> {
        let Some((collection, document, number)) = self.any_chunk(at) else { return Ok(()) };
        let body = self.chunk(document, number, "updated");
        let path = format!("/{collection}/_doc/live-{document}-{number}");
        let answered = self.post(&path, body).await?;
        if self.note(at, &answered) {
            self.counts.updated += 1;
        }
        Ok(())
    }

    async fn partial_update(&mut self, at: usize) -> Result<()> {
        let Some((collection, document, number)) = self.any_chunk(at) else { return Ok(()) };
        let body = json!({"doc": {"content": format!("changed in part {}", self.random.below(1_000_000))}})
            .to_string();
        let path = format!("/{collection}/_update/live-{document}-{number}");
        let answered = self.post(&path, body).await?;
        if self.note(at, &answered) {
            self.counts.partly_updated += 1;
        }
        Ok(())
    }

    async fn delete_document(&mut self, at: usize) -> Result<()> {
        let shelf = &mut self.shelves[at];
        if shelf.documents.is_empty() {
            return Ok(());
        }
        let (document, _) = shelf.documents.swap_remove(self.random.below(shelf.documents.len()));
        let collection = shelf.collection;
        self.tables.delete_document(document).await?;
        let query = json!({"query": {"term": {"metadata.document_id": document}}}).to_string();
        let answered = self
            .post(&format!("/{collection}/_delete_by_query?conflicts=proceed&refresh=true"), query)
            .await?;
        if self.note(at, &answered) {
            self.counts.documents_deleted += 1;
        }
        Ok(())
    }

    fn any_chunk(&mut self, at: usize) -> Option<(i64, i64, usize)> {
        let shelf = &self.shelves[at];
        let (document, keys) = self.random.pick(&shelf.documents)?;
        Some((shelf.collection, *document, self.random.below(keys.len())))
    }

    fn chunk(&mut self, document: i64, number: usize, verb: &str) -> String {
        let content =
            format!("Document {document}, chunk {number}, {verb} live {}", self.random.below(1_000_000));
        let metadata = format!(
            "{{\"document_id\":{document},\"document_name\":\"live {document}.txt\",\"document_created_at\":1700000000}}"
        );
        let vector = embed(&content, self.options.dimensions);
        source(i64::try_from(number).unwrap_or(0), &content, &vector, VectorText::Floats, &metadata)
    }

    /// True when the operation was accepted; forgets the collection when it is gone.
    fn note(&mut self, at: usize, answered: &Answered) -> bool {
        if matches!(answered, Answered::Gone) {
            self.shelves.swap_remove(at);
        }
        matches!(answered, Answered::Accepted)
    }

    async fn post(&mut self, path: &str, body: String) -> Result<Answered> {
        let kind = if path.starts_with("/_bulk") { "application/x-ndjson" } else { "application/json" };
        let answer = self.cluster.send(Method::POST, path, kind, Some(Bytes::from(body))).await?;
        let text = String::from_utf8_lossy(&answer.body);
        // A bulk answers 200 and says it for each item; delete_by_query answers 200 with `failures`.
        let refused = text.contains("cluster_block_exception") && text.contains(WRITE_BLOCK);
        let gone = text.contains("index_not_found_exception");
        if refused {
            self.counts.refused += 1;
            self.counts.first_refusal.get_or_insert_with(Instant::now);
            return Ok(Answered::Refused);
        }
        if gone {
            return Ok(Answered::Gone);
        }
        let failed_item = path.starts_with("/_bulk") && !text.contains("\"errors\":false");
        if !answer.is_success() || failed_item {
            bail!("POST {path}: {} {}", answer.status, short(&answer.body));
        }
        self.counts.last_accepted = Some(Instant::now());
        Ok(Answered::Accepted)
    }
}
