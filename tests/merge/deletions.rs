//! Chunks are deleted, and come back, while the merge goes on.

use crate::late::held;
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::{Chunk, Shelf};

/// Nothing lives in most of the log, so that windows get wide, and then everything does.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lives_only_at_its_end_is_read_in_pages_of_the_usual_size() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 2_000, "as it was").await;
    shelf.delete_document(scene.first_id).await;
    shelf.put_document(scene.first_id + 1, 900, "as it is").await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    assert_eq!(shelf.in_destination().await.len(), 900);
}

/// A chunk that comes back gets a new id from the server and with it any of the shards, also one whose log is much
/// shorter than that of the shard where it was.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_come_back_on_other_shards_are_followed_in_every_phase() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 3).await;
    let first = scene.first_id;
    shelf.age_one_shard(first + 99, 2_000).await;
    for document in 0..20 {
        shelf.put_document(first + document, 8, "the first words").await;
    }
    // Slow, so that the deletions fall into the copying.
    let slow = held(&scene.manifest(DIMENSIONS))
        .replace("  cutover:\n", "  workers: {concurrency: 1, maxDocumentsPerSecond: 60}\n  cutover:\n");
    let session = Session::start(&slow).await;
    scene.wait_for_phase("Copying").await;
    let mut round = 0;
    while scene.phase().await.as_deref() != Some("Synced") {
        let document = first + round % 20;
        shelf.delete_document(document).await;
        shelf.put_document(document, 8, &format!("round {round} of")).await;
        round += 1;
        assert!(round < 1_000, "it is never synced");
    }
    assert!(round > 3, "synced before anything could be deleted");
    for synced in 0..3 {
        let document = first + synced;
        shelf.delete_document(document).await;
        scene.wait_for_a_whole_pass().await;
        let there = shelf.in_destination().await;
        assert!(there.keys().all(|(of, _)| *of != document), "deleted chunks are still there");
        // With other words, with the same words, and one chunk less.
        let words = if synced == 1 { "the first words" } else { "it came back" };
        shelf.put_document(document, 7, words).await;
        scene.wait_for_a_whole_pass().await;
        let there = shelf.in_destination().await;
        for number in 0..7 {
            let chunk = &there[&(document, number)]["_source"];
            assert_eq!(chunk["content"], format!("{words} {document} {number}"));
        }
        assert!(!there.contains_key(&(document, 7)));
    }
    assert!(session.stop().await.output.contains("stopped at a checkpoint"));

    let last = Session::start(&scene.manifest(DIMENSIONS)).await;
    // Up to the write block, which refuses it in the end.
    let mut writing = 0;
    while scene.phase().await.as_deref() == Some("Synced") && writing < 200 {
        let document = first + 10 + writing % 5;
        let query = serde_json::json!({"query": {"term": {"metadata.document_id": document}}});
        let path = format!("/{}/_delete_by_query?refresh=true&conflicts=proceed", shelf.index);
        if scene.source_cluster.post(&path, &query).await.is_err() {
            break;
        }
        let mut bulk = demo::seed::bulk::Bulk::default();
        bulk.index(&shelf.index, None, &Chunk(document, 1, "at the last moment").source());
        if bulk.send(&scene.source_cluster).await.is_err() {
            break;
        }
        writing += 1;
    }
    let run = last.end().await;
    assert!(run.success, "{run:?}");
    let verdict = scene.check(DIMENSIONS).await;
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!(scene.quarantined().await, 0, "a chunk that came back is in quarantine");
}

/// Two chunks with the same key on two shards make the source's count too high, a deleted one the destination's.
#[tokio::test(flavor = "multi_thread")]
async fn counts_that_agree_by_accident_hide_no_deletion() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 3).await;
    let document = scene.first_id;
    shelf.put_document(document, 12, "alone").await;
    // Twins at the same place of each shard's log: the first chunk of a new index, six times over.
    for _ in 0..6 {
        shelf.put(&[Chunk(document, 500, "a client that tried again")]).await;
    }
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(shelf.in_destination().await.len(), 13);
    let query = serde_json::json!({"query": {"terms": {"id": [0, 1, 2, 3, 4]}}});
    scene
        .source_cluster
        .post(&format!("/{}/_delete_by_query?refresh=true", shelf.index), &query)
        .await
        .unwrap();
    scene.wait_for_a_whole_pass().await;
    assert_eq!(shelf.in_destination().await.len(), 8, "five chunks were deleted");
    session.stop().await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
}

/// One of twins changes, so that the destination holds its words, and is deleted: the other one's words come back.
#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_a_deleted_twin_give_way_to_those_of_the_one_that_lives() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    let document = scene.first_id;
    shelf.put_document(document, 5, "alone").await;
    let twin = Chunk(document, 77, "said twice").source();
    for id in ["one", "other"] {
        let body = serde_json::from_str(&twin).unwrap();
        scene.source_cluster.put(&format!("/{}/_doc/{id}?refresh=true", shelf.index), &body).await.unwrap();
    }
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    let changed = serde_json::from_str(&Chunk(document, 77, "changed").source()).unwrap();
    scene.source_cluster.put(&format!("/{}/_doc/other?refresh=true", shelf.index), &changed).await.unwrap();
    scene.wait_for_a_whole_pass().await;
    assert_eq!(shelf.in_destination().await[&(document, 77)]["_source"]["content"], "changed");
    let path = format!("/{}/_doc/other?refresh=true", shelf.index);
    scene.source_cluster.require(demo::cluster::Method::DELETE, &path, None).await.unwrap();
    scene.wait_for_a_whole_pass().await;
    scene
        .wait_for("the words of the twin that lives", async || {
            let there = shelf.in_destination().await;
            (there[&(document, 77)]["_source"]["content"] == "said twice").then_some(())
        })
        .await;
    session.stop().await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
}

/// More documents than a page holds, of which some are deleted, some come back with other words, and some have twins.
#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_found_page_by_page_in_a_large_collection() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let small = Shelf::create(&scene, scene.first_id + 1, 1).await;
    let shelf = Shelf::create(&scene, scene.first_id, 2).await;
    let first = scene.first_id;
    for document in 0..13 {
        shelf.put_document(first + document, 2_000, "the first words").await;
        small.put_document(first + 100 + document, 3, "beside it").await;
    }
    shelf.put_document(first, 300, "the first words").await;
    let count = async || {
        scene.destination_cluster.refresh(&scene.index).await.unwrap();
        let query = serde_json::json!({"query": {"term": {"collection_id": shelf.collection}}});
        let path = format!("/{}/_count", scene.index);
        scene.destination_cluster.post(&path, &query).await.unwrap()["count"].as_i64().unwrap()
    };
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(count().await, 26_000);
    for document in [3, 7, 12] {
        shelf.delete_document(first + document).await;
    }
    shelf.put_document(first + 7, 1_500, "it came back").await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(count().await, 21_500);
    let last = serde_json::json!({"query": {"bool": {"filter": [
        {"term": {"metadata.document_id": first + 11}}, {"term": {"id": 1_999}}]}}});
    let path = format!("/{}/_delete_by_query?refresh=true", shelf.index);
    assert_eq!(scene.source_cluster.post(&path, &last).await.unwrap()["deleted"], 1);
    scene.wait_for_a_whole_pass().await;
    assert_eq!(count().await, 21_499);
    session.stop().await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    let collapsed: Vec<i64> =
        sqlx::query_scalar("SELECT collapsed FROM es_index_merge.collection_verdict ORDER BY collection_id")
            .fetch_all(&scene.pool)
            .await
            .unwrap();
    assert_eq!(collapsed, [300, 0]);
}
