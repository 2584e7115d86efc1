//! The graph comes last, also where a shard is larger than one segment of its merge policy.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::Shelf;

/// Generation and size of the segments that searches see, by shard.
async fn segments(scene: &Scene) -> BTreeMap<String, Vec<(u64, u64)>> {
    scene.destination_cluster.refresh(&scene.index).await.unwrap();
    let answer = scene.destination_cluster.get(&format!("/{}/_segments", scene.index)).await.unwrap();
    let shards = answer["indices"][&scene.index]["shards"].as_object().unwrap();
    let of = |copies: &Value| {
        let segments = copies[0]["segments"].as_object().unwrap().values();
        segments
            .filter(|segment| segment["search"] == true)
            .map(|segment| (&segment["generation"], &segment["size_in_bytes"]))
            .map(|(generation, size)| (generation.as_u64().unwrap(), size.as_u64().unwrap()))
            .collect()
    };
    shards.iter().map(|(shard, copies)| (shard.clone(), of(copies))).collect()
}

/// The newest generation of each shard that may be flat, from the time when the mapping was changed on.
async fn marks(scene: &Scene) -> Option<BTreeMap<String, u64>> {
    let query = "SELECT memo #> '{graph,Switched,marks}' FROM es_index_merge.merge";
    let marks: Option<Value> = sqlx::query_scalar(query).fetch_one(&scene.pool).await.unwrap();
    marks.map(|marks| serde_json::from_value(marks).unwrap())
}

async fn every_segment_gets_its_graph(destination: Flavor) {
    let scene = Scene::new(Flavor::V8, destination).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    for document in 0..8 {
        shelf.put_document(scene.first_id + document, 500, "some words that take their room").await;
    }
    let slow = scene
        .manifest(DIMENSIONS)
        .replace("  cutover:\n", "  workers: {maxDocumentsPerSecond: 1000}\n  cutover:\n");
    let session = Session::start(&slow).await;
    scene.wait_for_phase("Copying").await;
    scene.set("index.merge.policy.max_merged_segment", "100kb").await;
    // Each refresh makes a segment: in life the size of what is loaded does.
    let refreshed = async || {
        scene.destination_cluster.refresh(&scene.index).await.unwrap();
        marks(&scene).await
    };
    let marks = scene.wait_for("the mapping to be changed", refreshed).await;
    let run = session.end().await;
    assert!(run.success, "{run:?}");
    let now = segments(&scene).await;
    assert_eq!(now.len(), 2);
    for (shard, segments) in &now {
        let flat: Vec<_> = segments.iter().filter(|(generation, _)| *generation <= marks[shard]).collect();
        assert!(flat.is_empty(), "shard {shard}: {flat:?} of {segments:?} are flat");
        let (all, largest) = (segments.iter().map(|s| s.1).sum::<u64>(), segments.iter().map(|s| s.1).max());
        assert!(all > 400_000, "a shard that is smaller than it should be: {segments:?}");
        assert!(largest < Some(200_000), "larger than the policy says: {segments:?}");
    }
    assert_eq!(scene.setting("index.merge.policy.expunge_deletes_allowed").await, Value::Null);
    scene.assert_destination_is_in_service().await;
    assert_eq!(shelf.in_destination().await.len(), 4_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_segment_of_a_large_shard_gets_its_graph_within_the_size_of_the_policy() {
    every_segment_gets_its_graph(Flavor::V9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_segment_of_a_large_shard_gets_its_graph_in_the_former_version_too() {
    every_segment_gets_its_graph(Flavor::V8).await;
}
