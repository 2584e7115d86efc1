//! Embeddings in each form, and those that are refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use es_index_merge::chunk::{Contract, Input, RefusalClass, VectorForm, parse};
use serde_json::{Value, json};

use crate::{input, llm, rag, refused, transform, with_embedding, write_with, written};

#[test]
fn refuses_a_chunk_without_a_usable_embedding() {
    let nan = STANDARD.encode([0x7f, 0xc0, 0, 0, 0x3f, 0x80, 0, 0]);
    let zeros = STANDARD.encode([0; 8]);
    for embedding in [
        "null",
        "[]",
        "[1]",
        "[1,0,0]",
        "[1,null]",
        "[1,\"0\"]",
        "[1,true]",
        "[[1,0]]",
        "[1,[0]]",
        "{}",
        "{\"a\":1}",
        "true",
        "5",
        "[0,0]",
        "[0.0,-0.0]",
        "[1e400,1]",
        "[-1e39,1]",
        "[1e-30,1e-30]",
        "[3e38,3e38]",
        "[1,]",
        "[,1]",
        "[1 0]",
        "[01,1]",
        "[1,NaN]",
        "\"\"",
        "\"AAAA\"",
        "\"zzzz!\"",
        "\"\\ud800\"",
        "\"3f800000000000000\"",
        &format!("\"{nan}\""),
        &format!("\"{zeros}\""),
    ] {
        assert_eq!(refused(&with_embedding(embedding)), RefusalClass::Vector, "{embedding}");
    }
    assert_eq!(refused(r#"{"id":7,"content":"x","metadata":{"document_id":3}}"#), RefusalClass::Vector);
    for vector in ["", "AAAA", "!", &nan, &zeros, &STANDARD.encode([1; 12])] {
        let source = with_embedding("null");
        let refusal = parse(&llm(), Input { vector: Some(vector), ..input(&source) }).unwrap_err();
        assert_eq!(refusal.class, RefusalClass::Vector, "{vector}");
    }
}

#[test]
fn embeddings_are_read_in_each_form_and_written_in_each() {
    let full = STANDARD.encode([0x3f, 0x00, 0, 0, 0xbe, 0x80, 0, 0]);
    let forms = [
        "[0.5,-0.25]".to_owned(),
        "[ 0.5 , -2.5e-1 ]".to_owned(),
        "[\n5E-1,\r\n\t-0.25\n]".to_owned(),
        format!("\"{full}\""),
        format!("\"{}\"", full.trim_end_matches('=')),
        format!("\"\\u00{:x}{}\"", full.as_bytes()[0], &full[1..]),
        format!("\"{}\"", STANDARD.encode([0x3f, 0x00, 0xbe, 0x80])),
        "\"3f000000be800000\"".to_owned(),
        "\"3F000000BE800000\"".to_owned(),
    ];
    for form in &forms {
        let source = with_embedding(form);
        let base64 = transform(Contract::OpenGateRAG, VectorForm::Base64);
        let (document, _) = write_with(&base64, &source, None).unwrap();
        assert!(document.contains(&format!(r#""embedding":"{full}","#)), "{form} became {document}");
        let (document, _) = write_with(&rag(), &source, None).unwrap();
        assert!(!document.contains(['\n', '\r']), "{document}");
        let document: Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document["embedding"], json!([0.5, -0.25]), "{form}");
    }
    // Doc values serve where `_source` has nothing.
    let source = r#"{"id":7,"content":"x","metadata":{"document_id":3}}"#;
    let parsed = parse(&rag(), Input { vector: Some(&full), ..input(source) }).unwrap();
    let mut out = Vec::new();
    let _ = parsed.write(None, &mut out);
    assert!(String::from_utf8(out).unwrap().contains(r#""embedding":[0.5,-0.25],"#));
}

#[test]
fn the_text_of_an_embedding_is_passed_on_between_lists() {
    let list = "[0.12345678901234567890, -1E-2]";
    assert!(written(&with_embedding(list)).contains(&format!(r#""embedding":{list},"#)));
}
