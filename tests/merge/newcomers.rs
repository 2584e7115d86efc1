//! Collections that come after the verdict: no merge takes them by itself, so they are told.

use std::time::Duration;

use es_index_merge::merge::{Engine, Next, Phase, Report};
use jiff::{SignedDuration, Timestamp};

use crate::cutover::Manifest;
use crate::late::is_blocked;
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::shelf::Shelf;

/// The longest pause between two steps.
const LONGEST: Duration = Duration::from_millis(500);

/// A process under the test's hand, whose merge is complete.
async fn complete(scene: &Scene) -> Engine {
    let engine = Manifest::parse(&scene.manifest(DIMENSIONS)).open("looking").await;
    let steps = async {
        loop {
            let report = engine.step(Timestamp::now()).await.expect("a step");
            if report.next == Next::Now {
                continue;
            }
            if report.phase == Phase::Completed {
                assert!(not_merged(&report).is_empty(), "{report:?}");
                return;
            }
            let _ = tokio::time::timeout(LONGEST, engine.progressed()).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(3), Box::pin(steps)).await.expect("it gets to the end");
    engine
}

/// A collection that is merged, and the process that did it.
async fn one_merged(scene: &Scene) -> (Shelf<'_>, Engine) {
    let _tables = Shelf::tables(scene).await;
    let merged = Shelf::create(scene, scene.first_id, 1).await;
    merged.put_document(scene.first_id, 5, "there").await;
    let engine = complete(scene).await;
    (merged, engine)
}

/// Another merge into the same index, of that collection.
fn another(scene: &Scene, collection: i64) -> String {
    let include = format!("  collections:\n    include: [{collection}]\n");
    let other = scene.manifest(DIMENSIONS).replace("{name: first}", "{name: second}");
    other.replace("  collections:\n", &include)
}

/// What it tells that many minutes from now, when there is nothing to be done at once.
async fn in_minutes(engine: &Engine, minutes: i64) -> Report {
    let now = Timestamp::now().checked_add(SignedDuration::from_mins(minutes)).unwrap();
    for _ in 0..4 {
        let report = engine.step(now).await.expect("a step");
        if report.next != Next::Now {
            assert_eq!(report.phase, Phase::Completed);
            return report;
        }
    }
    panic!("it does not come to rest");
}

/// The collections that are told as not merged, each with what is said of it.
fn not_merged(report: &Report) -> Vec<(i64, &str)> {
    let told = report.attention.iter().filter(|attention| attention.reason == "NotMerged");
    told.map(|attention| (attention.collection, attention.message.as_str())).collect()
}

/// The same, without what is said.
fn ids(report: &Report) -> Vec<i64> {
    not_merged(report).into_iter().map(|(collection, _)| collection).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_comes_after_the_verdict_is_told_until_it_is_gone() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let (merged, engine) = one_merged(&scene).await;
    let first = merged.collection;

    let newcomer = Shelf::create(&scene, first + 1, 2).await;
    newcomer.put_document(first + 1, 3, "after the verdict").await;
    // One without an index holds nothing that could be missing.
    let _empty = Shelf::row(&scene, first + 2).await;
    assert!(ids(&in_minutes(&engine, 3).await).is_empty(), "looked for before its time");
    let report = in_minutes(&engine, 6).await;
    let [(collection, message)] = not_merged(&report)[..] else { panic!("{report:?}") };
    assert_eq!(collection, newcomer.collection);
    let remedy = format!("spec.collections.include: [{collection}]");
    assert!(message.contains(&remedy), "{message}");
    assert!(report.message.ends_with("what came after the verdict is not merged (see status.attention)"));
    assert!(newcomer.in_destination().await.is_empty());
    assert!(!is_blocked(&scene, &newcomer.index).await && is_blocked(&scene, &merged.index).await);

    // Nobody can be asked: what was known stays, and the merge is complete.
    sqlx::query("ALTER TABLE collection RENAME TO away").execute(&scene.pool).await.unwrap();
    assert_eq!(ids(&in_minutes(&engine, 12).await), [newcomer.collection]);
    sqlx::query("ALTER TABLE away RENAME TO collection").execute(&scene.pool).await.unwrap();

    newcomer.delete_index().await;
    newcomer.delete_row().await;
    let report = in_minutes(&engine, 18).await;
    assert!(ids(&report).is_empty(), "{report:?}");
    assert!(!report.message.contains("not merged"), "{}", report.message);

    merged.delete_index().await;
    merged.create_index(1).await;
    let report = in_minutes(&engine, 24).await;
    let [(collection, message)] = not_merged(&report)[..] else { panic!("{report:?}") };
    assert!(collection == merged.collection && message.contains("was made anew"), "{report:?}");

    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_collection_that_comes_after_the_verdict_merges_it() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let (merged, engine) = one_merged(&scene).await;
    let first = merged.collection;
    let newcomer = Shelf::create(&scene, first + 1, 1).await;
    newcomer.put_document(first + 1, 3, "after the verdict").await;
    assert_eq!(ids(&in_minutes(&engine, 6).await), [newcomer.collection]);

    engine.dismantle(false).await.expect("its claim is released");
    let run = scene.run(&another(&scene, newcomer.collection)).await;
    assert!(run.success, "{run:?}");
    assert_eq!((merged.in_destination().await.len(), newcomer.in_destination().await.len()), (5, 3));
    assert!(is_blocked(&scene, &newcomer.index).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_applications_wrote_of_a_collection_keeps_another_merge_from_taking_it() {
    let scene = Scene::new(Flavor::V9, Flavor::V9).await;
    let (merged, engine) = one_merged(&scene).await;
    let first = merged.collection;
    let newcomer = Shelf::create(&scene, first + 1, 1).await;
    newcomer.put_document(first + 1, 3, "after the verdict").await;
    let mut written = merged.in_destination().await.into_values().next().unwrap()["_source"].take();
    written["collection_id"] = serde_json::json!(newcomer.collection);
    scene.destination_cluster.post(&format!("/{}/_doc", scene.index), &written).await.unwrap();

    engine.dismantle(false).await.expect("its claim is released");
    let run = scene.run(&another(&scene, newcomer.collection)).await;
    assert!(!run.success && run.output.contains("holds 1 document"), "{run:?}");
    assert_eq!(newcomer.in_destination().await.len(), 1);
}
