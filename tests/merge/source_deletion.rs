//! The source indices are deleted after the verdict, where that is asked for, and only what was verified is.

use std::collections::BTreeMap;

use demo::cluster::Method;
use serde_json::json;

use crate::scene::program::Run;
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::Shelf;

const ASKED: &str = "    sourceWrites: Block\n    deleteSources: AfterVerification\n    retainFor: 24h\n";

/// The manifest of a merge whose sources are deleted a day after its verdict.
fn deleting(scene: &Scene) -> String {
    let manifest = scene.manifest(DIMENSIONS);
    let asking = manifest.replace("    sourceWrites: Block\n", ASKED);
    assert_ne!(asking, manifest);
    asking
}

/// A scene with shelves, merged: nothing is deleted yet, and the run said when it will be.
async fn merged<'a>(scene: &'a Scene, manifest: &str, shelves: i64) -> Vec<Shelf<'a>> {
    let _tables = Shelf::tables(scene).await;
    let mut all = Vec::new();
    for number in 0..shelves {
        let shelf =
            Shelf::create(scene, scene.first_id + number, 1 + u32::try_from(number % 2).unwrap()).await;
        shelf.put_document(shelf.collection, 6, "there").await;
        all.push(shelf);
    }
    merge(scene, manifest, &all).await;
    all
}

async fn merge(scene: &Scene, manifest: &str, shelves: &[Shelf<'_>]) {
    let run = scene.run(manifest).await;
    assert!(run.success, "{run:?}");
    assert!(run.output.contains("source indices are deleted from"), "{run:?}");
    assert!(run.output.contains("set spec.cutover.deleteSources: Never to keep them"), "{run:?}");
    for shelf in shelves {
        assert!(exists(scene, &shelf.index).await, "{} was deleted before its time", shelf.index);
    }
}

/// A day goes by.
async fn wait_a_day(scene: &Scene) {
    let statement = "UPDATE es_index_merge.merge SET completed_at = completed_at - interval '24 hours'";
    assert_eq!(sqlx::query(statement).execute(&scene.pool).await.unwrap().rows_affected(), 1);
}

async fn exists(scene: &Scene, index: &str) -> bool {
    let path = format!("/{index}");
    let answer = scene.source_cluster.send(Method::HEAD, &path, "application/json", None).await.unwrap();
    match answer.status {
        200 => true,
        404 => false,
        status => panic!("{index}: {status}"),
    }
}

/// What became of each source, by collection: the stored word, and the reason's first word.
async fn outcomes(scene: &Scene) -> BTreeMap<i64, String> {
    let query =
        "SELECT collection_id, deletion, kept_because FROM es_index_merge.source WHERE state = 'active'";
    let rows: Vec<(i64, Option<String>, Option<String>)> =
        sqlx::query_as(query).fetch_all(&scene.pool).await.unwrap();
    let word = |deletion: Option<String>, reason: Option<String>| match (deletion, reason) {
        (_, Some(reason)) => reason.split(':').next().unwrap_or_default().to_owned(),
        (deletion, None) => deletion.unwrap_or_default(),
    };
    rows.into_iter().map(|(collection, deletion, reason)| (collection, word(deletion, reason))).collect()
}

async fn block(scene: &Scene, index: &str, blocked: bool) {
    let value = if blocked { json!(true) } else { json!(null) };
    let path = format!("/{index}/_settings");
    scene.source_cluster.put(&path, &json!({"index.blocks.write": value})).await.unwrap();
}

async fn run_deleting(scene: &Scene, manifest: &str) -> Run {
    let run = scene.run(manifest).await;
    assert!(run.success, "{run:?}");
    run
}

async fn sources_are_deleted(flavor: Flavor) {
    let scene = Scene::new(flavor, flavor).await;
    let manifest = deleting(&scene);
    let shelves = merged(&scene, &manifest, 3).await;
    let stray = Shelf::nameless(&scene, scene.first_id + 100);
    stray.create_index(1).await;

    let early = run_deleting(&scene, &manifest).await;
    assert!(early.output.contains("run the same command again after that time"), "{early:?}");
    assert!(outcomes(&scene).await.values().all(String::is_empty));

    wait_a_day(&scene).await;
    let run = run_deleting(&scene, &manifest).await;
    assert!(run.output.contains("3 source indices were deleted, 0 are kept"), "{run:?}");
    for shelf in &shelves {
        assert!(!exists(&scene, &shelf.index).await, "{} is still there", shelf.index);
        assert_eq!(shelf.in_destination().await.len(), 6);
    }
    assert!(exists(&scene, &stray.index).await, "an index that was never merged is deleted");

    let again = run_deleting(&scene, &manifest).await;
    assert!(again.output.contains("3 source indices were deleted"), "{again:?}");
    let never = run_deleting(&scene, &scene.manifest(DIMENSIONS)).await;
    assert!(never.output.contains("3 source indices were deleted"), "{never:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_deleted_when_their_retention_is_over_on_8() {
    sources_are_deleted(Flavor::V8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_deleted_when_their_retention_is_over_on_9() {
    sources_are_deleted(Flavor::V9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_retention_one_run_merges_and_deletes() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 2).await;
    shelf.put_document(scene.first_id, 6, "there").await;
    let run = run_deleting(&scene, &deleting(&scene).replace("retainFor: 24h", "retainFor: 0s")).await;
    assert!(run.output.contains("1 source indices were deleted, 0 are kept"), "{run:?}");
    assert!(!exists(&scene, &shelf.index).await);
    assert_eq!(shelf.in_destination().await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_not_what_was_verified_is_kept_and_the_next_one_goes() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let source = &scene.source_cluster;
    let manifest = deleting(&scene);
    let shelves = merged(&scene, &manifest, 9).await;
    let [anew, alias, written, lifted, updated, fewer, closed, protected, same] = &shelves[..] else {
        panic!("nine")
    };

    anew.delete_index().await;
    anew.create_index(1).await;
    anew.put_document(anew.collection, 6, "there").await;
    block(&scene, &anew.index, true).await;

    let elsewhere = format!("elsewhere-{}", alias.index);
    source.put(&format!("/{}/_clone/{elsewhere}", alias.index), &json!({})).await.unwrap();
    let actions = json!({"actions": [
        {"remove_index": {"index": alias.index}},
        {"add": {"index": elsewhere, "alias": alias.index}},
    ]});
    source.post("/_aliases", &actions).await.unwrap();

    block(&scene, &written.index, false).await;
    written.put_document(written.collection + 1_000, 1, "new").await;
    block(&scene, &written.index, true).await;

    block(&scene, &lifted.index, false).await;

    // The number of chunks stays: only the log tells.
    block(&scene, &updated.index, false).await;
    updated.delete_document(updated.collection).await;
    updated.put_document(updated.collection, 6, "other words").await;
    block(&scene, &updated.index, true).await;

    let (_, hit) = fewer.in_destination().await.pop_first().unwrap();
    let id = hit["_id"].as_str().unwrap();
    let chunk = format!("/{}/_doc/{id}?refresh=true", scene.index);
    scene.destination_cluster.require(Method::DELETE, &chunk, None).await.unwrap();

    source.require(Method::POST, &format!("/{}/_close", closed.index), None).await.unwrap();

    let read_only = format!("/{}/_settings", protected.index);
    source.put(&read_only, &json!({"index.blocks.read_only": true})).await.unwrap();

    wait_a_day(&scene).await;
    let run = run_deleting(&scene, &manifest).await;
    let expected = [
        (anew, "SourceReplaced"),
        (alias, "SourceReplaced"),
        (written, "SourceChanged"),
        (lifted, "NotBlocked"),
        (updated, "SourceChanged"),
        (fewer, "DestinationChanged"),
        (closed, "SourceClosed"),
        (protected, "DeletionRefused"),
        (same, "deleted"),
    ];
    let expected = expected.map(|(shelf, word)| (shelf.collection, word.to_owned()));
    assert_eq!(outcomes(&scene).await, BTreeMap::from(expected), "{run:?}");
    assert!(
        run.output.contains("1 source indices were deleted, 8 are kept (see status.attention)"),
        "{run:?}"
    );
    for shelf in &shelves {
        assert_eq!(exists(&scene, &shelf.index).await, shelf.index != same.index, "{}", shelf.index);
    }
    assert!(exists(&scene, &elsewhere).await, "the index behind the alias is deleted");
    assert!(run.output.contains("NotBlocked: the source index"), "{run:?}");

    // Mended, and asked for again.
    block(&scene, &lifted.index, true).await;
    let again = run_deleting(&scene, &manifest).await;
    assert!(exists(&scene, &lifted.index).await, "{again:?}");
    let again =
        run_deleting(&scene, &manifest.replace("  contract:", "  retryToken: again\n  contract:")).await;
    assert!(!exists(&scene, &lifted.index).await, "{again:?}");
    assert!(again.output.contains("2 source indices were deleted, 7 are kept"), "{again:?}");
    source.put(&read_only, &json!({"index.blocks.read_only": null})).await.unwrap();
    source.delete_index(&elsewhere).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_when_the_destination_is_not_the_one_that_was_verified() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let manifest = deleting(&scene);
    let shelves = merged(&scene, &manifest, 2).await;
    scene.delete(&scene.index).await;
    wait_a_day(&scene).await;
    let run = scene.run(&manifest).await;
    for shelf in &shelves {
        assert!(exists(&scene, &shelf.index).await, "{run:?}");
    }
    assert!(outcomes(&scene).await.values().all(|word| word == "DestinationChanged"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_a_chunk_in_quarantine_is_kept() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let whole = Shelf::create(&scene, scene.first_id, 1).await;
    let withheld = Shelf::create(&scene, scene.first_id + 1, 1).await;
    for shelf in [&whole, &withheld] {
        shelf.put_document(shelf.collection, 6, "there").await;
    }
    let no_embedding = json!({"id": 99, "content": "nothing to find it by", "metadata": {"document_id": 1}});
    scene
        .source_cluster
        .post(&format!("/{}/_doc?refresh=true", withheld.index), &no_embedding)
        .await
        .unwrap();
    let manifest = deleting(&scene).replace("maxQuarantined: 0", "maxQuarantined: 1");
    merge(&scene, &manifest, &[]).await;
    wait_a_day(&scene).await;
    let run = run_deleting(&scene, &manifest).await;
    assert!(exists(&scene, &withheld.index).await, "{run:?}");
    assert!(!exists(&scene, &whole.index).await, "{run:?}");
    assert_eq!(outcomes(&scene).await[&withheld.collection], "Quarantined");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_given_up_in_the_middle_in_each_way_that_the_spec_offers() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    let manifest = deleting(&scene);
    let shelves = merged(&scene, &manifest, 24).await;
    wait_a_day(&scene).await;
    let goes_on = "SELECT count(*) < 2 FROM es_index_merge.source WHERE deletion = $1";
    scene.run_while(&manifest, goes_on, "deleted").await;
    let gone = outcomes(&scene).await.values().filter(|word| *word == "deleted").count();
    assert!((2..24).contains(&gone), "it did not stop in the middle: {gone}");

    let no = [
        scene.manifest(DIMENSIONS),
        manifest.replace("deleteSources: AfterVerification", "deleteSources: Never"),
        manifest.replace("retainFor: 24h", "retainFor: 48h"),
        manifest.replace("  contract:", "  suspend: true\n  contract:"),
    ];
    for manifest in no {
        let run = run_deleting(&scene, &manifest).await;
        let mut left = 0;
        for shelf in &shelves {
            left += usize::from(exists(&scene, &shelf.index).await);
        }
        assert_eq!(left, 24 - gone, "{run:?}");
    }
    let run = run_deleting(&scene, &manifest).await;
    assert!(run.output.contains("24 source indices were deleted, 0 are kept"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_between_the_intent_and_the_deletion_each_index_is_judged_by_what_is_there() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let manifest = deleting(&scene);
    let shelves = merged(&scene, &manifest, 4).await;
    let [gone, there, anew, by_others] = &shelves[..] else { panic!("four") };
    let intended =
        sqlx::query("UPDATE es_index_merge.source SET deletion = 'intended' WHERE collection_id = ANY ($1)")
            .bind([gone.collection, there.collection, anew.collection]);
    assert_eq!(intended.execute(&scene.pool).await.unwrap().rows_affected(), 3);
    gone.delete_index().await;
    anew.delete_index().await;
    anew.create_index(1).await;
    by_others.delete_index().await;
    wait_a_day(&scene).await;
    let run = run_deleting(&scene, &manifest).await;
    let expected = [
        (gone.collection, "deleted"),
        (there.collection, "deleted"),
        (anew.collection, "SourceReplaced"),
        (by_others.collection, "missing"),
    ];
    let expected = expected.map(|(collection, word)| (collection, word.to_owned()));
    assert_eq!(outcomes(&scene).await, BTreeMap::from(expected), "{run:?}");
    assert!(!exists(&scene, &there.index).await && exists(&scene, &anew.index).await);
    assert!(run.output.contains("2 source indices were deleted, 1 are kept"), "{run:?}");
    assert!(run.output.contains("1 were gone already"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_which_a_snapshot_is_being_made_is_waited_for() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let manifest = deleting(&scene);
    let _tables = Shelf::tables(&scene).await;
    let mut shelves = Vec::new();
    // So many in the first that its snapshot is still being made when the deletions begin.
    for (number, chunks) in [(0, 100), (1, 6)] {
        let shelf = Shelf::create(&scene, scene.first_id + number, 1).await;
        shelf.put_document(shelf.collection, chunks, "there").await;
        shelves.push(shelf);
    }
    merge(&scene, &manifest, &shelves).await;
    let source = &scene.source_cluster;
    let repository = format!("/_snapshot/slow-{}", scene.first_id);
    let settings =
        json!({"location": format!("slow-{}", scene.first_id), "max_snapshot_bytes_per_sec": "1kb"});
    source.put(&repository, &json!({"type": "fs", "settings": settings})).await.unwrap();
    let only = json!({"indices": shelves[0].index, "include_global_state": false});
    source.put(&format!("{repository}/slow"), &only).await.unwrap();

    wait_a_day(&scene).await;
    let mut session = Session::start(&manifest).await;
    session.says("being snapshotted").await;
    for shelf in &shelves {
        assert!(exists(&scene, &shelf.index).await, "{} was deleted before its turn", shelf.index);
    }
    // It ends a snapshot under way.
    source.send(Method::DELETE, &format!("{repository}/slow"), "application/json", None).await.unwrap();
    let run = session.end().await;
    assert!(run.success && run.output.contains("2 source indices were deleted, 0 are kept"), "{run:?}");
    source.send(Method::DELETE, &repository, "application/json", None).await.unwrap();
}

/// The id of a second collection is an alias of the first one's index.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_two_collections_find_is_merged_for_one_and_never_deleted() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let owner = Shelf::create(&scene, scene.first_id + 1, 1).await;
    owner.put_document(scene.first_id, 6, "whose are they").await;
    let guest = Shelf::row(&scene, scene.first_id).await;
    let alias = async |action: &str| {
        let body = json!({"actions": [{action: {"index": owner.index, "alias": guest.index}}]});
        scene.source_cluster.post("/_aliases", &body).await.unwrap()
    };
    alias("add").await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(!run.success, "the chunks of a collection are missing: {run:?}");
    assert!(run.output.contains("IndexShared: the index"), "{run:?}");
    assert_eq!((owner.in_destination().await.len(), guest.in_destination().await.len()), (6, 0));

    let exclude = format!("    exclude: [{}]\n  source:", guest.collection);
    let alone = |token: &str| {
        let manifest = deleting(&scene).replace("retainFor: 24h", "retainFor: 0s");
        manifest
            .replacen("  source:", &exclude, 1)
            .replace("  contract:", &format!("  retryToken: {token}\n  contract:"))
    };
    let run = run_deleting(&scene, &alone("alone")).await;
    assert!(run.output.contains("0 source indices were deleted, 1 are kept"), "{run:?}");
    assert!(run.output.contains("is kept: by the name"), "{run:?}");
    assert!(exists(&scene, &owner.index).await, "the other collection lost its index");
    alias("remove").await;
    let run = run_deleting(&scene, &alone("once-more")).await;
    assert!(run.output.contains("1 source indices were deleted"), "{run:?}");
}
