//! A verdict that is negative, and what the resource says of the chunks behind it.

use demo::seed::odd;
use es_index_merge::api::EsIndexMergeStatus;
use serde_json::json;

use crate::operator::{NAME, Operator, PATIENCE};
use crate::scene::Flavor;
use crate::story::Story;
use crate::{condition, odd_data};

#[tokio::test(flavor = "multi_thread")]
async fn chunks_in_quarantine_are_counted_and_named_and_fail_the_merge_until_they_are_tolerated() {
    let operator = Operator::running(Flavor::V9, Flavor::V9).await;
    let options = odd::Options { documents: 3, chunks: 5, bad: true, ..odd_data(&operator.scene) };
    let model = operator.scene.fill(&options).await;
    let bad = i64::try_from(model.bad_chunks()).unwrap();
    assert!(bad > 0, "the data holds nothing bad");
    operator.apply(&operator.scene.manifest(8)).await;
    let failed = operator.until_phase(NAME, "Failed", PATIENCE).await.status.unwrap();

    assert_eq!(failed.quarantined, Some(bad));
    let why = format!("{bad} chunks are in quarantine, spec.tolerations.maxQuarantined allows 0");
    let (cut_over, reason, message) = condition(&failed, "CutOver");
    assert_eq!((cut_over, reason), ("False", "VerdictNegative"));
    assert!(message.contains(&why), "{message}");
    for (type_, value) in
        [("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True"), ("Failing", "False")]
    {
        assert_eq!(condition(&failed, type_).0, value, "{type_}: {failed:#?}");
    }
    let found = failed.attention.iter().find(|attention| attention.reason == "Quarantined");
    let named = &found.expect("a collection is named").message;
    assert!(named.contains("chunks are in quarantine"), "{named}");
    let told = operator.events("Quarantined").await;
    assert!(told.len() == 1 && told[0]["type"] == "Warning", "{told:#?}");
    let labels = format!("{{namespace=\"{}\",name=\"{NAME}\"}}", operator.namespace);
    let measured = format!("es_index_merge_quarantined{labels} {bad}\n");
    let metrics = operator.page("/metrics").await;
    assert!(metrics.contains(&measured), "{metrics}");
    assert!(!operator.scene.any_source_is_blocked().await, "a negative verdict lifts the blocks");

    let story = Story::begin(operator.merges(), NAME).await;
    operator.patch(NAME, json!({ "spec": { "tolerations": { "maxQuarantined": bad } } })).await;
    let tolerated = |status: &EsIndexMergeStatus| condition(status, "CutOver").1 == "VerdictPositive";
    let completed = operator.until(NAME, PATIENCE, "tolerated", tolerated).await.status.unwrap();
    assert_eq!((completed.phase.as_deref(), completed.quarantined), (Some("Completed"), Some(bad)));
    assert_eq!(condition(&completed, "Ready").0, "True");
    let waits = |status: &EsIndexMergeStatus| condition(status, "Ready").1 == "CutoverRetrying";
    assert!(!story.statuses().iter().any(waits), "it waited as after an attempt that was given up");
    let verdict = operator.scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!(verdict.quarantined_total(), bad.unsigned_abs());
}
