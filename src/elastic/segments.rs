//! Segments and merges: whether every searchable segment already has the format that is wanted.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::call::Call;
use super::catalog::not_concrete;
use super::cluster::{Cluster, encoded, parse};
use super::error::Result;
use super::names::{IndexName, ShardNumber};

const LISTING: &str = "list segments";
const COUNTING_MERGES: &str = "count running merges";

/// The segments of one primary shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// The shard.
    pub shard: ShardNumber,
    /// Its segments, oldest generation first.
    pub segments: Vec<Segment>,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its name, for instance `_3f`.
    pub name: String,
    /// Grows with each new segment of the shard.
    pub generation: u64,
    /// Live chunks.
    pub num_docs: u64,
    /// Deleted ones.
    pub deleted_docs: u64,
    /// Size on disk, in bytes.
    pub bytes: u64,
    /// Whether searches see it.
    pub search: bool,
    /// Whether it is part of the last commit.
    pub committed: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    indices: BTreeMap<String, IndexSegments>,
}

#[derive(Deserialize)]
struct IndexSegments {
    #[serde(default)]
    shards: BTreeMap<ShardNumber, Vec<CopySegments>>,
}

#[derive(Deserialize)]
struct CopySegments {
    routing: Routing,
    #[serde(default)]
    segments: BTreeMap<String, RawSegment>,
}

#[derive(Deserialize)]
struct Routing {
    primary: bool,
}

#[derive(Deserialize)]
struct RawSegment {
    generation: u64,
    num_docs: u64,
    deleted_docs: u64,
    size_in_bytes: u64,
    search: bool,
    committed: bool,
}

#[derive(Deserialize)]
struct MergeStats {
    #[serde(rename = "_all")]
    all: AllStats,
}

#[derive(Deserialize)]
struct AllStats {
    total: TotalStats,
}

#[derive(Deserialize)]
struct TotalStats {
    merges: Merges,
}

#[derive(Deserialize)]
struct Merges {
    current: u64,
}

impl Cluster {
    /// The segments of every primary shard that is active, by shard number. Compare their number with the index's
    /// number of shards: a shard without an active primary is absent.
    pub async fn segments(&self, name: &IndexName) -> Result<Vec<SegmentReport>> {
        let call = Call::get(LISTING, format!("/{}/_segments", encoded(name.as_str())));
        reports(&self.send(&call).await?, name)
    }

    /// Number of merges that run now, on all copies.
    pub async fn merges_running(&self, name: &IndexName) -> Result<u64> {
        let call = Call::get(COUNTING_MERGES, format!("/{}/_stats/merge", encoded(name.as_str())))
            .with("filter_path", "_all.total.merges.current");
        let answer: MergeStats = self.ask(&call).await?;
        Ok(answer.all.total.merges.current)
    }
}

/// Reads the answer of `GET /index/_segments`.
pub(super) fn reports(answer: &[u8], name: &IndexName) -> Result<Vec<SegmentReport>> {
    let mut answer: Answer = parse(LISTING, answer)?;
    let index = answer.indices.remove(name.as_str()).ok_or_else(|| not_concrete(LISTING, name))?;
    let reports = index.shards.into_iter().filter_map(|(shard, copies)| {
        let primary = copies.into_iter().find(|copy| copy.routing.primary)?;
        let mut segments: Vec<Segment> =
            primary.segments.into_iter().map(|(name, raw)| segment(name, &raw)).collect();
        segments.sort_by_key(|segment| segment.generation);
        Some(SegmentReport { shard, segments })
    });
    Ok(reports.collect())
}

fn segment(name: String, raw: &RawSegment) -> Segment {
    Segment {
        name,
        generation: raw.generation,
        num_docs: raw.num_docs,
        deleted_docs: raw.deleted_docs,
        bytes: raw.size_in_bytes,
        search: raw.search,
        committed: raw.committed,
    }
}
