//! Servers that are killed and come back, in each phase of a merge.

use chaos::merge::Tuning;
use testenv::elasticsearch::Elasticsearch;
use testenv::postgres::Postgres;

use crate::stage::{Stage, slow};

/// What is killed.
#[derive(Clone, Copy)]
enum Victim {
    Source,
    Destination,
    Postgres,
}

/// Kills and restarts a server as soon as the merge is in that phase.
async fn survives(victim: Victim, phase: &str) {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let program = scene.run(&slow());
    // A phase that is short may be over when it is looked for.
    let met = scene.reaches(&[phase, "Completed"]).await;
    eprintln!("killed in {met}");
    tokio::task::block_in_place(|| {
        let again = |kill: &dyn Fn() -> anyhow::Result<()>, restart: &dyn Fn() -> anyhow::Result<()>| {
            kill().and_then(|()| restart()).expect("it comes back");
        };
        let elastic = |server: &Elasticsearch| again(&|| server.kill_9(), &|| server.restart());
        let postgres = |server: &Postgres| again(&|| server.kill_9(), &|| server.restart());
        match victim {
            Victim::Source => elastic(&stage.parts.eight),
            Victim::Destination => elastic(&stage.parts.nine),
            Victim::Postgres => postgres(&stage.parts.postgres),
        }
    });
    scene.ends_well(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_the_source_was_killed_while_copying() {
    survives(Victim::Source, "Copying").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_the_source_was_killed_during_the_cutover() {
    survives(Victim::Source, "CuttingOver").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_the_destination_was_killed_while_copying() {
    survives(Victim::Destination, "Copying").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_the_destination_was_killed_while_the_graph_is_built() {
    survives(Victim::Destination, "Indexing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_the_destination_was_killed_while_verifying() {
    survives(Victim::Destination, "Verifying").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_postgres_was_killed_in_each_phase() {
    for phase in ["Copying", "Indexing", "Verifying", "CuttingOver"] {
        survives(Victim::Postgres, phase).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_servers_that_are_not_there_at_the_start() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    tokio::task::block_in_place(|| stage.parts.nine.kill_9()).expect("it can be killed");
    let program = scene.run(&Tuning::default());
    let said = tokio::task::block_in_place(|| program.said("tried again in", crate::stage::SOON));
    tokio::task::block_in_place(|| stage.parts.nine.restart()).expect("it comes back");
    said.expect("it says why it waits");
    assert!(program.output().contains("spec.destination"), "{}", program.output());
    scene.ends_well(&program).await;
}
