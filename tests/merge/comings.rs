//! Collections and their indices come, go and change their nature while the destination follows them.

use demo::cluster::Method;
use serde_json::json;

use crate::deletions::held;
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::{Chunk, Shelf};

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
    let renamed = format!("renamed-{}", shelf.index);
    let source = &scene.source_cluster;
    source.put(&format!("/{}/_settings", shelf.index), &json!({"index.blocks.write": true})).await.unwrap();
    let unblocked = json!({"settings": {"index.blocks.write": null}});
    source.put(&format!("/{}/_clone/{renamed}", shelf.index), &unblocked).await.unwrap();
    let actions = json!({"actions": [
        {"remove_index": {"index": shelf.index}},
        {"add": {"index": renamed, "alias": shelf.index}},
    ]});
    source.post("/_aliases", &actions).await.unwrap();
    shelf.delete_document(document).await;
    shelf.put(&[Chunk(document, 3, "after")]).await;
    scene.wait_for_a_whole_pass().await;
    let there = shelf.in_destination().await;
    assert_eq!(there.len(), 1);
    assert_eq!(there[&(document, 3)]["_source"]["content"], "after");
    session.stop().await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    source.delete_index(&renamed).await.unwrap();
    assert!(run.success, "{run:?}");
    assert_eq!(shelf.in_destination().await.len(), 1);
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
