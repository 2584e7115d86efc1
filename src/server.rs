//! The HTTP endpoints of the controller: `/livez`, `/readyz`, `/metrics`.
//!
//! `/livez` says only that the process answers: it does not depend on any other server, so that an outage of
//! Elasticsearch does not restart the controller. `/readyz` is about the Kubernetes API (is the definition
//! installed, may we read it), and explains what is missing; leadership is not required, so that a standby is ready.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What must hold before the controller is ready, each with what is missing and what to do.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Readiness {
    /// Ready once each of `needed` is there; until then each says that it is being waited for.
    #[must_use]
    pub fn waiting_for(needed: &[&str]) -> Self {
        let missing = needed.iter().map(|need| ((*need).to_owned(), "not checked yet".to_owned())).collect();
        Self { missing: Arc::new(Mutex::new(missing)) }
    }

    /// `need` is there.
    pub fn ready(&self, need: &str) {
        self.lock().remove(need);
    }

    /// `need` is not there; `message` says why and what to do.
    pub fn missing(&self, need: &str, message: &str) {
        self.lock().insert(need.to_owned(), message.to_owned());
    }

    /// What is missing; empty when ready.
    #[must_use]
    pub fn report(&self) -> BTreeMap<String, String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the endpoints could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be used.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The server stopped.
    #[error("the HTTP server stopped: {0}")]
    Serve(#[from] std::io::Error),
}

/// A server that has its address and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
}

impl Server {
    /// Takes the address; port 0 takes any free port.
    pub async fn bind(
        address: SocketAddr,
        metrics: Metrics,
        readiness: Readiness,
    ) -> Result<Self, ServerError> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
        let router = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz).with_state(readiness))
            .route("/metrics", get(render).with_state(metrics));
        Ok(Self { listener, router })
    }

    /// The address, with the port that was taken.
    pub fn address(&self) -> Result<SocketAddr, ServerError> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers until `shutdown`.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), ServerError> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
        Ok(())
    }
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.report();
    let code = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": missing.is_empty(), "missing": missing });
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn render(State(metrics): State<Metrics>) -> Response {
    match metrics.render() {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_explains_what_is_missing_and_liveness_does_not_depend_on_it() {
        let readiness = Readiness::waiting_for(&["definition", "watch"]);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(any, Metrics::default(), readiness.clone()).await.unwrap();
        let address = server.address().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(shutdown.clone()));

        readiness.ready("watch");
        readiness.missing("definition", "not installed; kubectl apply -f crds/");
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("kubectl apply -f crds/") && !answer.contains("watch"), "{answer}");
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));

        readiness.ready("definition");
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""ready":true"#), "{answer}");

        let answer = get(address, "/metrics").await;
        assert!(answer.contains("es_index_merge_leader 0") && answer.ends_with("# EOF\n"), "{answer}");
        shutdown.cancel();
        serving.await.unwrap().unwrap();
    }
}
