//! A small HTTPS client which trusts one CA: enough to ask a part whether it is ready, and for tests to talk to it.
//! Answers of any status are answers, not errors; each request ends after a time limit.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// Who asks.
#[derive(Debug, Clone)]
pub enum Identity<'a> {
    /// A user and a password.
    Basic(&'a str, &'a str),
    /// A client certificate and its key, PEM files.
    Certificate(&'a Path, &'a Path),
    /// A user and a password, over a connection with a client certificate and its key, PEM files.
    Both(&'a str, &'a str, &'a Path, &'a Path),
}

/// A connection to one server.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
    url: String,
    authorization: Option<String>,
}

impl Http {
    /// A client for `url`, which trusts only the CA in the PEM file `ca`.
    pub fn new(url: &str, ca: Option<&Path>, identity: &Identity<'_>, limit: Duration) -> Result<Self> {
        let read =
            |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let mut tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if let Some(ca) = ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&[Certificate::from_pem(&read(ca)?)?]));
        } else if url.starts_with("https:") {
            bail!("{url} needs the certificate of its CA");
        }
        let (login, pair) = match *identity {
            Identity::Basic(user, password) => (Some((user, password)), None),
            Identity::Certificate(certificate, key) => (None, Some((certificate, key))),
            Identity::Both(user, password, certificate, key) => {
                (Some((user, password)), Some((certificate, key)))
            }
        };
        if let Some((certificate, key)) = pair {
            let certificate = Certificate::from_pem(&read(certificate)?)?;
            let key = PrivateKey::from_pem(&read(key)?)?;
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&[certificate], key)));
        }
        let authorization = login.map(|(user, password)| {
            use base64::Engine as _;
            let pair = format!("{user}:{password}");
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        let agent = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .timeout_global(Some(limit))
            .http_status_as_error(false)
            // Ours are on 127.0.0.1; a proxy of the environment cannot reach that.
            .proxy(None)
            .build()
            .into();
        Ok(Self { agent, url: url.trim_end_matches('/').to_owned(), authorization })
    }

    /// Sends one request; gives the status and the body (JSON, or a string if it is something else).
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.url);
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let content = match body {
            Some(Value::String(lines)) => {
                request = request.header("content-type", "application/x-ndjson");
                lines.clone().into_bytes()
            }
            Some(json) => {
                request = request.header("content-type", "application/json");
                serde_json::to_vec(json)?
            }
            None => Vec::new(),
        };
        let failed = || format!("{method} {url}");
        let mut response = if body.is_some() {
            self.agent.run(request.body(content)?).with_context(failed)?
        } else {
            let empty = request.body(())?;
            let empty = self.agent.configure_request(empty).allow_non_standard_methods(true).build();
            self.agent.run(empty).with_context(failed)?
        };
        let status = response.status().as_u16();
        let text =
            response.body_mut().with_config().limit(256 << 20).read_to_string().with_context(failed)?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}
