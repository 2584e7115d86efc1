//! Running the program on a scene: from a manifest, from the environment, with secrets as files; to its end, to a phase,
//! or until it is killed.

use std::process::{Output, Stdio};
use std::time::Duration;

use demo::checker::Verdict;
use serde::Deserialize;
use serde_json::{Value, json};
use testenv::elasticsearch;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::{DIMENSIONS, Scene};

/// A merge that must end by itself is given this long.
const PATIENCE: Duration = Duration::from_mins(5);

/// How the program ended and what it said.
#[derive(Debug)]
pub struct Run {
    pub success: bool,
    pub output: String,
}

impl Scene {
    pub async fn run(&self, manifest: &str) -> Run {
        self.command("run", manifest).await
    }

    /// Runs from the environment variables of the migration script alone.
    pub async fn run_from_env(&self, dimensions: usize) -> Run {
        let ca = |access: &elasticsearch::Access| access.ca.clone().expect("TLS").display().to_string();
        let mut command = program();
        command.args(["run", "--from-env"]).env_clear().envs([
            ("POSTGRES_URL", self.database_url.replace("postgresql://", "postgresql+asyncpg://")),
            ("SOURCE_ES_URL", self.source.url.clone()),
            ("SOURCE_ES_USERNAME", self.source.username.clone()),
            ("SOURCE_ES_PASSWORD", self.source.password.clone()),
            ("SOURCE_ES_CA_FILE", ca(&self.source)),
            ("DESTINATION_ES_URL", self.destination.url.clone()),
            ("DESTINATION_ES_USERNAME", self.destination.username.clone()),
            ("DESTINATION_ES_PASSWORD", self.destination.password.clone()),
            ("DESTINATION_ES_CA_FILE", ca(&self.destination)),
            ("DESTINATION_ES_INDEX_NAME", self.index.clone()),
            ("DESTINATION_ES_VECTOR_SIZE", dimensions.to_string()),
            ("DESTINATION_ES_NUMBER_OF_SHARDS", "1".to_owned()),
            ("DESTINATION_ES_NUMBER_OF_REPLICAS", "0".to_owned()),
            ("DESTINATION_ES_INDEX_LANGUAGE", "swedish".to_owned()),
        ]);
        ended(command.spawn().expect("the program starts")).await
    }

    /// Runs with the secrets of the manifest as files.
    pub async fn run_with_secret_files(&self, dimensions: usize) -> Run {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = self.manifest(dimensions);
        let (secrets, merge) = manifest.rsplit_once("---\n").expect("the merge comes last");
        for document in serde_yaml_ng::Deserializer::from_str(secrets) {
            let secret = Value::deserialize(document).expect("a secret");
            let secret_folder = folder.path().join(secret["metadata"]["name"].as_str().unwrap());
            std::fs::create_dir(&secret_folder).unwrap();
            for (key, value) in secret["stringData"].as_object().unwrap() {
                std::fs::write(secret_folder.join(key), value.as_str().unwrap()).unwrap();
            }
        }
        let file = folder.path().join("merge.yaml");
        std::fs::write(&file, merge).unwrap();
        let mut command = program();
        command.arg("run").arg("-f").arg(&file).arg("--secrets-dir").arg(folder.path());
        ended(command.spawn().expect("the program starts")).await
    }

    /// Runs to a positive verdict, with which the independent one must agree.
    pub async fn completes(&self, manifest: &str) -> Verdict {
        let run = self.run(manifest).await;
        assert!(run.success, "{run:?}");
        let verdict = self.check(DIMENSIONS).await;
        assert!(verdict.is_good(), "{verdict}");
        verdict
    }

    /// Runs a subcommand with the manifest on standard input.
    pub async fn command(&self, subcommand: &str, manifest: &str) -> Run {
        ended(start(subcommand, manifest).await).await
    }

    /// Runs a subcommand with further arguments and the manifest on standard input.
    pub async fn with_arguments(&self, arguments: &[&str], manifest: &str) -> Run {
        ended(start_with(arguments, manifest).await).await
    }

    /// Runs until the stored phase is that one, then ends it in order, as SIGTERM does.
    pub async fn run_until(&self, manifest: &str, phase: &'static str) {
        self.run_while(manifest, "SELECT phase <> $1 FROM es_index_merge.merge", phase).await;
    }

    /// Runs while a question to the database, with one text, is answered by yes or not at all.
    pub async fn run_while(&self, manifest: &str, question: &'static str, text: &'static str) {
        let mut child = start("run", manifest).await;
        let reached = async {
            loop {
                let answer: Result<bool, sqlx::Error> =
                    sqlx::query_scalar(question).bind(text).fetch_one(&self.pool).await;
                // Before the schema is there, there is no answer.
                if answer.is_ok_and(|goes_on| !goes_on) {
                    return;
                }
                assert_eq!(child.try_wait().unwrap(), None, "it ended too early");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("it gets there");
        let pid = child.id().expect("it runs").to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        let run = ended(child).await;
        assert!(run.output.contains("stopped at a checkpoint"), "{run:?}");
    }

    /// Kills it with SIGKILL after `lifetime`; false if it had ended well before.
    pub async fn run_and_kill(&self, manifest: &str, lifetime: Duration) -> bool {
        let mut child = start("run", manifest).await;
        if let Ok(status) = tokio::time::timeout(lifetime, child.wait()).await {
            let output = Run::from(child.wait_with_output().await.unwrap());
            assert!(status.unwrap().success(), "{output:?}");
            return false;
        }
        child.kill().await.expect("it can be killed");
        true
    }

    /// Starts a run and kills it with SIGKILL once the destination's setting has that value; panics if it never does.
    pub async fn run_until_setting(&self, manifest: &str, setting: &str, value: &str) {
        let mut child = start("run", manifest).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.setting(setting).await != json!(value) {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {setting} was {value}");
            assert!(tokio::time::Instant::now() < deadline, "{setting} never was {value}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        child.kill().await.expect("it can be killed");
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Run { success: output.status.success(), output: text(&output.stdout) + &text(&output.stderr) }
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_es-index-merge"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub async fn ended(child: Child) -> Run {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("it ends in time")
        .expect("it can be waited for");
    let run = Run::from(output);
    eprintln!("{}", run.output);
    run
}

/// Starts the program with the manifest on standard input.
pub async fn start(subcommand: &str, manifest: &str) -> Child {
    start_with(&[subcommand], manifest).await
}

async fn start_with(arguments: &[&str], manifest: &str) -> Child {
    let mut child = program()
        .args(arguments)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(manifest.as_bytes()).await.expect("it reads the manifest");
    drop(input);
    child
}
