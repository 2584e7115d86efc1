//! What goes wrong with a cluster: a bounded category, the server's reason, a remedy.

use std::error::Error as StdError;
use std::fmt::Display;

use serde::Deserialize;

/// Result of this room's functions.
pub type Result<T> = std::result::Result<T, ElasticError>;

/// What kind of failure it is; bounded, so that it can be a condition's reason and a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCategory {
    /// No connection, or it was lost before the answer was complete.
    Unreachable,
    /// The TLS handshake failed, or the CA certificates cannot be read.
    Tls,
    /// 401: the credentials are wrong or have expired.
    Unauthorized,
    /// 403: a privilege is missing, or a block forbids it.
    Forbidden,
    /// 404: index or alias does not exist.
    NotFound,
    /// 429: the server has no room for the request now.
    Overloaded,
    /// 5xx: a shard without an active copy, no elected master, a time-out.
    Unavailable,
    /// 413: the body is larger than the server takes.
    TooLarge,
    /// 400: the server refused the request as such; a closed index too.
    Invalid,
    /// The answer failed a check or is not what the request asks for.
    BadAnswer,
    /// Server or feature that this program does not work with.
    Unsupported,
}

impl ErrorCategory {
    /// Name for conditions, events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "Unreachable",
            Self::Tls => "Tls",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::Overloaded => "Overloaded",
            Self::Unavailable => "Unavailable",
            Self::TooLarge => "TooLarge",
            Self::Invalid => "Invalid",
            Self::BadAnswer => "BadAnswer",
            Self::Unsupported => "Unsupported",
        }
    }
}

/// A failed request to a cluster.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {reason}")]
pub struct ElasticError {
    category: ErrorCategory,
    doing: &'static str,
    reason: Box<str>,
    kind: Option<Box<str>>,
    index: Option<Box<str>>,
    status: Option<u16>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The server's `type` of "the index does not exist".
pub(super) const INDEX_NOT_FOUND: &str = "index_not_found_exception";
/// The server's `type` of "the index is closed".
pub(super) const INDEX_CLOSED: &str = "index_closed_exception";
/// The server's `type` of "a block forbids this".
pub(super) const CLUSTER_BLOCK: &str = "cluster_block_exception";
/// The server's `type` of "a check before the request is carried out failed", such as that of how many shards there may be.
const VALIDATION: &str = "validation_exception";

/// What to do about a cluster that takes no more shards.
pub const MORE_SHARDS: &str = "raise cluster.max_shards_per_node (until the source indices are deleted, if they are in the same cluster), or delete indices that nobody needs";

/// Our own `type` of "the name of an index is that of an alias now".
pub(super) const IS_ALIAS: &str = "name_is_an_alias";
/// Our own `type` of "no complete answer within the time limit".
pub(super) const OWN_TIMEOUT: &str = "request_timeout";

/// Our own `type` of "what the connection is to be made with cannot be used": nothing was sent.
pub(super) const CONFIGURATION: &str = "configuration";

/// Our own `type` of "the server ended the handshake, which it does for want of a client certificate that it knows".
pub(super) const CLIENT_REFUSED: &str = "client_refused";

/// Our own `type` of "several chunks of a shard have one sequence number".
pub(super) const SHARED_SEQ_NO: &str = "shared_sequence_number";

impl ElasticError {
    pub(super) fn new(category: ErrorCategory, doing: &'static str, reason: impl Into<String>) -> Self {
        Self {
            category,
            doing,
            reason: reason.into().into_boxed_str(),
            kind: None,
            index: None,
            status: None,
            source: None,
        }
    }

    /// The items of a bulk were rejected again and again, with this reason.
    #[must_use]
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self::new(ErrorCategory::Overloaded, "write in bulk", reason)
    }

    /// A part of the log cannot be read now, for this reason.
    #[must_use]
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::new(ErrorCategory::Unavailable, "read a part of a shard's log", reason)
    }

    /// The reason may quote the answer, so it is made short and one line.
    pub(super) fn bad_answer(doing: &'static str, reason: impl Into<String>) -> Self {
        Self::new(ErrorCategory::BadAnswer, doing, shortened(&reason.into()))
    }

    /// Several chunks of a shard have one sequence number, so that its log cannot be walked.
    pub(super) fn shared_seq_no(doing: &'static str, reason: impl Into<String>) -> Self {
        Self::new(ErrorCategory::Unsupported, doing, reason).with_kind(SHARED_SEQ_NO)
    }

    /// An error the server described itself, as the answer's body (or a part of it) with its status.
    pub(super) fn from_server(doing: &'static str, status: u16, body: &[u8]) -> Self {
        let mut cause = ServerError::parse(body);
        cause.kind = cause.kind.map(|kind| shortened(&kind));
        Self {
            category: category_of(status),
            doing,
            reason: cause.text(status, body).into_boxed_str(),
            kind: cause.kind.map(String::into_boxed_str),
            index: cause.index.map(String::into_boxed_str),
            status: Some(status),
            source: None,
        }
    }

    pub(super) fn with_kind(mut self, kind: &str) -> Self {
        self.kind = Some(kind.into());
        self
    }

    pub(super) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// The same error, with what it is about before its reason.
    #[must_use]
    pub fn about(self, what: impl Display) -> Self {
        Self { reason: format!("{what}: {}", self.reason).into_boxed_str(), ..self }
    }

    /// The bounded category.
    #[must_use]
    pub fn category(&self) -> ErrorCategory {
        self.category
    }

    /// The server's own name of the error, for instance `index_not_found_exception`.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// The index that the server named, if it did.
    #[must_use]
    pub fn index(&self) -> Option<&str> {
        self.index.as_deref()
    }

    /// The status of the answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether an index that the request named does not exist.
    #[must_use]
    pub fn is_missing_index(&self) -> bool {
        self.category == ErrorCategory::NotFound && self.kind() == Some(INDEX_NOT_FOUND)
    }

    /// Whether an index that the request named is closed.
    #[must_use]
    pub fn is_closed_index(&self) -> bool {
        self.kind() == Some(INDEX_CLOSED)
    }

    /// Whether the name of an index that was asked for is that of an alias.
    #[must_use]
    pub fn is_alias(&self) -> bool {
        self.kind() == Some(IS_ALIAS)
    }

    /// Whether several chunks of a shard have one sequence number.
    #[must_use]
    pub fn is_shared_seq_no(&self) -> bool {
        self.kind() == Some(SHARED_SEQ_NO)
    }

    /// Whether a block of one index forbids it: not a missing privilege, and not a block of the whole cluster.
    #[must_use]
    pub fn is_block_of_an_index(&self) -> bool {
        self.category == ErrorCategory::Forbidden
            && self.kind() == Some(CLUSTER_BLOCK)
            && self.reason.contains("index [")
    }

    /// Whether no complete answer came within our own time limit, so that the server may still be at work.
    pub(super) fn is_own_timeout(&self) -> bool {
        self.kind() == Some(OWN_TIMEOUT)
    }

    /// Whether the same request may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.category,
            ErrorCategory::Unreachable | ErrorCategory::Overloaded | ErrorCategory::Unavailable
        )
    }

    /// Whether it may be otherwise the next time: also an answer that cannot be read, as one that was cut off on its way.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.is_transient() || self.category == ErrorCategory::BadAnswer
    }

    /// Whether the server had no room for a request of that size at that moment.
    #[must_use]
    pub fn is_about_room(&self) -> bool {
        self.category == ErrorCategory::Overloaded && self.kind().is_some_and(is_about_room)
    }

    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match (self.category, self.kind()) {
            (_, Some(INDEX_CLOSED)) => "open the index, or exclude its collection",
            (ErrorCategory::Overloaded, Some(CLUSTER_BLOCK)) => {
                "the disk of a node is past its flood-stage watermark: free or add disk space"
            }
            (_, Some(CLUSTER_BLOCK)) => {
                "lift the block of the index (index.blocks.*), or find out who set it"
            }
            (ErrorCategory::Unreachable, _) => {
                "check the URL (scheme, host and port), the network policy, and that the cluster runs"
            }
            (ErrorCategory::Tls, Some(CLIENT_REFUSED)) => {
                "put a client certificate that the server knows into tls.crt and tls.key of the credentials Secret"
            }
            (ErrorCategory::Tls, _) => {
                "give the CA that signed the server's certificate in caSecretRef, and use a host name the certificate covers"
            }
            (ErrorCategory::Unauthorized, _) => {
                "check the username and password, or the API key and its expiry, in the credentials Secret"
            }
            (ErrorCategory::Forbidden, _) => "grant the role the missing privilege",
            (ErrorCategory::NotFound, _) => {
                "check the name; an index that was deleted has to be left out or created again"
            }
            (ErrorCategory::Overloaded, _) => {
                "nothing, it is tried again; lower workers.concurrency or maxBytesInFlight if it stays"
            }
            (ErrorCategory::Unavailable, _) => {
                "check the cluster's health: each shard needs an active primary, and a master must be elected"
            }
            (ErrorCategory::TooLarge, _) => {
                "lower maxBytesInFlight, or raise http.max_content_length of the server"
            }
            (ErrorCategory::Invalid, Some(CONFIGURATION)) => {
                "correct the url, or the user, password or API key in the Secret that credentialsSecretRef names"
            }
            (ErrorCategory::Invalid, Some(VALIDATION)) if self.reason.contains("shards open") => MORE_SHARDS,
            (ErrorCategory::Invalid, _) => "see the server's reason",
            (ErrorCategory::BadAnswer, _) => {
                "check that nothing between here and the server (a proxy, a gateway) changes requests or answers"
            }
            (_, Some(SHARED_SEQ_NO)) => "reindex the index into a new one, or exclude its collection",
            (ErrorCategory::Unsupported, _) => "use Elasticsearch 8.11 or later",
        }
    }
}

/// Whether the server's name of a refusal (429) speaks of its memory and queues, of which smaller requests need less.
/// A disk that is full and a limit of requests are other reasons.
pub(super) fn is_about_room(kind: &str) -> bool {
    matches!(kind, "es_rejected_execution_exception" | "circuit_breaking_exception")
}

/// The category of an HTTP status of 300 or more.
pub(super) fn category_of(status: u16) -> ErrorCategory {
    match status {
        401 => ErrorCategory::Unauthorized,
        403 => ErrorCategory::Forbidden,
        404 => ErrorCategory::NotFound,
        408 | 500..=599 => ErrorCategory::Unavailable,
        413 => ErrorCategory::TooLarge,
        429 => ErrorCategory::Overloaded,
        400..=499 => ErrorCategory::Invalid,
        _ => ErrorCategory::BadAnswer,
    }
}

/// What an error body says, reduced to what is shown.
#[derive(Debug, Default)]
struct ServerError {
    kind: Option<String>,
    reason: Option<String>,
    index: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    error: ErrorField,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorField {
    Described(Described),
    Text(String),
}

#[derive(Deserialize)]
struct Described {
    #[serde(rename = "type")]
    kind: Option<String>,
    reason: Option<String>,
    index: Option<String>,
    /// Why the credentials were not taken, where the server tells.
    additional_unsuccessful_credentials: Option<String>,
    #[serde(default)]
    root_cause: Vec<Cause>,
    caused_by: Option<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(rename = "type")]
    kind: Option<String>,
    reason: Option<String>,
    index: Option<String>,
}

/// A search's outer error, which only says that shards failed; the cause is inside.
const WRAPPER: &str = "search_phase_execution_exception";

impl ServerError {
    fn parse(body: &[u8]) -> Self {
        match serde_json::from_slice::<Body>(body) {
            Ok(Body { error: ErrorField::Described(described) }) => Self::reduce(described),
            Ok(Body { error: ErrorField::Text(text) }) => Self { reason: Some(text), ..Self::default() },
            Err(_) => Self::default(),
        }
    }

    fn reduce(mut described: Described) -> Self {
        if let Some(why) = described.additional_unsuccessful_credentials.take() {
            described.reason = Some(format!("{why}; {}", described.reason.unwrap_or_default()));
        }
        let cause = described.root_cause.into_iter().next().or(described.caused_by);
        let is_wrapper = described.kind.as_deref() == Some(WRAPPER);
        match cause {
            Some(cause) if is_wrapper && cause.kind.is_some() => Self {
                kind: cause.kind,
                reason: cause.reason.or(described.reason),
                index: cause.index.or(described.index),
            },
            Some(cause) => Self {
                kind: described.kind.or(cause.kind),
                reason: described.reason.or(cause.reason),
                index: described.index.or(cause.index),
            },
            None => Self { kind: described.kind, reason: described.reason, index: described.index },
        }
    }

    fn text(&self, status: u16, body: &[u8]) -> String {
        match (&self.kind, &self.reason) {
            (Some(kind), Some(reason)) => format!("HTTP {status}, {kind}: {}", shortened(reason)),
            (Some(kind), None) => format!("HTTP {status}, {kind}"),
            (None, Some(reason)) => format!("HTTP {status}: {}", shortened(reason)),
            (None, None) => format!("HTTP {status}: {}", shortened(&String::from_utf8_lossy(body))),
        }
    }
}

/// Longest text of a server's that goes into an error, in characters.
const MAX_REASON_CHARS: usize = 600;

/// The first characters of a text that may be very long, on one line.
pub(super) fn shortened(text: &str) -> String {
    let mut short: String =
        text.trim().chars().take(MAX_REASON_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().chars().nth(MAX_REASON_CHARS).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_failed_shards_is_shown_instead_of_its_wrapper() {
        let body = br#"{"error":{"root_cause":[{"type":"no_shard_available_action_exception","reason":"none","index":"a"}],
            "type":"search_phase_execution_exception","reason":"all shards failed","phase":"query"},"status":503}"#;
        let error = ElasticError::from_server("read", 503, body);
        assert_eq!(error.category(), ErrorCategory::Unavailable);
        assert_eq!(error.kind(), Some("no_shard_available_action_exception"));
        assert_eq!(error.index(), Some("a"));
        assert_eq!(error.to_string(), "read: HTTP 503, no_shard_available_action_exception: none");
    }

    #[test]
    fn why_the_credentials_were_not_taken_is_shown() {
        let body =
            br#"{"error":{"root_cause":[{"type":"security_exception","reason":"unable to authenticate"}],
            "type":"security_exception","reason":"unable to authenticate",
            "additional_unsuccessful_credentials":"API key: api key is expired"},"status":401}"#;
        let error = ElasticError::from_server("read", 401, body);
        assert_eq!(
            error.to_string(),
            "read: HTTP 401, security_exception: API key: api key is expired; unable to authenticate"
        );
    }

    #[test]
    fn a_cluster_that_takes_no_more_shards_has_its_own_remedy() {
        let body = br#"{"error":{"root_cause":[],"type":"validation_exception","reason":"Validation Failed: 1: this action would add [2] shards, but this cluster currently has [3]/[3] maximum normal shards open;"},"status":400}"#;
        let error = ElasticError::from_server("create an index", 400, body);
        assert!(error.remedy().contains("cluster.max_shards_per_node"), "{}", error.remedy());
        let other = br#"{"error":{"type":"validation_exception","reason":"Validation Failed: 1: no requests added;"},"status":400}"#;
        assert_eq!(ElasticError::from_server("write", 400, other).remedy(), "see the server's reason");
    }

    #[test]
    fn a_plain_text_error_and_a_page_of_html_are_shown_shortened() {
        let error = ElasticError::from_server("read", 400, br#"{"error":"no handler found"}"#);
        assert_eq!(error.to_string(), "read: HTTP 400: no handler found");
        let html = format!("<html>\n{}", "x".repeat(5000));
        let error = ElasticError::from_server("read", 502, html.as_bytes());
        assert_eq!(error.category(), ErrorCategory::Unavailable);
        assert!(error.to_string().len() < 700);
    }

    #[test]
    fn whatever_a_name_holds_an_error_is_one_short_line() {
        let body = format!(r#"{{"error":{{"type":"a\u007f\n{}","reason":"r"}}}}"#, "x".repeat(5000));
        let error = ElasticError::from_server("read", 500, body.as_bytes());
        let bad = ElasticError::bad_answer("read", format!("id `\n{}`", "x".repeat(5000)));
        for text in [error.to_string(), bad.to_string()] {
            assert!(text.len() < 1500 && !text.chars().any(char::is_control), "{text}");
        }
    }

    #[test]
    fn each_status_has_its_category() {
        for (status, category) in [
            (301, ErrorCategory::BadAnswer),
            (400, ErrorCategory::Invalid),
            (401, ErrorCategory::Unauthorized),
            (403, ErrorCategory::Forbidden),
            (404, ErrorCategory::NotFound),
            (408, ErrorCategory::Unavailable),
            (413, ErrorCategory::TooLarge),
            (429, ErrorCategory::Overloaded),
            (500, ErrorCategory::Unavailable),
            (503, ErrorCategory::Unavailable),
        ] {
            assert_eq!(category_of(status), category, "{status}");
        }
    }
}
