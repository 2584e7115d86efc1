use std::collections::{BTreeMap, HashSet};

use es_index_merge::state::{
    Advance, Category, CollectionVerdict, Counts, QuarantineFilter, Quarantined, QuarantinedPlace,
    QuarantinedRow, ShardTarget, SourceCuts, UnitKind,
};

use crate::fixture::{Fixture, LEASE, SCHEMA, advance, quarantined, target};

#[tokio::test]
async fn a_checkpoint_moves_the_cursor_adds_the_counts_and_ends_the_unit() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let unit = fixture.lease("a").await.remove(0);
    let counts = Counts {
        documents: 1,
        bytes_read: 2,
        bytes_written: 3,
        written: 4,
        already_there: 5,
        collapsed: 6,
        quarantined: 7,
        compared: 8,
        different: 9,
        repaired: 10,
    };
    let step = |from, to| Advance { unit: unit.id, epoch: unit.epoch, from, to, counts };
    fixture.state.checkpoint(fixture.merge, &[step(0, 60)], &[], &[]).await.unwrap();
    // Two windows at once.
    fixture.state.checkpoint(fixture.merge, &[step(90, 100), step(60, 90)], &[], &[]).await.unwrap();
    let copy = fixture.state.totals(fixture.merge).await.unwrap().copy;
    assert_eq!((copy.units_done, copy.positions_done), (1, 100));
    let mut three_times = Counts::default();
    for _ in 0..3 {
        three_times += counts;
    }
    assert_eq!(copy.counts, three_times);
    fixture.let_leases_expire().await;
    assert!(fixture.lease("b").await.is_empty(), "done is done");
}

#[tokio::test]
async fn a_checkpoint_made_again_is_accepted_and_counted_once() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let unit = fixture.lease("a").await.remove(0);
    for positions in [40, 100] {
        let step = Advance { from: if positions == 40 { 0 } else { 40 }, ..advance(&unit, positions) };
        for _ in 0..3 {
            let accepted = fixture.state.checkpoint(fixture.merge, &[step], &[], &[]).await.unwrap();
            assert_eq!(accepted, HashSet::from([unit.id]));
        }
    }
    let copy = fixture.state.totals(fixture.merge).await.unwrap().copy;
    assert_eq!((copy.positions_done, copy.counts.documents), (100, 140));
}

#[tokio::test]
async fn quarantine_and_cuts_are_written_only_for_accepted_units() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources([1, 2]).await;
    fixture.plan(UnitKind::Copy, &[target(sources[0], 20), target(sources[1], 10)], 100).await;
    let units = fixture.lease("a").await;
    let (kept, lost) = (&units[0], &units[1]);
    fixture.state.give_back(&[(lost.id, lost.epoch)]).await.unwrap();
    let steps = [advance(kept, 20), advance(lost, 10)];
    let rows = [quarantined(kept, 3), quarantined(lost, 4)];
    let cuts = [cuts(kept, 2), cuts(lost, 5)];
    let accepted = fixture.state.checkpoint(fixture.merge, &steps, &rows, &cuts).await.unwrap();
    assert_eq!(accepted, HashSet::from([kept.id]));
    let counts = fixture.state.quarantine_counts(fixture.merge).await.unwrap();
    assert_eq!(counts, BTreeMap::from([(1, BTreeMap::from([("vector".to_owned(), 1)]))]));
    let rows = fixture.state.sources(fixture.merge).await.unwrap();
    assert_eq!(rows[0].cuts, BTreeMap::from([("metadata_key".to_owned(), 2)]));
    assert!(rows[1].cuts.is_empty());
}

#[tokio::test]
async fn cuts_add_up_over_windows_and_units() {
    let fixture = Fixture::new().await;
    let source = fixture.sources([1]).await[0];
    fixture.plan(UnitKind::Copy, &[target(source, 200)], 100).await;
    for number in [1, 10] {
        for unit in fixture.lease("a").await {
            let step = advance(&unit, 50);
            let both = [cuts(&unit, number), cuts(&unit, number)];
            fixture.state.checkpoint(fixture.merge, &[step], &[], &both).await.unwrap();
        }
        fixture.let_leases_expire().await;
    }
    let rows = fixture.state.sources(fixture.merge).await.unwrap();
    assert_eq!(rows[0].cuts, BTreeMap::from([("metadata_key".to_owned(), 44)]));
}

#[tokio::test]
async fn of_a_chunk_in_quarantine_the_newest_state_stays() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let mut unit = fixture.lease("a").await.remove(0);
    let row = |seq_no: i64, reason: &str| Quarantined {
        chunk_id: "same\0chunk".to_owned(),
        reason: reason.to_owned(),
        ..quarantined(&unit, seq_no)
    };
    let rows = [row(5, "older"), row(30, "newest"), row(7, "old")];
    fixture.state.checkpoint(fixture.merge, &[advance(&unit, 40)], &rows, &[]).await.unwrap();
    let older = [row(20, "older than what is stored")];
    unit.cursor = 40;
    fixture.state.checkpoint(fixture.merge, &[advance(&unit, 10)], &older, &[]).await.unwrap();
    let of_one = QuarantineFilter { collection: Some(1), class: None };
    let listed = fixture.quarantine(&of_one).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].seq_no, listed[0].reason.as_str()), (30, "newest"));
    let original = fixture.state.quarantine_original(fixture.merge, &listed[0]).await.unwrap();
    assert_eq!(original.unwrap(), b"{\"id\":30}");

    let all = unit.source..=unit.source;
    let places = fixture.state.quarantine_of(fixture.merge, &all, None, 10).await.unwrap();
    let at = |seq_no| QuarantinedPlace { seq_no, ..places[0].clone() };
    assert_eq!(fixture.state.quarantine_clear(fixture.merge, &[&at(29)]).await.unwrap(), 0);
    assert_eq!(fixture.state.quarantine_clear(fixture.merge, &[&at(31)]).await.unwrap(), 1);
    assert!(fixture.quarantine(&QuarantineFilter::default()).await.is_empty());
}

/// What a source holds is not copied into the database because all of it is refused.
#[tokio::test]
async fn of_a_source_a_thousand_originals_are_stored_and_the_index_of_the_others_is_told() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources([1, 2]).await;
    fixture.plan(UnitKind::Copy, &[target(sources[0], 3_000), target(sources[1], 10)], 10_000).await;
    let mut units = fixture.lease("a").await;
    let stored = async || {
        let query = format!("SELECT count(*) FROM {SCHEMA}.quarantine WHERE original IS NOT NULL");
        fixture.database.number(&query).await
    };
    for (to, expected) in [(700, 700), (1_500, 1_000), (3_000, 1_000)] {
        let unit = &mut units[0];
        let rows: Vec<Quarantined> = (unit.cursor..to).map(|seq_no| quarantined(unit, seq_no)).collect();
        let step = advance(unit, to - unit.cursor);
        fixture.state.checkpoint(fixture.merge, &[step], &rows, &[]).await.unwrap();
        unit.cursor = to;
        assert_eq!(stored().await, expected, "up to {to}");
    }
    let other = [quarantined(&units[1], 3)];
    fixture.state.checkpoint(fixture.merge, &[advance(&units[1], 10)], &other, &[]).await.unwrap();
    assert_eq!(stored().await, 1_001, "each source has its own");

    let listed = fixture.quarantine(&QuarantineFilter::default()).await;
    let at = |seq_no| listed.iter().find(|row| row.source == sources[0] && row.seq_no == seq_no).unwrap();
    let original =
        async |row: &QuarantinedRow| fixture.state.quarantine_original(fixture.merge, row).await.unwrap();
    assert_eq!((at(5).bytes, original(at(5)).await), (Some(8), Some(b"{\"id\":5}".to_vec())));
    assert_eq!((at(2_000).bytes, original(at(2_000)).await), (None, None));
    assert_eq!(at(2_000).index_name, "1");

    // Another walk finds most of them mended: there is room again.
    fixture.plan(UnitKind::Verify, &[target(sources[0], 3_000)], 10_000).await;
    let unit = fixture
        .state
        .lease_units(fixture.merge, UnitKind::Verify, "a", LEASE, 1, 10_000)
        .await
        .unwrap()
        .remove(0);
    let rows = [quarantined(&unit, 5), quarantined(&unit, 2_000)];
    fixture.state.checkpoint(fixture.merge, &[advance(&unit, 3_000)], &rows, &[]).await.unwrap();
    assert_eq!(stored().await, 3);
}

#[tokio::test]
async fn a_thousand_tiny_units_are_one_checkpoint() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources(1..=1_000).await;
    let targets: Vec<ShardTarget> = sources.iter().map(|id| target(*id, 10)).collect();
    assert_eq!(fixture.plan(UnitKind::Copy, &targets, 1_000).await, 1_000);
    let units = fixture.lease("a").await;
    assert_eq!(units.len(), 1_000);
    let steps: Vec<_> = units.iter().map(|unit| advance(unit, 10)).collect();
    let leases: Vec<_> = units.iter().map(|unit| (unit.id, unit.epoch)).collect();
    assert_eq!(fixture.state.renew(&leases, LEASE).await.unwrap().len(), 1_000);
    let accepted = fixture.state.checkpoint(fixture.merge, &steps, &[], &[]).await.unwrap();
    assert_eq!(accepted.len(), 1_000);
    let copy = fixture.state.totals(fixture.merge).await.unwrap().copy;
    assert_eq!((copy.units_done, copy.counts.documents), (1_000, 10_000));
    let collections = fixture.state.collection_counts(fixture.merge).await.unwrap();
    assert_eq!(collections.len(), 1_000);
    assert!(collections.iter().all(|(_, counts)| counts.documents == 10));
}

#[tokio::test]
async fn an_advance_that_cannot_be_meant_is_refused_as_a_whole() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let unit = fixture.lease("a").await.remove(0);
    let backwards = Advance { from: 10, to: 5, ..advance(&unit, 10) };
    let gap = [advance(&unit, 10), Advance { from: 20, to: 30, ..advance(&unit, 10) }];
    let negative = Advance { counts: Counts { written: -1, ..Counts::default() }, ..advance(&unit, 10) };
    for steps in [vec![backwards], gap.to_vec(), vec![negative]] {
        let error = fixture.state.checkpoint(fixture.merge, &steps, &[], &[]).await.unwrap_err();
        assert_eq!(error.category(), Category::Invalid, "{error}");
    }
    // Beyond the end is the worker's mistake about the unit: not accepted.
    let beyond = Advance { to: 101, ..advance(&unit, 100) };
    assert!(fixture.state.checkpoint(fixture.merge, &[beyond], &[], &[]).await.unwrap().is_empty());
    // The unit of another merge is nobody's.
    let stranger = uuid::Uuid::new_v4();
    assert!(fixture.state.checkpoint(stranger, &[advance(&unit, 9)], &[], &[]).await.unwrap().is_empty());
    assert_eq!(fixture.state.totals(fixture.merge).await.unwrap().copy.positions_done, 0);
}

#[tokio::test]
async fn the_newest_verdict_of_a_collection_stays() {
    let fixture = Fixture::new().await;
    let verdict = |collection_id, verdict, reason: Option<&str>| CollectionVerdict {
        collection_id,
        source_documents: 10,
        destination_documents: 9,
        compared: 10,
        different: 1,
        quarantined: 0,
        collapsed: 0,
        verdict,
        reason: reason.map(str::to_owned),
    };
    let first = [verdict(2, false, Some("1 chunk is missing")), verdict(1, true, None)];
    fixture.state.save_verdicts(fixture.merge, &first).await.unwrap();
    fixture.state.save_verdicts(fixture.merge, &[verdict(2, true, None)]).await.unwrap();
    let stored = fixture.state.verdicts(fixture.merge).await.unwrap();
    assert_eq!(stored, [verdict(1, true, None), verdict(2, true, None)]);
    assert_eq!(fixture.state.keep_verdicts(fixture.merge, &[1]).await.unwrap(), 1);
    assert_eq!(fixture.state.verdicts(fixture.merge).await.unwrap(), [verdict(1, true, None)]);
    assert_eq!(fixture.state.keep_verdicts(fixture.merge, &[]).await.unwrap(), 1);
}

fn cuts(unit: &es_index_merge::state::LeasedUnit, number: i64) -> SourceCuts {
    SourceCuts {
        unit: unit.id,
        source: unit.source,
        cuts: BTreeMap::from([("metadata_key".to_owned(), number)]),
    }
}
