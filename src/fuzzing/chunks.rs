//! Chunks: any bytes are refused, each time alike, or become a document of the destination.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::value::RawValue;

use super::choice;
use crate::chunk::{
    Actual, Address, Contract, DocumentFacts, Input, Refusal, Transform, VectorForm, address, compare,
    key_of, parse,
};

/// Elements of the embeddings.
const SIZE: u32 = 3;
/// The longest reason that anybody wants to read, in bytes.
const MOST_SAID: usize = 2_000;

/// Every field that a destination has.
const FIELDS: [&str; 8] =
    ["id", "collection_id", "document_id", "document_name", "content", "embedding", "metadata", "created"];

fn transform(chosen: u8) -> Transform {
    let contract = if chosen & 1 == 0 { Contract::OpenGateLLM } else { Contract::OpenGateRAG };
    let vector_form = if chosen & 2 == 0 { VectorForm::Json } else { VectorForm::Base64 };
    Transform { contract, vector_size: SIZE, vector_form }
}

fn facts(chosen: u8) -> Option<DocumentFacts> {
    let name = (chosen & 8 != 0).then(|| "a \"name\"\n".to_owned());
    let created = if chosen & 16 == 0 { None } else { jiff::Timestamp::from_second(1_700_000_000).ok() };
    (chosen & 4 != 0).then_some(DocumentFacts { name, created })
}

fn is_sound(refusal: &Refusal) {
    let text = &refusal.reason;
    assert!(text.len() <= MOST_SAID, "{} bytes of reason", text.len());
    assert!(!refusal.class.as_str().is_empty() && !text.is_empty());
}

/// The contract: a chunk in, a document or a refusal out.
pub fn contract(data: &[u8]) {
    let (chosen, source) = choice(data);
    let (transform, facts) = (transform(chosen), facts(chosen));
    // The vector of a chunk whose `_source` has none.
    let vector = (chosen & 32 != 0).then_some("P4AAAEAAAABAQAAA");
    let input = Input { source, vector, collection_id: 5 };
    let (first, second) = (parse(&transform, input), parse(&transform, input));
    let (parsed, again) = match (first, second) {
        (Ok(parsed), Ok(again)) => (parsed, again),
        (Err(refusal), Err(again)) => {
            is_sound(&refusal);
            assert_eq!((refusal.class, refusal.reason), (again.class, again.reason));
            return;
        }
        _ => unreachable!("the same chunk is taken once and refused once"),
    };
    let addressed = Address {
        destination_id: parsed.destination_id().to_owned(),
        document_id: parsed.document_id(),
        needs_document: parsed.needs_document(),
    };
    assert_eq!(address(&transform, source).ok(), Some(addressed));
    if let Some(keys) = keys_alone(source) {
        assert_eq!(key_of(keys.as_bytes()).ok().as_deref(), Some(parsed.destination_id()));
    }
    let (mut document, mut other) = (Vec::new(), Vec::new());
    let (cuts, other_cuts) =
        (parsed.write(facts.as_ref(), &mut document), again.write(facts.as_ref(), &mut other));
    assert_eq!((&document, cuts), (&other, other_cuts), "written in two ways");
    is_document(&document, transform);
    let same = compare(&parsed, facts.as_ref(), &Actual { source: &document, vector: None });
    assert_eq!(same, Ok(()), "{}", String::from_utf8_lossy(&document));
}

/// What is left of a chunk of which only the key is asked for.
fn keys_alone(source: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Chunk<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow)]
        document_id: &'a RawValue,
    }
    let Chunk { id, metadata: Metadata { document_id } } = serde_json::from_slice(source).ok()?;
    Some(format!(r#"{{"id":{id},"metadata":{{"document_id":{document_id}}}}}"#))
}

/// One line of JSON with the fields of the destination alone.
fn is_document(document: &[u8], transform: Transform) {
    assert!(!document.contains(&b'\n') && !document.contains(&b'\r'), "more than one line");
    let text = String::from_utf8_lossy(document);
    let parsed: Result<Value, _> = serde_json::from_slice(document);
    // Deeper than this parser goes, or a number beyond its own.
    let Ok(parsed) = parsed else {
        let raw: Result<&RawValue, _> = serde_json::from_slice(document);
        assert!(raw.is_ok() || text.contains("[[[["), "{text}");
        return;
    };
    let fields: BTreeSet<&str> =
        parsed.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    assert!(fields.iter().all(|field| FIELDS.contains(field)), "{fields:?}");
    assert!(transform.contract.has_document_name() || !fields.contains("document_name"));
    for field in ["id", "collection_id", "document_id"] {
        assert!(parsed[field].as_i64().is_some_and(|key| (0..=i64::from(i32::MAX)).contains(&key)), "{text}");
    }
    assert!(parsed["content"].as_str().is_some_and(|content| !content.is_empty()), "{text}");
    let has_embedding = match transform.vector_form {
        VectorForm::Json => parsed["embedding"].as_array().is_some_and(|list| list.len() == SIZE as usize),
        VectorForm::Base64 => parsed["embedding"].as_str().is_some_and(|text| text.len() == 16),
    };
    assert!(has_embedding, "{text}");
    let entries = parsed["metadata"].as_object().map_or(0, serde_json::Map::len);
    assert!(entries <= transform.contract.most_metadata_entries(), "{text}");
}

/// Whatever the destination gives back is compared, and what is not the document is a difference in words.
pub fn comparison(data: &[u8]) {
    let (chosen, source) = choice(data);
    let (transform, facts) = (transform(chosen), facts(chosen));
    let chunk = br#"{"id":1,"content":"words","embedding":[1,2,3],"metadata":{"document_id":2,"a":1.50,"b":["x","y"],"document_name":"n","document_created_at":"2024-05-01"}}"#;
    let Ok(parsed) = parse(&transform, Input { source: chunk, vector: None, collection_id: 5 }) else {
        return;
    };
    let vector = (chosen & 32 != 0).then_some("P4AAAEAAAABAQAAA");
    let found = compare(&parsed, facts.as_ref(), &Actual { source, vector });
    assert_eq!(found, compare(&parsed, facts.as_ref(), &Actual { source, vector }));
    match found {
        Ok(()) => assert!(source.windows(5).any(|part| part == b"words") || source.contains(&b'\\')),
        Err(difference) => assert!(difference.to_string().len() <= MOST_SAID, "{difference}"),
    }
}
