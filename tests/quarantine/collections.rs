//! Collections that cannot be merged, and a world that is not the one the merge began in: named, and nothing lost by it.

use serde_json::{Value, json};

use crate::hand::{Hand, chunk};
use crate::hold;
use crate::scene::{Flavor, Scene};

/// What a run said of a collection.
fn said(output: &str, collection: i64) -> Vec<&str> {
    let start = format!("collection {collection}: ");
    output.lines().filter_map(|line| line.strip_prefix(start.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_cannot_be_read_are_named_and_never_stop_the_others() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let good = hand.collection(0, 1).await;
    hand.put(good, "a", "x", &chunk(good, 1, "good")).await;
    let missing = hand.row(1).await;
    let closed = hand.collection(2, 1).await;
    hand.put(closed, "a", "x", &chunk(closed, 1, "closed")).await;
    scene.source().require("POST".parse().unwrap(), &format!("/{closed}/_close"), None).await.unwrap();
    let partial = hand.row(3).await;
    let without_vector = json!({"mappings": {"_source": {"excludes": ["embedding"]}}});
    scene.source().put(&format!("/{partial}"), &without_vector).await.unwrap();
    hand.put(partial, "a", "x", &chunk(partial, 1, "partial")).await;
    let unnumbered = hand.row(4).await;
    let settings = json!({"settings": {"index.disable_sequence_numbers": true}});
    scene.source().put(&format!("/{unnumbered}"), &settings).await.unwrap();
    let narrow = hand.collection(6, 1).await;
    hand.put(narrow, "a", "x", &chunk(narrow, 1, "narrow")).await;
    let window = |size: Value| json!({"index.max_result_window": size});
    scene.source().put(&format!("/{narrow}/_settings"), &window(json!(9_999))).await.unwrap();
    let cut = hand.collection(5, 1).await;
    let mut long = chunk(cut, 1, "cut");
    long["metadata"]["note"] = json!("x".repeat(300));
    hand.put(cut, "a", "x", &long).await;

    let ambiguous = hand.row(7).await;
    for part in ["one", "other"] {
        let body = json!({"aliases": {ambiguous.to_string(): {}}});
        scene.source().put(&format!("/{part}-of-{ambiguous}"), &body).await.unwrap();
    }

    let run = scene.run(&scene.manifest(8)).await;
    assert!(!run.success, "{run:?}");
    for (collection, reason) in [
        (ambiguous, "IndexAmbiguous: "),
        (missing, "IndexMissing: "),
        (closed, "IndexClosed: "),
        (partial, "SourceDisabled: "),
        (unnumbered, "SequenceNumbersDisabled: "),
        (narrow, "ResultWindowTooSmall: "),
        (cut, "ContentCut: "),
    ] {
        let said = said(&run.output, collection);
        assert!(said.iter().any(|line| line.starts_with(reason)), "{collection}, {reason}: {run:?}");
    }
    assert!(run.output.contains("5 collections are not equal"), "each that has an index: {run:?}");
    assert_eq!(hand.contents(good).await, ["good"]);
    assert_eq!(hand.contents(cut).await, ["cut"]);

    scene.source().require("POST".parse().unwrap(), &format!("/{closed}/_open"), None).await.unwrap();
    scene.source().put(&format!("/{narrow}/_settings"), &window(Value::Null)).await.unwrap();
    let without = format!("    exclude: [{partial}, {unnumbered}, {cut}, {ambiguous}]\n  source:");
    let manifest = crate::token(&scene.manifest(8), "opened").replacen("  source:", &without, 1);
    let run = scene.run(&manifest).await;
    assert!(run.success, "{run:?}");
    assert_eq!(hand.contents(closed).await, ["closed"]);
    assert_eq!(hand.contents(narrow).await, ["narrow"]);
    assert!(hand.contents(cut).await.is_empty(), "what is excluded later is taken out again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_whose_index_is_the_destination_is_named() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    let hand = Hand::new(&scene).await;
    let good = hand.collection(0, 1).await;
    hand.put(good, "a", "x", &chunk(good, 1, "good")).await;
    let itself = hand.row(1).await;
    scene.run_until(&hold(&scene.manifest(8)), "Synced").await;
    let alias = json!({"actions": [{"add": {"index": scene.index, "alias": itself.to_string()}}]});
    scene.destination().post("/_aliases", &alias).await.unwrap();
    let run = scene.run(&scene.manifest(8)).await;
    assert!(run.success, "{run:?}");
    assert!(said(&run.output, itself)[0].starts_with("SourceIsDestination: "), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_world_than_the_one_it_began_in_is_not_believed() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let good = hand.collection(0, 1).await;
    hand.put(good, "a", "x", &chunk(good, 1, "good")).await;
    let manifest = scene.manifest(8);
    scene.run_until(&hold(&manifest), "Synced").await;

    // The same name, another source.
    let (before, rest) = manifest.split_once("  source:\n    url: \"").unwrap();
    let (url, after) = rest.split_once('"').unwrap();
    let run = scene.run(&format!("{before}  source:\n    url: \"{url},{url}/\"{after}")).await;
    assert!(!run.success && run.output.contains("was begun by a merge of the same name"), "{run:?}");

    // An emptied database: nothing is purged.
    sqlx::query("ALTER TABLE collection RENAME TO former").execute(scene.pool()).await.unwrap();
    sqlx::query("CREATE TABLE collection (LIKE former)").execute(scene.pool()).await.unwrap();
    let run = scene.run(&manifest).await;
    assert!(!run.success && run.output.contains("the table collection is empty now"), "{run:?}");
    assert_eq!(hand.contents(good).await, ["good"]);
    sqlx::query("DROP TABLE collection").execute(scene.pool()).await.unwrap();
    sqlx::query("ALTER TABLE former RENAME TO collection").execute(scene.pool()).await.unwrap();
    let run = scene.run(&manifest).await;
    assert!(run.success, "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_does_not_fit_or_holds_more_is_named() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let good = hand.collection(0, 1).await;
    hand.put(good, "a", "x", &chunk(good, 1, "good")).await;
    let other = json!({"mappings": {"properties": {"content": {"type": "keyword"}}}});
    scene.destination().put(&format!("/{}", scene.index), &other).await.unwrap();
    for command in ["plan", "run"] {
        let run = scene.command(command, &scene.manifest(8)).await;
        assert!(!run.success && run.output.contains("field `content` is of type \"keyword\""), "{run:?}");
        assert!(run.output.contains("field `embedding` is not mapped"), "every difference: {run:?}");
    }
    scene.delete(&scene.index).await;

    scene.run_until(&hold(&scene.manifest(8)), "Synced").await;
    let stranger: Value = json!({"id": 1, "collection_id": 1_999_999_999, "content": "not ours"});
    scene.destination().put(&format!("/{}/_doc/stranger", scene.index), &stranger).await.unwrap();
    let strict =
        scene.manifest(8).replace("maxQuarantined: 0", "maxQuarantined: 0, unknownDocuments: Refuse");
    let run = scene.run(&strict).await;
    let told = "1 documents of the destination belong to no collection of this merge";
    assert!(!run.success && run.output.contains(told), "{run:?}");
    let run = scene.run(&scene.manifest(8)).await;
    assert!(run.success, "{run:?}");
}
