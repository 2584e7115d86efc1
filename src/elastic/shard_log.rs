//! Reading the log of a shard: windows of sequence numbers, many of them with one request.
//!
//! A live chunk holds exactly one sequence number of its shard, so the window `[from, to)` holds at most `to - from`
//! hits, and a search as large as the window reads all of them: no scroll, no point in time, no order, nothing that
//! the server has to remember. (In an index that was shrunk chunks of several former shards share them. That is an error,
//! [`ElasticError::is_shared_seq_no`]: a place would no longer tell one chunk from another.) The caller asks for the primary's global checkpoint first, refreshes then, and reads
//! windows up to that checkpoint.
//!
//! A [`Page`] has passed every check of [`check`]; anything else is an error of its window.

pub(super) mod check;
pub(super) mod page;
mod scan;

use bytes::Bytes;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::error::{ElasticError, ErrorCategory, Result};
use super::msearch::{Search, search_body, seq_no_range};
use super::names::{IndexName, SeqNo, ShardNumber};
use check::{Expected, accept};
use page::RawAnswer;

pub(super) const READING: &str = "read a shard log";

/// Widest window, in sequence numbers: the server's default for `index.max_result_window`.
pub const MAX_WINDOW: SeqNo = 10_000;

/// How a chunk's content and vector are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadLane {
    /// Everything from `_source`.
    Source {
        /// Ask for vectors that the index hides from `_source`. Only servers from 9.2 are asked.
        ask_for_vectors: bool,
    },
    /// `_source` without vectors, and the vector as base64 of its big-endian floats from doc values.
    /// Servers from 9.4.
    Binary {
        /// The vector's field.
        field: String,
    },
    /// Neither: only id, sequence number and version.
    Keys,
    /// Only sequence number and version. Ten times as fast as [`ReadLane::Keys`] and more: ids lie in compressed blocks
    /// beside the vectors, these do not.
    Places,
    /// Only these fields of `_source`, by their paths.
    Fields(Vec<&'static str>),
}

impl ReadLane {
    pub(super) fn vector_field(&self) -> Option<&str> {
        match self {
            Self::Binary { field } => Some(field),
            Self::Source { .. } | Self::Keys | Self::Places | Self::Fields(_) => None,
        }
    }

    pub(super) fn has_source(&self) -> bool {
        !matches!(self, Self::Keys | Self::Places)
    }

    pub(super) fn has_id(&self) -> bool {
        !matches!(self, Self::Places)
    }

    /// Adds this lane's options to the body of a search.
    pub(super) fn apply(&self, body: &mut serde_json::Map<String, Value>) {
        match self {
            Self::Source { ask_for_vectors: false } => {}
            Self::Source { ask_for_vectors: true } => {
                body.insert("_source".into(), json!({"exclude_vectors": false}));
            }
            Self::Binary { field } => {
                body.insert("_source".into(), json!({"exclude_vectors": true}));
                body.insert("docvalue_fields".into(), json!([{"field": field, "format": "binary"}]));
            }
            Self::Keys => {
                body.insert("_source".into(), Value::Bool(false));
            }
            Self::Places => {
                body.insert("_source".into(), Value::Bool(false));
                body.insert("stored_fields".into(), json!("_none_"));
            }
            Self::Fields(paths) => {
                body.insert("_source".into(), json!({"includes": paths}));
            }
        }
    }
}

/// A window of the log of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowRequest {
    /// The index.
    pub index: IndexName,
    /// The shard.
    pub shard: ShardNumber,
    /// First sequence number.
    pub from: SeqNo,
    /// The sequence number after the last one; at most [`MAX_WINDOW`] after `from`.
    pub to: SeqNo,
    /// What is read of each chunk.
    pub lane: ReadLane,
    /// The most chunks that are wanted at once; a window that holds more is answered with [`ErrorCategory::TooLarge`].
    /// `None`: all that there are.
    pub most: Option<usize>,
}

impl WindowRequest {
    fn width(&self) -> usize {
        usize::try_from(self.to - self.from).unwrap_or(0)
    }

    /// The most chunks that may come.
    fn size(&self) -> usize {
        self.most.map_or(self.width(), |most| most.min(self.width()))
    }

    /// What it means that it holds more chunks than may come. Never [`ErrorCategory::TooLarge`] where all were asked for.
    fn too_many(&self, total: usize, of: &str) -> ElasticError {
        if total > self.width() {
            let reason = format!("{of}: it holds {total} chunks, more than it has sequence numbers");
            return ElasticError::shared_seq_no(READING, reason);
        }
        let reason = format!("{of}: it holds more than the {} chunks that are wanted", self.size());
        ElasticError::new(ErrorCategory::TooLarge, READING, reason)
    }
}

/// All live chunks of a window.
#[derive(Debug, Clone)]
pub struct Page {
    /// The chunks, in no particular order.
    pub hits: Vec<Hit>,
    /// Size of the part of the answer that they came in, in bytes.
    pub bytes: usize,
}

/// One chunk as read. Its parts are slices of the answer, which lives as long as one of them does.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The document's `_id`; empty in the lane [`ReadLane::Places`].
    pub id: String,
    /// The sequence number of the chunk's last write.
    pub seq_no: SeqNo,
    /// The chunk's `_version`.
    pub version: i64,
    source: Bytes,
    vector: Option<Bytes>,
}

impl Hit {
    /// The raw JSON of `_source`; empty in the lanes [`ReadLane::Keys`] and [`ReadLane::Places`].
    #[must_use]
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// The base64 text of the vector, in the lane [`ReadLane::Binary`] and if the chunk has one.
    #[must_use]
    pub fn vector(&self) -> Option<&str> {
        self.vector.as_deref().and_then(|text| simdutf8::basic::from_utf8(text).ok())
    }

    /// Bytes of the answer that this chunk's parts take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.id.len() + self.source.len() + self.vector.as_ref().map_or(0, Bytes::len)
    }
}

impl Cluster {
    /// Reads windows of shard logs with one request; the answers are in the order of the requests.
    ///
    /// The outer error means that no window was read; an inner one is of that window alone: its index does not
    /// exist ([`ErrorCategory::NotFound`]) or is closed ([`ErrorCategory::Invalid`],
    /// [`ElasticError::is_closed_index`]), its shard has no active copy ([`ErrorCategory::Unavailable`]), the server
    /// has no room ([`ErrorCategory::Overloaded`], after it was asked again for a while), chunks share a sequence number
    /// ([`ElasticError::is_shared_seq_no`]), or its page failed a check or cannot be read ([`ErrorCategory::BadAnswer`]).
    pub async fn read_windows(&self, requests: &[WindowRequest]) -> Result<Vec<Result<Page>>> {
        self.search_all(requests).await
    }

    /// [`Cluster::read_windows`] with an answer of at most so many bytes. A larger one is not taken, with
    /// [`ErrorCategory::TooLarge`].
    pub async fn read_windows_within(
        &self,
        requests: &[WindowRequest],
        answer_limit: u64,
    ) -> Result<Vec<Result<Page>>> {
        self.search_within(requests, answer_limit).await
    }
}

impl Search for WindowRequest {
    type Found = Page;

    fn shard(&self) -> (&IndexName, ShardNumber) {
        (&self.index, self.shard)
    }

    fn body(&self) -> Result<Value> {
        check_request(self)?;
        Ok(search_body(seq_no_range(self.from, self.to), self.size(), &self.lane))
    }

    fn vector_field(&self) -> Option<&str> {
        self.lane.vector_field()
    }

    fn accept(&self, answer: RawAnswer) -> Result<Page> {
        let WindowRequest { index, shard, from, to, .. } = self;
        let of = format!("index `{index}`, shard {shard}, window [{from}, {to})");
        if let RawAnswer::Found(page) = &answer
            && let Some(total) = page.total_beyond(self.size())
        {
            return Err(self.too_many(total, &of));
        }
        let expected = Expected {
            shards: Some(1),
            window: Some((*from, *to)),
            id: self.lane.has_id(),
            source: self.lane.has_source(),
            limit: None,
        };
        accept(answer, &expected, &of)
    }
}

fn check_request(request: &WindowRequest) -> Result<()> {
    let width = request.to.saturating_sub(request.from);
    if request.from < 0 || request.shard < 0 || !(1..=MAX_WINDOW).contains(&width) {
        let reason = format!(
            "index `{}`, shard {}: [{}, {}) is not a window of 1 to {MAX_WINDOW} sequence numbers",
            request.index, request.shard, request.from, request.to
        );
        return Err(ElasticError::new(ErrorCategory::Invalid, READING, reason));
    }
    Ok(())
}
