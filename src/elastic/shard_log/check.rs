//! The checks that make a search's answer a [`Page`]. Pure.
//!
//! Nothing is believed that the answer does not say: a missing field is a failed check.

use super::super::error::{ElasticError, Result};
use super::super::names::SeqNo;
use super::page::{RawAnswer, RawPage, Shards};
use super::{Hit, Page, READING};

/// What a complete page must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::elastic) struct Expected {
    /// Number of shards asked; `None`: all of the index, at least one.
    pub shards: Option<i64>,
    /// The sequence numbers asked for, `from` inclusive, `to` exclusive; `None`: any.
    pub window: Option<(SeqNo, SeqNo)>,
    /// Whether each hit must have an `_id`.
    pub id: bool,
    /// Whether each hit must have a `_source`.
    pub source: bool,
    /// The most hits asked for; `None`: all there are.
    pub limit: Option<usize>,
}

/// Why a page is not the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::elastic) enum Fault {
    /// Something of it is missing, or is not of it.
    #[error("{0}")]
    Incomplete(String),
    /// Two chunks have this sequence number.
    #[error("sequence number {0} came twice")]
    Twice(SeqNo),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Incomplete(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Incomplete(reason.to_owned())
    }
}

/// Says why a page is not complete, or nothing.
///
/// - shards: a preference for a shard that does not exist is answered with success, no shards and no hits;
/// - time-out and early end: hits are missing then, also with success;
/// - the total must be exact and equal the number of hits, so that no size limit cut it;
/// - each sequence number must lie in the window, and none twice.
pub(in crate::elastic) fn check(page: &RawPage, expected: &Expected) -> std::result::Result<(), Fault> {
    check_header(page, expected)?;
    let Some(total) = page.total else {
        return Err("the answer has no total".into());
    };
    if !total.is_exact {
        return Err("the total is not exact".into());
    }
    let all = usize::try_from(total.value.unwrap_or(-1)).ok();
    if all.map(|all| expected.limit.map_or(all, |limit| limit.min(all))) != Some(page.hits.len()) {
        let value = total.value.unwrap_or(-1);
        return Err(format!("{} hits came of a total of {value}", page.hits.len()).into());
    }
    if let Some(other) = &page.foreign_index {
        return Err(format!("a hit is of another index, `{other}`").into());
    }
    if expected.id && page.hits.iter().any(|hit| hit.id.is_empty()) {
        return Err("a hit has no _id".into());
    }
    if expected.source && page.hits.iter().any(|hit| hit.source.is_empty()) {
        return Err("a hit has no _source".into());
    }
    match expected.window {
        Some((from, to)) => check_window(&page.hits, from, to),
        None => Ok(()),
    }
}

fn check_header(page: &RawPage, expected: &Expected) -> std::result::Result<(), String> {
    if page.timed_out != Some(false) {
        return Err("the search timed out".into());
    }
    if page.terminated_early {
        return Err("the search was terminated early".into());
    }
    let Some(Shards { total: Some(total), successful: Some(successful), failed: Some(failed) }) = page.shards
    else {
        return Err("the answer does not say which shards answered".into());
    };
    if total == 0 {
        return Err("no shard was asked: the shard does not exist".into());
    }
    if expected.shards.is_some_and(|shards| shards != total) || successful != total || failed != 0 {
        return Err(format!(
            "of {total} shards {successful} answered and {failed} failed; expected {}",
            expected.shards.map_or_else(|| "all".to_owned(), |n| n.to_string())
        ));
    }
    Ok(())
}

fn check_window(hits: &[Hit], from: SeqNo, to: SeqNo) -> std::result::Result<(), Fault> {
    let width = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
    let mut seen = vec![0_u64; width.div_ceil(64)];
    for hit in hits {
        let outside = || format!("sequence number {} is outside [{from}, {to})", hit.seq_no);
        let offset = hit.seq_no.checked_sub(from).and_then(|offset| usize::try_from(offset).ok());
        let place = offset.filter(|&place| place < width).ok_or_else(outside)?;
        let bit = 1 << (place % 64);
        let word = seen.get_mut(place / 64).ok_or_else(outside)?;
        if *word & bit != 0 {
            return Err(Fault::Twice(hit.seq_no));
        }
        *word |= bit;
    }
    Ok(())
}

/// Makes a checked page of an answer.
pub(in crate::elastic) fn accept(answer: RawAnswer, expected: &Expected, of: &str) -> Result<Page> {
    let page = match answer {
        RawAnswer::Found(page) => page,
        RawAnswer::Failed(error) => return Err(error),
    };
    match check(&page, expected) {
        Ok(()) => Ok(Page { hits: page.hits, bytes: page.bytes }),
        Err(fault @ Fault::Twice(_)) => Err(ElasticError::shared_seq_no(READING, format!("{of}: {fault}"))),
        Err(fault) => Err(ElasticError::bad_answer(READING, format!("{of}: {fault}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::super::super::error::ErrorCategory;
    use super::super::super::names::IndexName;
    use super::super::page::parse_single;
    use super::*;

    /// A complete answer with two hits of the window [10, 20).
    fn complete() -> Value {
        let hit = |id: &str, seq_no: i64| json!({"_index": "a", "_id": id, "_seq_no": seq_no, "_primary_term": 1, "_version": 1, "_source": {"x": 1}, "sort": [0]});
        json!({
            "took": 1,
            "timed_out": false,
            "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
            "hits": {"total": {"value": 2, "relation": "eq"}, "max_score": null, "hits": [hit("p", 10), hit("q", 19)]},
            "status": 200
        })
    }

    fn window() -> Expected {
        Expected { shards: Some(1), window: Some((10, 20)), id: true, source: true, limit: None }
    }

    fn accepted(answer: &Value, expected: &Expected) -> Result<Page> {
        let index = IndexName::parse("a").unwrap();
        let bytes = Bytes::from(answer.to_string());
        accept(parse_single(&bytes, &index, None)?, expected, "index `a`")
    }

    /// Asserts that the complete answer, changed like this, is refused for that reason.
    fn refused(change: impl FnOnce(&mut Value), reason: &str) {
        let mut answer = complete();
        change(&mut answer);
        let error = accepted(&answer, &window()).unwrap_err();
        assert_eq!(error.category(), ErrorCategory::BadAnswer, "{error}");
        assert!(error.to_string().contains(reason), "{error} does not say: {reason}");
    }

    fn remove(answer: &mut Value, key: &str) {
        answer.as_object_mut().unwrap().remove(key);
    }

    #[test]
    fn a_complete_page_is_accepted_also_when_its_shard_could_be_skipped() {
        assert_eq!(accepted(&complete(), &window()).unwrap().hits.len(), 2);
        let mut skipped = complete();
        skipped["_shards"]["skipped"] = json!(1);
        skipped["hits"] = json!({"total": {"value": 0, "relation": "eq"}, "hits": []});
        assert_eq!(accepted(&skipped, &window()).unwrap().hits.len(), 0);
    }

    #[test]
    fn a_time_out_is_refused() {
        refused(|answer| answer["timed_out"] = json!(true), "timed out");
        refused(|answer| remove(answer, "timed_out"), "timed out");
        refused(|answer| answer["terminated_early"] = json!(true), "terminated early");
    }

    #[test]
    fn a_shard_that_does_not_exist_or_did_not_answer_is_refused() {
        let empty = |answer: &mut Value| {
            answer["hits"] = json!({"total": {"value": 0, "relation": "eq"}, "hits": []});
        };
        refused(
            |answer| {
                empty(answer);
                answer["_shards"] = json!({"total": 0, "successful": 0, "skipped": 0, "failed": 0});
            },
            "does not exist",
        );
        refused(|answer| answer["_shards"]["total"] = json!(2), "of 2 shards 1 answered");
        refused(|answer| answer["_shards"] = json!({"total": 2, "successful": 2, "failed": 0}), "expected 1");
        refused(|answer| answer["_shards"]["successful"] = json!(0), "0 answered");
        refused(|answer| answer["_shards"]["failed"] = json!(1), "1 failed");
        refused(|answer| remove(answer, "_shards"), "which shards");
        refused(|answer| remove(&mut answer["_shards"], "failed"), "which shards");
    }

    #[test]
    fn a_total_that_is_not_exact_or_not_the_number_of_hits_is_refused() {
        refused(|answer| answer["hits"]["total"]["relation"] = json!("gte"), "not exact");
        refused(|answer| remove(&mut answer["hits"]["total"], "relation"), "not exact");
        refused(|answer| answer["hits"]["total"]["value"] = json!(3), "2 hits came of a total of 3");
        refused(|answer| remove(&mut answer["hits"]["total"], "value"), "2 hits");
        refused(|answer| remove(&mut answer["hits"], "total"), "no total");
        refused(|answer| remove(answer, "hits"), "no total");
    }

    #[test]
    fn a_sequence_number_outside_of_the_window_is_refused() {
        for outside in [9, 20, -1, -2, i64::MAX, i64::MIN] {
            refused(|answer| answer["hits"]["hits"][0]["_seq_no"] = json!(outside), "outside [10, 20)");
        }
    }

    #[test]
    fn chunks_that_share_a_sequence_number_are_an_error_of_their_own() {
        let mut answer = complete();
        answer["hits"]["hits"][0]["_seq_no"] = json!(19);
        let error = accepted(&answer, &window()).unwrap_err();
        assert!(error.is_shared_seq_no() && error.to_string().contains("19 came twice"), "{error}");
        assert!(error.remedy().contains("reindex"), "{}", error.remedy());
    }

    #[test]
    fn a_hit_that_lacks_something_or_is_of_another_index_is_refused() {
        for part in ["_id", "_seq_no", "_version"] {
            refused(|answer| remove(&mut answer["hits"]["hits"][1], part), part);
        }
        refused(|answer| remove(&mut answer["hits"]["hits"][1], "_source"), "no _source");
        refused(|answer| remove(&mut answer["hits"]["hits"][1], "_index"), "another index");
        refused(|answer| answer["hits"]["hits"][1]["_index"] = json!("b"), "another index, `b`");
    }

    #[test]
    fn places_need_no_id() {
        let mut answer = complete();
        for hit in answer["hits"]["hits"].as_array_mut().unwrap() {
            remove(hit, "_id");
            remove(hit, "_source");
        }
        let places = Expected { id: false, source: false, ..window() };
        assert_eq!(accepted(&answer, &places).unwrap().hits.len(), 2);
        assert!(accepted(&answer, &Expected { id: true, ..places }).is_err());
    }

    #[test]
    fn a_search_of_all_shards_needs_each_of_them() {
        let all = Expected { shards: None, window: None, id: true, source: true, limit: None };
        let mut answer = complete();
        answer["_shards"] = json!({"total": 3, "successful": 3, "skipped": 2, "failed": 0});
        assert_eq!(accepted(&answer, &all).unwrap().hits.len(), 2);
        answer["_shards"]["successful"] = json!(2);
        assert!(accepted(&answer, &all).is_err());
    }

    #[test]
    fn the_error_of_one_answer_keeps_its_category() {
        let answer = json!({"error": {"type": "index_not_found_exception", "reason": "no such index [a]", "index": "a"}, "status": 404});
        let error = accepted(&answer, &window()).unwrap_err();
        assert!(error.is_missing_index());
        let answer = json!({"error": {"type": "x", "reason": "y"}});
        assert_eq!(accepted(&answer, &window()).unwrap_err().category(), ErrorCategory::Unavailable);
    }
}
