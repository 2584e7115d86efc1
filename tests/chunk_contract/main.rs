//! The contract of `chunk`, from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Tables are tuples, and speed is nothing here.
#![allow(clippy::type_complexity, clippy::trivially_copy_pass_by_ref, clippy::format_collect)]

mod comparison;
mod destination;
mod embeddings;
mod names_and_dates;
mod properties;
mod tables;

use es_index_merge::chunk::{
    Contract, Cuts, DocumentFacts, Input, Refusal, RefusalClass, Transform, VectorForm, parse,
};
use serde_json::Value;

pub(crate) type Counted = Vec<(&'static str, u64)>;

pub(crate) fn transform(contract: Contract, vector_form: VectorForm) -> Transform {
    Transform { contract, vector_size: 2, vector_form }
}

pub(crate) fn llm() -> Transform {
    transform(Contract::OpenGateLLM, VectorForm::Json)
}

pub(crate) fn rag() -> Transform {
    transform(Contract::OpenGateRAG, VectorForm::Json)
}

pub(crate) fn input(source: &str) -> Input<'_> {
    Input { source: source.as_bytes(), vector: None, collection_id: 42 }
}

/// A whole chunk around its metadata.
pub(crate) fn chunk(metadata: &str) -> String {
    format!(r#"{{"id":7,"content":"Bonjour","embedding":[0.6,0.8],"metadata":{metadata}}}"#)
}

/// A whole chunk with metadata entries beside those it needs.
pub(crate) fn chunk_with(entries: &str) -> String {
    let comma = if entries.is_empty() { "" } else { "," };
    let needed = r#""document_id":3,"document_name":"a.pdf","document_created_at":1714564800"#;
    chunk(&format!("{{{needed}{comma}{entries}}}"))
}

/// A whole chunk around its embedding, without a date.
pub(crate) fn with_embedding(embedding: &str) -> String {
    format!(r#"{{"id":7,"content":"x","metadata":{{"document_id":3}},"embedding":{embedding}}}"#)
}

/// A whole chunk around its content.
pub(crate) fn with_content(content: &str) -> String {
    format!(r#"{{"id":1,"content":{content},"embedding":[1,0],"metadata":{{"document_id":3}}}}"#)
}

pub(crate) fn write_with(
    transform: &Transform,
    source: &str,
    facts: Option<&DocumentFacts>,
) -> Result<(String, Cuts), Refusal> {
    let parsed = parse(transform, input(source))?;
    let mut out = Vec::new();
    let cuts = parsed.write(facts, &mut out);
    Ok((String::from_utf8(out).unwrap(), cuts))
}

pub(crate) fn written(source: &str) -> String {
    write_with(&llm(), source, None).unwrap().0
}

/// The metadata of the written document, as text, and the cuts.
pub(crate) fn metadata_of(transform: &Transform, entries: &str) -> (String, Counted) {
    let (document, cuts) = write_with(transform, &chunk_with(entries), None).unwrap();
    let (_, tail) = document.split_once(r#""metadata":"#).unwrap();
    let (metadata, _) = tail.split_once(r#","created""#).unwrap();
    (metadata.to_owned(), cuts.iter().collect())
}

pub(crate) fn refused(source: &str) -> RefusalClass {
    match write_with(&llm(), source, None) {
        Ok((document, _)) => panic!("{source} became {document}"),
        Err(refusal) => {
            assert!(refusal.reason.len() < 300, "{refusal}");
            refusal.class
        }
    }
}

pub(crate) fn created_of(metadata: &str, facts: Option<&DocumentFacts>) -> (Option<String>, Counted) {
    let (document, cuts) = write_with(&rag(), &chunk(metadata), facts).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    (document.get("created").map(|text| text.as_str().unwrap().to_owned()), cuts.iter().collect())
}
