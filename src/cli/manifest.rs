//! A YAML file with one `EsIndexMerge` and the `Secret`s that it may bring along.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine as _;
use serde::Deserialize;

use super::secrets::LocalSecrets;
use crate::api::EsIndexMerge;
use crate::merge::{MergeCategory, MergeError, ValidMerge};

/// A merge to run without Kubernetes, and where its secrets are.
#[derive(Clone)]
pub(super) struct Job {
    /// The resource as written.
    pub resource: EsIndexMerge,
    /// Its spec, parsed.
    pub merge: ValidMerge,
    /// Its secrets.
    pub secrets: LocalSecrets,
}

/// The part of a `Secret` that matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Secret {
    metadata: Named,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    string_data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Job {
    /// Reads a file, or standard input for `-`.
    pub async fn from_file(file: &Path, secrets_dir: Option<PathBuf>) -> anyhow::Result<Job> {
        let text = if file == Path::new("-") {
            tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()))
                .await?
                .context("standard input cannot be read")?
        } else {
            tokio::fs::read_to_string(file)
                .await
                .with_context(|| format!("{} cannot be read", file.display()))?
        };
        Job::from_text(&text, secrets_dir).with_context(|| format!("{} is not usable", file.display()))
    }

    /// Takes one `EsIndexMerge` and any number of `Secret`s; other documents are an error, not ignored.
    pub fn from_text(text: &str, secrets_dir: Option<PathBuf>) -> anyhow::Result<Job> {
        let mut resources: Vec<EsIndexMerge> = Vec::new();
        let mut secrets = BTreeMap::new();
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let value = serde_yaml_ng::Value::deserialize(document).context("is not YAML")?;
            match value.get("kind").and_then(serde_yaml_ng::Value::as_str) {
                Some("EsIndexMerge") => {
                    resources
                        .push(serde_yaml_ng::from_value(value).context("the EsIndexMerge is malformed")?);
                }
                Some("Secret") => {
                    let secret: Secret = serde_yaml_ng::from_value(value).context("a Secret is malformed")?;
                    secrets.insert(secret.metadata.name.clone(), secret.keys()?);
                }
                Some(kind) => bail!("holds a {kind}; only EsIndexMerge and Secret are understood here"),
                None if value.is_null() => {}
                None => bail!("holds a document without a kind"),
            }
        }
        let count = resources.len();
        let (Some(resource), true) = (resources.pop(), count == 1) else {
            bail!("holds {count} EsIndexMerge documents; exactly one is needed");
        };
        let name = resource.metadata.name.as_deref().context("metadata.name is missing")?;
        let owner = format!("{}/{name}", resource.metadata.namespace.as_deref().unwrap_or("cli"));
        let merge = ValidMerge::parse(&owner, &resource.spec)
            .map_err(|problems| MergeError::Problems { category: MergeCategory::InvalidSpec, problems })?;
        Ok(Job { merge, secrets: LocalSecrets::new(secrets, secrets_dir), resource })
    }
}

impl Secret {
    fn keys(self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut keys = BTreeMap::new();
        for (key, encoded) in self.data {
            let value = base64::engine::general_purpose::STANDARD
                .decode(encoded.trim())
                .with_context(|| format!("key {key:?} of Secret {:?} is not base64", self.metadata.name))?;
            keys.insert(key, value);
        }
        keys.extend(self.string_data.into_iter().map(|(key, text)| (key, text.into_bytes())));
        Ok(keys)
    }
}
