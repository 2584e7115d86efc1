//! Connecting, and being told clearly why it does not work.

use std::time::Duration;

use es_index_merge::elastic::{Cluster, ClusterConfig, Credentials, ErrorCategory};
use secrecy::SecretString;
use serde_json::json;

use super::server::{Server, config};

async fn refused(config: ClusterConfig) -> (ErrorCategory, String) {
    let error = Cluster::connect(config).await.unwrap_err();
    assert!(!error.remedy().is_empty());
    (error.category(), error.to_string())
}

#[tokio::test]
async fn a_connected_cluster_says_who_it_is() {
    for server in Server::each().await {
        assert_eq!(server.cluster.version().to_string(), server.flavor.version());
        assert!(server.cluster.uuid().len() > 10);
        assert!(!server.cluster.name().is_empty());
    }
}

#[tokio::test]
async fn wrong_credentials_are_unauthorized_and_never_shown() {
    for server in Server::each().await {
        for credentials in [
            Credentials::Basic { username: "elastic".into(), password: SecretString::from("geheim") },
            // The id of a key is no secret; a server may name the one it does not know.
            Credentials::ApiKey(SecretString::from("unknown:geheim")),
            Credentials::Anonymous,
        ] {
            let (category, text) = refused(ClusterConfig { credentials, ..config(server.access) }).await;
            assert_eq!(category, ErrorCategory::Unauthorized, "{text}");
            assert!(!text.contains("geheim"), "{text}");
        }
    }
}

#[tokio::test]
async fn both_forms_of_an_api_key_open_the_cluster() {
    for server in Server::each().await {
        let body = json!({"name": "elastic-test", "expiration": "1h"});
        let key = server.ask("POST", "/_security/api_key", Some(&body));
        let text = |part: &str| key[part].as_str().unwrap().to_owned();
        for form in [format!("{}:{}\n", text("id"), text("api_key")), format!(" {} ", text("encoded"))] {
            let credentials = Credentials::ApiKey(SecretString::from(form));
            Cluster::connect(ClusterConfig { credentials, ..config(server.access) }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused_unless_that_is_asked_for() {
    for server in Server::each().await {
        assert!(server.access.ca.is_some(), "this test needs a server with a CA of its own");
        let other = other_authority();
        for ca_pem in [None, Some(other)] {
            let (category, text) = refused(ClusterConfig { ca_pem, ..config(server.access) }).await;
            assert_eq!(category, ErrorCategory::Tls, "{text}");
            assert!(text.contains("UnknownIssuer"), "{text}");
        }
        let careless = ClusterConfig { ca_pem: None, insecure_skip_verify: true, ..config(server.access) };
        Cluster::connect(careless).await.unwrap();
    }
}

#[tokio::test]
async fn another_host_name_than_the_certificates_is_refused() {
    for server in Server::each().await {
        let mut other = config(server.access);
        other.urls[0].set_host(Some("127.0.0.2")).unwrap();
        let (category, text) = refused(other).await;
        // 127.0.0.2 is either not listened on, or the certificate does not name it.
        assert!(matches!(category, ErrorCategory::Tls | ErrorCategory::Unreachable), "{text}");
    }
}

#[tokio::test]
async fn plain_http_to_a_tls_port_is_unreachable_and_the_dead_node_of_two_is_passed_over() {
    for server in Server::each().await {
        let mut plain = config(server.access);
        plain.urls[0].set_scheme("http").unwrap();
        let (category, text) = refused(plain.clone()).await;
        assert_eq!(category, ErrorCategory::Unreachable, "{text}");

        let mut two = config(server.access);
        two.urls.insert(0, "https://127.0.0.1:1".parse().unwrap());
        let cluster = Cluster::connect(two).await.unwrap();
        for _ in 0..4 {
            cluster.resolve().await.unwrap();
        }
    }
}

#[tokio::test]
async fn something_else_than_elasticsearch_is_named_as_such() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = axum::serve(listener, axum::Router::new().fallback(|| async { "<html>Grafana</html>" }));
    let task = tokio::spawn(serve.into_future());
    let (category, text) = refused(ClusterConfig::new(ClusterConfig::parse_urls(&url).unwrap())).await;
    task.abort();
    assert_eq!(category, ErrorCategory::Unsupported);
    assert!(text.contains("Grafana"), "{text}");
}

#[tokio::test]
async fn nobody_there_is_reported_within_seconds() {
    let started = std::time::Instant::now();
    let (category, _) = refused(ClusterConfig::new(vec!["http://127.0.0.1:1".parse().unwrap()])).await;
    assert_eq!(category, ErrorCategory::Unreachable);
    assert!(started.elapsed() < Duration::from_secs(6));
}

/// The certificate of an authority that signed nothing here.
fn other_authority() -> Vec<u8> {
    const PEM: &str = include_str!("other-ca.pem");
    PEM.as_bytes().to_vec()
}
