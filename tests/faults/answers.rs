//! What an Elasticsearch, or a gateway before it, may answer; and what it may not get around to answer.

use std::time::{Duration, Instant};

use chaos::merge::Tuning;
use testenv::proxy::{Announced, Fault, Gateway, Rule};

use crate::stage::{SOON, Stage};

/// Longer than a lease lasts, and longer than any answer is waited for.
const STALL: Duration = Duration::from_secs(70);

/// Where a fault is injected.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Runs a merge while a share of the answers is spoiled, `least` times at the least.
async fn survives(side: Side, rule: impl Fn() -> Rule, fault: Fault, least: u64) {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let proxy = match side {
        Side::Source => &*scene.ways.source,
        Side::Destination => &scene.ways.destination,
    };
    proxy.set(vec![rule()]);
    let program = scene.run(&Tuning::default());
    let felt = tokio::task::block_in_place(|| proxy.wait_for(&fault, least, SOON));
    assert!(felt, "the fault was not met: {:?}\n{}", proxy.injected(), program.output());
    scene.ways.clear();
    scene.ends_well(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_through_429_and_503_and_html_of_a_gateway() {
    for gateway in [Gateway::TooManyRequests, Gateway::Unavailable, Gateway::BadGateway] {
        let fault = Fault::Refuse(gateway);
        survives(Side::Destination, || Rule::new(fault.clone()).share(0.3), fault.clone(), 5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_halved() {
    let fault = Fault::TooLarge(6_000);
    survives(Side::Destination, || Rule::new(fault.clone()).on("/_bulk"), fault.clone(), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_is_not_taken_for_a_whole_one() {
    for announced in [Announced::Whole, Announced::Half] {
        let fault = Fault::HalfAnswer(announced);
        survives(Side::Source, || Rule::new(fault.clone()).share(0.2), fault.clone(), 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_that_was_done_and_not_answered_is_sent_again_without_harm() {
    let fault = Fault::DropAfter;
    survives(Side::Destination, || Rule::new(fault.clone()).on("/_bulk").share(0.5), fault.clone(), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_bulk_that_were_rejected_are_sent_again() {
    let fault = Fault::RejectItems(0.4);
    survives(Side::Destination, || Rule::new(fault.clone()).on("/_bulk").share(0.7), fault.clone(), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_at_which_the_server_fails_each_time_is_quarantined_and_its_neighbours_go_over() {
    let stage = Stage::take().await;
    let mut scene = stage.scene().await;
    let fault = Fault::FailItems("a poisonous chunk".into());
    scene.ways.destination.set(vec![Rule::new(fault.clone())]);
    scene.poison("a poisonous chunk among others").await;
    let held = Tuning { hold: true, ..Tuning::default() };
    let program = scene.run(&held);
    scene.reaches(&["Synced"]).await;
    assert_eq!(scene.failed_chunks().await, 1, "{}", program.output());
    // One that comes later is the only one of its bulk, or nearly so.
    scene.poison("a poisonous chunk that came late").await;
    let deadline = Instant::now() + SOON * 2;
    while scene.failed_chunks().await < 2 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(scene.failed_chunks().await, 2, "{}", program.output());
    program.stop().expect("it stops");
    scene.falls_silent().await;
    program.set_manifest(&scene.merge.manifest(&scene.ways, &Tuning::default())).expect("a file");
    program.restart().expect("it starts");
    let output = scene.ends_badly(&program).await;
    assert!(output.contains("2 chunks are in quarantine"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_at_every_chunk_puts_none_into_quarantine() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let fault = Fault::FailItems("\"content\"".into());
    scene.ways.destination.set(vec![Rule::new(fault.clone())]);
    let program = scene.run(&Tuning::default());
    let failed =
        tokio::task::block_in_place(|| program.said("a batch failed; its units are retried", SOON * 2));
    failed.expect("it gives a batch up for now");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.failed_chunks().await, 0, "{}", program.output());
    scene.ways.clear();
    scene.ends_well(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_asked_no_shard_is_not_the_end_of_a_log() {
    let fault = Fault::ZeroShards;
    survives(Side::Source, || Rule::new(fault.clone()).share(0.4), fault.clone(), 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stalls_is_waited_for() {
    let fault = Fault::HoldAnswer(Duration::from_secs(6));
    survives(Side::Destination, || Rule::new(fault.clone()).on("/_bulk").most(3), fault.clone(), 2).await;
}

/// Nobody waits for it any more when it is done, or when its answer comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_that_stalls_for_longer_than_it_is_waited_for_is_sent_again_without_harm() {
    for fault in [Fault::HoldRequest(STALL), Fault::HoldAnswer(STALL)] {
        let stage = Stage::take().await;
        let scene = stage.scene().await;
        let proxy = &scene.ways.destination;
        proxy.set(vec![Rule::new(fault.clone()).on("/_bulk").most(2)]);
        // Held, so that the merge is not over before the stall is.
        let program = scene.run(&Tuning { hold: true, ..Tuning::default() });
        let felt = tokio::task::block_in_place(|| proxy.wait_for(&fault, 1, SOON));
        assert!(felt, "the fault was not met: {}", program.output());
        tokio::time::sleep(STALL).await;
        scene.reaches(&["Synced"]).await;
        scene.let_go(&program);
        scene.ends_well(&program).await;
    }
}
