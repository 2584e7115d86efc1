//! A small client for one Elasticsearch, used to fill servers and to check results.
//!
//! It shares no code with the operator's own client: what the checker says must not depend on what it checks.
//! Every request has a time limit; a status outside 2xx is an error that names the request and the reason.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
pub use reqwest::Method;
use reqwest::{Url, header};
use serde_json::Value;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(2);

/// Who the client is for the server.
#[derive(Clone)]
pub enum Login {
    /// Security is off.
    Anonymous,
    /// A user of the file or native realm.
    Basic {
        /// The user's name.
        username: String,
        /// The user's password.
        password: String,
    },
    /// An API key in its encoded form.
    ApiKey(String),
}

/// Where a server is and how to log in.
#[derive(Clone)]
pub struct Access {
    /// `https://host:port`.
    pub url: String,
    /// Who we are.
    pub login: Login,
    /// The certificate authority to trust beside the usual ones, in PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate and its key in PEM, if the server asks for one.
    pub identity_pem: Option<Vec<u8>>,
}

impl Access {
    /// The harness's way to a server as ours.
    pub fn of(server: &testenv::elasticsearch::Access) -> Result<Self> {
        let read =
            |file: &Path| std::fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        let identity_pem = match &server.client {
            Some(pair) => Some([read(&pair.key)?, read(&pair.certificate)?].concat()),
            None => None,
        };
        Ok(Self {
            url: server.url.clone(),
            login: Login::Basic { username: server.username.clone(), password: server.password.clone() },
            ca_pem: server.ca.as_deref().map(read).transpose()?,
            identity_pem,
        })
    }
}

/// A connection to one cluster; cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    http: reqwest::Client,
    base: Url,
    login: Login,
    version: (u32, u32),
}

/// What a server answered: its status and its body as it is.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).context("the server's answer is not JSON")
    }

    /// True for 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Cluster {
    /// Connects and reads the server's version.
    pub async fn connect(access: Access) -> Result<Self> {
        let mut builder =
            reqwest::Client::builder().timeout(REQUEST_TIMEOUT).connect_timeout(Duration::from_secs(10));
        if let Some(pem) = &access.ca_pem {
            for certificate in
                reqwest::Certificate::from_pem_bundle(pem).context("the CA is not a PEM certificate")?
            {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let Some(pem) = &access.identity_pem {
            let identity =
                reqwest::Identity::from_pem(pem).context("certificate and key are not in PEM form")?;
            builder = builder.identity(identity);
        }
        let base = Url::parse(&access.url).with_context(|| format!("`{}` is not a URL", access.url))?;
        let mut cluster = Self { http: builder.build()?, base, login: access.login, version: (0, 0) };
        let greeting = cluster.get("/").await?;
        let number = greeting["version"]["number"]
            .as_str()
            .context("the server does not say its version; is it Elasticsearch?")?;
        let mut parts = number.split(['.', '-']).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            bail!("the server's version `{number}` cannot be read");
        };
        cluster.version = (major, minor);
        Ok(cluster)
    }

    /// Major and minor version of the server.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Sends a request and returns whatever the server answered.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<Bytes>,
    ) -> Result<Answer> {
        let url = self.base.join(path).with_context(|| format!("`{path}` is not a path"))?;
        let mut request = self.http.request(method.clone(), url);
        request = match &self.login {
            Login::Anonymous => request,
            Login::Basic { username, password } => request.basic_auth(username, Some(password)),
            Login::ApiKey(key) => request.header(header::AUTHORIZATION, format!("ApiKey {key}")),
        };
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, content_type).body(body);
        }
        let response = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = response.status().as_u16();
        let body =
            response.bytes().await.with_context(|| format!("{method} {path}: the answer broke off"))?;
        Ok(Answer { status, body })
    }

    /// Sends JSON and requires a 2xx.
    pub async fn require(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.require_raw(method, path, body).await?.json()
    }

    /// Like [`Cluster::require`], but leaves the answer unparsed: for answers with many vectors.
    pub async fn require_raw(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let bytes = body.map(serde_json::to_vec).transpose()?.map(Bytes::from);
        let answer = self.send(method.clone(), path, "application/json", bytes).await?;
        if !answer.is_success() {
            bail!("{method} {path}: {} {}", answer.status, short(&answer.body));
        }
        Ok(answer)
    }

    /// `GET path`, requiring a 2xx.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.require(Method::GET, path, None).await
    }

    /// `GET` of a list by a pattern. The server makes names of it first; an index that is deleted before it looks for
    /// them makes the answer a 404, and then the list is asked for again.
    pub async fn list(&self, path: &str) -> Result<Value> {
        for _ in 0..20 {
            let answer = self.send(Method::GET, path, "application/json", None).await?;
            match answer.status {
                404 => {}
                _ if answer.is_success() => return answer.json(),
                status => bail!("GET {path}: {status} {}", short(&answer.body)),
            }
        }
        bail!("GET {path}: an index went away each time")
    }

    /// `POST path` with JSON, requiring a 2xx.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.require(Method::POST, path, Some(body)).await
    }

    /// `POST path` without a body, requiring a 2xx.
    pub async fn post_empty(&self, path: &str) -> Result<Value> {
        self.require(Method::POST, path, None).await
    }

    /// `PUT path` with JSON, requiring a 2xx.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.require(Method::PUT, path, Some(body)).await
    }

    /// Makes everything that was written to `indices` (a list with commas) visible to searches.
    pub async fn refresh(&self, indices: &str) -> Result<()> {
        self.require(Method::POST, &format!("/{indices}/_refresh"), None).await.map(drop)
    }

    /// Deletes an index; true when it existed.
    pub async fn delete_index(&self, index: &str) -> Result<bool> {
        let answer = self.send(Method::DELETE, &format!("/{index}"), "application/json", None).await?;
        match answer.status {
            404 => Ok(false),
            _ if answer.is_success() => Ok(true),
            status => bail!("DELETE /{index}: {status} {}", short(&answer.body)),
        }
    }
}

/// The beginning of an answer, for messages.
#[must_use]
pub fn short(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    match text.char_indices().nth(600) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into_owned(),
    }
}
