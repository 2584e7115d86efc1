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

/// A private cluster of two nodes, of which the first is the master. Each has its own password.
pub fn two_nodes(flavor: Flavor) -> Result<[Elasticsearch; 2]> {
    let kind = ("discovery.type", "multi-node");
    let first = elasticsearch(flavor, &[kind, ("cluster.initial_master_nodes", "node-1")])?;
    let told = first.ask("GET", "/_nodes/_local/transport", None)?;
    let nodes = told["nodes"].as_object().context("the server doesn't name its nodes")?;
    let (name, node) = (told["cluster_name"].as_str(), nodes.values().next());
    let address = node.and_then(|node| node["transport_address"].as_str());
    let (name, address) = name.zip(address).context("the server doesn't say where others may join it")?;
    let joining = [
        kind,
        ("node.name", "node-2"),
        ("node.roles", "[data]"),
        ("cluster.name", name),
        ("discovery.seed_hosts", address),
    ];
    let second = elasticsearch(flavor, &joining)?;
    Ok([first, second])
}

/// The independent client's way to a server.
pub async fn client(server: &Elasticsearch) -> Result<Cluster> {
    Cluster::connect(Access::of(server)?).await
}
