//! The environment variables of the migration script, as manifests: what it did by hand, declared.
//!
//! Two more than the script has: `SOURCE_ES_CA_FILE` and `DESTINATION_ES_CA_FILE`, because certificates are verified
//! here, and one of a private authority must be made known.

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Variables without which nothing can be said.
const REQUIRED: [&str; 3] = ["POSTGRES_URL", "SOURCE_ES_URL", "DESTINATION_ES_URL"];

/// When the application moves to the new index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// As soon as the destination has caught up: whoever runs the script waits for that.
    AtOnce,
    /// When somebody says so: a resource that is applied has nobody who waits.
    Held,
}

/// The `Secret`s and the `EsIndexMerge` for these variables, as one YAML text.
pub(super) fn manifests(variable: impl Fn(&str) -> Option<String>, begin: Begin) -> anyhow::Result<String> {
    let set =
        |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let missing: Vec<&str> = REQUIRED.into_iter().filter(|name| set(name).is_none()).collect();
    if !missing.is_empty() {
        bail!("set the environment variables {}", missing.join(", "));
    }
    let text = |name: &str| set(name).unwrap_or_default();
    let mut documents = vec![secret("es-index-merge-postgres", &json!({"url": text("POSTGRES_URL")}))];
    let mut source = json!({"url": text("SOURCE_ES_URL")});
    let mut destination = json!({"url": text("DESTINATION_ES_URL")});
    for (side, prefix, name) in [
        (&mut source, "SOURCE_ES", "es-index-merge-source"),
        (&mut destination, "DESTINATION_ES", "es-index-merge-destination"),
    ] {
        let mut keys = serde_json::Map::new();
        if let Some(username) = set(&format!("{prefix}_USERNAME")) {
            keys.insert("username".to_owned(), username.into());
            keys.insert("password".to_owned(), text(&format!("{prefix}_PASSWORD")).into());
            side["credentialsSecretRef"] = json!({"name": name});
        }
        if let Some(file) = set(&format!("{prefix}_CA_FILE")) {
            let pem = std::fs::read_to_string(&file)
                .with_context(|| format!("{prefix}_CA_FILE names {file:?}, which cannot be read"))?;
            keys.insert("ca.crt".to_owned(), pem.into());
            side["caSecretRef"] = json!({"name": name, "key": "ca.crt"});
        }
        if !keys.is_empty() {
            documents.push(secret(name, &json!(keys)));
        }
    }
    destination["index"] = json!({
        "name": set("DESTINATION_ES_INDEX_NAME").unwrap_or_else(|| "opengatellm".to_owned()),
        "numberOfShards": number("DESTINATION_ES_NUMBER_OF_SHARDS", set("DESTINATION_ES_NUMBER_OF_SHARDS"), 24)?,
        "numberOfReplicas": number("DESTINATION_ES_NUMBER_OF_REPLICAS", set("DESTINATION_ES_NUMBER_OF_REPLICAS"), 1)?,
        "language": set("DESTINATION_ES_INDEX_LANGUAGE").unwrap_or_else(|| "french".to_owned()),
        "vectorSize": number("DESTINATION_ES_VECTOR_SIZE", set("DESTINATION_ES_VECTOR_SIZE"), 1024)?,
    });
    let cutover = match begin {
        Begin::AtOnce => json!({}),
        Begin::Held => json!({"hold": true}),
    };
    documents.push(json!({
        "apiVersion": "indexmerge.dev/v1alpha1",
        "kind": "EsIndexMerge",
        "metadata": {"name": "opengatellm"},
        "spec": {
            "collections": {"postgres": {"urlSecretRef": {"name": "es-index-merge-postgres", "key": "url"}}},
            "source": source,
            "destination": destination,
            "contract": "OpenGateLLM",
            "cutover": cutover,
        },
    }));
    let texts = documents.iter().map(serde_yaml_ng::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.join("---\n"))
}

fn number(name: &str, value: Option<String>, default: u32) -> anyhow::Result<u32> {
    let Some(value) = value else { return Ok(default) };
    value.parse().or_else(|_| bail!("{name} is {value:?}; it must be a whole number"))
}

fn secret(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::super::manifest::Job;
    use super::*;

    fn script(name: &str) -> Option<String> {
        let value = match name {
            "POSTGRES_URL" => "postgresql+asyncpg://postgres:changeme@localhost:5432/postgres",
            "SOURCE_ES_URL" | "DESTINATION_ES_URL" => "http://localhost:9200",
            "SOURCE_ES_USERNAME" => "elasticsearch",
            "SOURCE_ES_PASSWORD" => "change\"me: #1",
            "DESTINATION_ES_VECTOR_SIZE" => "768",
            "DESTINATION_ES_INDEX_LANGUAGE" => "german",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn the_variables_of_the_script_become_a_merge_that_holds_together() {
        let text = manifests(script, Begin::AtOnce).unwrap();
        let job = Job::from_text(&text, None).expect("usable");
        assert!(!job.merge.cutover.hold, "`run` goes to the verdict");
        assert_eq!(job.merge.destination.index.as_str(), "opengatellm");
        assert_eq!(job.merge.destination.vector_size, 768);
        assert_eq!(job.merge.destination.shards, 24);
        assert_eq!(job.resource.spec.source.credentials_secret_ref.unwrap().name, "es-index-merge-source");
        assert!(job.resource.spec.destination.credentials_secret_ref.is_none());
    }

    #[test]
    fn a_manifest_to_apply_holds_the_cutover() {
        let text = manifests(script, Begin::Held).unwrap();
        assert!(text.contains("hold: true"), "{text}");
        assert!(Job::from_text(&text, None).expect("usable").merge.cutover.hold);
    }

    #[test]
    fn names_every_variable_that_is_missing() {
        let error = manifests(|_| None, Begin::AtOnce).unwrap_err().to_string();
        assert!(REQUIRED.iter().all(|name| error.contains(name)), "{error}");
    }

    #[test]
    fn refuses_a_number_that_is_none() {
        let many = |name: &str| match name {
            "DESTINATION_ES_VECTOR_SIZE" => Some("many".to_owned()),
            other => script(other),
        };
        let error = manifests(many, Begin::AtOnce);
        assert!(error.unwrap_err().to_string().contains("DESTINATION_ES_VECTOR_SIZE is \"many\""));
    }
}
