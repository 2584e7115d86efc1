//! A cutover that does not come to its end: given up, killed, suspended, or begun under a clock that jumps. Writers are
//! served again or the verdict is there; in the end nothing is missing.

use std::collections::BTreeMap;
use std::time::Duration;

use es_index_merge::api::EsIndexMerge;
use es_index_merge::merge::secrets::{self, SecretProblem, SecretSource};
use es_index_merge::merge::{Engine, MergeError, Next, Phase, ValidMerge};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::late::{crawling, held, is_blocked, wait_for_block, with_late_chunks};
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::Shelf;

async fn completes(scene: &Scene, shelf: &Shelf<'_>) {
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    assert!(is_blocked(scene, &shelf.index).await, "writers were never refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_longer_than_its_timeout_serves_writers_again_and_is_tried_again() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    let shelf = with_late_chunks(&scene).await;
    let session = Session::start(&crawling(&scene, 3, "10s")).await;
    wait_for_block(&scene, &shelf).await;
    scene
        .wait_for("the block to be lifted", async || (!is_blocked(&scene, &shelf.index).await).then_some(()))
        .await;
    shelf.put_document(scene.first_id + 2, 1, "writers are served again").await;
    let query = "SELECT phase = 'Synced' AND memo->'cutover'->>'last_failure' LIKE '%spec.cutover.timeout%'
                 FROM es_index_merge.merge";
    scene
        .wait_for("the reason", async || {
            let is_told: Option<bool> = sqlx::query_scalar(query).fetch_one(&scene.pool).await.unwrap();
            is_told.filter(|told| *told)
        })
        .await;
    scene
        .wait_for("the next attempt, which may be refused writes too", async || {
            is_blocked(&scene, &shelf.index).await.then_some(())
        })
        .await;
    let run = session.stop().await;
    assert!(run.output.contains("not done within spec.cutover.timeout"), "{run:?}");
    completes(&scene, &shelf).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_process_is_killed_goes_on_in_the_next_process() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    let shelf = with_late_chunks(&scene).await;
    let session = Session::start(&crawling(&scene, 1, "5m")).await;
    wait_for_block(&scene, &shelf).await;
    session.kill().await;
    assert_eq!(scene.phase().await.as_deref(), Some("CuttingOver"));
    completes(&scene, &shelf).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_suspended_serves_writers_again() {
    let scene = Scene::new(Flavor::V8, Flavor::V8).await;
    let shelf = with_late_chunks(&scene).await;
    let manifest = crawling(&scene, 1, "5m");
    let session = Session::start(&manifest).await;
    wait_for_block(&scene, &shelf).await;
    // One that is told to end would serve them by itself.
    session.kill().await;
    let suspended = scene.run(&manifest.replace("spec:\n", "spec:\n  suspend: true\n")).await;
    assert!(suspended.output.contains("Suspended"), "{suspended:?}");
    assert!(!is_blocked(&scene, &shelf.index).await, "writers are refused while nobody works");
    shelf.put_document(scene.first_id + 2, 3, "written while suspended").await;
    completes(&scene, &shelf).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_excluded_during_the_cutover_is_served_again() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let other = Shelf::create(&scene, scene.first_id + 1, 1).await;
    other.put_document(scene.first_id + 2, 3, "stays where it is").await;
    let session = Session::start(&crawling(&scene, 3, "5m")).await;
    wait_for_block(&scene, &other).await;
    session.stop().await;
    let without = format!("    exclude: [{}]\n  source:", other.collection);
    let run = scene.run(&scene.manifest(DIMENSIONS).replacen("  source:", &without, 1)).await;
    assert!(run.success, "{run:?}");
    assert!(other.in_destination().await.is_empty());
    assert!(!is_blocked(&scene, &other.index).await, "it was not merged");
    assert!(is_blocked(&scene, &shelf.index).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_somebody_lifted_the_block_is_not_lost() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let session = Session::start(&crawling(&scene, 10, "5m")).await;
    let planned = "SELECT (memo->'cutover'->>'last_pass_planned')::bool FROM es_index_merge.merge";
    scene
        .wait_for("the last pass", async || {
            let planned: bool = sqlx::query_scalar(planned).fetch_one(&scene.pool).await.unwrap();
            planned.then_some(())
        })
        .await;
    let source = &scene.source_cluster;
    source.put(&format!("/{}/_settings", shelf.index), &json!({"index.blocks.write": null})).await.unwrap();
    // As many chunks as before.
    let found = source.get(&format!("/{}/_search?size=1", shelf.index)).await.unwrap();
    let hit = &found["hits"]["hits"][0];
    let mut chunk = hit["_source"].clone();
    chunk["content"] = json!("written after it");
    let path = format!("/{}/_doc/{}?refresh=true", shelf.index, hit["_id"].as_str().unwrap());
    source.put(&path, &chunk).await.unwrap();
    let run = session.end().await;
    assert!(run.success && run.output.contains("one more last pass"), "{run:?}");
    let verdict = scene.check(DIMENSIONS).await;
    assert!(verdict.is_good(), "{verdict}");
    assert!(is_blocked(&scene, &shelf.index).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_cannot_be_set_keeps_no_writer_waiting() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let alias = format!("chunks-{}", scene.first_id);
    let named =
        |manifest: String| manifest.replace("  cutover:\n", &format!("  cutover:\n    aliases: [{alias}]\n"));
    let destination = &scene.destination_cluster;
    let path = format!("/{alias}");
    let mut session = Session::start(&named(crawling(&scene, 5, "5m"))).await;
    wait_for_block(&scene, &shelf).await;
    destination.put(&path, &json!({})).await.unwrap();
    session.says("is tried again: spec.cutover.aliases").await;
    assert!(!is_blocked(&scene, &shelf.index).await, "writers wait for what a person has to mend");

    assert!(destination.delete_index(&alias).await.unwrap());
    let run = session.end().await;
    assert!(run.success, "{run:?}");
    let aliases = destination.get(&format!("/{}/_alias", scene.index)).await.unwrap();
    assert_eq!(aliases[&scene.index]["aliases"], json!({&alias: {}}));
    assert!(is_blocked(&scene, &shelf.index).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_another_index_has_is_refused_before_anything_is_changed() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 5, "there").await;
    let (alias, other) = (format!("chunks-{}", scene.first_id), format!("former-{}", scene.first_id));
    let naming =
        |manifest: String| manifest.replace("  cutover:\n", &format!("  cutover:\n    aliases: [{alias}]\n"));
    let named = naming(scene.manifest(DIMENSIONS));
    let destination = &scene.destination_cluster;
    destination.put(&format!("/{other}"), &json!({"aliases": {&alias: {}}})).await.unwrap();
    let refused = scene.run(&named).await;
    let expected = format!("spec.cutover.aliases[0]: {alias} is an alias of {other} there");
    assert!(!refused.success && refused.output.contains(&expected), "{refused:?}");
    assert!(!scene.exists(&scene.index).await);

    assert!(destination.delete_index(&other).await.unwrap());
    let session = Session::start(&naming(held(&scene.manifest(DIMENSIONS)))).await;
    scene.wait_for_phase("Synced").await;
    session.stop().await;
    // A merge that has begun does not stop for its sake.
    destination.put(&format!("/{other}"), &json!({"aliases": {&alias: {}}})).await.unwrap();
    scene.completes(&named).await;
    assert!(destination.delete_index(&other).await.unwrap());

    // Where it leads afterwards is up to those who use it.
    destination.put(&format!("/{other}"), &json!({"aliases": {&alias: {}}})).await.unwrap();
    scene.completes(&named).await;
    assert!(destination.delete_index(&other).await.unwrap());
}

/// A merge and its secrets.
pub struct Manifest {
    pub merge: EsIndexMerge,
    secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Manifest {
    pub fn parse(text: &str) -> Manifest {
        let mut secrets = BTreeMap::new();
        let mut merge = None;
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let value = Value::deserialize(document).unwrap();
            if value["kind"] == "EsIndexMerge" {
                merge = Some(serde_json::from_value(value).unwrap());
                continue;
            }
            let keys = value["stringData"].as_object().unwrap().iter();
            let keys = keys.map(|(key, text)| (key.clone(), text.as_str().unwrap().as_bytes().to_vec()));
            secrets.insert(value["metadata"]["name"].as_str().unwrap().to_owned(), keys.collect());
        }
        Manifest { merge: merge.expect("a merge"), secrets }
    }

    pub fn valid(&self) -> ValidMerge {
        ValidMerge::parse("cli/first", &self.merge.spec).expect("the spec is valid")
    }

    /// A process of that name, under the test's hand.
    pub async fn open(&self, process: &str) -> Engine {
        let found = secrets::resolve(&self.merge.spec, self).await.expect("the secrets are there");
        Engine::open(self.valid(), found, process.to_owned()).await.expect("everything answers")
    }
}

impl SecretSource for Manifest {
    async fn read(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>, SecretProblem> {
        let missing = || SecretProblem::Missing { place: "the manifest".to_owned() };
        self.secrets.get(name).cloned().ok_or_else(missing)
    }
}

/// Nothing may be missed, held for a day or lifted too late for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_days_forth_and_back_changes_nothing() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let engine = Manifest::parse(&scene.manifest(DIMENSIONS)).open("jumping").await;
    let steps = async {
        for step in 0.. {
            // At the first steps each time; then it stays wrong.
            let jump = [0, 24, -24, 3, -1, 400 * 24, 2, -400 * 24][if step < 24 { step % 8 } else { 7 }];
            let now = Timestamp::now().checked_add(SignedDuration::from_hours(jump)).unwrap();
            let report = engine.step(now).await.expect("a step");
            match report.next {
                _ if report.phase == Phase::Completed => return,
                Next::Now => {}
                Next::After(_) | Next::Settled => {
                    let longest = Duration::from_millis(500);
                    let _ = tokio::time::timeout(longest, engine.progressed()).await;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(3), steps).await.expect("it gets to the end");
    engine.stop().await;
    assert!(is_blocked(&scene, &shelf.index).await);
    let verdict = scene.check(DIMENSIONS).await;
    assert!(verdict.is_good(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_made_during_the_cutover_is_waited_for_and_copied() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let mut session = Session::start(&crawling(&scene, 5, "5m")).await;
    wait_for_block(&scene, &shelf).await;
    let newcomer = Shelf::row(&scene, scene.first_id + 1).await;
    newcomer.create_index_without_a_place(scene.first_id + 2, 7).await;
    session.says("cannot be read now").await;
    assert_eq!(scene.phase().await.as_deref(), Some("CuttingOver"));

    newcomer.give_it_a_place().await;
    assert!(session.end().await.success);
    assert_eq!(newcomer.in_destination().await.len(), 7);
    assert!(is_blocked(&scene, &newcomer.index).await);
    completes(&scene, &shelf).await;
}

/// The manifest with credentials that the destination does not take.
fn without_destination(manifest: &str) -> String {
    let secret = manifest.find("metadata: {name: destination}").unwrap();
    let (before, after) = manifest.split_at(secret);
    format!("{before}{}", after.replacen("password: \"", "password: \"not-", 1))
}

/// Nobody can end the attempt in order: no process can reach the destination.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_took_too_long_serves_writers_again_although_the_destination_cannot_be_reached() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let manifest = crawling(&scene, 1, "5m");
    let session = Session::start(&manifest).await;
    wait_for_block(&scene, &shelf).await;
    session.kill().await;
    let run = scene.run(&without_destination(&manifest)).await;
    assert!(!run.success && run.output.contains("spec.destination"), "{run:?}");
    assert!(is_blocked(&scene, &shelf.index).await, "it has time left");

    let earlier = "UPDATE es_index_merge.merge
        SET memo = jsonb_set(memo, '{cutover,started_at}', to_jsonb(now() - interval '6 minutes')), stepper = NULL";
    sqlx::query(earlier).execute(&scene.pool).await.unwrap();
    let run = scene.run(&without_destination(&manifest)).await;
    assert!(!run.success && run.output.contains("spec.destination"), "{run:?}");
    assert!(!is_blocked(&scene, &shelf.index).await, "writers are refused for ever");
    assert_eq!(scene.phase().await.as_deref(), Some("Synced"));
    shelf.put_document(scene.first_id + 2, 3, "writers are served again").await;
    let no_pause = "UPDATE es_index_merge.merge SET memo = jsonb_set(memo, '{cutover,retry_at}', 'null')";
    sqlx::query(no_pause).execute(&scene.pool).await.unwrap();
    completes(&scene, &shelf).await;
}

/// A process gave an attempt up, and died before it lifted the blocks.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_an_attempt_that_is_over_come_off_although_the_destination_cannot_be_reached() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let shelf = with_late_chunks(&scene).await;
    let manifest = crawling(&scene, 1, "5m");
    let session = Session::start(&manifest).await;
    wait_for_block(&scene, &shelf).await;
    session.kill().await;
    let given_up = "UPDATE es_index_merge.merge SET memo = memo #- '{cutover,started_at}', stepper = NULL";
    assert_eq!(sqlx::query(given_up).execute(&scene.pool).await.unwrap().rows_affected(), 1);
    assert_eq!(scene.phase().await.as_deref(), Some("CuttingOver"));
    assert!(is_blocked(&scene, &shelf.index).await);

    let run = scene.run(&without_destination(&manifest)).await;
    assert!(!run.success && run.output.contains("spec.destination"), "{run:?}");
    assert!(!is_blocked(&scene, &shelf.index).await, "writers are refused for ever");
    shelf.put_document(scene.first_id + 2, 3, "writers are served again").await;
    let no_pause = "UPDATE es_index_merge.merge SET memo = jsonb_set(memo, '{cutover,retry_at}', 'null')";
    sqlx::query(no_pause).execute(&scene.pool).await.unwrap();
    completes(&scene, &shelf).await;
}

/// The process that made it died, and each one after it is told a spec that it must refuse.
#[tokio::test(flavor = "multi_thread")]
async fn one_whose_spec_is_refused_serves_writers_again_without_an_engine() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let accepted = crawling(&scene, 1, "5m");
    let session = Session::start(&accepted).await;
    wait_for_block(&scene, &shelf).await;
    session.kill().await;
    let mut refused = Manifest::parse(&accepted);
    "0s".clone_into(&mut refused.merge.spec.cutover.timeout);
    let spec = &refused.merge.spec;
    assert!(ValidMerge::parse("cli/first", spec).is_err());
    let give_up = async |owner: &str| {
        let why = "the spec is refused";
        Engine::give_refused_up(owner, spec, &refused, "after it", why, Timestamp::now()).await.unwrap()
    };
    assert!(!give_up("cli/second").await, "it is somebody else's");
    assert!(is_blocked(&scene, &shelf.index).await);
    assert!(give_up("cli/first").await);
    assert!(!is_blocked(&scene, &shelf.index).await, "writers are refused until somebody corrects the spec");
    assert_eq!(scene.phase().await.as_deref(), Some("Synced"));
    assert!(!give_up("cli/first").await, "nothing is left to be done");
    shelf.put_document(scene.first_id + 2, 3, "writers are served again").await;
    let no_pause = "UPDATE es_index_merge.merge SET memo = jsonb_set(memo, '{cutover,retry_at}', 'null')";
    sqlx::query(no_pause).execute(&scene.pool).await.unwrap();
    completes(&scene, &shelf).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_needs_no_destination() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 5, "there").await;
    completes(&scene, &shelf).await;
    let allow = scene.manifest(DIMENSIONS).replace("sourceWrites: Block", "sourceWrites: Allow");
    let run = scene.run(&without_destination(&allow)).await;
    assert!(!run.success && run.output.contains("spec.destination"), "{run:?}");
    assert!(!is_blocked(&scene, &shelf.index).await, "writers are still refused");
}

/// The process died between the verdict and the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_is_worth_nothing_when_writers_were_served_since() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 5, "there").await;
    completes(&scene, &shelf).await;
    let not_yet = "UPDATE es_index_merge.merge SET phase = 'CuttingOver', completed_at = NULL,
                   memo = jsonb_set(memo, '{cutover,stood_at}', to_jsonb(now() - interval '1 minute'))";
    sqlx::query(not_yet).execute(&scene.pool).await.unwrap();
    let path = format!("/{}/_settings", shelf.index);
    scene.source_cluster.put(&path, &json!({"index.blocks.write": null})).await.unwrap();
    shelf.put_document(scene.first_id + 1, 3, "written since").await;
    let run = scene.run(&scene.manifest(DIMENSIONS)).await;
    assert!(run.success, "{run:?}");
    assert_eq!(shelf.in_destination().await.len(), 8, "{run:?}");
    completes(&scene, &shelf).await;
}

/// Where writers are not refused the verdict is about what was there at the last pass.
#[tokio::test(flavor = "multi_thread")]
async fn writers_that_are_not_refused_make_no_verdict_negative() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 2).await;
    shelf.put_document(scene.first_id, 500, "there").await;
    let manifest = scene.manifest(DIMENSIONS).replace("sourceWrites: Block", "sourceWrites: Allow");
    let session = Session::start(&manifest).await;
    let writing = async {
        let mut document = scene.first_id + 1;
        loop {
            shelf.put_document(document, 3, "meanwhile").await;
            document += 1;
        }
    };
    let run = tokio::select! {
        run = session.end() => run,
        () = writing => unreachable!("it goes on for ever"),
    };
    assert!(run.success, "{run:?}");
    assert!(!is_blocked(&scene, &shelf.index).await);
    assert!(shelf.in_destination().await.len() >= 500);
}

/// Postgres fails at the last moment: the destination is marked as handed over, and nobody may be led there.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_not_reached_keeps_the_merge_from_nothing() {
    const REFUSE_THE_END: &str = "
        CREATE FUNCTION refuse_the_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
        CREATE TRIGGER refuse_the_end BEFORE UPDATE ON es_index_merge.merge
            FOR EACH ROW WHEN (NEW.phase = 'Completed') EXECUTE FUNCTION refuse_the_end()";
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 5, "there").await;
    let manifest = Manifest::parse(&scene.manifest(DIMENSIONS));
    let engine = manifest.open("at the end").await;
    sqlx::raw_sql(REFUSE_THE_END).execute(&scene.pool).await.unwrap();
    // Until it is complete, or a step fails.
    let goes_on = async || {
        for _ in 0..600 {
            let report = engine.step(Timestamp::now()).await?;
            if report.phase == Phase::Completed {
                return Ok(());
            }
            if report.next != Next::Now {
                let _ = tokio::time::timeout(Duration::from_millis(200), engine.progressed()).await;
            }
        }
        panic!("it comes to no end");
    };
    let marks = async || {
        let found = scene.destination_cluster.get(&format!("/{}/_mapping", scene.index)).await.unwrap();
        found[&scene.index]["mappings"]["_meta"]["es-index-merge"]["handedOver"]
            .as_array()
            .map_or(0, Vec::len)
    };
    let error: MergeError = Box::pin(goes_on()).await.expect_err("the end is refused");
    assert!(error.to_string().contains("not now"), "{error}");
    assert_eq!(marks().await, 1);

    engine.retune(ValidMerge { suspend: true, ..manifest.valid() });
    engine.step(Timestamp::now()).await.expect("the attempt is given up");
    assert!(!is_blocked(&scene, &shelf.index).await);
    shelf.put_document(scene.first_id + 1, 3, "written since").await;
    sqlx::raw_sql("DROP TRIGGER refuse_the_end ON es_index_merge.merge").execute(&scene.pool).await.unwrap();
    let no_pause = "UPDATE es_index_merge.merge SET memo = jsonb_set(memo, '{cutover,retry_at}', 'null')";
    sqlx::query(no_pause).execute(&scene.pool).await.unwrap();
    engine.retune(manifest.valid());
    Box::pin(goes_on()).await.expect("nothing keeps it from its end");
    assert_eq!((shelf.in_destination().await.len(), marks().await), (8, 1));
    engine.stop().await;
}
