//! Connections to Postgres that are lost, at the worst moments.

use std::time::{Duration, Instant};

use testenv::proxy::CommitCut;

use crate::stage::{SOON, Stage, slow};

async fn survives_lost_commits(cut: CommitCut) {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let program = scene.run(&slow());
    scene.reaches(&["Copying", "Indexing"]).await;
    scene.ways.postgres.cut_commits(cut, 6);
    let deadline = Instant::now() + SOON;
    while scene.ways.postgres.commits_left(cut) > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(scene.ways.postgres.commits_left(cut), 0, "no commit came by: {}", program.output());
    scene.ends_well(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_whose_commit_did_not_arrive_is_made_again() {
    survives_lost_commits(CommitCut::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_made_without_an_answer_counts_nothing_twice() {
    survives_lost_commits(CommitCut::After).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_all_connections_were_cut_refused_and_stalled() {
    let stage = Stage::take().await;
    let scene = stage.scene().await;
    let program = scene.run(&slow());
    scene.reaches(&["Copying", "Indexing"]).await;
    let postgres = &scene.ways.postgres;
    postgres.refuse();
    postgres.cut_all();
    let said = tokio::task::block_in_place(|| program.said("tried again in", SOON));
    postgres.clear();
    said.expect("it says why it waits");
    postgres.stall();
    tokio::time::sleep(Duration::from_secs(8)).await;
    postgres.clear();
    scene.ends_well(&program).await;
}
