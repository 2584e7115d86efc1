//! The graph comes last, also where a shard is larger than one segment of its merge policy, or holds documents of others.

use std::collections::BTreeMap;

use demo::cluster::Method;
use serde_json::{Value, json};

use crate::foreign::flat_index;
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

/// Puts a document of somebody else into the destination as a person writes it.
async fn put_on_several_lines(scene: &Scene, path: &str) {
    let numbers = ["0.25"; DIMENSIONS].join(",\n    ");
    let text = format!("{{\n  \"content\": \"of\\nothers\",\n  \"embedding\": [\n    {numbers}\n  ]\n}}\n");
    let path = format!("/{}/_doc/{path}", scene.index);
    let answer = scene
        .destination_cluster
        .send(Method::PUT, &path, "application/json", Some(text.into()))
        .await
        .unwrap();
    assert_eq!(answer.status, 201, "{path}");
}

/// Everything about the documents of others, each as often as it is there.
async fn of_others(scene: &Scene) -> Vec<String> {
    let query =
        json!({"size": 1_000, "query": {"bool": {"must_not": [{"exists": {"field": "collection_id"}}]}}});
    let path = format!("/{}/_search?version=true", scene.index);
    scene.destination_cluster.refresh(&scene.index).await.unwrap();
    let answer = scene.destination_cluster.post(&path, &query).await.unwrap();
    let of = |hit: &Value| {
        let [id, routing, version, words] = ["_id", "_routing", "_version", "_source"].map(|key| &hit[key]);
        format!("{id} {routing} {version} {words}")
    };
    let mut found: Vec<String> = answer["hits"]["hits"].as_array().unwrap().iter().map(of).collect();
    found.sort();
    found
}

async fn documents_of_others_stay(destination: Flavor) {
    let scene = Scene::new(Flavor::V8, destination).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    // A single chunk: one of the two shards has nothing but documents of others.
    shelf.put_document(scene.first_id, 1, "ours").await;
    let cluster = &scene.destination_cluster;
    cluster.put(&format!("/{}", scene.index), &flat_index()).await.unwrap();
    for number in 0..20 {
        put_on_several_lines(&scene, &format!("routed-{number}?routing=elsewhere-{number}")).await;
        put_on_several_lines(&scene, &format!("alone-{number}")).await;
    }
    // A shard of a single segment is not written anew unless one of its documents is written again.
    let merge = format!("/{}/_forcemerge?max_num_segments=1", scene.index);
    cluster.refresh(&scene.index).await.unwrap();
    cluster.post_empty(&merge).await.unwrap();
    let before = of_others(&scene).await;
    assert_eq!(before.len(), 40);
    assert!(segments(&scene).await.values().all(|segments| segments.len() == 1));

    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(run.success, "{run:?}");
    assert_eq!(of_others(&scene).await, before);
    let with_vector = json!({"query": {"exists": {"field": "embedding"}}});
    let counted = cluster.post(&format!("/{}/_count", scene.index), &with_vector).await.unwrap();
    assert_eq!(counted["count"], 41);
    assert_eq!(shelf.in_destination().await.len(), 1);
    scene.assert_destination_is_in_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_others_with_a_routing_or_on_several_lines_stay_as_they_are() {
    documents_of_others_stay(Flavor::V9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_others_stay_as_they_are_in_the_former_version_too() {
    documents_of_others_stay(Flavor::V8).await;
}
