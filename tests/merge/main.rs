//! The whole merge, from manifest to verdict, on real servers: each test fills a source with hostile data, runs the
//! program as a user does, and asks an independent checker (`demo::checker`) what it thinks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod blocks;
mod comings;
mod cutover;
mod deletions;
mod every_phase;
mod foreign;
mod gates;
mod graph;
mod keys;
mod lag;
mod large;
mod late;
mod newcomers;
mod obstacles;
#[allow(dead_code)] // shared with other tests
mod scene;
mod session;
mod set_back;
mod shelf;
mod shrunk;
mod source_deletion;
mod unseen;

use std::time::Duration;

use demo::seed::odd;
use scene::{Flavor, Scene};
use serde_json::json;

fn odd_data(scene: &Scene) -> odd::Options {
    odd::Options {
        dimensions: 8,
        collections: 24,
        documents: 5,
        chunks: 16,
        first_collection: scene.first_id,
        first_document: scene.first_id,
        ..odd::Options::default()
    }
}

async fn arrives_whole(source: Flavor, destination: Flavor) {
    let scene = Scene::new(source, destination).await;
    let model = scene.fill(&odd_data(&scene)).await;
    let verdict = scene.completes(&scene.manifest(8)).await;
    assert_eq!(verdict.destination_documents, model.good_chunks(), "{verdict}");
    scene.assert_destination_is_in_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_data_arrives_whole_from_8_to_8() {
    arrives_whole(Flavor::V8, Flavor::V8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_data_arrives_whole_from_8_to_9() {
    arrives_whole(Flavor::V8, Flavor::V9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_data_arrives_whole_from_9_to_9() {
    arrives_whole(Flavor::V9, Flavor::V9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resumes_after_kill_9_at_any_moment() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let options = odd::Options { documents: 40, chunks: 60, ..odd_data(&scene) };
    scene.fill(&options).await;
    let manifest = scene.manifest(8);
    // Growing times, so that every phase is hit on machines of any speed.
    let mut lifetime = Duration::from_millis(150);
    let mut kills = 0;
    while scene.run_and_kill(&manifest, lifetime).await {
        kills += 1;
        lifetime = lifetime * 5 / 4;
        assert!(kills < 60, "it never ends");
    }
    assert!(kills >= 3, "it ended before it could be killed: {kills}");
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "after {kills} kills: {verdict}");
    scene.assert_destination_is_in_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_destination_takes_makes_the_verdict_negative_unless_tolerated() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let model = scene.fill(&odd::Options { bad: true, ..odd_data(&scene) }).await;
    let bad = model.bad_chunks();
    assert!(bad > 0, "the data holds nothing bad");

    let strict = scene.run(&scene.manifest(8)).await;
    assert!(!strict.success, "{strict:?}");
    assert!(strict.output.contains("in quarantine"), "{strict:?}");
    assert!(!scene.any_source_is_blocked().await, "a negative verdict must lift the blocks");

    let tolerant = scene.manifest(8).replace("maxQuarantined: 0", &format!("maxQuarantined: {bad}"));
    let verdict = scene.completes(&tolerant).await;
    assert_eq!(verdict.quarantined_total(), bad as u64, "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_destination_equals_the_sources_though_they_change_during_the_merge() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    scene.fill(&odd_data(&scene)).await;
    let writer = scene.write_meanwhile(8);
    let run = scene.run(&scene.manifest(8)).await;
    let counts = writer.stop().await.expect("the writer did its work");
    assert!(run.success, "{run:?}");
    assert!(counts.updated + counts.inserted + counts.documents_deleted > 0, "nothing changed meanwhile");
    assert!(scene.any_source_is_blocked().await);
    // The writer went on after the verdict, and nobody stops it from creating new collections then.
    let verdict = scene.check_judged(8).await;
    assert!(verdict.is_good(), "{counts:?}\n{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_give_byte_equal_documents() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    scene.fill(&odd_data(&scene)).await;
    let manifest = scene.manifest(8).replace("sourceWrites: Block", "sourceWrites: Allow");
    let first = scene.run(&manifest).await;
    assert!(first.success, "{first:?}");
    let other = format!("{}-again", scene.index);
    let second =
        scene.run(&manifest.replace(&format!("name: {}", scene.index), &format!("name: {other}"))).await;
    assert!(second.success, "{second:?}");
    assert_eq!(scene.sources_of(&scene.index).await, scene.sources_of(&other).await);
    scene.delete(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_merge_with_the_same_destination_is_refused_and_told_by_whom() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    scene.fill(&odd_data(&scene)).await;
    let manifest = scene.manifest(8);
    scene.run_until(&late::held(&manifest), "Synced").await;
    let second = scene.run(&manifest.replace("{name: first}", "{name: second}")).await;
    assert!(!second.success && second.output.contains("destination of the merge cli/first"), "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_is_named_at_once_before_anything_is_changed() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let manifest = scene
        .manifest(8)
        .replace(&scene.source_password(), "wrong")
        .replace(&scene.database_name(), "nosuchdatabase");
    let run = scene.run(&manifest).await;
    assert!(!run.success);
    for part in ["spec.source", "spec.collections.postgres"] {
        assert!(run.output.contains(part), "{part} is not named: {run:?}");
    }
    assert!(!scene.exists(&scene.index).await, "the destination was created all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_the_script_is_enough() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    scene.fill(&odd_data(&scene)).await;
    let run = scene.run_from_env(8).await;
    assert!(run.success, "{run:?}");
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_may_be_files_as_pods_mount_them() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    scene.fill(&odd_data(&scene)).await;
    let run = scene.run_with_secret_files(8).await;
    assert!(run.success, "{run:?}");
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_destination_is_durable_while_it_is_written_and_gets_its_own_settings_back() {
    const DURABILITY: &str = "index.translog.durability";
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    scene.fill(&odd_data(&scene)).await;
    let manifest = scene.manifest(8);
    // The merge creates an index that fits; then it is somebody else's, who chose speed over safety.
    scene.run_until_setting(&manifest, "index.refresh_interval", "-1").await;
    scene.set(DURABILITY, "async").await;
    let other = manifest.replace("{name: first}", "{name: second}");
    scene.forget_the_merge().await;
    // The alias of its workers says that a merge may write there of which this state knows nothing.
    let writer = format!("{}-merge-writer", scene.index);
    let alias = |what: &str| json!({"actions": [{what: {"index": scene.index, "alias": writer}}]});
    scene.destination().post("/_aliases", &alias("add")).await.unwrap();
    let run = scene.run(&other).await;
    assert!(!run.success && run.output.contains(&writer), "{run:?}");
    scene.destination().post("/_aliases", &alias("remove")).await.unwrap();
    scene.run_until_setting(&other, DURABILITY, "request").await;
    let run = scene.run(&other).await;
    assert!(run.success, "{run:?}");
    assert_eq!(scene.setting(DURABILITY).await, "async");
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_says_what_would_be_done_and_changes_nothing() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let model = scene.fill(&odd_data(&scene)).await;
    let plan = scene.command("plan", &scene.manifest(8)).await;
    assert!(plan.success, "{plan:?}");
    let chunks = format!("{} chunks", model.good_chunks());
    assert!(plan.output.contains(&chunks), "expected {chunks}: {plan:?}");
    assert!(plan.output.contains("indices named by a number without collection"), "{plan:?}");
    assert!(!model.strangers.is_empty());
    assert!(!scene.exists(&scene.index).await);
    assert!(!scene.state_exists().await, "plan created the state schema");
}
