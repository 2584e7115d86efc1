//! The write blocks of the cutover: set for certain, and only ours are ever lifted.

use serde_json::json;

use crate::late::{crawling, held, is_blocked, wait_for_block, with_late_chunks};
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::Shelf;

/// Intent before effect: what was to be blocked is stored, and then the process was gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_died_before_it_set_the_blocks_leaves_no_source_open_at_the_verdict() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 5, "there").await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    session.stop().await;
    for statement in [
        "UPDATE es_index_merge.merge SET phase = 'CuttingOver', memo = jsonb_set(memo, '{cutover,started_at}', \
         to_jsonb(to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')))",
        "UPDATE es_index_merge.source SET blocked_by_us = true",
    ] {
        assert_eq!(sqlx::query(statement).execute(&scene.pool).await.unwrap().rows_affected(), 1);
    }
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(run.success, "{run:?}");
    assert!(is_blocked(&scene, &shelf.index).await, "writers were never refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_somebody_else_stays_when_ours_are_lifted() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let _tables = Shelf::tables(&scene).await;
    let theirs = Shelf::create(&scene, scene.first_id, 1).await;
    let open = Shelf::create(&scene, scene.first_id + 1, 1).await;
    for shelf in [&theirs, &open] {
        shelf.put_document(shelf.collection, 5, "there").await;
    }
    let path = format!("/{}/_settings", theirs.index);
    scene.source_cluster.put(&path, &json!({"index.blocks.write": true})).await.unwrap();
    let first = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(first.success, "{first:?}");
    assert!(is_blocked(&scene, &theirs.index).await && is_blocked(&scene, &open.index).await);

    let allow = scene.manifest(DIMENSIONS).replace("sourceWrites: Block", "sourceWrites: Allow");
    let rollback = scene.run(&allow).await;
    assert!(rollback.success, "{rollback:?}");
    assert!(is_blocked(&scene, &theirs.index).await, "the operator's own block was lifted");
    assert!(!is_blocked(&scene, &open.index).await, "writers are still refused");
}

/// Whoever made it anew does not want it to be written to, and the cutover is given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_on_an_index_that_was_made_anew_stays_when_ours_are_lifted() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let shelf = with_late_chunks(&scene).await;
    let anew = Shelf::create(&scene, scene.first_id + 1, 1).await;
    anew.put_document(scene.first_id + 2, 3, "goes").await;
    let manifest = crawling(&scene, 1, "5m");
    let session = Session::start(&manifest).await;
    wait_for_block(&scene, &shelf).await;
    wait_for_block(&scene, &anew).await;
    session.kill().await;
    anew.delete_index().await;
    anew.create_index(1).await;
    anew.put_document(scene.first_id + 3, 4, "comes").await;
    let path = format!("/{}/_settings", anew.index);
    scene.source_cluster.put(&path, &json!({"index.blocks.write": true})).await.unwrap();

    let suspended = scene.run(&manifest.replace("spec:\n", "spec:\n  suspend: true\n")).await;
    assert!(suspended.output.contains("Suspended"), "{suspended:?}");
    assert!(!is_blocked(&scene, &shelf.index).await, "writers are refused while nobody works");
    assert!(is_blocked(&scene, &anew.index).await, "its owner's block was lifted");
    let query = "SELECT count(*) FROM es_index_merge.source WHERE blocked_by_us";
    let ours: i64 = sqlx::query_scalar(query).fetch_one(&scene.pool).await.unwrap();
    assert_eq!(ours, 0, "what is gone is taken for blocked");

    scene.completes(&scene.manifest(DIMENSIONS)).await;
    assert_eq!(anew.in_destination().await.len(), 4);
    let allow = scene.manifest(DIMENSIONS).replace("sourceWrites: Block", "sourceWrites: Allow");
    let way_back = scene.run(&allow).await;
    assert!(way_back.success, "{way_back:?}");
    assert!(!is_blocked(&scene, &shelf.index).await, "writers are still refused");
    assert!(is_blocked(&scene, &anew.index).await, "its owner's block was lifted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_block_cannot_be_lifted_holds_up_no_other() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let stuck = Shelf::create(&scene, scene.first_id, 1).await;
    let open = Shelf::create(&scene, scene.first_id + 1, 1).await;
    for shelf in [&stuck, &open] {
        shelf.put_document(shelf.collection, 5, "there").await;
    }
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    let read_only = async |value: serde_json::Value| {
        let path = format!("/{}/_settings", stuck.index);
        scene.source_cluster.put(&path, &json!({"index.blocks.read_only": value})).await.unwrap();
    };
    read_only(json!(true)).await;
    let allow = scene.manifest(DIMENSIONS).replace("sourceWrites: Block", "sourceWrites: Allow");
    let session = Session::start(&allow).await;
    scene
        .wait_for("the other one to be served", async || {
            (!is_blocked(&scene, &open.index).await).then_some(())
        })
        .await;
    read_only(serde_json::Value::Null).await;
    let run = session.end().await;
    assert!(run.success, "{run:?}");
    assert!(!is_blocked(&scene, &stuck.index).await);
}
