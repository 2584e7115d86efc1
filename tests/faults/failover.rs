//! Primaries of the source fail over while applications write: another copy goes on under a new term, and what the lost one
//! had not told it never happened.

use std::time::Duration;

use chaos::merge::{DIMENSIONS, Tuning};
use chaos::parts;
use demo::cluster::{Cluster, Method};
use demo::seed::bulk::{VectorText, source};
use demo::seed::embedding::embed;
use demo::seed::layout::Mapping;
use demo::seed::tables::{CollectionRow, Naming, Tables};
use serde_json::{Value, json};
use testenv::elasticsearch::Flavor;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::stage::{SOON, Scene, Stage, slow};

/// Applications that write at the same time, so that some operations are under way whenever a primary goes.
const APPLICATIONS: i64 = 4;
/// From one request of an application to its next.
const PAUSE: Duration = Duration::from_millis(20);
/// Chunks of each that are changed, deleted and written again all the time.
const RESTLESS: i64 = 20;
/// The nodes, as their cluster calls them.
const FIRST: &str = "node-1";
const SECOND: &str = "node-2";

/// Applications that write to one collection until they are stopped.
struct Applications {
    stop: watch::Sender<bool>,
    /// The highest term of a primary under which something was acknowledged; 0 before that.
    term: watch::Receiver<u64>,
    tasks: JoinSet<()>,
}

impl Applications {
    /// `first_chunk`: no chunk has that number or a higher one yet.
    fn start(cluster: &Cluster, collection: i64, first_chunk: i64) -> Applications {
        let (stop, stopped) = watch::channel(false);
        let (tell, term) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for document in collection..collection + APPLICATIONS {
            let index = collection.to_string();
            let application = Application { cluster: cluster.clone(), index, document, first_chunk };
            tasks.spawn(application.write(tell.clone(), stopped.clone()));
        }
        Applications { stop, term, tasks }
    }

    fn term(&self) -> u64 {
        *self.term.borrow()
    }

    /// Waits until something is acknowledged under a term above that one.
    async fn write_in_a_term_above(&mut self, term: u64) {
        let reached = self.term.wait_for(|now| *now > term);
        timeout(SOON, reached).await.expect("a primary takes writes in time").expect("they write");
    }

    async fn stop(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("an application ends in order");
        }
    }
}

struct Application {
    cluster: Cluster,
    index: String,
    document: i64,
    first_chunk: i64,
}

impl Application {
    async fn write(self, tell: watch::Sender<u64>, mut stopped: watch::Receiver<bool>) {
        let mut ticks = interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for step in 0.. {
            tokio::select! {
                _ = stopped.changed() => return,
                _ = ticks.tick() => {}
            }
            let body = self.request(step);
            let sent = self.cluster.send(Method::POST, "/_bulk", "application/x-ndjson", Some(body.into()));
            // What fails may have been done or not; the source itself says so in the end.
            let Ok(answer) = sent.await else { continue };
            let Ok(answer) = answer.json() else { continue };
            let acknowledged = term_of(&answer);
            tell.send_if_modified(|highest| {
                let is_new = acknowledged > *highest;
                *highest = acknowledged.max(*highest);
                is_new
            });
        }
    }

    /// A chunk that is new, one that is written over or comes back, and one that goes.
    fn request(&self, step: i64) -> String {
        let Application { index, document, first_chunk, .. } = self;
        let restless = |at: i64| format!("restless-{document}-{}", at % RESTLESS);
        let lines = [
            json!({"index": {"_index": index}}).to_string(),
            chunk(*document, first_chunk + step, "is new"),
            json!({"index": {"_index": index, "_id": restless(step)}}).to_string(),
            chunk(*document, step % RESTLESS, &format!("in step {step} of round {first_chunk}")),
            json!({"delete": {"_index": index, "_id": restless(step + RESTLESS / 2)}}).to_string(),
        ];
        lines.join("\n") + "\n"
    }
}

fn chunk(document: i64, number: i64, words: &str) -> String {
    let content = format!("Chunk {number} of document {document}, {words}");
    let metadata = format!(
        "{{\"document_id\":{document},\"document_name\":\"{document}.txt\",\"document_created_at\":1700000000}}"
    );
    source(number, &content, &embed(&content, DIMENSIONS), VectorText::Floats, &metadata)
}

/// The highest term under which an item of a bulk was done; 0 if none was.
fn term_of(answer: &Value) -> u64 {
    let items = answer["items"].as_array().into_iter().flatten();
    let results = items.filter_map(|item| item.as_object()?.values().next());
    let done = results.filter(|result| result["error"].is_null());
    done.filter_map(|result| result["_primary_term"].as_u64()).max().unwrap_or(0)
}

/// Where new copies of shards may be: on the node of that name, or anywhere. Copies never move by themselves.
async fn allocate(cluster: &Cluster, node: Option<&str>) {
    let settings = json!({"persistent": {
        "cluster.routing.allocation.require._name": node,
        "cluster.routing.allocation.node_concurrent_recoveries": 20,
        "cluster.routing.rebalance.enable": "none",
    }});
    cluster.put("/_cluster/settings", &settings).await.expect("it is set");
}

/// A collection with an index of two shards, which nobody else writes to.
async fn another_collection(scene: &Scene<'_>) -> i64 {
    let id = scene.merge.first_id + 1_000;
    let tables = Tables::existing(scene.merge.pool(), Naming::Created);
    tables.insert_collections(&[CollectionRow { id, name: "restless".to_owned() }]).await.expect("its row");
    let body = Mapping::Templates.body(DIMENSIONS, 2).expect("an explicit mapping");
    scene.merge.source_client.put(&format!("/{id}"), &body).await.expect("its index");
    id
}

/// Gives every index that is there now a replica.
async fn replicate(cluster: &Cluster) {
    let one = json!({"index.number_of_replicas": 1}).to_string();
    for _ in 0..10 {
        let body = Some(one.clone().into());
        let sent = cluster.send(Method::PUT, "/*/_settings", "application/json", body).await;
        // An index that its application deletes in this moment makes it a 404.
        if sent.expect("an answer").is_success() {
            return;
        }
    }
    panic!("the replicas cannot be set");
}

/// Waits until every copy has a place.
async fn is_green(cluster: &Cluster) {
    let health =
        cluster.get("/_cluster/health?wait_for_status=green&timeout=60s").await.expect("it is green");
    assert_eq!(health["timed_out"], false, "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_the_source_that_is_lost_with_its_primaries_takes_nothing_with_it() {
    let stage = Stage::take().await;
    let [first, second] =
        tokio::task::block_in_place(|| parts::two_nodes(Flavor::V9)).expect("a cluster of two nodes");
    let cluster = parts::client(&first).await.expect("the source answers");
    // All primaries come to be on the second node, and their replicas on the first.
    allocate(&cluster, Some(SECOND)).await;
    let scene = stage.scene_between(&first, &stage.parts.nine).await;
    let collection = another_collection(&scene).await;
    replicate(&cluster).await;
    allocate(&cluster, None).await;
    is_green(&cluster).await;

    let program = scene.run(&Tuning { hold: true, ..slow() });
    scene.reaches(&["Copying"]).await;
    let mut applications = Applications::start(&cluster, collection, 1_000);
    applications.write_in_a_term_above(0).await;
    let before = applications.term();
    tokio::task::block_in_place(|| second.kill_9()).expect("it is killed");
    applications.write_in_a_term_above(before).await;
    applications.stop().await;
    // What it had and the new primaries have not is rolled back there.
    tokio::task::block_in_place(|| second.restart()).expect("it comes back");
    is_green(&cluster).await;

    // And while the destination follows: the primaries on the first node give way to the copies on the second.
    scene.reaches(&["Synced"]).await;
    let mut applications = Applications::start(&cluster, collection, 100_000);
    applications.write_in_a_term_above(0).await;
    let before = applications.term();
    let cancel = |shard: u32| {
        let index = collection.to_string();
        json!({"cancel": {"index": index, "shard": shard, "node": FIRST, "allow_primary": true}})
    };
    let commands = json!({"commands": [cancel(0), cancel(1)]});
    cluster.post("/_cluster/reroute", &commands).await.expect("the primaries are cancelled");
    applications.write_in_a_term_above(before).await;
    applications.stop().await;
    is_green(&cluster).await;
    scene.makes_a_whole_pass().await;
    scene.let_go(&program);
    scene.ends_well(&program).await;
}
