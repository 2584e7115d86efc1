//! A merge with something left for the last pass, so that its cutover takes a while.

use crate::scene::{DIMENSIONS, Scene};
use crate::session::Session;
use crate::shelf::Shelf;

/// Chunks that are left for the last pass.
const LATE: i64 = 60;

/// The merge stays `Synced`.
pub fn held(manifest: &str) -> String {
    manifest.replace("  cutover:\n    maxLag: 5s\n", "  cutover:\n    hold: true\n    maxLag: 3s\n")
}

/// The manifest of a merge that cuts over at once, and takes that many chunks a second.
pub fn crawling(scene: &Scene, per_second: u32, timeout: &str) -> String {
    let cutover = format!(
        "  workers: {{maxDocumentsPerSecond: {per_second}}}\n  cutover:\n    maxLag: 1h\n    timeout: {timeout}\n"
    );
    scene.manifest(DIMENSIONS).replace("  cutover:\n    maxLag: 5s\n", &cutover)
}

/// A merge that is in step with its source but for some late chunks, and no process.
pub async fn with_late_chunks(scene: &Scene) -> Shelf<'_> {
    let _tables = Shelf::tables(scene).await;
    let shelf = Shelf::create(scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 5, "there from the start").await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    scene.wait_for_a_whole_pass().await;
    session.stop().await;
    shelf.put_document(scene.first_id + 1, LATE, "late").await;
    shelf
}

/// Whether a block refuses writes to that source index.
pub async fn is_blocked(scene: &Scene, index: &str) -> bool {
    let path = format!("/{index}/_settings/index.blocks.write?flat_settings=true");
    let settings = scene.source_cluster.get(&path).await.unwrap();
    settings[index]["settings"]["index.blocks.write"] == "true"
}

pub async fn wait_for_block(scene: &Scene, shelf: &Shelf<'_>) {
    scene.wait_for("the write block", async || is_blocked(scene, &shelf.index).await.then_some(())).await;
}
