//! What holds for the definition as a whole; what it accepts and refuses is asked of a real API server in
//! `tests/crd.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/esindexmerges.indexmerge.dev.yaml");

fn schema() -> Value {
    let crd = serde_json::to_value(crd()).unwrap();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
}

/// Calls `visit` with the path and the schema of every property and item.
fn walk(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], visit);
    }
}

fn walk_part(part: &str, visit: &mut dyn FnMut(&str, &Value)) {
    walk(part, &schema()["properties"][part], visit);
}

#[test]
fn the_committed_definition_is_current() {
    let current = crd_yaml().unwrap();
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(COMMITTED, &current).unwrap();
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(
        committed == current,
        "crds/ is not what src/api says; run `UPDATE_GENERATED=1 cargo test --lib api::` and commit the result"
    );
}

#[test]
fn the_yaml_says_what_the_definition_says() {
    let back: CustomResourceDefinition = serde_yaml_ng::from_str(&crd_yaml().unwrap()).unwrap();
    assert_eq!(back, crd());
}

#[test]
fn a_resource_without_status_does_not_look_finished() {
    assert_eq!(schema()["properties"]["status"]["default"], json!({ "observedGeneration": -1 }));
}

#[test]
fn the_spec_has_no_defaults_so_that_nothing_is_written_into_it() {
    walk_part("spec", &mut |path, schema| assert!(schema.get("default").is_none(), "{path}"));
}

#[test]
fn every_field_is_documented() {
    for part in ["spec", "status"] {
        walk_part(part, &mut |path, schema| {
            if !path.ends_with("[]") && !path.contains("conditions[]") && path.contains('.') {
                let text = schema["description"].as_str().unwrap_or_default();
                assert!(text.len() > 8 && text.ends_with('.'), "{path}: {text:?}");
                assert!(!text.contains('\n'), "{path}: {text:?}");
            }
        });
    }
}

#[test]
fn every_text_list_and_number_of_the_spec_is_bounded() {
    walk_part("spec", &mut |path, schema| match schema["type"].as_str() {
        Some("string") => {
            assert!(schema.get("maxLength").is_some() || schema.get("enum").is_some(), "{path} is unbounded");
        }
        Some("array") => assert!(schema.get("maxItems").is_some(), "{path} is unbounded"),
        Some("integer") => {
            assert!(
                schema.get("minimum").is_some() && schema.get("maximum").is_some(),
                "{path} is unbounded"
            );
        }
        Some("boolean" | "object") => {}
        other => panic!("{path} has type {other:?}"),
    });
}

#[test]
fn every_text_and_list_of_the_status_is_bounded() {
    walk_part("status", &mut |path, schema| {
        let own = !path.contains("conditions[]");
        match schema["type"].as_str() {
            Some("string") if own => assert!(
                schema.get("maxLength").is_some() || schema["format"] == "date-time",
                "{path} is unbounded"
            ),
            Some("array") => assert!(schema.get("maxItems").is_some(), "{path} is unbounded"),
            _ => {}
        }
    });
}

#[test]
fn every_rule_has_a_message_that_names_its_field() {
    let mut rules = 0;
    walk_part("spec", &mut |path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules += 1;
            let text = rule["message"].as_str().or(rule["messageExpression"].as_str()).unwrap_or_default();
            assert!(text.contains("spec"), "{path}: {rule}");
        }
    });
    assert!(rules >= 20, "only {rules} rules were found");
}

#[test]
fn conditions_are_merged_by_type() {
    let conditions = &schema()["properties"]["status"]["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
}

#[test]
fn kubectl_get_shows_the_columns_of_the_design() {
    let crd = serde_json::to_value(crd()).unwrap();
    let columns =
        crd.pointer("/spec/versions/0/additionalPrinterColumns").unwrap().as_array().unwrap().clone();
    let of_priority = |priority: i64| -> Vec<String> {
        let names = columns.iter().filter(|column| column["priority"].as_i64().unwrap_or(0) == priority);
        names.map(|column| column["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        of_priority(0),
        ["Phase", "Progress", "Collections", "Documents", "Rate", "ETA", "Ready", "Reason", "Age"]
    );
    assert_eq!(of_priority(1), ["Destination", "Workers", "Lag", "Message"]);
}
