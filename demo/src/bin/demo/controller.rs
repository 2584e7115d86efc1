//! The controller as a process of this machine, with the rights that its Deployment would have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use testenv::process::{Launch, Process};

use crate::progress::say;

const PROCESS: &str = "es-index-merge-controller";

/// How often a controller that ended is started again, as a Deployment would.
const RESTARTS: u32 = 20;

/// A controller that is started again when it ends.
pub struct Controller {
    process: Process,
    restarts: u32,
}

/// The operator's program: `ES_INDEX_MERGE`, or the one built beside this one.
pub fn program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("ES_INDEX_MERGE").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(program));
    }
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let program = own.with_file_name("es-index-merge");
    if !program.is_file() {
        bail!(
            "{} is not there; build it with `cargo build --release`, or name it in ES_INDEX_MERGE",
            program.display()
        );
    }
    Ok(program)
}

impl Controller {
    /// Starts it, or takes the one that an earlier `demo up` started. Its log lies in the run folder.
    pub fn start(program: &Path, kubeconfig: &Path, run: &Path) -> Result<Self> {
        let folder = folder(run)?;
        if let Some(process) = Process::recorded(run)?.into_iter().find(|process| process.name() == PROCESS) {
            if process.pid().is_some() {
                say("the controller of an earlier run is taken");
                return Ok(Self { process, restarts: 0 });
            }
            process.stop()?;
        }
        // As in a pod: a container that is started again keeps the pod's name, and so its leases.
        let mut environment = BTreeMap::from([
            ("KUBECONFIG".to_owned(), kubeconfig.display().to_string()),
            ("POD_NAME".to_owned(), "es-index-merge-0".to_owned()),
            ("POD_NAMESPACE".to_owned(), "es-index-merge".to_owned()),
        ]);
        for name in ["RUST_LOG", "RUST_BACKTRACE"] {
            if let Ok(value) = std::env::var(name) {
                environment.insert(name.to_owned(), value);
            }
        }
        let launch = Launch {
            name: PROCESS.to_owned(),
            program: program.to_owned(),
            arguments: vec!["controller".to_owned()],
            environment,
            folder: folder.clone(),
            user: None,
            log: folder.join("controller.log"),
            interrupt: false,
        };
        Ok(Self { process: Process::start(launch, run, false)?, restarts: 0 })
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.process.pid()
    }

    /// Starts it again if it has ended; an error once that has happened too often.
    pub fn keep_alive(&mut self) -> Result<()> {
        if self.process.pid().is_some() {
            return Ok(());
        }
        self.restarts += 1;
        if self.restarts > RESTARTS {
            self.process.check()?;
        }
        self.process.restart()?;
        say(&format!(
            "the controller had ended and is started again (process {})",
            self.process.pid().unwrap_or_default()
        ));
        Ok(())
    }
}

/// The demo's own folder in the run folder.
pub fn folder(run: &Path) -> Result<PathBuf> {
    let folder = run.join("demo");
    testenv::places::open_folder(&folder)?;
    Ok(folder)
}
