//! A YAML file with one `EsIndexMerge` and the `Secret`s that it may bring along.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine as _;
use serde::Deserialize;

use super::secrets::LocalSecrets;
use crate::api::{self, EsIndexMerge};
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
        let documents = || serde_yaml_ng::Deserializer::from_str(text);
        for (document, again) in documents().zip(documents()) {
            let value = serde_yaml_ng::Value::deserialize(document).context("is not YAML")?;
            match value.get("kind").and_then(serde_yaml_ng::Value::as_str) {
                Some("EsIndexMerge") => {
                    refuse_unknown_fields(&value)?;
                    // A value takes no number for a text, as the API server does not; the text knows the place.
                    let resource = serde_yaml_ng::from_value(value)
                        .map_err(|error| EsIndexMerge::deserialize(again).err().unwrap_or(error));
                    resources.push(resource.context("the EsIndexMerge is malformed")?);
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
        // One that has a uid was accepted by an API server, perhaps before it refused all that it refuses now.
        let parse = match resource.metadata.uid {
            Some(_) => ValidMerge::parse,
            None => ValidMerge::parse_new,
        };
        let merge = parse(&owner, &resource.spec)
            .map_err(|problems| MergeError::Problems { category: MergeCategory::InvalidSpec, problems })?;
        Ok(Job { merge, secrets: LocalSecrets::new(secrets, secrets_dir), resource })
    }
}

/// What the API server would refuse or warn of: a field that is misspelt is not left out unseen.
fn refuse_unknown_fields(resource: &serde_yaml_ng::Value) -> anyhow::Result<()> {
    let resource = serde_json::to_value(resource).context("the EsIndexMerge is malformed")?;
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let beside = resource.as_object().into_iter().flatten().map(|(field, _)| field);
    let mut unknown: Vec<String> = beside
        .filter(|field| !known.contains(&field.as_str()))
        .map(|field| format!("unknown field {field} beside spec; move it into spec, or remove it"))
        .collect();
    let inside = api::unknown_fields(&resource["spec"]);
    unknown.extend(
        inside.into_iter().map(|refusal| format!("unknown field {}; {}", refusal.field, refusal.message)),
    );
    if !unknown.is_empty() {
        bail!("{}", unknown.join("; "));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SHORTEST: &str = "
apiVersion: indexmerge.dev/v1alpha1
kind: EsIndexMerge
metadata: {name: merge, annotations: {anything: goes}}
spec:
  collections: {postgres: {urlSecretRef: {name: postgres, key: url}}}
  source: {url: 'https://es:9200'}
  destination: {url: 'https://es:9200', index: {name: merged, language: french, vectorSize: 8}}
  contract: OpenGateLLM
";

    fn refusal(more: &str) -> String {
        format!("{:#}", Job::from_text(&format!("{SHORTEST}{more}"), None).err().unwrap())
    }

    #[test]
    fn a_field_that_is_misspelt_is_refused_and_not_left_out() {
        assert!(Job::from_text(&format!("{SHORTEST}  cutover: {{hold: true}}\n"), None).is_ok());
        let message = refusal("  cutover: {Hold: true}\n");
        assert_eq!(message, "unknown field spec.cutover.Hold; did you mean hold?");
        let message = refusal("cutover: {hold: true}\n");
        assert!(message.starts_with("unknown field cutover beside spec; "), "{message}");
    }

    #[test]
    fn what_the_definition_refuses_is_refused() {
        let message = refusal("  cutover: {timeout: 0s}\n  workers: {concurrency: 0}\n");
        let expected =
            "spec.cutover.timeout: is \"0s\"; it must be a time from 10s to 6h, for instance 30s or 5m";
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("spec.workers.concurrency: is 0; it should be greater than or equal to 1"));
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_named_with_its_place() {
        let refusal = |text: &str| format!("{:#}", Job::from_text(text, None).err().unwrap());
        let secret = "kind: Secret\nmetadata: {name: a}\n---";
        let message = refusal(&format!("{secret}{}", SHORTEST.replace("url: 'https://es:9200'}\n", "}\n")));
        let expected = "the EsIndexMerge is malformed: spec.source: missing field `url` at line ";
        assert!(message.starts_with(expected), "{message}");
        let message = refusal(&SHORTEST.replace("vectorSize: 8", "vectorSize: many"));
        assert!(message.contains("spec.destination.index.vectorSize: "), "{message}");
        let message = refusal(&SHORTEST.replace("name: merged", "name: 7"));
        assert!(message.contains("malformed: invalid type: integer `7`"), "{message}");
    }

    #[test]
    fn the_alias_of_the_workers_is_refused_unless_an_api_server_has_accepted_it() {
        let alias = "  cutover: {aliases: [merged-merge-writer]}\n";
        let message = refusal(alias);
        assert!(message.contains("spec.cutover.aliases: contains \"merged-merge-writer\""), "{message}");
        let accepted = SHORTEST.replace("{name: merge,", "{name: merge, uid: 1-2-3,");
        assert!(Job::from_text(&format!("{accepted}{alias}"), None).is_ok());
    }
}
