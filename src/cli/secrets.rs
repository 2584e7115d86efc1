//! Secrets without Kubernetes: from the manifest itself, else from a folder laid out as pods mount them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::merge::secrets::{SecretProblem, SecretSource};

/// Secrets at hand.
#[derive(Clone)]
pub(super) struct LocalSecrets {
    inline: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    folder: Option<PathBuf>,
}

impl LocalSecrets {
    pub fn new(inline: BTreeMap<String, BTreeMap<String, Vec<u8>>>, folder: Option<PathBuf>) -> LocalSecrets {
        LocalSecrets { inline, folder }
    }
}

impl SecretSource for LocalSecrets {
    async fn read(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>, SecretProblem> {
        if let Some(keys) = self.inline.get(name) {
            return Ok(keys.clone());
        }
        match &self.folder {
            Some(folder) => read_folder(&folder.join(name)).await,
            None => Err(SecretProblem::Missing {
                place: "the manifest (add it there, or give --secrets-dir)".to_owned(),
            }),
        }
    }
}

/// One file for each key; what begins with a dot is bookkeeping of a mounted volume.
async fn read_folder(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, SecretProblem> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => {
            SecretProblem::Missing { place: format!("{} (as a folder)", folder.display()) }
        }
        _ => SecretProblem::Unreadable { message: format!("{}: {error}", folder.display()) },
    };
    let mut entries = tokio::fs::read_dir(folder).await.map_err(unreadable)?;
    let mut keys = BTreeMap::new();
    while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
        let Ok(key) = entry.file_name().into_string() else { continue };
        let is_file = tokio::fs::metadata(entry.path()).await.map_err(unreadable)?.is_file();
        if is_file && !key.starts_with('.') {
            keys.insert(key, tokio::fs::read(entry.path()).await.map_err(unreadable)?);
        }
    }
    Ok(keys)
}
