//! The graph comes last: loaded as `flat`, then the wanted index options, then every segment written anew.
//!
//! A segment keeps its format until it is rewritten, and a force merge leaves alone what it need not touch,
//! so the switch notes the largest segment generation of each shard: every searchable segment at or below
//! that mark may still be flat, and is rewritten until there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::{VECTOR_FIELD, destination};
use crate::elastic::{BulkBody, BulkVersioning, ForceMerge, ReadLane, SegmentReport, ShardNumber};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::memo::GraphMemo;
use crate::merge::observe::parse_memo;

/// How long one call may take; the merge itself goes on in the server.
const CALL: Duration = Duration::from_secs(20);
/// A shard below this fits one segment of the merge policy's default size (5 GB), with room for its graph.
const ONE_SEGMENT: u64 = 3 << 30;
/// Rounds after which flat segments are called a failure rather than work in progress.
const MAX_ROUNDS: u32 = 200;

/// Puts the wanted options into the mapping, then marks everything that was written up to now. What was written in
/// between has the wanted form already and is rewritten all the same, whoever wrote it; nothing flat is above a mark.
pub(super) async fn switch(engine: &Engine) -> Result<(), MergeError> {
    let wanted = destination::index_spec(&engine.merge.destination, engine.destination.version());
    put_index_options(engine, &wanted.index_options).await?;
    let marks = marks(&segments(engine).await?);
    tracing::info!(?marks, options = %wanted.index_options, "the wanted index options are in the mapping");
    engine.edit_memo(|memo| memo.graph = GraphMemo::Switched { marks, rounds: 0 }).await.map(drop)
}

/// Puts `index_options` into the mapping of the embedding.
pub(super) async fn put_index_options(engine: &Engine, options: &Value) -> Result<(), MergeError> {
    let body = json!({"properties": {VECTOR_FIELD: {
        "type": "dense_vector",
        "dims": engine.merge.destination.vector_size,
        "index": true,
        "similarity": "cosine",
        "index_options": options,
    }}});
    engine
        .destination
        .put_mapping(&engine.merge.destination.index, &body)
        .await
        .map_err(MergeError::Destination)
}

/// Asks for the rewrite of what is still flat; done when nothing is.
pub(super) async fn rewrite(engine: &Engine) -> Result<(), MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    let GraphMemo::Switched { marks, rounds } = memo.graph else { return Ok(()) };
    let reports = segments(engine).await?;
    let flat = flat_shards(&reports, &marks);
    if flat.is_empty() {
        tracing::info!(rounds, "every segment has the wanted index options");
        return engine.edit_memo(|memo| memo.graph = GraphMemo::Built).await.map(drop);
    }
    if rounds >= MAX_ROUNDS {
        return Err(MergeError::Internal(format!(
            "after {rounds} rewrites the shards {flat:?} of the destination still hold flat segments"
        )));
    }
    let small = reports.iter().all(|report| shard_bytes(report) < ONE_SEGMENT);
    if small {
        // A shard of one segment would not be rewritten: give it a second one.
        let single: Vec<ShardNumber> = reports
            .iter()
            .filter(|report| flat.contains(&report.shard) && searchable(report).count() == 1)
            .map(|report| report.shard)
            .collect();
        touch(engine, &single, 8, 1).await?;
        engine
            .destination
            .force_merge(
                &engine.merge.destination.index,
                ForceMerge::MaxSegments { segments: 1, limit: CALL },
            )
            .await
            .map_err(MergeError::Destination)?;
    } else {
        expunge(engine, &reports, &marks, &flat).await?;
    }
    engine
        .edit_memo(|memo| {
            if let GraphMemo::Switched { rounds, .. } = &mut memo.graph {
                *rounds += 1;
            }
        })
        .await
        .map(drop)
}

/// Shards larger than one segment: every flat segment gets a deleted document, and only such segments are merged,
/// within the policy's size. The server lets go of deletions about every 30 seconds, so rounds repeat.
async fn expunge(
    engine: &Engine,
    reports: &[SegmentReport],
    marks: &BTreeMap<i32, u64>,
    flat: &BTreeSet<ShardNumber>,
) -> Result<(), MergeError> {
    let name = &engine.merge.destination.index;
    let names = std::slice::from_ref(name);
    let untouched: Vec<ShardNumber> = reports
        .iter()
        .filter(|report| flat.contains(&report.shard))
        .filter(|report| flat_segments(report, marks).any(|segment| segment.deleted_docs == 0))
        .map(|report| report.shard)
        .collect();
    // Each segment of the policy's size holds thousands of documents.
    touch(engine, &untouched, 2, 100).await?;
    let setting = "index.merge.policy.expunge_deletes_allowed";
    engine.destination.put_settings(names, &json!({setting: 0})).await.map_err(MergeError::Destination)?;
    engine.destination.flush(name).await.map_err(MergeError::Destination)?;
    let merged = engine.destination.force_merge(name, ForceMerge::ExpungeDeletes { limit: CALL }).await;
    engine.destination.put_settings(names, &json!({setting: null})).await.map_err(MergeError::Destination)?;
    merged.map(drop).map_err(MergeError::Destination)
}

/// Writes `documents` of each shard again as they are (same content, same version): one in `step` of those that a
/// search finds.
async fn touch(
    engine: &Engine,
    shards: &[ShardNumber],
    documents: usize,
    step: usize,
) -> Result<(), MergeError> {
    let name = &engine.merge.destination.index;
    for &shard in shards {
        let sample = engine
            .destination
            .sample(
                name,
                shard,
                documents * step,
                ReadLane::Source { ask_for_vectors: engine.destination.version().at_least(9, 2) },
            )
            .await
            .map_err(MergeError::Destination)?;
        let mut body = BulkBody::with_capacity(64 * 1024);
        for hit in sample.hits.iter().step_by(step) {
            body.begin_index(&hit.id, hit.version, BulkVersioning::ExternalGte)
                .extend_from_slice(hit.source());
            body.end();
        }
        if !body.is_empty() {
            super::destination::let_workers_write(engine).await?;
            let alias = super::writer_alias(&engine.merge);
            engine.destination.bulk(&alias, true, body).await.map_err(MergeError::Destination)?;
        }
    }
    engine.destination.refresh(std::slice::from_ref(name)).await.map_err(MergeError::Destination)
}

/// The segments as searches see them. A refresh comes first: while loading nothing refreshes, and what no search
/// sees yet would look like nothing to rewrite.
async fn segments(engine: &Engine) -> Result<Vec<SegmentReport>, MergeError> {
    let name = &engine.merge.destination.index;
    engine.destination.refresh(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
    engine.destination.segments(&engine.merge.destination.index).await.map_err(MergeError::Destination)
}

fn marks(reports: &[SegmentReport]) -> BTreeMap<i32, u64> {
    reports
        .iter()
        .map(|report| {
            let mark = report.segments.iter().map(|segment| segment.generation).max().unwrap_or(0);
            (report.shard, mark)
        })
        .collect()
}

fn searchable(report: &SegmentReport) -> impl Iterator<Item = &crate::elastic::Segment> {
    report.segments.iter().filter(|segment| segment.search)
}

fn flat_segments<'a>(
    report: &'a SegmentReport,
    marks: &BTreeMap<i32, u64>,
) -> impl Iterator<Item = &'a crate::elastic::Segment> {
    let mark = marks.get(&report.shard).copied().unwrap_or(0);
    searchable(report).filter(move |segment| segment.generation <= mark)
}

/// Shards with a searchable segment at or below their mark.
fn flat_shards(reports: &[SegmentReport], marks: &BTreeMap<i32, u64>) -> BTreeSet<ShardNumber> {
    reports
        .iter()
        .filter(|report| flat_segments(report, marks).next().is_some())
        .map(|report| report.shard)
        .collect()
}

fn shard_bytes(report: &SegmentReport) -> u64 {
    report.segments.iter().map(|segment| segment.bytes).sum()
}
