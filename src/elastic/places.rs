//! Where the documents of a group are in a shard's log, and what is at given places of it.
//!
//! Sequence numbers and versions are read without anything that is stored, so that a group of any size is walked at some
//! hundred thousand documents a second; what is wanted of single ones is read afterwards, at their places.

use bytes::Bytes;
use serde_json::json;

use super::call::Call;
use super::cluster::Cluster;
use super::error::{ElasticError, ErrorCategory, Result};
use super::names::{IndexName, SeqNo, ShardNumber};
use super::shard_log::check::{Expected, accept};
use super::shard_log::page::{RawAnswer, parse_many};
use super::shard_log::{MAX_WINDOW, Page, READING, ReadLane, header, push_line, search_body, taken_apart};

/// The most documents in a page.
const PAGE: u64 = MAX_WINDOW.unsigned_abs();
/// Wider than this, a part is as good as all that is left.
const WIDEST: SeqNo = 1 << 40;

/// Where a walk over one shard's log is. Each page asks for a part that holds about one page, as the server would
/// otherwise sort all that is left each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    shard: ShardNumber,
    from: SeqNo,
    /// The end (exclusive) of the next part; `None`: all that is left.
    to: Option<SeqNo>,
    /// Documents that are left, as far as known.
    left: u64,
}

impl Walk {
    /// From the beginning of that shard's log.
    #[must_use]
    pub fn new(shard: ShardNumber) -> Walk {
        Walk { shard, from: 0, to: None, left: 0 }
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardNumber {
        self.shard
    }

    /// How it goes on after `got` documents came, the last of them at `last`, of `total` in the part. `None`: that was
    /// all.
    fn after(&self, got: u64, last: Option<SeqNo>, total: u64) -> Option<Walk> {
        let left = if self.to.is_none() { total } else { self.left }.saturating_sub(got);
        let cut = last.filter(|_| total > got);
        let from = cut.map(|last| last + 1).or(self.to)?;
        let wide = if cut.is_none() && got < PAGE / 2 { 2 } else { 1 };
        let width = (from - self.from).saturating_mul(wide);
        let to = (left > PAGE && width < WIDEST).then(|| from.saturating_add(width));
        Some(Walk { shard: self.shard, from, to, left })
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

impl Cluster {
    /// The next page of each of these walks over the documents with `field == value`, in their order, with one request.
    ///
    /// What is written meanwhile comes at the end of a log, so a document that is moved there may come twice.
    pub async fn walk(
        &self,
        index: &IndexName,
        walks: &[Walk],
        field: &str,
        value: i64,
    ) -> Result<Vec<WalkPage>> {
        let limit = usize::try_from(PAGE).unwrap_or(usize::MAX);
        let mut lines = Vec::with_capacity(walks.len() * 400);
        for walk in walks {
            let mut range = json!({"gte": walk.from});
            if let Some(to) = walk.to {
                range["lt"] = json!(to);
            }
            let filter = json!([{"range": {"_seq_no": range}}, {"term": {field: value}}]);
            let mut body = search_body(json!({"bool": {"filter": filter}}), limit, &ReadLane::Places);
            body["sort"] = json!([{"_seq_no": "asc"}]);
            push_line(&mut lines, &header(index, Some(walk.shard)));
            push_line(&mut lines, &body);
        }
        let answer = self.send(&Call::post(READING, "/_msearch").lines(Bytes::from(lines))).await?;
        let (index, walks) = (index.clone(), walks.to_vec());
        taken_apart(answer.len(), move || {
            let answers = parse_many(&answer, &vec![&index; walks.len()], |_| None)?;
            answers.into_iter().zip(&walks).map(|(answer, walk)| page(answer, walk, &index, limit)).collect()
        })
        .await
    }

    /// What lives at these places of a shard's log (at most 10 000). The inner error is of the index, as with
    /// [`Cluster::read_windows`].
    pub async fn read_places(
        &self,
        index: &IndexName,
        shard: ShardNumber,
        places: &[SeqNo],
        lane: ReadLane,
    ) -> Result<Result<Page>> {
        let (Some(&first), Some(&last)) = (places.iter().min(), places.iter().max()) else {
            return Ok(Ok(Page { hits: Vec::new(), bytes: 0 }));
        };
        if places.len() as u64 > PAGE {
            let reason = format!("{} places were asked for, more than {PAGE}", places.len());
            return Err(ElasticError::new(ErrorCategory::Invalid, READING, reason));
        }
        let query = json!({"bool": {"filter": [{"terms": {"_seq_no": places}}]}});
        let mut lines = Vec::new();
        push_line(&mut lines, &header(index, Some(shard)));
        push_line(&mut lines, &search_body(query, places.len(), &lane));
        let answer = self.send(&Call::post(READING, "/_msearch").lines(Bytes::from(lines))).await?;
        let expected = Expected {
            shards: Some(1),
            window: Some((first, last + 1)),
            id: lane.has_id(),
            source: lane.has_source(),
            limit: None,
        };
        let index = index.clone();
        taken_apart(answer.len(), move || {
            let mut answers = parse_many(&answer, &[&index], |_| None)?;
            let of = format!("index `{index}`, shard {shard}, places in [{first}, {last}]");
            answers
                .pop()
                .map(|answer| accept(answer, &expected, &of))
                .ok_or_else(|| ElasticError::bad_answer(READING, format!("{of}: there is no answer")))
        })
        .await
    }
}

fn page(answer: RawAnswer, walk: &Walk, index: &IndexName, limit: usize) -> Result<WalkPage> {
    let total = match &answer {
        RawAnswer::Found(page) => page.total.and_then(|total| total.value),
        RawAnswer::Failed(_) => None,
    };
    let expected = Expected { shards: Some(1), window: None, id: false, source: false, limit: Some(limit) };
    let page = accept(answer, &expected, &format!("index `{index}`, shard {}", walk.shard))?;
    let documents: Vec<Located> =
        page.hits.iter().map(|hit| Located { seq_no: hit.seq_no, version: hit.version }).collect();
    let last = documents.last().map(|last| last.seq_no);
    let total = total.and_then(|total| u64::try_from(total).ok()).unwrap_or(0);
    let next = walk.after(documents.len() as u64, last, total);
    Ok(WalkPage { shard: walk.shard, documents, next })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Walks over documents at these places as a server would answer. Returns what came, the number of requests, and how
    /// many documents the server had to sort.
    fn walked(places: &[SeqNo]) -> (Vec<SeqNo>, usize, usize) {
        let (mut came, mut requests, mut sorted) = (Vec::new(), 0, 0);
        let mut next = Some(Walk::new(0));
        while let Some(walk) = next {
            let start = places.partition_point(|&place| place < walk.from);
            let end = walk.to.map_or(places.len(), |to| places.partition_point(|&place| place < to));
            let part = places.get(start..end).unwrap_or_default();
            let page: Vec<SeqNo> = part.iter().copied().take(10_000).collect();
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
        fn a_walk_ends_though_documents_vanish(left in any::<u64>(), width in 1_i64..1_000) {
            let mut next = Some(Walk { shard: 0, from: 5, to: Some(5 + width), left });
            let mut requests = 0;
            while let Some(walk) = next {
                requests += 1;
                prop_assert!(requests < 100);
                next = walk.after(0, None, 0);
            }
        }
    }
}
