//! Where things lie: the cache (kept, by version, outside the checkout) and the run folders (one per `--name`).
//!
//! Two folders, for two reasons:
//! - the **cache**, `${XDG_CACHE_HOME:-~/.cache}/es-index-merge`, holds what is fetched or built. Its locks keep
//!   two runs from building the same thing at once.
//! - the **runs**, `/var/tmp/es-index-merge-UID/NAME` (or `$TESTENV_RUNS/NAME`), hold data, logs, certificates and
//!   the list of processes. They do not lie in the cache because Elasticsearch and Postgres refuse to run as root:
//!   their own user must reach its data, and cannot look into root's home folder.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::progress::Step;

/// The folder for what is fetched or built once. Created if it is not there.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    let cache = base.join("es-index-merge");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create the cache {}", cache.display()))?;
    Ok(cache)
}

/// The folder above all run folders. Created if it is not there; refused if it belongs to somebody else, because
/// its name can be guessed.
pub fn runs() -> Result<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    let runs = std::env::var_os("TESTENV_RUNS")
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from(format!("/var/tmp/es-index-merge-{own}")), PathBuf::from);
    open_folder(&runs)?;
    let owner = fs::metadata(&runs)?.uid();
    if owner != own {
        bail!(
            "{} belongs to user {owner}, not to {own}; set TESTENV_RUNS to a folder of yours",
            runs.display()
        );
    }
    Ok(runs)
}

/// Creates `folder` so that every user can go through it, whatever the umask is.
pub fn open_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    if fs::metadata(folder)?.mode() & 0o055 != 0o055 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot open {} to other users", folder.display()))?;
    }
    Ok(())
}

/// A lock that is held until it is dropped; the kernel frees it when the process dies.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

/// Takes the lock file at `path`, and says so when somebody else has it for now.
pub fn lock(path: &Path, what: &str) -> Result<Lock> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open the lock {}", path.display()))?;
    if file.try_lock().is_err() {
        let step = Step::begin(what, "waiting for another run which does the same");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        step.end("the other run is done");
    }
    Ok(Lock(file))
}

/// The lock of one thing in the cache.
pub fn cache_lock(what: &str) -> Result<Lock> {
    lock(&cache()?.join("locks").join(format!("{what}.lock")), what)
}

/// Whether users other than the owner can read `path`: every folder above must let them through.
#[must_use]
pub fn readable_by_others(path: &Path) -> bool {
    path.ancestors()
        .all(|folder| fs::metadata(folder).is_ok_and(|data| data.mode() & 0o001 != 0 || !data.is_dir()))
}

/// Gives a path to the same files as `folder` which every user can read: itself, or else links to its files (copies,
/// where the file system cannot link) in `open`.
pub fn for_every_user(folder: &Path, open: &Path) -> Result<PathBuf> {
    if readable_by_others(folder) {
        return Ok(folder.to_owned());
    }
    if !open.exists() {
        link_tree(folder, open)?;
    }
    Ok(open.to_owned())
}

fn link_tree(from: &Path, to: &Path) -> Result<()> {
    open_folder(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            link_tree(&path, &target)?;
        } else if fs::hard_link(&path, &target).is_err() {
            // Another file system, or one without links.
            fs::copy(&path, &target).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// Removes a folder or file and all in it; nothing there is fine.
pub fn remove(path: &Path) -> Result<()> {
    let gone =
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    remove(&unfinished)?;
    let write = || -> std::io::Result<()> {
        let mut options = File::options();
        options.write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&unfinished)?.write_all(content)?;
        fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lock_is_free_again_once_it_is_dropped() {
        let path = std::env::temp_dir().join(format!("testenv-lock-{}", std::process::id()));
        drop(lock(&path, "test").unwrap());
        drop(lock(&path, "test").unwrap());
        remove(&path).unwrap();
    }

    #[test]
    fn a_private_file_replaces_the_one_before_and_is_closed_to_others() {
        let path = std::env::temp_dir().join(format!("testenv-private-{}", std::process::id()));
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
