//! What is a difference between a source's chunk and a destination's document, and what is none.

use base64::{Engine, engine::general_purpose::STANDARD};
use es_index_merge::chunk::{Actual, DocumentFacts, compare, parse};

use crate::{chunk, chunk_with, input, llm, rag, with_embedding, write_with, written};

fn differs(source: &str, actual: &str) -> Option<String> {
    let parsed = parse(&llm(), input(source)).unwrap();
    let found = compare(&parsed, None, &Actual { source: actual.as_bytes(), vector: None });
    found.err().map(|difference| difference.field)
}

#[test]
fn a_document_equals_itself_however_the_server_prints_it() {
    let source = chunk_with(concat!(
        r#""n":1.10,"big":9007199254740993,"s":"caf\u00e9","l":[1.50,"x\/y",null],"#,
        r#""p":0.12345678901234567890"#
    ));
    assert_eq!(differs(&source, &written(&source)), None);
    let printed = r#"{ "created":"2024-05-01T12:00:00Z",
        "metadata":{"s":"café","p":0.12345678901234568,"n":1.1,"l":[1.5,"x/y",null],"big":9007199254740993},
        "embedding":[6.0E-1,0.8], "content":"Bonjou\u0072", "document_name":"a.pdf", "document_id":3.0,
        "collection_id":42, "id":7 }"#;
    assert_eq!(differs(&source, printed), None);
}

#[test]
fn every_change_of_a_document_is_a_difference() {
    let source = chunk_with(r#""big":9007199254740993,"l":[1,2],"b":true,"s":"x""#);
    let document = written(&source);
    for (from, to, field) in [
        (r#""id":7"#, r#""id":8"#, "id"),
        (r#""id":7,"#, "", "id"),
        (r#""id":7"#, r#""id":"7""#, "id"),
        (r#""collection_id":42"#, r#""collection_id":43"#, "collection_id"),
        (r#""document_id":3"#, r#""document_id":4"#, "document_id"),
        (r#""a.pdf""#, r#""A.pdf""#, "document_name"),
        (r#""document_name":"a.pdf","#, "", "document_name"),
        (r#""Bonjour""#, r#""bonjour""#, "content"),
        (r#""content":"Bonjour","#, "", "content"),
        ("0.8]", "0.80000013]", "embedding[1]"),
        ("0.8]", "0.8,0]", "embedding"),
        (r#""embedding":[0.6,0.8],"#, "", "embedding"),
        (r#""embedding":[0.6,0.8]"#, r#""embedding":null"#, "embedding"),
        ("9007199254740993", "9007199254740992", "metadata.big"),
        ("9007199254740993", "9007199254740992.0", "metadata.big"),
        ("9007199254740993", r#""9007199254740993""#, "metadata.big"),
        (r#""big":9007199254740993,"#, "", "metadata.big"),
        ("[1,2]", "[2,1]", "metadata.l"),
        ("[1,2]", "[1]", "metadata.l"),
        ("[1,2]", "1", "metadata.l"),
        ("true", "false", "metadata.b"),
        (r#""s":"x""#, r#""s":"y""#, "metadata.s"),
        (r#""s":"x""#, r#""s":"x","t":null"#, "metadata.t"),
        ("12:00:00Z", "12:00:01Z", "created"),
        (r#","created":"2024-05-01T12:00:00Z""#, "", "created"),
        (r#""id":7"#, r#""id":7,"extra":1"#, "extra"),
        (r#""id":7"#, r#""id":7"id":7"#, "_source"),
    ] {
        let changed = document.replacen(from, to, 1);
        assert_ne!(changed, document, "{from}");
        assert_eq!(differs(&source, &changed).as_deref(), Some(field), "{changed}");
    }
    let bare = chunk(r#"{"document_id":3}"#);
    let document = write_with(&llm(), &bare, None).unwrap().0;
    for (to, field) in [(r#"{"a":1}"#, Some("metadata")), ("{}", Some("metadata")), ("null", None)] {
        let changed = document.replace(r#""metadata":null"#, &format!(r#""metadata":{to}"#));
        assert_eq!(differs(&bare, &changed).as_deref(), field);
    }
}

#[test]
fn facts_from_the_database_are_part_of_the_comparison() {
    let source = chunk(r#"{"document_id":3}"#);
    let created = Some("2024-05-01T12:00:00Z".parse().unwrap());
    let facts = DocumentFacts { name: Some("n".to_owned()), created };
    let (document, _) = write_with(&llm(), &source, Some(&facts)).unwrap();
    let parsed = parse(&llm(), input(&source)).unwrap();
    let actual = Actual { source: document.as_bytes(), vector: None };
    assert_eq!(compare(&parsed, Some(&facts), &actual), Ok(()));
    assert_eq!(compare(&parsed, None, &actual).unwrap_err().field, "document_name");
}

fn vector_differs(expected: &str, actual: &[f32]) -> bool {
    let source = with_embedding(expected);
    let parsed = parse(&rag(), input(&source)).unwrap();
    let document = r#"{"id":7,"collection_id":42,"document_id":3,"content":"x","metadata":null}"#;
    let bytes: Vec<u8> = actual.iter().flat_map(|value| value.to_be_bytes()).collect();
    let vector = STANDARD.encode(bytes);
    compare(&parsed, None, &Actual { source: document.as_bytes(), vector: Some(&vector) }).is_err()
}

#[test]
fn unit_vectors_must_come_back_bit_by_bit_and_others_nearly() {
    let step = |value: f32, by: u32| f32::from_bits(value.to_bits() + by);
    assert!(!vector_differs("[0.6,0.8]", &[0.6, 0.8]));
    assert!(vector_differs("[0.6,0.8]", &[0.6, step(0.8, 1)]));
    assert!(!vector_differs("[6,8]", &[6.0, 8.0]));
    assert!(!vector_differs("[6,8]", &[step(6.0, 2), step(8.0, 1)]));
    assert!(vector_differs("[6,8]", &[6.0, step(8.0, 3)]));
    assert!(vector_differs("[6,8]", &[6.0, -8.0]));
    assert!(!vector_differs("[-0,1]", &[0.0, 1.0]));
    assert!(!vector_differs("[0,1]", &[-0.0, 1.0]));
}

#[test]
fn a_server_that_rounds_twice_is_no_difference() {
    // A little above the middle of 1 and the next float, but exactly the middle as a double.
    let above_middle = "[1.00000005960464477539062500001,0.0001]";
    let next = f32::from_bits(1.0_f32.to_bits() + 1);
    assert!(!vector_differs(above_middle, &[next, 0.0001]));
    assert!(!vector_differs(above_middle, &[1.0, 0.0001]));
    assert!(vector_differs("[1.0000001,0.0001]", &[1.0, 0.0001]));
}
