//! Secrets, read by name at use. Never logged, never stored, never in an argument list.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use secrecy::{ExposeSecret, SecretString};

use super::error::{MergeCategory, MergeError, Problem};
use crate::api::{EsIndexMergeSpec, PostgresRef, SecretKeyRef, SecretRef};
use crate::elastic::Credentials;
use crate::state::Login;

/// What the spec's references lead to.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// The application's Postgres.
    pub collections: Login,
    /// Our Postgres.
    pub state: Login,
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
    /// Our certificate and its key, PEM, where the cluster asks its clients for one.
    pub identity_pem: Option<SecretString>,
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
    let collections = reader.database(COLLECTIONS, &spec.collections.postgres).await;
    let state = match spec.state.as_ref().and_then(|state| state.postgres.as_ref()) {
        Some(postgres) => reader.database(STATE, postgres).await,
        None => collections.clone(),
    };
    let source = reader.source(spec).await;
    let destination = reader
        .cluster(
            "spec.destination",
            spec.destination.credentials_secret_ref.as_ref(),
            spec.destination.ca_secret_ref.as_ref(),
        )
        .await;
    match (collections, state, source, destination) {
        (Some(collections), Some(state), Some(source), Some(destination)) => {
            Ok(Secrets { collections, state, source, destination })
        }
        _ => Err(MergeError::Problems { category: MergeCategory::SecretInvalid, problems: reader.problems }),
    }
}

/// Reads only what leads to the state database.
pub async fn resolve_state(
    spec: &EsIndexMergeSpec,
    secrets: &impl SecretSource,
) -> Result<Login, MergeError> {
    let mut reader = Reader { secrets, problems: Vec::new() };
    let own = spec.state.as_ref().and_then(|state| state.postgres.as_ref());
    let field = if own.is_some() { STATE } else { COLLECTIONS };
    let login = reader.database(field, spec.state_postgres()).await;
    login.ok_or(MergeError::Problems { category: MergeCategory::SecretInvalid, problems: reader.problems })
}

/// Reads only what leads to the source cluster.
pub async fn resolve_source(
    spec: &EsIndexMergeSpec,
    secrets: &impl SecretSource,
) -> Result<ClusterAccess, MergeError> {
    let mut reader = Reader { secrets, problems: Vec::new() };
    let access = reader.source(spec).await;
    access.ok_or(MergeError::Problems { category: MergeCategory::SecretInvalid, problems: reader.problems })
}

const COLLECTIONS: &str = "spec.collections.postgres";
const STATE: &str = "spec.state.postgres";

impl Secrets {
    /// Changes when any value changes, so that a rotation is noticed without keeping the values around.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for login in [&self.collections, &self.state] {
            login.url.expose_secret().hash(&mut hasher);
            login.ca_pem.hash(&mut hasher);
        }
        for access in [&self.source, &self.destination] {
            match &access.credentials {
                Credentials::Anonymous => 0.hash(&mut hasher),
                Credentials::Basic { username, password } => {
                    (1, username, password.expose_secret()).hash(&mut hasher);
                }
                Credentials::ApiKey(key) => (2, key.expose_secret()).hash(&mut hasher),
            }
            access.ca_pem.hash(&mut hasher);
            access.identity_pem.as_ref().map(ExposeSecret::expose_secret).hash(&mut hasher);
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

    async fn database(&mut self, field: &str, postgres: &PostgresRef) -> Option<Login> {
        let reference = &postgres.url_secret_ref;
        let url_field = format!("{field}.urlSecretRef");
        let url = match self.key(&url_field, reference).await {
            Some(value) => {
                let what = format!("key {:?} of secret {:?}", reference.key, reference.name);
                self.text(&url_field, &what, value).map(SecretString::from)
            }
            None => None,
        };
        let ca_pem = self.authority(field, postgres.ca_secret_ref.as_ref()).await;
        Some(Login { url: url?, ca_pem: ca_pem? })
    }

    async fn source(&mut self, spec: &EsIndexMergeSpec) -> Option<ClusterAccess> {
        let source = &spec.source;
        let (credentials, ca) = (source.credentials_secret_ref.as_ref(), source.ca_secret_ref.as_ref());
        self.cluster("spec.source", credentials, ca).await
    }

    /// `Some(None)`: none is named.
    async fn authority(&mut self, field: &str, reference: Option<&SecretKeyRef>) -> Option<Option<Vec<u8>>> {
        match reference {
            Some(reference) => self.key(&format!("{field}.caSecretRef"), reference).await.map(Some),
            None => Some(None),
        }
    }

    async fn cluster(
        &mut self,
        field: &str,
        credentials: Option<&SecretRef>,
        ca: Option<&SecretKeyRef>,
    ) -> Option<ClusterAccess> {
        let known = match credentials {
            Some(reference) => {
                self.credentials(&format!("{field}.credentialsSecretRef"), &reference.name).await
            }
            None => Some((Credentials::Anonymous, None)),
        };
        let ca_pem = self.authority(field, ca).await;
        let (credentials, identity_pem) = known?;
        Some(ClusterAccess { credentials, ca_pem: ca_pem?, identity_pem })
    }

    /// Who we are: by name or key, by a certificate (as `kubernetes.io/tls` secrets hold it), or by both.
    async fn credentials(&mut self, field: &str, name: &str) -> Option<(Credentials, Option<SecretString>)> {
        let mut keys = self.secret(field, name).await?;
        let what = |key: &str| format!("key {key:?} of secret {name:?}");
        let identity = match (keys.remove(CERTIFICATE), keys.remove(CERTIFICATE_KEY)) {
            (Some(certificate), Some(key)) => {
                Some(self.identity(field, &what(CERTIFICATE_KEY), certificate, key)?)
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                let message = format!(
                    "the secret {name:?} has only one of the keys tls.crt and tls.key; add the other"
                );
                self.problem(field, message);
                return None;
            }
        };
        if let Some(api_key) = keys.remove("api_key") {
            let key = self.text(field, &what("api_key"), api_key)?;
            return Some((Credentials::ApiKey(SecretString::from(key)), identity));
        }
        match (keys.remove("username"), keys.remove("password")) {
            (Some(username), Some(password)) => {
                let username = self.text(field, &what("username"), username);
                let password = self.text(field, &what("password"), password);
                let password = SecretString::from(password?);
                Some((Credentials::Basic { username: username?, password }, identity))
            }
            (None, None) if identity.is_some() => Some((Credentials::Anonymous, identity)),
            _ => {
                let message = format!(
                    "the secret {name:?} has neither the keys username and password, nor the key api_key, nor the keys tls.crt and tls.key; add them"
                );
                self.problem(field, message);
                None
            }
        }
    }

    /// Certificate and key as one text.
    fn identity(
        &mut self,
        field: &str,
        what: &str,
        certificate: Vec<u8>,
        key: Vec<u8>,
    ) -> Option<SecretString> {
        let (Ok(certificate), Ok(key)) = (String::from_utf8(certificate), String::from_utf8(key)) else {
            self.problem(
                field,
                format!("the certificate beside {what} or its key is not PEM text; write it anew"),
            );
            return None;
        };
        Some(SecretString::from(format!("{}\n{}\n", key.trim(), certificate.trim())))
    }
}

/// The key of a secret with our certificate; as in secrets of type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
/// The key of a secret with the private key of our certificate.
const CERTIFICATE_KEY: &str = "tls.key";
