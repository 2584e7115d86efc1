//! Where the documents of a group are in a shard's log, and what is at given places of it.
//!
//! Sequence numbers and versions are read without anything that is stored, so that a group of any size is walked at some
//! hundred thousand documents a second; what is wanted of single ones is read afterwards, at their places.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::error::{ElasticError, ErrorCategory, Result};
use super::msearch::{Search, search_body, seq_no_range};
use super::names::{IndexName, SeqNo, ShardNumber};
use super::shard_log::check::{Expected, accept};
use super::shard_log::page::RawAnswer;
use super::shard_log::{MAX_WINDOW, Page, READING, ReadLane};

/// The most documents in a page.
const LIMIT: usize = 10_000;
const PAGE: u64 = LIMIT as u64;
const _: () = assert!(PAGE == MAX_WINDOW.unsigned_abs(), "the server's own limit");

/// Where a walk over one shard's log is. Each page asks for a part that holds about one page, as the server would
/// otherwise sort all that is left each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    shard: ShardNumber,
    from: SeqNo,
    /// The end (exclusive) of the next part; `None`: all that is left.
    to: Option<SeqNo>,
    /// The end (exclusive) of the walk.
    end: SeqNo,
    /// Documents that are left, as far as known.
    left: u64,
}

impl Walk {
    /// From the beginning of that shard's log to an end (exclusive). If that is the global checkpoint plus one as it was before
    /// a refresh, a document that is written again meanwhile is moved beyond, and cannot come twice.
    #[must_use]
    pub fn new(shard: ShardNumber, end: SeqNo) -> Walk {
        Walk { shard, from: 0, to: None, end, left: 0 }
    }

    /// Whether these are documents of its next part, in order.
    fn is_followed_by(&self, documents: &[Located]) -> bool {
        let part = self.from..self.to.unwrap_or(self.end);
        documents.iter().all(|document| part.contains(&document.seq_no))
            && documents.is_sorted_by(|a, b| a.seq_no < b.seq_no)
    }

    /// How it goes on after `got` documents came, the last of them at `last`, of `total` in the part. `None`: that was
    /// all.
    fn after(&self, got: u64, last: Option<SeqNo>, total: u64) -> Option<Walk> {
        let left = if self.to.is_none() { total } else { self.left }.saturating_sub(got);
        let cut = last.filter(|_| total > got);
        let from = cut.map(|last| last + 1).or(self.to)?;
        let wide = if cut.is_none() && got < PAGE / 2 { 2 } else { 1 };
        let width = (from - self.from).saturating_mul(wide);
        let to = Some(from.saturating_add(width)).filter(|&to| left > PAGE && to < self.end);
        Some(Walk { from, to, left, ..*self })
    }
}

/// A document's place in the log of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The sequence number of its last write.
    pub seq_no: SeqNo,
    /// Its version.
    pub version: i64,
}

/// Some documents of a shard, in the order of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkPage {
    /// The shard.
    pub shard: ShardNumber,
    /// The documents.
    pub documents: Vec<Located>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Walk>,
}

/// Places of a shard's log whose chunks are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacesRequest {
    /// The index.
    pub index: IndexName,
    /// The shard.
    pub shard: ShardNumber,
    /// The places: at most [`MAX_WINDOW`].
    pub places: Vec<SeqNo>,
    /// What is read of each chunk.
    pub lane: ReadLane,
}

impl Cluster {
    /// The next page of each of these walks over the documents with `field == value`, in their order, with one request.
    pub async fn walk(
        &self,
        index: &IndexName,
        walks: &[Walk],
        field: &str,
        value: i64,
    ) -> Result<Vec<WalkPage>> {
        self.search_all(&walk_searches(index, walks, field, value)).await?.into_iter().collect()
    }

    /// What lives at these places, with one request; the answers are in the order of the requests. Errors are as those
    /// of [`Cluster::read_windows`].
    pub async fn read_places(&self, requests: &[PlacesRequest]) -> Result<Vec<Result<Page>>> {
        self.search_all(requests).await
    }
}

/// The next page of a walk.
#[derive(Debug, Clone)]
pub(super) struct WalkSearch {
    index: IndexName,
    walk: Walk,
    field: String,
    value: i64,
}

pub(super) fn walk_searches(index: &IndexName, walks: &[Walk], field: &str, value: i64) -> Vec<WalkSearch> {
    let search =
        |walk: &Walk| WalkSearch { index: index.clone(), walk: walk.clone(), field: field.to_owned(), value };
    walks.iter().map(search).collect()
}

impl Search for WalkSearch {
    type Found = WalkPage;

    fn shard(&self) -> (&IndexName, ShardNumber) {
        (&self.index, self.walk.shard)
    }

    fn body(&self) -> Result<Value> {
        let Walk { from, to, end, .. } = self.walk;
        let range = seq_no_range(from, to.unwrap_or(end));
        let filter = json!([range, {"term": {&self.field: self.value}}]);
        let mut body = search_body(json!({"bool": {"filter": filter}}), LIMIT, &ReadLane::Places);
        body["sort"] = json!([{"_seq_no": "asc"}]);
        Ok(body)
    }

    fn accept(&self, answer: RawAnswer) -> Result<WalkPage> {
        let WalkSearch { index, walk, .. } = self;
        let total = match &answer {
            RawAnswer::Found(page) => page.total.and_then(|total| total.value),
            RawAnswer::Failed(_) => None,
        };
        let of = format!("index `{index}`, shard {}", walk.shard);
        let expected =
            Expected { shards: Some(1), window: None, id: false, source: false, limit: Some(LIMIT) };
        let page = accept(answer, &expected, &of)?;
        let documents: Vec<Located> =
            page.hits.iter().map(|hit| Located { seq_no: hit.seq_no, version: hit.version }).collect();
        if !walk.is_followed_by(&documents) {
            let reason =
                format!("{of}: the documents from sequence number {} on are not in order", walk.from);
            return Err(ElasticError::bad_answer(READING, reason));
        }
        let last = documents.last().map(|last| last.seq_no);
        let total = total.and_then(|total| u64::try_from(total).ok()).unwrap_or(0);
        let next = walk.after(documents.len() as u64, last, total);
        Ok(WalkPage { shard: walk.shard, documents, next })
    }
}

impl Search for PlacesRequest {
    type Found = Page;

    fn shard(&self) -> (&IndexName, ShardNumber) {
        (&self.index, self.shard)
    }

    fn body(&self) -> Result<Value> {
        if !(1..=LIMIT).contains(&self.places.len()) {
            let reason = format!("{} places were asked for, not 1 to {LIMIT}", self.places.len());
            return Err(ElasticError::new(ErrorCategory::Invalid, READING, reason));
        }
        let query = json!({"bool": {"filter": [{"terms": {"_seq_no": self.places}}]}});
        Ok(search_body(query, self.places.len(), &self.lane))
    }

    fn vector_field(&self) -> Option<&str> {
        self.lane.vector_field()
    }

    fn accept(&self, answer: RawAnswer) -> Result<Page> {
        let PlacesRequest { index, shard, places, lane } = self;
        let expected = Expected {
            shards: Some(1),
            window: None,
            id: lane.has_id(),
            source: lane.has_source(),
            limit: None,
        };
        let of = format!("index `{index}`, shard {shard}, {} places", places.len());
        let page = accept(answer, &expected, &of)?;
        let mut open: HashSet<SeqNo> = places.iter().copied().collect();
        match page.hits.iter().find(|hit| !open.remove(&hit.seq_no)) {
            None => Ok(page),
            Some(hit) => {
                let reason = format!("{of}: sequence number {} was not asked for, or came twice", hit.seq_no);
                Err(ElasticError::bad_answer(READING, reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Walks over documents at these places as a server would answer. Returns what came, the number of requests, and how
    /// many documents the server had to sort.
    fn walked(places: &[SeqNo]) -> (Vec<SeqNo>, usize, usize) {
        let (mut came, mut requests, mut sorted) = (Vec::new(), 0, 0);
        let mut next = Some(Walk::new(0, places.last().map_or(0, |last| last + 1)));
        while let Some(walk) = next {
            let start = places.partition_point(|&place| place < walk.from);
            let end =
                walk.to.map_or(places.len(), |to| places.partition_point(|&place| place < to.min(walk.end)));
            let part = places.get(start..end).unwrap_or_default();
            let page: Vec<SeqNo> = part.iter().copied().take(LIMIT).collect();
            next = walk.after(page.len() as u64, page.last().copied(), part.len() as u64);
            came.extend(page);
            requests += 1;
            sorted += part.len();
        }
        (came, requests, sorted)
    }

    #[test]
    fn a_small_group_is_one_request_wherever_it_is() {
        for places in [vec![], vec![0], vec![7, 1 << 33], (0..10_000).map(|n| n * 1_000).collect()] {
            let (came, requests, _) = walked(&places);
            assert_eq!((came, requests), (places, 1));
        }
    }

    #[test]
    fn a_large_group_is_sorted_about_twice_however_it_is_spread() {
        let dense: Vec<SeqNo> = (0..2_000_000).collect();
        let spread: Vec<SeqNo> = (0..1_000_000).map(|n| n * 1_000 + n % 7).collect();
        let uneven: Vec<SeqNo> =
            (0..500_000).chain((0..300_000).map(|n| 1_000_000_000 + n * 5_000)).collect();
        for places in [dense, spread, uneven] {
            let (came, requests, sorted) = walked(&places);
            assert_eq!(came, places);
            assert!(requests < places.len() / 10_000 * 3 + 40, "{requests} requests");
            assert!(sorted < places.len() * 3, "{sorted} of {}", places.len());
        }
    }

    proptest! {
        #[test]
        fn every_document_comes_once_and_in_order(
            gaps in prop::collection::vec(prop_oneof![9 => 1_i64..3, 1 => 1_i64..1_000_000_000], 0..40_000),
        ) {
            let places: Vec<SeqNo> = gaps.iter().scan(-1, |at, gap| { *at += gap; Some(*at) }).collect();
            prop_assert_eq!(walked(&places).0, places);
        }

        #[test]
        fn a_walk_ends_though_documents_vanish(left in any::<u64>(), width in 1_i64..1_000, end in 1_005_i64..) {
            let mut next = Some(Walk { shard: 0, from: 5, to: Some(5 + width), end, left });
            let mut requests = 0;
            while let Some(walk) = next {
                requests += 1;
                prop_assert!(requests < 100);
                next = walk.after(0, None, 0);
            }
        }
    }
}
