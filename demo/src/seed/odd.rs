//! Hostile data: everything that old collections are known to hold, small and deterministic.
//!
//! [`fill`] writes it and returns a [`Model`] of what is live afterwards, which a test may compare with. The
//! logs of the indices have holes: chunks are updated, partly updated, deleted one by one and by document, and
//! written again before the function returns.

mod chunks;
mod metadata;

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::bulk::Bulk;
use super::layout::Mapping;
use super::random::Random;
use super::tables::{CollectionRow, DocumentRow, Naming, Tables};
use crate::cluster::Cluster;

/// A bulk is sent when it has this many bytes.
const BULK_BYTES: usize = 2 << 20;

/// How much, and how odd.
#[derive(Debug, Clone)]
pub struct Options {
    /// The same seed gives the same data.
    pub seed: u64,
    /// Size of the vectors. Below 128 the server maps them as plain floats where no mapping is given.
    pub dimensions: usize,
    /// How many collections; about a fifth of them are empty or have no index.
    pub collections: usize,
    /// At most so many documents in a collection.
    pub documents: usize,
    /// At most so many chunks in a document.
    pub chunks: usize,
    /// The first collection's id: tests that share a cluster use ranges of their own.
    pub first_collection: i64,
    /// The first document's id; unique over all collections.
    pub first_document: i64,
    /// How the columns of the tables are called.
    pub naming: Naming,
    /// Also chunks that no destination takes: bad vectors, empty content, bad keys.
    pub bad: bool,
    /// Also two chunks with the same document and id, as a client's retry leaves them.
    pub twins: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            dimensions: 8,
            collections: 24,
            documents: 4,
            chunks: 12,
            first_collection: 1,
            first_document: 1,
            naming: Naming::Created,
            bad: false,
            twins: false,
        }
    }
}

/// A chunk that is live in its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Its `_source` as it was written last.
    pub source: String,
    /// True when no destination takes it: it belongs into quarantine.
    pub bad: bool,
}

/// One collection as it was left.
#[derive(Debug, Clone)]
pub struct Collection {
    /// How its index was created; `None`: it has none.
    pub mapping: Option<Mapping>,
    /// Primary shards of the index.
    pub shards: u32,
    /// Live chunks by `_id`.
    pub live: BTreeMap<String, Live>,
    /// The rows of its documents in Postgres; some have no chunk, and some chunks no row.
    pub documents: Vec<DocumentRow>,
}

impl Collection {
    /// False where there is none, or none for certain: one that the first chunk creates needs a chunk.
    fn has_index(&self) -> bool {
        match self.mapping {
            Some(Mapping::Automatic) => !self.live.is_empty(),
            Some(Mapping::French | Mapping::Templates | Mapping::FloatVectors | Mapping::Opaque) => true,
            None => false,
        }
    }
}

/// What [`fill`] left behind.
#[derive(Debug, Clone)]
pub struct Model {
    /// By collection id.
    pub collections: BTreeMap<i64, Collection>,
    /// Indices named by an integer that is no collection; nobody may copy or touch them.
    pub strangers: Vec<String>,
}

impl Model {
    /// Chunks that the destination must hold.
    #[must_use]
    pub fn good_chunks(&self) -> usize {
        self.collections
            .values()
            .flat_map(|collection| collection.live.values())
            .filter(|live| !live.bad)
            .count()
    }

    /// Collections that have an index for certain.
    pub fn with_index(&self) -> impl Iterator<Item = i64> {
        self.collections.iter().filter(|(_, collection)| collection.has_index()).map(|(&id, _)| id)
    }

    /// Chunks that belong into quarantine.
    #[must_use]
    pub fn bad_chunks(&self) -> usize {
        self.collections
            .values()
            .flat_map(|collection| collection.live.values())
            .filter(|live| live.bad)
            .count()
    }
}

/// Creates the tables (which must not exist yet) and the indices, and fills them.
pub async fn fill(cluster: &Cluster, pool: &PgPool, options: &Options) -> Result<Model> {
    let tables = Tables::create(pool, options.naming).await?;
    let mut random = Random::new(options.seed);
    let mut model = Model { collections: BTreeMap::new(), strangers: Vec::new() };
    let mut next_document = options.first_document;
    for (at, id) in (options.first_collection..).take(options.collections).enumerate() {
        let collection = plan(at, &mut next_document, &mut random, options);
        tables.insert_collections(&[CollectionRow { id, name: format!("odd collection {at} é") }]).await?;
        let rows: Vec<DocumentRow> =
            collection.documents.iter().map(|row| DocumentRow { collection: id, ..row.clone() }).collect();
        tables.insert_documents(&rows).await?;
        let live = write(cluster, id, at, &collection, &mut random, options).await?;
        model.collections.insert(id, Collection { live, documents: rows, ..collection });
    }
    let last = options.first_collection + i64::try_from(options.collections)?;
    for id in [last, last + 1] {
        stranger(cluster, id, options).await?;
        model.strangers.push(id.to_string());
    }
    Ok(model)
}

/// Which mapping, shards and documents the collection gets; every kind comes early, so few collections show all.
fn plan(at: usize, next_document: &mut i64, random: &mut Random, options: &Options) -> Collection {
    let mapping = if at % 9 == 5 { None } else { Some(Mapping::ALL[at % Mapping::ALL.len()]) };
    let shards =
        if matches!(mapping, None | Some(Mapping::Automatic)) || !at.is_multiple_of(3) { 1 } else { 3 };
    let wanted = 1 + random.below(options.documents);
    let mut documents = Vec::new();
    for _ in 0..wanted {
        let named = options.naming != Naming::IdsOnly;
        let name = (named && !random.one_in(4)).then(|| format!("Ligne « {next_document} » e\u{301}.pdf"));
        let created = (named && !random.one_in(4))
            .then(|| {
                jiff::Timestamp::from_microsecond(1_700_000_000_123_456 + *next_document * 86_400_000_000)
                    .ok()
            })
            .flatten();
        documents.push(DocumentRow { id: *next_document, collection: 0, name, created });
        *next_document += 1;
    }
    Collection { mapping, shards, live: BTreeMap::new(), documents }
}

async fn write(
    cluster: &Cluster,
    id: i64,
    at: usize,
    collection: &Collection,
    random: &mut Random,
    options: &Options,
) -> Result<BTreeMap<String, Live>> {
    let mut live = BTreeMap::new();
    let Some(mapping) = collection.mapping else { return Ok(live) };
    let index = id.to_string();
    if let Some(body) = mapping.body(options.dimensions, collection.shards) {
        cluster.put(&format!("/{index}"), &body).await?;
        if at % 7 == 3 {
            return Ok(live);
        }
    }
    let maker = chunks::Maker { collection: id, style: at, mapping, dimensions: options.dimensions };
    let mut bulk = Bulk::default();
    for row in &collection.documents {
        // A document row without a chunk is legal.
        if random.one_in(8) {
            continue;
        }
        for number in 0..=random.below(options.chunks) {
            let (key, source) = (chunks::server_made_id(random), maker.chunk(row.id, number, random));
            put(&mut bulk, &index, key, Live { source, bad: false }, &mut live);
            flush_large(&mut bulk, cluster).await?;
        }
    }
    if options.bad {
        for source in maker.bad(random) {
            put(&mut bulk, &index, chunks::server_made_id(random), Live { source, bad: true }, &mut live);
        }
    }
    bulk.send(cluster).await?;
    if live.is_empty() && mapping == Mapping::Automatic {
        // The first chunk would have created the index.
        return Ok(live);
    }
    history(cluster, &index, &maker, collection, &mut live, random).await?;
    if options.twins {
        twin(cluster, &index, &mut live, random).await?;
    }
    cluster.refresh(&index).await?;
    Ok(live)
}

async fn flush_large(bulk: &mut Bulk, cluster: &Cluster) -> Result<()> {
    if bulk.bytes() >= BULK_BYTES {
        std::mem::take(bulk).send(cluster).await?;
    }
    Ok(())
}

fn put(bulk: &mut Bulk, index: &str, key: String, chunk: Live, live: &mut BTreeMap<String, Live>) {
    bulk.index(index, Some(&key), &chunk.source);
    live.insert(key, chunk);
}

/// Updates, partial updates and deletions, so that the log has holes.
async fn history(
    cluster: &Cluster,
    index: &str,
    maker: &chunks::Maker,
    collection: &Collection,
    live: &mut BTreeMap<String, Live>,
    random: &mut Random,
) -> Result<()> {
    let mut bulk = Bulk::default();
    let keys: Vec<String> = live.iter().filter(|(_, chunk)| !chunk.bad).map(|(key, _)| key.clone()).collect();
    for key in keys {
        let Some(chunk) = live.get_mut(&key) else { continue };
        match random.below(12) {
            0 => {
                bulk.delete(index, &key);
                live.remove(&key);
            }
            1 => {
                chunk.source = maker.rewritten(&chunk.source, random)?;
                bulk.index(index, Some(&key), &chunk.source);
            }
            2 => {
                // Gone and written again under the same `_id`: `_version` goes on, `_seq_no` is a new one.
                bulk.delete(index, &key);
                bulk.index(index, Some(&key), &chunk.source);
            }
            3 if maker.partial_updates_keep_text() => {
                let content = Value::from(format!("changed in part {}", random.below(1000)));
                chunk.source = with_content(&chunk.source, &content)?;
                bulk.update(index, &key, &json!({ "content": content }).to_string());
            }
            _ => {}
        }
    }
    bulk.send(cluster).await?;
    // Delete one document as the application does.
    if collection.documents.len() > 2
        && let Some(row) = collection.documents.first()
    {
        cluster.refresh(index).await?;
        let query = json!({"query": {"term": {"metadata.document_id": row.id}}});
        if maker.finds_documents() {
            cluster.post(&format!("/{index}/_delete_by_query?refresh=true"), &query).await?;
            live.retain(|_, chunk| chunks::document(&chunk.source) != Some(row.id));
        }
    }
    Ok(())
}

/// The same source with another `content`; everything else keeps its text.
fn with_content(source: &str, content: &Value) -> Result<String> {
    let fields: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(source)?;
    let fields: Vec<(String, String)> = fields
        .into_iter()
        .map(|(key, raw)| {
            let text = if key == "content" { content.to_string() } else { raw.get().to_owned() };
            (key, text)
        })
        .collect();
    Ok(metadata::object(&fields))
}

/// Writes one chunk a second time under another `_id`.
async fn twin(
    cluster: &Cluster,
    index: &str,
    live: &mut BTreeMap<String, Live>,
    random: &mut Random,
) -> Result<()> {
    let Some(chunk) = live.values().find(|chunk| !chunk.bad).cloned() else { return Ok(()) };
    let mut bulk = Bulk::default();
    put(&mut bulk, index, chunks::server_made_id(random), chunk, live);
    bulk.send(cluster).await
}

async fn stranger(cluster: &Cluster, id: i64, options: &Options) -> Result<()> {
    let index = id.to_string();
    if let Some(body) = Mapping::French.body(options.dimensions, 1) {
        cluster.put(&format!("/{index}"), &body).await?;
    }
    let maker =
        chunks::Maker { collection: id, style: 0, mapping: Mapping::French, dimensions: options.dimensions };
    let mut bulk = Bulk::default();
    bulk.index(&index, None, &maker.chunk(options.first_document, 0, &mut Random::new(options.seed)));
    bulk.send(cluster).await?;
    cluster.refresh(&index).await?;
    Ok(())
}
