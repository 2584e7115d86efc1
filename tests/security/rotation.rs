//! Secrets that are replaced, or were never right.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use demo::cluster::Cluster;
use demo::seed::odd;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::folder::Folder;
use crate::scene::{Flavor, Scene};
use crate::{odd_data, with_secret};

const PATIENCE: Duration = Duration::from_mins(4);

/// A run with secrets as files, in the background.
pub struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    listening: JoinHandle<()>,
}

/// Starts the program with these secrets and that much in its log.
pub fn start(folder: &Folder, level: &str) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_es-index-merge"))
        .args(folder.arguments())
        .env("RUST_LOG", level)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let said = Arc::new(Mutex::new(String::new()));
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let heard = Arc::clone(&said);
    let listening = tokio::spawn(async move {
        while let Some(line) = lines.next_line().await.expect("text") {
            let mut heard = heard.lock().unwrap();
            heard.push_str(&line);
            heard.push('\n');
        }
    });
    Running { child, said, listening }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Waits until it says that.
    pub async fn until_it_says(&self, part: &str) {
        let heard = async {
            while !self.said.lock().unwrap().contains(part) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let heard = tokio::time::timeout(PATIENCE, heard).await;
        assert!(heard.is_ok(), "it does not say {part}: {}", self.said.lock().unwrap());
    }

    /// Whether its verdict was positive, and all that it said.
    pub async fn ended(self) -> (bool, String) {
        let output = tokio::time::timeout(PATIENCE, self.child.wait_with_output()).await.expect("it ends");
        self.listening.await.unwrap();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &self.said.lock().unwrap();
        (output.status.success(), text)
    }
}

/// Waits until the database answers that question with yes.
pub async fn until(scene: &Scene, what: &str, question: &'static str) {
    let asked = async {
        loop {
            let answer: Result<bool, sqlx::Error> =
                sqlx::query_scalar(question).fetch_one(scene.pool()).await;
            // Before the schema is there, there is no answer.
            if answer.is_ok_and(|answer| answer) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("not {what}"));
}

/// A user of that server who may do everything.
pub async fn user(cluster: &Cluster, name: &str, password: &str) {
    let body = json!({"password": password, "roles": ["superuser"]});
    cluster.put(&format!("/_security/user/{name}"), &body).await.expect("a user");
}

pub async fn api_key(cluster: &Cluster, expiration: &str) -> (String, String) {
    let body = json!({"name": "test of rotation", "expiration": expiration});
    let key = cluster.post("/_security/api_key", &body).await.expect("a key");
    let text = |part: &str| key[part].as_str().unwrap().to_owned();
    (text("id"), text("encoded"))
}

/// Slow enough to be met in the middle.
pub fn slowly(manifest: &str) -> String {
    let slow = "contract: OpenGateLLM\n  workers: {maxDocumentsPerSecond: 100, concurrency: 1, maxBytesInFlight: 1Mi}";
    manifest.replace("contract: OpenGateLLM", slow)
}

pub const COPYING: &str =
    "SELECT coalesce(sum(documents), 0) > 0 FROM es_index_merge.unit WHERE kind = 'copy'";

#[tokio::test(flavor = "multi_thread")]
async fn a_password_and_a_key_that_are_replaced_are_taken_while_it_runs() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    scene.fill(&odd::Options { documents: 20, chunks: 40, ..odd_data(&scene) }).await;
    let name = format!("rotated-{}", scene.first_id);
    user(scene.source(), &name, "the first password").await;
    let (first, encoded) = api_key(scene.destination(), "1h").await;
    let manifest = slowly(&scene.manifest(8));
    let folder = Folder::of(&manifest);
    folder.replace("source", "username", &name);
    folder.replace("source", "password", "the first password\n");
    folder.remove("destination", "username");
    folder.remove("destination", "password");
    folder.replace("destination", "api_key", &format!("{encoded}\n"));
    let running = start(&folder, "warn");
    until(&scene, "copying", COPYING).await;

    let new = json!({"password": "the second password"});
    scene.source().post(&format!("/_security/user/{name}/_password"), &new).await.unwrap();
    running.until_it_says("spec.source: ").await;
    folder.replace("source", "password", "the second password");

    let bytes = serde_json::to_vec(&json!({"ids": [first]})).unwrap().into();
    let delete = "DELETE".parse().unwrap();
    let path = "/_security/api_key";
    let answer = scene.destination().send(delete, path, "application/json", Some(bytes)).await.unwrap();
    assert!(answer.is_success());
    running.until_it_says("spec.destination: ").await;
    let (_, encoded) = api_key(scene.destination(), "1h").await;
    folder.replace("destination", "api_key", &encoded);

    let (success, output) = running.ended().await;
    assert!(success, "{output}");
    assert!(output.contains("HTTP 401") && output.contains("check the username and password"), "{output}");
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
    let path = format!("/_security/user/{name}");
    scene.source().send("DELETE".parse().unwrap(), &path, "", None).await.unwrap();
}

/// The problems that `plan` names.
async fn problems(scene: &Scene, manifest: &str) -> String {
    let plan = scene.command("plan", manifest).await;
    assert!(!plan.success, "{plan:?}");
    plan.output
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_expired_is_named_with_the_remedy() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    scene.fill(&odd_data(&scene)).await;
    let (id, encoded) = api_key(scene.source(), "1s").await;
    let expired = async {
        loop {
            let answer = scene.source().get(&format!("/_security/api_key?id={id}")).await.unwrap();
            let expiration = answer["api_keys"][0]["expiration"].as_i64().unwrap();
            if jiff::Timestamp::now().as_millisecond() > expiration + 500 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    expired.await;
    let folder = Folder::of(&scene.manifest(8));
    let ca = std::fs::read_to_string(folder.path().join("source/ca.crt")).unwrap();
    let manifest = with_secret(&scene.manifest(8), "source", &[("api_key", &encoded), ("ca.crt", &ca)]);
    let told = problems(&scene, &manifest).await;
    for part in ["spec.source: ", "HTTP 401", "expired", "the API key and its expiry"] {
        assert!(told.contains(part), "{part} is not told: {told}");
    }
    assert!(!told.contains(&encoded), "{told}");
}

/// The keys of a secret, and what is told of them.
type Case<'a> = (&'a [(&'a str, &'a str)], [&'a str; 2]);

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_authority_half_a_certificate_and_none_at_all_are_named_with_the_remedy() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    scene.fill(&odd_data(&scene)).await;
    let other = include_str!("../elastic/other-ca.pem");
    let basic = [("username", "nobody"), ("password", "nothing")];
    let cases: [Case<'_>; 5] = [
        (&[basic[0], basic[1], ("ca.crt", other)], ["UnknownIssuer", "in caSecretRef"]),
        (
            &[basic[0], basic[1], ("ca.crt", "no certificate")],
            ["no certificate in PEM form", "in caSecretRef"],
        ),
        (
            &[("tls.crt", other), ("ca.crt", other)],
            ["only one of the keys tls.crt and tls.key", "add the other"],
        ),
        (&[("username", "nobody"), ("ca.crt", other)], ["neither the keys", "add them"]),
        (
            &[("tls.crt", other), ("tls.key", other), ("ca.crt", other)],
            ["tls.crt and tls.key", "cannot be used"],
        ),
    ];
    for (keys, parts) in cases {
        let told = problems(&scene, &with_secret(&scene.manifest(8), "source", keys)).await;
        for part in parts.into_iter().chain(["spec.source"]) {
            assert!(told.contains(part), "{part} is not told of {keys:?}: {told}");
        }
    }
    let _: Value = scene.source().get("/").await.unwrap();
}
