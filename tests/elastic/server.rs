//! The servers under test, and indices that are deleted when a test ends, however it ends.

use std::ops::Deref;

use es_index_merge::elastic::{
    BulkBody, BulkItem, BulkVersioning, Cluster, ClusterConfig, Credentials, IndexName,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use testenv::elasticsearch::{Access, Elasticsearch, Flavor};

/// A real server and our connection to it.
pub struct Server {
    pub access: &'static Access,
    pub flavor: Flavor,
    pub cluster: Cluster,
}

impl Server {
    /// Each server under test, one after the other.
    pub async fn each() -> Vec<Self> {
        let mut servers = Vec::new();
        for flavor in Flavor::ALL {
            servers.push(Self::of(flavor).await);
        }
        servers
    }

    pub async fn of(flavor: Flavor) -> Self {
        let server =
            tokio::task::spawn_blocking(move || Elasticsearch::shared(flavor)).await.unwrap().unwrap();
        let access: &'static Access = server;
        let cluster = Cluster::connect(config(access)).await.unwrap();
        Self { access, flavor, cluster }
    }

    /// A request that the room has no function for.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.access.ask(method, path, body).unwrap()
    }

    /// Creates an index with a name of its own.
    pub async fn index(&self, body: Value) -> Index {
        let index = self.unused_index();
        assert!(self.cluster.create_index(&index, &body).await.unwrap());
        index
    }

    /// A name that no index has, and that is deleted at the end if one has it then.
    pub fn unused_index(&self) -> Index {
        let name = format!("elastic-test-{}", uuid::Uuid::new_v4());
        Index { name: IndexName::parse(&name).unwrap(), access: self.access }
    }

    /// Connects with an API key that has only these privileges.
    pub async fn limited(&self, indices: Value) -> Cluster {
        let body = json!({"name": "elastic-test", "expiration": "1h",
            "role_descriptors": {"limited": {"cluster": ["monitor"], "indices": indices}}});
        let key = self.ask("POST", "/_security/api_key", Some(&body));
        let encoded = key["encoded"].as_str().unwrap().to_owned();
        let config = ClusterConfig {
            credentials: Credentials::ApiKey(SecretString::from(encoded)),
            ..config(self.access)
        };
        Cluster::connect(config).await.unwrap()
    }
}

/// How the room reaches that server.
pub fn config(access: &Access) -> ClusterConfig {
    let mut config = ClusterConfig::new(ClusterConfig::parse_urls(&access.url).unwrap());
    config.credentials = Credentials::Basic {
        username: access.username.clone(),
        password: SecretString::from(access.password.clone()),
    };
    config.ca_pem = access.ca.as_ref().map(|path| std::fs::read(path).unwrap());
    config
}

/// An index of one test.
pub struct Index {
    name: IndexName,
    access: &'static Access,
}

impl Deref for Index {
    type Target = IndexName;
    fn deref(&self) -> &IndexName {
        &self.name
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // A missing index is fine; a failure here must not hide the test's own.
        let _ = self.access.call("DELETE", &format!("/{}", self.name), None);
    }
}

/// Writes chunks with these ids and contents at version 1, and refreshes.
pub async fn write(server: &Server, index: &IndexName, chunks: &[(String, Value)]) {
    let mut body = BulkBody::with_capacity(1 << 16);
    for (id, content) in chunks {
        body.begin_index(id, 1, BulkVersioning::External).extend_from_slice(content.to_string().as_bytes());
        body.end();
    }
    let outcome = server.cluster.bulk(index.as_str(), false, body).await.unwrap();
    assert!(outcome.items.iter().all(|item| *item == BulkItem::Applied), "{outcome:?}");
    server.cluster.refresh(std::slice::from_ref(index)).await.unwrap();
}

/// Settings of an index without replicas, so that it is green on one node.
pub fn settings(shards: u32) -> Value {
    json!({"number_of_shards": shards, "number_of_replicas": 0, "refresh_interval": "-1"})
}
