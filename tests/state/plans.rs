use std::collections::BTreeMap;

use es_index_merge::state::{
    Category, NewSource, QuarantineFilter, ShardTarget, SourceCuts, SourceState, UnitKind,
};

use crate::fixture::{Fixture, LEASE, SCHEMA, advance, claimed, quarantined, source, target};

#[tokio::test]
async fn planning_the_same_again_makes_nothing() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources([1, 2]).await;
    let targets = [target(sources[0], 250), target(sources[1], 5)];
    assert_eq!(fixture.plan(UnitKind::Copy, &targets, 100).await, 4);
    assert_eq!(fixture.plan(UnitKind::Copy, &targets, 100).await, 0);
    // The log grew, and shrank.
    assert_eq!(fixture.plan(UnitKind::Copy, &[target(sources[0], 260)], 100).await, 1);
    assert_eq!(fixture.plan(UnitKind::Copy, &[target(sources[0], 10)], 100).await, 0);
    let totals = fixture.state.totals(fixture.merge).await.unwrap();
    assert_eq!((totals.copy.units, totals.copy.positions_total), (5, 265));
    assert_eq!(totals.verify.units, 0);
    assert_eq!(fixture.plan(UnitKind::Verify, &[target(sources[0], 260)], 1_000).await, 1);
    let shards = fixture.state.shards(fixture.merge).await.unwrap();
    assert_eq!(
        shards.iter().map(|row| (row.copy_planned_to, row.verify_planned_to)).collect::<Vec<_>>(),
        [(260, 260), (5, 0)]
    );
}

#[tokio::test]
async fn units_that_are_done_become_one_and_nothing_that_they_say_is_lost() {
    let fixture = Fixture::new().await;
    let source = fixture.sources([1]).await[0];
    for pass in 0..80 {
        let end = target(source, 10 * i64::from(pass + 1));
        let planned = fixture.state.plan_pass(fixture.merge, pass, &[end], 1_000).await.unwrap();
        assert_eq!(planned, Some(1));
        let unit = fixture.lease("w").await.remove(0);
        let bad = [quarantined(&unit, unit.from + 3)];
        let bad = if pass % 35 == 0 { &bad[..] } else { &[] };
        let cuts = [SourceCuts { unit: unit.id, source, cuts: BTreeMap::from([("name".to_owned(), 2)]) }];
        let done = fixture.state.checkpoint(fixture.merge, &[advance(&unit, 10)], bad, &cuts).await.unwrap();
        assert!(done.contains(&unit.id));
    }
    let totals = fixture.state.totals(fixture.merge).await.unwrap().copy;
    assert_eq!((totals.units, totals.units_done), (2, 2), "and one of the last pass");
    assert_eq!((totals.positions_total, totals.positions_done, totals.counts.documents), (800, 800, 800));
    let kept = fixture.quarantine(&QuarantineFilter::default()).await;
    assert_eq!(kept.iter().map(|row| row.seq_no).collect::<Vec<_>>(), [3, 353, 703]);
    let sources = fixture.state.sources(fixture.merge).await.unwrap();
    assert_eq!(sources[0].cuts, BTreeMap::from([("name".to_owned(), 160)]));
}

#[tokio::test]
async fn it_is_known_since_which_pass_the_log_of_a_shard_is_the_one_it_is() {
    let fixture = Fixture::new().await;
    let id = fixture.sources([1]).await[0];
    let since = async |pass: i32, target: ShardTarget| {
        let planned = fixture.state.plan_pass(fixture.merge, pass, &[target], 1_000).await.unwrap();
        assert!(planned.is_some());
        fixture.state.shards(fixture.merge).await.unwrap()[0].copied_since
    };
    let anew = |to| ShardTarget { history_uuid: "another".to_owned(), ..target(id, to) };
    assert_eq!(since(0, target(id, 10)).await, Some(1));
    assert_eq!(since(1, target(id, 20)).await, Some(1), "it has grown");
    assert_eq!(since(2, anew(5)).await, Some(3));
    fixture.state.plan_comparison(fixture.merge, 1_000).await.unwrap();
    assert_eq!(since(3, anew(6)).await, Some(3));
    // What another source of the collection wrote meanwhile is of no place in it.
    fixture.state.set_source_state(&[id], SourceState::Gone).await.unwrap();
    fixture.sources([1]).await;
    assert_eq!(fixture.state.shards(fixture.merge).await.unwrap()[0].copied_since, None);
    assert_eq!(since(4, anew(6)).await, Some(5));
    // Set back to when it was empty: that makes no pass, and what comes then belongs to the next.
    let empty = |to| ShardTarget { history_uuid: "a third".to_owned(), ..target(id, to) };
    assert_eq!(since(5, empty(0)).await, Some(6));
    assert_eq!(since(5, empty(3)).await, Some(6));
}

#[tokio::test]
async fn an_empty_log_is_planned_as_nothing() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources([1]).await;
    assert_eq!(fixture.plan(UnitKind::Copy, &[target(sources[0], 0)], 100).await, 0);
    assert_eq!(fixture.state.shards(fixture.merge).await.unwrap().len(), 1);
}

#[tokio::test]
async fn many_processes_planning_at_once_make_each_unit_once() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources(1..=50).await;
    let tasks: Vec<_> = (0..6)
        .map(|n| {
            let (state, merge) = (fixture.state.clone(), fixture.merge);
            let mut targets: Vec<ShardTarget> = sources.iter().map(|id| target(*id, 1_000)).collect();
            if n % 2 == 0 {
                targets.reverse();
            }
            tokio::spawn(
                async move { state.plan_units(merge, UnitKind::Copy, 0, &targets, 100).await.unwrap() },
            )
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += task.await.unwrap();
    }
    assert_eq!(made, 500);
    assert_eq!(fixture.state.totals(fixture.merge).await.unwrap().copy.positions_total, 50_000);
}

#[tokio::test]
async fn a_shard_with_another_history_starts_again_at_0_and_what_was_done_counts_no_more() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources([1, 2]).await;
    let targets = [target(sources[0], 100), target(sources[1], 100)];
    fixture.plan(UnitKind::Copy, &targets, 50).await;
    fixture.plan(UnitKind::Verify, &targets, 50).await;
    let units = fixture.lease("a").await;
    let step: Vec<_> = units.iter().map(|unit| advance(unit, 20)).collect();
    let refused: Vec<_> = units.iter().map(|unit| quarantined(unit, unit.from + 3)).collect();
    let accepted = fixture.state.checkpoint(fixture.merge, &step, &refused, &[]).await.unwrap();
    assert_eq!(accepted.len(), 4);
    assert_eq!(fixture.state.totals(fixture.merge).await.unwrap().quarantined, 4);

    let anew = ShardTarget { history_uuid: "another".to_owned(), ..target(sources[0], 30) };
    assert_eq!(fixture.plan(UnitKind::Copy, std::slice::from_ref(&anew), 50).await, 1);
    assert_eq!(fixture.plan(UnitKind::Copy, std::slice::from_ref(&anew), 50).await, 0);

    let shards = fixture.state.shards(fixture.merge).await.unwrap();
    assert_eq!((shards[0].history_uuid.as_str(), shards[0].verify_planned_to), ("another", 0));
    assert_eq!((shards[1].history_uuid.as_str(), shards[1].verify_planned_to), ("history", 100));
    let totals = fixture.state.totals(fixture.merge).await.unwrap();
    assert_eq!((totals.copy.positions_total, totals.copy.positions_done), (130, 40));
    assert_eq!((totals.verify.positions_total, totals.quarantined), (100, 2));

    // The worker that still holds units of the old history is told, and writes nothing.
    let next: Vec<_> = units
        .iter()
        .map(|unit| es_index_merge::state::LeasedUnit { cursor: unit.cursor + 20, ..unit.clone() })
        .map(|unit| advance(&unit, 10))
        .collect();
    let accepted = fixture.state.checkpoint(fixture.merge, &next, &[], &[]).await.unwrap();
    let of_other: Vec<_> =
        units.iter().filter(|unit| unit.source == sources[1]).map(|unit| unit.id).collect();
    assert_eq!(accepted.len(), 2);
    assert!(of_other.iter().all(|id| accepted.contains(id)));
}

#[tokio::test]
async fn a_source_of_another_merge_is_refused_and_nothing_is_planned() {
    let fixture = Fixture::new().await;
    let mine = fixture.sources([1]).await;
    let other = claimed(&fixture.state, "shop/berta", "another").await;
    let theirs = fixture.state.upsert_sources(other, &[source(9)]).await.unwrap();
    let targets = [target(mine[0], 10), target(theirs[0].id, 10)];
    let error = fixture.state.plan_units(fixture.merge, UnitKind::Copy, 0, &targets, 5).await.unwrap_err();
    assert_eq!(error.category(), Category::Invalid, "{error}");
    assert_eq!(fixture.state.totals(fixture.merge).await.unwrap().copy.units, 0);
    assert_eq!(fixture.state.shards(fixture.merge).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_source_that_comes_back_is_planned_again_from_0() {
    let fixture = Fixture::new().await;
    let source = fixture.one_unit(100).await;
    let units = fixture.lease("a").await;
    fixture.state.checkpoint(fixture.merge, &[advance(&units[0], 40)], &[], &[]).await.unwrap();
    fixture.state.set_source_state(&[source], SourceState::Gone).await.unwrap();
    assert_eq!(fixture.state.abandon_units(source).await.unwrap(), 1);
    assert!(fixture.lease("b").await.is_empty());

    assert_eq!(fixture.sources([1]).await, [source]);
    assert_eq!(fixture.state.sources(fixture.merge).await.unwrap()[0].state, SourceState::Active);
    assert_eq!(fixture.plan(UnitKind::Copy, &[target(source, 100)], 1_000).await, 1);
    let again = fixture.lease("b").await;
    assert_eq!((again[0].from, again[0].cursor, again[0].to), (0, 0, 100));
}

/// The size of the largest deployments: leasing must not read what it does not take.
#[tokio::test]
async fn leases_one_of_a_hundred_thousand_units_by_its_index() {
    let fixture = Fixture::new().await;
    let found: Vec<NewSource> = (1..=5_000).map(source).collect();
    let sources = fixture.state.upsert_sources(fixture.merge, &found).await.unwrap();
    let targets: Vec<ShardTarget> =
        sources.iter().map(|row| target(row.id, 200 + 2 * row.collection_id)).collect();
    let split = 200;
    let made = fixture.plan(UnitKind::Copy, &targets, split).await;
    assert!(made > 100_000, "{made}");
    fixture.sql("ANALYZE").await;
    let query = include_str!("../../src/state/queries/unit_lease.sql")
        .replace("$1", &format!("'{}'::uuid", fixture.merge))
        .replace("$2", "'copy'")
        .replace("$3", "'worker'")
        .replace("$4", "60")
        .replace("$5", "64")
        .replace("$6", "10000");
    let mut connection = fixture.database.connect().await;
    crate::support::run(&mut connection, &format!("SET search_path = {SCHEMA}")).await;
    let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN ANALYZE {query}")))
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("Index Scan using unit_lease"), "{plan}");
    assert!(!plan.contains("Seq Scan on unit"), "{plan}");

    // The largest first, and as many as fit.
    let units =
        fixture.state.lease_units(fixture.merge, UnitKind::Copy, "a", LEASE, 1_000, 10_000).await.unwrap();
    assert!(units.iter().map(|unit| unit.estimated_documents).sum::<i64>() <= 10_000);
    assert!(units.windows(2).all(|pair| pair[0].estimated_documents >= pair[1].estimated_documents));
    assert_eq!(units[0].estimated_documents, split);
}

#[tokio::test]
async fn a_verification_that_begins_anew_forgets_what_was_compared_and_leaves_the_copy_alone() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources([1, 2]).await;
    let targets = [target(sources[0], 100), target(sources[1], 5)];
    fixture.plan(UnitKind::Copy, &targets, 1_000).await;
    fixture.plan(UnitKind::Verify, &targets, 1_000).await;
    let lease = |kind| fixture.state.lease_units(fixture.merge, kind, "w", LEASE, 10, 1_000);
    let copied = lease(UnitKind::Copy).await.unwrap();
    let compared = lease(UnitKind::Verify).await.unwrap();
    let rows = [quarantined(&copied[0], 1), quarantined(&compared[0], 2)];
    let advances = [advance(&copied[0], 10), advance(&compared[0], 10)];
    fixture.state.checkpoint(fixture.merge, &advances, &rows, &[]).await.unwrap();

    fixture.state.verify_again(fixture.merge).await.unwrap();
    let late = fixture.state.checkpoint(fixture.merge, &[advance(&compared[1], 1)], &[], &[]).await.unwrap();
    assert!(late.is_empty(), "a worker of before may not go on");
    let shards = fixture.state.shards(fixture.merge).await.unwrap();
    assert!(shards.iter().all(|shard| shard.copy_planned_to > 0 && shard.verify_planned_to == 0));
    let left = fixture.quarantine(&QuarantineFilter::default()).await;
    assert_eq!(left.iter().map(|row| row.chunk_id.as_str()).collect::<Vec<_>>(), ["chunk-1"]);
    assert_eq!(fixture.plan(UnitKind::Verify, &targets, 1_000).await, 2);
    let totals = fixture.state.totals(fixture.merge).await.unwrap();
    assert_eq!((totals.verify.units, totals.copy.units), (2, 2));
}
