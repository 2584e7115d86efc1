//! Our side: `es-index-merge run` as a user runs it, with the times of its own phases.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use testenv::postgres::{Database, Postgres};

use crate::corpus::Corpus;
use crate::destination;
use crate::process::{Cpu, peak_memory};
use crate::server::Server;

/// A phase, how long it took, and what our process used meanwhile.
#[derive(Debug, Clone)]
pub struct PhaseTime {
    /// Its name.
    pub phase: String,
    /// How long it lasted.
    pub took: Duration,
    /// Processor time of our process.
    pub cpu: Cpu,
}

/// What a run of the program was like.
#[derive(Debug, Clone)]
pub struct Ran {
    /// In the order in which they came.
    pub phases: Vec<PhaseTime>,
    /// Of the whole process.
    pub cpu: Cpu,
    /// Most memory that it held, in bytes.
    pub memory: u64,
}

impl Ran {
    /// The time of a phase, over all of its turns.
    pub fn of(&self, phase: &str) -> Duration {
        self.phases.iter().filter(|time| time.phase == phase).map(|time| time.took).sum()
    }

    /// Processor time of a phase, over all of its turns.
    pub fn cpu_of(&self, phase: &str) -> Cpu {
        self.phases.iter().filter(|time| time.phase == phase).fold(Cpu::default(), |sum, time| Cpu {
            user: sum.user + time.cpu.user,
            system: sum.system + time.cpu.system,
        })
    }
}

/// How the merge is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// `Full` or `Counts`.
    pub verification: &'static str,
    /// Further lines of `spec`, indented.
    pub more: String,
}

/// The application's database of a corpus: new for each run, as is our state in it.
pub fn database(postgres: &Postgres, corpus: &Corpus) -> Result<Database> {
    let database = postgres.database()?;
    let mut statements = String::from(
        "CREATE TABLE collection (id integer PRIMARY KEY, name text); \
         CREATE TABLE document (id integer PRIMARY KEY, collection_id integer, name text, created timestamptz); ",
    );
    for collection in &corpus.collections {
        let documents = Corpus::documents(collection);
        let (id, first, last) = (collection.id, documents.start(), documents.end());
        let _ = write!(
            statements,
            "INSERT INTO collection VALUES ({id}, 'collection {id}'); INSERT INTO document \
             SELECT d, {id}, 'document ' || d || '.pdf', now() FROM generate_series({first}, {last}) AS d; "
        );
    }
    // In groups, as an argument has a greatest length.
    for group in statements.split_inclusive("; ").collect::<Vec<_>>().chunks(500) {
        database.sql(&group.concat())?;
    }
    Ok(database)
}

/// The manifest of the merge.
pub fn manifest(
    source: &str,
    destination: &str,
    servers: (&Server, &Server),
    database: &Database,
    dimensions: usize,
    ask: &Ask,
) -> String {
    let secret = |name: &str, server: &Server| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{username: \"{}\", password: \"{}\"}}\n---\n",
            server.access.username, server.access.password
        )
    };
    format!(
        "{}{}apiVersion: v1\nkind: Secret\nmetadata: {{name: postgres}}\nstringData: {{url: \"{}\"}}\n---\n\
         apiVersion: indexmerge.dev/v1alpha1\nkind: EsIndexMerge\nmetadata: {{name: bench}}\nspec:\n\
         \x20 collections: {{postgres: {{urlSecretRef: {{name: postgres, key: url}}}}}}\n\
         \x20 source: {{url: \"{source}\", credentialsSecretRef: {{name: source}}}}\n\
         \x20 destination:\n    url: \"{destination}\"\n    credentialsSecretRef: {{name: destination}}\n\
         \x20   index: {{name: {}, numberOfShards: {}, numberOfReplicas: 0, language: french, vectorSize: {dimensions}}}\n\
         \x20 contract: OpenGateLLM\n  verification: {{mode: {}}}\n{}",
        secret("source", servers.0),
        secret("destination", servers.1),
        database.url,
        destination::NAME,
        destination::SHARDS,
        ask.verification,
        ask.more,
    )
}

/// The release binary beside this one.
pub fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("es-index-merge");
    ensure!(program.exists(), "{} is not built: cargo build --release --bins", program.display());
    Ok(program)
}

/// Starts the program with a manifest on its standard input.
pub fn start(manifest: &str) -> Result<Child> {
    let mut child = Command::new(program()?)
        .args(["run", "-f", "-"])
        .env("RUST_LOG", std::env::var("BENCH_LOG").unwrap_or_else(|_| "info,sqlx=warn".to_owned()))
        .env("LOG_FORMAT", "json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the program does not start")?;
    child.stdin.take().context("a pipe")?.write_all(manifest.as_bytes())?;
    Ok(child)
}

/// Has `perf` look at a process until it ends, where `BENCH_PERF` names a file.
fn profiled(pid: i32) -> Result<Option<Child>> {
    let Some(file) = std::env::var_os("BENCH_PERF") else { return Ok(None) };
    Command::new("perf")
        .args(["record", "-q", "-F", "299", "--call-graph", "dwarf,8192", "-p", &pid.to_string(), "-o"])
        .arg(file)
        .spawn()
        .map(Some)
        .context("BENCH_PERF is set, and perf does not start")
}

/// Runs the program to its end. Anything but a positive verdict is an error.
pub fn run(manifest: &str) -> Result<Ran> {
    let begin = Instant::now();
    let mut child = start(manifest)?;
    let pid = i32::try_from(child.id())?;
    let perf = profiled(pid)?;
    let mut phases = Vec::new();
    let mut since = (begin, Cpu::default(), "Starting".to_owned());
    let mut said = String::new();
    let stderr = BufReader::new(child.stderr.take().context("a pipe")?);
    let memory = std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(now) = peak_memory(pid) {
            peak = now;
            std::thread::sleep(Duration::from_millis(50));
        }
        peak
    });
    for line in stderr.lines() {
        let line = line?;
        if std::env::var_os("BENCH_SHOW").is_some() {
            eprintln!("  [{:7.3}] {line}", begin.elapsed().as_secs_f64());
        }
        let entered = serde_json::from_str::<Value>(&line)
            .ok()
            .filter(|event| event["message"] == "phase")
            .and_then(|event| event["to"].as_str().map(str::to_owned));
        if let Some(to) = entered {
            let (now, cpu) = (Instant::now(), Cpu::of(pid).unwrap_or(since.1));
            phases.push(PhaseTime { phase: since.2, took: now - since.0, cpu: cpu.since(since.1) });
            since = (now, cpu, to);
        } else {
            said.push_str(&line);
            said.push('\n');
        }
    }
    // Ended, but not waited for: what it used can still be read.
    let own = rustix::process::Pid::from_raw(pid).context("a process id")?;
    rustix::process::waitid(
        rustix::process::WaitId::Pid(own),
        rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
    )?;
    let (took, cpu) = (begin.elapsed(), Cpu::of(pid)?);
    let status = child.wait()?;
    phases.push(PhaseTime {
        phase: since.2,
        took: took.saturating_sub(since.0 - begin),
        cpu: cpu.since(since.1),
    });
    let memory = memory.join().unwrap_or(0);
    if let Some(mut perf) = perf {
        let ended = perf.wait()?;
        ensure!(ended.success(), "perf ended with {ended}");
    }
    if !status.success() {
        bail!("the merge ended with {status}: {said}");
    }
    Ok(Ran { phases, cpu, memory })
}
