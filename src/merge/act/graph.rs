//! The graph comes last: loaded as `flat`, then the wanted index options, then every segment written anew.
//!
//! A segment keeps its format until it is rewritten, and a force merge leaves alone what it need not touch,
//! so the switch notes the largest segment generation of each shard: every searchable segment at or below
//! that mark may still be flat, and is rewritten until there is none.

mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::keys::COLLECTION_FIELD;
use super::{VECTOR_FIELD, destination};
use crate::elastic::{
    BulkBody, BulkVersioning, ElasticError, ForceMerge, Hit, IndexInfo, ReadLane, Segment, SegmentReport,
    ShardNumber,
};
use crate::merge::engine::Engine;
use crate::merge::error::{MergeCategory, MergeError};
use crate::merge::memo::GraphMemo;
use crate::merge::observe::parse_memo;
use places::Place;

pub(in crate::merge) use places::Places;

/// How long one call may take; the merge itself goes on in the server.
const CALL: Duration = Duration::from_secs(20);
/// How long segments are looked for in one step, and shards at the same time.
const WALK: Duration = Duration::from_mins(1);
const SHARDS: usize = 8;
/// The largest segment that the merge policy makes, and the server's default of it, in bytes.
const MAX_SEGMENT: &str = "index.merge.policy.max_merged_segment";
const DEFAULT_MAX_SEGMENT: u64 = 5 << 30;
/// Share of deleted documents below which a force merge that expunges them leaves a segment alone.
const EXPUNGE_ALLOWED: &str = "index.merge.policy.expunge_deletes_allowed";
/// Documents of a shard that are written again to give it a second segment.
const SAMPLE: usize = 8;
/// Bytes in one bulk of documents that are written again.
const BODY: usize = 8 << 10;
/// Rounds without fewer flat segments after which they are called a failure rather than work in progress.
const MAX_ROUNDS: u32 = 200;

/// Puts the wanted options into the mapping, then marks everything that was written up to now. What was written in
/// between has the wanted form already and is rewritten all the same, whoever wrote it; nothing flat is above a mark.
pub(super) async fn switch(engine: &Engine) -> Result<(), MergeError> {
    let wanted = destination::index_spec(&engine.merge.destination, engine.destination.version());
    put_index_options(engine, &wanted.index_options).await?;
    let marks = marks(&segments(engine).await?);
    tracing::info!(?marks, options = %wanted.index_options, "the wanted index options are in the mapping");
    engine.edit_memo(|memo| memo.graph = GraphMemo::Switched { marks, rounds: 0, flat: 0 }).await.map(drop)
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
    let GraphMemo::Switched { marks, rounds, flat: before } = memo.graph else { return Ok(()) };
    let reports = segments(engine).await?;
    let shards = flat_shards(&reports, &marks);
    if shards.is_empty() {
        tracing::info!(rounds, "every segment has the wanted index options");
        return engine.edit_memo(|memo| memo.graph = GraphMemo::Built).await.map(drop);
    }
    let flat = reports.iter().map(|report| flat_segments(report, &marks).count() as u64).sum();
    let rounds = if flat < before { 0 } else { rounds };
    if rounds >= MAX_ROUNDS {
        // It is tried again, after a while.
        count(engine, 1, flat).await?;
        return Err(MergeError::Internal(format!(
            "after {rounds} rewrites the shards {shards:?} of the destination still hold {flat} flat segments"
        )));
    }
    let info = destination::described_now(engine).await?;
    let limit = one_segment(&info);
    if reports.iter().all(|report| shard_bytes(report) < limit) {
        join(engine, &reports, &shards).await?;
    } else {
        expunge(engine, reports, &marks, &info).await?;
    }
    count(engine, rounds + 1, flat).await
}

async fn count(engine: &Engine, made: u32, left: u64) -> Result<(), MergeError> {
    engine
        .edit_memo(|memo| {
            if let GraphMemo::Switched { rounds, flat, .. } = &mut memo.graph {
                (*rounds, *flat) = (made, left);
            }
        })
        .await
        .map(drop)
}

/// Every shard becomes one segment.
async fn join(
    engine: &Engine,
    reports: &[SegmentReport],
    flat: &BTreeSet<ShardNumber>,
) -> Result<(), MergeError> {
    // A shard of one segment would not be rewritten: give it a second one.
    let mut hits = Vec::new();
    for report in reports.iter().filter(|report| flat.contains(&report.shard)) {
        if searchable(report).count() == 1 {
            hits.append(&mut sample(engine, report.shard).await?);
        }
    }
    write_again(engine, &hits.iter().collect::<Vec<_>>()).await?;
    let name = &engine.merge.destination.index;
    let merge = ForceMerge::MaxSegments { segments: 1, limit: CALL };
    engine.destination.force_merge(name, merge).await.map(drop).map_err(MergeError::Destination)
}

/// Some documents of a shard: those of collections, or, where there are none of these, somebody else's.
async fn sample(engine: &Engine, shard: ShardNumber) -> Result<Vec<Hit>, MergeError> {
    let name = &engine.merge.destination.index;
    for field in [Some(COLLECTION_FIELD), None] {
        let page = engine.destination.sample(name, shard, SAMPLE, field, whole(engine)).await;
        let hits = page.map_err(MergeError::Destination)?.hits;
        if !hits.is_empty() {
            return Ok(hits);
        }
    }
    Ok(Vec::new())
}

/// Shards larger than one segment: every flat segment gets a deleted document, and only such segments are merged,
/// within the policy's size. The server lets go of deletions about every 30 seconds, so rounds repeat.
async fn expunge(
    engine: &Engine,
    reports: Vec<SegmentReport>,
    marks: &BTreeMap<ShardNumber, u64>,
    info: &IndexInfo,
) -> Result<(), MergeError> {
    let name = &engine.merge.destination.index;
    if !touch_flat_segments(engine, reports, marks).await? {
        // What is touched must wait for the others: they would be looked for among what is rewritten already.
        return Ok(());
    }
    // Put back with the settings of the load.
    let before = info.settings.get(EXPUNGE_ALLOWED).cloned().unwrap_or(Value::Null);
    engine
        .edit_memo(|memo| {
            if let Some(destination) = &mut memo.destination {
                destination.put_back.entry(EXPUNGE_ALLOWED.to_owned()).or_insert(before);
            }
        })
        .await?;
    let names = std::slice::from_ref(name);
    let settings = json!({EXPUNGE_ALLOWED: 0});
    engine.destination.put_settings(names, &settings).await.map_err(MergeError::Destination)?;
    engine.destination.flush(name).await.map_err(MergeError::Destination)?;
    let merge = ForceMerge::ExpungeDeletes { limit: CALL };
    engine.destination.force_merge(name, merge).await.map(drop).map_err(MergeError::Destination)
}

/// Writes a document of each flat segment again, as it is. No request tells which documents are in which segment: see
/// [`places`]. False if that takes longer than one step should; the way so far is kept.
async fn touch_flat_segments(
    engine: &Engine,
    mut reports: Vec<SegmentReport>,
    marks: &BTreeMap<ShardNumber, u64>,
) -> Result<bool, MergeError> {
    let name = &engine.merge.destination.index;
    let begun = Instant::now();
    while begun.elapsed() < WALK {
        let is_untouched = |segment: &Segment| segment.deleted_docs == 0;
        let open: Vec<&SegmentReport> =
            reports.iter().filter(|report| flat_segments(report, marks).any(is_untouched)).collect();
        if open.is_empty() {
            return Ok(true);
        }
        let at = |report: &SegmentReport| {
            let shard = report.shard;
            let number = places(engine).entry(shard).or_insert_with(|| Place::first(report)).next;
            async move {
                let found = engine.destination.document_at(name, shard, number, whole(engine)).await;
                found.map(|found| (shard, found)).map_err(MergeError::Destination)
            }
        };
        let found: Vec<(ShardNumber, Option<(u64, Hit)>)> =
            stream::iter(open).map(at).buffer_unordered(SHARDS).try_collect().await?;
        let hits: Vec<&Hit> =
            found.iter().filter_map(|(_, found)| found.as_ref().map(|(_, hit)| hit)).collect();
        write_again(engine, &hits).await?;
        let now = segments(engine).await?;
        for (shard, found) in &found {
            let Some((before, now)) = report_of(&reports, *shard).zip(report_of(&now, *shard)) else {
                continue;
            };
            let mut places = places(engine);
            let number = found.as_ref().map(|(number, _)| *number);
            let after = places.remove(shard).and_then(|place| place.after(number, before, now));
            // The next round begins with what is there then.
            if let Some(place) = after {
                places.insert(*shard, place);
            }
        }
        reports = now;
    }
    Ok(false)
}

fn report_of(reports: &[SegmentReport], shard: ShardNumber) -> Option<&SegmentReport> {
    reports.iter().find(|report| report.shard == shard)
}

fn places(engine: &Engine) -> MutexGuard<'_, Places> {
    engine.places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How documents are read that are written again.
fn whole(engine: &Engine) -> ReadLane {
    ReadLane::Source { ask_for_vectors: engine.destination.version().at_least(9, 2) }
}

/// Writes documents again as they are: same content, same version. In small bodies: a server may have room for no larger ones, and
/// what is refused is missed by nobody but the next round.
async fn write_again(engine: &Engine, hits: &[&Hit]) -> Result<(), MergeError> {
    if !hits.is_empty() {
        destination::let_workers_write(engine).await?;
    }
    let alias = super::writer_alias(&engine.merge);
    let mut body = BulkBody::default();
    for (at, hit) in hits.iter().enumerate() {
        refuse_without_its_embedding(engine, hit).await?;
        body.begin_index(&hit.id, hit.version, BulkVersioning::ExternalGte).extend(on_one_line(hit.source()));
        body.end();
        if body.bytes() >= BODY || at + 1 == hits.len() {
            let full = std::mem::take(&mut body);
            engine.destination.bulk(&alias, true, full).await.map_err(MergeError::Destination)?;
        }
    }
    let names = std::slice::from_ref(&engine.merge.destination.index);
    engine.destination.refresh(names).await.map_err(MergeError::Destination)
}

/// A document that came without the embedding that the index holds of it would lose it if it was written again.
async fn refuse_without_its_embedding(engine: &Engine, hit: &Hit) -> Result<(), MergeError> {
    if has_embedding(hit.source()) {
        return Ok(());
    }
    let name = &engine.merge.destination.index;
    let is_held = engine.destination.has_field(name, &hit.id, VECTOR_FIELD).await;
    if !is_held.map_err(MergeError::Destination)? {
        return Ok(());
    }
    let text = format!(
        "the document `{}` is given without the embedding that the index holds of it, so it is not written again; \
         find out what takes it away (`_source` of the mapping, a role that hides fields, something on the way)",
        hit.id
    );
    Err(MergeError::problem(MergeCategory::DestinationMismatch, "spec.destination.index", text))
}

fn has_embedding(source: &[u8]) -> bool {
    /// Of a document only this, under its name in every contract: [`VECTOR_FIELD`].
    #[derive(Deserialize)]
    struct Words {
        embedding: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Words>(source).is_ok_and(|words| words.embedding.is_some())
}

/// JSON as a bulk wants it; somebody else may have sent it on several lines. A line break is never part of a value, as a
/// string says it by an escape.
fn on_one_line(json: &[u8]) -> impl Iterator<Item = u8> {
    json.iter().map(|&byte| if byte == b'\n' { b' ' } else { byte })
}

/// The largest shard that becomes one segment, in bytes: there has to be room for its graph.
fn one_segment(info: &IndexInfo) -> u64 {
    let policy = info.settings.get(MAX_SEGMENT).and_then(Value::as_str).and_then(bytes);
    policy.unwrap_or(DEFAULT_MAX_SEGMENT) / 5 * 3
}

/// A size as the server's settings say it, for instance `5gb` or `1.5gb`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kb" => 1,
        "m" | "mb" => 2,
        "g" | "gb" => 3,
        "t" | "tb" => 4,
        _ => return None,
    };
    let number: f64 = digits.parse().ok().filter(|number| (1.0..1e6).contains(number))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 1 and 2^60.
    Some((number * 1024_f64.powi(power)) as u64)
}

/// The segments as searches see them. A refresh comes first: while loading nothing refreshes, and what no search
/// sees yet would look like nothing to rewrite.
async fn segments(engine: &Engine) -> Result<Vec<SegmentReport>, MergeError> {
    let name = &engine.merge.destination.index;
    engine.destination.refresh(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
    let reports = engine.destination.segments(name).await.map_err(MergeError::Destination)?;
    // A shard of which nothing is known would look like one with nothing to rewrite.
    let missing = u64::from(engine.merge.destination.shards).saturating_sub(reports.len() as u64);
    if missing > 0 {
        let reason = format!(
            "index `{name}`: {missing} shards have no active primary, so their segments are not known"
        );
        return Err(MergeError::Destination(ElasticError::unavailable(reason)));
    }
    Ok(reports)
}

fn marks(reports: &[SegmentReport]) -> BTreeMap<ShardNumber, u64> {
    reports
        .iter()
        .map(|report| {
            let mark = report.segments.iter().map(|segment| segment.generation).max().unwrap_or(0);
            (report.shard, mark)
        })
        .collect()
}

fn searchable(report: &SegmentReport) -> impl Iterator<Item = &Segment> {
    report.segments.iter().filter(|segment| segment.search)
}

fn flat_segments<'a>(
    report: &'a SegmentReport,
    marks: &BTreeMap<ShardNumber, u64>,
) -> impl Iterator<Item = &'a Segment> {
    let mark = marks.get(&report.shard).copied().unwrap_or(0);
    searchable(report).filter(move |segment| segment.generation <= mark)
}

/// Shards with a searchable segment at or below their mark.
fn flat_shards(reports: &[SegmentReport], marks: &BTreeMap<ShardNumber, u64>) -> BTreeSet<ShardNumber> {
    reports
        .iter()
        .filter(|report| flat_segments(report, marks).next().is_some())
        .map(|report| report.shard)
        .collect()
}

fn shard_bytes(report: &SegmentReport) -> u64 {
    report.segments.iter().map(|segment| segment.bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_document_that_says_its_embedding_has_one() {
        for there in [r#"{"embedding":[1.0,2]}"#, "{\"id\":1,\n \"embedding\" : \"P4AAAA==\"}"] {
            assert!(has_embedding(there.as_bytes()), "{there}");
        }
        for absent in ["{}", r#"{"embedding":null}"#, r#"{"metadata":{"embedding":[1]}}"#, ""] {
            assert!(!has_embedding(absent.as_bytes()), "{absent}");
        }
    }

    #[test]
    fn json_on_one_line_says_the_same() {
        let pretty = "{\r\n  \"a\\nb\": [\n    0.10,\n    1E2\n  ],\n  \"c\": \"\\\\\"\n}";
        let line: Vec<u8> = on_one_line(pretty.as_bytes()).collect();
        assert!(!line.contains(&b'\n') && line.len() == pretty.len());
        let value = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
        assert!(value(&line).is_some());
        assert_eq!(value(&line), value(pretty.as_bytes()));
    }

    #[test]
    fn a_size_is_read_as_the_server_says_it() {
        for (text, size) in
            [("5gb", 5 << 30), ("100kb", 100 << 10), ("1.5MB", 3 << 19), ("7b", 7), ("2t", 2 << 40)]
        {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "-1", "0b", "gb", "5", "5xb", "é", "1e9gb"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
