//! The documents of a collection in the destination: which are to be judged by their keys, and what is too much is
//! deleted.

use std::collections::BTreeMap;

use super::live::{Places, batches};
use crate::elastic::{BulkBody, BulkItem, ElasticError, PlacesRequest, ReadLane, ShardNumber, Walk};
use crate::merge::act::writer_alias;
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::version::of_deletion;

/// The field by which the destination's documents belong to a collection.
pub(in crate::merge::act) const COLLECTION_FIELD: &str = "collection_id";

/// Ids read with one request.
const IDS: usize = 10_000;
/// Deletions in one bulk.
const DELETIONS: usize = 1_000;
/// How often a bulk of deletions is sent while some are rejected.
const DELETION_ATTEMPTS: u32 = 8;

/// What is to become of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Not looked at this time.
    Other,
    /// It stays.
    Kept,
    /// It is deleted.
    TooMuch,
}

/// What became of documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Judged {
    pub kept: u64,
    pub deleted: u64,
}

/// Documents of a collection, by their places in the destination.
#[derive(Debug, Default)]
pub(super) struct Documents(BTreeMap<ShardNumber, Places>);

impl Documents {
    /// Those of a collection whose version is not known. Returns the number of the others too.
    pub async fn unknown(
        engine: &Engine,
        collection: i64,
        mut is_known: impl FnMut(i64) -> bool,
    ) -> Result<(Documents, u64), MergeError> {
        let destination = &engine.merge.destination.index;
        let (mut unknown, mut known) = (Documents::default(), 0);
        let mut open: Vec<Walk> = (0..engine.merge.destination.shards)
            .filter_map(|shard| Some(Walk::new(shard.try_into().ok()?)))
            .collect();
        while !open.is_empty() {
            let pages = engine
                .destination
                .walk(destination, &open, COLLECTION_FIELD, collection)
                .await
                .map_err(MergeError::Destination)?;
            open.clear();
            for page in pages {
                for document in page.documents {
                    if is_known(document.version) {
                        known += 1;
                    } else {
                        unknown.0.entry(page.shard).or_default().add(document.seq_no);
                    }
                }
                open.extend(page.next);
            }
        }
        Ok((unknown, known))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks `judge` about the id and version of each, and deletes what is too much. One that was written again meanwhile
    /// is at another place, and not judged.
    pub async fn judge(
        &self,
        engine: &Engine,
        pass: i32,
        mut judge: impl FnMut(&str, i64) -> Judgement,
    ) -> Result<Judged, MergeError> {
        let destination = &engine.merge.destination.index;
        let mut judged = Judged::default();
        let mut are_deleted = false;
        for batch in batches(&self.0, IDS) {
            let request = |(shard, places)| PlacesRequest {
                index: destination.clone(),
                shard,
                places,
                lane: ReadLane::Keys,
            };
            let requests: Vec<PlacesRequest> = batch.into_iter().map(request).collect();
            let pages = engine.destination.read_places(&requests).await.map_err(MergeError::Destination)?;
            let mut extra = Vec::new();
            for page in pages {
                for hit in page.map_err(MergeError::Destination)?.hits {
                    match judge(&hit.id, hit.version) {
                        Judgement::Other => {}
                        Judgement::Kept => judged.kept += 1,
                        Judgement::TooMuch => extra.push(hit.id),
                    }
                }
            }
            judged.deleted += delete(engine, &extra, of_deletion(pass)).await?;
            are_deleted |= !extra.is_empty();
        }
        if are_deleted {
            let name = std::slice::from_ref(destination);
            engine.destination.refresh(name).await.map_err(MergeError::Destination)?;
        }
        Ok(judged)
    }
}

/// Deletes by id; returns how many. One that has a higher version came back meanwhile, and stays.
async fn delete(engine: &Engine, ids: &[String], version: i64) -> Result<u64, MergeError> {
    let alias = writer_alias(&engine.merge);
    let mut deleted = 0;
    for part in ids.chunks(DELETIONS) {
        let mut open: Vec<&String> = part.iter().collect();
        for _ in 0..DELETION_ATTEMPTS {
            let mut body = BulkBody::with_capacity(open.len() * 128);
            for id in &open {
                body.push_delete(id, version);
            }
            let outcome =
                engine.destination.bulk(&alias, true, body).await.map_err(MergeError::Destination)?;
            let mut rejected = Vec::new();
            for (id, item) in open.into_iter().zip(outcome.items) {
                match item {
                    BulkItem::Retry(_) => rejected.push(id),
                    BulkItem::Applied | BulkItem::Missing => deleted += 1,
                    BulkItem::AlreadyThere => {}
                    BulkItem::Refused(refusal) => {
                        return Err(MergeError::Internal(format!(
                            "a deletion was refused: {}: {}",
                            refusal.kind, refusal.reason
                        )));
                    }
                }
            }
            open = rejected;
            if open.is_empty() {
                break;
            }
        }
        if !open.is_empty() {
            let reason = format!("{} deletions were rejected again and again", open.len());
            return Err(MergeError::Destination(ElasticError::rejected(reason)));
        }
    }
    Ok(deleted)
}
