//! A cutover that does not come to its end: given up by itself, or one that nobody can end in order. Writers are served again,
//! long before its time is over.

use std::time::Duration;

use demo::seed::odd;
use es_index_merge::api::EsIndexMergeStatus;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, runtime::wait::await_condition};
use serde_json::{Value, json};

use crate::hardship::{claims, secret};
use crate::operator::{NAME, Operator, PATIENCE, SOON};
use crate::scene::Flavor;
use crate::{condition, has_finalizer, odd_data, write_again};

/// A merge that refuses writers, with thousands of chunks to be copied at that many a second. It has five minutes.
pub async fn cutting_over(per_second: u32) -> Operator {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    cut_over(&operator, per_second).await;
    operator
}

/// The same for an operator that runs.
async fn cut_over(operator: &Operator, per_second: u32) {
    let model = operator.scene.fill(&odd_data(&operator.scene)).await;
    operator.apply(&operator.scene.manifest(8).replace("maxLag: 5s", "maxLag: 90s\n    hold: true")).await;
    operator.until_phase(NAME, "Synced", PATIENCE).await;
    // No pass comes between the changes below and the cutover.
    operator.patch(NAME, json!({ "spec": { "suspend": true } })).await;
    operator.until_phase(NAME, "Suspended", SOON).await;
    write_again(Flavor::V8, &model).await;
    let slowly = json!({ "spec": {
        "suspend": false, "cutover": { "hold": false }, "workers": { "maxDocumentsPerSecond": per_second }
    } });
    operator.patch(NAME, slowly).await;
    operator.until_phase(NAME, "CuttingOver", SOON).await;
    until_blocked(operator, true).await;
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

/// The rights of its controller are not in that namespace, as without `watchNamespaces`.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_deleted_in_the_cutover_waits_until_writers_are_served_and_goes() {
    let mut operator = Operator::new(Flavor::V8, Flavor::V9).await;
    operator.move_merges().await;
    operator.start();
    cut_over(&operator, 1).await;
    let namespace = operator.namespace.as_str();
    operator.kubectl(&["delete", "namespace", namespace, "--wait=false"], "").await;
    // Its Secrets go at once; whoever is connected needs none.
    operator.until_gone(NAME, SOON).await;
    assert!(!operator.scene.any_source_is_blocked().await, "writers are still refused");
    operator.scene.assert_destination_is_in_service().await;
    assert_eq!(claims(&operator).await, 0);
    let namespaces: Api<Namespace> = Api::all(operator.client());
    let gone = |object: Option<&Namespace>| object.is_none();
    let seen = tokio::time::timeout(SOON, await_condition(namespaces, namespace, gone)).await;
    seen.expect("the namespace goes too").unwrap();
    let ready = operator.page("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "it serves the others: {ready}");
}

/// An index has the name that an alias is to have.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_given_up_says_why_while_it_waits_for_the_next_attempt() {
    let mut operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    let alias = format!("chunks-{}", operator.scene.first_id);
    let with_alias = format!("maxLag: 5s\n    hold: true\n    aliases: [{alias}]");
    operator.apply(&operator.scene.manifest(8).replace("maxLag: 5s", &with_alias)).await;
    operator.until_reason(NAME, "CutoverHeld", PATIENCE).await;
    assert_eq!(operator.events("CutoverHeld").await.len(), 1);
    operator.kill_9().await;
    let destination = operator.scene.destination_cluster.clone();
    destination.put(&format!("/{alias}"), &json!({})).await.unwrap();
    // The merge has begun: it goes on all the same.
    operator.start();
    operator.patch(NAME, json!({ "spec": { "cutover": { "hold": false } } })).await;
    let given_up = operator.until_reason(NAME, "CutoverRetrying", SOON).await.status.unwrap();
    // Half a minute is left until the next attempt.
    assert!(!operator.scene.any_source_is_blocked().await, "writers wait for what a person has to mend");
    let metrics = operator.page("/metrics").await;

    assert_eq!(given_up.phase.as_deref(), Some("Synced"));
    let (reconciling, reason, message) = condition(&given_up, "Reconciling");
    assert_eq!((reconciling, reason), ("True", "CutoverRetrying"));
    assert!(message.starts_with("the cutover is tried again: spec.cutover.aliases: "), "{message}");
    for part in [alias.as_str(), "; free the name that the server speaks of"] {
        assert!(message.contains(part), "{part} is not told: {message}");
    }
    assert_eq!(given_up.message.as_deref(), Some(message));
    let told = operator.events("CutoverRetrying").await;
    assert!(told.len() == 1 && told[0]["message"] == message, "{told:#?}");
    assert!(operator.events("DestinationUnavailable").await.is_empty(), "it answers");
    for type_ in ["Ready", "Stalled", "Failing"] {
        assert_eq!(condition(&given_up, type_).0, "False", "{type_}: {given_up:#?}");
    }
    let (cut_over, reason, why) = condition(&given_up, "CutOver");
    assert_eq!((cut_over, reason), ("False", "NotYet"));
    assert_eq!(message.strip_prefix("the cutover is tried again: "), Some(why));
    let series = format!(
        "es_index_merge_waiting{{namespace=\"{}\",name=\"{NAME}\",reason=\"CutoverRetrying\"}} 1\n",
        operator.namespace
    );
    assert!(metrics.contains(&series), "{metrics}");

    // For another cause: that is told too.
    let other = format!("other-{alias}");
    destination.put(&format!("/{other}"), &json!({})).await.unwrap();
    let renamed = json!({ "spec": { "cutover": { "aliases": [other] }, "retryToken": "another name" } });
    operator.patch(NAME, renamed).await;
    let of_the_other = |status: &EsIndexMergeStatus| {
        let (_, reason, message) = condition(status, "Ready");
        reason == "CutoverRetrying" && message.contains(&other)
    };
    operator.until(NAME, SOON, "given up for another cause", of_the_other).await;
    let told = operator.events("CutoverRetrying").await;
    let tells = |event: &Value| event["message"].as_str().is_some_and(|message| message.contains(&other));
    assert!(told.len() == 2 && told.iter().any(tells), "{told:#?}");

    for index in [&alias, &other] {
        assert!(destination.delete_index(index).await.unwrap());
    }
    operator.patch(NAME, json!({ "spec": { "retryToken": "mended" } })).await;
    let completed = operator.until_phase(NAME, "Completed", PATIENCE).await.status.unwrap();
    assert_eq!(condition(&completed, "CutOver").1, "VerdictPositive");
    let index = &operator.scene.index;
    let aliases = destination.get(&format!("/{index}/_alias")).await.unwrap();
    assert_eq!(aliases[index]["aliases"], json!({&other: {}}));
    let verdict = operator.scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
}
