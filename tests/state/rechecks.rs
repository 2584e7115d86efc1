//! Chunks in quarantine that are tried again: nothing is lost from it, nothing is counted twice.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use es_index_merge::state::invariants::Place;
use es_index_merge::state::{
    Counts, LeasedUnit, QuarantineFilter, QuarantinedPlace, QuarantinedRow, ShardTarget, SourceId,
    SourceState, UnitKind,
};

use crate::fixture::{Fixture, LEASE, advance, quarantined, target};

/// One source with a log of 1 000 that is copied and compared, with chunks in quarantine at these places.
async fn walked(fixture: &Fixture, bad: &[i64]) -> SourceId {
    let source = fixture.one_unit(1_000).await;
    let unit = fixture.lease("a").await.remove(0);
    let rows: Vec<_> = bad.iter().map(|&seq_no| quarantined(&unit, seq_no)).collect();
    fixture.state.checkpoint(fixture.merge, &[advance(&unit, 1_000)], &rows, &[]).await.unwrap();
    fixture.plan(UnitKind::Verify, &[target(source, 1_000)], 1_000).await;
    let unit = lease(fixture).await.remove(0);
    let rows: Vec<_> = bad.iter().map(|&seq_no| quarantined(&unit, seq_no)).collect();
    fixture.state.checkpoint(fixture.merge, &[advance(&unit, 1_000)], &rows, &[]).await.unwrap();
    source
}

async fn lease(fixture: &Fixture) -> Vec<LeasedUnit> {
    fixture.state.lease_units(fixture.merge, UnitKind::Verify, "a", LEASE, 1_000, 1_000_000).await.unwrap()
}

async fn listed(fixture: &Fixture) -> Vec<QuarantinedRow> {
    fixture.quarantine(&QuarantineFilter::default()).await
}

/// What is in quarantine of these sources, read two at a time.
async fn places(fixture: &Fixture, sources: &RangeInclusive<SourceId>) -> Vec<QuarantinedPlace> {
    let mut all: Vec<QuarantinedPlace> = Vec::new();
    loop {
        let page = fixture.state.quarantine_of(fixture.merge, sources, all.last(), 2).await.unwrap();
        if page.is_empty() {
            return all;
        }
        assert!(page.len() <= 2);
        all.extend(page);
    }
}

async fn retry(fixture: &Fixture, filter: &QuarantineFilter) -> u64 {
    fixture.state.retry_quarantined(fixture.merge, filter).await.unwrap()
}

#[tokio::test]
async fn a_chunk_stays_in_quarantine_until_the_walk_over_its_place_has_said_otherwise() {
    let fixture = Fixture::new().await;
    walked(&fixture, &[3, 40, 700]).await;
    assert_eq!(retry(&fixture, &QuarantineFilter::default()).await, 3);
    assert_eq!(retry(&fixture, &QuarantineFilter::default()).await, 3, "planned, not doubled");
    assert_eq!(listed(&fixture).await.len(), 3);
    let mut units = lease(&fixture).await;
    units.sort_by_key(|unit| unit.from);
    let ranges: Vec<_> = units.iter().map(|unit| (unit.from, unit.to)).collect();
    assert_eq!(ranges, [(3, 41), (700, 701)], "near places are one range");

    // The one at 3 went over, the one at 40 did not.
    let still = [quarantined(&units[0], 40)];
    fixture.state.checkpoint(fixture.merge, &[advance(&units[0], 38)], &still, &[]).await.unwrap();
    let left: Vec<i64> = listed(&fixture).await.iter().map(|row| row.seq_no).collect();
    assert_eq!(left, [40, 700]);
    // A walk that lost its lease says nothing.
    fixture.state.give_back(&[(units[1].id, units[1].epoch)]).await.unwrap();
    let refused = fixture.state.checkpoint(fixture.merge, &[advance(&units[1], 1)], &[], &[]).await.unwrap();
    assert!(refused.is_empty());
    assert_eq!(listed(&fixture).await.len(), 2);
}

#[tokio::test]
async fn what_is_tried_again_is_counted_once() {
    let fixture = Fixture::new().await;
    walked(&fixture, &[3]).await;
    let before = fixture.state.totals(fixture.merge).await.unwrap();
    let counts = fixture.state.collection_counts(fixture.merge).await.unwrap();
    retry(&fixture, &QuarantineFilter::default()).await;
    let open = fixture.state.totals(fixture.merge).await.unwrap();
    assert_eq!(open.verify.units - open.verify.units_done, 1, "it is waited for");
    let unit = lease(&fixture).await.remove(0);
    let mut step = advance(&unit, 1);
    step.counts = Counts { documents: 1, compared: 1, repaired: 1, ..Counts::default() };
    fixture.state.checkpoint(fixture.merge, &[step], &[], &[]).await.unwrap();
    let after = fixture.state.totals(fixture.merge).await.unwrap();
    assert_eq!(after.quarantined, 0);
    assert_eq!(after.verify.counts, before.verify.counts);
    assert_eq!(after.verify.positions_total, before.verify.positions_total);
    assert_eq!(after.copy, before.copy);
    assert_eq!(fixture.state.collection_counts(fixture.merge).await.unwrap(), counts);
    // And it may be tried once more, beside the one that is done.
    assert_eq!(retry(&fixture, &QuarantineFilter::default()).await, 0, "nothing is in quarantine");
}

#[tokio::test]
async fn only_those_that_are_meant_are_tried_again() {
    let fixture = Fixture::new().await;
    walked(&fixture, &[3]).await;
    let filter =
        |collection, class: Option<&str>| QuarantineFilter { collection, class: class.map(str::to_owned) };
    assert_eq!(retry(&fixture, &filter(Some(2), None)).await, 0);
    assert_eq!(retry(&fixture, &filter(None, Some("key"))).await, 0);
    assert!(lease(&fixture).await.is_empty());
    assert_eq!(retry(&fixture, &filter(Some(1), Some("vector"))).await, 1);
    assert_eq!(lease(&fixture).await.len(), 1);
}

#[tokio::test]
async fn places_beyond_the_copy_or_of_a_source_that_takes_no_part_are_left_out() {
    let fixture = Fixture::new().await;
    let source = walked(&fixture, &[]).await;
    let place = |seq_no| Place { source, shard: 0, seq_no };
    assert_eq!(fixture.state.plan_recheck(fixture.merge, &[place(999), place(2_000)]).await.unwrap(), 1);
    fixture.state.set_source_state(&[source], SourceState::Waiting).await.unwrap();
    assert_eq!(fixture.state.plan_recheck(fixture.merge, &[place(5)]).await.unwrap(), 0);
    let stranger = uuid::Uuid::new_v4();
    assert_eq!(fixture.state.plan_recheck(stranger, &[place(5)]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_new_history_closes_what_was_to_be_tried_again() {
    let fixture = Fixture::new().await;
    let source = walked(&fixture, &[3]).await;
    retry(&fixture, &QuarantineFilter::default()).await;
    let mut restored = target(source, 500);
    restored.history_uuid = "another".to_owned();
    fixture.plan(UnitKind::Copy, &[restored], 1_000).await;
    assert!(lease(&fixture).await.is_empty());
    assert!(listed(&fixture).await.is_empty());
}

#[tokio::test]
async fn two_chunks_of_one_id_on_two_shards_are_two() {
    let fixture = Fixture::new().await;
    let source = fixture.sources([1]).await[0];
    let mut other = target(source, 10);
    other.shard = 1;
    fixture.plan(UnitKind::Copy, &[target(source, 10), other], 100).await;
    let units = fixture.lease("a").await;
    let rows: Vec<_> = units.iter().map(|unit| quarantined(unit, 4)).collect();
    let steps: Vec<_> = units.iter().map(|unit| advance(unit, 10)).collect();
    fixture.state.checkpoint(fixture.merge, &steps, &rows, &[]).await.unwrap();
    let rows = places(&fixture, &(source..=source)).await;
    assert_eq!(rows.iter().map(|row| row.shard).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(fixture.state.quarantine_clear(fixture.merge, &[&rows[0]]).await.unwrap(), 1);
    assert_eq!(places(&fixture, &(source..=source)).await, [rows[1].clone()]);
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap() {
    let fixture = Fixture::new().await;
    let bad: Vec<i64> = (0..57).collect();
    walked(&fixture, &bad).await;
    let mut seen = Vec::new();
    loop {
        let filter = QuarantineFilter::default();
        let page = fixture.state.quarantine_page(fixture.merge, &filter, seen.last(), 10).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen, listed(&fixture).await);
    assert_eq!(seen.len(), 57);
}

#[tokio::test]
async fn the_quarantine_of_some_sources_is_read_and_counted_without_that_of_the_others() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources([1, 2, 3, 4]).await;
    let targets: Vec<ShardTarget> = sources.iter().map(|&id| target(id, 10)).collect();
    fixture.plan(UnitKind::Copy, &targets, 100).await;
    let units = fixture.lease("a").await;
    let steps: Vec<_> = units.iter().map(|unit| advance(unit, 10)).collect();
    // Three of each but the second.
    let bad = units.iter().filter(|unit| unit.source != sources[1]);
    let rows: Vec<_> = bad.flat_map(|unit| [7, 2, 5].map(|seq_no| quarantined(unit, seq_no))).collect();
    fixture.state.checkpoint(fixture.merge, &steps, &rows, &[]).await.unwrap();

    let found =
        |source: SourceId| [2_i64, 5, 7].map(|seq_no| (source, format!("chunk-{seq_no}"), seq_no)).to_vec();
    let read = async |range: RangeInclusive<SourceId>| {
        let rows = places(&fixture, &range).await;
        rows.into_iter().map(|row| (row.source, row.chunk_id, row.seq_no)).collect::<Vec<_>>()
    };
    assert_eq!(read(sources[0]..=sources[0]).await, found(sources[0]));
    assert!(read(sources[1]..=sources[1]).await.is_empty());
    assert_eq!(read(sources[0]..=sources[2]).await, [found(sources[0]), found(sources[2])].concat());
    let three = BTreeMap::from([("vector".to_owned(), 3)]);
    let counts = [sources[0], sources[2], sources[3]].map(|source| (source, three.clone()));
    let counted = fixture.state.quarantine_by_source(fixture.merge).await.unwrap();
    assert_eq!(counted, BTreeMap::from(counts));

    fixture.state.set_source_state(&sources[2..=2], SourceState::Gone).await.unwrap();
    fixture.state.set_source_state(&sources[3..=3], SourceState::Waiting).await.unwrap();
    assert_eq!(fixture.state.quarantine_clear_gone(fixture.merge).await.unwrap(), 3);
    assert_eq!(read(sources[0]..=sources[3]).await, [found(sources[0]), found(sources[3])].concat());
}
