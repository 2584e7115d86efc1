//! The harness itself, on its real parts: they come up and answer, survive being killed, and end when they should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use testenv::elasticsearch::{Access, Elasticsearch, Flavor, Options};
use testenv::kubernetes::Kubernetes;
use testenv::postgres::Postgres;

/// Waits for what can only be asked.
fn eventually(what: &str, question: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !question() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A process that nobody waited for yet is gone as well.
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn elasticsearch_answers_over_tls_to_who_has_the_password_only() {
    for flavor in Flavor::ALL {
        let server = Elasticsearch::shared(flavor).unwrap();
        assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
        assert_eq!(server.version().unwrap(), flavor.version());

        let stranger = Access { password: "wrong".to_owned(), ..(**server).clone() };
        assert_eq!(stranger.call("GET", "/", None).unwrap().0, 401);

        let untrusting = Access { ca: None, ..(**server).clone() };
        assert!(untrusting.call("GET", "/", None).is_err(), "a certificate without its CA was trusted");
    }
}

#[test]
fn elasticsearch_has_what_the_merge_needs() {
    for flavor in Flavor::ALL {
        let server = Elasticsearch::shared(flavor).unwrap();
        assert_eq!(server.ask("GET", "/_license", None).unwrap()["license"]["type"], "basic");
        let tokens = server
            .ask("POST", "/_analyze", Some(&json!({"analyzer": "french", "text": "les collections"})))
            .unwrap();
        assert_eq!(tokens["tokens"].as_array().unwrap().len(), 1);
        let settings = server.ask("GET", "/_cluster/settings?include_defaults&flat_settings", None).unwrap();
        assert_eq!(settings["defaults"]["cluster.max_shards_per_node"], "20000");
    }
}

#[test]
fn elasticsearch_that_was_killed_comes_back_with_its_data() {
    let server =
        Elasticsearch::start(Flavor::V8, &Options { heap: "512m".to_owned(), ..Options::default() }).unwrap();
    server.ask("PUT", "/kept/_doc/1?refresh=true", Some(&json!({"a": 1}))).unwrap();
    server.kill_9().unwrap();
    assert!(server.call("GET", "/", None).is_err());
    server.restart().unwrap();
    assert_eq!(server.ask("GET", "/kept/_doc/1", None).unwrap()["_source"]["a"], 1);

    let (pid, folder) = (server.pid().unwrap(), server.folder().unwrap().to_owned());
    drop(server);
    assert!(!runs(pid));
    assert!(!folder.exists());
}

#[test]
fn postgres_that_was_killed_comes_back_with_its_data() {
    let server = Postgres::start().unwrap();
    server.sql("CREATE TABLE kept (a int); INSERT INTO kept VALUES (1)").unwrap();
    server.kill_9().unwrap();
    assert!(server.sql("SELECT 1").is_err());
    server.restart().unwrap();
    assert_eq!(server.sql("SELECT a FROM kept").unwrap(), "1");
}

#[test]
fn postgres_that_is_paused_answers_again_when_it_goes_on() {
    let server = Postgres::start().unwrap();
    server.pause().unwrap();
    assert!(server.sql("SELECT 1").is_err());
    server.resume().unwrap();
    assert_eq!(server.sql("SELECT 1").unwrap(), "1");
}

#[test]
fn each_test_has_a_database_of_its_own_which_is_gone_afterwards() {
    let server = Postgres::shared().unwrap();
    let (one, two) = (server.database().unwrap(), server.database().unwrap());
    one.sql("CREATE TABLE only_here (a int)").unwrap();
    assert!(two.sql("SELECT * FROM only_here").is_err());
    let name = one.sql("SELECT current_database()").unwrap();
    drop(one);
    let is_there = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
    eventually("it is gone", || server.sql(&is_there).unwrap() == "0");
}

#[test]
fn kubernetes_answers_kubectl_and_refuses_what_rbac_does_not_allow() {
    let cluster = Kubernetes::shared().unwrap();
    assert!(cluster.kubectl(&["get", "namespaces"]).unwrap().contains("kube-system"));
    let token = cluster.kubectl(&["create", "token", "default"]).unwrap();
    let mut stranger = cluster.kubectl_command();
    // Its own kubeconfig would win over the token.
    let server = cluster.url.clone().unwrap_or_default();
    let Some(ca) = cluster.ca.clone() else { return };
    let output = stranger
        .env("KUBECONFIG", "/dev/null")
        .args(["--server", &server, "--token", token.trim(), "get", "secrets"])
        .arg(format!("--certificate-authority={}", ca.display()))
        .output()
        .unwrap();
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        reason.contains("Forbidden") && reason.contains("system:serviceaccount:default:default"),
        "{reason}"
    );
}

#[test]
fn kubernetes_whose_programs_were_killed_comes_back_with_its_objects() {
    let cluster = Kubernetes::start().unwrap();
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"]).unwrap();
    for program in ["etcd", "kube-apiserver", "kube-controller-manager"] {
        cluster.kill_9(program).unwrap();
    }
    assert!(cluster.kubectl(&["get", "configmaps", "--request-timeout=2s"]).is_err());
    for program in ["etcd", "kube-apiserver"] {
        cluster.launch_again(program).unwrap();
    }
    cluster.wait_for_apiserver().unwrap();
    cluster.restart("kube-controller-manager").unwrap();
    let kept = cluster.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]).unwrap();
    assert_eq!(kept, "1");
}

/// Not a test by itself: what `a_private_part_ends_with_its_process` starts and kills.
#[test]
#[ignore = "started by another test"]
fn holds_a_private_postgres() {
    let server = Postgres::start().unwrap();
    println!("\nholding {}", server.pid().unwrap());
    // Until the other test kills us.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_private_part_ends_with_its_process_even_if_that_is_killed() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "holds_a_private_postgres", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid: i32 = BufReader::new(holder.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("holding ").map(|pid| pid.parse().unwrap()))
        .expect("the other process must say the id");
    assert!(runs(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually("Postgres ends with its owner", || !runs(pid));
}

/// The program `testenv`, with run folders of its own.
struct Testenv(PathBuf);

impl Testenv {
    fn new() -> Self {
        Self(PathBuf::from(format!("/var/tmp/testenv-test-{}", std::process::id())))
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_testenv"));
        command.args(arguments).env("TESTENV_RUNS", &self.0).env_remove("TEST_POSTGRES_URL");
        command
    }
}

impl Drop for Testenv {
    fn drop(&mut self) {
        // Also when the test failed in between: what it started must end.
        for name in ["one", "two"] {
            let _ = self.command(&["down", "--name", name]).output();
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn environments_run_beside_each_other_and_leave_nothing_behind() {
    let testenv = Testenv::new();
    let up = |name: &'static str| -> Child {
        testenv.command(&["up", "--name", name, "--only", "postgres"]).stderr(Stdio::null()).spawn().unwrap()
    };
    for mut start in [up("one"), up("two")] {
        assert!(start.wait().unwrap().success());
    }
    // Again: stays as it is.
    let before = testenv.run(&["env", "--name", "one"]);
    testenv.run(&["up", "--name", "one", "--only", "postgres"]);
    assert_eq!(testenv.run(&["env", "--name", "one"]), before);
    assert_ne!(testenv.run(&["env", "--name", "two"]), before);

    let pids: Vec<i32> = testenv
        .run(&["status"])
        .lines()
        .filter_map(|line| line.rsplit_once("process ").map(|(_, pid)| pid.parse().unwrap()))
        .collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| runs(*pid)));

    testenv.run(&["down", "--name", "one"]);
    testenv.run(&["down", "--name", "two"]);
    assert!(!pids.iter().any(|pid| runs(*pid)));
    assert!(!Path::new(&testenv.0).join("one").exists());
    assert_eq!(testenv.run(&["status"]), "");
}

#[test]
fn a_server_of_the_environment_is_used_instead_of_a_new_one() {
    let testenv = Testenv(PathBuf::from(format!("/var/tmp/testenv-theirs-{}", std::process::id())));
    let theirs = &Postgres::shared().unwrap().url;
    let output = testenv
        .command(&["up", "--name", "one", "--only", "postgres"])
        .env("TEST_POSTGRES_URL", theirs)
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(testenv.run(&["env", "--name", "one"]).contains(theirs));
    assert!(!testenv.run(&["status"]).contains("process"));
}
