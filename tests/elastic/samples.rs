//! Documents that may be written again under their id alone.

use es_index_merge::elastic::ReadLane;
use serde_json::{Value, json};

use super::server::{Index, Server, settings, write};

const LANE: ReadLane = ReadLane::Source { ask_for_vectors: false };

/// One shard with two documents that their ids lead to, and behind them one that its routing leads to. `_source` leaves the
/// vector out.
async fn three_documents(server: &Server) -> Index {
    let mappings = json!({
        "_source": {"excludes": ["vector"]},
        "properties": {"number": {"type": "integer"}, "vector": {"type": "dense_vector", "dims": 2}},
    });
    let index = server.index(json!({"settings": settings(1), "mappings": mappings})).await;
    let documents = [
        ("numbered".to_owned(), json!({"number": 1, "vector": [1.0, 2.0]})),
        ("other".to_owned(), json!({"vector": [2.0, 1.0]})),
    ];
    write(server, &index, &documents).await;
    let path = format!("/{}/_doc/routed?routing=elsewhere&refresh=true", index.as_str());
    server.ask("PUT", &path, Some(&json!({"number": 3})));
    index
}

#[tokio::test]
async fn a_sample_holds_no_document_with_a_routing_and_only_those_with_the_field_that_is_asked_for() {
    for server in Server::each().await {
        let index = three_documents(&server).await;
        for (field, expected) in [(Some("number"), vec!["numbered"]), (None, vec!["numbered", "other"])] {
            let page = server.cluster.sample(&index, 0, 10, field, LANE).await.unwrap();
            let mut ids: Vec<&str> = page.hits.iter().map(|hit| hit.id.as_str()).collect();
            ids.sort_unstable();
            assert_eq!(ids, expected, "{field:?}");
        }
    }
}

#[tokio::test]
async fn the_document_at_a_number_is_none_with_a_routing() {
    for server in Server::each().await {
        let index = three_documents(&server).await;
        let mut found = Vec::new();
        for number in 0..3 {
            let document = server.cluster.document_at(&index, 0, number, LANE).await.unwrap();
            found.push(document.map(|(number, hit)| (number, hit.id)));
        }
        let expected: [Option<(u64, String)>; 3] =
            [Some((0, "numbered".to_owned())), Some((1, "other".to_owned())), None];
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn what_the_index_holds_of_a_field_is_known_though_the_source_leaves_it_out() {
    for server in Server::each().await {
        let index = three_documents(&server).await;
        let page = server.cluster.sample(&index, 0, 10, Some("number"), LANE).await.unwrap();
        let words: Value = serde_json::from_slice(page.hits[0].source()).unwrap();
        assert_eq!(words, json!({"number": 1}));
        for (id, field, is_held) in
            [("numbered", "vector", true), ("other", "number", false), ("absent", "vector", false)]
        {
            let held = server.cluster.has_field(&index, id, field).await.unwrap();
            assert_eq!(held, is_held, "{id} {field}");
        }
    }
}
