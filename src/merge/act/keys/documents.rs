//! The documents of a collection in the destination: which are to be judged by their keys, and what is too much is
//! deleted.

use std::collections::BTreeMap;

use super::live::{Places, batches};
use crate::elastic::{
    BulkBody, BulkItem, ElasticError, PlacesRequest, PrimaryStats, ReadLane, SeqNo, ShardNumber, Walk,
};
use crate::merge::act::{lost, writer_alias};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::version::{Origin, of_deletion};

/// The field by which the destination's documents belong to a collection.
pub(in crate::merge::act) const COLLECTION_FIELD: &str = "collection_id";

/// Ids read with one request.
const IDS: usize = 10_000;
/// Deletions in one bulk.
const DELETIONS: usize = 1_000;
/// How often a bulk of deletions is sent while some are rejected.
const DELETION_ATTEMPTS: u32 = 8;

/// A document's id and version.
pub(super) type Document = (String, i64);

/// The way over all that the destination holds now, for any of its collections. A document that is written again meanwhile
/// is moved beyond the ends, so that it comes once at most.
pub(super) async fn walks(engine: &Engine) -> Result<Vec<Walk>, MergeError> {
    let destination = &engine.merge.destination.index;
    let names = std::slice::from_ref(destination);
    let mut stats = engine.destination.primary_stats(names).await.map_err(MergeError::Destination)?;
    let shards = stats.remove(destination).ok_or_else(|| lost(engine))?.map_err(MergeError::Destination)?;
    engine.destination.refresh(names).await.map_err(MergeError::Destination)?;
    let walk = |shard: PrimaryStats| Walk::new(shard.shard, shard.global_checkpoint + 1);
    Ok(shards.into_iter().map(walk).collect())
}

/// Documents of a collection, by their places in the destination.
#[derive(Debug, Default)]
pub(super) struct Documents(BTreeMap<ShardNumber, Places>);

impl Documents {
    /// Those of a collection whose version is not known. Returns the number of the others too.
    pub async fn unknown(
        engine: &Engine,
        collection: i64,
        walks: &[Walk],
        mut is_known: impl FnMut(i64) -> bool,
    ) -> Result<(Documents, u64), MergeError> {
        let destination = &engine.merge.destination.index;
        let (mut unknown, mut known) = (Documents::default(), 0);
        let mut open = walks.to_vec();
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

    /// Some of them at a time.
    pub fn batches(&self) -> impl Iterator<Item = BTreeMap<ShardNumber, Vec<SeqNo>>> {
        batches(&self.0, IDS)
    }
}

/// The ids and versions of documents at these places. One that was written again meanwhile is at another place.
pub(super) async fn read(
    engine: &Engine,
    places: BTreeMap<ShardNumber, Vec<SeqNo>>,
) -> Result<Vec<Document>, MergeError> {
    let request = |(shard, places)| PlacesRequest {
        index: engine.merge.destination.index.clone(),
        shard,
        places,
        lane: ReadLane::Keys,
    };
    let requests: Vec<PlacesRequest> = places.into_iter().map(request).collect();
    let mut read = Vec::new();
    for page in engine.destination.read_places(&requests).await.map_err(MergeError::Destination)? {
        let page = page.map_err(MergeError::Destination)?;
        read.extend(page.hits.into_iter().map(|hit| (hit.id, hit.version)));
    }
    Ok(read)
}

/// Deletes documents that are too much after that pass; returns how many. One that has a higher version of ours came back
/// meanwhile, and stays.
pub(super) async fn delete(engine: &Engine, documents: &[Document], pass: i32) -> Result<u64, MergeError> {
    let alias = writer_alias(&engine.merge);
    let mut deleted = 0;
    for part in documents.chunks(DELETIONS) {
        let mut open: Vec<&Document> = part.iter().collect();
        for _ in 0..DELETION_ATTEMPTS {
            let mut body = BulkBody::with_capacity(open.len() * 128);
            for (id, version) in &open {
                body.push_delete(id, deletion(*version, pass));
            }
            let outcome =
                engine.destination.bulk(&alias, true, body).await.map_err(MergeError::Destination)?;
            let mut rejected = Vec::new();
            for (document, item) in open.into_iter().zip(outcome.items) {
                match item {
                    BulkItem::Retry(_) => rejected.push(document),
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

/// The version under which a document is deleted after that pass. What somebody made anew where we had deleted has a
/// version above the deletion, and of no operation.
fn deletion(found: i64, pass: i32) -> i64 {
    let own = of_deletion(pass);
    if Origin::of(found).is_none() { own.max(found.saturating_add(1)) } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::version::of_copy;

    #[test]
    fn what_came_back_is_not_deleted_and_what_somebody_made_anew_is() {
        assert!(deletion(of_copy(3, 0, 7), 3) > of_copy(3, 0, 7));
        assert!(deletion(of_copy(4, 0, 0), 3) < of_copy(4, 0, 0));
        let anew = of_deletion(3) + 1;
        assert!(deletion(anew, 3) > anew && deletion(anew, 3) < of_copy(4, 0, 0));
        assert_eq!(deletion(1, 3), of_deletion(3));
    }
}
