//! The old layout in Elasticsearch: one index for each collection, named by the collection's id.
//!
//! Several mappings are found in the wild, and the same `_source` under all of them.

use serde_json::{Value, json};

use crate::cluster::Cluster;

/// How an old index was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Explicit, with `french_analyzer` and `metadata` as a dynamic object.
    French,
    /// Explicit, with dynamic templates for `metadata` and without date detection.
    Templates,
    /// Not created at all: the first bulk made it, with dynamic mapping.
    Automatic,
    /// From before dense vectors were mapped dynamically: `embedding` is `float`.
    FloatVectors,
    /// `metadata` stored and not indexed, so it may hold anything.
    Opaque,
}

impl Mapping {
    /// Every mapping, for data that should meet all of them.
    pub const ALL: [Self; 5] =
        [Self::French, Self::Templates, Self::Automatic, Self::FloatVectors, Self::Opaque];

    /// What `PUT /{index}` is sent; `None` when the first bulk creates the index.
    #[must_use]
    pub fn body(self, dimensions: usize, shards: u32) -> Option<Value> {
        let vector =
            json!({"type": "dense_vector", "dims": dimensions, "index": true, "similarity": "cosine"});
        let french = json!({
            "filter": {
                "french_stop": {"type": "stop", "stopwords": "_french_"},
                "french_stemmer": {"type": "stemmer", "language": "light_french"},
            },
            "analyzer": {
                "french_analyzer": {"type": "custom", "tokenizer": "standard", "filter": ["lowercase", "french_stop", "french_stemmer"]},
            },
        });
        let settings = json!({"number_of_shards": shards, "number_of_replicas": 0});
        match self {
            Self::Automatic => None,
            Self::French => Some(json!({
                "settings": {"number_of_shards": shards, "number_of_replicas": 0, "similarity": {"default": {"type": "BM25"}}, "analysis": french},
                "mappings": {"properties": {
                    "id": {"type": "integer"},
                    "embedding": vector,
                    "content": {"type": "text", "analyzer": "french_analyzer"},
                    "metadata": {"type": "object", "dynamic": true},
                }},
            })),
            Self::Templates => Some(json!({
                "settings": settings,
                "mappings": {
                    "date_detection": false,
                    "dynamic_templates": [
                        {"metadata_strings": {"path_match": "metadata.*", "match_mapping_type": "string", "mapping": {"type": "keyword", "ignore_above": 1024}}},
                    ],
                    "properties": {"id": {"type": "integer"}, "embedding": vector, "content": {"type": "text"}},
                },
            })),
            Self::FloatVectors => Some(json!({
                "settings": settings,
                "mappings": {"properties": {
                    "id": {"type": "integer"},
                    "embedding": {"type": "float"},
                    "content": {"type": "text"},
                }},
            })),
            Self::Opaque => Some(json!({
                "settings": settings,
                "mappings": {"properties": {
                    "id": {"type": "integer"},
                    "embedding": vector,
                    "content": {"type": "text"},
                    "metadata": {"type": "object", "enabled": false},
                }},
            })),
        }
    }

    /// True when the server may be sent base64 vectors for an index with this mapping: the field is a dense
    /// vector, and the server takes the vector out of `_source`, so that no reader meets the text.
    #[must_use]
    pub fn takes_base64(self, cluster: &Cluster) -> bool {
        cluster.version() >= (9, 3) && matches!(self, Self::French | Self::Templates | Self::Opaque)
    }
}
