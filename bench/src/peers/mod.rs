//! What people would use otherwise, each at its best setting.

pub mod limit;
pub mod reindex;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::corpus::Corpus;
use crate::destination::{self, NAME};
use crate::server::Server;

const SCRIPT: &str = include_str!("script.py");
const TRANSFORM: &str = include_str!("elasticdump.js");
/// Releases that were measured.
const ELASTICDUMP: &str = "elasticdump@6.125.1";
const CLIENT: &str = "elasticsearch==9.3.0";

/// Where peers are installed: outside of the checkout, once.
fn folder(name: &str) -> Result<PathBuf> {
    let folder = testenv::places::cache()?.join("bench").join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

async fn command(program: &Path, arguments: &[&str], input: Option<&str>) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("NODE_OPTIONS", "--max-old-space-size=4096")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} does not start", program.display()))?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    if let Some(input) = input {
        stdin.write_all(input.as_bytes()).await?;
    }
    drop(stdin);
    let ended = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    let end: String = said.chars().rev().take(2_000).collect::<Vec<_>>().into_iter().rev().collect();
    ensure!(ended.status.success(), "{} ended with {}: {end}", program.display(), ended.status);
    Ok(())
}

/// elasticdump, installed by npm.
pub struct Elasticdump(PathBuf);

impl Elasticdump {
    /// Installs it, once.
    pub async fn install() -> Result<Self> {
        let folder = folder("elasticdump")?;
        let program = folder.join("node_modules/.bin/elasticdump");
        if !program.exists() {
            let prefix = folder.display().to_string();
            let arguments = ["install", "--no-audit", "--no-fund", "--prefix", &prefix, ELASTICDUMP];
            command(Path::new("npm"), &arguments, None).await?;
        }
        std::fs::write(folder.join("transform.js"), TRANSFORM)?;
        Ok(Self(program))
    }

    /// Copies everything by one process, as its user would for many indices.
    pub async fn run(&self, source: &Server, destination: &Server, corpus: &Corpus) -> Result<()> {
        let options = destination::index_options(destination, corpus.dimensions);
        destination::create(destination, corpus.dimensions, &options).await?;
        let from = match corpus.collections.as_slice() {
            [only] => only.id.to_string(),
            _ => format!("*,-.*,-{NAME}"),
        };
        let transform = folder("elasticdump")?.join("transform.js");
        let mut arguments = vec![
            format!("--input={}/{from}", source.url_with_login()),
            format!("--output={}/{NAME}", destination.url_with_login()),
            "--type=data".to_owned(),
            // The best of 100 (its default), 500, 1000 and 2000.
            "--limit=1000".to_owned(),
            "--noRefresh".to_owned(),
            "--quiet".to_owned(),
            format!("--transform=@{}", transform.display()),
        ];
        if source.hides_vectors() {
            // By itself it would lose every embedding here.
            let body = json!({"query": {"match_all": {}}, "_source": {"exclude_vectors": false}});
            arguments.push(format!("--searchBody={body}"));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        command(&self.0, &arguments, None).await
    }
}

/// The migration script with the Python client, installed by pip.
pub struct Script {
    python: PathBuf,
    file: PathBuf,
}

impl Script {
    /// Installs the client, once.
    pub async fn install() -> Result<Self> {
        let folder = folder("script")?;
        let python = folder.join("bin/python");
        if !folder.join("bin/pip").exists() {
            command(Path::new("python3"), &["-m", "venv", &folder.display().to_string()], None).await?;
        }
        command(&folder.join("bin/pip"), &["install", "--quiet", CLIENT], None).await?;
        let file = folder.join("script.py");
        std::fs::write(&file, SCRIPT)?;
        Ok(Self { python, file })
    }

    /// Copies everything. `page` is 10 000 in the script; a server with little heap refuses that.
    pub async fn run(&self, source: &Server, destination: &Server, corpus: &Corpus, page: u32) -> Result<()> {
        let options = destination::index_options(destination, corpus.dimensions);
        destination::create(destination, corpus.dimensions, &options).await?;
        let login = |server: &Server| json!({"url": server.access.url, "username": server.access.username, "password": server.access.password});
        let settings = json!({
            "source": login(source),
            "destination": login(destination),
            "index": NAME,
            "page": page,
            "hidden": source.hides_vectors(),
            "collections": corpus.collections.iter().map(|collection| collection.id).collect::<Vec<u64>>(),
        });
        let file = self.file.display().to_string();
        command(&self.python, &[&file], Some(&settings.to_string())).await
    }
}
