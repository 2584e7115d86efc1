//! Copying a round of windows: transform, write, account for every document.
//!
//! Each write carries the chunk's version, so a window may be replayed by anyone at any time: what is
//! already there answers 409, which is an acknowledgement.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Shared;
use super::batch::{ReadWindow, Settled};
use super::facts::Facts;
use super::keys::{Updated, watch};
use super::send::{Sent, send};
use crate::chunk::{self, Cuts, Input, Parsed, Refusal, Transform};
use crate::elastic::{BulkBody, BulkVersioning, Hit};
use crate::merge::act::VECTOR_FIELD;
use crate::merge::error::MergeError;
use crate::merge::version::of_copy;
use crate::state::{Counts, LeasedUnit, Quarantined, SourceCuts, SourceId};

/// The version that a server gives to a chunk that is new.
const FIRST_VERSION: i64 = 1;

/// One chunk of a round: which window, which hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub window: usize,
    pub hit: usize,
}

/// A bulk body and whose chunks its items are, in order.
struct Prepared {
    body: BulkBody,
    places: Vec<Place>,
}

/// What transforming a round gave.
#[derive(Default)]
struct Transformed {
    bodies: Vec<Prepared>,
    refused: Vec<(Place, Refusal)>,
    cuts: Vec<Cuts>,
    /// Documents whose facts must be asked for, and the chunks that wait for them.
    unknown_documents: BTreeSet<i64>,
    postponed: Vec<Place>,
    /// Chunks that the destination holds already, as they were before they were updated.
    updated: Vec<Updated>,
}

/// Writes every chunk of the round; returns what became of each window.
pub(super) async fn act(
    shared: &Shared,
    facts: &mut Facts,
    windows: Vec<ReadWindow>,
) -> Result<(Vec<ReadWindow>, Vec<Settled>), MergeError> {
    let mut settled: Vec<Settled> = windows.iter().map(read_counts).collect();
    let all = places(&windows);
    let (windows, first) = transform(shared, facts, windows, all).await?;
    let postponed = first.postponed.clone();
    let unknown = first.unknown_documents.clone();
    write(shared, &windows, first, &mut settled).await?;
    if postponed.is_empty() {
        return Ok((windows, settled));
    }
    facts.learn(&shared.context.collections, &unknown).await?;
    let (windows, second) = transform(shared, facts, windows, postponed).await?;
    write(shared, &windows, second, &mut settled).await?;
    Ok((windows, settled))
}

/// Every chunk of a round.
pub(super) fn places(windows: &[ReadWindow]) -> Vec<Place> {
    windows
        .iter()
        .enumerate()
        .flat_map(|(window, read)| (0..read.page.hits.len()).map(move |hit| Place { window, hit }))
        .collect()
}

/// What a window counts before anything is done with it.
pub(super) fn read_counts(window: &ReadWindow) -> Settled {
    let counts = Counts {
        documents: signed(window.page.hits.len()),
        bytes_read: signed(window.page.bytes),
        ..Counts::default()
    };
    Settled { counts, ..Settled::default() }
}

/// The quarantine row of a chunk.
pub(super) fn quarantined(
    unit: &LeasedUnit,
    hit: &Hit,
    destination_id: Option<String>,
    class: &str,
    reason: String,
) -> Quarantined {
    Quarantined {
        unit: unit.id,
        source: unit.source,
        shard: unit.shard,
        collection_id: unit.collection_id,
        chunk_id: hit.id.clone(),
        destination_id,
        seq_no: hit.seq_no,
        class: class.to_owned(),
        reason,
        original: original(hit.source(), hit.vector()),
    }
}

/// The `_source` of a chunk, so that it can be indexed again: with its embedding, where that is read beside it. Servers that
/// give it so take base64, too.
fn original(source: &[u8], vector: Option<&str>) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Fields {
        embedding: Option<IgnoredAny>,
    }
    let is_without = || serde_json::from_slice(source).is_ok_and(|fields: Fields| fields.embedding.is_none());
    match (vector, source.strip_prefix(b"{")) {
        (Some(vector), Some(rest)) if is_without() => {
            let comma = if rest.trim_ascii_start().starts_with(b"}") { "" } else { "," };
            [format!(r#"{{"{VECTOR_FIELD}":"{vector}"{comma}"#).as_bytes(), rest].concat()
        }
        _ => source.to_vec(),
    }
}

/// Transforms the chunks at those places, off the async runtime.
async fn transform(
    shared: &Shared,
    facts: &Facts,
    windows: Vec<ReadWindow>,
    places: Vec<Place>,
) -> Result<(Vec<ReadWindow>, Transformed), MergeError> {
    let rules = shared.transform();
    let facts = facts.clone();
    let piece = usize::try_from(shared.limits.body()).unwrap_or(usize::MAX);
    tokio::task::spawn_blocking(move || {
        let transformed = transform_blocking(rules, &facts, &windows, &places, piece);
        (windows, transformed)
    })
    .await
    .map_err(|error| MergeError::Internal(format!("transforming chunks failed: {error}")))
}

fn transform_blocking(
    rules: Transform,
    facts: &Facts,
    windows: &[ReadWindow],
    places: &[Place],
    piece: usize,
) -> Transformed {
    let mut out = Transformed { cuts: vec![Cuts::default(); windows.len()], ..Transformed::default() };
    let mut current = Prepared { body: BulkBody::with_capacity(piece), places: Vec::new() };
    for &place in places {
        let window = &windows[place.window];
        let hit = &window.page.hits[place.hit];
        let parsed = match parse(rules, window, hit) {
            Ok(parsed) => parsed,
            Err(refusal) => {
                out.refused.push((place, refusal));
                continue;
            }
        };
        let document = facts.get(parsed.document_id());
        if document.is_none() && parsed.needs_document() {
            out.unknown_documents.insert(parsed.document_id());
            out.postponed.push(place);
            continue;
        }
        if is_updated(window, hit) {
            out.updated.push(Updated { place, key: parsed.destination_id().to_owned() });
        }
        let version = of_copy(window.unit.pass, window.unit.shard, hit.seq_no);
        let buffer = current.body.begin_index(parsed.destination_id(), version, BulkVersioning::External);
        out.cuts[place.window].merge(&parsed.write(document, buffer));
        current.body.end();
        current.places.push(place);
        if current.body.bytes() >= piece {
            let full = std::mem::replace(
                &mut current,
                Prepared { body: BulkBody::with_capacity(piece), places: Vec::new() },
            );
            out.bodies.push(full);
        }
    }
    if !current.places.is_empty() {
        out.bodies.push(current);
    }
    out
}

/// One chunk, parsed by the rules of the contract.
pub(super) fn parse<'a>(rules: Transform, window: &ReadWindow, hit: &'a Hit) -> Result<Parsed<'a>, Refusal> {
    let collection_id = window.unit.collection_id;
    chunk::parse(&rules, Input { source: hit.source(), vector: hit.vector(), collection_id })
}

/// Sends the bodies and books the outcome of every chunk.
async fn write(
    shared: &Shared,
    windows: &[ReadWindow],
    transformed: Transformed,
    settled: &mut [Settled],
) -> Result<(), MergeError> {
    watch(shared, windows, &transformed.updated).await?;
    let mut not_written = Vec::new();
    for (place, refusal) in transformed.refused {
        let window = &windows[place.window];
        let hit = &window.page.hits[place.hit];
        not_written.extend(updated_chunk(window, hit));
        let row = quarantined(&window.unit, hit, None, refusal.class.as_str(), refusal.reason);
        settled[place.window].counts.quarantined += 1;
        settled[place.window].quarantined.push(row);
    }
    for (window, cuts) in transformed.cuts.iter().enumerate().filter(|(_, cuts)| !cuts.is_empty()) {
        add_cuts(&mut settled[window], &windows[window].unit, cuts);
    }
    let mut doubtful = BTreeSet::new();
    for prepared in transformed.bodies {
        let bytes = prepared.body.bytes();
        if let Some(&first) = prepared.places.first() {
            settled[first.window].counts.bytes_written += signed(bytes);
        }
        for (item, outcome) in send(shared, prepared.body.freeze()).await?.into_iter().enumerate() {
            let place = prepared.places[item];
            let window = &windows[place.window];
            let hit = &window.page.hits[place.hit];
            // Its key was not free: it may be that of another chunk. Or a worker wrote this one, and died.
            if matches!(outcome, Sent::Replaced | Sent::AlreadyThere) && is_new(window, hit) {
                doubtful.insert((window.unit.source, window.unit.shard));
            }
            let counts = &mut settled[place.window].counts;
            match outcome {
                Sent::Applied | Sent::Replaced => counts.written += 1,
                Sent::AlreadyThere => counts.already_there += 1,
                Sent::Refused(reason) => {
                    counts.quarantined += 1;
                    not_written.extend(updated_chunk(window, hit));
                    settled[place.window].quarantined.push(quarantined(
                        &window.unit,
                        hit,
                        None,
                        "Refused",
                        reason,
                    ));
                }
            }
        }
    }
    // The destination may hold them as they were before they were updated, and where another chunk takes another's key
    // meanwhile, the counts agree. Before the checkpoint: after it nobody looks at these chunks again.
    let super::Context { state, id, .. } = &shared.context;
    doubtful.append(&mut state.left_behind(*id, &not_written).await?);
    Ok(state.doubt_keys(*id, &doubtful).await?)
}

/// The chunk's place among the chunks in quarantine, if it was updated.
fn updated_chunk<'a>(window: &ReadWindow, hit: &'a Hit) -> Option<(SourceId, i32, &'a str)> {
    is_updated(window, hit).then_some((window.unit.source, window.unit.shard, hit.id.as_str()))
}

/// Whether the chunk was updated since its shard was copied before.
fn is_updated(window: &ReadWindow, hit: &Hit) -> bool {
    window.unit.is_follow_up && hit.version > FIRST_VERSION
}

/// Whether the chunk is new since then, or looks so: an update whose version the application chose may leave the first one.
fn is_new(window: &ReadWindow, hit: &Hit) -> bool {
    window.unit.is_follow_up && hit.version <= FIRST_VERSION
}

fn add_cuts(settled: &mut Settled, unit: &LeasedUnit, cuts: &Cuts) {
    let row = settled.cuts.get_or_insert_with(|| SourceCuts {
        unit: unit.id,
        source: unit.source,
        cuts: std::collections::BTreeMap::new(),
    });
    for (reason, count) in cuts.iter() {
        *row.cuts.entry(reason.to_owned()).or_default() += i64::try_from(count).unwrap_or(i64::MAX);
    }
}

/// A size as Postgres stores it.
fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedding_that_is_read_beside_the_source_is_part_of_the_original() {
        let with =
            |source: &str| String::from_utf8(original(source.as_bytes(), Some("PwAA"))).unwrap_or_default();
        assert_eq!(with(r#"{"id":1,"content":""}"#), r#"{"embedding":"PwAA","id":1,"content":""}"#);
        assert_eq!(with("{ }"), r#"{"embedding":"PwAA" }"#);
        // It has one of its own, or is nothing that a field can be put into.
        for source in [r#"{"embedding":[1.0]}"#, "{", r#"{"id":}"#, "[1]", ""] {
            assert_eq!(with(source), source);
        }
        assert_eq!(original(b"{}", None), b"{}");
    }
}
