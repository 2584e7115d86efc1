//! What a source keeps from whoever reads it: a part of an index behind an alias, or what an index is like.

use serde_json::{Value, json};
use testenv::elasticsearch::{Access, Elasticsearch, Options};

use crate::late::{held, is_blocked};
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::Shelf;

/// Gives an index another name, which leaves out what the filter or the routing leaves out.
async fn give_alias(scene: &Scene, index: &str, alias: &str, what: Value) {
    let mut add = what;
    add["index"] = json!(index);
    add["alias"] = json!(alias);
    let actions = json!({"actions": [{"add": add}]});
    scene.source_cluster.post("/_aliases", &actions).await.unwrap();
}

/// One index for two collections, as some do to save shards; and one of which a part is withdrawn.
#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_leaves_out_a_part_of_its_index_is_named_and_nothing_is_taken_through_it() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let first = scene.first_id;
    let healthy = Shelf::create(&scene, first, 1).await;
    healthy.put_document(first, 6, "there").await;
    let (one, other, withdrawn, routed) = (
        Shelf::row(&scene, first + 1).await,
        Shelf::row(&scene, first + 2).await,
        Shelf::row(&scene, first + 3).await,
        Shelf::row(&scene, first + 4).await,
    );
    let filter = |document: i64| json!({"filter": {"term": {"metadata.document_id": document}}});
    let mut behind = Vec::new();
    for (shelf, documents) in [
        (one.under(&format!("shared-{}", one.index)), [first + 1, first + 2]),
        (withdrawn.under(&format!("docs-{}", withdrawn.index)), [first + 3, first + 30]),
        (routed.under(&format!("routed-{}", routed.index)), [first + 4, first + 40]),
    ] {
        shelf.create_index(2).await;
        for document in documents {
            shelf.put_document(document, 4, "behind an alias").await;
        }
        behind.push(shelf);
    }
    give_alias(&scene, &behind[0].index, &one.index, filter(first + 1)).await;
    give_alias(&scene, &behind[0].index, &other.index, filter(first + 2)).await;
    give_alias(&scene, &behind[1].index, &withdrawn.index, filter(first + 3)).await;
    give_alias(&scene, &behind[2].index, &routed.index, json!({"routing": "a"})).await;

    let manifest = scene.manifest(DIMENSIONS);
    let plan = scene.command("plan", &manifest).await;
    let run = scene.run(&manifest).await;
    assert!(!run.success, "{run:?}");
    for shelf in [&one, &other, &withdrawn, &routed] {
        let told = format!("{}: AliasFiltered: its id is an alias of ", shelf.collection);
        assert!(run.output.contains(&told) && plan.output.contains(&told), "{told}: {plan:?}, {run:?}");
        assert!(shelf.in_destination().await.is_empty(), "{} was taken", shelf.collection);
    }
    assert!(run.output.contains("4 collections are not equal"), "{run:?}");
    assert_eq!(healthy.in_destination().await.len(), 6);

    // What shows all of an index has it.
    give_alias(&scene, &behind[1].index, &withdrawn.index, json!({})).await;
    let exclude =
        format!("    exclude: [{}, {}, {}]\n  source:", one.collection, other.collection, routed.collection);
    let again = manifest.replacen("  source:", &exclude, 1);
    let run = scene.run(&again.replace("  contract:", "  retryToken: again\n  contract:")).await;
    assert!(run.success, "{run:?}");
    assert_eq!(withdrawn.in_destination().await.len(), 8);
}

/// The merge has copied the whole index when its owner withdraws a part of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_gets_a_filter_while_it_is_followed_is_named_and_nothing_is_deleted() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let healthy = Shelf::create(&scene, scene.first_id + 2, 1).await;
    healthy.put_document(healthy.collection, 2, "there").await;
    let shelf = Shelf::row(&scene, scene.first_id).await;
    let behind = shelf.under(&format!("docs-{}", shelf.index));
    behind.create_index(1).await;
    behind.put_document(scene.first_id, 4, "shown").await;
    behind.put_document(scene.first_id + 1, 3, "withdrawn").await;
    give_alias(&scene, &behind.index, &shelf.index, json!({})).await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    assert_eq!(shelf.in_destination().await.len(), 7);
    let filter = json!({"filter": {"term": {"metadata.document_id": scene.first_id}}});
    give_alias(&scene, &behind.index, &shelf.index, filter).await;
    let waiting = "SELECT count(*) FROM es_index_merge.source WHERE state = 'waiting'";
    scene
        .wait_for("the source to be set aside", async || {
            let aside: i64 = sqlx::query_scalar(waiting).fetch_one(&scene.pool).await.unwrap();
            (aside == 1).then_some(())
        })
        .await;
    session.stop().await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(!run.success && run.output.contains("AliasFiltered: "), "{run:?}");
    assert_eq!(shelf.in_destination().await.len(), 7);
    behind.delete_index().await;
}

/// A server of its own: whoever else lists settings there would be refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_may_not_be_looked_at_holds_up_the_cutover_and_no_other_one() {
    let (server, destination) = tokio::task::spawn_blocking(|| {
        let options = Options { heap: "512m".to_owned(), ..Options::default() };
        let destination = Access::clone(Elasticsearch::shared(Flavor::V9).expect("a server"));
        (Elasticsearch::start(Flavor::V8, &options).expect("a server"), destination)
    })
    .await
    .unwrap();
    let scene = Scene::between(Access::clone(&server), destination).await;
    // A new server makes the index of its users when it is first asked for them.
    let asked = json!({"cluster": ["monitor"]});
    let knows_its_users =
        async || scene.source_cluster.post("/_security/user/_has_privileges", &asked).await.ok();
    scene.wait_for("a server that knows its users", knows_its_users).await;
    let _tables = Shelf::tables(&scene).await;
    let mut shelves = Vec::new();
    for at in 0..4 {
        let shelf = Shelf::create(&scene, scene.first_id + at, 1).await;
        shelf.put_document(shelf.collection, 6, "there").await;
        shelves.push(shelf);
    }
    let [first, locked, locked_later, last] = &shelves[..] else { unreachable!("there are four") };
    let lock = async |shelf: &Shelf<'_>, is_locked: Value| {
        let path = format!("/{}/_settings", shelf.index);
        scene.source_cluster.put(&path, &json!({"index.blocks.metadata": is_locked})).await.unwrap();
    };
    lock(locked, json!(true)).await;
    let told = format!("the index of collection {} cannot be read now: ", locked.collection);
    let plan = scene.command("plan", &scene.manifest(DIMENSIONS)).await;
    assert!(plan.output.contains("blocked by"), "{plan:?}");

    let mut session = Session::start(&scene.manifest(DIMENSIONS)).await;
    session.says(&told).await;
    scene.wait_for_a_whole_pass().await;
    for shelf in [first, locked_later, last] {
        assert_eq!(shelf.in_destination().await.len(), 6);
    }
    assert!(locked.in_destination().await.is_empty());
    lock(locked_later, json!(true)).await;
    last.put_document(last.collection + 1, 5, "while another one is locked").await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(last.in_destination().await.len(), 11);
    assert_eq!(locked_later.in_destination().await.len(), 6, "what is only locked loses nothing");
    assert_eq!(scene.phase().await.as_deref(), Some("Synced"));
    assert!(!is_blocked(&scene, &last.index).await, "a writer is refused for nothing");

    lock(locked, Value::Null).await;
    lock(locked_later, Value::Null).await;
    let run = session.end().await;
    assert!(run.success && run.output.contains("lift the block of the index"), "{run:?}");
    assert_eq!(locked.in_destination().await.len(), 6);
    let verdict = scene.check(DIMENSIONS).await;
    assert!(verdict.is_good(), "{verdict}");
}
