//! Bulk writes: versions decide, aliases protect, blocks stop.

use std::collections::BTreeSet;

use es_index_merge::elastic::{
    BulkBody, BulkItem, BulkVersioning, ElasticError, ErrorCategory, IndexName, IndexUuid, MAX_BULK_BYTES,
    ReadLane,
};
use serde_json::{Value, json};

use super::server::{Server, settings};

fn one(id: &str, version: i64, versioning: BulkVersioning, chunk: &Value) -> BulkBody {
    let mut body = BulkBody::with_capacity(100);
    body.begin_index(id, version, versioning).extend_from_slice(chunk.to_string().as_bytes());
    body.end();
    body
}

async fn sent(server: &Server, index: &IndexName, body: BulkBody) -> Result<Vec<BulkItem>, ElasticError> {
    server.cluster.bulk(index.as_str(), false, body).await.map(|outcome| outcome.items)
}

/// The uuids of those that exist.
async fn uuids(server: &Server, indices: &[IndexName]) -> BTreeSet<IndexUuid> {
    let blocks = server.cluster.write_blocks(indices).await.unwrap();
    blocks.into_values().map(|block| block.uuid).collect()
}

#[tokio::test]
async fn the_words_of_a_trial_are_read_and_never_written() {
    for server in Server::each().await {
        let mappings = json!({"dynamic": "strict", "properties": {"n": {"type": "integer"}}});
        let index = server.index(json!({"settings": settings(2), "mappings": mappings})).await;
        let there = one("there", 5, BulkVersioning::External, &json!({"n": 1}));
        assert_eq!(sent(&server, &index, there).await.unwrap(), [BulkItem::Applied]);
        assert_eq!(server.cluster.some_words(&index).await.unwrap().as_deref(), Some(r#"{"n":1}"#));

        let mut body = BulkBody::default();
        for (id, n) in [("there", 2), ("absent", 3)] {
            body.begin_index(id, 5, BulkVersioning::External)
                .extend_from_slice(json!({"n": n}).to_string().as_bytes());
            body.end();
        }
        let request = body.freeze();
        let trial = |places: &[usize], words: &str| request.trial(places, words.as_bytes()).unwrap();
        let read =
            server.cluster.bulk(index.as_str(), false, trial(&[0, 1], r#"{"n":9}"#)).await.unwrap().items;
        let expected =
            [BulkItem::AlreadyThere, BulkItem::AlreadyThere, BulkItem::Applied, BulkItem::AlreadyThere];
        assert_eq!(read, expected);
        let items = server
            .cluster
            .bulk(index.as_str(), false, trial(&[0], r#"{"n":"no number"}"#))
            .await
            .unwrap()
            .items;
        assert!(matches!(items[1], BulkItem::Refused(_)), "{items:?}");
        server.cluster.refresh(&[index.clone()]).await.unwrap();
        let lane = ReadLane::Source { ask_for_vectors: false };
        let found = server.cluster.lookup(&index, &["there", "absent"], lane).await.unwrap();
        let source = |id: &str| serde_json::from_slice::<Value>(found.get(id).unwrap().source()).unwrap();
        assert_eq!((source("there"), source("absent")), (json!({"n": 1}), json!({"n": 3})));
    }
}

#[tokio::test]
async fn versions_decide_what_is_written() {
    for server in Server::each().await {
        let mappings = json!({"dynamic": "strict", "properties": {"n": {"type": "integer"}}});
        let index = server.index(json!({"settings": settings(2), "mappings": mappings})).await;
        let mut body = BulkBody::default();
        for (id, version, versioning, n) in [
            ("a", 5, BulkVersioning::External, json!(1)),
            ("a", 5, BulkVersioning::External, json!(2)),
            ("a", 4, BulkVersioning::ExternalGte, json!(3)),
            ("a", 5, BulkVersioning::ExternalGte, json!(4)),
            ("é\"\\", 0, BulkVersioning::External, json!(5)),
            ("b", 1, BulkVersioning::External, json!("no number")),
        ] {
            body.begin_index(id, version, versioning)
                .extend_from_slice(json!({"n": n}).to_string().as_bytes());
            body.end();
        }
        body.push_delete("a", 5);
        body.push_delete("a", 6);
        body.push_delete("absent", 9);
        let items = sent(&server, &index, body).await.unwrap();
        let BulkItem::Refused(refusal) = &items[5] else { panic!("{items:?}") };
        assert_eq!(refusal.status, 400);
        assert_eq!(refusal.kind, "document_parsing_exception");
        assert!(refusal.reason.contains("[n]"), "{refusal:?}");
        let expected = [
            BulkItem::Applied,
            BulkItem::AlreadyThere,
            BulkItem::AlreadyThere,
            BulkItem::Applied,
            BulkItem::Applied,
            BulkItem::Refused(refusal.clone()),
            BulkItem::AlreadyThere,
            BulkItem::Applied,
            BulkItem::Missing,
        ];
        assert_eq!(items, expected);
        server.cluster.refresh(&[index.clone()]).await.unwrap();
        let found = server
            .cluster
            .lookup(&index, &["a", "é\"\\"], ReadLane::Source { ask_for_vectors: false })
            .await
            .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found.get("é\"\\").unwrap().source(), br#"{"n":5}"#);
        assert!(
            server.cluster.bulk(index.as_str(), false, BulkBody::default()).await.unwrap().items.is_empty()
        );
    }
}

#[tokio::test]
async fn a_target_that_must_be_an_alias_is_never_created_by_writing() {
    for server in Server::each().await {
        let index = server.index(json!({"settings": settings(1)})).await;
        let alias = server.unused_index();
        let body = || one("a", 1, BulkVersioning::External, &json!({"n": 1}));
        for target in [&alias, &index] {
            let error = server.cluster.bulk(target.as_str(), true, body()).await.unwrap_err();
            assert_eq!(error.category(), ErrorCategory::NotFound, "{error}");
        }
        let (status, _) = server.access.call("GET", &format!("/{}", *alias), None).unwrap();
        assert_eq!(status, 404, "nothing was created");
        let add =
            json!([{"add": {"index": index.as_str(), "alias": alias.as_str(), "is_write_index": true}}]);
        server.cluster.update_aliases(&add).await.unwrap();
        let outcome = server.cluster.bulk(alias.as_str(), true, body()).await.unwrap();
        assert_eq!(outcome.items, [BulkItem::Applied]);
    }
}

#[tokio::test]
async fn a_blocked_or_closed_target_is_an_error_and_no_chunks_fault() {
    for server in Server::each().await {
        let index = server.index(json!({"settings": settings(1)})).await;
        let missing = server.unused_index();
        let both = [index.clone(), missing.clone()];
        let meant = uuids(&server, &both).await;
        let blocked = server.cluster.block_writes(&both, &meant).await.unwrap();
        assert_eq!(blocked.into_iter().collect::<Vec<_>>(), [index.clone()]);
        let info = server.cluster.describe(&[index.clone()]).await.unwrap().remove(&*index).unwrap();
        assert!(info.write_blocked);
        let body = || one("a", 1, BulkVersioning::External, &json!({"n": 1}));
        let error = sent(&server, &index, body()).await.unwrap_err();
        assert_eq!(error.category(), ErrorCategory::Forbidden, "{error}");
        assert!(error.remedy().contains("block"), "{}", error.remedy());
        // Done again, it is the same answer; also for a block that was set by other means, beside one without any.
        assert_eq!(server.cluster.block_writes(&both, &meant).await.unwrap().len(), 1);
        server.cluster.unblock_writes(&both, &meant).await.unwrap();
        let by_hand = json!({"index.blocks.write": true});
        server.cluster.put_settings(&[index.clone()], &by_hand).await.unwrap();
        let other = server.index(json!({"settings": settings(1)})).await;
        let three = [other.clone(), index.clone(), missing.clone()];
        let all = uuids(&server, &three).await;
        assert_eq!(server.cluster.block_writes(&three, &all).await.unwrap().len(), 2);
        assert_eq!(server.cluster.block_writes(&three, &all).await.unwrap().len(), 2);

        server.cluster.unblock_writes(&both, &all).await.unwrap();
        server.cluster.unblock_writes(&both, &all).await.unwrap();
        assert_eq!(sent(&server, &index, body()).await.unwrap(), [BulkItem::Applied]);
        let info = server.cluster.describe(&[index.clone()]).await.unwrap().remove(&*index).unwrap();
        assert!(!info.write_blocked, "{:?}", info.settings);

        server.ask("POST", &format!("/{}/_close", *index), None);
        let error = sent(&server, &index, body()).await.unwrap_err();
        assert!(error.is_closed_index(), "{error}");
    }
}

/// Whether the server has begun to refuse writes and has not made sure that none is under way.
fn is_half_blocked(server: &Server, index: &IndexName) -> bool {
    let state = server.ask("GET", &format!("/_cluster/state/blocks/{index}"), None);
    state["blocks"]["indices"][index.as_str()]["8"]["uuid"].is_string()
}

#[tokio::test]
async fn a_block_that_waited_in_vain_for_the_writes_under_way_is_lifted_all_the_same() {
    const DOCUMENTS: usize = 20_000;
    for server in Server::each().await {
        let index = server.index(json!({"settings": settings(1)})).await;
        let names = [index.clone()];
        let meant = uuids(&server, &names).await;
        let words = json!({"text": "words that take the server some time to index ".repeat(30)}).to_string();
        // The request to block may come before the writes or after them.
        for attempt in 1.. {
            assert!(attempt < 20, "no write was ever under way");
            let mut body = BulkBody::default();
            for document in 0..DOCUMENTS {
                let id = format!("{attempt}-{document}");
                body.begin_index(&id, 1, BulkVersioning::External).extend_from_slice(words.as_bytes());
                body.end();
            }
            let writing = async { drop(server.cluster.bulk(index.as_str(), false, body).await) };
            let (access, path) = (server.access, format!("/{}/_block/write?timeout=1ms", *index));
            let blocking = tokio::task::spawn_blocking(move || {
                let tasks = "/_tasks?actions=indices:data/write/bulk[s]*";
                let is_writing = || access.ask("GET", tasks, None).unwrap().to_string().contains("bulk[s]");
                let _ = (0..200).any(|_| is_writing());
                access.ask("PUT", &path, None).unwrap()
            });
            let ((), answer) = tokio::join!(writing, blocking);
            answer.unwrap();
            if is_half_blocked(&server, &index) {
                break;
            }
            server.cluster.unblock_writes(&names, &meant).await.unwrap();
        }
        let unset = json!({"index.blocks.write": null});
        server.cluster.put_settings(&names, &unset).await.unwrap();
        assert!(is_half_blocked(&server, &index), "no settings lift it");

        assert!(server.cluster.unblock_writes(&names, &meant).await.unwrap().is_empty());
        let body = one("after it", 1, BulkVersioning::External, &json!({"n": 1}));
        assert_eq!(sent(&server, &index, body).await.unwrap(), [BulkItem::Applied]);
    }
}

#[tokio::test]
async fn an_index_that_was_made_anew_is_neither_blocked_nor_unblocked_for_the_one_before_it() {
    for server in Server::each().await {
        let body = json!({"settings": settings(1)});
        let index = server.index(body.clone()).await;
        let names = [index.clone()];
        let is_blocked = async || server.cluster.write_blocks(&names).await.unwrap()[&*index].is_set;
        let before = uuids(&server, &names).await;
        assert!(server.cluster.delete_index(&index).await.unwrap());
        assert!(server.cluster.create_index(&index, &body).await.unwrap());
        assert!(server.cluster.block_writes(&names, &before).await.unwrap().is_empty());
        assert!(!is_blocked().await, "nobody would lift it");

        let by_hand = json!({"index.blocks.write": true});
        server.cluster.put_settings(&names, &by_hand).await.unwrap();
        assert!(server.cluster.unblock_writes(&names, &before).await.unwrap().is_empty());
        assert!(is_blocked().await, "somebody else's block was lifted");
        let now = uuids(&server, &names).await;
        assert!(server.cluster.unblock_writes(&names, &now).await.unwrap().is_empty());
        assert!(!is_blocked().await);
    }
}

#[tokio::test]
async fn an_alias_in_the_place_of_an_index_changes_nothing_of_the_index_behind_it() {
    for server in Server::each().await {
        let (index, alias) = (server.index(json!({"settings": settings(1)})).await, server.unused_index());
        let names = [alias.clone()];
        let add = json!([{"add": {"index": index.as_str(), "alias": alias.as_str()}}]);
        server.cluster.update_aliases(&add).await.unwrap();
        let is_blocked =
            async || server.cluster.write_blocks(&[index.clone()]).await.unwrap()[&*index].is_set;
        let gone = BTreeSet::from([IndexUuid("of an index that is gone".to_owned())]);
        assert!(server.cluster.block_writes(&names, &gone).await.unwrap().is_empty());
        assert!(!is_blocked().await, "nobody would lift it");
        let by_hand = json!({"index.blocks.write": true});
        server.cluster.put_settings(&[index.clone()], &by_hand).await.unwrap();
        assert!(server.cluster.unblock_writes(&names, &gone).await.unwrap().is_empty());
        assert!(is_blocked().await, "somebody else's block was lifted");
    }
}

#[tokio::test]
async fn a_body_beyond_the_servers_limit_is_too_large() {
    let server = Server::of(testenv::elasticsearch::Flavor::V9).await;
    let mut body = BulkBody::with_capacity(MAX_BULK_BYTES + 200);
    body.begin_index("a", 1, BulkVersioning::External).resize(MAX_BULK_BYTES + 100, b' ');
    body.end();
    let error = sent(&server, &server.unused_index(), body).await.unwrap_err();
    assert_eq!(error.category(), ErrorCategory::TooLarge, "{error}");
}
