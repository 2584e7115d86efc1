//! Many searches with one request, each of them complete or an error of its own.

use std::time::Instant;

use bytes::Bytes;
use serde_json::{Value, json};

use super::call::Call;
use super::cluster::Cluster;
use super::error::{ElasticError, ErrorCategory, Result};
use super::names::{IndexName, SeqNo, ShardNumber};
use super::retry::RetryPolicy;
use super::shard_log::page::{RawAnswer, parse_many};
use super::shard_log::{READING, ReadLane};

/// Answers larger than this are taken apart outside of the async runtime, in bytes (half a millisecond's work).
const LARGE_ANSWER: usize = 256 * 1024;

/// A search of one shard that is one of many in a request.
pub(super) trait Search: Clone + Send + Sync + 'static {
    /// What its answer is made to.
    type Found: Send + 'static;

    /// What it is for, as errors say.
    const DOING: &'static str = READING;

    /// Where it searches.
    fn shard(&self) -> (&IndexName, ShardNumber);

    /// The body of the search, if it may be asked at all.
    fn body(&self) -> Result<Value>;

    /// The field whose binary doc values are the hits' vectors.
    fn vector_field(&self) -> Option<&str> {
        None
    }

    /// Checks its answer.
    fn accept(&self, answer: RawAnswer) -> Result<Self::Found>;
}

impl Cluster {
    /// Sends searches with one request; the answers are in their order. Those for which the server has no room are sent
    /// again for a while.
    ///
    /// The outer error means that nothing was read; an inner one is of that search alone.
    pub(super) async fn search_all<S: Search>(&self, searches: &[S]) -> Result<Vec<Result<S::Found>>> {
        let policy = RetryPolicy::default();
        let started = Instant::now();
        let mut answers = self.search_once(searches).await?;
        let mut made = 1;
        loop {
            let is_rejected = |answer: &Result<S::Found>| {
                answer.as_ref().is_err_and(|error| error.category() == ErrorCategory::Overloaded)
            };
            let (places, again): (Vec<&mut Result<S::Found>>, Vec<S>) = answers
                .iter_mut()
                .zip(searches)
                .filter(|(answer, _)| is_rejected(answer))
                .map(|(answer, search)| (answer, search.clone()))
                .unzip();
            if again.is_empty() {
                return Ok(answers);
            }
            let Some(pause) = policy.pause(made, started.elapsed(), None, false) else {
                return Ok(answers);
            };
            made += 1;
            tokio::time::sleep(pause).await;
            for (place, answer) in places.into_iter().zip(self.search_once(&again).await?) {
                *place = answer;
            }
        }
    }

    async fn search_once<S: Search>(&self, searches: &[S]) -> Result<Vec<Result<S::Found>>> {
        if searches.is_empty() {
            return Ok(Vec::new());
        }
        let mut lines = Vec::with_capacity(searches.len() * 400);
        for search in searches {
            push_line(&mut lines, &header(search.shard()));
            push_line(&mut lines, &search.body()?);
        }
        let call = Call::post(S::DOING, "/_msearch").lines(Bytes::from(lines));
        let answer = self.send(&call).await?;
        let searches = searches.to_vec();
        taken_apart(answer.len(), move || accept_all(&answer, &searches)).await
    }
}

/// Takes the answer to these searches apart, in their order.
pub(super) fn accept_all<S: Search>(answer: &Bytes, searches: &[S]) -> Result<Vec<Result<S::Found>>> {
    let indices: Vec<&IndexName> = searches.iter().map(|search| search.shard().0).collect();
    let vector_field = |number: usize| searches.get(number).and_then(S::vector_field).map(str::to_owned);
    let answers = parse_many(answer, &indices, vector_field)?;
    Ok(answers.into_iter().zip(searches).map(|(answer, search)| search.accept(answer)).collect())
}

/// Takes an answer of that size apart, outside of the async runtime if that takes long.
pub(super) async fn taken_apart<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if bytes < LARGE_ANSWER {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(ElasticError::bad_answer(READING, "taking the answer apart failed").with_source(e)),
    }
}

fn push_line(lines: &mut Vec<u8>, value: &Value) {
    lines.extend_from_slice(value.to_string().as_bytes());
    lines.push(b'\n');
}

/// The line before each search: nothing may be left out silently.
fn header((index, shard): (&IndexName, ShardNumber)) -> Value {
    json!({
        "index": index.as_str(),
        "preference": format!("_shards:{shard}"),
        "allow_partial_search_results": false,
        "ignore_unavailable": false,
        "allow_no_indices": false,
        "request_cache": false,
    })
}

pub(super) fn seq_no_range(from: SeqNo, to: SeqNo) -> Value {
    json!({"range": {"_seq_no": {"gte": from, "lt": to}}})
}

/// The body of a search that returns every chunk that fits `query`.
pub(super) fn search_body(query: Value, size: usize, lane: &ReadLane) -> Value {
    let mut body = serde_json::Map::new();
    body.insert("size".into(), json!(size));
    body.insert("track_total_hits".into(), Value::Bool(true));
    body.insert("seq_no_primary_term".into(), Value::Bool(true));
    body.insert("version".into(), Value::Bool(true));
    body.insert("query".into(), query);
    // The cheapest order there is.
    body.insert("sort".into(), json!(["_doc"]));
    lane.apply(&mut body);
    Value::Object(body)
}
