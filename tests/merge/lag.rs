//! What a merge says of its lag: whatever was acknowledged to an application longer ago is in the destination.

use std::sync::Mutex;
use std::time::Duration;

use es_index_merge::merge::{FactKind, Next, Phase, Report};
use jiff::{SignedDuration, Timestamp};

use crate::cutover::Manifest;
use crate::late::held;
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::shelf::{Chunk, Shelf};

/// Passes that are looked at, and looks while one is under way.
const PASSES: u32 = 4;
const LOOKS: u32 = 4;
/// In which they are made.
const PATIENCE: Duration = Duration::from_mins(2);
/// The longest pause between two steps.
const LONGEST: Duration = Duration::from_millis(500);

/// Up to when everything is in the destination, as the report has it; `None` while it does not follow.
fn follows_up_to(report: &Report, now: Timestamp) -> Option<Timestamp> {
    let lag = report.lag.filter(|_| report.phase == Phase::Synced)?;
    now.checked_sub(SignedDuration::try_from(lag).ok()?).ok()
}

/// Whether not all that is planned is copied.
fn is_in_a_pass(report: &Report) -> bool {
    report.facts.iter().any(|fact| fact.kind == FactKind::Copied && fact.status == Some(false))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_that_is_older_than_the_lag_is_in_the_destination() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 2).await;
    let document = scene.first_id;
    shelf.put_document(document, 20, "there from the start").await;
    let engine = Manifest::parse(&held(&scene.manifest(DIMENSIONS))).open("following").await;

    // When each chunk was acknowledged, by its number.
    let acknowledged: Mutex<Vec<(Timestamp, i64)>> = Mutex::default();
    let writing = async {
        for number in 100.. {
            shelf.put(&[Chunk(document, number, "written meanwhile")]).await;
            acknowledged.lock().unwrap().push((Timestamp::now(), number));
        }
    };
    let following = async {
        let (mut passes, mut looks, mut known) = (0, 0, 0);
        while passes < PASSES || looks < LOOKS {
            let now = Timestamp::now();
            let report = engine.step(now).await.expect("a step");
            if let Some(moment) = follows_up_to(&report, now) {
                let before = |(at, number): &(Timestamp, i64)| (*at < moment).then_some(*number);
                let due: Vec<i64> = acknowledged.lock().unwrap().iter().filter_map(before).collect();
                let there = shelf.in_destination().await;
                let missing: Vec<&i64> =
                    due.iter().filter(|&&number| !there.contains_key(&(document, number))).collect();
                assert!(missing.is_empty(), "{missing:?} are older than {:?}", report.lag);
                passes += u32::from(due.len() > known);
                looks += u32::from(is_in_a_pass(&report));
                known = due.len();
            }
            if report.next != Next::Now {
                // Workers have something to tell, or there may be something to follow.
                let _ = tokio::time::timeout(LONGEST, engine.progressed()).await;
            }
        }
    };
    let both = async {
        tokio::select! {
            () = following => {}
            () = writing => unreachable!("they go on for ever"),
        }
    };
    Box::pin(tokio::time::timeout(PATIENCE, both)).await.expect("it follows");
    engine.stop().await;
    drop(engine);
    scene.completes(&scene.manifest(DIMENSIONS)).await;
    let last = acknowledged.lock().unwrap().len();
    assert!(shelf.in_destination().await.len() >= 20 + last);
}
