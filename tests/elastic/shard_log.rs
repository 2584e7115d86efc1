//! Windows of real shard logs: complete, bit-exact, and never silently empty.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use es_index_merge::elastic::{
    ElasticError, ErrorCategory, Hit, IndexName, PlacesRequest, PrimaryStats, ReadLane, Version, Walk,
    WindowRequest,
};
use rand::Rng as _;
use serde_json::{Value, json};
use testenv::elasticsearch::Flavor;

use super::server::{Index, Server, settings, write};

const PLAIN: ReadLane = ReadLane::Source { ask_for_vectors: false };

async fn stats(server: &Server, index: &IndexName) -> Vec<PrimaryStats> {
    let mut stats = server.cluster.primary_stats(std::slice::from_ref(index)).await.unwrap();
    stats.remove(index).unwrap().unwrap()
}

/// Stats, then refresh, then every window of that width up to the checkpoints, in requests of five.
async fn read_all(server: &Server, index: &IndexName, width: i64, lane: &ReadLane) -> Vec<Hit> {
    let shards = stats(server, index).await;
    server.cluster.refresh(std::slice::from_ref(index)).await.unwrap();
    let mut windows = Vec::new();
    for shard in shards {
        let end = shard.global_checkpoint + 1;
        for from in (0..end).step_by(usize::try_from(width).unwrap()) {
            let (index, lane) = (index.clone(), lane.clone());
            windows.push(WindowRequest {
                index,
                shard: shard.shard,
                from,
                to: (from + width).min(end),
                lane,
                most: None,
            });
        }
    }
    let mut hits = Vec::new();
    for some in windows.chunks(5) {
        for page in server.cluster.read_windows(some).await.unwrap() {
            hits.extend(page.unwrap().hits);
        }
    }
    hits
}

fn window(index: &IndexName, shard: i32) -> WindowRequest {
    WindowRequest { index: index.clone(), shard, from: 0, to: 100, lane: PLAIN, most: None }
}

#[tokio::test]
async fn windows_with_holes_give_each_live_chunk_once_in_its_last_state() {
    for server in Server::each().await {
        let index = server.index(json!({"settings": settings(2)})).await;
        let mut expected = BTreeMap::new();
        for round in 0..3 {
            let mut lines = String::new();
            for n in (0..60).filter(|n| round == 0 || n % (round + 2) == 0) {
                lines.extend([format!(
                    "{{\"index\":{{\"_id\":\"c{n}\"}}}}\n{{\"n\":{n},\"round\":{round}}}\n"
                )]);
                expected.insert(format!("c{n}"), json!({"n": n, "round": round}));
            }
            for n in (round..60).step_by(7) {
                lines.extend([format!("{{\"delete\":{{\"_id\":\"c{n}\"}}}}\n")]);
                expected.remove(&format!("c{n}"));
            }
            let path = format!("/{}/_bulk?refresh=true", *index);
            server.ask("POST", &path, Some(&Value::String(lines)));
        }
        let shards = stats(&server, &index).await;
        let operations: i64 = shards.iter().map(|shard| shard.global_checkpoint + 1).sum();
        let live: u64 = shards.iter().map(|shard| shard.docs).sum();
        assert_eq!(live, expected.len() as u64);
        assert!(operations > 100, "the log has holes");
        for width in [7, 64, 10_000] {
            let hits = read_all(&server, &index, width, &PLAIN).await;
            assert_eq!(hits.len(), expected.len());
            let found: BTreeMap<_, Value> = hits
                .iter()
                .map(|hit| (hit.id.clone(), serde_json::from_slice(hit.source()).unwrap()))
                .collect();
            assert_eq!(found, expected);
            assert!(hits.iter().all(|hit| hit.vector().is_none() && hit.version >= 1));
        }
        let keys = read_all(&server, &index, 1000, &ReadLane::Keys).await;
        let ids: BTreeSet<_> = keys.iter().map(|hit| hit.id.clone()).collect();
        assert_eq!(ids, expected.keys().cloned().collect());
        assert!(keys.iter().all(|hit| hit.source().is_empty()));
        let places = read_all(&server, &index, 1000, &ReadLane::Places).await;
        assert!(places.iter().all(|hit| hit.id.is_empty() && hit.source().is_empty()));
        let at = |hits: &[Hit]| hits.iter().map(|hit| (hit.seq_no, hit.version)).collect::<BTreeSet<_>>();
        assert_eq!(at(&places), at(&keys));
        for hit in &keys {
            let document = server.ask("GET", &format!("/{}/_doc/{}", *index, hit.id), None);
            assert_eq!(
                (json!(hit.seq_no), json!(hit.version)),
                (document["_seq_no"].clone(), document["_version"].clone())
            );
        }
    }
}

/// Random vectors of length one (to within a rounding), each with exactly representable values.
fn vectors(count: usize, dims: usize) -> Vec<Vec<f32>> {
    let mut rng = rand::rng();
    let mut one = || {
        let raw: Vec<f32> = (0..dims).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
        let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        raw.iter().map(|x| x / norm).collect()
    };
    (0..count).map(|_| one()).collect()
}

fn vector_index() -> Value {
    let embedding = json!({"type": "dense_vector", "dims": 64, "index": true, "similarity": "cosine"});
    json!({"settings": settings(1), "mappings": {"properties": {"embedding": embedding}}})
}

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|x| x.to_bits()).collect()
}

fn from_source(hit: &Hit) -> Option<Vec<f32>> {
    let source: Value = serde_json::from_slice(hit.source()).unwrap();
    serde_json::from_value(source.get("embedding")?.clone()).unwrap()
}

fn from_binary(hit: &Hit) -> Vec<f32> {
    let bytes = BASE64.decode(hit.vector().unwrap()).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[tokio::test]
async fn vectors_come_back_bit_exact_in_the_lane_of_each_version() {
    for server in Server::each().await {
        let index = server.index(vector_index()).await;
        let vectors = vectors(50, 64);
        let chunks: Vec<_> = vectors
            .iter()
            .enumerate()
            .map(|(n, vector)| (format!("v{n}"), json!({"n": n, "text": "é\"}{\\", "embedding": vector})))
            .collect();
        write(&server, &index, &chunks).await;
        let info =
            server.cluster.describe(std::slice::from_ref(&*index)).await.unwrap().remove(&*index).unwrap();
        let lane = info.read_lane(server.cluster.version(), "embedding");
        let expected_lane = match server.flavor {
            Flavor::V8 => PLAIN,
            Flavor::V9 => ReadLane::Binary { field: "embedding".into() },
        };
        assert_eq!(lane, expected_lane);
        let read = async |lane: &ReadLane| {
            let hits = read_all(&server, &index, 20, lane).await;
            assert_eq!(hits.len(), vectors.len());
            hits
        };
        let vector_of = |hit: &Hit| bits(&vectors[hit.id[1..].parse::<usize>().unwrap()]);
        for hit in read(&lane).await {
            match server.flavor {
                Flavor::V8 => assert_eq!(bits(&from_source(&hit).unwrap()), vector_of(&hit)),
                Flavor::V9 => {
                    assert_eq!(bits(&from_binary(&hit)), vector_of(&hit));
                    assert_eq!(from_source(&hit), None, "not sent twice");
                }
            }
        }
        if server.flavor == Flavor::V9 {
            for hit in read(&ReadLane::Source { ask_for_vectors: true }).await {
                assert_eq!(bits(&from_source(&hit).unwrap()), vector_of(&hit));
            }
            for hit in read(&PLAIN).await {
                assert_eq!(from_source(&hit), None, "this version hides vectors");
            }
        }
    }
}

#[tokio::test]
async fn a_chunk_without_a_vector_has_none_in_the_binary_lane() {
    let server = Server::of(Flavor::V9).await;
    let index = server.index(vector_index()).await;
    write(&server, &index, &[("a".into(), json!({"n": 1}))]).await;
    let hits = read_all(&server, &index, 10, &ReadLane::Binary { field: "embedding".into() }).await;
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].vector(), None);
}

/// The server waits a minute for a shard that has no place, so the versions are asked side by side.
#[tokio::test]
async fn what_cannot_be_read_from_8_is_an_error_of_its_window_and_never_an_empty_page() {
    cannot_read(&Server::of(Flavor::V8).await).await;
}

#[tokio::test]
async fn what_cannot_be_read_from_9_is_an_error_of_its_window_and_never_an_empty_page() {
    cannot_read(&Server::of(Flavor::V9).await).await;
}

async fn cannot_read(server: &Server) {
    let healthy = server.index(json!({"settings": settings(1)})).await;
    write(server, &healthy, &[("a".into(), json!({"n": 1}))]).await;
    let missing = server.unused_index();
    let closed = server.index(json!({"settings": settings(1)})).await;
    server.ask("POST", &format!("/{}/_close", *closed), None);
    let red = server.unused_index();
    let nowhere = json!({"settings": {"number_of_shards": 1, "number_of_replicas": 0,
        "index.routing.allocation.require._name": "nobody"}});
    server.ask("PUT", &format!("/{}?wait_for_active_shards=0", *red), Some(&nowhere));
    let aliased = server.unused_index();
    let add = json!([{"add": {"index": healthy.as_str(), "alias": aliased.as_str()}}]);
    server.cluster.update_aliases(&add).await.unwrap();

    let requests = [
        window(&healthy, 0),
        window(&healthy, 1),
        window(&missing, 0),
        window(&closed, 0),
        window(&red, 0),
        window(&aliased, 0),
    ];
    let pages = server.cluster.read_windows(&requests).await.unwrap();
    let categories: Vec<_> = pages
        .iter()
        .map(|page| page.as_ref().map(|p| p.hits.len()).map_err(ElasticError::category))
        .collect();
    assert_eq!(
        categories,
        [
            Ok(1),
            Err(ErrorCategory::BadAnswer),
            Err(ErrorCategory::NotFound),
            Err(ErrorCategory::Invalid),
            Err(ErrorCategory::Unavailable),
            Err(ErrorCategory::BadAnswer),
        ],
        "{pages:?}"
    );
    assert!(pages[2].as_ref().is_err_and(ElasticError::is_missing_index));
    assert!(pages[3].as_ref().is_err_and(ElasticError::is_closed_index));

    let mut stats =
        server.cluster.primary_stats(&[healthy.clone(), missing.clone(), red.clone()]).await.unwrap();
    assert!(stats.remove(&*healthy).unwrap().is_ok());
    assert!(!stats.contains_key(&*missing));
    let error = stats.remove(&*red).unwrap().unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Unavailable);
    let error = server.cluster.primary_stats(&[healthy.clone(), closed.clone()]).await.unwrap_err();
    assert!(error.is_closed_index(), "{error}");
    let error = server.cluster.refresh(&[healthy.clone(), red.clone()]).await.unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Unavailable, "{error}");
    for error in [
        server.cluster.lookup(&red, &["a"], PLAIN).await.unwrap_err(),
        server.cluster.count(&red).await.unwrap_err(),
        server.cluster.count_by(&red, "n").await.unwrap_err(),
        server.cluster.walk(&red, &[Walk::new(0, 9)], "n", 1).await.unwrap_err(),
    ] {
        assert_eq!(error.category(), ErrorCategory::Unavailable, "{error}");
    }
    let error = server.cluster.walk(&healthy, &[Walk::new(7, 9)], "n", 1).await.unwrap_err();
    assert_eq!(error.category(), ErrorCategory::BadAnswer, "{error}");
    let first = |index: &IndexName, shard| PlacesRequest {
        index: index.clone(),
        shard,
        places: vec![0],
        lane: ReadLane::Keys,
    };
    let requests =
        [first(&healthy, 0), first(&red, 0), first(&healthy, 7), first(&missing, 0), first(&closed, 0)];
    let pages = server.cluster.read_places(&requests).await.unwrap();
    assert!(pages[0].is_ok());
    let failed = |number: usize| pages[number].as_ref().unwrap_err();
    assert_eq!(failed(1).category(), ErrorCategory::Unavailable);
    assert_eq!(failed(2).category(), ErrorCategory::BadAnswer);
    assert!(failed(3).is_missing_index() && failed(4).is_closed_index());
    let none = PlacesRequest { places: Vec::new(), ..first(&healthy, 0) };
    assert_eq!(server.cluster.read_places(&[none]).await.unwrap_err().category(), ErrorCategory::Invalid);
}

/// An index of one shard that was made of two, with 40 chunks.
async fn shrunk(server: &Server) -> Index {
    let before = server.index(json!({"settings": settings(2)})).await;
    let chunks: Vec<_> = (0..40).map(|n| (format!("c{n}"), json!({"n": n}))).collect();
    write(server, &before, &chunks).await;
    let blocked = json!({"index.blocks.write": true});
    server.ask("PUT", &format!("/{}/_settings", *before), Some(&blocked));
    let after = server.unused_index();
    let one = json!({"settings": {"index.number_of_shards": 1, "index.blocks.write": false}});
    server.ask("POST", &format!("/{}/_shrink/{}", *before, *after), Some(&one));
    server.cluster.refresh(std::slice::from_ref(&*after)).await.unwrap();
    after
}

#[tokio::test]
async fn windows_in_which_chunks_share_a_sequence_number_are_an_error_that_says_so() {
    for server in Server::each().await {
        let index = shrunk(&server).await;
        let shard = stats(&server, &index).await.remove(0);
        let end = shard.global_checkpoint + 1;
        assert!(shard.docs == 40 && end < 40, "{shard:?}");
        let read = |to, lane, most| WindowRequest { index: index.clone(), shard: 0, from: 0, to, lane, most };
        let requests = [
            read(end, PLAIN, None),
            read(end, PLAIN, Some(5)),
            read(1, PLAIN, None),
            // More numbers than chunks: only the numbers themselves tell.
            read(10_000, ReadLane::Places, None),
            read(10_000, PLAIN, Some(5)),
        ];
        let mut pages = server.cluster.read_windows(&requests).await.unwrap();
        let cut = pages.pop().unwrap().unwrap_err();
        assert_eq!(cut.category(), ErrorCategory::TooLarge, "may be asked for in parts: {cut}");
        for page in pages {
            let error = page.unwrap_err();
            assert!(error.is_shared_seq_no() && error.to_string().contains(index.as_str()), "{error}");
        }
    }
}

#[tokio::test]
async fn comments_in_documents_are_read_as_they_stand_and_keep_no_other_from_being_read() {
    let server = Server::of(Flavor::V8).await;
    let put = async |documents: &[&str]| {
        let index = server.index(json!({"settings": settings(1)})).await;
        let lines: Vec<String> =
            documents.iter().map(|line| format!("{{\"index\":{{}}}}\n{line}\n")).collect();
        let path = format!("/{}/_bulk?refresh=true", *index);
        let answer = server.ask("POST", &path, Some(&Value::String(lines.concat())));
        assert_eq!(answer["errors"], json!(false), "{answer}");
        index
    };
    let odd = r#"{"n":1, /* don"t },"_seq_no":7,"x":{ */ "text":"x"}"#;
    let commented = put(&[odd, r#"{"n":2}"#]).await;
    // The line goes on in the answer, so nobody can tell where this comment ends.
    let endless = put(&[r#"{"n":3} // don"t"#]).await;
    let requests = [window(&endless, 0), window(&commented, 0)];
    let pages = server.cluster.read_windows(&requests).await.unwrap();
    let error = pages[0].as_ref().unwrap_err();
    assert_eq!(error.category(), ErrorCategory::BadAnswer);
    assert!(error.to_string().contains(endless.as_str()), "{error}");
    let sources: BTreeMap<i64, &[u8]> =
        pages[1].as_ref().unwrap().hits.iter().map(|hit| (hit.seq_no, hit.source())).collect();
    assert_eq!(sources, BTreeMap::from([(0, odd.as_bytes()), (1, br#"{"n":2}"#.as_slice())]));
}

#[tokio::test]
async fn an_answer_above_its_limit_is_not_taken() {
    for server in Server::each().await {
        let index = server.index(json!({"settings": settings(1)})).await;
        write(&server, &index, &[("a".into(), json!({"text": "x".repeat(100_000)}))]).await;
        let read = async |limit| server.cluster.read_windows_within(&[window(&index, 0)], limit).await;
        assert_eq!(read(100_000).await.unwrap_err().category(), ErrorCategory::TooLarge);
        assert_eq!(read(110_000).await.unwrap()[0].as_ref().unwrap().hits.len(), 1);
    }
}

#[tokio::test]
async fn a_window_that_is_too_wide_is_refused_before_it_is_sent() {
    let server = Server::of(Flavor::V9).await;
    let index = server.unused_index();
    for (from, to) in [(0, 10_001), (5, 5), (5, 4), (-1, 3)] {
        let request = WindowRequest { index: index.clone(), shard: 0, from, to, lane: PLAIN, most: None };
        let error = server.cluster.read_windows(&[request]).await.unwrap_err();
        assert_eq!(error.category(), ErrorCategory::Invalid);
    }
    assert!(server.cluster.read_windows(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_index_that_shows_vectors_is_read_from_its_source() {
    let server = Server::of(Flavor::V9).await;
    let mut body = vector_index();
    body["settings"]["index.mapping.exclude_source_vectors"] = json!(false);
    let index = server.index(body).await;
    let vector = vectors(1, 64).remove(0);
    write(&server, &index, &[("a".into(), json!({"embedding": vector}))]).await;
    let info = server.cluster.describe(std::slice::from_ref(&*index)).await.unwrap().remove(&*index).unwrap();
    assert!(!info.vectors_hidden);
    let lane = info.read_lane(Version::new(9, 4, 3), "embedding");
    assert_eq!(lane, PLAIN);
    let hits = read_all(&server, &index, 10, &lane).await;
    assert_eq!(bits(&from_source(&hits[0]).unwrap()), bits(&vector));
}

#[tokio::test]
async fn chunks_are_looked_up_in_every_lane_and_ids_found_by_a_field() {
    for server in Server::each().await {
        let mut body = vector_index();
        body["settings"]["number_of_shards"] = json!(3);
        body["mappings"]["properties"]["collection_id"] = json!({"type": "integer"});
        let index = server.index(body).await;
        let vectors = vectors(30, 64);
        let chunks: Vec<_> = vectors
            .iter()
            .enumerate()
            .map(|(n, vector)| (format!("v{n}"), json!({"collection_id": n % 3, "embedding": vector})))
            .collect();
        write(&server, &index, &chunks).await;
        let mut lanes = vec![PLAIN, ReadLane::Keys];
        if server.flavor == Flavor::V9 {
            lanes.push(ReadLane::Source { ask_for_vectors: true });
            lanes.push(ReadLane::Binary { field: "embedding".into() });
        }
        for lane in lanes {
            let found =
                server.cluster.lookup(&index, &["v0", "v7", "absent", "v29"], lane.clone()).await.unwrap();
            assert_eq!(found.len(), 3, "{lane:?}");
            assert!(found.get("absent").is_none());
            let hit = found.get("v7").unwrap();
            assert_eq!(hit.version, 1);
            match &lane {
                ReadLane::Keys | ReadLane::Places => assert!(hit.source().is_empty()),
                ReadLane::Fields(_) => assert!(from_source(hit).is_none()),
                ReadLane::Binary { .. } => assert_eq!(bits(&from_binary(hit)), bits(&vectors[7])),
                ReadLane::Source { ask_for_vectors } => {
                    let shown = *ask_for_vectors || server.flavor == Flavor::V8;
                    let vector = from_source(hit);
                    assert_eq!(vector.map(|v| bits(&v)), shown.then(|| bits(&vectors[7])));
                }
            }
        }
        assert!(server.cluster.lookup(&index, &[], PLAIN).await.unwrap().is_empty());
        let some = ["v2", "v3", "absent", "v8"];
        let of_one =
            server.cluster.lookup_where(&index, &some, ("collection_id", 2), ReadLane::Keys).await.unwrap();
        assert_eq!(of_one.hits().map(|hit| hit.id.as_str()).collect::<BTreeSet<_>>(), ["v2", "v8"].into());
        let mut ids = BTreeSet::new();
        let walks = [0, 1, 2].map(|shard| Walk::new(shard, 1_000));
        for page in server.cluster.walk(&index, &walks, "collection_id", 2).await.unwrap() {
            assert_eq!(page.next, None);
            assert!(page.documents.iter().all(|document| document.version == 1));
            let places: Vec<i64> = page.documents.iter().map(|document| document.seq_no).collect();
            assert!(places.is_sorted());
            let request =
                PlacesRequest { index: index.clone(), shard: page.shard, places, lane: ReadLane::Keys };
            let mut pages = server.cluster.read_places(&[request]).await.unwrap();
            ids.extend(pages.remove(0).unwrap().hits.into_iter().map(|hit| hit.id));
        }
        let expected: BTreeSet<_> = (0..30).filter(|n| n % 3 == 2).map(|n| format!("v{n}")).collect();
        assert_eq!(ids, expected);
        // Not beyond the end.
        let none = [0, 1, 2].map(|shard| Walk::new(shard, 0));
        let pages = server.cluster.walk(&index, &none, "collection_id", 2).await.unwrap();
        assert!(pages.iter().all(|page| page.documents.is_empty() && page.next.is_none()));
    }
}
