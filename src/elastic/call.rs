//! One request: sent to a node, again to others while that is allowed, and its answer or error.
//!
//! The client library is used only here and only for its transport: no generated API, no time-out left out, no
//! status taken for success without a look, no header read through its panicking accessors.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use elasticsearch::auth::{ClientCertificate, Credentials};
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Method;
use elasticsearch::http::headers::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use secrecy::ExposeSecret as _;
use url::Url;

use super::config::{CONFIGURING, ClusterConfig, authorization, check_urls};
use super::error::{CLIENT_REFUSED, ElasticError, ErrorCategory, OWN_TIMEOUT, Result, shortened};
use super::nodes::Nodes;
use super::retry::RetryPolicy;

/// What may happen when a request is sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Nothing: it may be sent again whatever happened to the first one.
    Harmless,
    /// Something: sent again only if the server refused it or was never reached.
    OnlyIfRefused,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub doing: &'static str,
    pub method: Method,
    pub path: String,
    pub query: Vec<(&'static str, String)>,
    pub body: Option<Bytes>,
    pub content_type: &'static str,
    pub repeat: Repeat,
    pub timeout: Option<Duration>,
    pub policy: RetryPolicy,
    /// Whether "no room for it" (429) is an answer for the caller, who then sends less.
    pub yields: bool,
    /// The largest answer that is taken, in bytes.
    pub answer_limit: u64,
}

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const AGENT: &str = concat!("es-index-merge/", env!("CARGO_PKG_VERSION"));

impl Call {
    pub(super) fn new(doing: &'static str, method: Method, path: impl Into<String>) -> Self {
        Self {
            doing,
            method,
            path: path.into(),
            query: Vec::new(),
            body: None,
            content_type: JSON,
            repeat: Repeat::Harmless,
            timeout: None,
            policy: RetryPolicy::default(),
            yields: false,
            answer_limit: MAX_ANSWER_BYTES,
        }
    }

    pub(super) fn get(doing: &'static str, path: impl Into<String>) -> Self {
        Self::new(doing, Method::Get, path)
    }

    pub(super) fn post(doing: &'static str, path: impl Into<String>) -> Self {
        Self::new(doing, Method::Post, path)
    }

    pub(super) fn put(doing: &'static str, path: impl Into<String>) -> Self {
        Self::new(doing, Method::Put, path)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = Some(Bytes::from(body.to_string()));
        self
    }

    pub(super) fn lines(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self.content_type = NDJSON;
        self
    }

    pub(super) fn only_if_refused(mut self) -> Self {
        self.repeat = Repeat::OnlyIfRefused;
        self
    }

    pub(super) fn policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Not sent again where no node has room for it, unless the server says when to come back.
    pub(super) fn yielding(mut self) -> Self {
        self.yields = true;
        self
    }

    pub(super) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// An answer of more bytes is not taken, with [`ErrorCategory::TooLarge`]; if it says so beforehand it is not even read.
    pub(super) fn answer_limit(mut self, bytes: u64) -> Self {
        self.answer_limit = bytes;
        self
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(ACCEPT, HeaderValue::from_static(JSON));
        // Otherwise the library asks for gzip, and both sides compress megabytes of floats on a fast network.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers
    }
}

/// The nodes of a cluster with a transport for each.
#[derive(Debug)]
pub(super) struct Caller {
    nodes: Nodes<Link>,
    request_timeout: Duration,
}

/// One node: its address and the transport to it.
#[derive(Debug)]
struct Link {
    url: Url,
    transport: Transport,
}

/// Largest answer that is taken where the caller says nothing else, in bytes: far above any that this room asks for.
pub(super) const MAX_ANSWER_BYTES: u64 = 1 << 30;

impl Caller {
    pub(super) fn new(config: &ClusterConfig) -> Result<Self> {
        check_urls(&config.urls)?;
        let links = config.urls.iter().map(|url| link(url, config)).collect::<Result<Vec<_>>>()?;
        Ok(Self { nodes: Nodes::new(links), request_timeout: config.request_timeout })
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Sends the request, again while its policy allows, and returns the body of an answer below 300.
    pub(super) async fn send(&self, call: &Call) -> Result<Bytes> {
        let started = Instant::now();
        let mut tried = Vec::new();
        let mut made = 0;
        loop {
            let Some((node, link)) = self.nodes.pick(&tried, Instant::now()) else {
                return Err(ElasticError::new(ErrorCategory::Invalid, call.doing, "no address is given"));
            };
            made += 1;
            let failure = match self.attempt(call, link).await {
                Ok(body) => {
                    self.nodes.answered(node);
                    return Ok(body);
                }
                Err(failure) => failure,
            };
            if failure.blames_node {
                self.nodes.failed(node, Instant::now());
            } else {
                self.nodes.answered(node);
            }
            tried.push(node);
            let fresh = self.nodes.has_fresh(&tried, Instant::now());
            let may_repeat =
                failure.may_repeat(call.repeat) && (fresh || !(call.yields && failure.has_no_room()));
            let pause = call.policy.pause(made, started.elapsed(), failure.retry_after, fresh);
            match pause {
                Some(pause) if may_repeat => {
                    tracing::debug!(error = %failure.error, attempt = made, ?pause, "request is sent again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(failure.error),
            }
        }
    }

    async fn attempt(&self, call: &Call, link: &Link) -> std::result::Result<Bytes, Failure> {
        let timeout = call.timeout.unwrap_or(self.request_timeout);
        let sent = link
            .transport
            .send(
                call.method,
                &call.path,
                call.headers(),
                Some(&call.query),
                call.body.clone(),
                Some(timeout),
            )
            .await;
        let response = sent.map_err(|e| Failure::lost(call.doing, e, timeout))?;
        let status = response.status_code().as_u16();
        let retry_after = retry_after(response.headers());
        let too_large = || {
            let reason = format!("the answer is larger than {} bytes", call.answer_limit);
            Failure::final_one(ElasticError::new(ErrorCategory::TooLarge, call.doing, reason))
        };
        if response.content_length().is_some_and(|length| length > call.answer_limit) {
            return Err(too_large());
        }
        let was_redirected = response.url().origin() != link.url.origin()
            || !response.url().path().ends_with(call.path.as_str());
        let body = response.bytes().await.map_err(|e| Failure::lost(call.doing, e, timeout))?;
        if was_redirected {
            let reason = "the request was redirected to another address; give that one";
            return Err(Failure::final_one(ElasticError::bad_answer(call.doing, reason)));
        }
        match status {
            // Few answers say how large they are, and the library gives them whole.
            200..=299 if body.len() as u64 > call.answer_limit => Err(too_large()),
            200..=299 => Ok(body),
            _ => Err(Failure::refused(
                ElasticError::from_server(call.doing, status, &body),
                status,
                retry_after,
            )),
        }
    }
}

/// Why an attempt failed, and what follows from it.
#[derive(Debug)]
struct Failure {
    error: ElasticError,
    /// Whether the node, rather than the request or the whole cluster, seems to be at fault.
    blames_node: bool,
    /// Whether the server said it did not do it, or cannot have received it.
    was_refused: bool,
    is_temporary: bool,
    retry_after: Option<Duration>,
}

/// The server's names of "a shard has no active copy".
const SHARDS_FAILED: [&str; 3] = [
    "no_shard_available_action_exception",
    "search_phase_execution_exception",
    "unavailable_shards_exception",
];

impl Failure {
    fn final_one(error: ElasticError) -> Self {
        Self { error, blames_node: false, was_refused: false, is_temporary: false, retry_after: None }
    }

    fn refused(error: ElasticError, status: u16, retry_after: Option<Duration>) -> Self {
        // A shard without an active copy will not have one within seconds, and every node says the same.
        let is_about_shards = status == 503 && error.kind().is_some_and(|kind| SHARDS_FAILED.contains(&kind));
        Self {
            error,
            blames_node: matches!(status, 502..=504) && !is_about_shards,
            // A gateway's 502 and 504 do not say whether the server did it.
            was_refused: matches!(status, 429 | 503),
            is_temporary: matches!(status, 429 | 502..=504) && !is_about_shards,
            retry_after,
        }
    }

    fn lost(doing: &'static str, error: elasticsearch::Error, timeout: Duration) -> Self {
        let cause = Cause::of(&error);
        let is_timeout = error.is_timeout();
        let is_alert = matches!(cause, Cause::Alert(_));
        let (category, reason) = match cause {
            Cause::Tls(text) | Cause::Alert(text) => (ErrorCategory::Tls, text),
            _ if is_timeout => {
                (ErrorCategory::Unavailable, format!("no complete answer within {} s", timeout.as_secs_f32()))
            }
            Cause::NotConnected | Cause::Other => (ErrorCategory::Unreachable, chain_text(&error)),
        };
        Self {
            blames_node: true,
            was_refused: cause_is_before_sending(&error),
            is_temporary: category != ErrorCategory::Tls,
            retry_after: None,
            error: {
                let lost = ElasticError::new(category, doing, reason).with_source(error);
                match (is_timeout, is_alert) {
                    (true, _) => lost.with_kind(OWN_TIMEOUT),
                    (false, true) => lost.with_kind(CLIENT_REFUSED),
                    (false, false) => lost,
                }
            },
        }
    }

    fn has_no_room(&self) -> bool {
        self.error.category() == ErrorCategory::Overloaded && self.retry_after.is_none()
    }

    fn may_repeat(&self, repeat: Repeat) -> bool {
        self.is_temporary && (repeat == Repeat::Harmless || self.was_refused)
    }
}

/// What a lost request failed of.
enum Cause {
    Tls(String),
    /// The server ended the handshake.
    Alert(String),
    NotConnected,
    Other,
}

impl Cause {
    fn of(error: &elasticsearch::Error) -> Self {
        for cause in chain(error) {
            match cause.downcast_ref::<rustls::Error>() {
                Some(alert @ rustls::Error::AlertReceived(_)) => return Self::Alert(alert.to_string()),
                Some(tls) => return Self::Tls(tls.to_string()),
                None => {}
            }
        }
        if cause_is_before_sending(error) { Self::NotConnected } else { Self::Other }
    }
}

fn cause_is_before_sending(error: &elasticsearch::Error) -> bool {
    chain(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|io| {
            matches!(
                io.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
            )
        })
    })
}

/// An error and its causes; also those inside of I/O errors, whose `source` passes over what they wrap.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}

/// The texts of an error and its sources, each once.
fn chain_text(error: &elasticsearch::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in chain(error) {
        let text = cause.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
    }
    shortened(&texts.join(": "))
}

/// `Retry-After` in seconds; dates are not used by Elasticsearch or its usual gateways.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn link(url: &Url, config: &ClusterConfig) -> Result<Link> {
    let mut defaults = HeaderMap::new();
    if let Some(value) = authorization(&config.credentials)? {
        defaults.insert(AUTHORIZATION, value);
    }
    let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(url.clone()))
        .headers(defaults)
        .enable_meta_header(false)
        // As Elastic's own clients: a cluster is reached directly, whatever the environment says about proxies.
        .disable_proxy()
        .timeout(config.request_timeout.max(Duration::from_secs(1)));
    if config.insecure_skip_verify {
        builder = builder.cert_validation(CertificateValidation::None);
    } else if let Some(pem) = &config.ca_pem {
        builder = builder.cert_validation(CertificateValidation::Full(authorities(pem)?));
    }
    if let Some(pem) = &config.identity_pem {
        // Only the certificate: who we are is said by the header above, if it is said.
        let identity = ClientCertificate::Pem(pem.expose_secret().as_bytes().to_vec());
        builder = builder.auth(Credentials::Certificate(identity));
    }
    let transport = builder.build().map_err(|e| {
        let what = if config.identity_pem.is_some() {
            "the CA certificates, or the certificate and the key in tls.crt and tls.key, cannot be used"
        } else {
            "the CA certificates cannot be used"
        };
        ElasticError::new(ErrorCategory::Tls, CONFIGURING, what).with_source(e)
    })?;
    Ok(Link { url: url.clone(), transport })
}

fn authorities(pem: &[u8]) -> Result<Certificate> {
    let text = String::from_utf8_lossy(pem);
    // The library knows the lines of a certificate only without space around them.
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    Certificate::from_pem(lines.join("\n").as_bytes()).map_err(|e| {
        ElasticError::new(ErrorCategory::Tls, CONFIGURING, "the CA holds no certificate in PEM form")
            .with_source(e)
    })
}

#[cfg(test)]
pub(super) mod tests;
