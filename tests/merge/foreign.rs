//! Somebody else writes to the destination, and a worker that was held up writes what is long gone.

use demo::cluster::Method;
use es_index_merge::chunk::{Contract, IndexSpec, Language, index_body};
use serde_json::{Value, json};

use crate::late::held;
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::Shelf;

async fn one_shelf(scene: &Scene) -> Shelf<'_> {
    let _tables = Shelf::tables(scene).await;
    let shelf = Shelf::create(scene, scene.first_id, 2).await;
    for document in 0..10 {
        shelf.put_document(scene.first_id + document, 10, "as it is").await;
    }
    shelf
}

/// The body of an index that fits the manifest of a scene, and that somebody else makes without a graph.
pub fn flat_index() -> Value {
    index_body(&IndexSpec {
        contract: Contract::OpenGateLLM,
        language: Language::French,
        shards: 2,
        replicas: 0,
        vector_size: u32::try_from(DIMENSIONS).unwrap(),
        index_options: json!({"type": "flat"}),
        also_fitting: Vec::new(),
        load_options: None,
    })
}

/// Sends a bulk as a worker would that read the chunk when it was there; gives the status of its item.
async fn write_late(scene: &Scene, chunk: &Value) -> u64 {
    let action =
        json!({"index": {"_id": chunk["_id"], "version": chunk["_version"], "version_type": "external"}});
    let body = format!("{action}\n{}\n", chunk["_source"]);
    let path = format!("/{}-merge-writer/_bulk?require_alias=true", scene.index);
    let answer = scene
        .destination_cluster
        .send(Method::POST, &path, "application/x-ndjson", Some(body.into()))
        .await
        .unwrap();
    answer.json().unwrap()["items"][0]["index"]["status"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_shows_its_vectors_gets_numbers() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = one_shelf(&scene).await;
    let template = format!("/_index_template/{}", scene.index);
    let shown = json!({
        "index_patterns": [scene.index],
        "template": {"settings": {"index.mapping.exclude_source_vectors": false}},
    });
    scene.destination_cluster.put(&template, &shown).await.unwrap();
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    scene.destination_cluster.require(Method::DELETE, &template, None).await.unwrap();
    assert!(run.success, "{run:?}");
    let there = shelf.in_destination().await;
    let are_numbers = |hit: &Value| hit["_source"]["embedding"].as_array().map(Vec::len) == Some(DIMENSIONS);
    assert!(there.len() == 100 && there.values().all(are_numbers), "{:?}", there.values().next());
    assert!(scene.check(DIMENSIONS).await.is_good());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_which_a_pipeline_alters_documents_is_not_adopted_before_that_ends() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = one_shelf(&scene).await;
    let destination = &scene.destination_cluster;
    let path = format!("/{}", scene.index);
    destination.put(&path, &flat_index()).await.unwrap();
    let pipeline = format!("/_ingest/pipeline/{}", scene.index);
    let uppercase = json!({"processors": [{"uppercase": {"field": "content"}}]});
    destination.put(&pipeline, &uppercase).await.unwrap();
    scene.set("index.final_pipeline", &scene.index).await;

    let manifest = scene.manifest(DIMENSIONS);
    for command in ["plan", "run"] {
        let run = scene.command(command, &manifest).await;
        assert!(!run.success, "{run:?}");
        let told = format!("setting `final_pipeline` is `{}`, wanted none", scene.index);
        assert!(run.output.contains(&told), "{told}: {run:?}");
    }
    assert_eq!(destination.get(&format!("{path}/_count")).await.unwrap()["count"], 0);

    // As the message says.
    scene.set("index.final_pipeline", "_none").await;
    scene.completes(&manifest).await;
    assert_eq!(shelf.in_destination().await.len(), 100);
    destination.require(Method::DELETE, &pipeline, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_write_of_a_deleted_chunk_does_not_outlive_the_cutover() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    let shelf = one_shelf(&scene).await;
    let document = scene.first_id;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    let held_back = shelf.in_destination().await[&(document, 4)].clone();
    shelf.delete_document(document).await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(write_late(&scene, &held_back).await, 409, "a tombstone was ignored");

    // The server forgets, as after its restart.
    scene.set("index.gc_deletes", "0s").await;
    scene
        .wait_for("the end of the tombstone", async || {
            scene.destination_cluster.refresh(&scene.index).await.unwrap();
            (write_late(&scene, &held_back).await == 201).then_some(())
        })
        .await;
    assert!(shelf.in_destination().await.contains_key(&(document, 4)));
    session.stop().await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    assert_eq!(write_late(&scene, &held_back).await, 404, "a worker may still write after the verdict");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changed_or_deleted_before_the_comparison_is_repaired() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let shelf = one_shelf(&scene).await;
    let slow = scene
        .manifest(DIMENSIONS)
        .replace("  cutover:\n", "  workers: {concurrency: 1, maxDocumentsPerSecond: 20}\n  cutover:\n");
    let session = Session::start(&slow).await;
    scene.wait_for_phase("Copying").await;
    let there = scene
        .wait_for("some chunks", async || {
            let exists = scene.exists(&scene.index).await;
            let there = if exists { shelf.in_destination().await } else { return None };
            (there.len() >= 2).then_some(there)
        })
        .await;
    let mut ids = there.values().map(|hit| hit["_id"].as_str().unwrap());
    let (changed, deleted) = (ids.next().unwrap(), ids.next().unwrap());
    let destination = &scene.destination_cluster;
    let path = |id: &str| format!("/{}/_doc/{id}", scene.index);
    let mut foreign = there.values().next().unwrap()["_source"].clone();
    foreign["content"] = json!("somebody else's words");
    destination.put(&path(changed), &foreign).await.unwrap();
    destination.require(Method::DELETE, &path(deleted), None).await.unwrap();
    assert_ne!(scene.phase().await.as_deref(), Some("Synced"), "too late to be repaired");
    let run = session.end().await;
    assert!(run.success, "{run:?}");
    let verdict = scene.check(DIMENSIONS).await;
    assert!(verdict.is_good(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_changes_what_it_is_given_gets_a_negative_verdict_that_names_the_chunk() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = one_shelf(&scene).await;
    let destination = &scene.destination_cluster;
    let pipeline = format!("/_ingest/pipeline/{}", scene.index);
    // Only one chunk of the hundred.
    let words = format!("as it is {} 7", scene.first_id);
    let condition = format!("ctx.content == '{words}'");
    let uppercase = json!({"processors": [{"uppercase": {"field": "content", "if": condition}}]});
    destination.put(&pipeline, &uppercase).await.unwrap();
    // Slowly: the pipeline is there before the first chunk, and after the index was looked at.
    let slowly = "  workers: {maxDocumentsPerSecond: 20}\n  cutover:\n";
    let session = Session::start(&scene.manifest(DIMENSIONS).replace("  cutover:\n", slowly)).await;
    let workers_alias = format!("{}-merge-writer", scene.index);
    scene.wait_for("the destination", async || scene.exists(&workers_alias).await.then_some(())).await;
    scene.set("index.final_pipeline", &scene.index).await;
    let run = session.end().await;
    scene.set_null("index.final_pipeline").await;
    destination.require(Method::DELETE, &pipeline, None).await.unwrap();
    assert!(!run.success, "{run:?}");
    let rows: Vec<(String, i64, String)> =
        sqlx::query_as("SELECT class, collection_id, destination_id FROM es_index_merge.quarantine")
            .fetch_all(&scene.pool)
            .await
            .unwrap();
    let there = shelf.in_destination().await;
    let id = there[&(scene.first_id, 7)]["_id"].as_str().unwrap().to_owned();
    assert_eq!(rows, [("Different".to_owned(), shelf.collection, id)]);
    assert!(run.output.contains("1 chunks differ after their repair"), "{run:?}");
    assert!(!scene.any_source_is_blocked().await);
}

/// A document that somebody writes again has a version of its own, and still the key of the chunk that it was written from.
#[tokio::test(flavor = "multi_thread")]
async fn the_chunk_of_a_document_that_somebody_wrote_again_is_deleted_and_no_other_one() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let shelf = one_shelf(&scene).await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    let there = shelf.in_destination().await;
    let (&(document, number), hit) = there.first_key_value().unwrap();
    let path = format!("/{}/_doc/{}", scene.index, hit["_id"].as_str().unwrap());
    scene.destination_cluster.put(&path, &hit["_source"]).await.unwrap();
    let again = shelf.in_destination().await[&(document, number)].clone();
    assert_eq!(again["_version"].as_i64().unwrap(), hit["_version"].as_i64().unwrap() + 1);
    let chunk = json!({"query": {"bool": {"filter": [
        {"term": {"metadata.document_id": document}}, {"term": {"id": number}}]}}});
    let path = format!("/{}/_delete_by_query?refresh=true", shelf.index);
    assert_eq!(scene.source_cluster.post(&path, &chunk).await.unwrap()["deleted"], 1);
    scene.wait_for_a_whole_pass().await;
    let left = shelf.in_destination().await;
    assert!(there.keys().all(|key| left.contains_key(key) == (*key != (document, number))), "{left:?}");
    session.stop().await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_somebody_wrote_again_are_not_taken_for_those_of_other_chunks() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = one_shelf(&scene).await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    let before = shelf.in_destination().await;
    let path = format!("/{}/_update_by_query?refresh=true", scene.index);
    assert_eq!(scene.destination_cluster.post(&path, &json!({})).await.unwrap()["updated"], 100);
    shelf.delete_document(scene.first_id).await;
    scene.wait_for_a_whole_pass().await;
    let left = shelf.in_destination().await;
    assert!(before.keys().all(|key| left.contains_key(key) == (key.0 != scene.first_id)), "{left:?}");
    session.stop().await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
}
