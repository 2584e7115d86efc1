//! The user as whom Elasticsearch and Postgres run: both refuse to be root.
//!
//! When the harness runs as root it has a system user of its own (created once by `useradd`, without a home folder
//! and without a login); otherwise everything runs as the user who started it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

const NAME: &str = "es-index-merge";

/// A user of this machine, other than the one who runs the harness.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct User {
    /// Name, as in the password file.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl User {
    /// The user for programs that refuse to be root: none is needed (`None`) unless we are root.
    pub fn for_services() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let _lock = crate::places::cache_lock("user")?;
        if let Some(user) = Self::find(NAME)? {
            return Ok(Some(user));
        }
        let created = Command::new("useradd")
            .args(["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"])
            .args(["--shell", "/usr/sbin/nologin", NAME])
            .output()
            .context("cannot start useradd (apt-get install passwd)")?;
        if !created.status.success() {
            bail!("useradd {NAME} failed: {}", String::from_utf8_lossy(&created.stderr).trim());
        }
        Self::find(NAME)?.map(Some).context("useradd created the user, but /etc/passwd does not have it")
    }

    fn find(name: &str) -> Result<Option<Self>> {
        let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        Ok(passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields[..] {
                [found, _, uid, gid, ..] if found == name => {
                    Some(Self { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
                }
                _ => None,
            }
        }))
    }

    /// Gives a folder and all in it to this user.
    pub fn own(&self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), self.name))?;
        if path.is_dir() && !path.is_symlink() {
            for entry in fs::read_dir(path)? {
                self.own(&entry?.path())?;
            }
        }
        Ok(())
    }
}
