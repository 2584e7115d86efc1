//! What a chunk becomes, what is refused, what is cut.

use es_index_merge::chunk::{Input, RefusalClass, parse};
use serde_json::Value;

use crate::{chunk, chunk_with, input, llm, metadata_of, rag, refused, with_content, write_with, written};

#[test]
fn writes_the_fields_of_each_contract_in_a_fixed_order() {
    let source = chunk_with(r#""page":2,"collection_id":9"#);
    assert_eq!(
        written(&source),
        concat!(
            r#"{"id":7,"collection_id":42,"document_id":3,"document_name":"a.pdf","content":"Bonjour","#,
            r#""embedding":[0.6,0.8],"metadata":{"page":2},"created":"2024-05-01T12:00:00Z"}"#
        )
    );
    assert_eq!(
        write_with(&rag(), &source, None).unwrap().0,
        concat!(
            r#"{"id":7,"collection_id":42,"document_id":3,"content":"Bonjour","#,
            r#""embedding":[0.6,0.8],"metadata":{"page":2},"created":"2024-05-01T12:00:00Z"}"#
        )
    );
}

#[test]
fn the_destination_id_is_the_sha256_of_document_and_chunk() {
    let source = chunk_with("");
    let parsed = parse(&llm(), input(&source)).unwrap();
    // printf '3|7' | sha256sum
    let expected = "c95255dc0d87c332988bf693b9d3dabb8552e23c331f01339527e393ce0aaa69";
    assert_eq!(parsed.destination_id(), expected);
    assert_eq!((parsed.document_id(), parsed.chunk_id()), (3, 7));
}

#[test]
fn keys_may_be_integers_integer_valued_decimals_or_digits() {
    let keyed = |key: &str| {
        format!(r#"{{"id":{key},"content":"x","embedding":[1,0],"metadata":{{"document_id":{key}}}}}"#)
    };
    for (written_as, value) in [
        ("0", 0),
        ("12", 12),
        ("12.0", 12),
        ("1.2e1", 12),
        ("\"12\"", 12),
        ("\"012\"", 12),
        ("-0", 0),
        ("2147483647", i64::from(i32::MAX)),
    ] {
        let source = keyed(written_as);
        let parsed = parse(&llm(), input(&source)).unwrap();
        assert_eq!((parsed.document_id(), parsed.chunk_id()), (value, value), "{written_as}");
        let plain = keyed(&value.to_string());
        assert_eq!(parsed.destination_id(), parse(&llm(), input(&plain)).unwrap().destination_id());
    }
}

#[test]
fn refuses_a_chunk_without_a_usable_key() {
    for key in [
        "null",
        "-1",
        "1.5",
        "2147483648",
        "1e400",
        "\"\"",
        "\"a\"",
        "\"-1\"",
        "\" 1\"",
        "\"1.0\"",
        "true",
        "[1]",
        "{}",
        "1e-400",
    ] {
        let id = format!(r#"{{"id":{key},"content":"x","embedding":[1,0],"metadata":{{"document_id":3}}}}"#);
        assert_eq!(refused(&id), RefusalClass::Key, "{id}");
        assert_eq!(refused(&chunk(&format!(r#"{{"document_id":{key}}}"#))), RefusalClass::Key, "{key}");
    }
    for metadata in ["null", "{}", "[]", "3", "\"x\"", r#"{"page":1}"#] {
        assert_eq!(refused(&chunk(metadata)), RefusalClass::Key, "{metadata}");
    }
    assert_eq!(refused(r#"{"id":1,"content":"x","embedding":[1,0]}"#), RefusalClass::Key);
    assert_eq!(
        refused(r#"{"content":"x","embedding":[1,0],"metadata":{"document_id":3}}"#),
        RefusalClass::Key
    );
    for collection_id in [-1, i64::from(i32::MAX) + 1] {
        let refusal = parse(&llm(), Input { collection_id, ..input(&chunk_with("")) }).unwrap_err();
        assert_eq!(refusal.class, RefusalClass::Key);
    }
}

#[test]
fn content_is_passed_on_as_its_raw_text() {
    let content = r#""caf\u00e9 \ud83d\ude00 \/ \" \\ \n é 😀 \u0000""#;
    assert!(written(&with_content(content)).contains(&format!(r#""content":{content},"#)));
}

#[test]
fn refuses_a_chunk_without_content() {
    for content in [
        "null",
        "\"\"",
        "5",
        "[\"x\"]",
        "{}",
        "true",
        r#""\ud800""#,
        r#""a\udc00b""#,
        r#""\ud800\ud800""#,
        r#""\ud83dx""#,
        r#""\ud83d\n""#,
    ] {
        assert_eq!(refused(&with_content(content)), RefusalClass::Content, "{content}");
    }
    assert_eq!(refused(r#"{"id":1,"embedding":[1,0],"metadata":{"document_id":3}}"#), RefusalClass::Content);
}

#[test]
fn refuses_what_is_not_json() {
    let deep = format!(r#"{{"x":{}{},"id":1}}"#, "[".repeat(2000), "]".repeat(2000));
    let endless = format!(r#"{{"x":{}"#, r#"{"a":["#.repeat(100_000));
    for source in [
        "",
        " ",
        "null",
        "[]",
        "3",
        "\"x\"",
        "{",
        "}",
        "{}x",
        "{}{}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r"{,}",
        r#"{"a":1 "b":2}"#,
        r"{a:1}",
        r"{'a':1}",
        r#"{"a":01}"#,
        r#"{"a":+1}"#,
        r#"{"a":.5}"#,
        r#"{"a":1.}"#,
        r#"{"a":nul}"#,
        r#"{"a":NaN}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":[,1]}"#,
        r#"{"a":[1}}"#,
        r#"{"a":{"b":1]}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12"}"#,
        r#"{"a":"\u12g4"}"#,
        "{\"a\":\"\n\"}",
        "{\"a\":\"\u{1}\"}",
        r#"{"a":"x}"#,
        r#"{"a":/* no */1}"#,
        "\u{feff}{}",
        &deep,
        &endless,
    ] {
        let short: String = source.chars().take(60).collect();
        assert_eq!(refused(source), RefusalClass::NotJson, "{short}");
    }
    let bytes = b"{\"content\":\"\xff\"}";
    let refusal = parse(&llm(), Input { source: bytes, vector: None, collection_id: 1 }).unwrap_err();
    assert_eq!(refusal.class, RefusalClass::NotJson);
}

#[test]
fn refuses_a_key_that_stands_twice() {
    for source in [
        r#"{"id":1,"id":1,"content":"x","embedding":[1,0],"metadata":{"document_id":3}}"#,
        r#"{"id":1,"content":"x","content":"y","embedding":[1,0],"metadata":{"document_id":3}}"#,
        r#"{"id":1,"content":"x","embedding":[1,0],"embedding":[1,0],"metadata":{"document_id":3}}"#,
        r#"{"id":1,"content":"x","embedding":[1,0],"metadata":{"document_id":3},"metadata":{}}"#,
        r#"{"id":1,"\u0069d":1,"content":"x","embedding":[1,0],"metadata":{"document_id":3}}"#,
    ] {
        assert_eq!(refused(source), RefusalClass::NotJson, "{source}");
    }
    for metadata in [
        r#"{"document_id":3,"document_id":4}"#,
        r#"{"document_id":3,"a":1,"a":2}"#,
        r#"{"document_id":3,"a":1,"\u0061":2}"#,
        r#"{"document_id":3,"collection_id":1,"collection_id":1}"#,
    ] {
        assert_eq!(refused(&chunk(metadata)), RefusalClass::NotJson, "{metadata}");
    }
}

#[test]
fn nesting_as_deep_as_the_server_allows_is_skipped() {
    let nested = format!("{}1{}", "[".repeat(990), "]".repeat(990));
    assert!(written(&chunk_with(&format!(r#""deep":{nested}"#))).contains(r#""metadata":null"#));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(990), "}".repeat(990));
    let unknown = format!(
        r#"{{"extra":{objects},"id":1,"content":"x","embedding":[1,0],"metadata":{{"document_id":3}}}}"#
    );
    let (_, cuts) = write_with(&rag(), &unknown, None).unwrap();
    assert_eq!(cuts.iter().collect::<Vec<_>>(), [("unknown_field", 1), ("created_missing", 1)]);
}

#[test]
fn field_names_may_be_escaped_and_spaced() {
    let source = concat!(
        "\r\n{ \"\\u0069d\" : 7 ,\t\"content\" : \"x\" , \"embedding\" : [ 0.6 ,\n 0.8 ] ,",
        " \"metadata\" : { \"document_id\" : 3 , \"tags\" : [ \"a\" ,\n \"b\" ] } }\n"
    );
    assert_eq!(
        write_with(&rag(), source, None).unwrap().0,
        concat!(
            r#"{"id":7,"collection_id":42,"document_id":3,"content":"x","embedding":[0.6,0.8],"#,
            r#""metadata":{"tags":["a","b"]}}"#
        )
    );
}

#[test]
fn metadata_keeps_exact_values() {
    let entries = concat!(
        r#""a":9007199254740993,"b":1.0,"c":-0.0,"d":1e3,"e":0.1000000000000000000000000000001,"#,
        r#""f":true,"g":false,"h":"caf\u00e9","i":["x",1,2.50,null,true]"#
    );
    assert_eq!(metadata_of(&rag(), entries), (format!("{{{entries}}}"), vec![]));
}

#[test]
fn metadata_that_readers_refuse_is_cut_and_counted() {
    let long = "x".repeat(256);
    let cases = [
        (r#""a":{}"#.to_owned(), "metadata_nested"),
        (r#""a":{"b":1}"#.to_owned(), "metadata_nested"),
        (r#""a":[[1]]"#.to_owned(), "metadata_nested"),
        (r#""a":["x",{"b":1}]"#.to_owned(), "metadata_nested"),
        (r#""a":"""#.to_owned(), "metadata_string_length"),
        (r#""a":" \u00a0\u2003\t""#.to_owned(), "metadata_string_length"),
        (r#""a":"\u001c\u001d\u001e\u001f""#.to_owned(), "metadata_string_length"),
        (format!(r#""a":"{long}""#), "metadata_string_length"),
        (format!(r#""{long}":1"#), "metadata_key"),
        (r#""":1"#.to_owned(), "metadata_key"),
        (r#""  ":1"#.to_owned(), "metadata_key"),
        (r#""a\u0000b":1"#.to_owned(), "metadata_key"),
        (r#""a":10000000000000000"#.to_owned(), "metadata_number_range"),
        (r#""a":-10000000000000000"#.to_owned(), "metadata_number_range"),
        (r#""a":9999999999999999.5"#.to_owned(), "metadata_number_range"),
        (r#""a":-9999999999999999.5"#.to_owned(), "metadata_number_range"),
        (r#""a":1e400"#.to_owned(), "metadata_number_range"),
        (format!(r#""a":0.{}1"#, "0".repeat(300)), "metadata_number_range"),
        (r#""a":[1,-1e400]"#.to_owned(), "metadata_number_range"),
        (r#""a":[]"#.to_owned(), "metadata_list_length"),
        (r#""a":[""," "]"#.to_owned(), "metadata_list_length"),
        (format!(r#""a":["{}","{}"]"#, "x".repeat(127), "y".repeat(128)), "metadata_list_length"),
        (r#""a":"\ud800""#.to_owned(), "metadata_not_unicode"),
        (r#""a":["\udfff"]"#.to_owned(), "metadata_not_unicode"),
        (r#""\ud800":1"#.to_owned(), "metadata_not_unicode"),
    ];
    for (entries, reason) in cases {
        assert_eq!(metadata_of(&rag(), &entries), ("null".to_owned(), vec![(reason, 1)]), "{entries}");
    }
    assert_eq!(metadata_of(&rag(), r#""a":null"#), ("null".to_owned(), vec![]));
}

#[test]
fn metadata_at_the_edge_of_what_readers_take_is_kept() {
    let longest = "é".repeat(255);
    for kept in [
        format!(r#""a":"{longest}""#),
        format!(r#""a":"  {longest}  ""#),
        format!(r#""{longest}":1"#),
        r#""a":9999999999999999"#.to_owned(),
        r#""a":-9999999999999999"#.to_owned(),
        r#""a":-9999999999999999.0"#.to_owned(),
        r#""a":1e-400"#.to_owned(),
        format!(r#""a":["{}","{}"]"#, "x".repeat(127), "y".repeat(127)),
        r#""a":[null]"#.to_owned(),
        r#""a":["\ud83d\ude00"]"#.to_owned(),
        r#""document_id ":1"#.to_owned(),
    ] {
        assert_eq!(metadata_of(&rag(), &kept), (format!("{{{kept}}}"), vec![]));
    }
}

#[test]
fn metadata_beyond_the_contracts_number_of_entries_is_cut_by_key() {
    let entries: Vec<String> = (0..12).rev().map(|index| format!(r#""k{index:02}":{index}"#)).collect();
    for (transform, most) in [(llm(), 8), (rag(), 10)] {
        let (metadata, cuts) = metadata_of(&transform, &entries.join(","));
        let metadata: Value = serde_json::from_str(&metadata).unwrap();
        let keys: Vec<String> = metadata.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, (0..most).map(|index| format!("k{index:02}")).collect::<Vec<_>>());
        assert_eq!(cuts, [("metadata_too_many", 12 - most)]);
    }
}

#[test]
fn metadata_is_ordered_by_the_bytes_of_the_keys_not_by_their_escapes() {
    let (metadata, _) = metadata_of(&rag(), r#""é":1,"\u0062":2,"a":3,"😀":4,"Z":5"#);
    assert_eq!(metadata, r#"{"Z":5,"a":3,"\u0062":2,"é":1,"😀":4}"#);
}
