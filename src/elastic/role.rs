//! Whether our role shows an index whole. It may leave out documents (`query`) and fields (`field_security`), and no answer to
//! a search says so.

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::call::Call;
use super::cluster::Cluster;
use super::error::Result;
use super::retry::RetryPolicy;

const ASKING_ROLE: &str = "ask what our role shows";
/// What searching is called among privileges.
const SEARCHING: &str = "indices:data/read/search";

/// The answer to a user, or to a key that may do what its owner may.
#[derive(Default, Deserialize)]
struct Role {
    #[serde(default)]
    indices: Vec<Grant>,
}

#[derive(Default, Deserialize)]
struct Identity {
    api_key: Option<KeyIdentity>,
}

#[derive(Deserialize)]
struct KeyIdentity {
    id: String,
}

/// The answer to a key that has roles of its own.
#[derive(Default, Deserialize)]
struct Keys {
    #[serde(default)]
    api_keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    role_descriptors: BTreeMap<String, Role>,
}

/// What a role grants on some indices.
#[derive(Deserialize)]
struct Grant {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    privileges: Vec<String>,
    query: Option<Value>,
    field_security: Option<Value>,
}

impl Cluster {
    /// What keeps a part of these indices from us, each as `index: query` or `index: field_security`.
    ///
    /// Empty also where that is not told: without security, and of what the owner of an API key may not see.
    pub async fn parts_kept_from_us(&self, indices: &[String]) -> Result<Vec<String>> {
        Ok(parts_kept(&self.grants().await?, indices))
    }

    async fn grants(&self) -> Result<Vec<Grant>> {
        let call = |path: &str| Call::get(ASKING_ROLE, path).policy(RetryPolicy::brief());
        let role: Role = self.if_told(&call("/_security/user/_privileges")).await?;
        if !role.indices.is_empty() {
            return Ok(role.indices);
        }
        // A key that has roles of its own is told them by its id alone.
        let identity: Identity = self.if_told(&call("/_security/_authenticate")).await?;
        let Some(key) = identity.api_key else { return Ok(Vec::new()) };
        let of_key = call("/_security/api_key")
            .with("id", key.id)
            .with("filter_path", "api_keys.role_descriptors.*.indices");
        let keys: Keys = self.if_told(&of_key).await?;
        let roles = keys.api_keys.into_iter().flat_map(|key| key.role_descriptors.into_values());
        Ok(roles.flat_map(|role| role.indices).collect())
    }

    /// The answer, or nothing where the server has none for us: without security it does not know the address.
    async fn if_told<T: DeserializeOwned + Default>(&self, call: &Call) -> Result<T> {
        match self.ask(call).await {
            Err(error) if matches!(error.status(), Some(400 | 403 | 404 | 405 | 410 | 500)) => {
                tracing::debug!(%error, "what our role shows is not told");
                Ok(T::default())
            }
            answer => answer,
        }
    }
}

/// A grant through which indices are searched.
struct Sight {
    /// `None`: this program does not understand the pattern, so it may be one of any index.
    patterns: Vec<Option<Regex>>,
    every_document: bool,
    every_field: bool,
}

impl Sight {
    fn of(grant: &Grant) -> Sight {
        Sight {
            patterns: grant.names.iter().map(|name| expression(name)).collect(),
            every_document: grant.query.is_none(),
            every_field: grant.field_security.as_ref().is_none_or(shows_every_field),
        }
    }

    fn covers(&self, index: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.as_ref().is_none_or(|pattern| pattern.is_match(index)))
    }
}

impl Grant {
    fn is_for_searching(&self) -> bool {
        self.privileges.iter().map(|privilege| privilege.to_ascii_lowercase()).any(|privilege| {
            // The server takes the name of an action for the beginning of one.
            let is_action = || expression(&format!("{privilege}*")).is_none_or(|all| all.is_match(SEARCHING));
            matches!(privilege.as_str(), "all" | "read") || privilege.starts_with("indices:") && is_action()
        })
    }
}

/// What is shown of an index is what all grants on it show together, so one that shows all of it is enough. Pure.
fn parts_kept(grants: &[Grant], indices: &[String]) -> Vec<String> {
    let sights: Vec<Sight> = grants.iter().filter(|grant| grant.is_for_searching()).map(Sight::of).collect();
    if sights.iter().all(|sight| sight.every_document && sight.every_field) {
        return Vec::new();
    }
    let mut kept = Vec::new();
    for index in indices {
        let on_it: Vec<&Sight> = sights.iter().filter(|sight| sight.covers(index)).collect();
        if on_it.is_empty() {
            continue;
        }
        if !on_it.iter().any(|sight| sight.every_document) {
            kept.push(format!("{index}: query"));
        }
        if !on_it.iter().any(|sight| sight.every_field) {
            kept.push(format!("{index}: field_security"));
        }
    }
    kept
}

/// A user is told a list of what was granted together, a key the one grant of its role.
fn shows_every_field(security: &Value) -> bool {
    let is_every = |fields: &Value| {
        let grants_all =
            fields["grant"].as_array().is_none_or(|granted| granted.iter().any(|name| name == "*"));
        grants_all && fields["except"].as_array().is_none_or(Vec::is_empty)
    };
    security.as_array().map_or_else(|| is_every(security), |groups| groups.iter().any(is_every))
}

/// A pattern of a role, as an expression of ours: it has wildcards, or is an expression of Lucene between slashes.
fn expression(pattern: &str) -> Option<Regex> {
    let inner = match pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        // Signs that mean something there, and something else here.
        Some(of_lucene) if of_lucene.contains(['~', '<', '&', '@', '#', '"', '^', '$']) => return None,
        Some(of_lucene) => of_lucene.to_owned(),
        None => regex::escape(pattern).replace(r"\*", ".*").replace(r"\?", "."),
    };
    Regex::new(&format!("^(?s:{inner})$")).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    /// What these grants keep of the index 42 from us.
    fn kept(grants: Value) -> Vec<String> {
        let grants: Vec<Grant> = serde_json::from_value(grants).unwrap();
        parts_kept(&grants, &["42".to_owned()])
    }

    fn grant(names: &[&str], privileges: &[&str]) -> Value {
        json!({"names": names, "privileges": privileges, "allow_restricted_indices": false})
    }

    fn with(mut grant: Value, what: &str, value: Value) -> Value {
        grant[what] = value;
        grant
    }

    #[test]
    fn a_role_that_shows_a_part_is_named_with_what_it_keeps() {
        let reading = || grant(&["/[0-9]+/"], &["read"]);
        assert!(kept(json!([reading()])).is_empty());
        // As a user is told, and as a key is.
        for query in [json!(["{\"term\":{\"shown\":true}}"]), json!("{\"term\":{\"shown\":true}}")] {
            assert_eq!(kept(json!([with(reading(), "query", query)])), ["42: query"]);
        }
        for fields in [
            json!([{"grant": ["*"], "except": ["metadata.*"]}]),
            json!({"grant": ["content", "embedding"]}),
            json!({"except": ["metadata.*"]}),
        ] {
            assert_eq!(kept(json!([with(reading(), "field_security", fields)])), ["42: field_security"]);
        }
        for fields in [json!({"grant": ["*"], "except": []}), json!([{"grant": ["a", "*"]}]), Value::Null] {
            assert!(kept(json!([with(reading(), "field_security", fields)])).is_empty());
        }
    }

    #[test]
    fn a_part_is_kept_only_if_no_other_grant_shows_it() {
        let partial = with(grant(&["*"], &["all"]), "query", json!(["{}"]));
        assert_eq!(kept(json!([partial, grant(&["4?"], &["monitor"])])), ["42: query"]);
        assert_eq!(kept(json!([partial, grant(&["43"], &["read"])])), ["42: query"]);
        for whole in [grant(&["4?"], &["READ"]), grant(&["42"], &["indices:data/read/*"])] {
            assert!(kept(json!([partial, whole])).is_empty(), "{whole}");
        }
        let of_others = with(grant(&["logs-*"], &["read"]), "query", json!(["{}"]));
        assert!(kept(json!([of_others, grant(&["42"], &["read"])])).is_empty());
        let not_read = with(grant(&["42"], &["monitor", "indices:admin/refresh"]), "query", json!(["{}"]));
        assert!(kept(json!([not_read])).is_empty());
    }

    #[test]
    fn a_pattern_that_is_not_understood_may_be_one_of_any_index() {
        let strange = grant(&["/<1-99>/"], &["read"]);
        let partial = |grant| with(grant, "query", json!(["{}"]));
        assert_eq!(kept(json!([partial(strange.clone())])), ["42: query"]);
        assert!(kept(json!([partial(grant(&["42"], &["read"])), strange])).is_empty());
    }
}
