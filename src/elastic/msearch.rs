//! Many searches with one request, each of them complete or an error of its own.
//!
//! Where the answer cannot be read, nobody knows which search it is: then each is asked by itself.

use std::time::Instant;

use bytes::Bytes;
use serde_json::{Value, json};

use super::call::{Call, MAX_ANSWER_BYTES};
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
        self.search_within(searches, MAX_ANSWER_BYTES).await
    }

    /// [`Cluster::search_all`] with an answer of at most so many bytes; a larger one is an outer error.
    pub(super) async fn search_within<S: Search>(
        &self,
        searches: &[S],
        answer_limit: u64,
    ) -> Result<Vec<Result<S::Found>>> {
        let policy = RetryPolicy::default();
        let started = Instant::now();
        let mut answers = self.search_once(searches, answer_limit).await?;
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
            for (place, answer) in places.into_iter().zip(self.search_once(&again, answer_limit).await?) {
                *place = answer;
            }
        }
    }

    async fn search_once<S: Search>(
        &self,
        searches: &[S],
        answer_limit: u64,
    ) -> Result<Vec<Result<S::Found>>> {
        if searches.is_empty() {
            return Ok(Vec::new());
        }
        let answer = self.ask_together(searches, answer_limit).await?;
        match read_answer(answer, searches).await {
            Err(error) if error.category() == ErrorCategory::BadAnswer => {
                tracing::debug!(%error, searches = searches.len(), "each is asked by itself");
                self.search_singly(searches, answer_limit).await
            }
            read => read,
        }
    }

    /// One request for each search: what cannot be read is an error of that search.
    async fn search_singly<S: Search>(
        &self,
        searches: &[S],
        answer_limit: u64,
    ) -> Result<Vec<Result<S::Found>>> {
        let mut all = Vec::with_capacity(searches.len());
        for search in searches {
            let alone = std::slice::from_ref(search);
            let answer = self.ask_together(alone, answer_limit).await?;
            match read_answer(answer, alone).await {
                Ok(found) => all.extend(found),
                Err(error) => all.push(Err(error.about(of(search)))),
            }
        }
        Ok(all)
    }

    /// The answer to these searches as it came.
    async fn ask_together<S: Search>(&self, searches: &[S], answer_limit: u64) -> Result<Bytes> {
        let mut lines = Vec::with_capacity(searches.len() * 400);
        for search in searches {
            push_line(&mut lines, &header(search.shard()));
            push_line(&mut lines, &search.body()?);
        }
        let call = Call::post(S::DOING, "/_msearch").lines(Bytes::from(lines)).answer_limit(answer_limit);
        self.send(&call).await
    }
}

async fn read_answer<S: Search>(answer: Bytes, searches: &[S]) -> Result<Vec<Result<S::Found>>> {
    let searches = searches.to_vec();
    taken_apart(answer.len(), move || accept_all(&answer, &searches)).await
}

/// Where a search searches: an answer that cannot be read does not tell.
fn of<S: Search>(search: &S) -> String {
    let (index, shard) = search.shard();
    format!("index `{index}`, shard {shard}")
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

/// Whatever `search.default_search_timeout` says, which ends a search with a part of what it was asked for.
pub(super) const WITHOUT_TIMEOUT: &str = "-1";

/// The body of a search that returns every chunk that fits `query`.
pub(super) fn search_body(query: Value, size: usize, lane: &ReadLane) -> Value {
    let mut body = serde_json::Map::new();
    body.insert("size".into(), json!(size));
    body.insert("timeout".into(), json!(WITHOUT_TIMEOUT));
    body.insert("track_total_hits".into(), Value::Bool(true));
    body.insert("seq_no_primary_term".into(), Value::Bool(true));
    body.insert("version".into(), Value::Bool(true));
    body.insert("query".into(), query);
    // The cheapest order there is.
    body.insert("sort".into(), json!(["_doc"]));
    lane.apply(&mut body);
    Value::Object(body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::call::tests::{Gateway, Reply, answer};
    use super::super::config::ClusterConfig;
    use super::super::shard_log::WindowRequest;
    use super::*;

    const ROOT: &str = r#"{"cluster_name":"c","cluster_uuid":"u","version":{"number":"9.4.3"},"tagline":"You Know, for Search"}"#;

    fn json(body: &str) -> Reply {
        answer("200 OK", "", body)
    }

    fn window(index: &str) -> WindowRequest {
        WindowRequest {
            index: IndexName::parse(index).unwrap(),
            shard: 0,
            from: 0,
            to: 10,
            lane: ReadLane::Source { ask_for_vectors: false },
            most: None,
        }
    }

    /// An answer with a page of one document for each of these indices.
    fn pages(documents: &[(&str, &str)]) -> String {
        let page = |(index, source): &(&str, &str)| {
            format!(
                r#"{{"timed_out":false,"_shards":{{"total":1,"successful":1,"failed":0}},"hits":{{"total":{{"value":1,"relation":"eq"}},"hits":[{{"_index":"{index}","_id":"p","_seq_no":3,"_version":1,"_source":{source}}}]}},"status":200}}"#
            )
        };
        let pages: Vec<String> = documents.iter().map(page).collect();
        format!(r#"{{"took":1,"responses":[{}]}}"#, pages.join(","))
    }

    async fn cluster(gateway: &Gateway) -> Cluster {
        Cluster::connect(ClusterConfig::new(vec![gateway.url.clone()])).await.unwrap()
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_is_an_error_of_the_search_that_it_is_due_to() {
        // A comment that ends with the line, and the line goes on.
        let (odd, good) = (("a", r#"{} // don"t"#), ("b", r#"{"n":1}"#));
        let script = [&[odd, good][..], &[odd], &[good]].map(|documents| json(&pages(documents)));
        let gateway = Gateway::start([json(ROOT)].into_iter().chain(script).collect()).await;
        let found = cluster(&gateway).await.read_windows(&[window("a"), window("b")]).await.unwrap();
        let error = found[0].as_ref().unwrap_err();
        assert_eq!(error.category(), ErrorCategory::BadAnswer);
        assert!(error.to_string().contains("index `a`, shard 0: the answer cannot be read"), "{error}");
        assert_eq!(found[1].as_ref().unwrap().hits[0].source(), br#"{"n":1}"#);
        assert_eq!(gateway.heads().len(), 4);
    }

    #[tokio::test]
    async fn an_answer_above_its_limit_is_given_up_and_asked_for_once() {
        let body = pages(&[("a", "{}")]);
        let gateway = Gateway::start(vec![json(ROOT), json(&body), json(&body)]).await;
        let (cluster, most) = (cluster(&gateway).await, body.len() as u64);
        let error = cluster.read_windows_within(&[window("a")], most - 1).await.unwrap_err();
        assert_eq!(error.category(), ErrorCategory::TooLarge);
        assert!(cluster.read_windows_within(&[window("a")], most).await.unwrap()[0].is_ok());
        assert_eq!(gateway.heads().len(), 3);
    }
}
