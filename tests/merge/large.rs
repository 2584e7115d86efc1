//! Chunks that are larger than all that is read at once, and take hardly any room on a disk.

use serde_json::json;

use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::shelf::{Chunk, Shelf};

const CHUNKS: i64 = 60;
/// More than the whole of `maxBytesInFlight` below.
const LETTERS: usize = 1_500_000;

#[tokio::test(flavor = "multi_thread")]
async fn chunks_larger_than_all_that_may_be_in_flight_go_over_one_by_one() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    let text = "a".repeat(LETTERS);
    let chunks: Vec<Chunk<'_>> = (0..CHUNKS).map(|number| Chunk(scene.first_id, number, &text)).collect();
    for some in chunks.chunks(10) {
        shelf.put(some).await;
    }
    let neighbour = Shelf::create(&scene, scene.first_id + 1, 1).await;
    neighbour.put_document(scene.first_id + 1, 30, "small").await;

    let little = "  workers: {maxBytesInFlight: 1Mi}\n  contract:";
    let run = scene.run(&scene.manifest(DIMENSIONS).replace("  contract:", little)).await;
    assert!(run.success, "{run:?}");
    assert_eq!(neighbour.in_destination().await.len(), 30);
    // Counted, as nobody wants to read them all at once.
    let query = json!({"query": {"term": {"collection_id": shelf.collection}}});
    let answer = scene.destination().post(&format!("/{}/_count", scene.index), &query).await.unwrap();
    assert_eq!(answer["count"], CHUNKS);
}
