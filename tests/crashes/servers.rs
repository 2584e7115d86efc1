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

/// The life of a merge.
const LIFE: [&str; 6] = ["Copying", "Indexing", "Verifying", "Synced", "CuttingOver", "Completed"];

/// Kills and restarts a server once in each of these phases, which are in the order of [`LIFE`].
async fn survives(victim: Victim, phases: &[&'static str]) {
    let stage = Stage::take().await;
    let mut open = phases.to_vec();
    for _ in 0..TRIES {
        open = survives_once(&stage, victim, &open).await;
        if open.is_empty() {
            return;
        }
        eprintln!("over before the server was killed: {open:?}");
    }
    panic!("none of {TRIES} merges was in {open:?} when the server was killed");
}

/// One merge, to its verdict; returns the phases that were over when the server died.
async fn survives_once(stage: &Stage, victim: Victim, phases: &[&'static str]) -> Vec<&'static str> {
    let scene = stage.scene().await;
    let program = scene.run(&Tuning { hold: true, ..slow() });
    let mut missed = Vec::new();
    for &phase in phases {
        if phase == "CuttingOver" {
            cut_over_slowly(&scene, &program).await;
        }
        let later = LIFE.iter().position(|&one| one == phase).expect("a phase");
        if scene.reaches(&LIFE[later..]).await != phase {
            missed.push(phase);
            continue;
        }
        victim.kill(stage.parts);
        // Phases are stored in Postgres: while it is away none is entered, and while it is there it is asked before
        // anything else is done.
        if victim == Victim::Postgres {
            victim.restart(stage.parts);
        }
        if scene.merge.phase().await.ok().flatten().as_deref() != Some(phase) {
            missed.push(phase);
        }
        if victim != Victim::Postgres {
            victim.restart(stage.parts);
        }
        if phase == "Synced" {
            scene.makes_a_whole_pass().await;
        }
    }
    if phases.last() != Some(&"CuttingOver") {
        scene.reaches(&["Synced"]).await;
        scene.let_go(&program);
    }
    scene.ends_well(&program).await;
    missed
}

/// Lets it cut over with something left for the last pass, so that this takes some seconds.
async fn cut_over_slowly(scene: &Scene<'_>, program: &Program) {
    scene.reaches(&["Synced"]).await;
    scene.makes_a_whole_pass().await;
    program.stop().expect("it stops");
    scene.burst(LATE).await;
    // It does not catch up first: what is late is left for the last pass.
    scene.start_again(program, &Tuning { max_lag: Duration::from_hours(1), ..slow() });
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_the_source_was_killed_in_each_phase_that_reads_it() {
    survives(Victim::Source, &["Copying", "Synced", "CuttingOver"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_the_destination_was_killed_in_each_phase() {
    survives(Victim::Destination, &LIFE[..5]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_postgres_was_killed_in_each_phase() {
    survives(Victim::Postgres, &LIFE[..5]).await;
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
