//! `docs/reference.md`, made from the definition of `EsIndexMerge`; `UPDATE_GENERATED=1` writes it anew. And that the
//! other texts keep up with the code: links lead somewhere, every reason is explained.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use serde_json::Value;

const DEFINITION: &str = "crds/esindexmerges.indexmerge.dev.yaml";
const REFERENCE: &str = "docs/reference.md";

fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// A description as a cell of a table.
fn cell(description: &str) -> String {
    description.replace('|', "\\|").replace('\n', " ")
}

/// Smallest and largest of something, as far as they are given.
fn between(schema: &Value, smallest: &str, largest: &str, unit: &str) -> String {
    match (schema[smallest].as_i64(), schema[largest].as_i64()) {
        (Some(from), Some(to)) => format!(", {from} to {to}{unit}"),
        (Some(from), None) => format!(", at least {from}{unit}"),
        (None, Some(to)) => format!(", at most {to}{unit}"),
        (None, None) => String::new(),
    }
}

/// What may be written there.
fn kind(path: &str, schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> =
            values.iter().map(|value| format!("`{}`", value.as_str().unwrap())).collect();
        return values.join(" or ");
    }
    match text(schema, "type") {
        "object" if schema["properties"].is_object() => format!("[object](#{})", anchor(path)),
        "array" => {
            let items = kind(path, &schema["items"]);
            format!("list of {items}{}", between(schema, "minItems", "maxItems", " items"))
        }
        "string" if text(schema, "format") == "date-time" => "time".to_owned(),
        "string" => format!("string{}", between(schema, "minLength", "maxLength", " characters")),
        "integer" => format!("integer{}", between(schema, "minimum", "maximum", "")),
        other => other.to_owned(),
    }
}

/// As GitHub makes anchors of headings.
fn anchor(path: &str) -> String {
    path.to_lowercase().replace('.', "")
}

/// The object itself, or that of the list.
fn object(schema: &Value) -> Option<&Value> {
    let inner = if text(schema, "type") == "array" { &schema["items"] } else { schema };
    inner["properties"].is_object().then_some(inner)
}

/// The section of an object, and those of the objects in it.
fn section(out: &mut String, path: &str, schema: &Value) {
    let object = object(schema).unwrap();
    let required: Vec<&str> =
        object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    writeln!(out, "\n## {path}\n\n{}\n", text(schema, "description")).unwrap();
    writeln!(out, "| field | what may be written | meaning |\n|---|---|---|").unwrap();
    let fields = object["properties"].as_object().unwrap();
    for (name, field) in fields {
        let needed = if required.contains(&name.as_str()) { ", required" } else { "" };
        let kind = kind(&format!("{path}.{name}"), field);
        writeln!(out, "| `{name}` | {kind}{needed} | {} |", cell(text(field, "description"))).unwrap();
    }
    for (name, field) in fields {
        if self::object(field).is_some() {
            section(out, &format!("{path}.{name}"), field);
        }
    }
}

fn columns(out: &mut String, version: &Value) {
    writeln!(out, "\n## Columns of kubectl get\n\n| column | from | meaning |\n|---|---|---|").unwrap();
    for column in version["additionalPrinterColumns"].as_array().unwrap() {
        let wide = if column["priority"].as_i64().unwrap_or(0) > 0 { " (`-o wide`)" } else { "" };
        let (name, from) = (text(column, "name"), text(column, "jsonPath"));
        writeln!(out, "| {name}{wide} | `{from}` | {} |", cell(text(column, "description"))).unwrap();
    }
}

fn reference(definition: &Value) -> String {
    let names = &definition["spec"]["names"];
    let version = &definition["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let mut out = String::from("<!-- Made from the definition by tests/reference.rs; do not edit. -->\n");
    writeln!(out, "# Reference: {}\n\n{}\n", text(names, "kind"), text(schema, "description")).unwrap();
    let (group, name) = (text(&definition["spec"], "group"), text(version, "name"));
    writeln!(
        out,
        "`apiVersion: {group}/{name}`, `kind: {}`; short name in `kubectl`: `{}`.",
        text(names, "kind"),
        names["shortNames"][0].as_str().unwrap()
    )
    .unwrap();
    writeln!(out, "The same text: `kubectl explain {}.spec --recursive`.", text(names, "singular")).unwrap();
    section(&mut out, "spec", &schema["properties"]["spec"]);
    section(&mut out, "status", &schema["properties"]["status"]);
    columns(&mut out, version);
    out
}

#[test]
fn the_reference_says_what_the_definition_says() {
    let definition = fs::read_to_string(in_repository(DEFINITION)).unwrap();
    let made = reference(&serde_yaml_ng::from_str(&definition).unwrap());
    let file = in_repository(REFERENCE);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == made, "{REFERENCE} is out of date: run this test with UPDATE_GENERATED=1");
}

#[test]
fn every_field_has_a_description() {
    let definition = fs::read_to_string(in_repository(DEFINITION)).unwrap();
    let made = reference(&serde_yaml_ng::from_str(&definition).unwrap());
    let bare: Vec<&str> =
        made.lines().filter(|line| line.starts_with("| `") && line.ends_with(" |  |")).collect();
    assert!(bare.is_empty(), "{bare:#?}");
}

/// What is between these two, each time.
fn between_marks<'a>(text: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    text.split(begin).skip(1).filter_map(|rest| rest.split_once(end)).map(|(inside, _)| inside).collect()
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let mut broken = Vec::new();
    let texts = [
        "README.md",
        "CHANGELOG.md",
        "charts/es-index-merge/README.md",
        "docs/architecture.md",
        "docs/failure-modes.md",
        "docs/gitops.md",
        "docs/metrics.md",
        "docs/security.md",
        REFERENCE,
    ];
    for file in texts {
        let text = fs::read_to_string(in_repository(file)).unwrap();
        let folder = in_repository(file).parent().unwrap().to_owned();
        for link in between_marks(&text, "](", ")") {
            let there = match link.strip_prefix('#') {
                Some(anchor) => text.lines().any(|line| {
                    line.starts_with('#') && self::anchor(line.trim_start_matches(['#', ' '])) == anchor
                }),
                None => link.starts_with("https://") || folder.join(link).exists(),
            };
            if !there {
                broken.push(format!("{file}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_metric_is_explained_and_nothing_else() {
    let code = fs::read_to_string(in_repository("src/metrics.rs")).unwrap();
    // As they are registered there: by `registered`, on one line or on several, or by the registry itself.
    let several = code.split("&mut registry,").skip(1).map(str::trim_start);
    let names = several.chain(code.split("registry.register(").skip(1)).filter_map(|rest| {
        let (name, _) = rest.strip_prefix('"')?.split_once('"')?;
        Some(format!("es_index_merge_{name}"))
    });
    let registered: BTreeSet<String> = names.collect();
    assert!(registered.len() > 20, "src/metrics.rs is written in another way now: mend this test");
    let text = fs::read_to_string(in_repository("docs/metrics.md")).unwrap();
    let explained: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `es_index_merge_")?.split_once("` | "))
        .map(|(name, rest)| {
            // A counter is shown with a suffix that its name does not have.
            let name = if rest.starts_with("counter") { name.strip_suffix("_total").unwrap() } else { name };
            format!("es_index_merge_{name}")
        })
        .collect();
    assert_eq!(explained, registered);
}

#[test]
fn every_reason_that_the_engine_gives_is_explained() {
    let explained = fs::read_to_string(in_repository("docs/failure-modes.md")).unwrap();
    let mut reasons: Vec<String> = Vec::new();
    let source = |file: &str| fs::read_to_string(in_repository(file)).unwrap();
    // As they are written there: categories and classes by their match, attention as "Reason: sentence".
    for (file, begin, end) in [
        ("src/merge/error.rs", "=> \"", "\","),
        ("src/chunk/refusal.rs", "=> \"", "\","),
        ("src/merge/memo.rs", "=> \"", "\","),
        ("src/merge/act/sources.rs", "\"", ": "),
        ("src/merge/act/deletion.rs", "\"", ": "),
        ("src/merge/act/deletion/recheck.rs", "keep(\"", "\","),
        ("src/merge/plan.rs", "reason: \"", "\","),
        ("src/merge/report.rs", ", \"", "\","),
        ("src/merge/report.rs", "{ \"", "\" }"),
        ("src/merge/report/deletion.rs", "e, \"", "\")"),
        ("src/controller/report.rs", "::normal(\"", "\","),
        ("src/controller/report.rs", "::warning(\"", "\","),
    ] {
        let text = source(file);
        let found = between_marks(&text, begin, end).into_iter().map(str::to_owned);
        let names = found
            .filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_'));
        let before = reasons.len();
        reasons.extend(names);
        assert!(reasons.len() >= before + 2, "{file} is written in another way now: mend this test");
    }
    let missing: Vec<&String> =
        reasons.iter().filter(|reason| !explained.contains(&format!("`{reason}`"))).collect();
    assert!(missing.is_empty(), "docs/failure-modes.md does not explain {missing:?}");
}
