//! Answers of Elasticsearch: any bytes are an error or keep what their reader promises.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use serde_json::Value;

use super::choice;
use crate::elastic::internals::{
    read_broadcast, read_bulk_answer, read_catalog, read_counts, read_error, read_identity, read_info,
    read_lookup, read_pages, read_places, read_segments, read_shard_count, read_stats, read_versions,
    read_walk,
};
use crate::elastic::{
    BulkItem, BulkRefusal, CatalogEntry, ElasticError, Hit, IndexName, LogRange, PlacesRequest, ReadLane,
    Version, Walk, WindowRequest, convicted,
};

/// End of the windows that are asked for.
const END: i64 = 64;
/// The longest text of an error that anybody wants to read, in bytes.
const MOST_SAID: usize = 8_000;

fn index() -> Option<IndexName> {
    IndexName::parse("a").ok()
}

fn lane(choice: u8) -> ReadLane {
    match choice % 5 {
        0 => ReadLane::Source { ask_for_vectors: false },
        1 => ReadLane::Binary { field: "embedding".to_owned() },
        2 => ReadLane::Keys,
        3 => ReadLane::Places,
        _ => ReadLane::Fields(vec!["id"]),
    }
}

/// An error is one short line.
fn is_sound(error: &ElasticError) {
    let text = error.to_string();
    assert!(text.len() <= MOST_SAID, "{} bytes of error", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(error.kind().is_none_or(|kind| kind.len() <= MOST_SAID));
}

/// What was read; an error must be sound.
pub(super) fn sound<T>(answer: Result<T, ElasticError>) -> Option<T> {
    answer.inspect_err(is_sound).ok()
}

fn is_whole(hit: &Hit, lane: &ReadLane) {
    assert!(matches!(lane, ReadLane::Keys | ReadLane::Places) || !hit.source().is_empty());
    assert!(*lane == ReadLane::Places || !hit.id.is_empty());
    assert!(hit.bytes() >= hit.source().len() + hit.vector().map_or(0, str::len));
}

/// `_msearch` over windows and places of shard logs, walks, and the counts of ranges.
pub fn shard_log(data: &[u8]) {
    let Some(index) = index() else { return };
    let (chosen, rest) = choice(data);
    let answer = Bytes::copy_from_slice(rest);
    let number = usize::from(chosen >> 2) % 4;
    let request =
        WindowRequest { index: index.clone(), shard: 0, from: 0, to: END, lane: lane(chosen), most: None };
    if let Some(pages) = sound(read_pages(&answer, &vec![request.clone(); number])) {
        assert_eq!(pages.len(), number);
        for page in pages.into_iter().filter_map(sound) {
            let places: BTreeSet<i64> = page.hits.iter().map(|hit| hit.seq_no).collect();
            assert_eq!(places.len(), page.hits.len(), "a sequence number twice");
            assert!(places.iter().all(|place| (0..END).contains(place)), "{places:?}");
            assert!(page.bytes <= rest.len());
            page.hits.iter().for_each(|hit| is_whole(hit, &request.lane));
        }
    }
    let wanted: Vec<i64> = (0..END).step_by(2).collect();
    let request = PlacesRequest { index: index.clone(), shard: 0, places: wanted, lane: lane(chosen) };
    if let Some(pages) = sound(read_places(&answer, &vec![request.clone(); number])) {
        assert_eq!(pages.len(), number);
        for page in pages.into_iter().filter_map(sound) {
            assert!(page.hits.iter().all(|hit| request.places.contains(&hit.seq_no)));
            assert!(page.hits.len() <= request.places.len(), "a place twice");
        }
    }
    if let Some(pages) = sound(read_walk(&answer, &index, &vec![Walk::new(0, END); number])) {
        assert_eq!(pages.len(), number);
        for page in pages.into_iter().filter_map(sound) {
            assert!(page.documents.is_sorted_by(|a, b| a.seq_no < b.seq_no));
            assert!(page.documents.iter().all(|document| (0..END).contains(&document.seq_no)));
        }
    }
    let range = LogRange { index, shard: 0, from: 0, to: END };
    if let Some(counts) = sound(read_counts(&answer, &vec![range; number])) {
        assert_eq!(counts.len(), number);
        counts.into_iter().filter_map(sound).for_each(drop);
    }
}

/// `_search` for chunks by their ids, and `_mget` of their versions.
pub fn lookup(data: &[u8]) {
    for asked in 0..4 {
        assert!(sound(read_versions(data, asked)).is_none_or(|versions| versions.len() == asked));
    }
    let Some(index) = index() else { return };
    let (chosen, rest) = choice(data);
    let lane = lane(chosen);
    if let Some(found) = sound(read_lookup(&Bytes::copy_from_slice(rest), &index, &lane)) {
        let ids: HashSet<&str> = found.hits().map(|hit| hit.id.as_str()).collect();
        assert_eq!(ids.len(), found.len());
        found.hits().for_each(|hit| is_whole(hit, &lane));
        assert!(ids.iter().all(|id| found.get(id).is_some()));
    }
}

fn is_sound_refusal(refusal: &BulkRefusal) {
    let text = refusal.to_string();
    assert!(text.len() <= MOST_SAID && !text.chars().any(char::is_control), "{text:?}");
    assert!((400..600).contains(&refusal.status), "{refusal:?}");
}

/// `_bulk`: an item counts as written only if the server says so.
pub fn bulk(data: &[u8]) {
    // What the plain parser refuses, for instance bytes that are no text in a part that nobody reads, has no number of
    // items to hold the reader to.
    let Ok(parsed) = serde_json::from_slice::<Value>(data) else {
        (0..4).for_each(|sent| drop(sound(read_bulk_answer(data, sent))));
        return;
    };
    let items = parsed.get("items").and_then(Value::as_array);
    let sent = items.map_or(0, Vec::len);
    assert!(sound(read_bulk_answer(data, sent + 1)).is_none(), "one item more was answered");
    let Some(outcome) = sound(read_bulk_answer(data, sent)) else { return };
    assert_eq!(outcome.items.len(), sent);
    let _ = convicted(&outcome.items);
    for (item, raw) in outcome.items.iter().zip(items.into_iter().flatten()) {
        let result = raw.get("index").filter(|result| !result.is_null()).or_else(|| raw.get("delete"));
        let status = result.and_then(|result| result.get("status")).and_then(Value::as_u64).unwrap_or(0);
        let has_error =
            result.is_some_and(|result| result.get("error").is_some_and(|error| !error.is_null()));
        match item {
            BulkItem::Applied => assert!((200..300).contains(&status) && !has_error, "{raw}"),
            BulkItem::Missing => assert!(status == 404 && !has_error, "{raw}"),
            BulkItem::AlreadyThere => assert!(status == 409 && has_error, "{raw}"),
            BulkItem::Retry(refusal) => {
                is_sound_refusal(refusal);
                assert!(status == 429 || (500..600).contains(&status), "{raw}");
                assert!(!refusal.may_lie_in_chunk() || !matches!(status, 429 | 503), "{raw}");
            }
            BulkItem::Refused(refusal) => is_sound_refusal(refusal),
        }
    }
}

/// The body of an answer that is an error.
pub fn error_body(data: &[u8]) {
    let (chosen, rest) = choice(data);
    let statuses = [301, 400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504];
    let status = statuses.get(usize::from(chosen) % statuses.len()).copied().unwrap_or(500);
    let error = read_error(status, rest);
    is_sound(&error);
    assert_eq!(error.status(), Some(status));
    assert!(!error.is_missing_index() || status == 404);
    assert!(!error.remedy().is_empty());
}

/// `_stats`, settings with the number of shards, and `_segments`.
pub fn statistics(data: &[u8]) {
    let Some(index) = index() else { return };
    let (chosen, rest) = choice(data);
    let shards = i32::from(chosen % 4);
    if let Some(Some(primaries)) = sound(read_stats(rest, &index, shards)) {
        assert_eq!(i32::try_from(primaries.len()), Ok(shards));
        assert!(primaries.iter().all(|primary| primary.global_checkpoint >= -1));
    }
    let count = sound(read_shard_count(rest, &index));
    assert!(count.is_none_or(|shards| shards > 0), "{count:?} shards");
    for report in sound(read_segments(rest, &index)).into_iter().flatten() {
        assert!(report.segments.is_sorted_by_key(|segment| segment.generation));
    }
}

/// `/`, `_resolve/index`, `GET /index` and what is answered by every shard.
pub fn catalog(data: &[u8]) {
    let Some(index) = index() else { return };
    if let Some((version, uuid, _)) = sound(read_identity(data)) {
        assert!(version.at_least(8, 11) && uuid != "_na_");
    }
    for entry in sound(read_catalog(data)).into_iter().flatten() {
        if let CatalogEntry::Index { name, .. } = entry {
            assert_eq!(IndexName::parse(name.as_str()).ok(), Some(name));
        }
    }
    if let Some(info) = sound(read_info(data, &index)) {
        assert!(info.shards > 0, "{} shards", info.shards);
        for minor in [0, 2, 4] {
            let lane = info.read_lane(Version::new(9, minor, 0), "embedding");
            assert!(minor == 4 || !matches!(lane, ReadLane::Binary { .. }));
        }
    }
    let _ = sound(read_broadcast(data, 1));
}
