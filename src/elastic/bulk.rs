//! Writing many chunks with one request.
//!
//! A [`BulkBody`] is one growing buffer that becomes the request's body without a copy. Every item carries an
//! external version, so a body may be sent again whatever happened to it before. On failure of single items the
//! others stand; [`BulkOutcome`] says what became of each, in order.

mod trial;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::call::Call;
use super::cluster::{Cluster, encoded, parse};
use super::error::{
    ElasticError, ErrorCategory, INDEX_CLOSED, INDEX_NOT_FOUND, Result, category_of, is_about_room, shortened,
};

pub use trial::convicted;

const WRITING: &str = "write in bulk";

/// Largest body that is sent, in bytes: the server's default of `http.max_content_length`.
pub const MAX_BULK_BYTES: usize = 100 * 1024 * 1024;

/// How the version of an item is compared with that of the chunk in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkVersioning {
    /// Written if greater; otherwise [`BulkItem::AlreadyThere`].
    External,
    /// Written if greater or equal; otherwise [`BulkItem::AlreadyThere`].
    ExternalGte,
}

impl BulkVersioning {
    const fn as_str(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::ExternalGte => "external_gte",
        }
    }
}

/// The body of a bulk request while it is built.
#[derive(Debug, Default)]
pub struct BulkBody {
    buffer: Vec<u8>,
    /// Where each finished item ends.
    ends: Vec<usize>,
}

impl BulkBody {
    /// An empty body with room for that many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buffer: Vec::with_capacity(bytes), ends: Vec::new() }
    }

    /// Begins to index a chunk: append its JSON, on one line, to what is returned, then call [`BulkBody::end`], or
    /// [`BulkBody::cancel`] to take the item back.
    ///
    /// An item that was begun and not ended is taken back.
    pub fn begin_index(&mut self, id: &str, version: i64, versioning: BulkVersioning) -> &mut Vec<u8> {
        self.cancel();
        self.push_action("index", id, version, versioning);
        &mut self.buffer
    }

    /// Ends the item that [`BulkBody::begin_index`] began.
    pub fn end(&mut self) {
        if self.buffer.len() > self.finished() {
            self.buffer.push(b'\n');
            self.ends.push(self.buffer.len());
        }
    }

    /// Takes back the item that was begun and not ended, if there is one.
    pub fn cancel(&mut self) {
        self.buffer.truncate(self.finished());
    }

    /// Adds the deletion of a chunk, unless its version is the given one or greater.
    pub fn push_delete(&mut self, id: &str, version: i64) {
        self.cancel();
        self.push_action("delete", id, version, BulkVersioning::External);
        self.ends.push(self.buffer.len());
    }

    /// Number of finished items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no finished item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Size of the finished items, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.finished()
    }

    /// Makes it a request; no byte is copied.
    #[must_use]
    pub fn freeze(mut self) -> BulkRequest {
        self.cancel();
        BulkRequest { body: Bytes::from(self.buffer), ends: self.ends.into() }
    }

    fn finished(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn push_action(&mut self, action: &str, id: &str, version: i64, versioning: BulkVersioning) {
        let buffer = &mut self.buffer;
        // Writing to a Vec cannot fail.
        let _ = write!(buffer, r#"{{"{action}":{{"_id":"#);
        push_quoted(buffer, id);
        let _ = writeln!(buffer, r#","version":{version},"version_type":"{}"}}}}"#, versioning.as_str());
    }
}

/// As a JSON string. Ids of chunks have nothing to escape.
fn push_quoted(buffer: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        buffer.push(b'"');
        buffer.extend_from_slice(text.as_bytes());
        buffer.push(b'"');
    } else {
        buffer.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
    }
}

/// A finished body. Clones share its bytes, so a caller can keep one for what has to be sent again.
#[derive(Debug, Clone)]
pub struct BulkRequest {
    body: Bytes,
    ends: Arc<[usize]>,
}

impl From<BulkBody> for BulkRequest {
    fn from(body: BulkBody) -> Self {
        body.freeze()
    }
}

impl BulkRequest {
    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Size, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// A request with these items alone, by their places; places that do not exist are passed over.
    #[must_use]
    pub fn only(&self, places: impl IntoIterator<Item = usize>) -> Self {
        let mut part = BulkBody::default();
        for place in places {
            let Some(&end) = self.ends.get(place) else { continue };
            let start = place.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
            part.buffer.extend_from_slice(self.body.get(start..end).unwrap_or_default());
            part.ends.push(part.buffer.len());
        }
        part.freeze()
    }
}

/// What became of a bulk request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkOutcome {
    /// One for each item, in order.
    pub items: Vec<BulkItem>,
    /// The places of those that were written over a document.
    pub replaced: BTreeSet<usize>,
}

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BulkItem {
    /// Written or deleted.
    Applied,
    /// The chunk in place has that version or a greater one.
    AlreadyThere,
    /// Not done, for a reason that may pass; send it again. See [`BulkRefusal::may_lie_in_chunk`].
    Retry(BulkRefusal),
    /// Not done, for a reason that lies in the chunk.
    Refused(BulkRefusal),
    /// A deletion of a chunk that is not there.
    Missing,
}

/// Why the server did not take a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkRefusal {
    /// The item's status.
    pub status: u16,
    /// The server's name of the error.
    pub kind: String,
    /// The server's reason, shortened.
    pub reason: String,
}

impl BulkRefusal {
    /// Whether the server had no room for it at that moment.
    #[must_use]
    pub fn is_about_room(&self) -> bool {
        self.status == 429 && is_about_room(&self.kind)
    }
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: Option<ItemResult>,
    delete: Option<ItemResult>,
}

impl Item {
    /// Where there was no document, the status is 201.
    fn has_replaced(&self) -> bool {
        self.index.as_ref().is_some_and(|result| result.status == 200 && result.error.is_none())
    }
}

#[derive(Deserialize)]
struct ItemResult {
    status: u16,
    error: Option<ItemError>,
}

#[derive(Deserialize)]
struct ItemError {
    #[serde(rename = "type")]
    kind: Option<String>,
    reason: Option<String>,
}

impl Cluster {
    /// Writes the items to `target`, an index or an alias; with `require_alias` only if it is an alias, so that a
    /// destination that was deleted is never created again by writing to it.
    ///
    /// Lost connections and refusals of the whole request (429, 503) are tried again inside, within bounds; so a
    /// bulk may arrive twice, which its versions make harmless. Errors: [`ErrorCategory::Overloaded`],
    /// [`ErrorCategory::Unavailable`] or [`ErrorCategory::Unreachable`] after that; [`ErrorCategory::TooLarge`]: send
    /// halves; and, although the server reports them item by item, whatever concerns the target rather than a chunk:
    /// [`ErrorCategory::NotFound`], [`ErrorCategory::Forbidden`], a closed index. Such an error says nothing about
    /// which items were written.
    pub async fn bulk(
        &self,
        target: &str,
        require_alias: bool,
        body: impl Into<BulkRequest> + Send,
    ) -> Result<BulkOutcome> {
        self.post_bulk(target, require_alias, body.into(), |call| call).await
    }

    /// Like [`Cluster::bulk`] to an alias, but where no node has room for the request (429 without a time to come back)
    /// that is the answer, at once: [`ErrorCategory::Overloaded`]. The caller sends less, or waits.
    pub async fn offer_bulk(&self, alias: &str, request: BulkRequest) -> Result<BulkOutcome> {
        self.post_bulk(alias, true, request, Call::yielding).await
    }

    async fn post_bulk(
        &self,
        target: &str,
        require_alias: bool,
        request: BulkRequest,
        manner: fn(Call) -> Call,
    ) -> Result<BulkOutcome> {
        if request.is_empty() {
            return Ok(BulkOutcome { items: Vec::new(), replaced: BTreeSet::new() });
        }
        if request.bytes() > MAX_BULK_BYTES {
            let reason = format!("the body has {} bytes, more than {MAX_BULK_BYTES}", request.bytes());
            return Err(ElasticError::new(ErrorCategory::TooLarge, WRITING, reason));
        }
        let call = Call::post(WRITING, format!("/{}/_bulk", encoded(target)))
            .with("pipeline", "_none")
            .with("require_alias", if require_alias { "true" } else { "false" })
            .with("timeout", "30s")
            .with("filter_path", "errors,items.*.status,items.*.error.type,items.*.error.reason")
            .lines(request.body.clone());
        let answer = self.send(&manner(call)).await?;
        outcome(&answer, request.len())
    }
}

/// Reads the answer of a bulk; every item is looked at, `errors: false` is not taken for all of them.
pub(super) fn outcome(answer: &[u8], sent: usize) -> Result<BulkOutcome> {
    let answer: Answer = parse(WRITING, answer)?;
    if answer.items.len() != sent {
        let reason = format!("{} items were answered of {sent} sent", answer.items.len());
        return Err(ElasticError::bad_answer(WRITING, reason));
    }
    let places = answer.items.iter().enumerate();
    let replaced = places.filter(|(_, item)| item.has_replaced()).map(|(place, _)| place).collect();
    let items = answer.items.into_iter().map(item).collect::<Result<Vec<_>>>()?;
    Ok(BulkOutcome { items, replaced })
}

fn item(item: Item) -> Result<BulkItem> {
    let (is_delete, result) = match item {
        Item { index: Some(result), delete: None } => (false, result),
        Item { index: None, delete: Some(result) } => (true, result),
        _ => return Err(ElasticError::bad_answer(WRITING, "an item is neither an index nor a delete")),
    };
    let Some(error) = result.error else {
        return match result.status {
            200..=299 => Ok(BulkItem::Applied),
            404 if is_delete => Ok(BulkItem::Missing),
            status => {
                Err(ElasticError::bad_answer(WRITING, format!("an item has status {status} and no error")))
            }
        };
    };
    let kind = shortened(&error.kind.unwrap_or_default());
    let reason = shortened(&error.reason.unwrap_or_default());
    let of_target = || {
        let reason = format!("HTTP {}, {kind}: {reason}", result.status);
        Err(ElasticError::new(category_of(result.status), WRITING, reason).with_kind(&kind))
    };
    match result.status {
        _ if kind == INDEX_NOT_FOUND || kind == INDEX_CLOSED => of_target(),
        409 if kind == "version_conflict_engine_exception" => Ok(BulkItem::AlreadyThere),
        // 404 is of a shard that moves or was closed for a moment: a chunk that is not there has no error.
        status @ (404 | 429 | 500..=599) => Ok(BulkItem::Retry(BulkRefusal { status, kind, reason })),
        401 | 403 => of_target(),
        status @ 400..=499 => Ok(BulkItem::Refused(BulkRefusal { status, kind, reason })),
        // No server says so: nothing may be concluded, least of all that the chunk is at fault.
        status => Err(ElasticError::bad_answer(WRITING, format!("an item has status {status} and an error"))),
    }
}

#[cfg(test)]
mod tests;
