//! The operator as users see it: the program runs as a process with the rights that are shipped, against a real API
//! server, real clusters and a real Postgres; what is right is said by the resource, by kubectl and by an
//! independent checker (`demo::checker`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "../support/confided.rs"]
mod confided;
mod cutover;
mod hardship;
#[path = "../support/kubernetes.rs"]
mod kubernetes;
mod operator;
#[path = "../support/probes.rs"]
mod probes;
#[allow(dead_code)] // shared with the tests of the merge itself
#[path = "../merge/scene.rs"]
mod scene;
mod secrecy;
mod source_deletion;
mod story;
mod takeover;
mod templates;
mod verdict;

use std::time::Duration;

use demo::seed::odd;
use es_index_merge::api::{EsIndexMerge, EsIndexMergeStatus, FINALIZER};
use operator::{NAME, Operator, PATIENCE, SOON};
use scene::{Flavor, Scene};
use serde_json::json;
use story::Story;
use testenv::elasticsearch::Elasticsearch;

/// The walk of a merge that nothing disturbs.
const WALK: [&str; 7] =
    ["Preparing", "Copying", "Indexing", "Verifying", "Synced", "CuttingOver", "Completed"];

fn odd_data(scene: &Scene) -> odd::Options {
    odd::Options {
        dimensions: 8,
        collections: 24,
        documents: 10,
        chunks: 20,
        first_collection: scene.first_id,
        first_document: scene.first_id,
        ..odd::Options::default()
    }
}

/// The status of a condition, its reason and its message.
fn condition<'a>(status: &'a EsIndexMergeStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_);
    found.map_or(("", "", ""), |condition| (&condition.status, &condition.reason, &condition.message))
}

/// That phase, or a later one.
fn has_reached(status: &EsIndexMergeStatus, wanted: &str) -> bool {
    let place = |phase: &str| WALK.iter().position(|&known| known == phase);
    status.phase.as_deref().and_then(place) >= place(wanted)
}

fn has_finalizer(merge: &EsIndexMerge) -> bool {
    merge.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// The checker agrees, and nothing of the load is left.
async fn assert_whole(scene: &Scene) {
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
    scene.assert_destination_is_in_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn walks_to_completed_and_tells_it_in_the_status() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    let model = operator.scene.fill(&odd_data(&operator.scene)).await;
    let story = Story::begin(operator.merges(), NAME).await;
    operator.apply(&operator.scene.manifest(8)).await;
    let namespace = operator.namespace.as_str();
    operator
        .kubectl(&["wait", "esim/first", "-n", namespace, "--for=condition=Ready", "--timeout=280s"], "")
        .await;
    let merge = operator.until_phase(NAME, "Completed", SOON).await;

    let status = merge.status.clone().unwrap();
    for (type_, value) in [
        ("Ready", "True"),
        ("Reconciling", "False"),
        ("Stalled", "False"),
        ("Failing", "False"),
        ("SourcesResolved", "True"),
        ("DestinationReady", "True"),
        ("Copied", "True"),
        ("Verified", "True"),
        ("Synced", "True"),
        ("CutOver", "True"),
    ] {
        assert_eq!(condition(&status, type_).0, value, "{type_}: {status:#?}");
    }
    assert_eq!(status.observed_generation, merge.metadata.generation);
    assert!(status.completed_at.clone().unwrap() >= status.started_at.clone().unwrap(), "{status:#?}");
    let progress = status.progress.clone().unwrap();
    assert_eq!(progress.percent, 100);
    assert_eq!(progress.documents_done, progress.documents, "{progress:?}");
    assert_eq!(progress.collections_done, progress.collections, "{progress:?}");
    let indices = model.collections.values().filter(|collection| collection.mapping.is_some()).count();
    assert!(usize::try_from(progress.collections).unwrap() <= indices, "{progress:?}: {indices} indices");
    assert_eq!(status.quarantined, Some(0));
    assert_eq!(status.destination.clone().unwrap().index, operator.scene.index);
    assert!(status.writes_refused.is_some(), "{status:#?}");
    assert!(has_finalizer(&merge), "what a deletion must release is still held");

    assert_eq!(story.phases(), WALK, "each phase once, in order");
    let mut before: Option<EsIndexMergeStatus> = None;
    for status in story.statuses() {
        assert_eq!(status.observed_generation, Some(1));
        if let Some(before) = before.filter(|before| before.phase == status.phase) {
            let percent = |status: &EsIndexMergeStatus| status.progress.as_ref().map(|p| p.percent);
            assert!(percent(&before) <= percent(&status), "{before:#?}\nthen\n{status:#?}");
        }
        before = Some(status);
    }
    eprintln!("{} versions of the resource", story.versions());
    // A write for each phase and its steps, and some for the progress: far from one for each step of the engine.
    assert!(story.versions() <= 60, "{} versions of the resource", story.versions());
    assert_eq!(story.versions_within(Duration::from_secs(7)).await, 0, "a merge that is done is left alone");

    let table = operator.kubectl(&["get", "esim", "-n", namespace], "").await;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let columns =
        ["NAME", "PHASE", "PROGRESS", "COLLECTIONS", "DOCUMENTS", "RATE", "ETA", "READY", "REASON", "AGE"];
    assert_eq!(lines[0], columns, "{table}");
    let summary = status.summary.unwrap();
    let (collections, documents) = (summary.collections.unwrap(), summary.documents.unwrap());
    let row = [NAME, "Completed", "100%", &collections, &documents, "True", "Completed"];
    let shown: Vec<&str> = lines[1][..lines[1].len() - 1].to_vec();
    assert_eq!(shown, row, "{table}");
    let events = operator.kubectl(&["get", "events", "-n", namespace, "-o", "name"], "").await;
    assert!((WALK.len()..=2 * WALK.len()).contains(&events.lines().count()), "{events}");
    let log = operator.log_text();
    assert!(!log.contains("ERROR") && !log.contains("forbidden"), "{log}");

    assert_whole(&operator.scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_kill_9_of_the_controller() {
    let mut operator = Operator::new(Flavor::V8, Flavor::V9).await;
    let options = odd::Options { documents: 40, chunks: 60, ..odd_data(&operator.scene) };
    operator.scene.fill(&options).await;
    operator.apply(&operator.scene.manifest(8)).await;
    let mut hit = Vec::new();
    for wanted in &WALK[..WALK.len() - 1] {
        operator.start();
        operator.until(NAME, PATIENCE, wanted, |status| has_reached(status, wanted)).await;
        if *wanted == "Copying" {
            in_the_middle(&operator).await;
        }
        operator.kill_9().await;
        // What is stored is ahead of what was told.
        hit.push(operator.stored_phase().await);
    }
    eprintln!("killed in {hit:?}");
    // The cutover may be over before the signal comes.
    for phase in ["Copying", "Verifying"] {
        assert!(hit.iter().any(|hit| hit == phase), "not killed in {phase}: {hit:?}");
    }
    operator.start();
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    let status = operator.status(NAME).await;
    assert_eq!(condition(&status, "Ready").0, "True", "{status:#?}");
    assert_whole(&operator.scene).await;
}

/// Waits until something is copied and something is being copied.
async fn in_the_middle(operator: &Operator) {
    let begun = async {
        loop {
            let copied = operator.copied().await;
            if copied.documents > 0 && copied.leased > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, begun).await.expect("nothing is being copied");
}

#[tokio::test(flavor = "multi_thread")]
async fn suspends_at_a_checkpoint_and_goes_on() {
    let operator = Operator::running(Flavor::V9, Flavor::V9).await;
    operator.scene.fill(&odd_data(&operator.scene)).await;
    let slow = "contract: OpenGateLLM\n  workers: {maxDocumentsPerSecond: 20, maxBytesInFlight: 1Mi}";
    operator.apply(&operator.scene.manifest(8).replace("contract: OpenGateLLM", slow)).await;
    let begun = |status: &EsIndexMergeStatus| {
        status.phase.as_deref() == Some("Copying")
            && status.progress.as_ref().is_some_and(|progress| progress.documents_done > 0)
    };
    operator.until(NAME, SOON, "copying", begun).await;

    operator.patch(NAME, json!({ "spec": { "suspend": true } })).await;
    let merge = operator.until_phase(NAME, "Suspended", Duration::from_secs(15)).await;
    let status = merge.status.clone().unwrap();
    assert_eq!(status.observed_generation, merge.metadata.generation);
    assert_eq!(condition(&status, "Ready").1, "Suspended");
    for type_ in ["Ready", "Reconciling", "Stalled", "Failing"] {
        assert_eq!(condition(&status, type_).0, "False", "{type_}: {status:#?}");
    }
    assert!(has_finalizer(&merge));
    let suspended_at = operator.copied().await;
    assert!(suspended_at.documents > 0, "nothing was copied before");
    assert_eq!(suspended_at.leased, 0, "a unit is still held");
    let story = Story::begin(operator.merges(), NAME).await;
    assert_eq!(story.versions_within(Duration::from_secs(6)).await, 0, "a suspended merge is left alone");
    assert_eq!(operator.copied().await, suspended_at, "something was copied while suspended");

    let go_on = json!({ "spec": { "suspend": false, "workers": { "maxDocumentsPerSecond": null } } });
    operator.patch(NAME, go_on).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    assert_whole(&operator.scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_or_a_wrong_password_is_a_condition_with_the_remedy_and_heals() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    let manifest = operator.scene.manifest(8);
    // With the line break before: a certificate ends with dashes too.
    let documents: Vec<&str> = manifest.split("\n---\n").collect();
    let (secrets, merge) = documents.split_at(documents.len() - 1);
    let source = secrets.iter().find(|secret| secret.contains("{name: source}")).unwrap();
    let others: Vec<&str> = secrets.iter().filter(|secret| *secret != source).copied().collect();

    operator.apply(&[others.join("\n---\n").as_str(), merge[0]].join("\n---\n")).await;
    let seen = operator.until_reason(NAME, "SecretInvalid", SOON).await;
    let status = seen.status.clone().unwrap();
    let message = condition(&status, "Ready").2;
    for part in ["spec.source.credentialsSecretRef", "\"source\"", &operator.namespace] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert_eq!(condition(&status, "Failing").0, "True");
    assert_eq!(condition(&status, "Reconciling").0, "True", "it is tried again");
    assert!(!has_finalizer(&seen), "nothing is to be put back yet");
    let story = Story::begin(operator.merges(), NAME).await;
    assert_eq!(story.versions_within(Duration::from_secs(4)).await, 0, "a hot loop");

    let password = operator.scene.source_password();
    operator.apply(&source.replace(&password, "wrong")).await;
    let wrong = |status: &EsIndexMergeStatus| {
        let (_, reason, message) = condition(status, "Ready");
        !["SecretInvalid", ""].contains(&reason) && message.contains("spec.source")
    };
    let seen = operator.until(NAME, SOON, "refused by the source", wrong).await;
    story.until_seen(&seen).await;
    let status = seen.status.unwrap();
    let message = condition(&status, "Ready").2;
    assert!(message.contains("check the username and password"), "no remedy: {message}");
    assert_eq!(status.message.as_deref(), Some(message));
    assert_eq!(story.versions_within(Duration::from_secs(4)).await, 0, "a hot loop");

    operator.apply(source).await;
    let merge = operator.until_phase(NAME, "Completed", PATIENCE).await;
    assert_eq!(condition(&merge.status.unwrap(), "Failing").0, "False");
    assert_whole(&operator.scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_resource_with_the_same_destination_waits_and_says_for_whom() {
    let operator = Operator::running(Flavor::V8, Flavor::V8).await;
    operator.scene.fill(&odd_data(&operator.scene)).await;
    let manifest = operator.scene.manifest(8);
    operator.apply(&manifest.replace("maxLag: 5s", "hold: true")).await;
    operator.until_phase(NAME, "Synced", PATIENCE).await;

    operator.apply(&manifest.replace("{name: first}", "{name: second}")).await;
    let second = operator.until_reason("second", "DestinationClaimed", SOON).await;
    let status = second.status.clone().unwrap();
    let owner = format!("{}/{NAME}", operator.namespace);
    assert!(condition(&status, "Ready").2.contains(&owner), "{owner} is not named: {status:#?}");
    assert_eq!(condition(&status, "Reconciling").0, "True", "it waits: {status:#?}");
    assert!(!has_finalizer(&second), "it holds nothing");
    let first = operator.status(NAME).await;
    assert_eq!(condition(&first, "Failing").0, "False", "the first is not disturbed: {first:#?}");

    operator.delete(NAME).await;
    operator.until_gone(NAME, Duration::from_secs(30)).await;
    operator.until_phase("second", "Completed", PATIENCE).await;
    assert_whole(&operator.scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_resource_puts_everything_back() {
    let operator = cutover::cutting_over(1).await;
    operator.delete(NAME).await;
    operator.until_gone(NAME, Duration::from_secs(30)).await;
    assert!(!operator.scene.any_source_is_blocked().await, "writers are still refused");
    assert!(operator.scene.exists(&operator.scene.index).await, "the destination is retained");
    operator.scene.assert_destination_is_in_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_merge_is_left_alone_by_a_new_controller_and_still_obeys_its_owner() {
    let mut operator = Operator::running(Flavor::V9, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    operator.apply(&operator.scene.manifest(8)).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;

    operator.kill_9().await;
    let story = Story::begin(operator.merges(), NAME).await;
    operator.start();
    operator.until_logged("watching scope", 2).await;
    assert_eq!(story.versions_within(Duration::from_secs(4)).await, 0, "it is done");

    // The way back: the application writes to the sources again.
    assert!(operator.scene.sources_are_blocked().await);
    operator.patch(NAME, json!({ "spec": { "cutover": { "sourceWrites": "Allow" } } })).await;
    let obeyed = |status: &EsIndexMergeStatus| status.observed_generation == Some(2);
    let merge = operator.until(NAME, SOON, "obeyed", obeyed).await;
    assert_eq!(condition(&merge.status.unwrap(), "Ready").0, "True");
    assert!(!operator.scene.any_source_is_blocked().await, "writers are still refused");

    operator.patch(NAME, json!({ "spec": { "deletionPolicy": "DeleteDestination" } })).await;
    operator.delete(NAME).await;
    operator.until_gone(NAME, Duration::from_secs(30)).await;
    assert!(!operator.scene.exists(&operator.scene.index).await, "the destination is still there");
}

/// Every chunk of the sources is written once more, as it is: new entries in the shard logs.
async fn write_again(flavor: Flavor, model: &odd::Model) {
    let filled = model.collections.iter().filter(|(_, collection)| !collection.live.is_empty());
    let names: Vec<String> = filled.map(|(id, _)| id.to_string()).collect();
    let path = format!("/{}/_update_by_query?refresh=true&conflicts=proceed", names.join(","));
    let asked =
        tokio::task::spawn_blocking(move || Elasticsearch::shared(flavor).unwrap().ask("POST", &path, None));
    let answer = asked.await.unwrap().expect("an answer");
    assert!(answer["updated"].as_u64().is_some_and(|updated| updated > 100), "{answer}");
}
