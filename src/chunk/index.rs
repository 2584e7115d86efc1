//! The destination's settings and mappings: as they are created, and whether an index that exists
//! already has them. One that was just created may have others: index templates add to what is asked for.
//!
//! What a server leaves out of its answer because it is the default is no difference; what it adds
//! is none either, unless it changes how text is analysed, or what is kept and found of a document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Contract, Language};

/// What the destination has to be.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexSpec {
    /// Which application reads it.
    pub contract: Contract,
    /// The language its content is analysed for.
    pub language: Language,
    /// Primary shards.
    pub shards: u32,
    /// Replicas of each.
    pub replicas: u32,
    /// Elements of an embedding.
    pub vector_size: u32,
    /// The `index_options` of `embedding`. Always said, never left to the server's release.
    pub index_options: Value,
    /// Other `index_options` that an index which is there may have as well.
    pub also_fitting: Vec<Value>,
    /// The `index_options` to create with, where the load uses others (`flat`).
    pub load_options: Option<Value>,
}

/// The body of the request that creates the index.
#[must_use]
pub fn index_body(spec: &IndexSpec) -> Value {
    let mut properties = Map::new();
    for field in ["id", "collection_id", "document_id"] {
        properties.insert(field.to_owned(), json!({"type": "integer"}));
    }
    if spec.contract.has_document_name() {
        properties.insert("document_name".to_owned(), json!({"type": "keyword"}));
    }
    let index_options = spec.load_options.as_ref().unwrap_or(&spec.index_options);
    properties.insert(
        "embedding".to_owned(),
        json!({
            "type": "dense_vector",
            "dims": spec.vector_size,
            "index": true,
            "similarity": "cosine",
            "index_options": index_options,
        }),
    );
    properties.insert("content".to_owned(), json!({"type": "text", "analyzer": "content_analyzer"}));
    properties.insert("metadata".to_owned(), json!({"type": "flattened"}));
    properties.insert("created".to_owned(), json!({"type": "date"}));
    json!({
        "settings": {
            "number_of_shards": spec.shards,
            "number_of_replicas": spec.replicas,
            "similarity": {"default": {"type": "BM25"}},
            "analysis": analysis(spec.language),
        },
        "mappings": {"properties": properties},
    })
}

fn analysis(language: Language) -> Value {
    json!({
        "filter": {
            "stop": {"type": "stop", "stopwords": language.stopwords()},
            "stemmer": {"type": "stemmer", "language": language.stemmer()},
        },
        "analyzer": {
            "content_analyzer": {
                "type": "custom",
                "tokenizer": "standard",
                "filter": ["lowercase", "stop", "stemmer"],
            },
        },
    })
}

/// What keeps an existing index from being the destination: one sentence each, with the field,
/// what was found, what is wanted and what to do. Empty: it fits.
///
/// `mapping` is the index's mapping (`{"properties": ...}`, or its properties alone), `settings`
/// its explicit settings, flat or nested.
#[must_use]
pub fn differences(spec: &IndexSpec, mapping: &Value, settings: &Value) -> Vec<String> {
    let wanted = index_body(spec);
    let properties = mapping.get("properties").filter(|inner| inner.is_object()).unwrap_or(mapping);
    let mut found = Vec::new();
    if let Some(fields) = wanted["mappings"]["properties"].as_object() {
        for (name, field) in fields {
            if mapping.get("runtime").is_some_and(|runtime| runtime.get(name).is_some()) {
                found.push(format!(
                    "the runtime field `{name}` hides the field of that name; remove it from the mapping, \
                     which is possible at any time"
                ));
            }
            match properties.get(name) {
                None => found.push(format!(
                    "field `{name}` is not mapped, wanted {}; {CHOOSE_ANOTHER}",
                    field["type"]
                )),
                Some(existing) if name == "embedding" => embedding(spec, existing, &mut found),
                Some(existing) => compare_field(name, field, existing, &mut found),
            }
        }
    }
    if mapping.pointer("/_routing/required") == Some(&Value::Bool(true)) {
        found.push(format!(
            "the mapping requires a `_routing`, so nothing can be written by its id alone; {CHOOSE_ANOTHER}"
        ));
    }
    compare_settings(spec, settings, &mut found);
    found
}

/// What would alter or take away what is written to an index, whoever writes it: one sentence each, with what
/// was found, why it must go and how. Empty: nothing.
///
/// `settings` are its explicit settings, flat or nested. All of this may be changed at any time.
#[must_use]
pub fn interferences(settings: &Value) -> Vec<String> {
    let mut paths = BTreeMap::new();
    flatten("", settings, &mut paths);
    let explicit = |setting: &str| {
        let value = paths.get(setting).or_else(|| paths.get(&format!("index.{setting}")))?;
        // A template may set it to nothing.
        (!value.is_null()).then(|| plain(value)).filter(|text| !text.is_empty())
    };
    let mut found = Vec::new();
    // A bulk can leave out the pipeline that is the default, but not the final one.
    if let Some(pipeline) = explicit("final_pipeline").filter(|pipeline| pipeline != NO_PIPELINE) {
        found.push(format!(
            "setting `final_pipeline` is `{pipeline}`, wanted none, as it may change what is written; \
             set it to `{NO_PIPELINE}` until the merge is complete"
        ));
    }
    if let Some(policy) = explicit("lifecycle.name") {
        found.push(format!(
            "setting `lifecycle.name` is `{policy}`, wanted none, as that policy may delete the index, replace it \
             or block its writes; take it off (`POST INDEX/_ilm/remove`) until the merge is complete, and for \
             good if it deletes what is needed"
        ));
    }
    found
}

/// The name that stands for no pipeline.
const NO_PIPELINE: &str = "_none";

/// The least `index.max_result_window`: as many documents are asked for at once. It is the server's default.
const RESULT_WINDOW: u32 = 10_000;

const CHOOSE_ANOTHER: &str = "choose another spec.destination.index.name (it cannot be changed: create the resource \
     anew), or delete that index if nothing needs it";
/// After a remedy that names fields of the spec: none of those here can be changed.
const ANEW: &str = "(they cannot be changed: create the resource anew)";

fn compare_field(name: &str, wanted: &Value, found: &Value, report: &mut Vec<String>) {
    // An object with sub-fields has no type of its own in the server's answer.
    let object = json!("object");
    let kind = found.get("type").unwrap_or(&object);
    if *kind != wanted["type"] {
        report.push(format!("field `{name}` is of type {kind}, wanted {}; {CHOOSE_ANOTHER}", wanted["type"]));
        return;
    }
    if let Some(analyzer) = wanted.get("analyzer")
        && found.get("analyzer") != Some(analyzer)
    {
        let existing = found.get("analyzer").map_or_else(|| "the default one".to_owned(), Value::to_string);
        report.push(format!("field `{name}` has analyzer {existing}, wanted {analyzer}; {CHOOSE_ANOTHER}"));
    }
    for (option, default) in [("index", true), ("doc_values", true)] {
        if found.get(option).and_then(Value::as_bool).unwrap_or(default) != default {
            report.push(format!("field `{name}` has {option} false, wanted true; {CHOOSE_ANOTHER}"));
        }
    }
    if name == "created"
        && let Some(format) = found.get("format").and_then(Value::as_str)
        && !["strict_date_optional_time", "date_optional_time", "iso8601"]
            .iter()
            .any(|iso| format.contains(iso))
    {
        report.push(format!(
            "field `created` has format `{format}`, wanted one that reads ISO 8601; {CHOOSE_ANOTHER}"
        ));
    }
}

fn embedding(spec: &IndexSpec, found: &Value, report: &mut Vec<String>) {
    let text = |option: &str, default: &str| {
        found.get(option).map_or_else(
            || default.to_owned(),
            |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        )
    };
    let kind = text("type", "object");
    if kind != "dense_vector" {
        report
            .push(format!("field `embedding` is of type `{kind}`, wanted `dense_vector`; {CHOOSE_ANOTHER}"));
        return;
    }
    let dims = text("dims", "0");
    if dims != spec.vector_size.to_string() {
        report.push(format!(
            "field `embedding` has {dims} dimensions, wanted {}; choose another spec.destination.index.name or \
             spec.destination.index.vectorSize {ANEW}",
            spec.vector_size
        ));
    }
    for (option, default) in [("similarity", "cosine"), ("element_type", "float"), ("index", "true")] {
        let existing = text(option, default);
        if existing != default {
            report.push(format!(
                "field `embedding` has {option} `{existing}`, wanted `{default}`; {CHOOSE_ANOTHER}"
            ));
        }
    }
    // Absent: an old server's default, which it does not print.
    let Some(options) = found.get("index_options") else { return };
    let fits = |wanted: &Value| {
        wanted.as_object().is_some_and(|wanted| {
            wanted.iter().all(|(option, value)| {
                let existing = options.get(option);
                existing.is_none_or(|existing| is_same_setting(existing, value))
                    && (option != "type" || existing.is_some())
            })
        })
    };
    let mut fitting = spec.load_options.iter().chain([&spec.index_options]).chain(&spec.also_fitting);
    if !fitting.any(fits) {
        report.push(format!(
            "field `embedding` has index_options {options}, wanted {}; choose other \
             spec.destination.index.vectorIndexOptions or another spec.destination.index.name {ANEW}",
            spec.index_options
        ));
    }
}

fn compare_settings(spec: &IndexSpec, settings: &Value, report: &mut Vec<String>) {
    let mut found = BTreeMap::new();
    flatten("", settings, &mut found);
    let found: BTreeMap<&str, &Value> =
        found.iter().map(|(path, value)| (path.strip_prefix("index.").unwrap_or(path), *value)).collect();

    if let Some(shards) = found.get("number_of_shards")
        && !is_same_setting(shards, &json!(spec.shards))
    {
        report.push(format!(
            "the index has {} shards, wanted {}; choose another spec.destination.index.numberOfShards or \
             spec.destination.index.name {ANEW}",
            plain(shards),
            spec.shards
        ));
    }
    if let Some(similarity) = found.get("similarity.default.type")
        && !is_same_setting(similarity, &json!("BM25"))
    {
        report.push(format!(
            "the default similarity is `{}`, wanted `BM25`; {CHOOSE_ANOTHER}",
            plain(similarity)
        ));
    }
    if let Some(window) = found.get("max_result_window")
        && plain(window).parse().is_ok_and(|window: u32| window < RESULT_WINDOW)
    {
        report.push(format!(
            "setting `max_result_window` is {}, wanted {RESULT_WINDOW} or more; raise it, which is possible at any time",
            plain(window)
        ));
    }
    let analysis = json!({"analysis": analysis(spec.language)});
    let mut wanted = BTreeMap::new();
    flatten("", &analysis, &mut wanted);
    let remedy =
        format!("choose another spec.destination.index.language or spec.destination.index.name {ANEW}");
    for (path, value) in &wanted {
        match found.get(path.as_str()) {
            Some(existing) if is_same_setting(existing, value) => {}
            Some(existing) => {
                report.push(format!("setting `{path}` is {existing}, wanted {value}; {remedy}"));
            }
            // An analyzer with a tokenizer is a custom one, said or not.
            None if path == "analysis.analyzer.content_analyzer.type" => {}
            None => report.push(format!("setting `{path}` is absent, wanted {value}; {remedy}")),
        }
    }
    let ours = ["analysis.filter.stop.", "analysis.filter.stemmer.", "analysis.analyzer.content_analyzer."];
    for (path, value) in &found {
        if ours.iter().any(|prefix| path.starts_with(prefix)) && !wanted.contains_key(*path) {
            report.push(format!("setting `{path}` is {value}, wanted nothing; {remedy}"));
        }
    }
}

/// Dotted paths to everything that is no object.
fn flatten<'a>(prefix: &str, value: &'a Value, into: &mut BTreeMap<String, &'a Value>) {
    // As deep as a settings document, which the server bounds and serde_json limits to 128.
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, member, into);
            }
        }
        other => {
            into.insert(prefix.to_owned(), other);
        }
    }
}

/// Settings come back as strings, whatever they were given as.
fn is_same_setting(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| is_same_setting(a, b))
        }
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| found.get(key).is_none_or(|existing| is_same_setting(existing, value))),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => plain(found) == plain(wanted),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
