//! Requests against a gateway that fails on purpose: what no healthy server can be made to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::super::config::Credentials;
use super::*;

/// What the gateway does with a request.
pub(in crate::elastic) enum Reply {
    /// Answers with these bytes and closes the connection.
    Raw(String),
    /// Closes the connection without an answer.
    Close,
    /// Keeps the connection open and says nothing.
    Silence,
}

/// A gateway on a port of its own, which follows a script and remembers what it was sent.
pub(in crate::elastic) struct Gateway {
    pub url: Url,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gateway {
    pub async fn start(script: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            for reply in script {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = request_head(&mut stream).await;
                seen.lock().unwrap().push(head);
                match reply {
                    Reply::Raw(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                    Reply::Close => {}
                    Reply::Silence => open.push(stream),
                }
            }
            std::future::pending::<()>().await;
        });
        Self { url, heads, task }
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Reads one request and returns its head, in lower case.
async fn request_head(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return head;
            }
        }
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the request broke off");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
}

pub(in crate::elastic) fn answer(status: &str, headers: &str, body: &str) -> Reply {
    Reply::Raw(format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    ))
}

fn ok() -> Reply {
    answer("200 OK", "", "{}")
}

fn policy() -> RetryPolicy {
    RetryPolicy {
        attempts: 4,
        first_delay: Duration::from_millis(5),
        max_delay: Duration::from_millis(20),
        total: Duration::from_secs(5),
    }
}

fn call() -> Call {
    Call::post("test", "/x").json(&serde_json::json!({"a": 1})).policy(policy())
}

fn caller(gateways: &[&Gateway]) -> Caller {
    let mut config = ClusterConfig::new(gateways.iter().map(|gateway| gateway.url.clone()).collect());
    config.request_timeout = Duration::from_secs(20);
    Caller::new(&config).unwrap()
}

#[tokio::test]
async fn passing_failures_are_tried_again_until_an_answer_comes() {
    let gateway = Gateway::start(vec![
        answer("503 Service Unavailable", "", "no master"),
        Reply::Close,
        answer("502 Bad Gateway", "", "<html>"),
        ok(),
    ])
    .await;
    assert_eq!(caller(&[&gateway]).send(&call()).await.unwrap(), "{}");
    assert_eq!(gateway.heads().len(), 4);
}

#[tokio::test]
async fn attempts_end_with_the_last_error_and_its_category() {
    let replies =
        || (0..4).map(|_| answer("429 Too Many Requests", "", r#"{"error":{"type":"t","reason":"full"}}"#));
    let gateway = Gateway::start(replies().collect()).await;
    let error = caller(&[&gateway]).send(&call()).await.unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Overloaded);
    assert_eq!(error.to_string(), "test: HTTP 429, t: full");
    assert_eq!(gateway.heads().len(), 4);
}

#[tokio::test]
async fn what_a_repetition_cannot_mend_is_sent_once() {
    for status in ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found", "413 Too Large"] {
        let gateway = Gateway::start(vec![answer(status, "", "{}")]).await;
        assert!(caller(&[&gateway]).send(&call()).await.is_err());
        assert_eq!(gateway.heads().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_done_is_repeated_only_if_that_is_harmless() {
    for (reply, is_repeated) in [
        (Reply::Close, false),
        (answer("504 Gateway Timeout", "", ""), false),
        (answer("503 Service Unavailable", "", ""), true),
    ] {
        let gateway = Gateway::start(vec![reply, ok()]).await;
        let sent = caller(&[&gateway]).send(&call().only_if_refused()).await;
        assert_eq!(sent.is_ok(), is_repeated);
    }
}

#[tokio::test]
async fn the_pause_the_server_asks_for_is_kept() {
    let gateway = Gateway::start(vec![answer("429 Too Many Requests", "retry-after: 1\r\n", ""), ok()]).await;
    let started = Instant::now();
    caller(&[&gateway]).send(&call()).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn another_node_takes_over_from_one_that_fails() {
    let dead = Gateway::start(vec![Reply::Close]).await;
    let alive = Gateway::start((0..9).map(|_| ok()).collect()).await;
    let caller = caller(&[&dead, &alive]);
    for _ in 0..9 {
        caller.send(&call().policy(RetryPolicy { attempts: 2, ..policy() })).await.unwrap();
    }
    assert_eq!(dead.heads().len(), 1, "left out after its failure");
}

#[tokio::test]
async fn silence_ends_with_our_own_time_out() {
    let gateway = Gateway::start(vec![Reply::Silence]).await;
    let call = call().policy(RetryPolicy::once()).timeout(Duration::from_millis(300));
    let error = caller(&[&gateway]).send(&call).await.unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Unavailable);
    assert!(error.is_own_timeout());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let short = || Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}".into());
    let gateway = Gateway::start(vec![short(), ok()]).await;
    assert_eq!(caller(&[&gateway]).send(&call()).await.unwrap(), "{}");
    assert_eq!(gateway.heads().len(), 2);
}

#[tokio::test]
async fn redirects_are_refused_instead_of_followed_silently() {
    let target = Gateway::start(vec![ok()]).await;
    let header = format!("location: {}x\r\n", target.url);
    let gateway = Gateway::start(vec![answer("307 Temporary Redirect", &header, "")]).await;
    let error = caller(&[&gateway]).send(&call()).await.unwrap_err();
    assert_eq!(error.category(), ErrorCategory::BadAnswer);
    assert!(error.to_string().contains("redirected"), "{error}");
}

#[tokio::test]
async fn an_answer_far_too_large_is_not_read() {
    let huge = Reply::Raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{{", u64::MAX / 2));
    let gateway = Gateway::start(vec![huge]).await;
    let error = caller(&[&gateway]).send(&call()).await.unwrap_err();
    assert_eq!(error.category(), ErrorCategory::TooLarge);
}

#[tokio::test]
async fn an_answer_above_its_limit_is_not_taken_whatever_it_says_of_its_size() {
    let forms: [fn(&str) -> Reply; 3] = [
        |body| answer("200 OK", "", body),
        |body| Reply::Raw(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}")),
        |body| {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
            let (first, rest) = body.split_at(10);
            Reply::Raw(format!("{head}a\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\n\r\n", rest.len()))
        },
    ];
    let body = "x".repeat(64);
    for form in forms {
        let gateway = Gateway::start(vec![form(&body), form(&body)]).await;
        let caller = caller(&[&gateway]);
        assert_eq!(caller.send(&call().answer_limit(64)).await.unwrap(), body);
        let error = caller.send(&call().answer_limit(63)).await.unwrap_err();
        assert_eq!(error.category(), ErrorCategory::TooLarge);
        assert_eq!(gateway.heads().len(), 2, "it is not asked for again");
    }
}

#[tokio::test]
async fn the_headers_are_ours_and_the_answer_needs_none() {
    let gateway = Gateway::start(vec![ok()]).await;
    let mut config = ClusterConfig::new(vec![gateway.url.join("es").unwrap()]);
    config.credentials = Credentials::Basic { username: "u".into(), password: SecretString::from("p") };
    let lines =
        Call::post("test", "/a%2Bb/_bulk").with("filter_path", "a,b").lines(Bytes::from_static(b"x\n"));
    Caller::new(&config).unwrap().send(&lines).await.unwrap();
    let head = gateway.heads().remove(0);
    for expected in [
        "post /es/a%2bb/_bulk?filter_path=a%2cb http/1.1",
        "content-type: application/x-ndjson",
        "accept: application/json",
        "accept-encoding: identity",
        "user-agent: es-index-merge/",
        "authorization: basic dtpw",
    ] {
        assert!(head.contains(expected), "{expected} is not in {head}");
    }
    for name in ["content-type:", "accept-encoding:", "authorization:"] {
        assert_eq!(head.matches(name).count(), 1, "{head}");
    }
    assert!(!head.contains("x-elastic-client-meta"));
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_says_where() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = ClusterConfig::new(vec![Url::parse(&format!("http://{address}")).unwrap()]);
    let error = Caller::new(&config).unwrap().send(&call()).await.unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Unreachable);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_ca_that_is_none_is_refused_before_the_first_request() {
    for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let mut config = ClusterConfig::new(vec![Url::parse("https://127.0.0.1:1").unwrap()]);
        config.ca_pem = Some(pem.as_bytes().to_vec());
        let error = Caller::new(&config).unwrap_err();
        assert_eq!(error.category(), ErrorCategory::Tls, "{pem:?}");
    }
}
