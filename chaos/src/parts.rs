//! The servers of a merge, private, so that they may be disturbed. They speak plain HTTP: the proxies before them
//! have to read what passes.

use anyhow::{Context as _, Result};
use demo::cluster::{Access, Cluster};
use testenv::elasticsearch::{Elasticsearch, Flavor, Options};
use testenv::postgres::Postgres;

/// Heap of each Elasticsearch.
const HEAP: &str = "512m";

/// Two Elasticsearch and a Postgres.
#[derive(Debug)]
pub struct Parts {
    /// 8.19.
    pub eight: Elasticsearch,
    /// 9.4.
    pub nine: Elasticsearch,
    /// Collections and state.
    pub postgres: Postgres,
}

impl Parts {
    /// Starts them, at the same time.
    pub fn start() -> Result<Self> {
        std::thread::scope(|scope| {
            let eight = scope.spawn(|| elasticsearch(Flavor::V8, &[]));
            let nine = scope.spawn(|| elasticsearch(Flavor::V9, &[]));
            let postgres = Postgres::start()?;
            let joined = |thread: std::thread::ScopedJoinHandle<'_, Result<Elasticsearch>>| {
                thread.join().ok().context("starting an Elasticsearch panicked")?
            };
            Ok(Self { eight: joined(eight)?, nine: joined(nine)?, postgres })
        })
    }
}

/// A private Elasticsearch without TLS, with further settings.
pub fn elasticsearch(flavor: Flavor, settings: &[(&str, &str)]) -> Result<Elasticsearch> {
    let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let options = Options { heap: HEAP.to_owned(), tls: false, settings, ..Options::default() };
    Elasticsearch::start(flavor, &options)
}

/// The independent client's way to a server.
pub async fn client(server: &Elasticsearch) -> Result<Cluster> {
    Cluster::connect(Access::of(server)?).await
}
