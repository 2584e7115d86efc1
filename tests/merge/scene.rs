//! One merge with parts of its own: a database, a range of collection ids, a destination.

use std::sync::atomic::{AtomicI64, Ordering};

use demo::checker::{self, Contract, Verdict};
use demo::cluster::{Access, Cluster};
use demo::seed::tables::{Naming, Tables};
use demo::seed::{odd, writer};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use testenv::elasticsearch::{self, Elasticsearch};
use testenv::postgres::{Database, Postgres};

pub use testenv::elasticsearch::Flavor;

#[path = "scene/program.rs"] // scene.rs is part of other tests too
pub mod program;

/// Size of the vectors of small scenes.
pub const DIMENSIONS: usize = 8;

/// Ids of one scene: far apart, so that scenes share servers without meeting.
fn next_range() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let start = i64::from(std::process::id() % 25) * 40_000 + 1_000;
    start + NEXT.fetch_add(4_000, Ordering::Relaxed)
}

pub struct Scene {
    pub first_id: i64,
    pub index: String,
    source: elasticsearch::Access,
    destination: elasticsearch::Access,
    pub source_cluster: Cluster,
    pub destination_cluster: Cluster,
    database_url: String,
    pub pool: PgPool,
    /// Dropped with the scene.
    _database: Database,
}

impl Scene {
    pub async fn new(source: Flavor, destination: Flavor) -> Scene {
        let shared = |flavor| {
            tokio::task::spawn_blocking(move || {
                elasticsearch::Access::clone(Elasticsearch::shared(flavor).expect("a server"))
            })
        };
        Scene::between(shared(source).await.unwrap(), shared(destination).await.unwrap()).await
    }

    /// A scene with servers that may be the test's own.
    pub async fn between(source: elasticsearch::Access, destination: elasticsearch::Access) -> Scene {
        let database = tokio::task::spawn_blocking(|| {
            Postgres::shared().expect("a server").database().expect("a database")
        })
        .await
        .unwrap();
        let first_id = next_range();
        let database_url = database.url.clone();
        Scene {
            first_id,
            index: format!("merged-{first_id}"),
            source_cluster: Cluster::connect(Access::of(&source).expect("its files"))
                .await
                .expect("the source answers"),
            destination_cluster: Cluster::connect(Access::of(&destination).expect("its files"))
                .await
                .expect("the destination answers"),
            pool: PgPoolOptions::new()
                .max_connections(4)
                .connect(&database_url)
                .await
                .expect("Postgres answers"),
            source,
            destination,
            database_url,
            _database: database,
        }
    }

    pub async fn fill(&self, options: &odd::Options) -> odd::Model {
        odd::fill(&self.source_cluster, &self.pool, options).await.expect("the source is filled")
    }

    /// The manifest, with its secrets.
    pub fn manifest(&self, dimensions: usize) -> String {
        self.manifest_from(&self.source, dimensions)
    }

    /// The same merge, from the destination's cluster.
    pub fn manifest_of_another_source(&self, dimensions: usize) -> String {
        self.manifest_from(&self.destination, dimensions)
    }

    fn manifest_from(&self, source: &elasticsearch::Access, dimensions: usize) -> String {
        let ca = |access: &elasticsearch::Access| {
            let pem = std::fs::read_to_string(access.ca.as_ref().expect("TLS")).expect("the CA");
            pem.replace('\n', "\n    ")
        };
        format!(
            r#"apiVersion: v1
kind: Secret
metadata: {{name: postgres}}
stringData: {{url: "{url}"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: source}}
stringData:
  username: "{source_user}"
  password: "{source_password}"
  ca.crt: |
    {source_ca}
---
apiVersion: v1
kind: Secret
metadata: {{name: destination}}
stringData:
  username: "{destination_user}"
  password: "{destination_password}"
  ca.crt: |
    {destination_ca}
---
apiVersion: indexmerge.dev/v1alpha1
kind: EsIndexMerge
metadata: {{name: first}}
spec:
  collections:
    postgres:
      urlSecretRef: {{name: postgres, key: url}}
  source:
    url: "{source_url}"
    credentialsSecretRef: {{name: source}}
    caSecretRef: {{name: source, key: ca.crt}}
  destination:
    url: "{destination_url}"
    credentialsSecretRef: {{name: destination}}
    caSecretRef: {{name: destination, key: ca.crt}}
    index:
      name: {index}
      numberOfShards: 2
      numberOfReplicas: 0
      language: french
      vectorSize: {dimensions}
  contract: OpenGateLLM
  tolerations: {{maxQuarantined: 0}}
  cutover:
    maxLag: 5s
    sourceWrites: Block
"#,
            url = self.database_url,
            source_user = source.username,
            source_password = source.password,
            source_ca = ca(source),
            destination_user = self.destination.username,
            destination_password = self.destination.password,
            destination_ca = ca(&self.destination),
            source_url = source.url,
            destination_url = self.destination.url,
            index = self.index,
        )
    }

    /// The source, asked as an administrator.
    pub fn source(&self) -> &Cluster {
        &self.source_cluster
    }

    /// The destination, asked as an administrator.
    pub fn destination(&self) -> &Cluster {
        &self.destination_cluster
    }

    /// The database of the collections and of the state.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub fn source_url(&self) -> String {
        self.source.url.clone()
    }

    pub fn destination_url(&self) -> String {
        self.destination.url.clone()
    }

    pub fn source_password(&self) -> String {
        self.source.password.clone()
    }

    pub fn database_url(&self) -> String {
        self.database_url.clone()
    }

    pub fn database_name(&self) -> String {
        let path = self.database_url.split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// A setting of the destination as it is set explicitly; null while the index or the setting is not there.
    pub async fn setting(&self, setting: &str) -> Value {
        let access = self.destination.clone();
        let path = format!("/{}/_settings?flat_settings=true", self.index);
        let (_, answer) =
            tokio::task::spawn_blocking(move || access.call("GET", &path, None)).await.unwrap().unwrap();
        answer[&self.index]["settings"][setting].clone()
    }

    /// Changes a setting of the destination.
    pub async fn set(&self, setting: &str, value: &str) {
        let access = self.destination.clone();
        let path = format!("/{}/_settings", self.index);
        let body = json!({setting: value});
        tokio::task::spawn_blocking(move || access.ask("PUT", &path, Some(&body))).await.unwrap().unwrap();
    }

    /// Removes a setting of the destination.
    pub async fn set_null(&self, setting: &str) {
        let path = format!("/{}/_settings", self.index);
        self.destination_cluster.put(&path, &json!({setting: null})).await.expect("it is removed");
    }

    /// The independent verdict.
    pub async fn check(&self, dimensions: usize) -> Verdict {
        self.check_only(dimensions, Vec::new()).await
    }

    /// The independent verdict over the collections that the merge judged.
    pub async fn check_judged(&self, dimensions: usize) -> Verdict {
        let judged: Vec<i64> =
            sqlx::query_scalar("SELECT collection_id FROM es_index_merge.collection_verdict")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        assert!(!judged.is_empty());
        self.check_only(dimensions, judged).await
    }

    async fn check_only(&self, dimensions: usize, include: Vec<i64>) -> Verdict {
        let options = checker::Options {
            index: self.index.clone(),
            contract: Contract::OpenGateLLM,
            dimensions,
            include,
            exclude: Vec::new(),
        };
        checker::check(&self.source_cluster, &self.destination_cluster, &self.pool, &options)
            .await
            .expect("the checker can read both sides")
    }

    pub fn write_meanwhile(&self, dimensions: usize) -> writer::Writer {
        let options = writer::Options {
            seed: 7,
            dimensions,
            per_second: 20,
            first_collection: self.first_id + 2_000,
            first_document: self.first_id + 2_000,
            collections: 4,
            outages: writer::Outages::End,
        };
        let tables = Tables::existing(&self.pool, Naming::Created);
        writer::Writer::start(self.source_cluster.clone(), tables, options)
    }

    /// Nothing of the load is left on the destination.
    pub async fn assert_destination_is_in_service(&self) {
        let settings = self.ask("GET", &format!("/{}/_settings?flat_settings=true", self.index)).await;
        let settings = &settings[&self.index]["settings"];
        for setting in ["index.refresh_interval", "index.merge.scheduler.auto_throttle", "index.gc_deletes"] {
            assert_eq!(settings[setting], Value::Null, "{setting} was not put back");
        }
        let aliases = self.ask("GET", &format!("/{}/_alias", self.index)).await;
        assert_eq!(aliases[&self.index]["aliases"], json!({}), "our alias is left");
        let mapping = self.ask("GET", &format!("/{}/_mapping", self.index)).await;
        let kind = &mapping[&self.index]["mappings"]["properties"]["embedding"]["index_options"]["type"];
        assert_ne!(kind, "flat", "the graph was not switched on");
        self.assert_every_segment_was_written_anew().await;
    }

    /// Flat segments have no quantised vectors. Only 9.x tells their size; there they must be as many as the raw
    /// vectors, a quarter or so of their bytes.
    async fn assert_every_segment_was_written_anew(&self) {
        let access = self.destination.clone();
        let version =
            tokio::task::spawn_blocking(move || access.version()).await.unwrap().expect("a version");
        if version.starts_with('8') {
            return;
        }
        let stats = self.ask("GET", &format!("/{}/_stats/dense_vector", self.index)).await;
        let vectors = &stats["_all"]["primaries"]["dense_vector"];
        let bytes = |name: &str| vectors["off_heap"][name].as_u64().unwrap_or(0);
        let count = vectors["value_count"].as_u64().expect("a count");
        let quantised = bytes("total_veq_size_bytes") + bytes("total_veb_size_bytes");
        assert!(count > 0 && quantised >= count * 8, "flat segments are left: {vectors}");
    }

    /// Whether every source index refuses writes by a block.
    pub async fn sources_are_blocked(&self) -> bool {
        self.blocks().await.into_iter().all(|is_blocked| is_blocked)
    }

    /// Whether one does at least.
    pub async fn any_source_is_blocked(&self) -> bool {
        self.blocks().await.into_iter().any(|is_blocked| is_blocked)
    }

    /// Whether writers are refused by all sources, or served by all of them.
    pub async fn writers_are_refused(&self, refused: bool) -> bool {
        if refused { self.sources_are_blocked().await } else { !self.any_source_is_blocked().await }
    }

    /// The write blocks of the source indices of this scene.
    async fn blocks(&self) -> Vec<bool> {
        let settings = self.ask_source("GET", "/*/_settings/index.blocks.write?flat_settings=true").await;
        let ids: Vec<i64> =
            sqlx::query_scalar("SELECT id::bigint FROM collection").fetch_all(&self.pool).await.unwrap();
        let listed = self.source_cluster.list("/_resolve/index/*").await.expect("a list");
        let names = listed["indices"].as_array().expect("indices").iter();
        let names: Vec<&str> = names
            .filter_map(|index| index["name"].as_str())
            .filter(|name| name.parse().is_ok_and(|id: i64| ids.contains(&id)))
            .collect();
        assert!(!names.is_empty(), "a source");
        names.iter().map(|name| settings[name]["settings"]["index.blocks.write"] == json!("true")).collect()
    }

    /// Every document of an index, `_source` as bytes, by id.
    pub async fn sources_of(&self, index: &str) -> std::collections::BTreeMap<String, String> {
        let path = format!("/{index}/_search?size=10000");
        let answer = self.ask("POST", &path).await;
        let hits = answer["hits"]["hits"].as_array().expect("hits");
        assert!(!hits.is_empty() && hits.len() < 10_000);
        hits.iter().map(|hit| (hit["_id"].as_str().unwrap().to_owned(), hit["_source"].to_string())).collect()
    }

    pub async fn exists(&self, index: &str) -> bool {
        let access = self.destination.clone();
        let path = format!("/{index}");
        let (status, _) =
            tokio::task::spawn_blocking(move || access.call("GET", &path, None)).await.unwrap().unwrap();
        status == 200
    }

    pub async fn state_exists(&self) -> bool {
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'es_index_merge')")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// Drops the state schema, as if no merge had ever been.
    pub async fn forget_the_merge(&self) {
        sqlx::query("DROP SCHEMA es_index_merge CASCADE").execute(&self.pool).await.unwrap();
    }

    pub async fn delete(&self, index: &str) {
        self.ask("DELETE", &format!("/{index}")).await;
    }

    async fn ask(&self, method: &'static str, path: &str) -> Value {
        ask(self.destination.clone(), method, path).await
    }

    async fn ask_source(&self, method: &'static str, path: &str) -> Value {
        ask(self.source.clone(), method, path).await
    }
}

impl Drop for Scene {
    /// Shared servers are left as they were found.
    fn drop(&mut self) {
        let delete = |access: &elasticsearch::Access, path: &str| {
            if let Err(error) = access.call("DELETE", path, None) {
                eprintln!("{path} is left behind: {error}");
            }
        };
        delete(&self.destination, &format!("/{}", self.index));
        // An index that another test deletes meanwhile makes the list a 404.
        let list = |_| self.source.ask("GET", "/_resolve/index/*?expand_wildcards=all", None).ok();
        let Some(listed) = (0..20).find_map(list) else {
            eprintln!("the sources from {} on are left behind", self.first_id);
            return;
        };
        let range = self.first_id..self.first_id + 4_000;
        for index in listed["indices"].as_array().into_iter().flatten() {
            let name = index["name"].as_str().unwrap_or_default();
            // Also what is called after one, as `model-of-7`.
            let number = name.rsplit_once('-').map_or(name, |(_, number)| number);
            if number.parse().is_ok_and(|id: i64| range.contains(&id)) {
                delete(&self.source, &format!("/{name}"));
            }
        }
    }
}

async fn ask(access: elasticsearch::Access, method: &'static str, path: &str) -> Value {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || access.ask(method, &path, None)).await.unwrap().expect("an answer")
}
