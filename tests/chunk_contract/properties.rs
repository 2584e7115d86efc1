//! Properties of `chunk` over generated chunks: whatever comes in is refused or becomes a document
//! that the application's readers accept, the same one for each order of its fields.
//!
//! The readers' rules are written down here a second time, independently of the crate.

use base64::{Engine, engine::general_purpose::STANDARD};
use es_index_merge::chunk::{Actual, Contract, DocumentFacts, Input, Transform, VectorForm, compare, parse};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

mod any_json;

const SIZE: usize = 3;

fn transform(contract: Contract, vector_form: VectorForm) -> Transform {
    Transform { contract, vector_size: u32::try_from(SIZE).unwrap(), vector_form }
}

fn any_transform() -> impl Strategy<Value = Transform> {
    (
        select(vec![Contract::OpenGateLLM, Contract::OpenGateRAG]),
        select(vec![VectorForm::Json, VectorForm::Base64]),
    )
        .prop_map(|(contract, form)| transform(contract, form))
}

fn any_facts() -> impl Strategy<Value = Option<DocumentFacts>> {
    let created = proptest::option::of(-62_135_596_800_000_i64..253_402_207_200_000);
    let facts = (proptest::option::of(".{0,20}"), created).prop_map(|(name, milliseconds)| DocumentFacts {
        name,
        created: milliseconds.map(|value| jiff::Timestamp::from_millisecond(value).unwrap()),
    });
    proptest::option::of(facts)
}

/// A string's JSON text, at times with escapes that are not needed.
fn any_string() -> impl Strategy<Value = String> {
    let plain = prop_oneof![
        4 => ".{0,12}",
        1 => "[ \u{a0}\u{1c}\t\n]{0,3}",
        1 => "x{250,260}",
        1 => "é{250,260}",
        1 => select(vec!["2024-05-01", "2024-05-01T12:00:00+02:00", "1714564800", "12", "0012", ""]).prop_map(str::to_owned),
    ];
    (plain, 0..4_u8).prop_map(|(text, style)| {
        if style == 0 {
            let units: Vec<String> = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            format!("\"{}\"", units.concat())
        } else {
            serde_json::to_string(&text).unwrap()
        }
    })
}

fn any_number() -> impl Strategy<Value = String> {
    prop_oneof![
        (-20..20_i64).prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        (-10_000_000_000_000_001..=10_000_000_000_000_001_i64).prop_map(|value| value.to_string()),
        proptest::num::f64::NORMAL.prop_map(|value| format!("{value:?}")),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
    ]
}

fn any_scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any_string(),
        3 => any_number(),
        1 => select(vec!["null", "true", "false"]).prop_map(str::to_owned),
        1 => select(vec!["\"\\ud800\"", "\"a\\udfffb\"", "\"\\ud83d\\ude00\""]).prop_map(str::to_owned),
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    any_scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|elements| format!("[{}]", elements.join(", "))),
            vec((any_string(), inner), 0..4).prop_map(|members| object(&members)),
        ]
    })
}

type Members = Vec<(String, String)>;

fn object(members: &[(String, String)]) -> String {
    let members: Vec<String> = members.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn quoted(key: &str) -> String {
    format!("\"{key}\"")
}

fn any_metadata() -> impl Strategy<Value = Members> {
    let reserved = select(vec![
        "document_id",
        "document_name",
        "document_created_at",
        "document_created",
        "collection_id",
    ]);
    let key = prop_oneof![1 => reserved.prop_map(quoted), 3 => any_string(), 2 => "[a-z]{1,3}".prop_map(|key| quoted(&key))];
    (proptest::option::weighted(0.9, 0..100_u32), vec((key, any_value()), 0..14)).prop_map(
        |(document_id, mut members)| {
            if let Some(document_id) = document_id {
                members.retain(|(key, _)| key != "\"document_id\"");
                members.push((quoted("document_id"), document_id.to_string()));
            }
            members
        },
    )
}

fn any_embedding() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => vec(-1.0..1.0_f32, SIZE).prop_map(|values| format!("{values:?}")),
        1 => vec(any_number(), SIZE).prop_map(|values| format!("[{}]", values.join(","))),
        1 => vec(any::<f32>(), SIZE).prop_map(|values| format!("\"{}\"", encoded(&values))),
        1 => any_value(),
    ]
}

fn any_members() -> impl Strategy<Value = (Members, Members)> {
    let content = prop_oneof![9 => any_string(), 1 => any_value()];
    let id = prop_oneof![9 => (0..100_u32).prop_map(|id| id.to_string()), 1 => any_value()];
    let extra = vec((any_string(), any_value()), 0..3);
    (id, content, any_embedding(), any_metadata(), extra).prop_map(
        |(id, content, embedding, metadata, mut extra)| {
            extra.push((quoted("id"), id));
            extra.push((quoted("content"), content));
            extra.push((quoted("embedding"), embedding));
            (extra, metadata)
        },
    )
}

fn source(fields: &[(String, String)], metadata: &[(String, String)]) -> String {
    let mut fields = fields.to_vec();
    fields.push((quoted("metadata"), object(metadata)));
    object(&fields)
}

fn encoded(values: &[f32]) -> String {
    STANDARD.encode(values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<u8>>())
}

fn decoded(text: &str) -> Vec<f32> {
    let bytes = STANDARD.decode(text).unwrap();
    bytes.chunks_exact(4).map(|four| f32::from_be_bytes(four.try_into().unwrap())).collect()
}

fn write(transform: &Transform, source: &[u8], facts: Option<&DocumentFacts>) -> Option<Vec<u8>> {
    let parsed = parse(transform, Input { source, vector: None, collection_id: 5 }).ok()?;
    let mut out = b"before ".to_vec();
    let cuts = parsed.write(facts, &mut out);
    assert!(cuts.iter().all(|(_, times)| times > 0));
    Some(out.strip_prefix(b"before ").unwrap().to_vec())
}

/// Python's `str.strip`, with which readers trim the elements of a list before joining them.
fn python_strip(text: &str) -> &str {
    text.trim_matches(|character: char| {
        character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
    })
}

/// What the application's models demand when they read a document.
fn assert_readable(document: &[u8], transform: &Transform) {
    let text = std::str::from_utf8(document).unwrap();
    assert!(!text.contains(['\n', '\r']), "one line: {text}");
    let document: Map<String, Value> = serde_json::from_str(text).unwrap();
    for key in ["id", "collection_id", "document_id"] {
        assert!((0..=i64::from(i32::MAX)).contains(&document[key].as_i64().unwrap()), "{text}");
    }
    assert!(!document["content"].as_str().unwrap().is_empty());
    if let Some(name) = document.get("document_name") {
        assert!(!name.as_str().unwrap().is_empty());
        assert_eq!(transform.contract, Contract::OpenGateLLM);
    }
    if let Some(created) = document.get("created") {
        let created = created.as_str().unwrap();
        assert!(created.ends_with('Z') && matches!(created.len(), 20 | 24), "{created}");
        assert!(created.trim_end_matches('Z').parse::<jiff::civil::DateTime>().is_ok(), "{created}");
    }
    let known = [
        "id",
        "collection_id",
        "document_id",
        "document_name",
        "content",
        "embedding",
        "metadata",
        "created",
    ];
    assert!(document.keys().all(|key| known.contains(&key.as_str())), "{text}");
    let values = match &document["embedding"] {
        Value::String(text) => decoded(text),
        list => list.as_array().unwrap().iter().map(|value| value.to_string().parse().unwrap()).collect(),
    };
    assert_eq!(values.len(), SIZE);
    assert!(values.iter().all(|value| value.is_finite()) && values.iter().any(|value| *value != 0.0));
    if document["metadata"].is_null() {
        return;
    }
    let metadata = document["metadata"].as_object().unwrap();
    let most = if transform.contract == Contract::OpenGateLLM { 8 } else { 10 };
    assert!((1..=most).contains(&metadata.len()), "{text}");
    let readable = |text: &str| (1..=255).contains(&text.trim().chars().count());
    for (key, value) in metadata {
        assert!(readable(key), "{key:?}");
        match value {
            Value::String(string) => assert!(readable(string), "{string:?}"),
            Value::Number(number) => {
                assert!(number.as_f64().unwrap().abs() <= 9_999_999_999_999_999.0, "{number}");
            }
            Value::Array(elements) => {
                let parts = elements.iter().map(|element| match element {
                    Value::String(string) => python_strip(string).to_owned(),
                    scalar => {
                        assert!(!scalar.is_array() && !scalar.is_object(), "{scalar}");
                        scalar.to_string()
                    }
                });
                let joined = parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",");
                assert!(readable(&joined), "{joined}");
            }
            Value::Bool(_) => {}
            Value::Null | Value::Object(_) => panic!("{key}: {value}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunk_is_refused_or_becomes_a_document_that_readers_accept(
        (fields, metadata) in any_members(), transform in any_transform(), facts in any_facts()
    ) {
        let source = source(&fields, &metadata);
        if let Some(document) = write(&transform, source.as_bytes(), facts.as_ref()) {
            assert_readable(&document, &transform);
        }
    }

    #[test]
    fn the_order_of_fields_changes_nothing(
        (fields, metadata) in any_members(), transform in any_transform(), facts in any_facts(), seed in any::<u64>()
    ) {
        let shuffled = |members: &[(String, String)]| {
            let mut members = members.to_vec();
            let rotate_by = usize::try_from(seed % 7).unwrap() % members.len().max(1);
            members.rotate_left(rotate_by);
            if seed % 2 == 0 {
                members.reverse();
            }
            members
        };
        let one = source(&fields, &metadata);
        let other = source(&shuffled(&fields), &shuffled(&metadata));
        prop_assert_eq!(
            write(&transform, one.as_bytes(), facts.as_ref()),
            write(&transform, other.as_bytes(), facts.as_ref())
        );
    }

    #[test]
    fn what_is_written_compares_equal_also_when_it_is_printed_anew(
        (fields, metadata) in any_members(), transform in any_transform(), facts in any_facts()
    ) {
        let source = source(&fields, &metadata);
        let input = Input { source: source.as_bytes(), vector: None, collection_id: 5 };
        let Ok(parsed) = parse(&transform, input) else { return Ok(()) };
        let mut document = Vec::new();
        let _ = parsed.write(facts.as_ref(), &mut document);
        let same = |source: &[u8]| compare(&parsed, facts.as_ref(), &Actual { source, vector: None });
        prop_assert_eq!(same(&document), Ok(()));

        let mut printed: Map<String, Value> = serde_json::from_slice(&document).unwrap();
        // Numbers of this test's parser are doubles; the server keeps embeddings as f32 and integers whole.
        let embedding = printed.remove("embedding").unwrap();
        let metadata = printed.remove("metadata").unwrap();
        let rest = serde_json::to_string(&printed).unwrap();
        let raw = String::from_utf8(document.clone()).unwrap();
        let metadata_text = raw.split_once(r#","metadata":"#).unwrap().1;
        let metadata_text = match metadata_text.rsplit_once(r#","created":"#) {
            Some((before, _)) if printed.contains_key("created") => before,
            _ => metadata_text.strip_suffix('}').unwrap(),
        };
        prop_assert_eq!(metadata.is_null(), metadata_text == "null");
        let embedding = embedding.as_str().map_or_else(
            || raw.split_once(r#""embedding":"#).unwrap().1.split_once(r#","metadata""#).unwrap().0.to_owned(),
            |text| format!("{:?}", decoded(text)),
        );
        let anew = format!(r#"{{ "metadata" : {metadata_text} , "embedding" : {embedding} , {}"#, &rest[1..]);
        prop_assert_eq!(same(anew.as_bytes()), Ok(()), "{}", anew);

        // And another document is another one.
        printed.insert("content".to_owned(), Value::from("something else entirely"));
        prop_assert!(same(serde_json::to_string(&printed).unwrap().as_bytes()).is_err());
    }

    #[test]
    fn embeddings_keep_their_bits_through_every_lane(
        // Up to about 1e18, subnormal numbers included.
        bits in vec((any::<bool>(), 0..0x5d00_0000_u32), SIZE)
    ) {
        let values: Vec<f32> =
            bits.into_iter().map(|(sign, size)| f32::from_bits(size | u32::from(sign) << 31)).collect();
        prop_assume!(values.iter().any(|value| value.abs() > 1e-18));
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let list = format!("{values:?}");
        let text = quoted(&encoded(&values));
        for given in [&list, &text] {
            for form in [VectorForm::Json, VectorForm::Base64] {
                let source = format!(r#"{{"id":1,"content":"x","embedding":{given},"metadata":{{"document_id":2}}}}"#);
                let document = write(&transform(Contract::OpenGateRAG, form), source.as_bytes(), None).unwrap();
                let document = String::from_utf8(document).unwrap();
                let (_, tail) = document.split_once(r#""embedding":"#).unwrap();
                let (embedding, _) = tail.split_once(r#","metadata""#).unwrap();
                let read: Vec<f32> = match form {
                    VectorForm::Base64 => decoded(embedding.trim_matches('"')),
                    VectorForm::Json => embedding
                        .trim_matches(['[', ']'])
                        .split(',')
                        .map(|element| element.trim().parse().unwrap())
                        .collect(),
                };
                prop_assert_eq!(bits(&read), bits(&values), "{} as {:?}", given, form);
            }
        }
    }

    #[test]
    fn the_destination_id_depends_on_document_and_chunk_alone(id in 0..=i32::MAX, document_id in 0..=i32::MAX) {
        let source = format!(r#"{{"id":{id},"content":"x","embedding":[1,2,3],"metadata":{{"document_id":"{document_id}"}}}}"#);
        let parsed = parse(
            &transform(Contract::OpenGateLLM, VectorForm::Json),
            Input { source: source.as_bytes(), vector: None, collection_id: 5 },
        ).unwrap();
        let expected: String =
            Sha256::digest(format!("{document_id}|{id}")).iter().map(|byte| format!("{byte:02x}")).collect();
        prop_assert_eq!(parsed.destination_id(), expected);
    }

    #[test]
    fn any_bytes_are_survived((fields, metadata) in any_members(), edits in vec((any::<usize>(), any::<u8>(), 0..3_u8), 0..6), transform in any_transform()) {
        let mut bytes = source(&fields, &metadata).into_bytes();
        for (at, byte, edit) in edits {
            let at = at % bytes.len().max(1);
            match edit {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ => bytes.truncate(at),
            }
        }
        if let Some(document) = write(&transform, &bytes, None) {
            assert_readable(&document, &transform);
            // What was taken was JSON.
            let text = std::str::from_utf8(&bytes).unwrap();
            serde_json::from_str::<&serde_json::value::RawValue>(text).unwrap();
        }
        let valid = br#"{"id":1,"content":"x","embedding":[1,2,3],"metadata":{"document_id":1}}"#;
        let parsed = parse(&transform, Input { source: valid, vector: None, collection_id: 5 }).unwrap();
        let _ = compare(&parsed, None, &Actual { source: &bytes, vector: None });
    }

    #[test]
    fn random_bytes_are_survived(bytes in vec(any::<u8>(), 0..64), vector in ".{0,20}") {
        let transform = transform(Contract::OpenGateLLM, VectorForm::Json);
        let input = Input { source: &bytes, vector: Some(&vector), collection_id: 5 };
        prop_assert!(parse(&transform, input).is_err());
    }
}
