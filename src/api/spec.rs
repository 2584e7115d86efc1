//! `spec`: which merge this is. (Its destination is in `destination`, its tuning in `tuning`.)
#![allow(clippy::duplicated_attributes)] // each `printcolumn` of kube has its own `type_` and `priority`

use std::{fmt, str::FromStr};

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    destination::DestinationSpec,
    rules,
    status::EsIndexMergeStatus,
    tuning::{CutoverSpec, TolerationsSpec, VerificationSpec, WorkersSpec},
};

/// Merges many Elasticsearch indices, one for each collection of an application, into one index: resumable, live
/// and verified. The fields that say which merge this is (`collections.postgres.urlSecretRef`, `source.url`,
/// `destination.url`, most of `destination.index`, `contract`, `state`) never change; everything else may be
/// changed at any time.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "indexmerge.dev",
    version = "v1alpha1",
    kind = "EsIndexMerge",
    plural = "esindexmerges",
    singular = "esindexmerge",
    shortname = "esim",
    category = "indexmerge",
    namespaced,
    status = "EsIndexMergeStatus",
    derive = "PartialEq",
    doc = "Merges many Elasticsearch indices, one for each collection of an application, into one index: resumable, live and verified.",
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "How far the merge is"
    ),
    printcolumn(
        name = "Progress",
        type_ = "string",
        json_path = ".status.summary.progress",
        description = "Share of the phase's work that is done; empty in Indexing while only the server has work"
    ),
    printcolumn(
        name = "Collections",
        type_ = "string",
        json_path = ".status.summary.collections",
        description = "Collections done, of all"
    ),
    printcolumn(
        name = "Documents",
        type_ = "string",
        json_path = ".status.summary.documents",
        description = "Documents done, of all"
    ),
    printcolumn(
        name = "Rate",
        type_ = "string",
        json_path = ".status.summary.rate",
        description = "Documents per second"
    ),
    printcolumn(
        name = "ETA",
        type_ = "string",
        json_path = ".status.progress.eta",
        description = "When the phase is expected to end"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "True when the merge is complete and verified"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why: the phase, what is waited for, or what failed"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Destination",
        type_ = "string",
        json_path = ".spec.destination.index.name",
        priority = 1
    ),
    printcolumn(
        name = "Workers",
        type_ = "integer",
        json_path = ".status.workers",
        priority = 1,
        description = "How many processes hold work right now"
    ),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.lag", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::immutable("spec", "contract"),
    validation = rules::immutable_object("spec", "state"),
    validation = rules::alias_is_not_the_index(),
    validation = rules::alias_is_not_that_of_the_writers(),
    validation = rules::deletion_needs_a_full_verification(),
    validation = rules::retention_needs_a_deletion(),
    validation = rules::one_copy_stays()
)]
pub struct EsIndexMergeSpec {
    /// Which collections exist, according to the application's own database.
    pub collections: CollectionsSpec,

    /// The cluster that holds the indices to merge, one for each collection. They are only read, until the cutover
    /// blocks writes to them.
    pub source: ClusterSpec,

    /// The cluster and the index that receive every chunk.
    pub destination: DestinationSpec,

    /// How a chunk of a source becomes a chunk of the destination: `OpenGateLLM` or `OpenGateRAG`. It decides the
    /// settings and mappings of the destination, its ids and which fields are filled. Immutable.
    pub contract: Contract,

    /// Where the merge keeps its checkpoints. Left out: in the database of `collections.postgres`, in the schema
    /// `es_index_merge`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateSpec>,

    /// Who copies, and how hard.
    #[serde(default)]
    pub workers: WorkersSpec,

    /// How the result is verified before the merge may be called complete.
    #[serde(default)]
    pub verification: VerificationSpec,

    /// What the verdict may overlook.
    #[serde(default)]
    pub tolerations: TolerationsSpec,

    /// When and how the application moves from the sources to the destination.
    #[serde(default)]
    pub cutover: CutoverSpec,

    /// `true` stops the merge at its next checkpoint; nothing is held and nothing is lost. `false` (also when left
    /// out) continues where it stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// A new value tries again what has failed. Any text, for instance the date. Left out: empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub retry_token: String,

    /// What happens to the destination index when this resource is deleted: `Retain` (also when left out) leaves it
    /// as it is, `DeleteDestination` deletes it, if this merge created it and no source index was deleted. The sources
    /// are never touched by a deletion, so `DeleteDestination` is refused together with
    /// `cutover.deleteSources: AfterVerification`: one copy stays.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Which collections exist, according to the application's own database.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::immutable_database(),
    validation = rules::include_and_exclude_are_disjoint()
)]
pub struct CollectionsSpec {
    /// The application's Postgres. It is only read: the tables `collection` and, if there, `document`. Its
    /// `urlSecretRef` is immutable.
    pub postgres: PostgresRef,

    /// Ids of the only collections to merge. Left out or empty: all of them, also those that are created while the
    /// merge runs. At most 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(range(min = 0, max = 2_147_483_647)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub include: Vec<i64>,

    /// Ids of collections not to merge. The chunks of one that is named later are taken out of the destination again. At
    /// most 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(range(min = 0, max = 2_147_483_647)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub exclude: Vec<i64>,
}

/// A Postgres database.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PostgresRef {
    /// The Secret and its key that hold the URL: `postgresql://user:password@host:port/database`. The form with a
    /// driver, `postgresql+asyncpg://`, is understood too.
    pub url_secret_ref: SecretKeyRef,

    /// The Secret and its key that hold the certificate authority of the server, in PEM form. Its certificate is then
    /// verified, with the host name unless the URL says `sslmode=require` or `verify-ca`. Left out: as the URL says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// One key of a Secret in the namespace of this resource.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,

    /// The key in the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A Secret in the namespace of this resource.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// An Elasticsearch cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::immutable_url("spec.source"),
    validation = rules::ca_or_insecure("spec.source")
)]
pub struct ClusterSpec {
    /// `https://host:port` of the cluster; several of its nodes are separated by commas. No user name and no
    /// password here. Immutable.
    #[schemars(length(min = 8, max = 2048))]
    #[x_kube(
        validation = rules::url_without_credentials("spec.source.url"),
        validation = rules::url_form("spec.source.url")
    )]
    pub url: String,

    /// The Secret that holds either `username` and `password`, or `api_key`; beside them or alone also a client
    /// certificate, `tls.crt` and `tls.key`. Left out: no credentials are sent. The Secret is read again when it
    /// changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,

    /// The Secret and its key that hold the certificate authority of the cluster, in PEM form. Left out: the
    /// authorities that are publicly trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,

    /// `true` accepts any certificate, so that anybody on the way can read and change everything. For tests only.
    /// Left out: `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
}

/// Where the merge keeps its checkpoints.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StateSpec {
    /// The Postgres in which the checkpoints are written. Left out: that of `collections.postgres`. Name another
    /// one when the application's may not be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresRef>,

    /// The schema for the tables of the merge. It is created if it does not exist. Several merges may share it. Left
    /// out: `es_index_merge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    #[x_kube(validation = rules::schema_is_not_reserved())]
    pub schema: Option<String>,
}

impl EsIndexMergeSpec {
    /// The schema in which the merge keeps its tables.
    #[must_use]
    pub fn state_schema(&self) -> &str {
        self.state.as_ref().and_then(|state| state.schema.as_deref()).unwrap_or("es_index_merge")
    }

    /// The Postgres in which the merge keeps its tables.
    #[must_use]
    pub fn state_postgres(&self) -> &PostgresRef {
        self.state.as_ref().and_then(|state| state.postgres.as_ref()).unwrap_or(&self.collections.postgres)
    }
}

/// How a chunk of a source becomes a chunk of the destination.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contract {
    /// The index of `OpenGateLLM`, with `document_name`.
    OpenGateLLM,
    /// The index of `OpenGateRAG`, without `document_name`.
    OpenGateRAG,
}

impl Contract {
    /// The name as it stands in the resource.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenGateLLM => "OpenGateLLM",
            Self::OpenGateRAG => "OpenGateRAG",
        }
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Contract {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::OpenGateLLM, Self::OpenGateRAG]
            .into_iter()
            .find(|contract| contract.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a contract; use OpenGateLLM or OpenGateRAG"))
    }
}

/// What happens to the destination index when the resource is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// The destination index stays.
    #[default]
    Retain,
    /// The destination index is deleted.
    DeleteDestination,
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
