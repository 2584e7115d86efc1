//! The program, as a process: `es-index-merge run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use testenv::places;
use testenv::process::{Launch, Process};
use testenv::run::Run;

/// How often a file that a process writes is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// One process of a merge. It ends when this is dropped, or when this process dies.
#[derive(Debug)]
pub struct Program {
    process: Process,
    manifest: PathBuf,
    log: PathBuf,
    _run: Arc<Run>,
}

impl Program {
    /// Starts `run` with that manifest.
    pub fn start(binary: &Path, name: &str, manifest: &str) -> Result<Self> {
        let run = Run::private()?;
        let (file, log) = (run.folder().join("merge.yaml"), run.folder().join("output.log"));
        places::write_private(&file, manifest.as_bytes())?;
        let launch = Launch {
            name: name.to_owned(),
            program: binary.to_owned(),
            arguments: vec!["run".to_owned(), "-f".to_owned(), file.display().to_string()],
            environment: [("RUST_LOG".to_owned(), "warn,es_index_merge=info".to_owned())].into(),
            folder: run.folder().to_owned(),
            user: None,
            log: log.clone(),
            interrupt: false,
        };
        let process = Process::start(launch, run.folder(), run.owned())?;
        Ok(Self { process, manifest: file, log, _run: run })
    }

    /// The manifest of its next start.
    pub fn set_manifest(&self, manifest: &str) -> Result<()> {
        places::write_private(&self.manifest, manifest.as_bytes())
    }

    /// Kills it, as the kernel does when there is no memory left.
    pub fn kill_9(&self) -> Result<()> {
        self.process.kill_9()
    }

    /// Ends it in order: at a checkpoint.
    pub fn stop(&self) -> Result<()> {
        self.process.stop()
    }

    /// Starts it again.
    pub fn restart(&self) -> Result<()> {
        self.process.restart()
    }

    /// SIGSTOP: it does nothing, its connections stay open, its leases expire.
    pub fn pause(&self) -> Result<()> {
        self.process.pause()
    }

    /// SIGCONT: it goes on in the middle of what it was doing.
    pub fn resume(&self) -> Result<()> {
        self.process.resume()
    }

    /// Whether it runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.pid().is_some()
    }

    /// How it ended by itself within `limit`; `None` while it runs, or if it was killed from here.
    pub fn ended(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        self.process.ended(limit)
    }

    /// What it has said so far, over all of its starts.
    #[must_use]
    pub fn output(&self) -> String {
        // Before the first line there is no file.
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until it has said that.
    pub fn said(&self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.output().contains(text) {
            if Instant::now() > deadline {
                bail!("it did not say {text:?} within {} s, but:\n{}", limit.as_secs(), self.output());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        self.ended(limit)?
            .with_context(|| format!("it did not end within {} s:\n{}", limit.as_secs(), self.output()))
    }
}
