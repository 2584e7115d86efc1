//! Several processes of one merge; one of them comes back when the others are long past what it has in hand.

use std::time::Duration;

use chaos::merge::Tuning;
use testenv::proxy::{Fault, Rule};

use crate::stage::{SOON, Seeds, Stage, slow};

/// Longer than a lease lasts.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(24);

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_of_one_merge_do_no_harm() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let programs: Vec<_> = (0..4).map(|_| scene.run(&slow())).collect();
    for other in &programs[1..] {
        let status = tokio::task::block_in_place(|| other.wait(crate::stage::PATIENCE)).expect("it ends");
        assert!(status.success(), "{}", other.output());
    }
    scene.ends_well(&programs[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_paused_beyond_its_lease_does_no_harm() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let tuning = slow();
    let (paused, other) = (scene.run(&tuning), scene.run(&tuning));
    scene.reaches(&["Copying", "Indexing"]).await;
    paused.pause().expect("it can be paused");
    tokio::time::sleep(BEYOND_THE_LEASE).await;
    paused.resume().expect("it goes on");
    let status = tokio::task::block_in_place(|| other.wait(crate::stage::PATIENCE)).expect("it ends");
    assert!(status.success(), "{}", other.output());
    scene.ends_well(&paused).await;
}

/// A bulk that is on its way for minutes: its chunks were read, and deleted in the source before anybody else copied
/// them. It arrives when the others are past it, and brings back what is deleted. The comparison of counts before the
/// verdict must find that.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_bulk_brings_back_no_chunk_that_was_deleted_meanwhile() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let held = Tuning { hold: true, ..Tuning::default() };
    let fault = Fault::HoldRequest(Duration::from_mins(5));
    scene.ways.destination.set(vec![Rule::new(fault.clone()).on("/_bulk")]);
    let late = scene.run(&held);
    assert!(
        tokio::task::block_in_place(|| scene.ways.destination.wait_for(&fault, 1, SOON)),
        "{}",
        late.output()
    );
    late.pause().expect("it can be paused");

    let index = scene.merge.large_source().await.expect("a source");
    let query = serde_json::json!({"query": {"match_all": {}}});
    let path = format!("/{index}/_delete_by_query?refresh=true&conflicts=proceed");
    let deleted = scene.merge.source_client.post(&path, &query).await.expect("chunks are deleted");
    assert!(deleted["deleted"].as_u64().unwrap() > 0, "{deleted}");

    let ways = scene.merge.ways_beside(&scene.ways.source, Seeds::of_this_run().proxies).expect("proxies");
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_es-index-merge"));
    let start = |tuning: &Tuning| {
        chaos::program::Program::start(binary, "es-index-merge", &scene.merge.manifest(&ways, tuning))
            .expect("the program starts")
    };
    let other = start(&held);
    scene.reaches(&["Synced"]).await;
    scene.ways.clear();
    late.resume().expect("it goes on");
    other.stop().expect("it stops");
    late.stop().expect("it stops");
    let last = start(&Tuning::default());
    scene.ends_well(&last).await;
}
