//! `es-index-merge run` where it does not come to its end: it is told to stop, something cannot be mended by waiting, its
//! secrets are gone. No writer stays refused for that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "../security/folder.rs"]
mod folder;
#[allow(dead_code)] // shared with the tests of the merge itself
#[path = "../merge/late.rs"]
mod late;
#[allow(dead_code)] // the same
#[path = "../merge/scene.rs"]
mod scene;
#[allow(dead_code)] // the same
#[path = "../merge/session.rs"]
mod session;
#[allow(dead_code)] // the same
#[path = "../merge/shelf.rs"]
mod shelf;

use std::process::Stdio;

use folder::Folder;
use late::{crawling, is_blocked, wait_for_block, with_late_chunks};
use scene::program::ended;
use scene::{DIMENSIONS, Flavor, Scene};
use serde_json::json;
use session::Session;
use shelf::Shelf;
use tokio::process::{Child, Command};

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_told_to_end_in_the_cutover_serves_writers_again_and_goes_on_later() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let session = Session::start(&crawling(&scene, 1, "5m")).await;
    wait_for_block(&scene, &shelf).await;
    let run = session.stop().await;
    assert!(run.output.contains("no writer of the sources is refused"), "{run:?}");
    assert!(run.output.contains("stopped at a checkpoint"), "{run:?}");
    assert!(!is_blocked(&scene, &shelf.index).await, "nobody is left to end it in time");
    assert_eq!(scene.phase().await.as_deref(), Some("Synced"));
    shelf.put_document(scene.first_id + 2, 3, "writers are served again").await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    assert_eq!(shelf.in_destination().await.len(), 68);
    assert!(is_blocked(&scene, &shelf.index).await, "writers were never refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_that_is_told_to_end_leaves_the_cutover_to_the_other() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let manifest = crawling(&scene, 2, "5m");
    let sessions = [Session::start(&manifest).await, Session::start(&manifest).await];
    wait_for_block(&scene, &shelf).await;
    let [told, other] = sessions;
    let run = told.stop().await;
    assert!(run.output.contains("stopped at a checkpoint"), "{run:?}");
    assert!(!run.output.contains("given up for now"), "the other one goes on: {run:?}");
    let run = other.end().await;
    assert!(run.success && !run.output.contains("given up for now"), "{run:?}");
    assert_eq!(shelf.in_destination().await.len(), 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_destination_is_lost_in_the_cutover_ends_and_serves_writers_again() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let session = Session::start(&crawling(&scene, 10, "5m")).await;
    wait_for_block(&scene, &shelf).await;
    assert!(scene.destination_cluster.delete_index(&scene.index).await.unwrap());
    let run = session.end().await;
    assert!(!run.success && run.output.contains("is gone"), "{run:?}");
    assert!(!is_blocked(&scene, &shelf.index).await, "no verdict can come any more");
    assert_eq!(scene.phase().await.as_deref(), Some("Synced"));
    shelf.put_document(scene.first_id + 2, 3, "writers are served again").await;
}

/// A run with secrets as files, which does not outlive the test.
fn start(folder: &Folder) -> Child {
    Command::new(env!("CARGO_BIN_EXE_es-index-merge"))
        .args(folder.arguments())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts")
}

/// They are looked at after 30 s, and the attempt has 45.
#[tokio::test(flavor = "multi_thread")]
async fn one_whose_secrets_are_gone_ends_its_cutover_in_time_and_says_what_is_missing() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let folder = Folder::of(&crawling(&scene, 1, "45s"));
    let child = start(&folder);
    wait_for_block(&scene, &shelf).await;
    folder.remove("destination", "password");
    scene
        .wait_for("writers to be served", async || (!is_blocked(&scene, &shelf.index).await).then_some(()))
        .await;
    let pid = child.id().expect("it goes on").to_string();
    Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    let run = ended(child).await;
    assert!(run.output.contains("spec.destination.credentialsSecretRef: "), "{run:?}");
    assert!(run.output.contains("the merge goes on with the secrets it has"), "{run:?}");
    shelf.put_document(scene.first_id + 2, 3, "writers are served again").await;
}

/// The aliases were set, but the answer was lost; since then one of the names has become that of an index. What
/// applications write to the destination would be deleted by another cutover.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_may_be_in_use_is_not_taken_back_when_an_alias_is_refused() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 5, "there").await;
    let (alias, taken) = (format!("chunks-{}", scene.first_id), format!("taken-{}", scene.first_id));
    let aliases = format!("  cutover:\n    aliases: [{alias}, {taken}]\n");
    let manifest = scene.manifest(DIMENSIONS).replace("  cutover:\n", &aliases);
    scene.completes(&manifest).await;
    let destination = &scene.destination_cluster;
    let leave = async |name: &str| {
        let remove = json!({"actions": [{"remove": {"index": scene.index, "alias": name}}]});
        destination.post("/_aliases", &remove).await.unwrap();
    };
    leave(&taken).await;
    destination.put(&format!("/{taken}"), &json!({})).await.unwrap();
    let not_yet = "UPDATE es_index_merge.merge SET phase = 'CuttingOver', completed_at = NULL";
    assert_eq!(sqlx::query(not_yet).execute(&scene.pool).await.unwrap().rows_affected(), 1);

    let mut session = Session::start(&manifest).await;
    // Twice, so that the second attempt is one that knows of the first.
    session.says("change aliases: ").await;
    session.says("tried again in 4 s").await;
    assert_eq!(scene.phase().await.as_deref(), Some("CuttingOver"), "applications may write there");
    assert!(is_blocked(&scene, &shelf.index).await);

    // Nothing leads there any more.
    leave(&alias).await;
    scene.wait_for_phase("Synced").await;
    assert!(!is_blocked(&scene, &shelf.index).await, "writers wait for what a person has to mend");
    assert!(destination.delete_index(&taken).await.unwrap());
    let run = session.end().await;
    assert!(run.success, "{run:?}");
    let found = destination.get(&format!("/{}/_alias", scene.index)).await.unwrap();
    assert_eq!(found[&scene.index]["aliases"], json!({&alias: {}, &taken: {}}));
}
