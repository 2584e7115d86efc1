//! The deletion of the source indices by the operator: after their time, and as its owner says.

use std::collections::BTreeSet;

use demo::seed::odd;
use es_index_merge::api::EsIndexMergeStatus;
use serde_json::json;

use crate::operator::{NAME, Operator, PATIENCE, SOON};
use crate::scene::Flavor;
use crate::{condition, odd_data};

/// The indices of the merge's sources of which the state says that.
async fn sources(operator: &Operator, condition: &'static str) -> BTreeSet<String> {
    let query =
        format!("SELECT index_name FROM es_index_merge.source WHERE state = 'active' AND {condition}");
    let names = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&operator.scene.pool).await.unwrap();
    assert!(!names.is_empty(), "{condition}");
    names.into_iter().collect()
}

/// Those of the indices that are there.
async fn left(operator: &Operator, indices: &BTreeSet<String>) -> BTreeSet<String> {
    let names: Vec<&str> = indices.iter().map(String::as_str).collect();
    let path = format!("/{}/_settings/index.uuid?ignore_unavailable=true", names.join(","));
    let answer = operator.scene.source_cluster.get(&path).await.unwrap();
    answer.as_object().unwrap().keys().cloned().collect()
}

async fn documents(operator: &Operator) -> u64 {
    operator.scene.destination_cluster.refresh(&operator.scene.index).await.unwrap();
    let path = format!("/{}/_count", operator.scene.index);
    operator.scene.destination_cluster.get(&path).await.unwrap()["count"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn source_indices_are_kept_for_their_time_and_deleted_when_their_owner_still_wants_it() {
    let operator = Operator::running(Flavor::V9, Flavor::V9).await;
    let options = odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) };
    let model = operator.scene.fill(&options).await;
    let asked = "sourceWrites: Block\n    deleteSources: AfterVerification\n    retainFor: 24h";
    operator.apply(&operator.scene.manifest(8).replace("sourceWrites: Block", asked)).await;
    let merge = operator.until_phase(NAME, "Completed", PATIENCE).await;
    let status = merge.status.unwrap();
    let (deleted, reason, _) = condition(&status, "SourcesDeleted");
    assert_eq!((deleted, reason), ("False", "Retained"), "{status:#?}");
    assert!(status.message.unwrap().contains("source indices are deleted from"));
    let all = sources(&operator, "true").await;
    assert_eq!(left(&operator, &all).await, all);

    // Called off, and nothing is left to wait for: it is the wish alone that keeps them.
    let no = json!({ "spec": { "cutover": { "deleteSources": "Never", "retainFor": "0s" } } });
    operator.patch(NAME, no).await;
    let called_off = |status: &EsIndexMergeStatus| condition(status, "SourcesDeleted").1 == "NotAskedFor";
    operator.until(NAME, SOON, "called off", called_off).await;
    assert_eq!(left(&operator, &all).await, all);

    operator.patch(NAME, json!({ "spec": { "cutover": { "deleteSources": "AfterVerification" } } })).await;
    // Of some something was left out in the destination: they are kept.
    let is_over = |status: &EsIndexMergeStatus| condition(status, "SourcesDeleted").1 == "SomeKept";
    let merge = operator.until(NAME, SOON, "all looked at", is_over).await;
    let status = merge.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Completed"));
    assert!(status.message.unwrap().contains("source indices were deleted"));
    assert!(status.attention.iter().any(|attention| attention.message.contains("is kept")));
    let nothing_left_out =
        "NOT EXISTS (SELECT FROM es_index_merge.unit u WHERE u.source = source.id AND u.cuts <> '{}')";
    let whole = sources(&operator, nothing_left_out).await;
    assert_eq!(left(&operator, &all).await, &all - &whole);
    assert_eq!(documents(&operator).await, u64::try_from(model.good_chunks()).unwrap());
    let namespace = operator.namespace.as_str();
    let events =
        operator.kubectl(&["get", "events", "-n", namespace, "-o", "jsonpath={.items[*].reason}"], "").await;
    assert!(events.contains("SourcesDeleted"), "{events}");
}
