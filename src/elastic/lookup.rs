//! Finding chunks by id or by a field, and counting them exactly: for verification and deletions.
//!
//! These are searches, so they see what was refreshed. An answer of which a shard is missing is an error.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::Call;
use super::cluster::{Cluster, encoded, parse};
use super::error::{ElasticError, ErrorCategory, Result};
use super::msearch::{Search, WITHOUT_TIMEOUT, search_body, seq_no_range, taken_apart};
use super::names::{IndexName, SeqNo, ShardNumber};
use super::shard_log::check::{Expected, accept, check};
use super::shard_log::page::{RawAnswer, parse_single};
use super::shard_log::{Hit, MAX_WINDOW, Page, ReadLane};

const LOOKING_UP: &str = "look chunks up";
const COUNTING: &str = "count chunks";

/// Groups of one page of a counting aggregation; the server's limit is 65 536.
const COUNT_PAGE: usize = 2000;
/// Most groups that are counted, so that a wrong field cannot fill the memory.
const MAX_GROUPS: usize = 5_000_000;

/// Chunks that were found by their ids.
#[derive(Debug, Clone, Default)]
pub struct Lookup {
    hits: HashMap<String, Hit>,
}

impl Lookup {
    /// The chunk with that id, if it was found.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Hit> {
        self.hits.get(id)
    }

    /// Number of chunks found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hits.len()
    }

    /// Whether none was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hits.is_empty()
    }

    /// All that were found, in no particular order.
    pub fn hits(&self) -> impl Iterator<Item = &Hit> {
        self.hits.values()
    }
}

#[derive(Deserialize)]
struct CountAnswer {
    count: u64,
    #[serde(rename = "_shards")]
    shards: Shards,
}

#[derive(Deserialize)]
struct GroupAnswer {
    timed_out: bool,
    #[serde(rename = "_shards")]
    shards: Shards,
    aggregations: Groups,
}

#[derive(Deserialize)]
struct Shards {
    total: u64,
    successful: u64,
    failed: u64,
}

impl Shards {
    fn check(&self, index: &IndexName) -> Result<()> {
        if self.total > 0 && self.failed == 0 && self.successful == self.total {
            return Ok(());
        }
        let reason = format!(
            "index `{index}`: of {} shards {} answered and {} failed",
            self.total, self.successful, self.failed
        );
        Err(ElasticError::bad_answer(COUNTING, reason))
    }
}

#[derive(Deserialize)]
struct Groups {
    groups: GroupPage,
}

#[derive(Deserialize)]
struct GroupPage {
    #[serde(default)]
    after_key: Option<Value>,
    buckets: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    key: GroupKey,
    doc_count: u64,
}

#[derive(Deserialize)]
struct GroupKey {
    value: i64,
}

impl GroupPage {
    /// Adds its counts; returns the key after which the next page begins, `None` behind the last one. A value has one
    /// count: pages that came again and again would never end.
    fn add_to(self, counts: &mut BTreeMap<i64, u64>) -> Result<Option<Value>> {
        let has_any = !self.buckets.is_empty();
        for Group { key: GroupKey { value }, doc_count } in self.buckets {
            if counts.insert(value, doc_count).is_some() {
                let reason = format!("the value {value} is counted twice");
                return Err(ElasticError::bad_answer(COUNTING, reason));
            }
        }
        Ok(self.after_key.filter(|_| has_any))
    }
}

/// What hits were sorted by.
#[derive(Deserialize)]
struct Sorted {
    hits: SortedHits,
}

#[derive(Deserialize)]
struct SortedHits {
    hits: Vec<SortedHit>,
}

#[derive(Deserialize)]
struct SortedHit {
    sort: Vec<u64>,
}

/// A part of a shard's log, of any width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRange {
    /// The index.
    pub index: IndexName,
    /// The shard.
    pub shard: ShardNumber,
    /// First sequence number.
    pub from: SeqNo,
    /// The sequence number after the last one.
    pub to: SeqNo,
}

/// Documents that were written without a routing of their own: one that has another stands under its id on a shard that
/// the id alone does not lead to.
fn without_routing() -> Value {
    json!({"bool": {"must_not": [{"exists": {"field": "_routing"}}]}})
}

/// Options of every search here: complete, of this index, now.
fn strict(doing: &'static str, index: &IndexName, what: &str) -> Call {
    Call::post(doing, format!("/{}/{what}", encoded(index.as_str())))
        .with("ignore_unavailable", "false")
        .with("allow_no_indices", "false")
}

fn strict_search(doing: &'static str, index: &IndexName) -> Call {
    strict(doing, index, "_search")
        .with("allow_partial_search_results", "false")
        .with("request_cache", "false")
}

impl Search for LogRange {
    type Found = u64;

    const DOING: &'static str = COUNTING;

    fn shard(&self) -> (&IndexName, ShardNumber) {
        (&self.index, self.shard)
    }

    fn body(&self) -> Result<Value> {
        Ok(json!({
            "size": 0,
            "timeout": WITHOUT_TIMEOUT,
            "track_total_hits": true,
            "query": seq_no_range(self.from, self.to),
        }))
    }

    fn accept(&self, answer: RawAnswer) -> Result<u64> {
        let page = match answer {
            RawAnswer::Found(page) => page,
            RawAnswer::Failed(error) => return Err(error),
        };
        let expected = Expected { shards: Some(1), window: None, id: true, source: false, limit: Some(0) };
        let total = page.total.and_then(|total| total.value).and_then(|value| u64::try_from(value).ok());
        check(&page, &expected)
            .and_then(|()| total.ok_or_else(|| "the total is not a number".into()))
            .map_err(|reason| {
                let LogRange { index, shard, from, to } = self;
                let of = format!("index `{index}`, shard {shard}, range [{from}, {to})");
                ElasticError::bad_answer(COUNTING, format!("{of}: {reason}"))
            })
    }
}

pub(super) fn by_id(answer: &Bytes, index: &IndexName, lane: &ReadLane) -> Result<Lookup> {
    let found = parse_single(answer, index, lane.vector_field())?;
    let expected =
        Expected { shards: None, window: None, id: lane.has_id(), source: lane.has_source(), limit: None };
    let page = accept(found, &expected, &format!("index `{index}`"))?;
    let mut hits = HashMap::with_capacity(page.hits.len());
    for hit in page.hits {
        if let Some(twice) = hits.insert(hit.id.clone(), hit) {
            let reason = format!("index `{index}` holds the id `{}` twice", twice.id);
            return Err(ElasticError::bad_answer(LOOKING_UP, reason));
        }
    }
    Ok(Lookup { hits })
}

impl Cluster {
    /// Reads the chunks with these ids (at most 10 000); what is not found is absent.
    ///
    /// A chunk is found whatever shard it is on; if one id is on two shards, which routing can do, that is an error.
    pub async fn lookup(&self, index: &IndexName, ids: &[&str], lane: ReadLane) -> Result<Lookup> {
        self.lookup_by(index, ids, json!({"ids": {"values": ids}}), lane).await
    }

    /// [`Cluster::lookup`], of the chunks that have that value of an integer field.
    pub async fn lookup_where(
        &self,
        index: &IndexName,
        ids: &[&str],
        (field, value): (&str, i64),
        lane: ReadLane,
    ) -> Result<Lookup> {
        let filter = json!([{"ids": {"values": ids}}, {"term": {field: value}}]);
        self.lookup_by(index, ids, json!({"bool": {"filter": filter}}), lane).await
    }

    async fn lookup_by(
        &self,
        index: &IndexName,
        ids: &[&str],
        query: Value,
        lane: ReadLane,
    ) -> Result<Lookup> {
        if ids.is_empty() {
            return Ok(Lookup::default());
        }
        let max = usize::try_from(MAX_WINDOW).unwrap_or(usize::MAX);
        if ids.len() > max {
            let reason = format!("{} ids were asked for, more than {max}", ids.len());
            return Err(ElasticError::new(ErrorCategory::Invalid, LOOKING_UP, reason));
        }
        let body = search_body(query, ids.len(), &lane);
        let answer = self.send(&strict_search(LOOKING_UP, index).json(&body)).await?;
        let index = index.clone();
        taken_apart(answer.len(), move || by_id(&answer, &index, &lane)).await
    }

    /// Exact number of chunks for each value of an integer field; chunks without the field are not counted.
    pub async fn count_by(&self, index: &IndexName, field: &str) -> Result<BTreeMap<i64, u64>> {
        let mut counts = BTreeMap::new();
        let mut after: Option<Value> = None;
        loop {
            let mut groups = json!({"size": COUNT_PAGE, "sources": [{"value": {"terms": {"field": field}}}]});
            if let Some(after) = &after {
                groups["after"] = after.clone();
            }
            let body = json!({
                "size": 0,
                "timeout": WITHOUT_TIMEOUT,
                "track_total_hits": false,
                "aggs": {"groups": {"composite": groups}},
            });
            let answer: GroupAnswer = self.ask(&strict_search(COUNTING, index).json(&body)).await?;
            answer.shards.check(index)?;
            if answer.timed_out {
                return Err(ElasticError::bad_answer(
                    COUNTING,
                    format!("index `{index}`: the search timed out"),
                ));
            }
            after = answer.aggregations.groups.add_to(&mut counts)?;
            if counts.len() > MAX_GROUPS {
                let reason = format!("field `{field}` has more than {MAX_GROUPS} values");
                return Err(ElasticError::new(ErrorCategory::Invalid, COUNTING, reason));
            }
            if after.is_none() {
                return Ok(counts);
            }
        }
    }

    /// Exact number of live chunks in each of these ranges, in their order, with one request. An inner error is of
    /// that range alone, as with [`Cluster::read_windows`].
    pub async fn count_ranges(&self, ranges: &[LogRange]) -> Result<Vec<Result<u64>>> {
        self.search_all(ranges).await
    }

    /// Exact number of chunks of an index.
    pub async fn count(&self, index: &IndexName) -> Result<u64> {
        self.counted(index, &strict(COUNTING, index, "_count")).await
    }

    /// Exact number of chunks of an index with that value of an integer field.
    pub async fn count_where(&self, index: &IndexName, field: &str, value: i64) -> Result<u64> {
        let query = json!({"query": {"term": {field: value}}});
        self.counted(index, &strict(COUNTING, index, "_count").json(&query)).await
    }

    /// Whether the index holds a value of that field for that chunk, whatever its `_source` says.
    pub async fn has_field(&self, index: &IndexName, id: &str, field: &str) -> Result<bool> {
        let filter = json!([{"ids": {"values": [id]}}, {"exists": {"field": field}}]);
        let query = json!({"query": {"bool": {"filter": filter}}});
        Ok(self.counted(index, &strict(COUNTING, index, "_count").json(&query)).await? > 0)
    }

    async fn counted(&self, index: &IndexName, call: &Call) -> Result<u64> {
        let answer: CountAnswer = parse(COUNTING, &self.send(call).await?)?;
        answer.shards.check(index)?;
        Ok(answer.count)
    }

    /// The highest version of a chunk of the index; `None` if it holds none.
    pub async fn highest_version(&self, index: &IndexName) -> Result<Option<i64>> {
        self.refresh(std::slice::from_ref(index)).await?;
        let mut body = search_body(json!({"match_all": {}}), 1, &ReadLane::Keys);
        body["sort"] = json!([{"_version": "desc"}]);
        let found =
            parse_single(&self.send(&strict_search(LOOKING_UP, index).json(&body)).await?, index, None)?;
        let expected = Expected { shards: None, window: None, id: true, source: false, limit: Some(1) };
        let page = accept(found, &expected, &format!("index `{index}`"))?;
        Ok(page.hits.first().map(|hit| hit.version))
    }

    /// The JSON of any chunk of the index, on one line; `None` if it holds none.
    pub async fn some_words(&self, index: &IndexName) -> Result<Option<String>> {
        self.refresh(std::slice::from_ref(index)).await?;
        let lane = ReadLane::Source { ask_for_vectors: false };
        let body = search_body(json!({"match_all": {}}), 1, &lane);
        let found =
            parse_single(&self.send(&strict_search(LOOKING_UP, index).json(&body)).await?, index, None)?;
        let expected = Expected { shards: None, window: None, id: true, source: true, limit: Some(1) };
        let page = accept(found, &expected, &format!("index `{index}`"))?;
        let Some(hit) = page.hits.first() else { return Ok(None) };
        let words: Value = parse(LOOKING_UP, hit.source())?;
        Ok(Some(words.to_string()))
    }

    /// The first live document of a shard whose number is that or a higher one, of those without a routing of their own, and its
    /// number; `None` behind the last. A shard numbers its documents segment by segment, deleted ones too.
    pub async fn document_at(
        &self,
        index: &IndexName,
        shard: ShardNumber,
        number: u64,
        lane: ReadLane,
    ) -> Result<Option<(u64, Hit)>> {
        let mut body = search_body(without_routing(), 1, &lane);
        if let Some(before) = number.checked_sub(1) {
            body["search_after"] = json!([before]);
        }
        let call =
            strict_search(LOOKING_UP, index).with("preference", format!("_shards:{shard}")).json(&body);
        let answer = self.send(&call).await?;
        let found = parse_single(&answer, index, lane.vector_field())?;
        // The total is that of the shard, whatever comes behind that number.
        let some = matches!(&found, RawAnswer::Found(page) if !page.hits.is_empty());
        let expected = Expected {
            shards: Some(1),
            window: None,
            id: lane.has_id(),
            source: lane.has_source(),
            limit: Some(usize::from(some)),
        };
        let of = format!("index `{index}`, shard {shard}");
        let Some(hit) = accept(found, &expected, &of)?.hits.pop() else { return Ok(None) };
        let sorted: Sorted = parse(LOOKING_UP, &answer)?;
        match sorted.hits.hits.first().and_then(|hit| hit.sort.first()) {
            Some(&number) => Ok(Some((number, hit))),
            None => {
                Err(ElasticError::bad_answer(LOOKING_UP, format!("{of}: a document comes without number")))
            }
        }
    }

    /// Some documents of one shard, at most `limit` (to 10 000), in no particular order: of those without a routing of their
    /// own, and with that field if one is given.
    pub async fn sample(
        &self,
        index: &IndexName,
        shard: ShardNumber,
        limit: usize,
        field: Option<&str>,
        lane: ReadLane,
    ) -> Result<Page> {
        let mut query = without_routing();
        if let Some(field) = field {
            query["bool"]["filter"] = json!([{"exists": {"field": field}}]);
        }
        let body = search_body(query, limit, &lane);
        let call =
            strict_search(LOOKING_UP, index).with("preference", format!("_shards:{shard}")).json(&body);
        let found = parse_single(&self.send(&call).await?, index, lane.vector_field())?;
        let expected = Expected {
            shards: Some(1),
            window: None,
            id: lane.has_id(),
            source: lane.has_source(),
            limit: Some(limit),
        };
        accept(found, &expected, &format!("index `{index}`, shard {shard}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page(values: &[i64], after: Option<i64>) -> GroupPage {
        let bucket = |value: &i64| json!({"key": {"value": value}, "doc_count": 3});
        let mut page = json!({"buckets": values.iter().map(bucket).collect::<Vec<_>>()});
        if let Some(after) = after {
            page["after_key"] = json!({"value": after});
        }
        serde_json::from_value(page).unwrap()
    }

    #[test]
    fn pages_of_counts_are_read_up_to_the_last_one() {
        let mut counts = BTreeMap::new();
        assert_eq!(page(&[1, 2], Some(2)).add_to(&mut counts).unwrap(), Some(json!({"value": 2})));
        assert_eq!(page(&[5], None).add_to(&mut counts).unwrap(), None);
        assert_eq!(page(&[], Some(5)).add_to(&mut counts).unwrap(), None);
        assert_eq!(counts, BTreeMap::from([(1, 3), (2, 3), (5, 3)]));
    }

    #[test]
    fn a_page_of_counts_that_comes_again_is_a_bad_answer() {
        let mut counts = BTreeMap::new();
        assert!(page(&[1, 2], Some(2)).add_to(&mut counts).is_ok());
        let error = page(&[1, 2], Some(2)).add_to(&mut counts).unwrap_err();
        assert_eq!(error.category(), ErrorCategory::BadAnswer);
    }
}
