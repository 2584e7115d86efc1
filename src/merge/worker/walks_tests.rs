#![allow(clippy::unwrap_used, clippy::panic)]
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::elastic::internals::read_pages;
use crate::elastic::{Hit, IndexName};
use crate::state::UnitKind;

const PIECE: u64 = 6 << 20;

fn unit(id: UnitId, to: SeqNo, attempts: i32) -> LeasedUnit {
    LeasedUnit {
        id,
        epoch: 1,
        kind: UnitKind::Copy,
        pass: 1,
        source: id,
        collection_id: id,
        index_name: id.to_string(),
        index_uuid: "uuid".to_owned(),
        shard: 0,
        from: 0,
        to,
        cursor: 0,
        attempts,
        estimated_documents: to,
        shards: 1,
        bytes_per_document: 100,
        is_follow_up: false,
    }
}

fn hit() -> Hit {
    let index = IndexName::parse("a").unwrap();
    let request = WindowRequest { index, shard: 0, from: 0, to: 1, lane: ReadLane::Keys, most: None };
    let answer = br#"{"responses":[{"timed_out":false,"_shards":{"total":1,"successful":1,"failed":0},"hits":{"total":{"value":1,"relation":"eq"},"hits":[{"_index":"a","_id":"p","_seq_no":0,"_version":1}]}}]}"#;
    let mut pages = read_pages(&Bytes::from_static(answer), &[request]).unwrap();
    pages.remove(0).unwrap().hits.remove(0)
}

fn page(hits: usize, bytes: usize) -> Page {
    Page { hits: vec![hit(); hits], bytes }
}

/// What is asked for next: of each window its unit and its borders.
fn asked(walks: &mut Walks) -> Vec<(usize, SeqNo, SeqNo)> {
    let all = walks.next_windows(PIECE, |_| ReadLane::Keys).unwrap();
    all.iter().map(|asked| (asked.position, asked.request.from, asked.request.to)).collect()
}

/// Walks over logs with chunks of these sizes, 0 where none lives, as a server would answer. Returns where chunks came from,
/// by log, and the number of requests.
fn walked(logs: &[Vec<usize>], attempts: i32, bytes: u64) -> (Vec<Vec<usize>>, usize) {
    let units = logs.iter().zip(1..).map(|(log, id)| unit(id, SeqNo::try_from(log.len()).unwrap(), attempts));
    let mut walks = Walks::new(units.collect());
    let mut came = vec![Vec::new(); logs.len()];
    let place = |at: SeqNo| usize::try_from(at).unwrap();
    for requests in 0..100_000 {
        let all = walks.next_windows(bytes, |_| ReadLane::Keys).unwrap();
        if all.is_empty() {
            return (came, requests);
        }
        let size = |Asked { position, request }: &Asked| -> usize {
            logs[*position][place(request.from)..place(request.to)].iter().sum()
        };
        let limit = answer_limit(&all, bytes);
        if all.iter().map(size).sum::<usize>() as u64 > limit {
            assert!(single(&all).is_none(), "a server takes no such chunk");
            walks.ask_for_less(&all, limit);
            continue;
        }
        for asked in &all {
            let Asked { position, request } = asked;
            let window = place(request.from)..place(request.to);
            let live: Vec<usize> = window.filter(|&at| logs[*position][at] > 0).collect();
            if request.most.is_some_and(|most| live.len() > most) {
                walks.ask_again(asked);
                continue;
            }
            walks.learn(asked, &page(live.len(), size(asked)));
            came[*position].extend(live);
        }
    }
    panic!("it never ends");
}

#[test]
fn chunks_that_are_much_larger_than_was_thought_come_in_small_requests() {
    let log = vec![1_500_000; 60];
    for (bytes, most) in [(64 * 1024, 64), (PIECE, 16)] {
        let (came, requests) = walked(std::slice::from_ref(&log), 0, bytes);
        assert_eq!(came, [(0..60).collect::<Vec<_>>()]);
        assert!(requests <= most, "{requests} requests");
    }
}

#[test]
fn a_chunk_alone_comes_though_it_is_larger_than_all_that_was_planned() {
    let log = vec![500, 100_000_000, 500];
    assert_eq!(walked(&[log], 0, 64 * 1024).0, [[0, 1, 2]]);
}

#[test]
fn a_unit_that_failed_asks_for_half_at_each_attempt_and_for_more_when_pages_come() {
    let mut walks = Walks::new(vec![unit(1, 10_000, 3)]);
    for (from, to) in [(0, 8), (8, 104), (104, 296), (296, 680), (680, 1_064)] {
        let all = walks.next_windows(PIECE, |_| ReadLane::Keys).unwrap();
        assert_eq!((all[0].request.from, all[0].request.to), (from, to));
        let hits = usize::try_from(to - from).unwrap();
        walks.learn(&all[0], &page(hits, hits * 16_384));
    }
    let mut hopeless = Walks::new(vec![unit(1, 10_000, 40), unit(2, 10_000, 0)]);
    assert_eq!(
        asked(&mut hopeless),
        [(0, 0, 1), (1, 0, 64)],
        "its neighbour asks for what there is room for"
    );
}

#[test]
fn what_was_too_much_is_asked_for_again_in_parts() {
    let mut walks = Walks::new(vec![unit(1, 300, 0), unit(2, 300, 0)]);
    let all = walks.next_windows(PIECE, |_| ReadLane::Keys).unwrap();
    assert_eq!(all.iter().map(Asked::width).collect::<Vec<_>>(), [64, 64]);
    walks.ask_for_less(&all, answer_limit(&all, PIECE));
    assert_eq!(asked(&mut walks), [(0, 0, 32)]);
    walks.close(0);
    assert_eq!((walks.open_at(0), walks.open().count()), (None, 1));
    assert_eq!(asked(&mut walks), [(1, 0, 32)]);
}

#[test]
fn a_unit_is_closed_by_its_last_checkpoint_and_by_one_that_is_refused() {
    let mut walks = Walks::new(vec![unit(1, 10, 0), unit(2, 10, 0), unit(3, 10, 0)]);
    let advance = |unit, to| Advance { unit, epoch: 1, from: 0, to, counts: crate::state::Counts::default() };
    walks.checkpointed(&[advance(1, 10), advance(2, 5), advance(3, 5)], &HashSet::from([1, 2]));
    assert_eq!(walks.open().map(|unit| unit.id).collect::<Vec<_>>(), [2]);
}

proptest! {
    #[test]
    fn every_chunk_comes_once_whatever_its_size(
        logs in prop::collection::vec(prop::collection::vec(prop_oneof![
            4 => Just(0_usize),
            5 => 1_usize..40_000,
            2 => 1_000_000_usize..3_000_000,
            1 => 40_000_000_usize..100_000_000,
        ], 0..120), 1..4),
        attempts in 0..20_i32,
        bytes in 64_u64 * 1024..PIECE,
    ) {
        let live = |log: &Vec<usize>| -> Vec<usize> { (0..log.len()).filter(|&at| log[at] > 0).collect() };
        let expected: Vec<Vec<usize>> = logs.iter().map(live).collect();
        prop_assert_eq!(walked(&logs, attempts, bytes).0, expected);
    }
}
