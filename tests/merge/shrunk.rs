//! A source whose shards were put together: its log cannot be walked. It is named, and holds up nobody.

use serde_json::json;

use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::shelf::Shelf;

const CHUNKS: i64 = 40;

/// The name of the index that a collection's own is made of.
fn model_of(shelf: &Shelf<'_>) -> String {
    format!("model-of-{}", shelf.collection)
}

/// A collection with five chunks, and one whose only shard was made of two.
async fn side_by_side(scene: &Scene) -> (Shelf<'_>, Shelf<'_>) {
    let _tables = Shelf::tables(scene).await;
    let healthy = Shelf::create(scene, scene.first_id, 1).await;
    healthy.put_document(scene.first_id, 5, "whole").await;
    let shrunk = Shelf::row(scene, scene.first_id + 1).await;
    let model = shrunk.under(&model_of(&shrunk));
    model.create_index(2).await;
    model.put_document(scene.first_id + 1, CHUNKS, "shrunk").await;
    let cluster = scene.source();
    let blocked = json!({"index.blocks.write": true});
    cluster.put(&format!("/{}/_settings", model.index), &blocked).await.unwrap();
    let one = json!({"settings": {"index.number_of_shards": 1, "index.blocks.write": false}});
    cluster.post(&format!("/{}/_shrink/{}", model.index, shrunk.index), &one).await.unwrap();
    let stats = cluster.get(&format!("/{}/_stats/docs?level=shards", shrunk.index)).await.unwrap();
    let shard = &stats["indices"][&shrunk.index]["shards"]["0"][0];
    assert_eq!(shard["docs"]["count"], CHUNKS);
    assert!(shard["seq_no"]["max_seq_no"].as_i64().unwrap() + 1 < CHUNKS, "none is shared: {shard}");
    (healthy, shrunk)
}

/// Runs to a verdict that is negative for the sake of that collection alone.
async fn is_refused(scene: &Scene, shrunk: &Shelf<'_>) {
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(!run.success, "{run:?}");
    let line = format!("collection {}: SequenceNumbersShared: several of its chunks", shrunk.collection);
    assert!(run.output.contains(&line), "{run:?}");
    assert!(run.output.contains("1 collections are not equal"), "{run:?}");
}

fn again(scene: &Scene) -> String {
    scene.manifest(DIMENSIONS).replace("  contract:", "  retryToken: again\n  contract:")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shrunk_index_is_set_aside_with_its_reason_and_goes_over_when_it_is_reindexed() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let (healthy, shrunk) = side_by_side(&scene).await;
    is_refused(&scene, &shrunk).await;
    assert_eq!(healthy.in_destination().await.len(), 5);
    assert!(shrunk.in_destination().await.is_empty());

    shrunk.delete_index().await;
    shrunk.create_index(1).await;
    let reindex = json!({"source": {"index": model_of(&shrunk)}, "dest": {"index": shrunk.index}});
    let answer = scene.source().post("/_reindex?refresh=true", &reindex).await.unwrap();
    assert_eq!(answer["created"], CHUNKS, "{answer}");
    scene.completes(&again(&scene)).await;
    assert_eq!(shrunk.in_destination().await.len(), 40);
}

/// Each has a number of its own then.
#[tokio::test(flavor = "multi_thread")]
async fn a_shrunk_index_whose_chunks_were_written_again_in_place_is_looked_at_again() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let (_, shrunk) = side_by_side(&scene).await;
    is_refused(&scene, &shrunk).await;

    let path = format!("/{}/_update_by_query?refresh=true", shrunk.index);
    let answer = scene.source().post(&path, &json!({"query": {"match_all": {}}})).await.unwrap();
    assert_eq!(answer["updated"], CHUNKS, "{answer}");
    scene.completes(&again(&scene)).await;
    assert_eq!(shrunk.in_destination().await.len(), 40);
}
