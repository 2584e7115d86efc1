//! A chunk changes its `document_id` or `id` in place, which no count of either side shows: its former key stays behind
//! in the destination, and the key that it takes may be that of another chunk.

use demo::cluster::Method;
use demo::seed::bulk::Bulk;
use serde_json::Value;

use crate::late::held;
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::{Chunk, Shelf};

/// Writes a chunk under an id that does not change.
async fn put_as(scene: &Scene, shelf: &Shelf<'_>, id: &str, chunk: Chunk<'_>) {
    let mut bulk = Bulk::default();
    bulk.index(&shelf.index, Some(id), &chunk.source());
    bulk.send(&scene.source_cluster).await.unwrap();
    scene.source_cluster.refresh(&shelf.index).await.unwrap();
}

/// The chunks in quarantine, with their classes.
async fn in_quarantine(scene: &Scene) -> Vec<(String, String)> {
    let query = "SELECT chunk_id, class FROM es_index_merge.quarantine";
    sqlx::query_as(query).fetch_all(&scene.pool).await.unwrap()
}

/// A merge in step with a collection of 8 chunks (number 0 to 7), one (50) whose id is "mover", and one (51) whose
/// id is "settler"; and no process.
async fn in_step(scene: &Scene, shards: u32) -> Shelf<'_> {
    let _tables = Shelf::tables(scene).await;
    let shelf = Shelf::create(scene, scene.first_id, shards).await;
    let document = scene.first_id;
    shelf.put_document(document, 8, "alone").await;
    put_as(scene, &shelf, "mover", Chunk(document, 50, "moves")).await;
    put_as(scene, &shelf, "settler", Chunk(document, 51, "stays")).await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    session.stop().await;
    assert_eq!(shelf.in_destination().await.len(), 10);
    shelf
}

/// A twin of another chunk makes the source's count as much greater as the former key makes the destination's.
#[tokio::test(flavor = "multi_thread")]
async fn a_former_key_goes_although_a_twin_evens_the_counts_out() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = in_step(&scene, 1).await;
    let document = scene.first_id;
    put_as(&scene, &shelf, "mover", Chunk(document, 60, "moved")).await;
    put_as(&scene, &shelf, "twin", Chunk(document, 51, "stays")).await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    let there = shelf.in_destination().await;
    assert_eq!(there[&(document, 60)]["_source"]["content"], "moved");
    assert!(!there.contains_key(&(document, 50)), "its former key is still there");
    assert_eq!(there.len(), 10);
}

/// The destination holds as many documents as the source has chunks, and one of them is of no chunk while a chunk is
/// in none.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_takes_the_key_of_another_is_a_collision() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let shelf = in_step(&scene, 3).await;
    let document = scene.first_id;
    put_as(&scene, &shelf, "mover", Chunk(document, 51, "moved here")).await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(!run.success, "a chunk is lost behind equal counts: {run:?}");
    assert_eq!(in_quarantine(&scene).await, [("settler".to_owned(), "Collision".to_owned())]);
    assert!(!shelf.in_destination().await.contains_key(&(document, 50)), "its former key is still there");
    // Mended by giving the other one a key of its own.
    put_as(&scene, &shelf, "settler", Chunk(document, 52, "stays")).await;
    let again = scene.manifest(DIMENSIONS).replace("  contract:", "  retryToken: again\n  contract:");
    scene.completes(&again).await;
    assert_eq!(shelf.in_destination().await.len(), 10);
}

/// An application that chooses the versions itself may leave an update the one of a chunk that is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_takes_the_key_of_another_under_the_version_of_a_new_one_is_a_collision_too() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = in_step(&scene, 1).await;
    let moved: Value = serde_json::from_str(&Chunk(scene.first_id, 51, "moved here").source()).unwrap();
    let path = format!("/{}/_doc/mover?refresh=true&version=1&version_type=external_gte", shelf.index);
    assert_eq!(scene.source_cluster.put(&path, &moved).await.unwrap()["_version"], 1);
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(!run.success, "a chunk is lost behind equal counts: {run:?}");
    assert_eq!(in_quarantine(&scene).await, [("settler".to_owned(), "Collision".to_owned())]);
    let former = (scene.first_id, 50);
    assert!(!shelf.in_destination().await.contains_key(&former), "its former key is still there");
}

/// Chunks that are only added cost no comparison of all keys.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_new_are_no_reason_to_compare_all_keys() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let shelf = in_step(&scene, 2).await;
    shelf.put_document(scene.first_id + 1, 30, "new").await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(run.success, "{run:?}");
    assert!(!run.output.contains("keys compared"), "{run:?}");
    assert_eq!(shelf.in_destination().await.len(), 40);
}

/// What is updated in place under its key costs no comparison of all keys.
#[tokio::test(flavor = "multi_thread")]
async fn updates_that_keep_their_key_are_no_reason_to_compare_all_keys() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = in_step(&scene, 2).await;
    let document = scene.first_id;
    put_as(&scene, &shelf, "mover", Chunk(document, 50, "has other words now")).await;
    put_as(&scene, &shelf, "settler", Chunk(document, 51, "the same")).await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(run.success, "{run:?}");
    assert!(!run.output.contains("keys compared"), "{run:?}");
    assert_eq!(shelf.in_destination().await[&(document, 50)]["_source"]["content"], "has other words now");
}

/// The document of a key was written last from a chunk that is gone, and holds the words of one that lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_takes_a_key_whose_writer_is_gone_is_a_collision_too() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = in_step(&scene, 1).await;
    let document = scene.first_id;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    put_as(&scene, &shelf, "twin", Chunk(document, 51, "stays")).await;
    scene.wait_for_a_whole_pass().await;
    let twin = format!("/{}/_doc/twin?refresh=true", shelf.index);
    scene.source_cluster.require(Method::DELETE, &twin, None).await.unwrap();
    scene.wait_for_a_whole_pass().await;
    session.stop().await;
    put_as(&scene, &shelf, "mover", Chunk(document, 51, "moved here")).await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(!run.success, "a chunk is lost behind equal counts: {run:?}");
    assert_eq!(in_quarantine(&scene).await, [("settler".to_owned(), "Collision".to_owned())]);
}

/// What the refused chunk was before stays in the destination, in place of a chunk whose words were written over; and no
/// chunk is compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_is_found_although_an_update_that_is_refused_evens_the_counts_out() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = in_step(&scene, 1).await;
    let document = scene.first_id;
    let mut refused: Value = serde_json::from_str(&Chunk(document, 50, "cannot be found").source()).unwrap();
    assert!(refused.as_object_mut().unwrap().remove("embedding").is_some());
    let mover = format!("/{}/_doc/mover?refresh=true", shelf.index);
    scene.source_cluster.put(&mover, &refused).await.unwrap();
    put_as(&scene, &shelf, "taker", Chunk(document, 51, "has the key of another one")).await;
    let manifest = scene.manifest(DIMENSIONS);
    let counted = manifest
        .replace("maxQuarantined: 0", "maxQuarantined: 1")
        .replace("  contract:", "  verification: {mode: Counts}\n  contract:");
    let run = scene.run(&counted).await;
    assert!(!run.success, "a chunk is lost behind equal counts: {run:?}");
    // A verdict, which it came to with that manifest.
    assert_eq!(scene.phase().await.as_deref(), Some("Failed"), "{run:?}");
    assert!(counted.contains("maxQuarantined: 1") && counted.contains("mode: Counts"));
    assert!(!shelf.in_destination().await.contains_key(&(document, 50)), "it is there as it was before");
}

/// Writes "mover" so that the contract refuses it.
async fn break_mover(scene: &Scene, shelf: &Shelf<'_>) {
    let mut refused: Value =
        serde_json::from_str(&Chunk(scene.first_id, 50, "cannot be found").source()).unwrap();
    assert!(refused.as_object_mut().unwrap().remove("embedding").is_some());
    let mover = format!("/{}/_doc/mover?refresh=true", shelf.index);
    scene.source_cluster.put(&mover, &refused).await.unwrap();
}

/// What was in quarantine once is in the destination since it was mended: when it is refused again, its former words are
/// there, and must not even the counts out.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_was_mended_and_is_refused_again_evens_no_counts_out() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = in_step(&scene, 1).await;
    let document = scene.first_id;
    let counted = scene
        .manifest(DIMENSIONS)
        .replace("maxQuarantined: 0", "maxQuarantined: 1")
        .replace("  contract:", "  verification: {mode: Counts}\n  contract:");
    let session = Session::start(&held(&counted)).await;
    let key = (document, 50);
    break_mover(&scene, &shelf).await;
    let is_out = async || (!shelf.in_destination().await.contains_key(&key)).then_some(());
    scene.wait_for("its former words to go", is_out).await;
    assert_eq!(in_quarantine(&scene).await, [("mover".to_owned(), "vector".to_owned())]);
    put_as(&scene, &shelf, "mover", Chunk(document, 50, "mended")).await;
    let is_back =
        async || shelf.in_destination().await.get(&key).map(|hit| hit["_source"]["content"].clone());
    assert_eq!(scene.wait_for("its new words", is_back).await, "mended");
    assert_eq!(in_quarantine(&scene).await, [], "it is written, and still in quarantine");
    session.stop().await;
    break_mover(&scene, &shelf).await;
    put_as(&scene, &shelf, "taker", Chunk(document, 51, "has the key of another one")).await;
    let run = scene.run(&counted).await;
    assert!(!run.success, "a chunk is lost behind equal counts: {run:?}");
    assert_eq!(scene.phase().await.as_deref(), Some("Failed"), "{run:?}");
    assert!(!shelf.in_destination().await.contains_key(&(document, 50)), "it is there as it was before");
}

/// The id of a document in the destination says nothing of its collection.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_two_collections_have_is_a_collision_that_names_the_other() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    for (mode, first) in [("Counts", scene.first_id), ("Full", scene.first_id + 10)] {
        let shelves = [Shelf::create(&scene, first, 2).await, Shelf::create(&scene, first + 1, 1).await];
        for (shelf, document) in shelves.iter().zip(first..) {
            shelf.put_document(document, 6, "alone").await;
            put_as(&scene, shelf, "same", Chunk(first + 5, 1, &format!("in {}", shelf.index))).await;
        }
        let manifest = scene.manifest(DIMENSIONS).replace(
            "  contract:",
            &format!("  verification: {{mode: {mode}}}\n  retryToken: {mode}\n  contract:"),
        );
        let run = scene.run(&manifest).await;
        assert!(!run.success, "{mode}: a chunk is lost: {run:?}");
        let query = "SELECT collection_id, class, reason FROM es_index_merge.quarantine";
        let rows: Vec<(i64, String, String)> = sqlx::query_as(query).fetch_all(&scene.pool).await.unwrap();
        let [(loser, class, reason)] = &rows[..] else { panic!("{mode}: {rows:?}, {run:?}") };
        let winner = if *loser == first { &shelves[1] } else { &shelves[0] };
        assert_eq!(class, "Collision");
        assert!(reason.contains(&format!("collection {}", winner.collection)), "{reason}");
        // Mended by deleting the other one: then it is this one's key.
        let same = format!("/{}/_doc/same?refresh=true", winner.index);
        scene.source_cluster.require(Method::DELETE, &same, None).await.unwrap();
        scene.completes(&manifest.replace("retryToken: ", "retryToken: again-")).await;
        for shelf in &shelves {
            let expected = if shelf.collection == *loser { 7 } else { 6 };
            assert_eq!(shelf.in_destination().await.len(), expected, "{mode}, {}", shelf.collection);
        }
        scene.forget_the_merge().await;
        for shelf in shelves {
            shelf.delete_index().await;
            shelf.delete_row().await;
        }
        scene.delete(&scene.index).await;
    }
}

/// Nothing but the counts shows it, as every chunk was compared before; and asking for another comparison must help.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_deletes_after_the_comparison_is_written_again() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let shelf = in_step(&scene, 2).await;
    let there = shelf.in_destination().await;
    for number in [3, 50] {
        let id = there[&(scene.first_id, number)]["_id"].as_str().unwrap();
        let path = format!("/{}/_doc/{id}", scene.index);
        scene.destination_cluster.require(Method::DELETE, &path, None).await.unwrap();
    }
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    assert_eq!(shelf.in_destination().await.len(), 10);
}
