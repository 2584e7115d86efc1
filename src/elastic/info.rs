//! What an index is like: settings and mapping, reduced to what decides how it is read. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::names::{IndexUuid, Version};
use super::shard_log::ReadLane;

/// An index's settings and mapping.
#[allow(clippy::struct_excessive_bools)] // Independent facts, not a state.
#[derive(Debug, Clone)]
pub struct IndexInfo {
    /// Its uuid.
    pub uuid: IndexUuid,
    /// Number of its primary shards.
    pub shards: i32,
    /// The version that created it, as far as the server says it.
    pub created: Version,
    /// Whether vectors are left out of `_source` unless asked for.
    pub vectors_hidden: bool,
    /// Whether `_source` is kept, whole and as it was sent.
    pub source_complete: bool,
    /// Whether windows of sequence numbers can be read.
    pub seq_no_searchable: bool,
    /// Whether a block refuses writes.
    pub write_blocked: bool,
    /// Most hits of one search.
    pub max_result_window: u32,
    /// Its aliases.
    pub aliases: BTreeSet<String>,
    /// The whole mapping: `properties` and its siblings.
    pub mapping: Value,
    /// The settings that were set explicitly, flat, for instance `index.number_of_shards`.
    pub settings: Map<String, Value>,
}

/// The server's default of `index.max_result_window`.
const DEFAULT_RESULT_WINDOW: u32 = 10_000;

impl IndexInfo {
    /// From the explicit and the default settings, both flat; `None` if they lack what every index has.
    pub(super) fn new(
        mapping: Value,
        settings: Map<String, Value>,
        defaults: &Map<String, Value>,
    ) -> Option<Self> {
        let setting = |key: &str| settings.get(key).or_else(|| defaults.get(key)).and_then(Value::as_str);
        let is_true = |key: &str| setting(key) == Some("true");
        let created = setting("index.version.created_string").or_else(|| setting("index.version.created"));
        Some(Self {
            uuid: IndexUuid(setting("index.uuid")?.to_owned()),
            shards: setting("index.number_of_shards")?.parse().ok().filter(|shards| *shards > 0)?,
            created: created.and_then(created_version).unwrap_or(Version::new(0, 0, 0)),
            vectors_hidden: is_true("index.mapping.exclude_source_vectors"),
            source_complete: has_complete_source(&mapping, setting("index.mapping.source.mode")),
            seq_no_searchable: !is_true("index.disable_sequence_numbers"),
            write_blocked: is_true("index.blocks.write") || is_true("index.blocks.read_only"),
            max_result_window: setting("index.max_result_window")
                .and_then(|text| text.parse().ok())
                .unwrap_or(DEFAULT_RESULT_WINDOW),
            aliases: BTreeSet::new(),
            mapping,
            settings,
        })
    }

    /// The cheapest lane that is sure to return the vector of each chunk, on a server of that version.
    #[must_use]
    pub fn read_lane(&self, server: Version, vector_field: &str) -> ReadLane {
        if !self.vectors_hidden {
            return ReadLane::Source { ask_for_vectors: false };
        }
        if server.at_least(9, 4) && self.has_float_vector(vector_field) {
            return ReadLane::Binary { field: vector_field.to_owned() };
        }
        // What knows how to hide them knows the option, also if it was upgraded since we asked for its version.
        ReadLane::Source { ask_for_vectors: true }
    }

    fn has_float_vector(&self, field: &str) -> bool {
        let Some(mapping) = self.mapping.get("properties").and_then(|properties| properties.get(field))
        else {
            return false;
        };
        let is = |key: &str, wanted: &str| mapping.get(key).and_then(Value::as_str) == Some(wanted);
        // Not every mode has float for its default.
        let is_standard =
            self.settings.get("index.mode").and_then(Value::as_str).is_none_or(|mode| mode == "standard");
        let is_float = is("element_type", "float") || (is_standard && mapping.get("element_type").is_none());
        let is_indexed = mapping.get("index").and_then(Value::as_bool) != Some(false);
        is("type", "dense_vector") && is_float && is_indexed
    }
}

fn has_complete_source(mapping: &Value, mode: Option<&str>) -> bool {
    let source = mapping.get("_source");
    let of_source = |key: &str| source.and_then(|source| source.get(key));
    let is_empty_list = |key: &str| of_source(key).and_then(Value::as_array).is_none_or(Vec::is_empty);
    let is_stored = |mode: Option<&str>| mode.is_none_or(|mode| mode.eq_ignore_ascii_case("stored"));
    of_source("enabled").and_then(Value::as_bool) != Some(false)
        && is_empty_list("includes")
        && is_empty_list("excludes")
        && is_stored(of_source("mode").and_then(Value::as_str))
        && is_stored(mode)
}

/// `8.19.8`, or the number form `8111099` (8.11.10) of releases before 8.12.
fn created_version(text: &str) -> Option<Version> {
    if let Some(version) = Version::parse(text) {
        return Some(version);
    }
    let number: u32 = text.parse().ok()?;
    // From 8.12 on the number counts index formats: only its first part is the major version.
    let (major, rest) = (number / 1_000_000, number % 1_000_000);
    if rest >= 500_000 || major >= 9 {
        return Some(Version::new(major, 0, 0));
    }
    Some(Version::new(major, rest / 10_000, rest / 100 % 100))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn info(mapping: Value, settings: &Value, defaults: &Value) -> IndexInfo {
        let mut all =
            json!({"index.uuid": "u", "index.number_of_shards": "2", "index.version.created": "8111099"});
        for (key, value) in settings.as_object().unwrap() {
            all[key] = value.clone();
        }
        let Value::Object(all) = all else { panic!("an object") };
        IndexInfo::new(mapping, all, defaults.as_object().unwrap()).unwrap()
    }

    fn vector(extra: &Value) -> Value {
        let mut field = json!({"type": "dense_vector", "dims": 3});
        for (key, value) in extra.as_object().unwrap() {
            field[key] = value.clone();
        }
        json!({"properties": {"embedding": field}})
    }

    #[test]
    fn the_lane_follows_the_version_and_what_the_index_hides() {
        let plain = ReadLane::Source { ask_for_vectors: false };
        let asking = ReadLane::Source { ask_for_vectors: true };
        let binary = ReadLane::Binary { field: "embedding".into() };
        let hidden = json!({"index.mapping.exclude_source_vectors": "true"});
        let shown = info(vector(&json!({})), &json!({}), &json!({}));
        let hides = info(vector(&json!({})), &json!({}), &hidden);
        for version in [(8, 11), (8, 19), (9, 0), (9, 1), (9, 4)] {
            assert_eq!(shown.read_lane(Version::new(version.0, version.1, 0), "embedding"), plain);
        }
        assert_eq!(hides.read_lane(Version::new(9, 0, 2), "embedding"), asking, "upgraded since");
        assert_eq!(hides.read_lane(Version::new(9, 2, 0), "embedding"), asking);
        assert_eq!(hides.read_lane(Version::new(9, 4, 0), "embedding"), binary);
        let explicit = info(vector(&json!({"element_type": "float"})), &hidden, &json!({}));
        assert_eq!(explicit.read_lane(Version::new(9, 5, 0), "embedding"), binary);
    }

    #[test]
    fn binary_doc_values_are_read_only_of_float_vectors() {
        let hidden = json!({"index.mapping.exclude_source_vectors": "true"});
        let asking = ReadLane::Source { ask_for_vectors: true };
        let server = Version::new(9, 5, 0);
        for element_type in ["byte", "bit", "bfloat16"] {
            let index = info(vector(&json!({"element_type": element_type})), &hidden, &json!({}));
            assert_eq!(index.read_lane(server, "embedding"), asking, "{element_type}");
        }
        let text = info(json!({"properties": {"embedding": {"type": "float"}}}), &hidden, &json!({}));
        assert_eq!(text.read_lane(server, "embedding"), asking);
        let other_mode = info(
            vector(&json!({})),
            &json!({"index.mapping.exclude_source_vectors": "true", "index.mode": "vectordb_document"}),
            &json!({}),
        );
        assert_eq!(other_mode.read_lane(server, "embedding"), asking);
        assert_eq!(other_mode.read_lane(server, "elsewhere"), asking);
    }

    #[test]
    fn a_source_that_is_not_kept_whole_is_seen() {
        let complete = |mapping: Value, settings: Value| info(mapping, &settings, &json!({})).source_complete;
        assert!(complete(json!({}), json!({})));
        assert!(complete(json!({"_source": {"includes": []}}), json!({})));
        assert!(!complete(json!({"_source": {"enabled": false}}), json!({})));
        assert!(!complete(json!({"_source": {"excludes": ["embedding"]}}), json!({})));
        assert!(!complete(json!({"_source": {"mode": "synthetic"}}), json!({})));
        assert!(!complete(json!({}), json!({"index.mapping.source.mode": "SYNTHETIC"})));
        assert!(complete(json!({}), json!({"index.mapping.source.mode": "STORED"})));
    }

    #[test]
    fn an_index_without_shards_is_none() {
        let of = |shards: &str| {
            let Value::Object(all) = json!({"index.uuid": "u", "index.number_of_shards": shards}) else {
                panic!("an object")
            };
            IndexInfo::new(json!({}), all, &Map::new()).map(|info| info.shards)
        };
        assert_eq!([of("3"), of("0"), of("-1"), of("x")], [Some(3), None, None, None]);
    }

    #[test]
    fn the_creating_version_is_read_in_both_forms() {
        assert_eq!(created_version("8.19.8"), Some(Version::new(8, 19, 8)));
        assert_eq!(created_version("8111099"), Some(Version::new(8, 11, 10)));
        assert_eq!(created_version("8525000"), Some(Version::new(8, 0, 0)));
        assert_eq!(created_version("9039003"), Some(Version::new(9, 0, 0)));
        assert_eq!(created_version("nonsense"), None);
    }
}
