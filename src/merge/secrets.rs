//! Secrets, read by name at use. Never logged, never stored, never in an argument list.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use secrecy::{ExposeSecret, SecretString};

use super::error::{MergeCategory, MergeError, Problem};
use crate::api::{EsIndexMergeSpec, SecretKeyRef, SecretRef};
use crate::elastic::Credentials;

/// What the spec's references lead to.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// URL of the application's Postgres.
    pub collections_url: SecretString,
    /// URL of our Postgres.
    pub state_url: SecretString,
    /// Access to the source cluster.
    pub source: ClusterAccess,
    /// Access to the destination cluster.
    pub destination: ClusterAccess,
}

/// Access to one cluster.
#[derive(Debug, Clone)]
pub struct ClusterAccess {
    /// Who we are there.
    pub credentials: Credentials,
    /// The CA of its certificates, PEM; the system's roots otherwise.
    pub ca_pem: Option<Vec<u8>>,
}

/// Why a secret could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretProblem {
    /// There is none of that name.
    Missing {
        /// Where one was looked for.
        place: String,
    },
    /// It exists or may exist, but reading it failed.
    Unreadable {
        /// Why, and what to do.
        message: String,
    },
}

/// Where secrets come from: the cluster, a folder, the manifest itself.
pub trait SecretSource: Send + Sync {
    /// All keys of the secret of that name.
    fn read(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<BTreeMap<String, Vec<u8>>, SecretProblem>> + Send;
}

/// Reads every secret that the spec names; all problems at once.
pub async fn resolve(spec: &EsIndexMergeSpec, secrets: &impl SecretSource) -> Result<Secrets, MergeError> {
    let mut reader = Reader { secrets, problems: Vec::new() };
    let collections_ref = &spec.collections.postgres.url_secret_ref;
    let state_ref = spec.state.as_ref().and_then(|state| state.postgres.as_ref()).map(|p| &p.url_secret_ref);
    let collections_url = reader.url("spec.collections.postgres.urlSecretRef", collections_ref).await;
    let state_url = match state_ref {
        Some(reference) => reader.url("spec.state.postgres.urlSecretRef", reference).await,
        None => collections_url.clone(),
    };
    let source = reader
        .cluster(
            "spec.source",
            spec.source.credentials_secret_ref.as_ref(),
            spec.source.ca_secret_ref.as_ref(),
        )
        .await;
    let destination = reader
        .cluster(
            "spec.destination",
            spec.destination.credentials_secret_ref.as_ref(),
            spec.destination.ca_secret_ref.as_ref(),
        )
        .await;
    match (collections_url, state_url, source, destination) {
        (Some(collections_url), Some(state_url), Some(source), Some(destination)) => {
            Ok(Secrets { collections_url, state_url, source, destination })
        }
        _ => Err(MergeError::Problems { category: MergeCategory::SecretInvalid, problems: reader.problems }),
    }
}

impl Secrets {
    /// Changes when any value changes, so that a rotation is noticed without keeping the values around.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.collections_url.expose_secret().hash(&mut hasher);
        self.state_url.expose_secret().hash(&mut hasher);
        for access in [&self.source, &self.destination] {
            match &access.credentials {
                Credentials::Anonymous => 0.hash(&mut hasher),
                Credentials::Basic { username, password } => {
                    (1, username, password.expose_secret()).hash(&mut hasher);
                }
                Credentials::ApiKey(key) => (2, key.expose_secret()).hash(&mut hasher),
            }
            access.ca_pem.hash(&mut hasher);
        }
        hasher.finish()
    }
}

struct Reader<'a, S> {
    secrets: &'a S,
    problems: Vec<Problem>,
}

impl<S: SecretSource> Reader<'_, S> {
    fn problem(&mut self, field: &str, message: String) {
        self.problems.push(Problem::new(field, message));
    }

    async fn secret(&mut self, field: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        match self.secrets.read(name).await {
            Ok(keys) => Some(keys),
            Err(SecretProblem::Missing { place }) => {
                self.problem(field, format!("there is no secret {name:?} in {place}; create it"));
                None
            }
            Err(SecretProblem::Unreadable { message }) => {
                self.problem(field, format!("the secret {name:?} cannot be read: {message}"));
                None
            }
        }
    }

    async fn key(&mut self, field: &str, reference: &SecretKeyRef) -> Option<Vec<u8>> {
        let mut keys = self.secret(field, &reference.name).await?;
        let value = keys.remove(&reference.key);
        if value.is_none() {
            let message = format!("the secret {:?} has no key {:?}; add it", reference.name, reference.key);
            self.problem(field, message);
        }
        value
    }

    /// A text value; surrounding white space (a newline of `echo`) is not part of a secret.
    fn text(&mut self, field: &str, what: &str, value: Vec<u8>) -> Option<String> {
        match String::from_utf8(value).map(|text| text.trim().to_owned()) {
            Ok(text) if text.is_empty() => {
                self.problem(field, format!("{what} is empty; set it"));
                None
            }
            Ok(text) if text.chars().any(char::is_control) => {
                self.problem(
                    field,
                    format!("{what} holds a control character (a line break?); write it anew"),
                );
                None
            }
            Ok(text) => Some(text),
            Err(_) => {
                self.problem(field, format!("{what} is not UTF-8 text; write it anew"));
                None
            }
        }
    }

    async fn url(&mut self, field: &str, reference: &SecretKeyRef) -> Option<SecretString> {
        let value = self.key(field, reference).await?;
        let what = format!("key {:?} of secret {:?}", reference.key, reference.name);
        self.text(field, &what, value).map(SecretString::from)
    }

    async fn cluster(
        &mut self,
        field: &str,
        credentials: Option<&SecretRef>,
        ca: Option<&SecretKeyRef>,
    ) -> Option<ClusterAccess> {
        let credentials = match credentials {
            Some(reference) => {
                self.credentials(&format!("{field}.credentialsSecretRef"), &reference.name).await
            }
            None => Some(Credentials::Anonymous),
        };
        let ca_pem = match ca {
            Some(reference) => self.key(&format!("{field}.caSecretRef"), reference).await.map(Some),
            None => Some(None),
        };
        Some(ClusterAccess { credentials: credentials?, ca_pem: ca_pem? })
    }

    async fn credentials(&mut self, field: &str, name: &str) -> Option<Credentials> {
        let mut keys = self.secret(field, name).await?;
        let what = |key: &str| format!("key {key:?} of secret {name:?}");
        if let Some(api_key) = keys.remove("api_key") {
            let key = self.text(field, &what("api_key"), api_key)?;
            return Some(Credentials::ApiKey(SecretString::from(key)));
        }
        let (Some(username), Some(password)) = (keys.remove("username"), keys.remove("password")) else {
            let message = format!(
                "the secret {name:?} has neither the keys username and password nor the key api_key; add them"
            );
            self.problem(field, message);
            return None;
        };
        let username = self.text(field, &what("username"), username);
        let password = self.text(field, &what("password"), password);
        Some(Credentials::Basic { username: username?, password: SecretString::from(password?) })
    }
}
