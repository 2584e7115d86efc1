//! What the schema of the definition says of a spec, where no API server is asked: which fields it does not know, and
//! which values are outside of its bounds.
//!
//! Pure. What must be there, and values of a list, are judged where the types are decoded; what the rules say is said
//! again by the engine.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// The schema of `spec`. It is derived, so it is there; should it ever not be, nothing is refused, and the tests of this
/// module say so.
static SPEC: LazyLock<Value> = LazyLock::new(|| {
    let mut crd = serde_json::to_value(super::crd()).unwrap_or_default();
    crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .map(Value::take)
        .unwrap_or_default()
});

/// The patterns in it.
static PATTERNS: LazyLock<HashMap<String, Regex>> = LazyLock::new(|| {
    let mut patterns = HashMap::new();
    collect_patterns(&SPEC, &mut patterns);
    patterns
});

fn collect_patterns(schema: &Value, into: &mut HashMap<String, Regex>) {
    if let Some(pattern) = schema["pattern"].as_str()
        && let Ok(regex) = Regex::new(pattern)
    {
        into.insert(pattern.to_owned(), regex);
    }
    for property in schema["properties"].as_object().into_iter().flat_map(serde_json::Map::values) {
        collect_patterns(property, into);
    }
}

/// A value that the schema refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its path, for instance `spec.cutover.aliases[1]`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// The fields of a spec, as it was written, that mean nothing: one that is misspelt would be left out unseen.
#[must_use]
pub fn unknown_fields(spec: &Value) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    walk("spec", spec, &SPEC, &mut |path, value, schema| {
        let (Some(fields), Some(known)) = (value.as_object(), schema["properties"].as_object()) else {
            return;
        };
        for field in fields.keys().filter(|field| !known.contains_key(*field)) {
            let meant = known.keys().find(|name| name.eq_ignore_ascii_case(field));
            let remedy = meant.map_or_else(
                || {
                    let names: Vec<&str> = known.keys().map(String::as_str).collect();
                    format!("{path} has {}", names.join(", "))
                },
                |name| format!("did you mean {name}?"),
            );
            refusals.push(Refusal { field: format!("{path}.{field}"), message: remedy });
        }
    });
    refusals
}

/// The values of a spec that are too large, too small, too many, too long, or of another form.
#[must_use]
pub fn out_of_bounds(spec: &Value) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    walk("spec", spec, &SPEC, &mut |path, value, schema| {
        let mut refuse = |message: String| refusals.push(Refusal { field: path.to_owned(), message });
        match value {
            Value::Number(number) => check_number(number, schema, &mut refuse),
            Value::String(text) => check_text(text, schema, &mut refuse),
            Value::Array(items) => {
                if let Some(most) = bound(schema, "maxItems").filter(|most| items.len() as u64 > *most) {
                    refuse(format!("Too many: {}: must have at most {most} items", items.len()));
                }
                if schema["x-kubernetes-list-type"] == "set" {
                    let mut before = HashSet::new();
                    for (position, item) in items.iter().enumerate() {
                        if !before.insert(item) {
                            let field = format!("{path}[{position}]");
                            refusals.push(Refusal { field, message: format!("Duplicate value: {item}") });
                        }
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Object(_) => {}
        }
    });
    refusals
}

fn check_number(number: &serde_json::Number, schema: &Value, refuse: &mut dyn FnMut(String)) {
    let Some(value) = number.as_f64() else { return };
    if let Some(least) = schema["minimum"].as_f64().filter(|least| value < *least) {
        refuse(format!("is {number}; it should be greater than or equal to {least}"));
    }
    if let Some(most) = schema["maximum"].as_f64().filter(|most| value > *most) {
        refuse(format!("is {number}; it should be less than or equal to {most}"));
    }
}

fn check_text(text: &str, schema: &Value, refuse: &mut dyn FnMut(String)) {
    let length = text.chars().count() as u64;
    if let Some(least) = bound(schema, "minLength").filter(|least| length < *least) {
        refuse(format!("Too short: it should have at least {least} characters"));
    }
    if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
        refuse(format!("Too long: it may have at most {most} characters"));
    }
    if let Some(pattern) = schema["pattern"].as_str().and_then(|pattern| PATTERNS.get(pattern))
        && !pattern.is_match(text)
    {
        refuse(format!("is {text:?}; it should match {pattern}"));
    }
}

fn bound(schema: &Value, name: &str) -> Option<u64> {
    schema[name].as_u64()
}

/// Calls `visit` with the path, the value and the schema of everything that is known and not `null`.
fn walk(path: &str, value: &Value, schema: &Value, visit: &mut dyn FnMut(&str, &Value, &Value)) {
    // No deeper than the schema.
    visit(path, value, schema);
    for (name, member) in value.as_object().into_iter().flatten() {
        if let Some(known) = schema["properties"].get(name) {
            walk(&format!("{path}.{name}"), member, known, visit);
        }
    }
    for (position, item) in value.as_array().into_iter().flatten().enumerate() {
        walk(&format!("{path}[{position}]"), item, &schema["items"], visit);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(refusals: &[Refusal]) -> Vec<String> {
        refusals.iter().map(|refusal| format!("{}: {}", refusal.field, refusal.message)).collect()
    }

    #[test]
    fn a_field_that_is_misspelt_is_named_with_what_was_meant() {
        let spec = json!({
            "cutover": {"Hold": true, "maxLag": "5s"},
            "source": {"url": "https://es:9200", "caRef": {"name": "ca"}},
            "destination": {"index": {"vectorIndexOptions": {"type": "hnsw", "ef": 1}}},
            "suspended": true,
        });
        let told = told(&unknown_fields(&spec));
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told.contains(&"spec.cutover.Hold: did you mean hold?".to_owned()), "{told:?}");
        let is_named = |start: &str| told.iter().any(|text| text.starts_with(start));
        assert!(is_named("spec.source.caRef: spec.source has caSecretRef, "), "{told:?}");
        assert!(is_named("spec.destination.index.vectorIndexOptions.ef: "), "{told:?}");
        assert!(is_named("spec.suspended: spec has "), "{told:?}");
        assert!(unknown_fields(&json!({"cutover": {"hold": true}, "state": null})).is_empty());
    }

    #[test]
    fn what_is_outside_the_bounds_is_named_with_them() {
        let spec = json!({
            "destination": {"index": {"numberOfShards": 0, "vectorSize": 4097, "name": ""}},
            "collections": {"include": [1, 1]},
            "retryToken": "x".repeat(65),
            "state": {"schema": "a-b"},
        });
        let told = told(&out_of_bounds(&spec));
        for expected in [
            "spec.destination.index.numberOfShards: is 0; it should be greater than or equal to 1",
            "spec.destination.index.vectorSize: is 4097; it should be less than or equal to 4096",
            "spec.destination.index.name: Too short: it should have at least 1 characters",
            "spec.collections.include[1]: Duplicate value: 1",
            "spec.retryToken: Too long: it may have at most 64 characters",
            "spec.state.schema: is \"a-b\"; it should match ^[a-z_][a-z0-9_]*$",
        ] {
            assert!(told.iter().any(|text| text == expected), "{expected}: {told:?}");
        }
        assert_eq!(told.len(), 6, "{told:?}");
    }
}
