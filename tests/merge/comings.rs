//! Collections and their indices come, go and change their nature while the destination follows them.

use demo::cluster::Method;
use serde_json::json;

use crate::late::held;
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::{Chunk, Shelf};

/// Makes an index with the chunks of another one, which refuses writes from then on.
async fn clone_index(scene: &Scene, from: &str, to: &str) {
    let source = &scene.source_cluster;
    source.put(&format!("/{from}/_settings"), &json!({"index.blocks.write": true})).await.unwrap();
    let unblocked = json!({"settings": {"index.blocks.write": null}});
    source.put(&format!("/{from}/_clone/{to}"), &unblocked).await.unwrap();
}

/// Gives the index another name, which is returned; its own becomes an alias of that.
pub async fn rename(scene: &Scene, shelf: &Shelf<'_>) -> String {
    let renamed = format!("renamed-{}", shelf.index);
    clone_index(scene, &shelf.index, &renamed).await;
    let actions = json!({"actions": [
        {"remove_index": {"index": shelf.index}},
        {"add": {"index": renamed, "alias": shelf.index}},
    ]});
    scene.source_cluster.post("/_aliases", &actions).await.unwrap();
    renamed
}

/// Gives it its own name back.
pub async fn rename_back(scene: &Scene, shelf: &Shelf<'_>, renamed: &str) {
    let actions = json!({"actions": [{"remove": {"index": renamed, "alias": shelf.index}}]});
    scene.source_cluster.post("/_aliases", &actions).await.unwrap();
    clone_index(scene, renamed, &shelf.index).await;
    scene.source_cluster.delete_index(renamed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_that_come_and_go_are_followed_and_none_holds_up_the_others() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let first = scene.first_id;
    let shelf = async |at: i64, shards: u32| {
        let shelf = Shelf::create(&scene, first + at, shards).await;
        shelf.put_document(first + at, 6, "before").await;
        shelf
    };
    let index_goes_first = shelf(0, 1).await;
    let row_goes_first = shelf(1, 1).await;
    let made_anew = shelf(2, 1).await;
    let emptied = shelf(3, 2).await;
    let closed = shelf(4, 1).await;
    let written_to = shelf(5, 1).await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;

    index_goes_first.delete_index().await;
    row_goes_first.delete_row().await;
    made_anew.delete_index().await;
    made_anew.create_index(3).await;
    // Some of the old keys with other words, some gone, some new; fewer operations than the old index had.
    made_anew.put(&[Chunk(first + 2, 1, "after"), Chunk(first + 2, 9, "new")]).await;
    emptied.delete_document(first + 3).await;
    let source = &scene.source_cluster;
    source.require(Method::POST, &format!("/{}/_close", closed.index), None).await.unwrap();
    let created = Shelf::create(&scene, first + 6, 2).await;
    created.put_document(first + 6, 6, "created meanwhile").await;
    written_to.put(&[Chunk(first + 5, 50, "while another index is closed")]).await;
    scene.wait_for_a_whole_pass().await;

    assert_eq!(index_goes_first.in_destination().await.len(), 0);
    assert_eq!(row_goes_first.in_destination().await.len(), 0);
    let anew = made_anew.in_destination().await;
    let words: Vec<_> = anew.iter().map(|(key, hit)| (key.1, &hit["_source"]["content"])).collect();
    assert_eq!(words, [(1, &json!("after")), (9, &json!("new"))]);
    assert_eq!(emptied.in_destination().await.len(), 0);
    assert_eq!(closed.in_destination().await.len(), 6, "an index that is only closed loses nothing");
    assert_eq!(created.in_destination().await.len(), 6);
    assert_eq!(written_to.in_destination().await.len(), 7, "a closed index holds up another one");

    source.require(Method::POST, &format!("/{}/_open", closed.index), None).await.unwrap();
    index_goes_first.delete_row().await;
    row_goes_first.delete_index().await;
    closed.put(&[Chunk(first + 4, 60, "open again")]).await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(closed.in_destination().await.len(), 7);
    session.stop().await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
}

/// The collection keeps its id; its index gets another name, and its id becomes an alias.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_renamed_behind_an_alias_stays_the_collections_index() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    let document = scene.first_id;
    shelf.put_document(document, 8, "before").await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    let renamed = rename(&scene, &shelf).await;
    shelf.delete_document(document).await;
    shelf.put(&[Chunk(document, 3, "after")]).await;
    scene.wait_for_a_whole_pass().await;
    let there = shelf.in_destination().await;
    assert_eq!(there.len(), 1);
    assert_eq!(there[&(document, 3)]["_source"]["content"], "after");
    session.stop().await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    scene.source_cluster.delete_index(&renamed).await.unwrap();
    assert!(run.success, "{run:?}");
    assert_eq!(shelf.in_destination().await.len(), 1);
}

/// Its units are open, and say nothing but its former name.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_renamed_while_no_process_copies_it_is_found_behind_its_alias() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    let other = Shelf::create(&scene, scene.first_id + 1, 1).await;
    for shelf in [&shelf, &other] {
        shelf.put_document(shelf.collection, 200, "there").await;
    }
    let slow = scene
        .manifest(DIMENSIONS)
        .replace("  cutover:\n", "  workers: {concurrency: 1, maxDocumentsPerSecond: 10}\n  cutover:\n");
    let session = Session::start(&slow).await;
    scene.wait_for_phase("Copying").await;
    session.kill().await;
    let open =
        "SELECT count(DISTINCT source) FROM es_index_merge.unit WHERE kind = 'copy' AND state = 'open'";
    let open: i64 = sqlx::query_scalar(open).fetch_one(&scene.pool).await.unwrap();
    assert_eq!(open, 2, "an index was copied before its time");

    let renamed = rename(&scene, &shelf).await;
    shelf.put(&[Chunk(shelf.collection, 500, "behind the alias")]).await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(run.success, "{run:?}");
    assert_eq!((shelf.in_destination().await.len(), other.in_destination().await.len()), (201, 200));
    // The checker knows no aliases.
    rename_back(&scene, &shelf, &renamed).await;
    let verdict = scene.check(DIMENSIONS).await;
    assert!(verdict.is_good(), "{verdict}");
}

/// Deletions are to be followed on shards that are no more.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_made_anew_with_fewer_shards_while_nobody_looks_is_followed() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 3).await;
    let document = scene.first_id;
    shelf.put_document(document, 60, "before").await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    session.stop().await;
    // As if the process had ended right after the copying of its last pass.
    let behind = "UPDATE es_index_merge.shard SET keys_checked_to = 0 WHERE copy_planned_to > 0";
    assert_eq!(sqlx::query(behind).execute(&scene.pool).await.unwrap().rows_affected(), 3);

    shelf.delete_index().await;
    shelf.create_index(1).await;
    shelf.put(&[Chunk(document, 1, "after"), Chunk(document, 99, "new")]).await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    let there = shelf.in_destination().await;
    let words: Vec<_> = there.iter().map(|(key, hit)| (key.1, &hit["_source"]["content"])).collect();
    assert_eq!(words, [(1, &json!("after")), (99, &json!("new"))]);
}

/// The same index, by its uuid, whose log is empty: there is nothing to be copied, and all of it to be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_set_back_to_when_it_was_empty_leaves_no_chunk_behind() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let _tables = Shelf::tables(&scene).await;
    let emptied = Shelf::create(&scene, scene.first_id, 2).await;
    let other = Shelf::create(&scene, scene.first_id + 1, 1).await;
    let source = &scene.source_cluster;
    let uuid = async || {
        let settings = source.get(&format!("/{}/_settings", emptied.index)).await.unwrap();
        settings[&emptied.index]["settings"]["index"]["uuid"].clone()
    };
    let repository = format!("/_snapshot/empty-{}", scene.first_id);
    let settings = json!({"location": format!("empty-{}", scene.first_id)});
    source.put(&repository, &json!({"type": "fs", "settings": settings})).await.unwrap();
    let only = json!({"indices": emptied.index, "include_global_state": false});
    let kept = source.put(&format!("{repository}/empty?wait_for_completion=true"), &only).await.unwrap();
    assert_eq!(kept["snapshot"]["state"], "SUCCESS", "{kept}");
    for shelf in [&emptied, &other] {
        shelf.put_document(shelf.collection, 20, "there").await;
    }
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    session.stop().await;
    assert_eq!(emptied.in_destination().await.len(), 20);

    let before = uuid().await;
    source.post_empty(&format!("/{}/_close", emptied.index)).await.unwrap();
    let restore = format!("{repository}/empty/_restore?wait_for_completion=true");
    let restored = source.post(&restore, &json!({"indices": emptied.index})).await.unwrap();
    assert_eq!(restored["snapshot"]["shards"]["failed"], 0, "{restored}");
    for path in [&format!("{repository}/empty"), &repository] {
        source.require(Method::DELETE, path, None).await.unwrap();
    }
    assert_eq!(uuid().await, before, "it is another index");
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    assert_eq!((emptied.in_destination().await.len(), other.in_destination().await.len()), (0, 20));
}

/// The usual way to reindex, and the way back; neither index goes away.
#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_moves_to_another_index_and_back_is_followed() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let collection = Shelf::row(&scene, scene.first_id).await;
    let document = scene.first_id;
    let first = collection.under(&format!("first-{document}"));
    let second = collection.under(&format!("second-{document}"));
    for (shelf, words) in [(&first, "the first words"), (&second, "other words")] {
        shelf.create_index(1).await;
        shelf.put_document(document, 6, words).await;
    }
    let lead = async |from: Option<&Shelf<'_>>, to: &Shelf<'_>| {
        let alias = |index: &str| json!({"index": index, "alias": collection.index});
        let add = json!({"add": alias(&to.index)});
        let remove = from.map(|from| json!({"remove": alias(&from.index)}));
        let actions: Vec<_> = remove.into_iter().chain([add]).collect();
        scene.source_cluster.post("/_aliases", &json!({ "actions": actions })).await.unwrap();
    };
    let words = async || {
        let there = collection.in_destination().await;
        assert_eq!(there.len(), 6);
        there[&(document, 3)]["_source"]["content"].as_str().unwrap().to_owned()
    };
    lead(None, &first).await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    lead(Some(&first), &second).await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(words().await, format!("other words {document} 3"));
    lead(Some(&second), &first).await;
    scene.wait_for_a_whole_pass().await;
    scene
        .wait_for("the first words", async || {
            (words().await == format!("the first words {document} 3")).then_some(())
        })
        .await;
    session.stop().await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    for shelf in [&first, &second] {
        shelf.delete_index().await;
    }
    assert!(run.success, "{run:?}");
    assert_eq!(words().await, format!("the first words {document} 3"));
}
