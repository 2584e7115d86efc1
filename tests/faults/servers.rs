//! States of a cluster: blocked, gone, without room.

use std::time::Duration;

use chaos::merge::{Merge, Tuning};
use chaos::parts;
use demo::seed::{odd, writer};
use serde_json::{Value, json};
use testenv::elasticsearch::Flavor;

use crate::stage::{PATIENCE, SOON, Stage, slow};

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_flood_block_is_waited_out_and_named() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let program = scene.run(&slow());
    scene.reaches(&["Copying"]).await;
    let path = format!("/{}/_settings", scene.merge.index);
    let destination = &scene.merge.destination_client;
    destination.put(&path, &json!({"index.blocks.read_only_allow_delete": true})).await.expect("blocked");
    let said = tokio::task::block_in_place(|| program.said("read-only-allow-delete", SOON));
    destination.put(&path, &json!({"index.blocks.read_only_allow_delete": null})).await.expect("unblocked");
    said.expect("it says what it waits for");
    scene.ends_well(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_was_deleted_ends_the_merge_and_is_not_made_again() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let program = scene.run(&slow());
    scene.reaches(&["Copying"]).await;
    let destination = &scene.merge.destination_client;
    assert!(destination.delete_index(&scene.merge.index).await.expect("deleted"));
    let status = tokio::task::block_in_place(|| program.wait(PATIENCE)).expect("it ends");
    let output = program.output();
    assert!(!status.success() && output.contains("is gone"), "{output}");
    assert!(!destination.delete_index(&scene.merge.index).await.expect("an answer"), "it was created again");
    scene.merge.clean().await.expect("the servers answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_for_bulks_is_overloaded_and_survived() {
    let stage = Stage::take().await;
    let tiny = tokio::task::block_in_place(|| {
        parts::elasticsearch(Flavor::V9, &[("indexing_pressure.memory.limit", "60kb")])
    })
    .expect("a server");
    let merge = Merge::new(&stage.parts.eight, &tiny, &stage.parts.postgres, 900).await.expect("servers");
    let options = odd::Options { documents: 4, chunks: 16, ..odd::Options::default() };
    let filled = merge.fill(&options).await.expect("data");
    let ways = merge.ways(3).expect("proxies");
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_es-index-merge"));
    let tuning = Tuning { concurrency: 8, ..Tuning::default() };
    let program = chaos::program::Program::start(binary, "es-index-merge", &merge.manifest(&ways, &tuning))
        .expect("the program starts");
    let status = tokio::task::block_in_place(|| program.wait(Duration::from_mins(10))).expect("it ends");
    assert!(status.success(), "{}", program.output());
    let pressure = merge.destination_client.get("/_nodes/stats/indexing_pressure").await.expect("stats");
    let rejections: u64 = pressure["nodes"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(|node| node["indexing_pressure"]["memory"]["total"]["coordinating_rejections"].as_u64())
        .sum();
    assert!(rejections > 0, "nothing was rejected: {pressure}");
    // Nobody writes: such a server hardly takes what is there.
    let checked = merge.check(&filled, &writer::Counts::default()).await;
    let verdict = checked.expect("no collection is forgotten, and both sides can be read");
    assert!(verdict.is_good(), "{verdict}");
    merge.clean().await.expect("the servers answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_lost_and_a_replica_without_a_place_are_waited_for() {
    let stage = Stage::take().await;
    let [first, second] =
        tokio::task::block_in_place(|| parts::two_nodes(Flavor::V9)).expect("a cluster of two nodes");
    let scene = stage.scene_to(&first).await;
    let destination = &scene.merge.destination_client;
    let place = async |allowed: Value| {
        let allowed = json!({"persistent": {"cluster.routing.allocation.enable": allowed}});
        destination.put("/_cluster/settings", &allowed).await.expect("it is set");
    };
    let health = format!("/_cluster/health/{}", scene.merge.index);

    // A primary of the destination is on each node.
    let program = scene.run(&Tuning { replicas: 1, ..slow() });
    scene.reaches(&["Copying"]).await;
    tokio::task::block_in_place(|| second.kill_9()).expect("it is killed");
    let red = destination.get(&format!("{health}?wait_for_nodes=1&timeout=60s")).await.expect("its health");
    assert_eq!((&red["status"], &red["timed_out"]), (&json!("red"), &json!(false)));
    tokio::task::block_in_place(|| second.restart()).expect("it comes back");

    place(json!("primaries")).await;
    let waits = "waits until every shard and replica of the destination is assigned";
    tokio::task::block_in_place(|| program.said(waits, PATIENCE)).expect("it says what it waits for");
    assert_eq!(scene.reaches(&["Indexing"]).await, "Indexing");
    place(Value::Null).await;
    scene.reaches(&["Verifying", "Synced", "CuttingOver", "Completed"]).await;
    assert_eq!(destination.get(&health).await.expect("its health")["status"], "green");
    scene.ends_well(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_room_for_the_shards_is_named_before_anything_is_changed() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let destination = &scene.merge.destination_client;
    let at_most = async |shards: Value| {
        let limit = json!({"persistent": {"cluster.max_shards_per_node": shards}});
        destination.put("/_cluster/settings", &limit).await.expect("it is set");
    };
    let other = json!({"settings": {"number_of_shards": 1, "number_of_replicas": 0}});
    destination.put("/another-index", &other).await.expect("it is made");
    at_most(json!(1)).await;
    let program = scene.run(&Tuning::default());
    let status = tokio::task::block_in_place(|| program.wait(PATIENCE));
    at_most(Value::Null).await;
    assert!(destination.delete_index("another-index").await.expect("deleted"));
    let output = program.output();
    assert!(!status.expect("it ends").success(), "{output}");
    assert!(output.contains("spec.destination: the index needs"), "{output}");
    assert!(output.contains("raise cluster.max_shards_per_node"), "{output}");
    assert!(!destination.delete_index(&scene.merge.index).await.expect("an answer"), "it was made");
    scene.start_again(&program, &Tuning::default());
    scene.ends_well(&program).await;
}
