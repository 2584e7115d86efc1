#![allow(clippy::unwrap_used)]
use super::*;

fn refusal(status: u16, kind: &str, reason: &str) -> BulkRefusal {
    BulkRefusal { status, kind: kind.into(), reason: reason.into() }
}

fn two_items() -> BulkBody {
    let mut body = BulkBody::with_capacity(64);
    body.begin_index("a\"b\n", 7, BulkVersioning::External).extend_from_slice(b"{\"x\":1}");
    body.end();
    body.push_delete("c", 9);
    body
}

#[test]
fn a_body_holds_an_action_and_a_chunk_on_a_line_each() {
    let request = two_items().freeze();
    let expected = concat!(
        r#"{"index":{"_id":"a\"b\n","version":7,"version_type":"external"}}"#,
        "\n{\"x\":1}\n",
        r#"{"delete":{"_id":"c","version":9,"version_type":"external"}}"#,
        "\n"
    );
    assert_eq!(std::str::from_utf8(&request.body).unwrap(), expected);
    assert_eq!(request.len(), 2);
}

#[test]
fn an_item_that_was_not_ended_is_taken_back() {
    let mut body = two_items();
    let bytes = body.bytes();
    body.begin_index("half", 1, BulkVersioning::ExternalGte).extend_from_slice(b"{\"hal");
    assert_eq!((body.len(), body.bytes()), (2, bytes));
    assert_eq!(body.freeze().bytes(), bytes);
}

#[test]
fn parts_hold_the_same_items() {
    let whole = two_items().freeze();
    let (first, second) = (whole.only([0]), whole.only([1, 5]));
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!([first.body, second.body].concat(), whole.body);
}

#[test]
fn each_status_has_its_meaning() {
    let answer = br#"{"errors":true,"items":[{"index":{"status":201}},{"delete":{"status":404}},
        {"index":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"r"}}},
        {"index":{"status":429,"error":{"type":"es_rejected_execution_exception","reason":"full"}}},
        {"index":{"status":400,"error":{"type":"document_parsing_exception","reason":"bad"}}},
        {"index":{"status":404,"error":{"type":"shard_not_found_exception","reason":"moved"}}}]}"#;
    let items = outcome(answer, 6).unwrap().items;
    assert_eq!(
        items,
        [
            BulkItem::Applied,
            BulkItem::Missing,
            BulkItem::AlreadyThere,
            BulkItem::Retry(refusal(429, "es_rejected_execution_exception", "full")),
            BulkItem::Refused(refusal(400, "document_parsing_exception", "bad")),
            BulkItem::Retry(refusal(404, "shard_not_found_exception", "moved")),
        ]
    );
}

#[test]
fn what_was_written_over_a_document_is_told_from_what_is_new() {
    let answer = br#"{"errors":true,"items":[{"index":{"status":200}},{"index":{"status":201}},{"delete":{"status":200}},
        {"index":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"r"}}},
        {"index":{"status":200}}]}"#;
    let outcome = outcome(answer, 5).unwrap();
    assert_eq!(outcome.replaced, BTreeSet::from([0, 4]));
    let applied = |item: &&BulkItem| **item == BulkItem::Applied;
    assert_eq!(outcome.items.iter().filter(applied).count(), 4);
}

#[test]
fn what_concerns_the_target_is_an_error_of_the_request() {
    for (status, kind, category) in [
        (404, INDEX_NOT_FOUND, ErrorCategory::NotFound),
        (403, "cluster_block_exception", ErrorCategory::Forbidden),
        (400, INDEX_CLOSED, ErrorCategory::Invalid),
    ] {
        let answer = format!(
            r#"{{"errors":true,"items":[{{"index":{{"status":{status},"error":{{"type":"{kind}","reason":"r"}}}}}}]}}"#
        );
        let error = outcome(answer.as_bytes(), 1).unwrap_err();
        assert_eq!((error.category(), error.kind()), (category, Some(kind)));
    }
}

#[test]
fn another_number_of_items_or_a_strange_one_is_a_bad_answer() {
    for answer in [
        r#"{"errors":false,"items":[{"index":{"status":201}}]}"#,
        r#"{"errors":false}"#,
        r#"{"errors":false,"items":[{"index":{"status":201}},{}]}"#,
        r#"{"errors":false,"items":[{"index":{"status":201}},{"index":{"status":300}}]}"#,
        r#"{"errors":true,"items":[{"index":{"status":201}},{"index":{"status":251,"error":{"type":"x"}}}]}"#,
    ] {
        let error = outcome(answer.as_bytes(), 2).unwrap_err();
        assert_eq!(error.category(), ErrorCategory::BadAnswer, "{answer}");
    }
}
