//! The operator beside a scene: a namespace, a service account with the rights that are shipped, the program as a
//! process that knows nothing but that account's token.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use es_index_merge::api::{EsIndexMerge, EsIndexMergeStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use testenv::kubernetes::Access;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::kubernetes;
use crate::probes;
use crate::scene::{Flavor, Scene};

/// What is expected soon is given this long; much more than a loaded machine needs.
pub const SOON: Duration = Duration::from_mins(1);
/// A merge that must end by itself is given this long.
pub const PATIENCE: Duration = Duration::from_mins(5);
/// The resource in the manifest of a scene.
pub const NAME: &str = "first";

/// The lease that `deploy/rbac.yaml` allows.
pub const LEASE: &str = "es-index-merge";

/// The service account in `deploy/rbac.yaml`.
const ACCOUNT: &str = "es-index-merge";

/// What the units of the copy say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    pub documents: i64,
    /// Units that a worker holds.
    pub leased: i64,
}

/// One operator for one scene. What it made in the cluster goes with it.
pub struct Operator {
    pub scene: Scene,
    /// Where the merges are.
    pub namespace: String,
    /// Where the controller has its account and its lease.
    home: String,
    client: Client,
    access: Access,
    controller: Option<Child>,
    folder: TempDir,
}

impl Operator {
    /// Namespace and rights; the controller is not started yet.
    pub async fn new(source: Flavor, destination: Flavor) -> Operator {
        let mut scene = Scene::new(source, destination).await;
        scene.first_id = next_range();
        scene.index = format!("operated-{}", scene.first_id);
        let home = format!("operator-{}", uuid::Uuid::new_v4());
        let operator = Operator {
            namespace: home.clone(),
            home,
            client: kubernetes::client_with_definition().await,
            access: kubernetes::access().await,
            controller: None,
            folder: tempfile::tempdir().unwrap(),
            scene,
        };
        operator.install_rights().await;
        operator.write_kubeconfig().await;
        operator
    }

    /// [`Operator::new`], with a controller that runs.
    pub async fn running(source: Flavor, destination: Flavor) -> Operator {
        let mut operator = Operator::new(source, destination).await;
        operator.start();
        operator
    }

    /// From now on merges are in a namespace apart from that of the controller.
    pub async fn move_merges(&mut self) {
        self.namespace = format!("merges-{}", uuid::Uuid::new_v4());
        self.kubectl(&["create", "namespace", &self.namespace], "").await;
    }

    /// Starts the program, as its Deployment would.
    pub fn start(&mut self) {
        self.start_with("info", &["--leader-election", "false"]);
    }

    /// Starts it with that much in its log, and with these arguments.
    pub fn start_with(&mut self, level: &str, arguments: &[&str]) {
        let child = self.spawn(level, arguments);
        self.controller = Some(child);
    }

    /// One of several controllers, for the test to end.
    pub fn spawn(&self, level: &str, arguments: &[&str]) -> Child {
        let log = File::options().append(true).create(true).open(self.log()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_es-index-merge"));
        for name in [
            "WATCH_NAMESPACES",
            "LISTEN_ADDRESS",
            "LEADER_ELECTION",
            "LEASE_NAME",
            "POD_NAMESPACE",
            "POD_NAME",
        ] {
            command.env_remove(name);
        }
        command
            .args(["controller", "--namespaces", &self.namespace])
            // Port 0: one that is free.
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .env("RUST_LOG", level)
            .env("KUBECONFIG", self.kubeconfig())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the controller starts")
    }

    /// The process of the controller.
    pub fn pid(&self) -> u32 {
        self.controller.as_ref().and_then(Child::id).expect("a controller")
    }

    /// SIGKILL.
    pub async fn kill_9(&mut self) {
        let mut controller = self.controller.take().expect("a controller");
        assert_eq!(controller.try_wait().unwrap(), None, "the controller ended by itself");
        controller.kill().await.unwrap();
    }

    /// What every controller of this test has logged so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Waits until the controllers of this test have said that so often.
    pub async fn until_logged(&self, text: &str, times: usize) {
        let logging = async {
            while self.log_text().matches(text).count() < times {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let logged = tokio::time::timeout(SOON, logging).await;
        assert!(logged.is_ok(), "{text:?} is not in the log {times} times");
    }

    /// What the controller that was started last answers at that path, head and all.
    pub async fn page(&self, path: &str) -> String {
        let log = self.log_text();
        let serving = log.lines().rfind(|line| line.contains("serving /livez")).expect("it serves");
        let (_, address) = serving.rsplit_once("address=").expect("where it serves");
        probes::get(address, path).await
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn merges(&self) -> Api<EsIndexMerge> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn get(&self, name: &str) -> EsIndexMerge {
        self.merges().get(name).await.unwrap()
    }

    pub async fn status(&self, name: &str) -> EsIndexMergeStatus {
        self.get(name).await.status.unwrap_or_default()
    }

    /// `kubectl apply` in the namespace of the test.
    pub async fn apply(&self, manifest: &str) {
        self.kubectl(&["apply", "--server-side", "-n", &self.namespace, "-f", "-"], manifest).await;
    }

    /// Runs kubectl as an administrator; gives what it prints.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let mut child = Command::from(self.access.kubectl_command())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl starts");
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(input.as_bytes()).await.unwrap();
        drop(pipe);
        let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let output = ended.expect("kubectl ends").unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {}: {errors}", arguments.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The events of that reason.
    pub async fn events(&self, reason: &str) -> Vec<Value> {
        let all = self.kubectl(&["get", "events", "-n", &self.namespace, "-o", "json"], "").await;
        let all: Value = serde_json::from_str(&all).unwrap();
        let events = all["items"].as_array().unwrap().iter();
        events.filter(|event| event["reason"] == reason).cloned().collect()
    }

    pub async fn patch(&self, name: &str, patch: Value) {
        self.merges().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn delete(&self, name: &str) {
        self.merges().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until the resource is gone, finalizer and all.
    pub async fn until_gone(&self, name: &str, limit: Duration) {
        let gone = |merge: Option<&EsIndexMerge>| merge.is_none();
        let Ok(seen) = tokio::time::timeout(limit, await_condition(self.merges(), name, gone)).await else {
            panic!("{name} is still there after {limit:?}: {:#?}", self.status(name).await)
        };
        seen.unwrap();
    }

    /// Waits until the status is as wanted.
    pub async fn until(
        &self,
        name: &str,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&EsIndexMergeStatus) -> bool,
    ) -> EsIndexMerge {
        let holds =
            |merge: Option<&EsIndexMerge>| merge.and_then(|merge| merge.status.as_ref()).is_some_and(&wanted);
        let Ok(seen) = tokio::time::timeout(limit, await_condition(self.merges(), name, holds)).await else {
            panic!("not {what} after {limit:?}: {:#?}", self.status(name).await)
        };
        seen.unwrap().unwrap()
    }

    pub async fn until_phase(&self, name: &str, phase: &str, limit: Duration) -> EsIndexMerge {
        self.until(name, limit, phase, |status| status.phase.as_deref() == Some(phase)).await
    }

    pub async fn until_reason(&self, name: &str, reason: &str, limit: Duration) -> EsIndexMerge {
        self.until(name, limit, reason, |status| {
            status.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == reason)
        })
        .await
    }

    /// How far the copy is, according to the state database.
    pub async fn copied(&self) -> Copied {
        let mut connection = self.database().await;
        let (documents, leased) = sqlx::query_as(
            "SELECT sum(documents)::bigint, count(*) FILTER (WHERE worker IS NOT NULL)
             FROM es_index_merge.unit WHERE kind = 'copy'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        Copied { documents, leased }
    }

    /// Until a pass was taken a moment ago: with a `maxLag` of 90 s the next one comes 30 s after it.
    pub async fn after_a_pass(&self) {
        let mut connection = self.database().await;
        let is_young =
            "SELECT (memo->>'pass_taken_at')::timestamptz > now() - interval '5 s' FROM es_index_merge.merge";
        let taken = async {
            while !sqlx::query_scalar::<_, bool>(is_young).fetch_one(&mut connection).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), taken).await.expect("a pass is taken");
    }

    /// The phase according to the state database.
    pub async fn stored_phase(&self) -> String {
        let mut connection = self.database().await;
        sqlx::query_scalar("SELECT phase FROM es_index_merge.merge").fetch_one(&mut connection).await.unwrap()
    }

    pub async fn database(&self) -> PgConnection {
        let manifest = self.scene.manifest(8);
        let postgres = serde_yaml_ng::Deserializer::from_str(&manifest).next().unwrap();
        let postgres = Value::deserialize(postgres).unwrap();
        PgConnection::connect(postgres["stringData"]["url"].as_str().unwrap()).await.unwrap()
    }

    /// The objects of `deploy/rbac.yaml`, but in the controller's namespace and, where they have none, under a name
    /// that has the namespace in it.
    async fn install_rights(&self) {
        let shipped = include_str!("../../deploy/rbac.yaml");
        let mut items =
            vec![json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.home } })];
        for document in serde_yaml_ng::Deserializer::from_str(shipped) {
            let mut object = Value::deserialize(document).unwrap();
            self.move_here(&mut object);
            items.push(object);
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string();
        self.kubectl(&["apply", "--server-side", "-f", "-"], &list).await;
    }

    fn move_here(&self, object: &mut Value) {
        let namespaced = object["metadata"]["namespace"].is_string();
        if namespaced {
            object["metadata"]["namespace"] = json!(self.home);
        } else {
            object["metadata"]["name"] =
                json!(self.cluster_wide(object["metadata"]["name"].as_str().unwrap()));
        }
        if object["roleRef"]["kind"] == "ClusterRole" {
            object["roleRef"]["name"] = json!(self.cluster_wide(object["roleRef"]["name"].as_str().unwrap()));
        }
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            subject["namespace"] = json!(self.home);
        }
    }

    fn cluster_wide(&self, name: &str) -> String {
        format!("{name}-{}", self.home)
    }

    /// The cluster's address and the token of the service account, nothing else.
    async fn write_kubeconfig(&self) {
        let token = self.kubectl(&["create", "token", ACCOUNT, "-n", &self.home], "").await;
        let view =
            self.kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"], "").await;
        let view: Value = serde_json::from_str(&view).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "controller",
            "clusters": [{ "name": "cluster", "cluster": view["clusters"][0]["cluster"] }],
            "users": [{ "name": "controller", "user": { "token": token.trim() } }],
            "contexts": [{
                "name": "controller",
                "context": { "cluster": "cluster", "user": "controller", "namespace": self.home }
            }],
        });
        testenv::places::write_private(&self.kubeconfig(), config.to_string().as_bytes()).unwrap();
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("controller.log")
    }

    /// Best effort: a test that fails is not to fail twice.
    fn clean_up(&self) {
        let kubectl = |arguments: &[&str]| {
            if let Err(error) = self.access.kubectl(arguments) {
                eprintln!("left behind: {error}");
            }
        };
        let namespace = self.namespace.as_str();
        let merges = self.access.kubectl(&["get", "esim", "-n", namespace, "-o", "name"]).unwrap_or_default();
        for merge in merges.lines() {
            // Nobody is left to take the finalizer off.
            let none = r#"{"metadata":{"finalizers":null}}"#;
            kubectl(&["patch", merge, "-n", namespace, "--type=merge", "-p", none]);
        }
        for made in BTreeSet::from([namespace, self.home.as_str()]) {
            kubectl(&["delete", "namespace", made, "--wait=false", "--ignore-not-found"]);
        }
        let name = self.cluster_wide(ACCOUNT);
        kubectl(&["delete", "clusterrole,clusterrolebinding", &name, "--ignore-not-found"]);
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(controller) = &mut self.controller
            && let Err(error) = controller.start_kill()
        {
            eprintln!("the controller cannot be ended: {error}");
        }
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(80)..];
            eprintln!("the controller's log ended with:\n{}", last.join("\n"));
        }
        self.clean_up();
    }
}

/// Ids of one scene, far from those of `tests/merge`: both may use the same servers at the same time.
fn next_range() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let start = 2_000_000 + i64::from(std::process::id() % 25) * 40_000;
    start + NEXT.fetch_add(4_000, Ordering::Relaxed)
}
