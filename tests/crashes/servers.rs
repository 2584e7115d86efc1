//! Servers that are killed and come back, in each phase of a merge.

use std::time::Duration;

use chaos::merge::Tuning;
use chaos::parts::Parts;
use chaos::program::Program;

use crate::stage::{Scene, Stage, slow};

/// Merges in which a phase may be missed: a short one may be over when the server dies.
const TRIES: u32 = 3;
/// Chunks that are left for the last pass, so that the cutover takes some seconds.
const LATE: usize = 300;

/// What is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Source,
    Destination,
    Postgres,
}

impl Victim {
    fn kill(self, parts: &Parts) {
        let killed = tokio::task::block_in_place(|| match self {
            Victim::Source => parts.eight.kill_9(),
            Victim::Destination => parts.nine.kill_9(),
            Victim::Postgres => parts.postgres.kill_9(),
        });
        killed.expect("it can be killed");
    }

    fn restart(self, parts: &Parts) {
        let restarted = tokio::task::block_in_place(|| match self {
            Victim::Source => parts.eight.restart(),
            Victim::Destination => parts.nine.restart(),
            Victim::Postgres => parts.postgres.restart(),
        });
        restarted.expect("it comes back");
    }
}

/// Kills and restarts a server while the merge is in that phase.
async fn survives(victim: Victim, phase: &str) {
    let stage = Stage::take().await;
    for _ in 0..TRIES {
        if survives_once(&stage, victim, phase).await {
            return;
        }
    }
    panic!("none of {TRIES} merges was in {phase} when the server was killed");
}

/// One merge, to its verdict; whether it was in that phase when the server died.
async fn survives_once(stage: &Stage, victim: Victim, phase: &str) -> bool {
    let scene = stage.scene().await;
    let program = start(&scene, phase).await;
    if scene.reaches(&[phase, "Completed"]).await != phase {
        eprintln!("{phase} was over before it was seen");
        scene.ends_well(&program).await;
        return false;
    }
    victim.kill(stage.parts);
    // Phases are stored in Postgres: while it is away none is entered, and while it is there it is asked before
    // anything else is done.
    if victim == Victim::Postgres {
        victim.restart(stage.parts);
    }
    let found = scene.merge.phase().await.ok().flatten();
    if victim != Victim::Postgres {
        victim.restart(stage.parts);
    }
    if phase == "Synced" {
        // It has to follow again before it cuts over.
        scene.makes_a_whole_pass().await;
        scene.let_go(&program);
    }
    scene.ends_well(&program).await;
    eprintln!("killed in {phase}, found in {found:?}");
    found.as_deref() == Some(phase)
}

/// Starts the program so that it gets into that phase and stays there for a while.
async fn start(scene: &Scene<'_>, phase: &str) -> Program {
    let held = Tuning { hold: true, ..slow() };
    match phase {
        "Synced" => scene.run(&held),
        "CuttingOver" => {
            let program = scene.run(&held);
            scene.reaches(&["Synced"]).await;
            scene.makes_a_whole_pass().await;
            program.stop().expect("it stops");
            scene.burst(LATE).await;
            // It does not catch up first: what is late is left for the last pass.
            scene.start_again(&program, &Tuning { max_lag: Duration::from_hours(1), ..slow() });
            program
        }
        _ => scene.run(&slow()),
    }
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
async fn goes_on_after_the_source_was_killed_while_it_is_followed() {
    survives(Victim::Source, "Synced").await;
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
async fn goes_on_after_the_destination_was_killed_while_it_follows() {
    survives(Victim::Destination, "Synced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_the_destination_was_killed_during_the_cutover() {
    survives(Victim::Destination, "CuttingOver").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_postgres_was_killed_in_each_phase() {
    for phase in ["Copying", "Indexing", "Verifying", "Synced", "CuttingOver"] {
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
