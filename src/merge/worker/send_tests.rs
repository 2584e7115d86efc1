#![allow(clippy::unwrap_used)]
use super::*;

fn failed(status: u16, kind: &str) -> BulkItem {
    BulkItem::Retry(BulkRefusal { status, kind: kind.into(), reason: "x".into() })
}

fn bad() -> BulkItem {
    failed(500, "null_pointer_exception")
}

/// A body of three of which the last one failed that often, with the others taken.
fn struck(times: u32, last: impl Fn() -> BulkItem) -> (Ledger, Vec<usize>) {
    let mut ledger = Ledger::new(3);
    let mut rejected = ledger.book(&[0, 1, 2], vec![BulkItem::Applied, BulkItem::AlreadyThere, last()]);
    for _ in 1..times {
        rejected = ledger.book(&rejected, vec![last()]);
    }
    (ledger, rejected)
}

#[test]
fn a_chunk_that_fails_beside_others_each_time_is_tried_and_refused_with_its_reason() {
    let (mut ledger, rejected) = struck(STRIKES, bad);
    assert_eq!((ledger.may_lie_in(&rejected), ledger.taken().collect::<Vec<_>>()), (true, vec![0, 1]));
    assert!(ledger.convict(&rejected, &[bad(), BulkItem::AlreadyThere]));
    let sent = ledger.close().unwrap();
    assert_eq!(sent[..2], [Sent::Applied, Sent::AlreadyThere]);
    let expected = "HTTP 500, null_pointer_exception: x (6 times in a row, while the words of another chunk were read under the same id)";
    assert_eq!(sent[2], Sent::Refused(expected.to_owned()));
}

#[test]
fn too_few_strikes_or_one_of_another_kind_in_between_convict_nobody() {
    let (mut ledger, rejected) = struck(STRIKES - 1, bad);
    assert!(!ledger.convict(&rejected, &[bad(), BulkItem::AlreadyThere]));
    let (mut ledger, rejected) = struck(STRIKES, bad);
    ledger.book(&rejected, vec![failed(429, "es_rejected_execution_exception")]);
    assert!(!ledger.may_lie_in(&rejected));
    ledger.book(&rejected, vec![bad()]);
    assert!(ledger.may_lie_in(&rejected));
    assert!(!ledger.convict(&rejected, &[bad(), BulkItem::AlreadyThere]));
    assert_eq!(ledger.why(&rejected), "HTTP 500, null_pointer_exception: x");
}

#[test]
fn what_ails_the_server_is_never_put_on_trial() {
    for (status, kind) in [
        (429, "es_rejected_execution_exception"),
        (429, "circuit_breaking_exception"),
        (429, "cluster_block_exception"),
        (503, "unavailable_shards_exception"),
        (503, "cluster_block_exception"),
        (500, "already_closed_exception"),
        (500, "i_o_exception"),
        (502, "null_pointer_exception"),
    ] {
        let (ledger, rejected) = struck(RETRIES + 1, || failed(status, kind));
        assert!(!ledger.may_lie_in(&rejected), "{status} {kind}");
    }
}

#[test]
fn chunks_of_a_body_of_which_most_failed_are_never_put_on_trial() {
    for (items, taken) in [(2, 0), (2, 1), (5, 2), (100, 0)] {
        let mut ledger = Ledger::new(items);
        let all: Vec<usize> = (0..items).collect();
        let outcome = |item| if item < taken { BulkItem::Applied } else { bad() };
        let rejected = ledger.book(&all, (0..items).map(outcome).collect());
        assert!(!ledger.may_lie_in(&rejected), "{taken} of {items}");
    }
}

#[test]
fn a_chunk_without_neighbours_depends_on_its_trial_alone() {
    let mut ledger = Ledger::new(1);
    for _ in 0..STRIKES {
        ledger.book(&[0], vec![bad()]);
    }
    assert!(ledger.may_lie_in(&[0]) && ledger.taken().next().is_none());
    for beside in [bad(), failed(503, "unavailable_shards_exception"), BulkItem::Applied] {
        assert!(!ledger.convict(&[0], &[bad(), beside]));
    }
    assert!(ledger.convict(&[0], &[bad(), BulkItem::AlreadyThere]));
}

#[test]
fn one_of_two_that_the_trial_does_not_convict_keeps_the_batch_open() {
    let mut ledger = Ledger::new(5);
    let taken = || BulkItem::Applied;
    let mut rejected = ledger.book(&[0, 1, 2, 3, 4], vec![taken(), taken(), taken(), bad(), bad()]);
    for _ in 1..STRIKES {
        rejected = ledger.book(&rejected, vec![bad(), bad()]);
    }
    let outcomes =
        [bad(), BulkItem::AlreadyThere, failed(503, "unavailable_shards_exception"), BulkItem::AlreadyThere];
    assert!(ledger.may_lie_in(&rejected) && !ledger.convict(&rejected, &outcomes));
    assert!(ledger.close().is_err());
}

#[test]
fn a_body_of_which_most_failed_is_not_put_on_trial_in_parts_either() {
    let mut ledger = Ledger::new(5);
    let taken = || BulkItem::Applied;
    ledger.book(&[0, 1, 2, 3, 4], vec![taken(), taken(), bad(), bad(), bad()]);
    let (one, others) = (ledger.book(&[2], vec![bad()]), ledger.book(&[3, 4], vec![bad(), bad()]));
    assert!(!ledger.may_lie_in(&one) && !ledger.may_lie_in(&others));
    // What was taken in the end counts as taken.
    ledger.book(&others, vec![taken(), taken()]);
    assert!(ledger.may_lie_in(&one));
}

#[test]
fn what_is_written_over_a_document_is_known_also_of_a_part() {
    let mut ledger = Ledger::new(3);
    let busy = || failed(429, "es_rejected_execution_exception");
    let rejected = ledger.book(&[0, 1, 2], vec![BulkItem::Applied, busy(), busy()]);
    ledger.note_replaced(&[0, 1, 2], &BTreeSet::new());
    ledger.book(&rejected, vec![BulkItem::Applied, BulkItem::Applied]);
    ledger.note_replaced(&rejected, &BTreeSet::from([1]));
    assert_eq!(ledger.taken().count(), 3);
    assert_eq!(ledger.close().unwrap(), [Sent::Applied, Sent::Applied, Sent::Replaced]);
}
