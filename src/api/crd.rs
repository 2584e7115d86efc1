//! The definition of the resource, as the API server gets it.
//!
//! Derived from the Rust types, then brought into the form that this project wants: no defaults (see the
//! module documentation of `api`), no `nullable` (a `null` is the same as leaving the field out), no formats
//! that the API server does not know, no title that repeats a type's name.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::EsIndexMerge;

/// The formats of numbers that the API server knows; it warns about others.
const NUMBER_FORMATS: [&str; 4] = ["int32", "int64", "float", "double"];

/// The definition of `EsIndexMerge`.
///
/// A derived schema is JSON by nature, so the conversions below cannot fail; should they ever, the derived schema
/// stays as it is, and the unit tests of this module say so.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = EsIndexMerge::crd();
    for version in &mut crd.spec.versions {
        let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        let Ok(mut value) = serde_json::to_value(&*schema) else { continue };
        tidy(&mut value);
        if let Some(status) = value.pointer_mut("/properties/status").and_then(Value::as_object_mut) {
            status.insert("default".to_owned(), json!({ "observedGeneration": -1 }));
        }
        if let Ok(tidied) = serde_json::from_value(value) {
            *schema = tidied;
        }
    }
    crd
}

/// The definition as YAML. The order of keys is that of the alphabet, so the text changes only when the types do.
pub fn crd_yaml() -> Result<String, serde_yaml_ng::Error> {
    let value = serde_json::to_value(crd()).map_err(<serde_yaml_ng::Error as serde::ser::Error>::custom)?;
    let body = serde_yaml_ng::to_string(&sorted(&value))?;
    Ok(format!("# Generated from src/api by `es-index-merge crd`; do not edit.\n{body}"))
}

/// Removes what the derived schema says too much, in every schema inside `schema`.
fn tidy(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for key in ["default", "nullable", "title"] {
        object.remove(key);
    }
    let unknown_format = object.get("format").and_then(Value::as_str).is_some_and(|format| {
        matches!(object.get("type").and_then(Value::as_str), Some("integer" | "number"))
            && !NUMBER_FORMATS.contains(&format)
    });
    if unknown_format {
        object.remove("format");
    }
    if let Some(description) = object.get("description").and_then(Value::as_str) {
        let flowing = flow(description);
        object.insert("description".to_owned(), Value::String(flowing));
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(tidy);
    }
    if let Some(items) = object.get_mut("items") {
        tidy(items);
    }
}

/// A documentation comment as one flowing text: the breaks of its source lines mean nothing to `kubectl explain`.
fn flow(description: &str) -> String {
    description
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}

fn sorted(value: &Value) -> serde_yaml_ng::Value {
    match value {
        Value::Object(object) => serde_yaml_ng::Value::Mapping(sorted_mapping(object)),
        Value::Array(items) => serde_yaml_ng::Value::Sequence(items.iter().map(sorted).collect()),
        Value::String(text) => serde_yaml_ng::Value::String(text.clone()),
        Value::Bool(flag) => serde_yaml_ng::Value::Bool(*flag),
        Value::Null => serde_yaml_ng::Value::Null,
        Value::Number(number) => serde_yaml_ng::Value::Number(match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => integer.into(),
            // The derived bounds are floats (`1.0`); the API server writes them as integers.
            #[allow(clippy::cast_possible_truncation)] // guarded: no fraction, below 2^53
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9.0e15 => (float as i64).into(),
            (None, Some(float)) => float.into(),
            (None, None) => 0.into(),
        }),
    }
}

fn sorted_mapping(object: &Map<String, Value>) -> serde_yaml_ng::Mapping {
    let mut keys: Vec<&String> = object.keys().collect();
    keys.sort();
    keys.into_iter().map(|key| (serde_yaml_ng::Value::String(key.clone()), sorted(&object[key]))).collect()
}

#[cfg(test)]
#[path = "crd_tests.rs"]
mod tests;
