//! What the fuzz targets and the micro-benchmarks reach into: the readers of answers, without a server.

use bytes::Bytes;

use super::bulk::{BulkOutcome, outcome};
use super::catalog::{CatalogEntry, check_broadcast, entries, infos};
use super::cluster::identity;
use super::error::{ElasticError, Result};
use super::info::IndexInfo;
use super::lookup::{LogRange, Lookup, by_id};
use super::msearch::accept_all;
use super::names::{IndexName, ShardNumber, Version};
use super::places::{PlacesRequest, Walk, WalkPage, walk_searches};
use super::segments::{SegmentReport, reports};
use super::shard_log::{Page, ReadLane, WindowRequest};
use super::stats::{self, PrimaryStats};
use super::versions::of_answer;

const FUZZING: &str = "fuzz";

/// Takes the answer of an `_msearch` over these windows apart, and checks each page.
pub fn read_pages(answer: &Bytes, requests: &[WindowRequest]) -> Result<Vec<Result<Page>>> {
    accept_all(answer, requests)
}

/// Reads the counts of these ranges.
pub fn read_counts(answer: &Bytes, ranges: &[LogRange]) -> Result<Vec<Result<u64>>> {
    accept_all(answer, ranges)
}

/// Reads the places of a walk over documents with that value of a field.
pub fn read_walk(answer: &Bytes, index: &IndexName, walks: &[Walk]) -> Result<Vec<Result<WalkPage>>> {
    accept_all(answer, &walk_searches(index, walks, "field", 0))
}

/// Reads what lives at these places.
pub fn read_places(answer: &Bytes, requests: &[PlacesRequest]) -> Result<Vec<Result<Page>>> {
    accept_all(answer, requests)
}

/// Reads the chunks that were looked up by their ids.
pub fn read_lookup(answer: &Bytes, index: &IndexName, lane: &ReadLane) -> Result<Lookup> {
    by_id(answer, index, lane)
}

/// Reads the versions of so many chunks.
pub fn read_versions(answer: &[u8], asked: usize) -> Result<Vec<Option<i64>>> {
    of_answer(answer, asked)
}

/// Reads the answer of a bulk of so many items.
pub fn read_bulk_answer(answer: &[u8], sent: usize) -> Result<BulkOutcome> {
    outcome(answer, sent)
}

/// Reads the body of an error.
#[must_use]
pub fn read_error(status: u16, body: &[u8]) -> ElasticError {
    ElasticError::from_server(FUZZING, status, body)
}

/// Reads what a server says of itself: its version, its cluster's uuid and name.
pub fn read_identity(answer: &[u8]) -> Result<(Version, String, String)> {
    identity(answer)
}

/// Reads the catalog.
pub fn read_catalog(answer: &[u8]) -> Result<Vec<CatalogEntry>> {
    entries(answer)
}

/// Reads settings and mapping of an index.
pub fn read_info(answer: &[u8], index: &IndexName) -> Result<IndexInfo> {
    let found = infos(answer, &[index])?.pop();
    found.map(|(_, info)| info).ok_or_else(|| ElasticError::bad_answer(FUZZING, "nothing was found"))
}

/// Reads the statistics of an index that has so many shards.
pub fn read_stats(
    answer: &[u8],
    index: &IndexName,
    shards: ShardNumber,
) -> Result<Option<Vec<PrimaryStats>>> {
    stats::read(answer, index, shards)
}

/// Reads how many shards an index has.
pub fn read_shard_count(answer: &[u8], index: &IndexName) -> Result<ShardNumber> {
    stats::read_shard_count(answer, index)
}

/// Reads the segments of an index.
pub fn read_segments(answer: &[u8], index: &IndexName) -> Result<Vec<SegmentReport>> {
    reports(answer, index)
}

/// Reads whether every copy of so many indices did what was asked.
pub fn read_broadcast(answer: &[u8], indices: usize) -> Result<bool> {
    check_broadcast(FUZZING, answer, indices).map(|copies| copies == super::catalog::Copies::All)
}
