//! The destination's settings and mappings, and what keeps an existing index from being it.

use es_index_merge::chunk::{Contract, IndexSpec, Language, differences, index_body, interferences};
use serde_json::{Value, json};

fn spec(contract: Contract) -> IndexSpec {
    IndexSpec {
        contract,
        language: Language::French,
        shards: 24,
        replicas: 1,
        vector_size: 1024,
        index_options: json!({"type": "bbq_hnsw"}),
        also_fitting: Vec::new(),
        load_options: None,
    }
}

/// What a 9.4 server answers about an index created with [`index_body`].
fn as_the_server_answers() -> (Value, Value) {
    let mapping = json!({"properties": {
        "collection_id": {"type": "integer"},
        "content": {"type": "text", "analyzer": "content_analyzer"},
        "created": {"type": "date"},
        "document_id": {"type": "integer"},
        "document_name": {"type": "keyword"},
        "embedding": {"type": "dense_vector", "dims": 1024, "index": true, "similarity": "cosine",
            "index_options": {"type": "bbq_hnsw", "m": 16, "ef_construction": 100,
                "rescore_vector": {"oversample": 3.0}}},
        "id": {"type": "integer"},
        "metadata": {"type": "flattened"},
    }});
    let settings = json!({
        "index.analysis.analyzer.content_analyzer.filter": ["lowercase", "stop", "stemmer"],
        "index.analysis.analyzer.content_analyzer.tokenizer": "standard",
        "index.analysis.analyzer.content_analyzer.type": "custom",
        "index.analysis.filter.stemmer.language": "light_french",
        "index.analysis.filter.stemmer.type": "stemmer",
        "index.analysis.filter.stop.stopwords": "_french_",
        "index.analysis.filter.stop.type": "stop",
        "index.creation_date": "1714564800000",
        "index.number_of_replicas": "0",
        "index.number_of_shards": "24",
        "index.provided_name": "opengatellm",
        "index.similarity.default.type": "BM25",
        "index.uuid": "x",
    });
    (mapping, settings)
}

#[test]
fn the_index_is_created_exactly_as_the_contract_says() {
    assert_eq!(
        index_body(&spec(Contract::OpenGateLLM)),
        json!({
            "settings": {
                "number_of_shards": 24,
                "number_of_replicas": 1,
                "similarity": {"default": {"type": "BM25"}},
                "analysis": {
                    "filter": {
                        "stop": {"type": "stop", "stopwords": "_french_"},
                        "stemmer": {"type": "stemmer", "language": "light_french"},
                    },
                    "analyzer": {"content_analyzer": {
                        "type": "custom", "tokenizer": "standard", "filter": ["lowercase", "stop", "stemmer"],
                    }},
                },
            },
            "mappings": {"properties": {
                "id": {"type": "integer"},
                "collection_id": {"type": "integer"},
                "document_id": {"type": "integer"},
                "document_name": {"type": "keyword"},
                "embedding": {"type": "dense_vector", "dims": 1024, "index": true, "similarity": "cosine",
                    "index_options": {"type": "bbq_hnsw"}},
                "content": {"type": "text", "analyzer": "content_analyzer"},
                "metadata": {"type": "flattened"},
                "created": {"type": "date"},
            }},
        })
    );
}

#[test]
fn the_contract_of_opengaterag_has_no_document_name() {
    let body = index_body(&spec(Contract::OpenGateRAG));
    assert!(body["mappings"]["properties"].get("document_name").is_none());
}

#[test]
fn the_load_may_begin_with_other_index_options() {
    let flat = IndexSpec { load_options: Some(json!({"type": "flat"})), ..spec(Contract::OpenGateRAG) };
    assert_eq!(
        index_body(&flat)["mappings"]["properties"]["embedding"]["index_options"],
        json!({"type": "flat"})
    );
}

#[test]
fn each_language_has_its_stop_words_and_stemmer() {
    let expected = [
        (Language::French, "_french_", "light_french"),
        (Language::English, "_english_", "light_english"),
        (Language::German, "_german_", "light_german"),
        (Language::Italian, "_italian_", "light_italian"),
        (Language::Portuguese, "_portuguese_", "light_portuguese"),
        (Language::Spanish, "_spanish_", "light_spanish"),
        (Language::Swedish, "_swedish_", "light_swedish"),
        (Language::Dutch, "_dutch_", "dutch"),
    ];
    assert_eq!(expected.map(|(language, ..)| language), Language::ALL);
    for (language, stopwords, stemmer) in expected {
        let body = index_body(&IndexSpec { language, ..spec(Contract::OpenGateLLM) });
        let filters = &body["settings"]["analysis"]["filter"];
        assert_eq!(
            (&filters["stop"]["stopwords"], &filters["stemmer"]["language"]),
            (&json!(stopwords), &json!(stemmer))
        );
        assert_eq!(language.as_str().parse(), Ok(language));
    }
    assert!("French".parse::<Language>().is_err());
    assert!("opengatellm".parse::<Contract>().unwrap_err().to_string().contains("OpenGateLLM"));
}

#[test]
fn an_index_as_it_was_created_has_no_differences() {
    let (mapping, settings) = as_the_server_answers();
    for contract in [Contract::OpenGateLLM, Contract::OpenGateRAG] {
        let spec = spec(contract);
        assert_eq!(differences(&spec, &mapping, &settings), Vec::<String>::new());
        assert_eq!(differences(&spec, &mapping["properties"], &settings), Vec::<String>::new());
        // What we send, should it be given back as it is.
        let body = index_body(&spec);
        assert_eq!(
            differences(&spec, &body["mappings"], &json!({"index": body["settings"]})),
            Vec::<String>::new()
        );
    }
}

#[test]
fn what_the_server_leaves_out_as_default_is_no_difference() {
    let (mut mapping, mut settings) = as_the_server_answers();
    let embedding = mapping["properties"]["embedding"].as_object_mut().unwrap();
    for option in ["index", "similarity", "index_options"] {
        embedding.remove(option);
    }
    embedding.insert("element_type".to_owned(), json!("float"));
    let settings = settings.as_object_mut().unwrap();
    settings.remove("index.similarity.default.type");
    settings.remove("index.analysis.analyzer.content_analyzer.type");
    let settings = Value::Object(settings.clone());
    assert_eq!(differences(&spec(Contract::OpenGateLLM), &mapping, &settings), Vec::<String>::new());
}

#[test]
fn an_index_that_is_still_flat_for_the_load_is_ours() {
    let (mut mapping, settings) = as_the_server_answers();
    mapping["properties"]["embedding"]["index_options"] = json!({"type": "flat"});
    let loading = IndexSpec { load_options: Some(json!({"type": "flat"})), ..spec(Contract::OpenGateLLM) };
    assert_eq!(differences(&loading, &mapping, &settings), Vec::<String>::new());
    assert_eq!(differences(&spec(Contract::OpenGateLLM), &mapping, &settings).len(), 1);
}

#[test]
fn each_difference_is_one_sentence_with_field_found_wanted_and_remedy() {
    let embedding = "/properties/embedding";
    let in_mapping = [
        (format!("{embedding}/dims"), json!(384), "has 384 dimensions, wanted 1024"),
        (
            format!("{embedding}/similarity"),
            json!("dot_product"),
            "has similarity `dot_product`, wanted `cosine`",
        ),
        (
            format!("{embedding}/element_type"),
            json!("bfloat16"),
            "has element_type `bfloat16`, wanted `float`",
        ),
        (format!("{embedding}/index"), json!(false), "has index `false`, wanted `true`"),
        (format!("{embedding}/type"), json!("float"), "is of type `float`, wanted `dense_vector`"),
        (format!("{embedding}/index_options/type"), json!("int8_hnsw"), "wanted {\"type\":\"bbq_hnsw\"}"),
        (
            "/properties/id/type".to_owned(),
            json!("long"),
            "field `id` is of type \"long\", wanted \"integer\"",
        ),
        (
            "/properties/metadata".to_owned(),
            json!({"properties": {}}),
            "field `metadata` is of type \"object\"",
        ),
        (
            "/properties/content/analyzer".to_owned(),
            json!("french"),
            "has analyzer \"french\", wanted \"content_analyzer\"",
        ),
        ("/properties/created/format".to_owned(), json!("epoch_second"), "has format `epoch_second`"),
        ("/properties/id/index".to_owned(), json!(false), "field `id` has index false"),
    ];
    for (pointer, value, expected) in in_mapping {
        let (mut mapping, settings) = as_the_server_answers();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        mapping.pointer_mut(parent).unwrap()[key] = value;
        let found = differences(&spec(Contract::OpenGateLLM), &mapping, &settings);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected) && found[0].contains("; c"), "{found:?}");
    }
    let in_settings = [
        ("index.number_of_shards", json!("12"), "the index has 12 shards, wanted 24"),
        ("index.similarity.default.type", json!("boolean"), "is `boolean`, wanted `BM25`"),
        ("index.analysis.filter.stop.stopwords", json!("_english_"), "is \"_english_\", wanted \"_french_\""),
        ("index.analysis.filter.stop.ignore_case", json!("true"), "is \"true\", wanted nothing"),
        (
            "index.analysis.analyzer.content_analyzer.filter",
            json!(["lowercase"]),
            "is [\"lowercase\"], wanted",
        ),
        ("index.analysis.analyzer.content_analyzer.char_filter", json!(["html_strip"]), "wanted nothing"),
    ];
    for (path, value, expected) in in_settings {
        let (mapping, mut settings) = as_the_server_answers();
        settings[path] = value;
        let found = differences(&spec(Contract::OpenGateLLM), &mapping, &settings);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected) && found[0].contains("; c"), "{found:?}");
    }
}

#[test]
fn what_hides_a_field_or_asks_for_a_routing_is_a_difference() {
    let (mut mapping, settings) = as_the_server_answers();
    mapping["_routing"] = json!({"required": false});
    mapping["runtime"] = json!({"of_somebody_else": {"type": "long"}});
    let spec = spec(Contract::OpenGateLLM);
    assert_eq!(differences(&spec, &mapping, &settings), Vec::<String>::new());

    mapping["_routing"]["required"] = json!(true);
    mapping["runtime"]["collection_id"] = json!({"type": "long"});
    let found = differences(&spec, &mapping, &settings);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("the runtime field `collection_id` hides"), "{found:?}");
    assert!(found[1].starts_with("the mapping requires a `_routing`"), "{found:?}");
}

#[test]
fn who_alters_or_takes_away_documents_is_named_with_what_to_do() {
    let (_, created) = as_the_server_answers();
    let harmless = [
        created,
        json!({"index.final_pipeline": "_none", "index.lifecycle.name": null}),
        json!({"index": {"final_pipeline": null, "lifecycle": {"name": "", "rollover_alias": "written"}}}),
        // A bulk leaves it out.
        json!({"index.default_pipeline": "shorten"}),
    ];
    for settings in harmless {
        assert_eq!(interferences(&settings), Vec::<String>::new(), "{settings}");
    }
    for settings in [
        json!({"index.final_pipeline": "shorten", "index.lifecycle.name": "a-month"}),
        json!({"index": {"final_pipeline": "shorten", "lifecycle": {"name": "a-month"}}}),
    ] {
        let found = interferences(&settings);
        assert_eq!(found.len(), 2, "{found:?}");
        for (sentence, parts) in found.iter().zip([
            ["setting `final_pipeline` is `shorten`", "; set it to `_none`"],
            ["setting `lifecycle.name` is `a-month`", "`POST INDEX/_ilm/remove`"],
        ]) {
            assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
        }
    }
}

#[test]
fn an_index_of_something_else_differs_in_every_field() {
    let found =
        differences(&spec(Contract::OpenGateLLM), &json!({}), &json!({"index": {"number_of_shards": "1"}}));
    for field in
        ["id", "collection_id", "document_id", "document_name", "embedding", "content", "metadata", "created"]
    {
        assert!(found.iter().any(|sentence| sentence.contains(&format!("field `{field}`"))), "{found:#?}");
    }
    assert!(found.iter().any(|sentence| sentence.contains("stemmer.language` is absent")), "{found:#?}");
}
