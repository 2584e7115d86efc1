//! Creating, changing and merging indices; each done twice where that must be harmless.

use std::time::Duration;

use es_index_merge::elastic::{ErrorCategory, ForceMerge};
use serde_json::json;

use super::server::{Server, settings, write};

#[tokio::test]
async fn what_is_already_so_is_an_answer() {
    for server in Server::each().await {
        let index = server.unused_index();
        let body = json!({"settings": settings(1)});
        assert!(server.cluster.create_index(&index, &body).await.unwrap());
        assert!(!server.cluster.create_index(&index, &body).await.unwrap());
        assert!(server.cluster.delete_index(&index).await.unwrap());
        assert!(!server.cluster.delete_index(&index).await.unwrap());
        let error =
            server.cluster.create_index(&index, &json!({"settings": {"nonsense": 1}})).await.unwrap_err();
        assert_eq!(error.category(), ErrorCategory::Invalid, "{error}");
    }
}

#[tokio::test]
async fn settings_and_mappings_are_changed_and_read_back() {
    for server in Server::each().await {
        let index = server.index(json!({"settings": settings(1)})).await;
        let change =
            json!({"index.refresh_interval": "7s", "index.merge.policy.expunge_deletes_allowed": "0"});
        server.cluster.put_settings(&[index.clone()], &change).await.unwrap();
        let found = server.cluster.settings(&index).await.unwrap();
        assert_eq!(found["index.refresh_interval"], "7s");
        let back = json!({"index.refresh_interval": null});
        server.cluster.put_settings(&[index.clone()], &back).await.unwrap();
        assert!(server.cluster.settings(&index).await.unwrap().get("index.refresh_interval").is_none());

        let field = json!({"properties": {"x": {"type": "keyword"}}});
        server.cluster.put_mapping(&index, &field).await.unwrap();
        assert_eq!(server.cluster.mapping(&index).await.unwrap()["properties"]["x"]["type"], "keyword");
        let other = json!({"properties": {"x": {"type": "integer"}}});
        let error = server.cluster.put_mapping(&index, &other).await.unwrap_err();
        assert_eq!(error.category(), ErrorCategory::Invalid, "{error}");
        let missing = server.unused_index();
        let error = server.cluster.put_settings(&[missing.clone()], &back).await.unwrap_err();
        assert!(error.is_missing_index(), "{error}");
    }
}

#[tokio::test]
async fn segments_are_seen_and_merged_into_one() {
    for server in Server::each().await {
        let index = server.index(json!({"settings": settings(2)})).await;
        for round in 0..3 {
            let chunks: Vec<_> = (0..20).map(|n| (format!("c{round}-{n}"), json!({"n": n}))).collect();
            write(&server, &index, &chunks).await;
        }
        server.cluster.flush(&index).await.unwrap();
        let before = server.cluster.segments(&index).await.unwrap();
        assert_eq!(before.iter().map(|report| report.shard).collect::<Vec<_>>(), [0, 1]);
        let newest = before.iter().flat_map(|r| &r.segments).map(|s| s.generation).max().unwrap();
        assert!(before.iter().any(|report| report.segments.len() > 1), "{before:?}");
        let docs: u64 = before.iter().flat_map(|r| &r.segments).map(|s| s.num_docs).sum();
        assert_eq!(docs, 60);

        let limit = Duration::from_secs(30);
        assert!(
            server.cluster.force_merge(&index, ForceMerge::MaxSegments { segments: 1, limit }).await.unwrap()
        );
        server.cluster.refresh(&[index.clone()]).await.unwrap();
        let after = server.cluster.segments(&index).await.unwrap();
        for report in &after {
            let searched: Vec<_> = report.segments.iter().filter(|segment| segment.search).collect();
            assert_eq!(searched.len(), 1, "{report:?}");
            assert!(searched[0].bytes > 0 && searched[0].deleted_docs == 0);
        }
        assert!(after.iter().flat_map(|r| &r.segments).any(|s| s.generation > 0 && s.generation >= newest));
        assert!(server.cluster.force_merge(&index, ForceMerge::ExpungeDeletes { limit }).await.unwrap());
        assert_eq!(server.cluster.merges_running(&index).await.unwrap(), 0);

        let short = ForceMerge::MaxSegments { segments: 1, limit: Duration::from_micros(10) };
        assert!(!server.cluster.force_merge(&index, short).await.unwrap(), "our time ran out");
        let error = server.cluster.force_merge(&server.unused_index(), short).await;
        assert!(!error.unwrap_or(false));
        let missing = ForceMerge::MaxSegments { segments: 1, limit };
        let error = server.cluster.force_merge(&server.unused_index(), missing).await.unwrap_err();
        assert!(error.is_missing_index(), "{error}");
    }
}
