//! The folder of one run: `NAME/parts/PART.json` (how to reach a part that is ready), `NAME/processes/` (what was
//! started), `NAME/pki/` (its test CA) and one folder per part with data and logs.
//!
//! A *shared* run has a name and stays until `testenv down`. A *private* one belongs to the process that made it:
//! it is gone when the last handle is dropped. What a killed owner left behind (of a private run, or of a shared one
//! that was given an owner) is swept up by the next run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Part;
use crate::pki::Authority;
use crate::places;
use crate::process::{Identity, Process};
use crate::progress::say;

const PRIVATE: &str = "private-";

/// The folder of one run.
#[derive(Debug)]
pub struct Run {
    name: String,
    folder: PathBuf,
    owned: bool,
}

impl Run {
    /// The shared run of that name: letters, digits and dashes, at most 40.
    pub fn shared(name: &str) -> Result<Self> {
        let plain = |character: char| character.is_ascii_alphanumeric() || character == '-';
        if name.is_empty() || name.len() > 40 || !name.chars().all(plain) || name.starts_with(PRIVATE) {
            bail!(
                "{name:?} is no name for a run: use letters, digits and dashes, at most 40, not {PRIVATE}..."
            );
        }
        Ok(Self { name: name.to_owned(), folder: places::runs()?.join(name), owned: false })
    }

    /// A new private run of this process.
    pub fn private() -> Result<Arc<Self>> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        sweep()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PRIVATE}{}-{number}", std::process::id());
        let folder = places::runs()?.join(&name);
        places::remove(&folder)?;
        places::open_folder(&folder)?;
        places::write_private(&folder.join("owner.json"), &serde_json::to_vec(&Identity::own()?)?)?;
        Ok(Arc::new(Self { name, folder, owned: true }))
    }

    /// Makes a shared run end, at the latest, when another run starts or ends after the process `owner` is gone.
    pub fn give_owner(&self, owner: Identity) -> Result<()> {
        places::open_folder(&self.folder)?;
        places::write_private(&self.folder.join("owner.json"), &serde_json::to_vec(&owner)?)
    }

    /// The names of the shared runs that exist.
    pub fn names() -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(places::runs()?)? {
            let entry = entry?;
            if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string())
                && !name.starts_with(PRIVATE)
                && !name.starts_with('.')
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder, which may not exist yet.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether its processes end with this process.
    #[must_use]
    pub fn owned(&self) -> bool {
        self.owned
    }

    /// Held while parts of it are started or stopped.
    pub fn lock(&self) -> Result<places::Lock> {
        places::lock(&places::runs()?.join(".locks").join(format!("{}.lock", self.name)), &self.name)
    }

    /// A new, empty folder for a part.
    pub fn part_folder(&self, part: Part) -> Result<PathBuf> {
        let folder = self.folder.join(part.as_str());
        places::remove(&folder)?;
        places::open_folder(&folder)?;
        Ok(folder)
    }

    /// Its test CA.
    pub fn authority(&self) -> Result<Authority> {
        places::open_folder(&self.folder)?;
        Authority::open(&self.folder.join("pki"))
    }

    /// Remembers how a part is reached.
    pub fn remember(&self, part: Part, access: &impl Serialize) -> Result<()> {
        places::open_folder(&self.folder.join("parts"))?;
        places::write_private(&self.part_file(part), &serde_json::to_vec_pretty(access)?)
    }

    /// How a part is reached, if it is there and all its processes run.
    pub fn find<A: DeserializeOwned>(&self, part: Part) -> Result<Option<A>> {
        let file = self.part_file(part);
        let content = match fs::read(&file) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        if self.processes(part)?.iter().any(|process| process.pid().is_none()) {
            return Ok(None);
        }
        serde_json::from_slice(&content).map(Some).with_context(|| format!("{} is damaged", file.display()))
    }

    /// The recorded processes of a part.
    pub fn processes(&self, part: Part) -> Result<Vec<Process>> {
        let mut processes = Process::recorded(&self.folder)?;
        processes.retain(|process| process.name().starts_with(part.as_str()));
        Ok(processes)
    }

    /// Ends a part that is there, and forgets it.
    pub fn end(&self, part: Part) -> Result<()> {
        places::remove(&self.part_file(part))?;
        self.processes(part)?.iter().try_for_each(Process::stop)
    }

    /// Kills everything and removes the folder; the number of processes.
    pub fn down(&self) -> Result<usize> {
        let processes = Process::recorded(&self.folder)?;
        // Killed, not ended in order: what they would still write is removed anyway.
        processes.iter().try_for_each(Process::kill_9)?;
        places::remove(&self.folder)?;
        Ok(processes.len())
    }

    fn part_file(&self, part: Part) -> PathBuf {
        self.folder.join("parts").join(format!("{}.json", part.as_str()))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.owned {
            if std::env::var_os("TESTENV_KEEP").is_some() {
                say(&self.name, &format!("kept for a look: {}", self.folder.display()));
            } else if let Err(error) = self.down() {
                say(&self.name, &format!("could not be removed: {error:#}"));
            }
        }
    }
}

/// Ends and removes the runs whose owner is gone.
pub fn sweep() -> Result<()> {
    let runs = places::runs()?;
    if std::env::var_os("TESTENV_KEEP").is_some() {
        return Ok(());
    }
    let _lock = places::lock(&runs.join(".locks").join("sweep.lock"), "sweep")?;
    for entry in fs::read_dir(&runs)? {
        let entry = entry?;
        // Without an owner's file it is a shared one, or is being made or removed right now.
        let (Ok(name), Ok(owner)) =
            (entry.file_name().into_string(), fs::read(entry.path().join("owner.json")))
        else {
            continue;
        };
        let owner: Identity =
            serde_json::from_slice(&owner).with_context(|| format!("{name} has a damaged owner.json"))?;
        if !owner.alive() {
            say(&name, "its owner is gone, so it is ended");
            Run { name, folder: entry.path(), owned: false }.down()?;
        }
    }
    Ok(())
}
