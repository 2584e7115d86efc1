//! A cutover that nobody can end in order: writers are served again, long before its time is over.

use std::time::Duration;

use es_index_merge::api::EsIndexMergeStatus;
use serde_json::json;

use crate::hardship::secret;
use crate::operator::{NAME, Operator, PATIENCE, SOON};
use crate::scene::Flavor;
use crate::{condition, has_finalizer, odd_data, write_again};

/// A merge that refuses writers, with thousands of chunks to be copied at that many a second. It has five minutes.
pub async fn cutting_over(per_second: u32) -> Operator {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    let model = operator.scene.fill(&odd_data(&operator.scene)).await;
    // A pass every 30 s, so that none comes between the changes below and the cutover.
    operator.apply(&operator.scene.manifest(8).replace("maxLag: 5s", "maxLag: 90s\n    hold: true")).await;
    operator.until_phase(NAME, "Synced", PATIENCE).await;
    operator.after_a_pass().await;
    write_again(Flavor::V8, &model).await;
    let slowly = json!({ "spec": {
        "cutover": { "hold": false }, "workers": { "maxDocumentsPerSecond": per_second }
    } });
    operator.patch(NAME, slowly).await;
    operator.until_phase(NAME, "CuttingOver", SOON).await;
    until_blocked(&operator, true).await;
    operator
}

/// Waits until writers are refused, or served.
async fn until_blocked(operator: &Operator, wanted: bool) {
    let waiting = async {
        while !operator.scene.writers_are_refused(wanted).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, waiting)
        .await
        .unwrap_or_else(|_| panic!("that writers are refused is not {wanted}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_in_the_cutover_serves_writers_although_the_destination_cannot_be_reached() {
    let mut operator = cutting_over(1).await;
    operator.kill_9().await;
    assert!(operator.scene.sources_are_blocked().await);
    let destination = secret(&operator.scene.manifest(8), "destination");
    operator.apply(&destination.replace("password: \"", "password: \"not-")).await;
    operator.delete(NAME).await;
    operator.start();
    until_blocked(&operator, false).await;
    let why = |status: &EsIndexMergeStatus| {
        condition(status, "Failing").2.starts_with("cleaning up before the deletion: spec.destination")
    };
    let merge = operator.until(NAME, SOON, "told why it stays", why).await;
    assert!(has_finalizer(&merge), "the rest cannot be cleaned up");
    operator.patch(NAME, json!({"metadata": {"annotations": {"indexmerge.dev/force-delete": "true"}}})).await;
    operator.until_gone(NAME, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_lost_in_the_cutover_keeps_no_writer_waiting() {
    // So fast that a worker has something to write every few seconds.
    let operator = cutting_over(40).await;
    operator.scene.delete(&operator.scene.index).await;
    operator.until_reason(NAME, "DestinationLost", SOON).await;
    assert!(!operator.scene.any_source_is_blocked().await, "no verdict can come any more");
    assert_eq!(operator.stored_phase().await, "Synced");
}

/// Another process decides for the merge, and dies before it gives the cutover up.
#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_that_is_suspended_is_given_up_by_whoever_is_left() {
    let operator = cutting_over(1).await;
    let taken = "UPDATE es_index_merge.merge
        SET stepper = 'another process', stepper_until = clock_timestamp() + interval '15 s'";
    sqlx::query(taken).execute(&mut operator.database().await).await.unwrap();
    operator.patch(NAME, json!({ "spec": { "suspend": true } })).await;
    operator.until_phase(NAME, "Suspended", SOON).await;
    until_blocked(&operator, false).await;
}
