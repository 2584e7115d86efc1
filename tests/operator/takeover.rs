//! Two controllers of one installation. The one that leads is lost: killed, or stopped for so long that the other one has
//! taken everything over when it goes on.

use std::time::Duration;

use demo::seed::tables::{Naming, Tables};
use demo::seed::{odd, writer};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::hardship::slowly;
use crate::operator::{LEASE, NAME, Operator, PATIENCE, SOON};
use crate::scene::{Flavor, Scene};
use crate::{assert_whole, in_the_middle, odd_data};

struct Controller {
    name: &'static str,
    process: Child,
}

impl Controller {
    async fn signal(&self, signal: &str) {
        let pid = self.process.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().await.unwrap();
        assert!(sent.success(), "{signal} to {}", self.name);
    }
}

/// Two controllers, and a merge that they are in the middle of.
struct Pair {
    leader: Controller,
    other: Controller,
    operator: Operator,
}

/// Who leads.
async fn holder(operator: &Operator) -> String {
    let leases: Api<Lease> = Api::namespaced(operator.client(), &operator.namespace);
    let lease = leases.get(LEASE).await.unwrap();
    lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()
}

impl Pair {
    /// So slow that the copy outlives the lease of a leader.
    async fn copying() -> Pair {
        let operator = Operator::new(Flavor::V8, Flavor::V9).await;
        let options = odd::Options { documents: 20, chunks: 40, ..odd_data(&operator.scene) };
        operator.scene.fill(&options).await;
        let namespace = operator.namespace.as_str();
        let lease = ["--leader-election", "true", "--lease-namespace", namespace, "--lease-name", LEASE];
        let start = |name: &'static str| {
            let process = operator.spawn("info", &[&lease[..], &["--worker", name]].concat());
            Controller { name, process }
        };
        let (first, second) = (start("first"), start("second"));
        operator.apply(&slowly(&operator.scene.manifest(8))).await;
        operator.until_phase(NAME, "Copying", SOON).await;
        in_the_middle(&operator).await;
        let leads = holder(&operator).await;
        assert!([first.name, second.name].contains(&leads.as_str()), "{leads:?} leads");
        let (leader, other) = if leads == first.name { (first, second) } else { (second, first) };
        Pair { leader, other, operator }
    }

    /// Waits until the other one works, and nothing is the leader's any more: no unit's lease, and not the installation's.
    async fn until_the_other_works_alone(&self) {
        let works_alone = "SELECT coalesce(bool_or(worker = $1), false)
                AND NOT coalesce(bool_or(worker = $2 AND available_at > clock_timestamp()), false)
             FROM es_index_merge.unit WHERE state = 'open'";
        let mut connection = self.operator.database().await;
        let waiting = async {
            loop {
                let asked = sqlx::query_scalar(works_alone).bind(self.other.name).bind(self.leader.name);
                let answer: bool = asked.fetch_one(&mut connection).await.unwrap();
                if answer {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the other one takes over");
        assert_eq!(holder(&self.operator).await, self.other.name);
    }

    /// As fast as it can; the other one does it.
    async fn completes(&self) {
        let faster = json!({ "spec": { "workers": { "maxDocumentsPerSecond": null } } });
        self.operator.patch(NAME, faster).await;
        self.operator.until_phase(NAME, "Completed", PATIENCE).await;
        assert_eq!(holder(&self.operator).await, self.other.name);
    }
}

/// An application that goes on writing, into two collections that it makes first; more slowly than the merge copies.
fn write(scene: &Scene) -> writer::Writer {
    let options = writer::Options {
        seed: 7,
        dimensions: 8,
        per_second: 3,
        first_collection: scene.first_id + 2_000,
        first_document: scene.first_id + 2_000,
        collections: 2,
        outages: writer::Outages::End,
    };
    let tables = Tables::existing(scene.pool(), Naming::Created);
    writer::Writer::start(scene.source().clone(), tables, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_stands_by_goes_on_when_the_leader_is_killed() {
    let mut pair = Pair::copying().await;
    pair.leader.process.kill().await.unwrap();
    pair.completes().await;
    assert_whole(&pair.operator.scene).await;
    pair.other.process.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_beyond_its_lease_does_no_harm_when_it_goes_on() {
    let mut pair = Pair::copying().await;
    let writer = write(&pair.operator.scene);
    pair.leader.signal("-STOP").await;
    pair.until_the_other_works_alone().await;
    // In the middle of what it was doing, which the other one does too.
    pair.leader.signal("-CONT").await;
    pair.operator.until_logged("leadership was lost", 1).await;
    pair.completes().await;
    let written = writer.stop().await.expect("the writer did its work");
    assert!(written.inserted > 0, "{written:?}");
    assert_whole(&pair.operator.scene).await;
    for controller in [&mut pair.leader, &mut pair.other] {
        controller.process.kill().await.unwrap();
    }
}
