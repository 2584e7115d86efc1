//! Each single difference from what was verified is a reason to keep the index.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use serde_json::{Map, json};

use super::*;
use crate::elastic::{IndexUuid, Version};
use crate::state::SourceState;

fn source() -> SourceRow {
    SourceRow {
        id: 7,
        collection_id: 42,
        index_name: "42".to_owned(),
        index_uuid: "uuid".to_owned(),
        shards: 2,
        generation: 0,
        documents: 5,
        bytes: 100,
        state: SourceState::Active,
        attention: None,
        blocked_by_us: true,
        cuts: BTreeMap::from([("document_name_missing".to_owned(), 5)]),
        deletion: None,
    }
}

/// Shard 0 had six operations, shard 1 none, so that it was never planned.
fn all(source: &SourceRow) -> (Stored<'_>, DestinationNow, IndexNow) {
    let copied = ShardRow {
        source: 7,
        shard: 0,
        history_uuid: "history".to_owned(),
        copy_planned_to: 6,
        verify_planned_to: 6,
        keys_checked_to: Some(6),
        copied_since: Some(1),
    };
    let verdict = CollectionVerdict {
        collection_id: 42,
        source_documents: 5,
        destination_documents: 4,
        compared: 5,
        different: 0,
        quarantined: 0,
        collapsed: 1,
        verdict: true,
        reason: None,
    };
    let histories = BTreeMap::from([(0, "there".to_owned())]);
    let destination = DestinationMemo {
        uuid: "destination".to_owned(),
        created: true,
        put_back: BTreeMap::new(),
        settled: true,
        was_set_back: false,
        histories: histories.clone(),
    };
    let stored = Stored {
        source,
        shards: vec![copied],
        verdict: Some(verdict),
        quarantined: 0,
        is_wanted: true,
        destination: Some(destination),
    };
    let now = DestinationNow { uuid: Some("destination".to_owned()), histories, documents: 4 };
    (stored, now, IndexNow { shards: vec![shard(0, 5, 5), shard(1, -1, 0)], info: info() })
}

fn shard(shard: i32, last: i64, docs: u64) -> PrimaryStats {
    PrimaryStats {
        index_uuid: IndexUuid("uuid".to_owned()),
        shard,
        history_uuid: "history".to_owned(),
        max_seq_no: last,
        local_checkpoint: last,
        global_checkpoint: last,
        docs,
        deleted: 0,
        store_bytes: 100,
    }
}

fn info() -> IndexInfo {
    let settings = json!({"index.blocks.write": "true"});
    IndexInfo {
        uuid: IndexUuid("uuid".to_owned()),
        shards: 2,
        created: Version::new(9, 4, 3),
        vectors_hidden: false,
        source_complete: true,
        seq_no_searchable: true,
        write_blocked: true,
        max_result_window: 10_000,
        aliases: BTreeSet::from(["42".to_owned(), "all-of-them".to_owned()]),
        mapping: json!({}),
        settings: settings.as_object().cloned().unwrap_or_else(Map::new),
    }
}

/// The reason of a check, without its sentence.
fn reason(check: Check) -> String {
    check.unwrap_err().split_once(": ").unwrap().0.to_owned()
}

#[test]
fn what_is_as_it_was_verified_may_be_deleted() {
    let source = source();
    let (known, destination_now, index_now) = all(&source);
    assert_eq!(stored(&known), Ok(()));
    assert_eq!(destination(&known, &destination_now), Ok(()));
    assert_eq!(index(&known, &index_now), Ok(()));
}

type ChangeOfStored = fn(&mut Stored<'_>);
type ChangeOfIndex = fn(&mut IndexNow);

#[test]
fn what_is_stored_forbids_it() {
    let cases: [(&str, ChangeOfStored); 7] = [
        ("NoVerdict", |known| known.verdict = None),
        ("NoVerdict", |known| known.verdict.as_mut().unwrap().verdict = false),
        ("Quarantined", |known| known.quarantined = 1),
        ("Quarantined", |known| known.verdict.as_mut().unwrap().quarantined = 1),
        ("NotCompared", |known| known.shards[0].verify_planned_to = 0),
        ("Excluded", |known| known.is_wanted = false),
        ("", |_| {}),
    ];
    let source = source();
    for (expected, change) in cases {
        let (mut known, ..) = all(&source);
        change(&mut known);
        match expected {
            "" => assert_eq!(stored(&known), Ok(())),
            expected => assert_eq!(reason(stored(&known)), expected),
        }
    }
    let mut cut = source.clone();
    cut.cuts.insert("metadata_nested".to_owned(), 1);
    assert_eq!(reason(stored(&all(&cut).0)), "ContentCut");
}

#[test]
fn a_destination_that_is_another_one_was_set_back_or_holds_more_or_less_forbids_it() {
    let cases: [fn(&mut DestinationNow); 5] = [
        |now| *now = DestinationNow::default(),
        |now| now.uuid = Some("another".to_owned()),
        |now| drop(now.histories.insert(0, "another".to_owned())),
        |now| now.documents = 3,
        |now| now.documents = 5,
    ];
    let source = source();
    for change in cases {
        let (known, mut now, _) = all(&source);
        change(&mut now);
        assert_eq!(reason(destination(&known, &now)), "DestinationChanged");
    }
    let (mut known, now, _) = all(&source);
    known.destination = None;
    assert_eq!(reason(destination(&known, &now)), "DestinationChanged");
}

#[test]
fn an_index_that_is_not_what_was_copied_is_kept() {
    let cases: [(&str, ChangeOfIndex); 12] = [
        ("IndexShared", |now| assert!(now.info.aliases.insert("43".to_owned()))),
        ("SourceReplaced", |now| now.info.uuid.0 = "another".to_owned()),
        ("SourceReplaced", |now| now.shards[0].index_uuid.0 = "another".to_owned()),
        ("NotBlocked", |now| drop(now.info.settings.remove("index.blocks.write"))),
        ("NotBlocked", |now| drop(now.info.settings.insert("index.blocks.write".to_owned(), json!("false")))),
        ("SourceChanged", |now| drop(now.shards.pop())),
        ("SourceChanged", |now| now.shards[0].history_uuid = "another".to_owned()),
        ("SourceChanged", |now| now.shards[0] = shard(0, 6, 5)),
        ("SourceChanged", |now| now.shards[0] = shard(0, 4, 5)),
        ("SourceChanged", |now| now.shards[0].global_checkpoint = 4),
        ("SourceChanged", |now| now.shards[1] = shard(1, 0, 0)),
        ("SourceChanged", |now| now.shards[0].docs = 4),
    ];
    let source = source();
    for (number, (expected, change)) in cases.into_iter().enumerate() {
        let (known, _, mut now) = all(&source);
        change(&mut now);
        assert_eq!(reason(index(&known, &now)), expected, "case {number}");
    }
    let named = SourceRow { index_name: "43".to_owned(), ..source.clone() };
    let (known, _, now) = all(&named);
    assert_eq!(reason(index(&known, &now)), "IndexShared");
    let theirs = SourceRow { blocked_by_us: false, ..source.clone() };
    let (known, _, now) = all(&theirs);
    assert_eq!(reason(index(&known, &now)), "NotBlocked");
}
