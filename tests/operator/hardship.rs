//! What may go wrong around the operator: it dies at the worst moment, its secrets change, what must be put back cannot
//! be reached.

use std::time::Duration;

use demo::seed::odd;
use es_index_merge::api::EsIndexMergeStatus;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::operator::{NAME, Operator, PATIENCE, SOON};
use crate::scene::Flavor;
use crate::{assert_whole, condition, has_finalizer, in_the_middle, odd_data, write_again};

/// The lease that `deploy/rbac.yaml` allows.
const LEASE: &str = "es-index-merge";

/// So slow that it is met in the middle.
const SLOWLY: &str = "contract: OpenGateLLM\n  workers: {maxDocumentsPerSecond: 60, maxBytesInFlight: 1Mi}";

fn slowly(manifest: &str) -> String {
    manifest.replace("contract: OpenGateLLM", SLOWLY)
}

/// The document of the manifest with that secret.
pub fn secret(manifest: &str, name: &str) -> String {
    let marked = format!("metadata: {{name: {name}}}");
    manifest.split("\n---\n").find(|part| part.contains(&marked)).expect("the secret").to_owned()
}

/// Claims that are held.
async fn claims(operator: &Operator) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM es_index_merge.merge WHERE released_at IS NULL")
        .fetch_one(&mut operator.database().await)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_finalizer_and_the_claim_leaves_nothing_behind() {
    let mut operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    let manifest = operator.scene.manifest(8);
    let source = secret(&manifest, "source");
    // The schema of the state comes with the first attempt, the claim only when every check is passed.
    let wrong = source.replace(&operator.scene.source_password(), "wrong");
    operator.apply(&manifest.replace(&source, &wrong)).await;
    let refused = operator.until_reason(NAME, "ChecksFailed", SOON).await;
    assert!(!has_finalizer(&refused), "nothing is held");

    let mut connection = operator.database().await;
    let mut claiming = connection.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE es_index_merge.merge IN EXCLUSIVE MODE").execute(&mut *claiming).await.unwrap();
    operator.apply(&source).await;
    let waiting = async {
        while !has_finalizer(&operator.get(NAME).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("the finalizer comes before the claim");
    operator.kill_9().await;
    claiming.rollback().await.unwrap();
    assert_eq!(claims(&operator).await, 0);

    operator.delete(NAME).await;
    operator.start();
    operator.until_gone(NAME, SOON).await;
    assert_eq!(claims(&operator).await, 0, "the next merge waits for nobody");
}

/// The API server takes for an address of version 6 whatever looks like one.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_controller_can_refuse_is_a_condition_that_names_the_field() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    let manifest = operator.scene.manifest(8);
    let source = operator.scene.source_url();
    operator
        .apply(&manifest.replacen(&format!("url: \"{source}\""), "url: \"http://[1::2::3]:9200\"", 1))
        .await;
    let refused = operator.until_reason(NAME, "InvalidSpec", SOON).await;
    let status = refused.status.as_ref().expect("a status");
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(condition(status, "Stalled").0, "True");
    let (_, _, message) = condition(status, "Failing");
    assert!(message.contains("spec.source.url: address 1 is not a URL"), "{message}");
    assert!(!message.contains("1::2::3"), "it might hold a password: {message}");
    assert!(!has_finalizer(&refused), "nothing is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_stands_by_goes_on_when_the_leader_is_killed() {
    let operator = Operator::new(Flavor::V8, Flavor::V9).await;
    let options = odd::Options { documents: 20, chunks: 40, ..odd_data(&operator.scene) };
    operator.scene.fill(&options).await;
    let namespace = operator.namespace.clone();
    let start = |name: &str| {
        let lease = ["--leader-election", "true", "--lease-namespace", &namespace, "--lease-name", LEASE];
        operator.spawn("info", &[&lease[..], &["--worker", name]].concat())
    };
    let mut controllers = [("first", start("first")), ("second", start("second"))];
    operator.apply(&slowly(&operator.scene.manifest(8))).await;
    let copying = |status: &EsIndexMergeStatus| status.phase.as_deref() == Some("Copying");
    operator.until(NAME, SOON, "copying", copying).await;
    in_the_middle(&operator).await;

    let leases: Api<Lease> = Api::namespaced(operator.client(), &namespace);
    let holder = async || {
        let lease = leases.get(LEASE).await.unwrap();
        lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()
    };
    let leader = holder().await;
    let (_, process) =
        controllers.iter_mut().find(|(name, _)| *name == leader).expect("one of the two leads");
    process.kill().await.unwrap();
    let faster = json!({ "spec": { "workers": { "maxDocumentsPerSecond": null } } });
    operator.patch(NAME, faster).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    let other = holder().await;
    assert!(other != leader && ["first", "second"].contains(&other.as_str()), "{leader} and then {other}");
    assert_whole(&operator.scene).await;
    for (name, process) in &mut controllers {
        if *name != leader {
            process.kill().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_replaced_is_taken_while_the_merge_runs() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    let options = odd::Options { documents: 20, chunks: 40, ..odd_data(&operator.scene) };
    operator.scene.fill(&options).await;
    let user = format!("operated-{}", operator.scene.first_id);
    let body = json!({"password": "the first password", "roles": ["superuser"]});
    operator.scene.source().put(&format!("/_security/user/{user}"), &body).await.unwrap();
    let manifest = slowly(&operator.scene.manifest(8));
    let source = secret(&manifest, "source");
    let with = |password: &str| {
        let lines = source.lines().map(|line| match line.split_once(':') {
            Some(("  username", _)) => format!("  username: {user}"),
            Some(("  password", _)) => format!("  password: {password}"),
            _ => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    operator.apply(&manifest.replace(&source, &with("the first password"))).await;
    let copying = |status: &EsIndexMergeStatus| status.phase.as_deref() == Some("Copying");
    operator.until(NAME, SOON, "copying", copying).await;
    in_the_middle(&operator).await;

    let new = json!({"password": "the second password"});
    operator.scene.source().post(&format!("/_security/user/{user}/_password"), &new).await.unwrap();
    let refused = |status: &EsIndexMergeStatus| {
        let message = condition(status, "Ready").2;
        message.contains("HTTP 401") && message.contains("check the username and password")
    };
    let seen = operator.until(NAME, PATIENCE, "refused", refused).await.status.unwrap();
    assert!(
        ["UnitsFailing", "ChecksFailed", "SourceUnavailable"].contains(&condition(&seen, "Ready").1),
        "{seen:#?}"
    );
    operator.apply(&with("the second password")).await;
    let faster = json!({ "spec": { "workers": { "maxDocumentsPerSecond": null } } });
    operator.patch(NAME, faster).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    assert_whole(&operator.scene).await;
    let path = format!("/_security/user/{user}");
    operator.scene.source().send("DELETE".parse().unwrap(), &path, "", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_ends_in_time_although_a_secret_is_gone() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    let model = operator.scene.fill(&odd_data(&operator.scene)).await;
    operator.apply(&operator.scene.manifest(8).replace("maxLag: 5s", "maxLag: 90s\n    hold: true")).await;
    operator.until_phase(NAME, "Synced", PATIENCE).await;
    operator.kubectl(&["delete", "secret", "source", "-n", &operator.namespace], "").await;
    let missing = |status: &EsIndexMergeStatus| {
        let (value, reason, message) = condition(status, "Failing");
        (value, reason) == ("True", "SecretInvalid") && message.contains("\"source\"")
    };
    operator.until(NAME, SOON, "told what is missing", missing).await;

    // The last pass has something to copy, and takes minutes.
    operator.after_a_pass().await;
    write_again(Flavor::V8, &model).await;
    let slowly = json!({ "spec": {
        "cutover": { "hold": false, "timeout": "20s" }, "workers": { "maxDocumentsPerSecond": 1 }
    } });
    operator.patch(NAME, slowly).await;
    let status = operator.until_phase(NAME, "CuttingOver", SOON).await.status.unwrap();
    assert!(missing(&status), "{status:#?}");
    let until_blocked = async |wanted: bool| {
        while !operator.scene.writers_are_refused(wanted).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, until_blocked(true)).await.expect("the sources are blocked");
    tokio::time::timeout(SOON, until_blocked(false)).await.expect("writers are served again");
}

/// The old cluster is switched off, and then the resource is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_complete_merge_goes_although_nobody_knows_its_clusters_any_more() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    operator.apply(&operator.scene.manifest(8)).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    operator.kubectl(&["delete", "secret", "source", "destination", "-n", &operator.namespace], "").await;
    operator.delete(NAME).await;
    operator.until_gone(NAME, SOON).await;
    assert_eq!(claims(&operator).await, 0);
    assert!(operator.scene.sources_are_blocked().await, "what was verified stays as it is");
}

/// The controller died before it could take its finalizer off.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_was_released_already_goes_although_nobody_knows_its_clusters_any_more() {
    let mut operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    operator.apply(&operator.scene.manifest(8).replace("maxLag: 5s", "hold: true")).await;
    operator.until_reason(NAME, "CutoverHeld", PATIENCE).await;
    operator.kill_9().await;
    let released = "UPDATE es_index_merge.merge SET released_at = now()";
    sqlx::query(released).execute(&mut operator.database().await).await.unwrap();
    operator.kubectl(&["delete", "secret", "source", "destination", "-n", &operator.namespace], "").await;
    operator.delete(NAME).await;
    assert!(has_finalizer(&operator.get(NAME).await));
    operator.start();
    operator.until_gone(NAME, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_cannot_clean_up_says_why_and_may_be_forced() {
    let mut operator = Operator::running(Flavor::V8, Flavor::V8).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    let manifest = operator.scene.manifest(8).replace("maxLag: 5s", "hold: true");
    operator.apply(&manifest).await;
    operator.until_reason(NAME, "CutoverHeld", PATIENCE).await;
    operator.kill_9().await;
    let source = secret(&manifest, "source");
    operator.apply(&source.replace(&operator.scene.source_password(), "wrong")).await;
    // Nobody is there to clean up: it stays.
    operator.delete(NAME).await;
    assert!(has_finalizer(&operator.get(NAME).await));
    operator.start();
    let why = |status: &EsIndexMergeStatus| {
        let (value, _, message) = condition(status, "Failing");
        value == "True"
            && message.starts_with("cleaning up before the deletion: spec.source")
            && message.contains("indexmerge.dev/force-delete=true")
    };
    operator.until(NAME, SOON, "told why it stays", why).await;
    operator.patch(NAME, json!({"metadata": {"annotations": {"indexmerge.dev/force-delete": "true"}}})).await;
    operator.until_gone(NAME, SOON).await;
    let events = operator.kubectl(&["get", "events", "-n", &operator.namespace, "-o", "json"], "").await;
    assert!(events.contains("CleanupAbandoned"), "{events}");
    assert_eq!(claims(&operator).await, 1, "what was not cleaned up is there, as the event says");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_the_status_or_the_events() {
    let mut operator = Operator::new(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    operator.start_with("trace", &["--leader-election", "false"]);
    let manifest = operator.scene.manifest(8);
    let password = operator.scene.source_password();
    let source = secret(&manifest, "source");
    operator.apply(&manifest.replace(&source, &source.replace(&password, "zQ7-hunter2"))).await;
    operator.until_reason(NAME, "ChecksFailed", SOON).await;
    operator.apply(&source).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;

    let encode = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let user = "elastic";
    let mut needles =
        vec![password.clone(), encode(&password), "zQ7-hunter2".to_owned(), encode("zQ7-hunter2")];
    needles.push(encode(&format!("{user}:{password}")));
    needles.push(encode(&format!("{user}:zQ7-hunter2")));
    let status: Value = serde_json::to_value(operator.status(NAME).await).unwrap();
    let events = operator.kubectl(&["get", "events", "-n", &operator.namespace, "-o", "json"], "").await;
    let arguments = std::fs::read(format!("/proc/{}/cmdline", operator.pid())).unwrap();
    let log = operator.log_text();
    assert!(log.contains("TRACE"), "not every line is logged");
    for (place, text) in [
        ("the log", log.as_str()),
        ("the status", &status.to_string()),
        ("the events", &events),
        ("the arguments", &String::from_utf8_lossy(&arguments)),
    ] {
        for needle in &needles {
            let line = text.lines().find(|line| line.contains(needle.as_str()));
            assert!(line.is_none(), "{needle} is in {place}: {line:?}");
        }
    }
}
