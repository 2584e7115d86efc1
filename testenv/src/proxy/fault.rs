//! What a proxy in front of an Elasticsearch does to requests, and to which.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::message::Message;

/// One way to spoil a request or its answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The request is refused and not passed on.
    Refuse(Gateway),
    /// 413 for a body above this many bytes, as a gateway says it; smaller ones pass.
    TooLarge(usize),
    /// The request is passed on; the first half of its answer comes back, then the connection is closed.
    HalfAnswer(Announced),
    /// The connection is closed; the server never hears of the request.
    DropBefore,
    /// The server has done what was asked; the connection is closed instead of an answer.
    DropAfter,
    /// The request is kept back, at most so long or until [`super::ElasticProxy::release`], and then passed on,
    /// whether or not somebody still waits for it.
    HoldRequest(Duration),
    /// The server has done what was asked; the answer is kept back, at most so long or until it is released.
    HoldAnswer(Duration),
    /// One search of the answer says that it asked no shard and found nothing, as a server does for a shard that it
    /// does not have.
    ZeroShards,
    /// This share of the items of a bulk is not passed on and answered 429, the others are done.
    RejectItems(f64),
    /// The items of a bulk whose chunk holds this text are not passed on and answered 500, as by a server with a bug;
    /// the others are done.
    FailItems(String),
}

/// Who refuses, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// Elasticsearch: 429, no room for the request.
    TooManyRequests,
    /// Elasticsearch: 503, no master.
    Unavailable,
    /// A gateway in front of it: 502 with a page of HTML.
    BadGateway,
    /// A gateway in front of it: 503 with a page of HTML.
    GatewayUnavailable,
}

/// The length that half an answer claims to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// That of the whole: the connection ends before the answer does.
    Whole,
    /// That of the half: as HTTP the answer is fine, as JSON it is not.
    Half,
}

impl Fault {
    /// Its name in counters and tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refuse(Gateway::TooManyRequests) => "429",
            Self::Refuse(Gateway::Unavailable) => "503",
            Self::Refuse(Gateway::BadGateway) => "502 in HTML",
            Self::Refuse(Gateway::GatewayUnavailable) => "503 in HTML",
            Self::TooLarge(_) => "413",
            Self::HalfAnswer(Announced::Whole) => "half an answer, connection lost",
            Self::HalfAnswer(Announced::Half) => "half an answer, as if whole",
            Self::DropBefore => "connection lost before the request",
            Self::DropAfter => "connection lost after the request was done",
            Self::HoldRequest(_) => "request held back",
            Self::HoldAnswer(_) => "answer held back",
            Self::ZeroShards => "search of zero shards",
            Self::RejectItems(_) => "429 for items of a bulk",
            Self::FailItems(_) => "500 for items of a bulk",
        }
    }

    /// Whether it can be done to that request at all.
    pub(super) fn fits(&self, request: &Message) -> bool {
        let path = request.path();
        match self {
            Self::TooLarge(limit) => request.body.len() > *limit,
            Self::ZeroShards => path.contains("/_search") || path.contains("/_msearch"),
            Self::RejectItems(_) => path.contains("/_bulk"),
            Self::FailItems(text) => {
                path.contains("/_bulk") && super::bulk::fail(request, text).rejected() > 0
            }
            _ => true,
        }
    }
}

/// Which requests a fault hits.
#[derive(Debug)]
pub struct Rule {
    pub(super) fault: Fault,
    path: String,
    share: f64,
    most: u64,
    seen: AtomicU64,
    hit: AtomicU64,
}

impl Rule {
    /// Every request, without end.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            path: String::new(),
            share: 1.0,
            most: u64::MAX,
            seen: AtomicU64::new(0),
            hit: AtomicU64::new(0),
        }
    }

    /// Only requests whose path and query hold this text.
    #[must_use]
    pub fn on(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Only this share of them, from 0 to 1.
    #[must_use]
    pub fn share(self, share: f64) -> Self {
        Self { share, ..self }
    }

    /// At most so many.
    #[must_use]
    pub fn most(self, most: u64) -> Self {
        Self { most, ..self }
    }

    /// Whether it hits this request; the answer depends on the seed and on how many requests were asked for before.
    pub(super) fn hits(&self, request: &Message, seed: u64) -> bool {
        if !request.path().contains(&self.path) || !self.fault.fits(request) {
            return false;
        }
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        chance(seed, number) < self.share
            && self
                .hit
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |hit| (hit < self.most).then_some(hit + 1))
                .is_ok()
    }
}

/// A number from 0 to 1 that follows from a seed and a counter alone (the `SplitMix64` generator).
pub(super) fn chance(seed: u64, number: u64) -> f64 {
    let mut mixed = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

impl Gateway {
    /// Its answer.
    pub(super) fn answer(self) -> Message {
        const JSON: &str = "application/json";
        match self {
            Self::TooManyRequests => Message::answer(
                "429 Too Many Requests",
                JSON,
                r#"{"error":{"root_cause":[{"type":"es_rejected_execution_exception","reason":"rejected execution of coordinating operation [coordinating_and_primary_bytes=0, max_coordinating_and_primary_bytes=1]"}],"type":"es_rejected_execution_exception","reason":"rejected execution of coordinating operation [coordinating_and_primary_bytes=0, max_coordinating_and_primary_bytes=1]"},"status":429}"#,
            ),
            Self::Unavailable => Message::answer(
                "503 Service Unavailable",
                JSON,
                r#"{"error":{"root_cause":[{"type":"master_not_discovered_exception","reason":null}],"type":"master_not_discovered_exception","reason":null},"status":503}"#,
            ),
            Self::BadGateway => html("502 Bad Gateway"),
            Self::GatewayUnavailable => html("503 Service Temporarily Unavailable"),
        }
    }
}

/// A gateway's page.
pub(super) fn html(status: &str) -> Message {
    let page = format!(
        "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n<hr><center>gateway</center>\r\n</body>\r\n</html>\r\n"
    );
    Message::answer(status, "text/html", page)
}
