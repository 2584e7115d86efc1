//! Chunks that cannot be copied: each kind is seen, named, kept with its original, and goes over once it can.
//!
//! Elasticsearch stores nothing as a document but a JSON object. The class `not_json` is for what it takes beyond that:
//! [`comments`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod collections;
mod comments;
mod hand;
#[allow(dead_code)] // shared with the tests of the merge itself
#[path = "../merge/scene.rs"]
mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hand::{Hand, VECTOR, chunk, with, without};
use scene::{Flavor, Scene};
use serde_json::{Value, json};
use testenv::elasticsearch::{Access, Elasticsearch, Options};

/// A vector without a direction.
const ZERO: [f64; 8] = [0.0; 8];
/// One that servers keep as it is, bit by bit.
const UNIT: [f64; 8] = [0.5, -0.5, 0.5, -0.5, 0.0, 0.0, 0.0, 0.0];

/// Chunks that the contract cannot express, by the class that they belong to.
fn inexpressible(collection: i64) -> Vec<(&'static str, &'static str, Value)> {
    let good = |id| chunk(collection, id, "bad");
    let vector = |values: Value| with(good(1), "embedding", values);
    vec![
        ("no-id", "key", without(good(1), "id")),
        ("negative-id", "key", with(good(1), "id", json!(-3))),
        ("no-document", "key", with(good(1), "metadata", json!({}))),
        ("document-is-text", "key", with(good(1), "metadata", json!({"document_id": "x"}))),
        ("no-content", "content", without(good(2), "content")),
        ("empty-content", "content", with(good(2), "content", json!(""))),
        ("content-is-a-number", "content", with(good(2), "content", json!(5))),
        ("no-vector", "vector", without(good(3), "embedding")),
        ("null-vector", "vector", vector(Value::Null)),
        ("too-few", "vector", vector(json!(VECTOR[1..]))),
        ("too-many", "vector", vector(json!([VECTOR.as_slice(), &[1.0]].concat()))),
        ("all-zero", "vector", vector(json!(ZERO))),
        ("not-finite", "vector", vector(json!([1e39, 0, 0, 0, 0, 0, 0, 1]))),
        ("text-in-it", "vector", vector(json!(["a", 0, 0, 0, 0, 0, 0, 1]))),
    ]
}

fn hold(manifest: &str) -> String {
    manifest.replace("maxLag: 5s", "maxLag: 3s\n    hold: true")
}

fn token(manifest: &str, token: &str) -> String {
    format!("{manifest}  retryToken: {token}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_class_is_named_with_its_original_and_the_neighbours_go_over() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let bad = hand.collection(0, 1).await;
    let good = hand.collection(1, 1).await;
    let cases = inexpressible(bad);
    for (at, (id, _, source)) in (0_i64..).zip(&cases) {
        hand.put(bad, &format!("neighbour-{at}"), "x", &chunk(bad, 100 + at, "good")).await;
        hand.put(bad, id, "x", source).await;
    }
    hand.put(good, "a", "x", &chunk(good, 1, "undisturbed")).await;

    let run = scene.run(&scene.manifest(8)).await;
    assert!(!run.success && run.output.contains("maxQuarantined allows 0"), "{run:?}");
    let seen: BTreeMap<String, String> =
        hand.quarantined().await.into_iter().map(|(_, id, class)| (id, class)).collect();
    let expected: BTreeMap<String, String> =
        cases.iter().map(|(id, class, _)| ((*id).to_owned(), (*class).to_owned())).collect();
    assert_eq!(seen, expected);
    assert_eq!(hand.contents(bad).await, vec!["good"; cases.len()]);
    assert_eq!(hand.contents(good).await, ["undisturbed"]);
    let line =
        format!("collection {bad}: Quarantined: 14 chunks are in quarantine (3 content, 4 key, 7 vector)");
    assert!(run.output.contains(&line), "{run:?}");

    let table = hand.quarantine(&["list", "--class", "vector"]).await;
    assert!(table.success && table.output.lines().count() == 8, "{table:?}");
    assert!(table.output.starts_with("COLLECTION") && table.output.contains("all-zero"), "{table:?}");
    let listed = hand.quarantine(&["list", "--output", "json", "--collection", &bad.to_string()]).await;
    let listed: Vec<Value> = serde_json::from_str(&listed.output).expect("a JSON array");
    assert_eq!(listed.len(), cases.len());
    assert!(listed.iter().all(|row| row["reason"].as_str().is_some_and(|reason| !reason.is_empty())));
    let none = hand.quarantine(&["list", "--output", "json", "--collection", &good.to_string()]).await;
    assert_eq!(none.output, "[]\n");

    let shown = hand.quarantine(&["show", &bad.to_string(), "too-few"]).await;
    let original = &cases.iter().find(|(id, ..)| *id == "too-few").unwrap().2;
    assert!(shown.success && shown.output.contains(&original.to_string()), "{shown:?}");
    let unknown = hand.quarantine(&["show", &bad.to_string(), "neighbour-0"]).await;
    assert!(!unknown.success && unknown.output.contains("is not in quarantine"), "{unknown:?}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export.ndjson");
    let exported = hand.quarantine(&["export", "--to", file.to_str().unwrap()]).await;
    assert!(exported.success, "{exported:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: BTreeMap<String, Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"))
        .map(|line| (line["chunk_id"].as_str().unwrap().to_owned(), line["original"].clone()))
        .collect();
    let originals: BTreeMap<String, Value> =
        cases.iter().map(|(id, _, source)| ((*id).to_owned(), source.clone())).collect();
    assert_eq!(lines, originals);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_whose_id_cannot_be_stored_as_it_is_stays_in_quarantine() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let collection = hand.collection(0, 1).await;
    hand.put(collection, "first", "x", &chunk(collection, 1, "good")).await;
    // Postgres knows no NUL.
    let without_key = with(chunk(collection, 2, "bad"), "metadata", json!({}));
    hand.put(collection, "n%00l", "x", &without_key).await;
    let run = scene.run(&scene.manifest(8)).await;
    assert!(!run.success && run.output.contains("maxQuarantined allows 0"), "{run:?}");
    assert_eq!(hand.quarantined().await, [(collection, "n\u{FFFD}l".to_owned(), "key".to_owned())]);
    assert_eq!(hand.contents(collection).await, ["good"]);

    hand.delete(collection, "n\0l", "x").await;
    let run = scene.run(&token(&scene.manifest(8), "deleted")).await;
    assert!(run.success, "{run:?}");
}

/// The embedding is not in `_source`, and read beside it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_of_a_source_that_hides_embeddings_can_be_indexed_again() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let hand = Hand::new(&scene).await;
    let collection = hand.row(0).await;
    let mapping = json!({"mappings": {"dynamic": false, "properties": {
        "embedding": {"type": "dense_vector", "dims": 8, "index": true, "similarity": "cosine"},
        "metadata": {"type": "object", "enabled": false},
    }}});
    scene.source().put(&format!("/{collection}"), &mapping).await.unwrap();
    let of_unit_length = |id| with(chunk(collection, id, "good"), "embedding", json!(UNIT));
    hand.put(collection, "good", "x", &of_unit_length(1)).await;
    hand.put(collection, "bad", "x", &without(of_unit_length(2), "content")).await;
    let run = scene.run(&scene.manifest(8)).await;
    assert!(!run.success && run.output.contains("maxQuarantined allows 0"), "{run:?}");
    assert_eq!(hand.quarantined().await, [(collection, "bad".to_owned(), "content".to_owned())]);

    let exported = hand.quarantine(&["export"]).await;
    let line: Value = serde_json::from_str(&exported.output).expect("a line of JSON");
    assert_eq!((&line["chunk_id"], &line["index"]), (&json!("bad"), &json!(collection.to_string())));
    assert!(line["original"]["embedding"].is_string(), "it was not read beside it: {line}");
    let mended = with(line["original"].clone(), "content", json!("mended"));
    hand.put(collection, "bad", "x", &mended).await;
    let run = scene.run(&token(&scene.manifest(8), "mended")).await;
    assert!(run.success, "{run:?}");
    assert_eq!(hand.contents(collection).await, ["good", "mended"]);
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
    // With the very embedding that was there.
    let query = json!({"query": {"match_all": {}}});
    let found = scene.destination().post(&format!("/{}/_search", scene.index), &query).await.unwrap();
    let hits = found["hits"]["hits"].as_array().unwrap();
    let embeddings: Vec<&Value> = hits.iter().map(|hit| &hit["_source"]["embedding"]).collect();
    assert_eq!(embeddings.len(), 2);
    assert_eq!(embeddings[0], embeddings[1]);
}

/// Its key was deleted in the destination in the same pass in which the other chunk was.
#[tokio::test(flavor = "multi_thread")]
async fn a_collision_that_is_mended_while_nobody_writes_goes_over_at_the_cutover() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let collection = hand.collection(0, 1).await;
    hand.put(collection, "other", "x", &chunk(collection, 2, "other")).await;
    hand.put(collection, "first", "x", &chunk(collection, 1, "first")).await;
    hand.put(collection, "second", "x", &chunk(collection, 1, "second")).await;
    scene.run_until(&hold(&scene.manifest(8)), "Synced").await;
    let of_first = (collection, "first".to_owned(), "Collision".to_owned());
    assert_eq!(hand.quarantined().await, [of_first]);
    hand.delete(collection, "second", "x").await;
    // Followed, with nothing in between: the key is away from the destination.
    let followed = "SELECT bool_or(keys_checked_to < copy_planned_to OR copy_planned_to < 4) AND $1 <> ''
                    FROM es_index_merge.shard";
    scene.run_while(&hold(&scene.manifest(8)), followed, "x").await;
    assert_eq!(hand.contents(collection).await, ["other"]);
    let run = scene.run(&scene.manifest(8)).await;
    assert!(run.success, "{run:?}");
    assert_eq!(hand.contents(collection).await, ["first", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_destination_refuses_or_alters_is_named_and_goes_over_when_it_no_longer_does() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let collection = hand.collection(0, 1).await;
    hand.put(collection, "first", "x", &chunk(collection, 1, "1")).await;
    scene.run_until(&hold(&scene.manifest(8)), "Synced").await;

    // From now on the destination takes only content that is a number, and alters one.
    let numbers = |ignore: bool| {
        json!({"properties": {"content": {
            "type": "text", "analyzer": "content_analyzer",
            "fields": {"number": {"type": "long", "ignore_malformed": ignore}},
        }}})
    };
    let mapping = format!("/{}/_mapping", scene.index);
    let settings = format!("/{}/_settings", scene.index);
    scene.destination().put(&mapping, &numbers(false)).await.unwrap();
    let pipeline = format!("altering-{}", scene.index);
    let alter = json!({"processors": [{"set": {
        "field": "content", "value": "666", "if": "ctx.content == '13'"
    }}]});
    scene.destination().put(&format!("/_ingest/pipeline/{pipeline}"), &alter).await.unwrap();
    scene.destination().put(&settings, &json!({"index.final_pipeline": pipeline})).await.unwrap();
    for (id, content) in [(2, "two"), (3, "3"), (4, "13"), (5, "five")] {
        hand.put(collection, &format!("chunk-{id}"), "x", &chunk(collection, id, content)).await;
    }

    let run = scene.run(&scene.manifest(8)).await;
    assert!(!run.success && run.output.contains("differ after their repair"), "{run:?}");
    let of = |id: &str, class: &str| (collection, id.to_owned(), class.to_owned());
    let seen = hand.quarantined().await;
    assert_eq!(seen, [of("chunk-2", "Refused"), of("chunk-4", "Different"), of("chunk-5", "Refused")]);
    let listed = hand.quarantine(&["list", "--class", "Refused"]).await;
    assert!(listed.output.contains("document_parsing_exception"), "{listed:?}");
    let listed = hand.quarantine(&["list", "--class", "Different"]).await;
    assert!(listed.output.contains("still different after 2 repairs"), "{listed:?}");

    // One is mended in the source: its own operation takes it over, without anybody asking.
    hand.put(collection, "chunk-5", "x", &chunk(collection, 5, "5")).await;
    // The others by the destination, and somebody asks.
    scene.destination().put(&mapping, &numbers(true)).await.unwrap();
    scene.destination().put(&settings, &json!({"index.final_pipeline": null})).await.unwrap();
    let refused = hand.quarantine(&["retry", "--class", "Refused"]).await;
    assert!(refused.output.contains("2 chunks will be copied and compared again"), "{refused:?}");
    assert!(refused.output.contains("new spec.retryToken"), "{refused:?}");
    let run = scene.run(&scene.manifest(8)).await;
    assert!(run.success, "{run:?}");
    assert!(hand.quarantined().await.is_empty());
    assert_eq!(hand.contents(collection).await, ["1", "13", "3", "5", "two"]);
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
    let over = hand.quarantine(&["retry"]).await;
    assert!(!over.success && over.output.contains("the merge is over"), "{over:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_retry_token_tries_again_what_is_in_quarantine() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let hand = Hand::new(&scene).await;
    let collection = hand.collection(0, 1).await;
    hand.put(collection, "a", "x", &chunk(collection, 1, "1")).await;
    scene.run_until(&hold(&scene.manifest(8)), "Synced").await;
    let mapping = format!("/{}/_mapping", scene.index);
    let numbers = |ignore: bool| {
        json!({"properties": {"content": {
            "type": "text", "analyzer": "content_analyzer",
            "fields": {"number": {"type": "long", "ignore_malformed": ignore}},
        }}})
    };
    scene.destination().put(&mapping, &numbers(false)).await.unwrap();
    hand.put(collection, "b", "x", &chunk(collection, 2, "two")).await;
    let run = scene.run(&scene.manifest(8)).await;
    assert!(!run.success, "{run:?}");

    scene.destination().put(&mapping, &numbers(true)).await.unwrap();
    let same = scene.run(&scene.manifest(8)).await;
    assert!(!same.success, "nobody asked for it: {same:?}");
    let run = scene.run(&token(&scene.manifest(8), "again")).await;
    assert!(run.success, "{run:?}");
    assert!(hand.quarantined().await.is_empty());
    assert_eq!(hand.contents(collection).await, ["1", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_share_a_key_collapse_if_they_are_equal_and_are_named_if_not() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let rivals = |collection| (chunk(collection, 1, "one"), chunk(collection, 1, "other"));

    let one_shard = hand.collection(0, 1).await;
    let (one, other) = rivals(one_shard);
    hand.put(one_shard, "a", "x", &one).await;
    hand.put(one_shard, "b", "x", &other).await;
    // On two shards, where the versions say nothing: the one in the destination may have the lower one ...
    let two_shards = hand.collection(1, 2).await;
    let at = hand.routings(two_shards, 2).await;
    let (one, other) = rivals(two_shards);
    for filler in 10..13 {
        hand.put(two_shards, &filler.to_string(), &at[0], &chunk(two_shards, filler, "filler")).await;
    }
    hand.put(two_shards, "a", &at[0], &one).await;
    hand.put(two_shards, "b", &at[1], &other).await;
    // ... or the same one.
    let same_place = hand.collection(2, 2).await;
    let at_same = hand.routings(same_place, 2).await;
    let (one, other) = rivals(same_place);
    let places = [
        hand.put(same_place, "a", &at_same[0], &one).await,
        hand.put(same_place, "b", &at_same[1], &other).await,
    ];
    assert_eq!(places, [0, 0]);
    // Equal ones, at such places too.
    let equal = hand.collection(3, 2).await;
    let at_equal = hand.routings(equal, 2).await;
    for (id, routing) in [("a", 0), ("b", 1), ("c", 0), ("d", 1)] {
        hand.put(equal, id, &at_equal[routing], &chunk(equal, 1, "equal")).await;
    }
    // The rival comes when the first one has long been compared; and a deletion keeps the count what it was.
    let late = hand.collection(4, 1).await;
    let (one, other) = rivals(late);
    hand.put(late, "a", "x", &one).await;
    hand.put(late, "gone", "x", &chunk(late, 2, "gone")).await;
    scene.run_until(&hold(&scene.manifest(8)), "Synced").await;
    hand.put(late, "b", "x", &other).await;
    let late_equal = hand.collection(5, 1).await;
    hand.put(late_equal, "a", "x", &chunk(late_equal, 1, "equal")).await;

    let run = scene.run(&scene.manifest(8)).await;
    assert!(!run.success, "{run:?}");
    let seen = hand.quarantined().await;
    let collections: Vec<i64> = seen.iter().map(|(collection, ..)| *collection).collect();
    assert_eq!(collections, [one_shard, two_shards, same_place, late], "{seen:?}");
    assert!(seen.iter().all(|(.., class)| class == "Collision"), "{seen:?}");
    assert_eq!(hand.contents(equal).await, ["equal"]);
    let collapsed: i64 = sqlx::query_scalar(
        "SELECT collapsed FROM es_index_merge.collection_verdict WHERE collection_id = $1",
    )
    .bind(equal)
    .fetch_one(scene.pool())
    .await
    .unwrap();
    assert_eq!(collapsed, 3, "counted");

    // One of each pair is deleted: the one that was copied, so that the other has to go over now.
    let kept: BTreeSet<(i64, String)> =
        seen.into_iter().map(|(collection, id, _)| (collection, id)).collect();
    for (collection, routings) in
        [(one_shard, None), (two_shards, Some(&at)), (same_place, Some(&at_same)), (late, None)]
    {
        for (nth, id) in ["a", "b"].into_iter().enumerate() {
            if !kept.contains(&(collection, id.to_owned())) {
                let routing = routings.map_or("x", |routings| routings[nth].as_str());
                hand.delete(collection, id, routing).await;
            }
        }
    }
    let run = scene.run(&token(&scene.manifest(8), "deleted")).await;
    assert!(run.success, "{run:?}");
    assert!(hand.quarantined().await.is_empty());
    for (collection, id) in &kept {
        let content = if id == "a" { "one" } else { "other" };
        let contents = hand.contents(*collection).await;
        assert!(contents.iter().any(|found| found == content), "{collection}: {contents:?}");
        assert!(!contents.iter().any(|found| ["one", "other"].contains(&found.as_str()) && found != content));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mended_chunk_leaves_the_quarantine_while_the_merge_follows_the_sources() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let collection = hand.collection(0, 1).await;
    let bad = with(chunk(collection, 1, "mended"), "embedding", json!(ZERO));
    hand.put(collection, "a", "x", &bad).await;
    hand.put(collection, "b", "x", &with(chunk(collection, 2, "still bad"), "embedding", json!(ZERO))).await;
    scene.run_until(&hold(&scene.manifest(8)), "Synced").await;
    assert_eq!(hand.quarantined().await.len(), 2);
    hand.put(collection, "a", "x", &chunk(collection, 1, "mended")).await;

    let is_there = "SELECT count(*) > 0 FROM es_index_merge.quarantine WHERE chunk_id = $1";
    scene.run_while(&hold(&scene.manifest(8)), is_there, "a").await;
    assert_eq!(hand.quarantined().await, [(collection, "b".to_owned(), "vector".to_owned())]);
    assert_eq!(hand.contents(collection).await, ["mended"]);
    let tolerant = scene.manifest(8).replace("maxQuarantined: 0", "maxQuarantined: 1");
    let run = scene.run(&tolerant).await;
    assert!(run.success, "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_above_the_size_that_the_destination_takes_is_named_and_its_neighbours_go_over() {
    let (source, server) = tokio::task::spawn_blocking(|| {
        let settings = BTreeMap::from([("http.max_content_length".to_owned(), "1mb".to_owned())]);
        let options = Options { heap: "512m".to_owned(), settings, ..Options::default() };
        let source = Access::clone(Elasticsearch::shared(Flavor::V8).expect("a server"));
        (source, Elasticsearch::start(Flavor::V8, &options).expect("a server"))
    })
    .await
    .unwrap();
    let scene = Scene::between(source, Access::clone(&server)).await;
    let hand = Hand::new(&scene).await;
    let collection = hand.collection(0, 1).await;
    hand.put(collection, "before", "x", &chunk(collection, 1, "before")).await;
    hand.put(collection, "large", "x", &chunk(collection, 2, &"large ".repeat(300_000))).await;
    hand.put(collection, "after", "x", &chunk(collection, 3, "after")).await;
    // A new server makes the index of its users and keys when it is first asked for them.
    let asked = json!({"cluster": ["monitor"]});
    let ready = async {
        while scene.destination().post("/_security/user/_has_privileges", &asked).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), ready).await.expect("the server knows its users");
    let run = scene.run(&scene.manifest(8)).await;
    assert!(!run.success, "{run:?}");
    assert_eq!(hand.quarantined().await, [(collection, "large".to_owned(), "Refused".to_owned())]);
    assert_eq!(hand.contents(collection).await, ["after", "before"]);
    let listed = hand.quarantine(&["list"]).await;
    assert!(listed.output.contains("the chunk alone is too large for a request"), "{listed:?}");
}
