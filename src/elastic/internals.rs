//! What the fuzz targets and the micro-benchmarks reach into: the readers of answers, without a server.

use bytes::Bytes;

use super::bulk::{BulkOutcome, outcome};
use super::error::{ElasticError, Result};
use super::shard_log::{Page, WindowRequest, pages};

/// Takes the answer of an `_msearch` over these windows apart, and checks each page.
pub fn read_pages(answer: &Bytes, requests: &[WindowRequest]) -> Result<Vec<Result<Page>>> {
    pages(answer, requests)
}

/// Reads the answer of a bulk of so many items.
pub fn read_bulk_answer(answer: &[u8], sent: usize) -> Result<BulkOutcome> {
    outcome(answer, sent)
}

/// Reads the body of an error.
#[must_use]
pub fn read_error(status: u16, body: &[u8]) -> ElasticError {
    ElasticError::from_server("fuzz", status, body)
}
