//! The servers of a run, and the plain requests that the harness sends to them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;
use testenv::elasticsearch::{Access, Elasticsearch, Flavor, Options};

/// A server that answers.
pub struct Server {
    /// Its version.
    pub flavor: Flavor,
    /// How to reach it.
    pub access: Access,
    /// Its process.
    pub pid: i32,
    client: reqwest::Client,
    _own: Option<Elasticsearch>,
}

impl Server {
    /// Takes the server that the environment names, or starts one: plain HTTP, as for everybody else in the run.
    pub async fn start(flavor: Flavor, heap: &str) -> Result<Self> {
        let heap = heap.to_owned();
        let (access, own) = tokio::task::spawn_blocking(move || {
            if let Some(access) = Access::from_environment(flavor)? {
                return Ok::<_, anyhow::Error>((access, None));
            }
            let settings = BTreeMap::from([
                ("reindex.remote.whitelist".to_owned(), "\"127.0.0.1:*\"".to_owned()),
                // One request of `_reindex` holds a scroll for each of its sources; by default 500 are allowed.
                ("search.max_open_scroll_context".to_owned(), "100000".to_owned()),
                // Only for filling: thousands of indices are created much faster.
                ("cluster.routing.allocation.node_initial_primaries_recoveries".to_owned(), "100".to_owned()),
            ]);
            let server =
                Elasticsearch::start(flavor, &Options { heap, tls: false, settings, ..Options::default() })?;
            Ok((Access::clone(&server), Some(server)))
        })
        .await??;
        let client = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .timeout(Duration::from_hours(1))
            .pool_max_idle_per_host(64)
            .build()?;
        let mut server = Self { flavor, access, pid: 0, client, _own: own };
        let node = server.get("/_nodes/_local/process").await?;
        let process = node["nodes"].as_object().and_then(|nodes| nodes.values().next());
        let pid = process.and_then(|node| node["process"]["id"].as_i64()).context("a process id")?;
        server.pid = i32::try_from(pid)?;
        Ok(server)
    }

    /// Whether vectors are kept out of `_source` and may be sent as base64.
    pub fn hides_vectors(&self) -> bool {
        self.flavor == Flavor::V9
    }

    /// The URL with user and password in it, for tools that want it so.
    pub fn url_with_login(&self) -> String {
        let login = format!("{}:{}@", self.access.username, self.access.password);
        self.access.url.replacen("://", &format!("://{login}"), 1)
    }

    /// Sends a request; any status other than 2xx is an error.
    pub async fn send(&self, method: Method, path: &str, body: Option<(Bytes, bool)>) -> Result<Bytes> {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.access.url))
            .basic_auth(&self.access.username, Some(&self.access.password));
        if let Some((body, lines)) = body {
            let kind = if lines { "application/x-ndjson" } else { "application/json" };
            request = request.header("content-type", kind).body(body);
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status();
        let body = answer.bytes().await.with_context(|| format!("{method} {path}"))?;
        if !status.is_success() {
            let text: String = String::from_utf8_lossy(&body).chars().take(800).collect();
            bail!("{method} {path} answered {status}: {text}");
        }
        Ok(body)
    }

    /// Sends JSON (or nothing) and reads JSON.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(|body| (Bytes::from(body.to_string()), false));
        Ok(serde_json::from_slice(&self.send(method, path, body).await?)?)
    }

    /// Reads JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    /// Posts without a body and reads JSON.
    pub async fn command(&self, path: &str) -> Result<Value> {
        self.ask(Method::POST, path, None).await
    }

    /// Posts JSON and reads JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Puts JSON and reads JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask(Method::PUT, path, Some(body)).await
    }

    /// Sends a bulk body; an item that failed is an error.
    pub async fn bulk(&self, path: &str, body: Bytes) -> Result<()> {
        let answer = self.send(Method::POST, path, Some((body, true))).await?;
        // `"errors":false` stands at the beginning; nothing else of the answer is of interest.
        let begin = String::from_utf8_lossy(answer.get(..60).unwrap_or(&answer)).into_owned();
        if !begin.contains("\"errors\":false") {
            let text: String = String::from_utf8_lossy(&answer).chars().take(800).collect();
            bail!("a bulk failed: {text}");
        }
        Ok(())
    }

    /// Deletes an index if it is there.
    pub async fn delete(&self, index: &str) -> Result<()> {
        self.ask(Method::DELETE, &format!("/{index}?ignore_unavailable=true"), None).await.map(drop)
    }
}
