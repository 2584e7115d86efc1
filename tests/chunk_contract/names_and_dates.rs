//! Names and dates: from the chunk, else from the application's database, else none and counted.

use es_index_merge::chunk::{DocumentFacts, parse};
use serde_json::Value;

use crate::{chunk, created_of, input, llm, rag, write_with};

#[test]
fn the_name_comes_from_the_chunk_then_from_the_database() {
    let facts = |name: &str| DocumentFacts { name: Some(name.to_owned()), created: None };
    let (named, long, empty) = (facts("from \"db\"\n"), facts(&"x".repeat(32_767)), facts(""));
    let too_long = format!("\"{}\"", "é".repeat(16_384));
    let (own, other) = (Some("café"), Some("from \"db\"\n"));
    let cases: [(&str, Option<&DocumentFacts>, Option<&str>, &[&str]); 10] = [
        (r#""caf\u00e9""#, Some(&named), own, &[]),
        (r#""caf\u00e9""#, None, own, &[]),
        ("null", Some(&named), other, &[]),
        (r#""""#, Some(&named), other, &[]),
        ("5", Some(&named), other, &["document_name_unusable"]),
        (r#""\ud800""#, Some(&named), other, &["document_name_unusable"]),
        (&too_long, Some(&named), other, &["document_name_unusable"]),
        ("null", None, None, &["document_name_missing"]),
        ("null", Some(&empty), None, &["document_name_missing"]),
        ("null", Some(&long), None, &["document_name_unusable", "document_name_missing"]),
    ];
    for (name, facts, expected, reasons) in cases {
        let source = chunk(&format!(r#"{{"document_id":3,"document_created":0,"document_name":{name}}}"#));
        let (document, cuts) = write_with(&llm(), &source, facts).unwrap();
        let document: Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document.get("document_name").and_then(Value::as_str), expected);
        assert_eq!(cuts.iter().map(|(reason, _)| reason).collect::<Vec<_>>(), reasons);
        assert_eq!(parse(&llm(), input(&source)).unwrap().needs_document(), expected != own);
        assert!(!parse(&rag(), input(&source)).unwrap().needs_document());
    }
}

#[test]
fn dates_become_utc() {
    for (value, expected) in [
        ("1714564800", "2024-05-01T12:00:00Z"),
        ("1714564800.0", "2024-05-01T12:00:00Z"),
        ("1714564800.123", "2024-05-01T12:00:00.123Z"),
        ("1714564800.1239999", "2024-05-01T12:00:00.123Z"),
        ("1.7145648e9", "2024-05-01T12:00:00Z"),
        ("1714564800123", "2024-05-01T12:00:00.123Z"),
        ("1714564800123.9", "2024-05-01T12:00:00.123Z"),
        ("\"1714564800\"", "2024-05-01T12:00:00Z"),
        ("\" 1714564800.5 \"", "2024-05-01T12:00:00.500Z"),
        ("0", "1970-01-01T00:00:00Z"),
        ("-1", "1969-12-31T23:59:59Z"),
        ("-0.0005", "1969-12-31T23:59:59.999Z"),
        ("\"2024-05-01\"", "2024-05-01T00:00:00Z"),
        ("\"2024-05-01T12:00\"", "2024-05-01T12:00:00Z"),
        ("\"2024-05-01T12:00:00\"", "2024-05-01T12:00:00Z"),
        ("\"2024-05-01 12:00:00\"", "2024-05-01T12:00:00Z"),
        ("\"2024-05-01T12:00:00Z\"", "2024-05-01T12:00:00Z"),
        ("\"2024-05-01t12:00:00z\"", "2024-05-01T12:00:00Z"),
        ("\"2024-05-01T12:00:00+02:00\"", "2024-05-01T10:00:00Z"),
        ("\"2024-05-01 12:00:00 +0200\"", "2024-05-01T10:00:00Z"),
        ("\"2024-05-01T12:00:00-02\"", "2024-05-01T14:00:00Z"),
        ("\"2024-05-01T12:00:00.5\"", "2024-05-01T12:00:00.500Z"),
        ("\"2024-05-01T12:00:00.123456789+00:00\"", "2024-05-01T12:00:00.123Z"),
        ("\"2024-05-01T12:00:00,1234567891234\"", "2024-05-01T12:00:00.123Z"),
        ("\"2024-02-29T23:59:59-23:59\"", "2024-03-01T23:58:59Z"),
        ("\"0001-01-01\"", "0001-01-01T00:00:00Z"),
        ("\"9999-12-31T23:59:59.999Z\"", "9999-12-31T23:59:59.999Z"),
    ] {
        for key in ["document_created_at", "document_created"] {
            let metadata = format!(r#"{{"document_id":3,"{key}":{value}}}"#);
            assert_eq!(created_of(&metadata, None), (Some(expected.to_owned()), vec![]), "{value}");
        }
    }
}

#[test]
fn unreadable_dates_give_way_to_the_database_and_never_to_now() {
    let facts = DocumentFacts { name: None, created: Some("2023-01-02T03:04:05.678901Z".parse().unwrap()) };
    for value in [
        "true",
        "[]",
        "{}",
        "\"\"",
        "\"soon\"",
        "\"2024-13-01\"",
        "\"2024-02-30\"",
        "\"2024-05-01T24:00:00\"",
        "\"2024-05-01T12\"",
        "\"2024-05-01T12:00:60\"",
        "\"2024-05-01T12:00:00+25:00\"",
        "\"2024-05-01T12:00:00Zx\"",
        "\"2024-05-01T12:00:00[Europe/Paris]\"",
        "\"01/05/2024\"",
        "\"2024-05\"",
        "\"0000-01-01\"",
        "\"0001-01-01T00:00:00+01:00\"",
        "\"-2024-05-01\"",
        "1e400",
        "1e20",
        "171456480012345",
        "\"\\ud800\"",
        "\"é2024-05-01\"",
        "\"2024-05-01Té0:00\"",
        "\"2024-05-01T12:00:00.\"",
    ] {
        let metadata = format!(r#"{{"document_id":3,"document_created_at":{value}}}"#);
        assert_eq!(
            created_of(&metadata, Some(&facts)),
            (Some("2023-01-02T03:04:05.678Z".to_owned()), vec![("created_unreadable", 1)]),
            "{value}"
        );
        let counted = vec![("created_unreadable", 1), ("created_missing", 1)];
        assert_eq!(created_of(&metadata, None), (None, counted), "{value}");
    }
    let second = r#"{"document_id":3,"document_created_at":"x","document_created":5}"#;
    let expected = Some("1970-01-01T00:00:05Z".to_owned());
    assert_eq!(created_of(second, Some(&facts)), (expected.clone(), vec![("created_unreadable", 1)]));
    let both = r#"{"document_id":3,"document_created":6,"document_created_at":5}"#;
    assert_eq!(created_of(both, Some(&facts)), (expected, vec![]));
    let null = r#"{"document_id":3,"document_created_at":null}"#;
    assert_eq!(created_of(null, None), (None, vec![("created_missing", 1)]));
}
