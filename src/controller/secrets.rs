//! Secrets of the resource's namespace, read by name at use.
//!
//! Only `get`: nothing is listed, watched or cached, so the controller needs no right to see any other secret and
//! holds none in memory that it does not use.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::merge::secrets::{SecretProblem, SecretSource};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The secrets of one namespace.
pub(super) struct NamespaceSecrets {
    api: Api<Secret>,
    namespace: String,
}

impl NamespaceSecrets {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned() }
    }
}

impl SecretSource for NamespaceSecrets {
    async fn read(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>, SecretProblem> {
        match tokio::time::timeout(TIMEOUT, self.api.get_opt(name)).await {
            Ok(Ok(Some(secret))) => {
                Ok(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect())
            }
            Ok(Ok(None)) => Err(SecretProblem::Missing { place: format!("namespace {:?}", self.namespace) }),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => Err(SecretProblem::Unreadable {
                message: format!(
                    "the controller's service account may not get secrets in namespace {:?}; bind it to a role \
                     that allows `get` on `secrets` there",
                    self.namespace
                ),
            }),
            Ok(Err(error)) => Err(SecretProblem::Unreadable { message: error.to_string() }),
            Err(_) => Err(SecretProblem::Unreadable { message: "no answer within 10 s".to_owned() }),
        }
    }
}
