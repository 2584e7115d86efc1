//! The demo's data: a library of manual pages in the shape in which real deployments are.
//!
//! One large collection, some dozens of middle size (a package and section of the manual each), and many tiny
//! ones of a single page, as left by a user who made a collection for every document.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde_json::json;
use sqlx::PgPool;

use super::bulk::{Bulk, VectorText, source};
use super::corpus::Page;
use super::embedding::embed;
use super::layout::Mapping;
use super::tables::{CollectionRow, DocumentRow, Naming, Tables};
use crate::cluster::Cluster;

/// Bulks are cut at about this size.
const BULK_BYTES: usize = 4 << 20;
/// Bulks under way at the same time.
const BULKS: usize = 3;
/// Index creations under way at the same time; the master does them one by one.
const CREATIONS: usize = 4;

/// How much.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of the vectors.
    pub dimensions: usize,
    /// The large collection has at least so many chunks.
    pub large: usize,
    /// Collections of one page each.
    pub tiny: usize,
    /// About so many chunks in all.
    pub total: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { dimensions: 1024, large: 20_000, tiny: 270, total: 40_000 }
    }
}

/// A collection of pages; its id is its place in the library plus one.
#[derive(Debug)]
pub struct Shelf {
    /// What it is called in Postgres.
    pub name: String,
    /// How its index is created.
    pub mapping: Mapping,
    /// One document each.
    pub pages: Vec<Page>,
}

impl Shelf {
    /// How many chunks it holds.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.pages.iter().map(|page| page.paragraphs.len()).sum()
    }
}

/// What [`fill`] wrote.
#[derive(Debug, Clone, Copy)]
pub struct Filled {
    /// Collections, each with an index and a row.
    pub collections: usize,
    /// Documents, each with a row.
    pub documents: usize,
    /// Chunks.
    pub chunks: usize,
}

/// Sorts pages into collections. Fails when there are too few pages for what is wanted.
pub fn arrange(pages: Vec<Page>, options: &Options) -> Result<Vec<Shelf>> {
    let (large, rest) = take_large(pages, options.large)?;
    let mut middle: BTreeMap<(String, String), Vec<Page>> = BTreeMap::new();
    let mut tiny = Vec::new();
    let mut seen = HashSet::new();
    for (at, page) in rest.into_iter().enumerate() {
        // Every third short page stands alone until there are enough of them, over all languages.
        let short = (2..=12).contains(&page.paragraphs.len());
        if short && at % 3 == 0 && seen.insert((page.package.clone(), page.name.clone())) {
            tiny.push(page);
        } else {
            middle.entry((page.package.clone(), page.section.clone())).or_default().push(page);
        }
    }
    let spread = (tiny.len() / options.tiny.max(1)).max(1);
    let tiny: Vec<Page> = tiny.into_iter().step_by(spread).take(options.tiny).collect();
    if tiny.len() < options.tiny {
        bail!(
            "only {} short pages for {} tiny collections; add packages to the corpus",
            tiny.len(),
            options.tiny
        );
    }
    middle.retain(|_, pages| pages.len() >= 5);
    let chunks = |pages: &[Page]| pages.iter().map(|page| page.paragraphs.len()).sum::<usize>();
    let left = options.total.saturating_sub(chunks(&large) + chunks(&tiny));
    let share = (left / middle.len().max(1)).max(1);
    let mut shelves = vec![Shelf {
        name: "Pages de manuel en français".to_owned(),
        mapping: Mapping::French,
        pages: large,
    }];
    let mut left_over = 0;
    // Smallest first: what a small section leaves of its share, a larger one may use.
    let mut sections: Vec<_> = middle.into_iter().collect();
    sections.sort_by_key(|(_, pages)| chunks(pages));
    for (at, ((package, section), mut pages)) in sections.into_iter().enumerate() {
        let mut room = share + left_over;
        let fitting = pages.iter().take_while(|page| {
            let fits = page.paragraphs.len() <= room;
            room = room.saturating_sub(page.paragraphs.len());
            fits
        });
        let fitting = fitting.count().max(1);
        pages.truncate(fitting);
        left_over = (share + left_over).saturating_sub(chunks(&pages));
        let mapping = if at % 2 == 0 { Mapping::Templates } else { Mapping::French };
        shelves.push(Shelf { name: format!("{package}, section {section}"), mapping, pages });
    }
    for (at, page) in tiny.into_iter().enumerate() {
        let mapping = if at % 2 == 0 { Mapping::Automatic } else { Mapping::Templates };
        shelves.push(Shelf { name: format!("Upload of {}", page.name), mapping, pages: vec![page] });
    }
    Ok(shelves)
}

/// The large collection: French, whole pages, at least `wanted` chunks.
fn take_large(pages: Vec<Page>, wanted: usize) -> Result<(Vec<Page>, Vec<Page>)> {
    let (mut large, mut rest) = (Vec::new(), Vec::new());
    let mut chunks = 0;
    for page in pages {
        if page.package.starts_with("manpages-fr") && chunks < wanted {
            chunks += page.paragraphs.len();
            large.push(page);
        } else {
            rest.push(page);
        }
    }
    if chunks < wanted {
        bail!("the French pages hold {chunks} chunks of the {wanted} that are wanted");
    }
    Ok((large, rest))
}

/// Creates tables and indices (neither may exist) and writes every chunk; `say` is told how far it is.
pub async fn fill(
    cluster: &Cluster,
    pool: &PgPool,
    shelves: Vec<Shelf>,
    options: &Options,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Filled> {
    let tables = Tables::create(pool, Naming::CreatedAt).await?;
    let documents = insert_rows(&tables, &shelves).await?;
    say(&format!("{} collections and {documents} documents are in Postgres", shelves.len()));
    let shelves = Arc::new(shelves);
    // The master creates one index after another: while it creates those of the tiny collections, which come last,
    // the chunks of the others are written.
    let tiny = shelves.iter().position(|shelf| shelf.pages.len() == 1).unwrap_or(shelves.len());
    create_indices(cluster, &shelves, 0..tiny, options).await?;
    say(&format!("the indices of the {tiny} larger collections exist"));
    let progress =
        Progress { total: shelves.iter().map(Shelf::chunks).sum(), written: AtomicUsize::new(0), say };
    tokio::try_join!(
        create_indices(cluster, &shelves, tiny..shelves.len(), options),
        write_all(cluster, &shelves, 0..tiny, options.dimensions, &progress),
    )?;
    write_all(cluster, &shelves, tiny..shelves.len(), options.dimensions, &progress).await?;
    let total = progress.total;
    cluster.refresh("_all").await?;
    Ok(Filled { collections: shelves.len(), documents, chunks: total })
}

async fn insert_rows(tables: &Tables, shelves: &[Shelf]) -> Result<usize> {
    let mut collections = Vec::new();
    let mut documents = Vec::new();
    for (collection, shelf) in (1..).zip(shelves) {
        collections.push(CollectionRow { id: collection, name: shelf.name.clone() });
        for page in &shelf.pages {
            let id = i64::try_from(documents.len())? + 1;
            documents.push(DocumentRow {
                id,
                collection,
                name: Some(page.name.clone()),
                created: Some(created(id)?),
            });
        }
    }
    tables.insert_collections(&collections).await?;
    for rows in documents.chunks(5000) {
        tables.insert_documents(rows).await?;
    }
    Ok(documents.len())
}

fn created(document: i64) -> Result<Timestamp> {
    Timestamp::from_second(seconds(document)).context("a date out of range")
}

fn seconds(document: i64) -> i64 {
    1_735_689_600 + document * 3_607
}

/// How far the writing is; said at every tenth.
struct Progress<'a> {
    total: usize,
    written: AtomicUsize,
    say: &'a (dyn Fn(&str) + Sync),
}

impl Progress<'_> {
    fn add(&self, chunks: usize) {
        let before = self.written.fetch_add(chunks, Ordering::Relaxed);
        let tenth = |chunks: usize| chunks * 10 / self.total.max(1);
        if tenth(before + chunks) > tenth(before) {
            (self.say)(&format!("{} of {} chunks written", before + chunks, self.total));
        }
    }
}

async fn write_all(
    cluster: &Cluster,
    shelves: &Arc<Vec<Shelf>>,
    range: Range<usize>,
    dimensions: usize,
    progress: &Progress<'_>,
) -> Result<()> {
    let mut results = stream::iter(batches(shelves, &range, dimensions))
        .map(|batch| write(cluster.clone(), Arc::clone(shelves), batch, dimensions))
        .buffer_unordered(BULKS);
    while let Some(chunks) = results.try_next().await? {
        progress.add(chunks);
    }
    Ok(())
}

async fn create_indices(
    cluster: &Cluster,
    shelves: &[Shelf],
    range: Range<usize>,
    options: &Options,
) -> Result<()> {
    let numbered = (1..).zip(shelves).skip(range.start).take(range.len());
    let bodies = numbered.filter_map(|(id, shelf): (i64, &Shelf)| {
        let shards = if shelf.chunks() >= 10_000 { 2 } else { 1 };
        Some((id, shelf.mapping.body(options.dimensions, shards)?))
    });
    stream::iter(bodies)
        .map(|(id, body)| async move { cluster.put(&format!("/{id}"), &body).await.map(drop) })
        .buffer_unordered(CREATIONS)
        .try_collect()
        .await
}

/// Pages (shelf, page, document id) that go into one bulk.
type Batch = Vec<(usize, usize, i64)>;

/// The pages of the shelves in `range`; documents are numbered over all shelves.
fn batches(shelves: &[Shelf], range: &Range<usize>, dimensions: usize) -> Vec<Batch> {
    let mut all = Vec::new();
    let mut batch = Batch::new();
    let mut bytes = 0;
    let mut document = 0;
    for (shelf, pages) in shelves.iter().map(|shelf| &shelf.pages).enumerate() {
        for (at, page) in pages.iter().enumerate() {
            document += 1;
            if !range.contains(&shelf) {
                continue;
            }
            let size = page.paragraphs.len() * (dimensions * 12 + 1000);
            if bytes + size > BULK_BYTES && !batch.is_empty() {
                all.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += size;
            batch.push((shelf, at, document));
        }
    }
    all.push(batch);
    all
}

async fn write(cluster: Cluster, shelves: Arc<Vec<Shelf>>, batch: Batch, dimensions: usize) -> Result<usize> {
    let server = cluster.clone();
    // Embedding is computing, not waiting.
    let bulk = tokio::task::spawn_blocking(move || {
        let mut bulk = Bulk::default();
        for (shelf, page, document) in batch {
            let Some((shelf, collection)) = shelves.get(shelf).zip(i64::try_from(shelf + 1).ok()) else {
                continue;
            };
            let Some(page) = shelf.pages.get(page) else { continue };
            let text =
                if shelf.mapping.takes_base64(&server) { VectorText::Base64 } else { VectorText::Floats };
            let metadata = metadata(page, collection, document);
            for (id, paragraph) in (0..).zip(&page.paragraphs) {
                let vector = embed(paragraph, dimensions);
                bulk.index(&collection.to_string(), None, &source(id, paragraph, &vector, text, &metadata));
            }
        }
        bulk
    })
    .await
    .context("a bulk could not be made")?;
    let chunks = bulk.operations();
    bulk.send(&cluster).await?;
    Ok(chunks)
}

/// What the old application wrote; some chunks lack the name or the date, which Postgres knows.
fn metadata(page: &Page, collection: i64, document: i64) -> String {
    let mut metadata = json!({
        "document_id": document,
        "collection_id": collection,
        "package": page.package,
        "section": page.section,
    });
    if document % 10 != 0 {
        metadata["document_name"] = json!(page.name);
    }
    match document % 7 {
        0 => {}
        1 => metadata["document_created"] = json!(seconds(document)),
        _ => metadata["document_created_at"] = json!(seconds(document)),
    }
    metadata.to_string()
}
