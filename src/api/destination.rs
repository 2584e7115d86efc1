//! `spec.destination`: the cluster and the index that receive every chunk.

use std::{fmt, str::FromStr};

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    rules,
    spec::{SecretKeyRef, SecretRef},
};

/// The cluster and the index that receive every chunk.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::immutable_url("spec.destination"),
    validation = rules::ca_or_insecure("spec.destination")
)]
pub struct DestinationSpec {
    /// `https://host:port` of the cluster; several of its nodes are separated by commas. No user name and no
    /// password here. It may be the cluster of the sources. Immutable.
    #[schemars(length(min = 8, max = 2048))]
    #[x_kube(
        validation = rules::url_without_credentials("spec.destination.url"),
        validation = rules::url_form("spec.destination.url")
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

    /// The index. It is created if it does not exist; an existing one is used if it is exactly what the contract asks
    /// for, otherwise every difference is reported.
    pub index: IndexSpec,
}

/// The index that receives every chunk.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::immutable("spec.destination.index", "name"),
    validation = rules::immutable_with_default("spec.destination.index", "numberOfShards", "24"),
    validation = rules::immutable("spec.destination.index", "language"),
    validation = rules::immutable("spec.destination.index", "vectorSize"),
    validation = rules::immutable_object("spec.destination.index", "vectorIndexOptions"),
    validation = rules::int4_needs_an_even_size(),
    validation = rules::bbq_needs_a_long_vector()
)]
pub struct IndexSpec {
    /// The name of the index: lower case, at most 242 bytes, not a number (the sources have numbers as names).
    /// Immutable.
    #[schemars(length(min = 1, max = 242))]
    #[x_kube(
        validation = rules::index_name(),
        validation = rules::index_name_is_no_number()
    )]
    pub name: String,

    /// How many primary shards the index has, 1 to 1024. Left out: 24. Immutable.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 1024))]
    pub number_of_shards: u32,

    /// How many copies of each shard there are besides the primary, 0 to 100. While the index is loaded there are
    /// none. Left out: 1.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub number_of_replicas: u32,

    /// The language whose stop words and stems the field `content` is analysed with: french, english, german,
    /// italian, portuguese, spanish, swedish or dutch. Immutable.
    pub language: Language,

    /// How many dimensions each embedding has, 1 to 4096. A chunk whose embedding has another size is quarantined.
    /// Immutable.
    #[schemars(range(min = 1, max = 4096))]
    pub vector_size: u32,

    /// How the embeddings are indexed for search. Left out: the best type that the version of the destination has for
    /// this `vectorSize`, chosen once and then pinned. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_index_options: Option<VectorIndexOptions>,
}

fn default_shards() -> u32 {
    24
}

fn default_replicas() -> u32 {
    1
}

/// How the embeddings are indexed for search.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::graph_options_need_a_graph())]
pub struct VectorIndexOptions {
    /// The type, as Elasticsearch names it: hnsw, `int8_hnsw`, `int4_hnsw` or `bbq_hnsw` (a graph over whole or
    /// quantised vectors); flat, `int8_flat`, `int4_flat` or `bbq_flat` (no graph: every search reads every vector).
    /// int4 needs an even `vectorSize`, bbq at least 64.
    #[serde(rename = "type")]
    pub type_: VectorIndexType,

    /// How many neighbours each vector has in the graph, 2 to 512. Left out: 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 512))]
    pub m: Option<u32>,

    /// How many candidates are looked at when a vector is put into the graph, 2 to 3200. Left out: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 3200))]
    pub ef_construction: Option<u32>,
}

/// The types of vector index that Elasticsearch knows for float vectors.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum VectorIndexType {
    /// A graph over whole vectors.
    Hnsw,
    /// A graph over vectors of one byte for each dimension.
    Int8Hnsw,
    /// A graph over vectors of half a byte for each dimension.
    Int4Hnsw,
    /// A graph over vectors of one bit for each dimension.
    BbqHnsw,
    /// Whole vectors without a graph.
    Flat,
    /// One byte for each dimension, without a graph.
    Int8Flat,
    /// Half a byte for each dimension, without a graph.
    Int4Flat,
    /// One bit for each dimension, without a graph.
    BbqFlat,
}

impl VectorIndexType {
    /// The name as Elasticsearch and the resource write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hnsw => "hnsw",
            Self::Int8Hnsw => "int8_hnsw",
            Self::Int4Hnsw => "int4_hnsw",
            Self::BbqHnsw => "bbq_hnsw",
            Self::Flat => "flat",
            Self::Int8Flat => "int8_flat",
            Self::Int4Flat => "int4_flat",
            Self::BbqFlat => "bbq_flat",
        }
    }

    /// Whether a graph is built.
    #[must_use]
    pub fn has_graph(self) -> bool {
        matches!(self, Self::Hnsw | Self::Int8Hnsw | Self::Int4Hnsw | Self::BbqHnsw)
    }
}

/// The language of the field `content`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // each is the language of that name
pub enum Language {
    French,
    English,
    German,
    Italian,
    Portuguese,
    Spanish,
    Swedish,
    Dutch,
}

impl Language {
    /// Every language, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::French,
        Self::English,
        Self::German,
        Self::Italian,
        Self::Portuguese,
        Self::Spanish,
        Self::Swedish,
        Self::Dutch,
    ];

    /// The name as it stands in the resource.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::French => "french",
            Self::English => "english",
            Self::German => "german",
            Self::Italian => "italian",
            Self::Portuguese => "portuguese",
            Self::Spanish => "spanish",
            Self::Swedish => "swedish",
            Self::Dutch => "dutch",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|language| language.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("`{text}` is not a language that the contracts know; use one of {known}")
        })
    }
}
