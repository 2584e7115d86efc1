//! The state's Postgres is set back to an older state: after a fail-over to a replica that lags, or by a dump. What the merge did
//! since then is in the destination, and nobody remembers it.

use std::collections::BTreeMap;
use std::time::Duration;

use demo::cluster::Method;
use demo::seed::bulk::Bulk;
use es_index_merge::merge::{Engine, Next};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cutover::Manifest;
use crate::late::held;
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::{Chunk, Shelf};

/// Keeps the rows of the state as they are. Once in a scene.
const KEEP: &str = "
    CREATE SCHEMA kept;
    DO $$
    DECLARE
        kept_tables text[] := ARRAY['merge', 'source', 'shard', 'unit', 'quarantine', 'collection_verdict'];
        kept_table text;
    BEGIN
        IF EXISTS (SELECT FROM pg_tables WHERE schemaname = 'es_index_merge'
                   AND tablename <> ALL (kept_tables || '_sqlx_migrations'::text)) THEN
            RAISE 'a table of the state is not kept';
        END IF;
        FOREACH kept_table IN ARRAY kept_tables LOOP
            EXECUTE format('CREATE TABLE kept.%1$I AS TABLE es_index_merge.%1$I', kept_table);
        END LOOP;
    END $$;
    CREATE TABLE kept.sequences AS
        SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'es_index_merge';";

/// Puts them back, and the numbers that are given next. Whatever was leased then has run out.
const SET_BACK: &str = "
    TRUNCATE es_index_merge.merge CASCADE;
    DO $$
    DECLARE
        kept_tables text[] := ARRAY['merge', 'source', 'shard', 'unit', 'quarantine', 'collection_verdict'];
        kept_table text;
    BEGIN
        FOREACH kept_table IN ARRAY kept_tables LOOP
            EXECUTE format(
                'INSERT INTO es_index_merge.%1$I OVERRIDING SYSTEM VALUE SELECT * FROM kept.%1$I', kept_table);
        END LOOP;
    END $$;
    SELECT setval(format('es_index_merge.%I', sequencename)::regclass, coalesce(last_value, 1),
                  last_value IS NOT NULL) FROM kept.sequences;
    UPDATE es_index_merge.unit SET available_at = now() WHERE available_at > now();
    UPDATE es_index_merge.merge SET stepper = NULL;
    DROP SCHEMA kept CASCADE;";

/// Runs statements, all of which see the same state.
async fn at_once(scene: &Scene, statements: &'static str) {
    let mut transaction = scene.pool.begin().await.unwrap();
    let one_moment = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";
    sqlx::raw_sql(one_moment).execute(&mut *transaction).await.unwrap();
    sqlx::raw_sql(statements).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
}

/// Writes a chunk under an id that does not change.
async fn put_as(scene: &Scene, shelf: &Shelf<'_>, id: &str, chunk: Chunk<'_>) {
    let mut bulk = Bulk::default();
    bulk.index(&shelf.index, Some(id), &chunk.source());
    bulk.send(&scene.source_cluster).await.unwrap();
    scene.source_cluster.refresh(&shelf.index).await.unwrap();
}

async fn is_copied_in_part(scene: &Scene) -> bool {
    let query = "SELECT EXISTS (SELECT FROM es_index_merge.unit WHERE cursor_seq > from_seq)
                 AND EXISTS (SELECT FROM es_index_merge.unit WHERE state = 'open' AND kind = 'copy')";
    sqlx::query_scalar(query).fetch_one(&scene.pool).await.unwrap()
}

/// Copies some of what there is to copy, and keeps the state as it is then. No process is left.
async fn keep_in_the_copying(scene: &Scene) {
    let slow = scene.manifest(DIMENSIONS).replace(
        "  cutover:\n",
        "  workers: {concurrency: 1, maxBytesInFlight: 1Mi, maxDocumentsPerSecond: 40}\n  cutover:\n",
    );
    let session = Session::start(&slow).await;
    scene.wait_for_phase("Copying").await;
    scene.wait_for("the first checkpoint", async || is_copied_in_part(scene).await.then_some(())).await;
    session.stop().await;
    assert!(is_copied_in_part(scene).await, "everything was copied before its time");
    assert_eq!(scene.phase().await.as_deref(), Some("Copying"));
    at_once(scene, KEEP).await;
}

/// The longest pause between two steps of a process under the test's hand.
const LONGEST: Duration = Duration::from_millis(500);

/// A process that follows the sources under the test's hand.
async fn follower(scene: &Scene) -> Engine {
    Manifest::parse(&held(&scene.manifest(DIMENSIONS))).open("following").await
}

async fn goes_on(engine: &Engine) {
    loop {
        let report = engine.step(Timestamp::now()).await.expect("a step");
        if report.next != Next::Now {
            // Workers have something to tell, or there may be something to follow.
            let _ = tokio::time::timeout(LONGEST, engine.progressed()).await;
        }
    }
}

/// Lets the process go on until that is so; nothing of it is under way afterwards.
async fn goes_on_until(engine: &Engine, is_so: impl Future<Output = ()>) {
    tokio::select! {
        () = is_so => {}
        () = Box::pin(goes_on(engine)) => unreachable!("it goes on for ever"),
    }
    engine.stop().await;
}

/// Deletes one chunk of a document from the source.
async fn delete_chunk(scene: &Scene, shelf: &Shelf<'_>, document: i64, number: i64) {
    let query = json!({"query": {"bool": {"filter": [
        {"term": {"metadata.document_id": document}}, {"term": {"id": number}}]}}});
    let path = format!("/{}/_delete_by_query?refresh=true", shelf.index);
    assert_eq!(scene.source_cluster.post(&path, &query).await.unwrap()["deleted"], 1);
}

async fn number_of_passes(scene: &Scene) -> i32 {
    let pass = "SELECT pass FROM es_index_merge.merge";
    sqlx::query_scalar(pass).fetch_one(&scene.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_set_back_into_the_copying_catches_up() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let first = scene.first_id;
    let stays = Shelf::create(&scene, first, 2).await;
    stays.put_document(first, 110, "there").await;
    stays.put_document(first + 1, 10, "goes").await;
    put_as(&scene, &stays, "changes", Chunk(first, 500, "before")).await;
    let made_anew = Shelf::create(&scene, first + 2, 1).await;
    made_anew.put_document(first + 2, 6, "before").await;
    let goes = Shelf::create(&scene, first + 3, 1).await;
    goes.put_document(first + 3, 6, "goes").await;
    keep_in_the_copying(&scene).await;

    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    stays.delete_document(first + 1).await;
    put_as(&scene, &stays, "changes", Chunk(first, 500, "after")).await;
    made_anew.delete_index().await;
    made_anew.create_index(3).await;
    made_anew.put(&[Chunk(first + 2, 1, "anew"), Chunk(first + 2, 9, "anew")]).await;
    goes.delete_index().await;
    goes.delete_row().await;
    let comes = Shelf::create(&scene, first + 4, 1).await;
    comes.put_document(first + 4, 6, "comes").await;
    scene.wait_for_a_whole_pass().await;
    put_as(&scene, &stays, "changes", Chunk(first, 500, "in the end")).await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(comes.in_destination().await.len(), 6);
    session.kill().await;
    at_once(&scene, SET_BACK).await;
    assert_eq!(scene.phase().await.as_deref(), Some("Copying"));

    scene.completes(&scene.manifest(DIMENSIONS)).await;
    let there = stays.in_destination().await;
    assert_eq!((there.len(), goes.in_destination().await.len()), (111, 0));
    assert_eq!(there[&(first, 500)]["_source"]["content"], "in the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_set_back_to_before_a_deletion_and_an_update_finds_them_again() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 2).await;
    let document = scene.first_id;
    shelf.put_document(document, 20, "stays").await;
    shelf.put_document(document + 1, 20, "goes").await;
    put_as(&scene, &shelf, "changes", Chunk(document, 500, "before")).await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    at_once(&scene, KEEP).await;
    shelf.delete_document(document + 1).await;
    put_as(&scene, &shelf, "changes", Chunk(document, 500, "after")).await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(shelf.in_destination().await.len(), 21);
    session.kill().await;
    at_once(&scene, SET_BACK).await;

    scene.completes(&scene.manifest(DIMENSIONS)).await;
    let there = shelf.in_destination().await;
    assert_eq!(there.len(), 21);
    assert_eq!(there[&(document, 500)]["_source"]["content"], "after");
}

/// A document carries the number of the pass in which it was written, and the state knows of fewer passes than there were: what it
/// writes and deletes must be above that all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_copied_in_passes_that_nobody_remembers_can_change_go_and_come_back() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    let document = scene.first_id;
    shelf.put_document(document, 10, "there").await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    at_once(&scene, KEEP).await;
    let kept = number_of_passes(&scene).await;
    for number in 100..103 {
        put_as(&scene, &shelf, &format!("late-{number}"), Chunk(document, number, "late")).await;
        scene.wait_for_a_whole_pass().await;
    }
    // A pass in which nothing is written, and something is deleted.
    delete_chunk(&scene, &shelf, document, 5).await;
    scene.wait_for_a_whole_pass().await;
    assert!(!shelf.in_destination().await.contains_key(&(document, 5)));
    assert!(number_of_passes(&scene).await > kept + 3, "there were too few passes");
    session.kill().await;
    at_once(&scene, SET_BACK).await;
    assert_eq!(number_of_passes(&scene).await, kept);

    let goes = format!("/{}/_doc/late-102?refresh=true", shelf.index);
    scene.source_cluster.require(Method::DELETE, &goes, None).await.unwrap();
    put_as(&scene, &shelf, "late-101", Chunk(document, 101, "changed")).await;
    shelf.put(&[Chunk(document, 5, "comes back")]).await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    let there = shelf.in_destination().await;
    assert!(!there.contains_key(&(document, 102)), "a deleted chunk is still there");
    assert_eq!(there[&(document, 101)]["_source"]["content"], "changed");
    assert_eq!(there[&(document, 5)]["_source"]["content"], "comes back");
}

/// A fail-over under a process that goes on: it knows how many passes there were, also where no document tells of the last ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_goes_on_does_not_forget_the_passes_that_the_state_forgets() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    let document = scene.first_id;
    shelf.put_document(document, 10, "there").await;
    put_as(&scene, &shelf, "changes", Chunk(document, 100, "before")).await;
    let engine = follower(&scene).await;
    goes_on_until(&engine, async {
        scene.wait_for_phase("Synced").await;
        scene.wait_for_a_whole_pass().await;
    })
    .await;
    at_once(&scene, KEEP).await;
    let kept = number_of_passes(&scene).await;
    put_as(&scene, &shelf, "changes", Chunk(document, 100, "meanwhile")).await;
    goes_on_until(&engine, scene.wait_for_a_whole_pass()).await;
    for number in [5, 6] {
        delete_chunk(&scene, &shelf, document, number).await;
        goes_on_until(&engine, scene.wait_for_a_whole_pass()).await;
    }
    assert!(number_of_passes(&scene).await > kept + 2, "there were too few passes");
    at_once(&scene, SET_BACK).await;
    assert_eq!(number_of_passes(&scene).await, kept);

    put_as(&scene, &shelf, "changes", Chunk(document, 100, "in the end")).await;
    shelf.put(&[Chunk(document, 5, "comes back"), Chunk(document, 6, "comes back")]).await;
    goes_on_until(&engine, scene.wait_for_a_whole_pass()).await;
    let there = shelf.in_destination().await;
    for (number, content) in [(100, "in the end"), (5, "comes back"), (6, "comes back")] {
        assert_eq!(there[&(document, number)]["_source"]["content"], content);
    }
    assert_eq!(scene.quarantined().await, 0);
    drop(engine);
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    assert_eq!(shelf.in_destination().await.len(), 11);
}

/// The end took away the alias through which workers write.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_set_back_from_the_end_into_the_copying_ends_again() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 2).await;
    shelf.put_document(scene.first_id, 120, "there").await;
    keep_in_the_copying(&scene).await;
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    at_once(&scene, SET_BACK).await;
    assert_eq!(scene.phase().await.as_deref(), Some("Copying"));
    // Somebody knows that no application has written there yet.
    let mapping = format!("/{}/_mapping", scene.index);
    scene.destination_cluster.put(&mapping, &json!({"_meta": {}})).await.unwrap();
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    assert_eq!(shelf.in_destination().await.len(), 120);
}

/// Writes to the destination as an application does once it is served from there; gives what is there then.
async fn applications_write(scene: &Scene, shelf: &Shelf<'_>) -> BTreeMap<(i64, i64), Value> {
    let there = shelf.in_destination().await;
    let cluster = &scene.destination_cluster;
    let (document, _) = *there.keys().next().unwrap();
    let id = |number: i64| there[&(document, number)]["_id"].as_str().unwrap();
    let reworded = json!({"doc": {"content": "by the application"}});
    cluster.post(&format!("/{}/_update/{}", scene.index, id(0)), &reworded).await.unwrap();
    let path = format!("/{}/_doc/{}", scene.index, id(1));
    cluster.require(Method::DELETE, &path, None).await.unwrap();
    let mut new = there[&(document, 2)]["_source"].clone();
    new["document_id"] = json!(document + 1_000);
    cluster.post(&format!("/{}/_doc", scene.index), &new).await.unwrap();
    let after = shelf.in_destination().await;
    assert_ne!(after, there);
    assert_eq!(after.len(), there.len());
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn what_applications_write_to_a_destination_that_was_handed_over_stays_whatever_the_state_remembers() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let first = scene.first_id;
    let shelf = Shelf::create(&scene, first, 2).await;
    shelf.put_document(first, 20, "moves").await;
    let manifest = scene.manifest(DIMENSIONS);
    scene.run_until(&held(&manifest), "Synced").await;
    at_once(&scene, KEEP).await;
    let owned = json!({"_meta": {"owner": "somebody"}});
    scene.destination_cluster.put(&format!("/{}/_mapping", scene.index), &owned).await.unwrap();
    scene.completes(&manifest).await;
    let there = applications_write(&scene, &shelf).await;

    let refused = async |manifest: &str| {
        let run = scene.run(manifest).await;
        assert!(!run.success && run.output.contains("handed this index over"), "{run:?}");
        assert_eq!(shelf.in_destination().await, there);
    };
    let others = manifest.replace("  collections:\n", &format!("  collections:\n    exclude: [{first}]\n"));
    at_once(&scene, SET_BACK).await;
    refused(&manifest).await;
    // What is taken out of a merge is purged, which would not be less.
    refused(&others).await;
    scene.forget_the_merge().await;
    refused(&manifest).await;

    // Another collection may follow.
    let later = Shelf::create(&scene, first + 1, 1).await;
    later.put_document(first + 1, 5, "follows").await;
    let run = scene.run(&others).await;
    assert!(run.success, "{run:?}");
    assert_eq!(later.in_destination().await.len(), 5);
    assert_eq!(shelf.in_destination().await, there);
    scene.forget_the_merge().await;
    refused(&manifest).await;

    // Somebody takes the mark away, and with it what applications wrote.
    let mapping = format!("/{}/_mapping", scene.index);
    let marked = scene.destination_cluster.get(&mapping).await.unwrap();
    let meta = &marked[&scene.index]["mappings"]["_meta"];
    assert_eq!(meta["owner"], "somebody");
    assert_eq!(meta["es-index-merge"]["handedOver"].as_array().map(Vec::len), Some(2), "{meta}");
    scene.destination_cluster.put(&mapping, &json!({"_meta": {}})).await.unwrap();
    scene.completes(&manifest).await;
}
