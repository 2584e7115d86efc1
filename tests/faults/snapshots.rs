//! Indices that are set back to an older state, by a snapshot that was taken while they were used.

use std::time::{Duration, Instant};

use chaos::merge::Tuning;
use demo::cluster::Cluster;
use serde_json::{Value, json};

use crate::stage::{PATIENCE, Stage, slow};

const REPOSITORY: &str = "/_snapshot/shelf";

/// Takes a snapshot of one index.
async fn keep(server: &Cluster, index: &str) {
    let repository = json!({"type": "fs", "settings": {"location": "shelf"}});
    server.put(REPOSITORY, &repository).await.expect("a repository");
    let path = format!("{REPOSITORY}/{index}?wait_for_completion=true");
    let only = json!({"indices": index, "include_global_state": false});
    let kept = server.put(&path, &only).await.expect("a snapshot");
    assert_eq!(kept["snapshot"]["state"], "SUCCESS", "{kept}");
}

/// Sets an index that is gone or closed back to what was kept.
async fn set_back(server: &Cluster, index: &str) {
    let path = format!("{REPOSITORY}/{index}/_restore?wait_for_completion=true");
    let restored = server.post(&path, &json!({"indices": index})).await.expect("it is restored");
    assert_eq!(restored["snapshot"]["shards"]["failed"], 0, "{restored}");
}

async fn delete_every_chunk(server: &Cluster, index: &str) {
    let path = format!("/{index}/_delete_by_query?refresh=true&conflicts=proceed");
    let deleted = server.post(&path, &json!({"query": {"match_all": {}}})).await.expect("chunks are deleted");
    assert!(deleted["deleted"].as_u64().unwrap() > 0, "{deleted}");
}

/// Waits until the destination has no chunk of that collection.
async fn followed(server: &Cluster, index: &str, collection: &str) {
    let deadline = Instant::now() + PATIENCE;
    let path = format!("/{index}/_count?q=collection_id:{collection}");
    loop {
        server.refresh(index).await.expect("refreshed");
        if server.get(&path).await.expect("a count")["count"] == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "the deletions were not followed");
        // Another process follows: there is no event to wait for.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_restored_from_a_snapshot_is_read_anew() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let source = &scene.merge.source_client;
    let index = scene.merge.large_source().await.expect("a source");
    keep(source, &index).await;
    let program = scene.run(&Tuning { hold: true, ..Tuning::default() });
    scene.reaches(&["Synced"]).await;
    delete_every_chunk(source, &index).await;
    followed(&scene.merge.destination_client, &scene.merge.index, &index).await;
    assert!(source.delete_index(&index).await.expect("an answer"));
    set_back(source, &index).await;
    scene.let_go(&program);
    scene.ends_well(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_set_back_to_its_load_is_made_fit_for_service_again() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let destination = &scene.merge.destination_client;
    let program = scene.run(&Tuning { hold: true, ..slow() });
    scene.reaches(&["Copying"]).await;
    // Its load must not end before it is kept.
    program.pause().expect("it can be paused");
    keep(destination, &scene.merge.index).await;
    program.resume().expect("it goes on");
    scene.reaches(&["Synced"]).await;
    let path = format!("/{}", scene.merge.index);
    destination.post_empty(&format!("{path}/_close")).await.expect("closed");
    set_back(destination, &scene.merge.index).await;
    let options = "/mappings/properties/embedding/index_options/type";
    let is_now = |index: &Value| index[&scene.merge.index].pointer(options).cloned();
    assert_eq!(is_now(&destination.get(&path).await.expect("the index")), Some(json!("flat")));
    scene.let_go(&program);
    scene.reaches(&["Completed"]).await;
    let index = destination.get(&path).await.expect("the index");
    assert_eq!(is_now(&index), Some(json!("int8_hnsw")), "{index}");
    let settings = &index[&scene.merge.index]["settings"]["index"];
    assert_eq!(settings["refresh_interval"], Value::Null, "{settings}");
    scene.ends_well(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_set_back_by_a_snapshot_is_mended() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let destination = &scene.merge.destination_client;
    let index = scene.merge.large_source().await.expect("a source");
    let program = scene.run(&Tuning { hold: true, ..Tuning::default() });
    scene.reaches(&["Synced"]).await;
    keep(destination, &scene.merge.index).await;
    delete_every_chunk(&scene.merge.source_client, &index).await;
    followed(destination, &scene.merge.index, &index).await;
    destination.post_empty(&format!("/{}/_close", scene.merge.index)).await.expect("closed");
    set_back(destination, &scene.merge.index).await;
    scene.let_go(&program);
    scene.ends_well(&program).await;
    assert!(program.output().contains("was set back to an older state"), "{}", program.output());
}
