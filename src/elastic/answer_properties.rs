//! Whatever comes over the wire: no reader of answers panics, and none takes a part for the whole.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;

use super::bulk::{BulkItem, outcome};
use super::error::ElasticError;
use super::msearch::accept_all;
use super::names::IndexName;
use super::shard_log::{ReadLane, WindowRequest};

/// Hits in each page of [`answer`].
const HITS: i64 = 3;

fn requests(number: usize) -> Vec<WindowRequest> {
    let request = WindowRequest {
        index: IndexName::parse("a").unwrap(),
        shard: 0,
        from: 0,
        to: HITS,
        lane: ReadLane::Binary { field: "embedding".into() },
        most: None,
    };
    vec![request; number]
}

fn answer(number: usize) -> Vec<u8> {
    let hit = |seq_no| json!({"_index": "a", "_id": format!("é\"{seq_no}"), "_seq_no": seq_no, "_version": 1, "_source": {"content": "}]\\\"{["}, "fields": {"embedding": ["PwAA"]}});
    let page = json!({
        "timed_out": false,
        "_shards": {"total": 1, "successful": 1, "failed": 0},
        "hits": {"total": {"value": HITS, "relation": "eq"}, "hits": (0..HITS).map(hit).collect::<Vec<_>>()},
        "status": 200
    });
    json!({"took": 1, "responses": vec![page; number]}).to_string().into_bytes()
}

/// Sums of pages and hits that were accepted; an error gives none.
fn accepted(answer: Vec<u8>, number: usize) -> Option<Vec<usize>> {
    let pages = accept_all(&Bytes::from(answer), &requests(number)).ok()?;
    Some(pages.into_iter().filter_map(|page| page.ok().map(|page| page.hits.len())).collect())
}

fn is_complete(found: Option<Vec<usize>>) -> bool {
    found.is_none_or(|pages| pages.iter().all(|hits| i64::try_from(*hits) == Ok(HITS)))
}

#[test]
fn an_answer_of_pages_that_breaks_off_anywhere_is_refused() {
    let whole = answer(2);
    assert_eq!(accepted(whole.clone(), 2), Some(vec![3, 3]));
    for length in 0..whole.len() {
        assert_eq!(accepted(whole[..length].to_vec(), 2), None, "cut at {length}");
    }
}

#[test]
fn a_bulk_answer_that_breaks_off_anywhere_is_refused() {
    let whole = br#"{"errors":true,"items":[{"index":{"status":201}},{"index":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"\u00e9"}}}]}"#;
    assert!(outcome(whole, 2).is_ok());
    for length in 0..whole.len() {
        assert!(outcome(&whole[..length], 2).is_err(), "cut at {length}");
    }
}

proptest! {
    #[test]
    fn bytes_that_are_changed_never_make_a_page_with_fewer_hits(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut changed = answer(2);
        for (place, byte) in changes {
            let at = place.index(changed.len());
            changed[at] = byte;
        }
        prop_assert!(is_complete(accepted(changed, 2)));
    }

    #[test]
    fn pieces_that_are_taken_out_never_make_a_page_with_fewer_hits(
        start in any::<prop::sample::Index>(), length in 1_usize..400
    ) {
        let mut changed = answer(2);
        let start = start.index(changed.len());
        let end = changed.len().min(start + length);
        changed.drain(start..end);
        prop_assert!(is_complete(accepted(changed, 2)));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in r#"[\[\]{}:,"\\a-z0-9_ ]{0,80}"#, number in 0_usize..3) {
        for given in [bytes.as_slice(), text.as_bytes()] {
            let _ = accepted(given.to_vec(), number);
            let _ = outcome(given, number);
            let _ = ElasticError::from_server("test", 500, given).to_string();
        }
    }

    #[test]
    fn each_item_of_a_bulk_has_its_answer_and_another_number_is_refused(
        statuses in prop::collection::vec(prop::sample::select(vec![200, 201, 400, 409, 429, 503]), 1..20), off in 1_usize..3
    ) {
        let kind = |status| if status == 409 { "version_conflict_engine_exception" } else { "x" };
        let item = |&status: &u16| match status {
            200 | 201 => json!({"index": {"status": status}}),
            _ => json!({"index": {"status": status, "error": {"type": kind(status), "reason": "r"}}}),
        };
        let text = json!({"errors": true, "items": statuses.iter().map(item).collect::<Vec<_>>()}).to_string();
        let items = outcome(text.as_bytes(), statuses.len()).unwrap().items;
        for (status, item) in statuses.iter().zip(&items) {
            let is_right = match item {
                BulkItem::Applied => *status < 300,
                BulkItem::AlreadyThere => *status == 409,
                BulkItem::Retry(_) => [429, 503].contains(status),
                BulkItem::Refused(_) => *status == 400,
                BulkItem::Missing => false,
            };
            prop_assert!(is_right, "{status}: {item:?}");
        }
        prop_assert!(outcome(text.as_bytes(), statuses.len() + off).is_err());
        prop_assert!(outcome(text.as_bytes(), statuses.len().saturating_sub(off)).is_err());
    }
}
