//! The parts of the copying worker that touch every byte: a page taken apart, chunks checked and written, compared.
//!
//! `make bench-micro` prints, for each lane, the time per page of [`CHUNKS`] chunks, the throughput, and the
//! allocations. Vectors have 1024 elements and length one; "9 digits" is what Elasticsearch prints of an `f32`,
//! "17 digits" what Python prints of a double.
#![allow(clippy::unwrap_used, missing_docs)]

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};
use es_index_merge::chunk::{Actual, Contract, Input, Parsed, Transform, VectorForm, compare, parse};
use es_index_merge::elastic::internals::read_pages;
use es_index_merge::elastic::{BulkBody, BulkVersioning, Hit, IndexName, ReadLane, WindowRequest};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Chunks in one page.
const CHUNKS: usize = 100;
const DIMENSIONS: usize = 1024;

fn main() {
    divan::main();
}

/// What a source sends.
#[derive(Clone, Copy, Debug)]
enum Lane {
    Json9Digits,
    Json17Digits,
    Binary,
}

const LANES: [Lane; 3] = [Lane::Json9Digits, Lane::Json17Digits, Lane::Binary];

/// A vector of length one.
fn vector(seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as f64 / u64::MAX as f64 - 0.5
    };
    let raw: Vec<f64> = (0..DIMENSIONS).map(|_| random() + random() + random()).collect();
    let length = raw.iter().map(|value| value * value).sum::<f64>().sqrt();
    raw.into_iter().map(|value| value / length).collect()
}

#[allow(clippy::cast_possible_truncation)]
fn hit(lane: Lane, number: usize) -> String {
    let values = vector(number as u64 + 1);
    let singles = values.iter().map(|value| *value as f32);
    let list = |texts: Vec<String>| format!("[{}]", texts.join(","));
    let (embedding, fields) = match lane {
        Lane::Json9Digits => (list(singles.map(|value| format!("{value:?}")).collect()), String::new()),
        Lane::Json17Digits => {
            (list(values.iter().map(|value| format!("{value:?}")).collect()), String::new())
        }
        Lane::Binary => {
            let bytes: Vec<u8> = singles.flat_map(f32::to_be_bytes).collect();
            (String::new(), format!(r#","fields":{{"embedding":["{}"]}}"#, STANDARD.encode(bytes)))
        }
    };
    let embedding = if embedding.is_empty() { String::new() } else { format!(r#""embedding":{embedding},"#) };
    let content =
        "La commission a examiné le rapport \\\"annuel\\\" de l'agence et ses annexes.\\n".repeat(9);
    format!(
        r#"{{"_index":"collection-7","_id":"c0ffee{number:018}","_version":1,"_seq_no":{number},"_primary_term":1,"_score":null,"_source":{{"id":{number},"collection_id":7,"content":"{content}",{embedding}"metadata":{{"document_id":{},"document_name":"rapport-{number}.pdf","document_created_at":1714564800,"source":"https://exemple.gouv.fr/rapports/{number}","page":{number},"titre":"Rapport annuel"}}}}{fields},"sort":[{number}]}}"#,
        number / 10,
    )
}

/// The answer of an `_msearch` with one page.
fn answer(lane: Lane) -> (Bytes, WindowRequest) {
    let hits: Vec<String> = (0..CHUNKS).map(|number| hit(lane, number)).collect();
    let text = format!(
        r#"{{"took":3,"responses":[{{"took":3,"timed_out":false,"_shards":{{"total":1,"successful":1,"skipped":0,"failed":0}},"hits":{{"total":{{"value":{CHUNKS},"relation":"eq"}},"max_score":null,"hits":[{}]}},"status":200}}]}}"#,
        hits.join(",")
    );
    let lane = match lane {
        Lane::Json9Digits | Lane::Json17Digits => ReadLane::Source { ask_for_vectors: false },
        Lane::Binary => ReadLane::Binary { field: "embedding".to_owned() },
    };
    let index = IndexName::parse("collection-7").unwrap();
    let to = i64::try_from(CHUNKS).unwrap();
    (Bytes::from(text), WindowRequest { index, shard: 0, from: 0, to, lane, most: None })
}

fn hits(lane: Lane) -> (Vec<Hit>, usize) {
    let (answer, request) = answer(lane);
    let mut pages = read_pages(&answer, &[request]).unwrap();
    (pages.remove(0).unwrap().hits, answer.len())
}

fn transform(vector_form: VectorForm) -> Transform {
    Transform { contract: Contract::OpenGateRAG, vector_size: DIMENSIONS as u32, vector_form }
}

fn parsed(rules: Transform, hit: &Hit) -> Parsed<'_> {
    parse(&rules, Input { source: hit.source(), vector: hit.vector(), collection_id: 7 }).unwrap()
}

/// A page's worth of the bulk body.
fn write_all(rules: Transform, hits: &[Hit], body: &mut BulkBody) {
    for hit in hits {
        let chunk = parsed(rules, hit);
        let out = body.begin_index(chunk.destination_id(), hit.seq_no + 1, BulkVersioning::External);
        black_box(chunk.write(None, out));
        body.end();
    }
}

/// An answer to checked hits.
#[divan::bench(args = LANES)]
fn read_page(bencher: Bencher<'_, '_>, lane: Lane) {
    let (answer, request) = answer(lane);
    let requests = [request];
    bencher
        .counter(BytesCount::new(answer.len()))
        .counter(ItemsCount::new(CHUNKS))
        .bench_local(|| black_box(read_pages(black_box(&answer), &requests)));
}

/// Hits to the body of a bulk.
#[divan::bench(args = [
    (Lane::Json9Digits, VectorForm::Json),
    (Lane::Json17Digits, VectorForm::Json),
    (Lane::Json9Digits, VectorForm::Base64),
    (Lane::Json17Digits, VectorForm::Base64),
    (Lane::Binary, VectorForm::Base64),
    (Lane::Binary, VectorForm::Json),
])]
fn write_bulk(bencher: Bencher<'_, '_>, (lane, form): (Lane, VectorForm)) {
    let (hits, bytes) = hits(lane);
    bencher
        .counter(BytesCount::new(bytes))
        .counter(ItemsCount::new(CHUNKS))
        .with_inputs(|| BulkBody::with_capacity(4 * 1024 * 1024))
        .bench_local_refs(|body| write_all(transform(form), black_box(&hits), body));
}

/// Hits compared with what their own transformation wrote.
#[divan::bench(args = [(Lane::Json9Digits, VectorForm::Json), (Lane::Json17Digits, VectorForm::Json), (Lane::Binary, VectorForm::Base64)])]
fn compare_page(bencher: Bencher<'_, '_>, (lane, form): (Lane, VectorForm)) {
    let (hits, bytes) = hits(lane);
    let rules = transform(form);
    let there: Vec<Vec<u8>> = hits
        .iter()
        .map(|hit| {
            let mut document = Vec::new();
            parsed(rules, hit).write(None, &mut document);
            document
        })
        .collect();
    bencher.counter(BytesCount::new(bytes)).counter(ItemsCount::new(CHUNKS)).bench_local(|| {
        for (hit, document) in hits.iter().zip(&there) {
            let actual = Actual { source: document, vector: None };
            compare(&parsed(rules, black_box(hit)), None, &actual).unwrap();
        }
    });
}
