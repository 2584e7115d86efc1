use std::collections::HashSet;
use std::time::Duration;

use es_index_merge::state::{Category, ShardTarget, SourceState, UnitKind};

use crate::fixture::{Fixture, LEASE, advance, target};

#[tokio::test]
async fn many_tiny_units_or_one_large_one() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources(1..=5).await;
    let sizes = [10, 9_000, 30, 20, 5_000];
    let targets: Vec<ShardTarget> = sources.iter().zip(sizes).map(|(id, to)| target(*id, to)).collect();
    fixture.plan(UnitKind::Copy, &targets, 1_000_000).await;
    let lease = async |max_units, max_documents| {
        let units = fixture
            .state
            .lease_units(fixture.merge, UnitKind::Copy, "a", LEASE, max_units, max_documents)
            .await
            .unwrap();
        units.iter().map(|unit| unit.to).collect::<Vec<_>>()
    };
    // Larger than allowed, but at least one.
    assert_eq!(lease(100, 100).await, [9_000]);
    assert_eq!(lease(100, 5_030).await, [5_000, 30]);
    assert_eq!(lease(1, 5_030).await, [20]);
    assert_eq!(lease(100, 5_030).await, [10]);
    assert!(lease(100, 5_030).await.is_empty());
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_by_another_and_the_first_worker_is_refused() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let first = fixture.lease("a").await;
    assert!(fixture.lease("b").await.is_empty());
    assert_eq!(fixture.state.totals(fixture.merge).await.unwrap().workers, 1);
    fixture.let_leases_expire().await;
    assert_eq!(fixture.state.totals(fixture.merge).await.unwrap().workers, 0);
    let second = fixture.lease("b").await;
    assert_eq!((second[0].id, second[0].epoch), (first[0].id, first[0].epoch + 1));

    let refused = fixture.state.checkpoint(fixture.merge, &[advance(&first[0], 10)], &[], &[]).await.unwrap();
    assert!(refused.is_empty());
    assert!(fixture.state.renew(&[(first[0].id, first[0].epoch)], LEASE).await.unwrap().is_empty());
    assert!(!fixture.state.fail_unit(first[0].id, first[0].epoch, "late", LEASE).await.unwrap());
    fixture.state.give_back(&[(first[0].id, first[0].epoch)]).await.unwrap();
    let accepted =
        fixture.state.checkpoint(fixture.merge, &[advance(&second[0], 10)], &[], &[]).await.unwrap();
    assert_eq!(accepted, HashSet::from([second[0].id]));
}

#[tokio::test]
async fn a_lease_that_ran_out_and_nobody_took_may_be_renewed() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let units = fixture.lease("a").await;
    fixture.let_leases_expire().await;
    let mine = (units[0].id, units[0].epoch);
    assert_eq!(
        fixture.state.renew(&[mine, (999_999, 1)], LEASE).await.unwrap(),
        HashSet::from([units[0].id])
    );
    assert!(fixture.lease("b").await.is_empty());
}

#[tokio::test]
async fn a_lease_ends_by_the_clock_of_the_database() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let short = Duration::from_millis(200);
    let units =
        fixture.state.lease_units(fixture.merge, UnitKind::Copy, "a", short, 10, 1_000).await.unwrap();
    assert_eq!(units.len(), 1);
    tokio::time::timeout(Duration::from_secs(20), async {
        while fixture.lease("b").await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the lease ends");
}

/// As after the database's clock was set back: nobody would wait for their end.
#[tokio::test]
async fn leases_that_end_hours_ahead_are_void_and_those_that_end_soon_hold() {
    let fixture = Fixture::new().await;
    let (state, merge) = (&fixture.state, fixture.merge);
    fixture.one_unit(100).await;
    let first = fixture.lease("other").await;
    let let_leases_end_in = async |interval: &str| {
        let end = format!("now() + interval '{interval}'");
        let statements = format!(
            "UPDATE merge SET stepper = 'other', stepper_until = {end}; UPDATE unit SET available_at = {end}"
        );
        fixture.sql(&statements).await;
    };
    let_leases_end_in("10 seconds").await;
    assert!(!state.take_step(merge, "a", LEASE).await.unwrap());
    assert!(fixture.lease("a").await.is_empty());

    let_leases_end_in("3 hours").await;
    assert!(state.take_step(merge, "a", LEASE).await.unwrap(), "nobody decides for three hours");
    assert!(!state.keep_step(merge, "other", LEASE).await.unwrap());
    let second = fixture.lease("a").await;
    let leased: Vec<_> = second.iter().map(|unit| (unit.id, unit.epoch)).collect();
    assert_eq!(leased, [(first[0].id, first[0].epoch + 1)]);
    let late = state.checkpoint(merge, &[advance(&first[0], 10)], &[], &[]).await.unwrap();
    assert!(late.is_empty());
}

#[tokio::test]
async fn what_is_given_back_goes_on_at_the_last_checkpoint() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let first = fixture.lease("a").await;
    fixture.state.checkpoint(fixture.merge, &[advance(&first[0], 40)], &[], &[]).await.unwrap();
    fixture.state.give_back(&[(first[0].id, first[0].epoch)]).await.unwrap();
    let second = fixture.lease("b").await;
    assert_eq!((second[0].cursor, second[0].to, second[0].attempts), (40, 100, 0));
}

#[tokio::test]
async fn a_process_that_comes_back_under_its_name_need_not_wait_for_its_leases() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let dead = fixture.lease("pod-0").await;
    assert_eq!(fixture.state.take_back(fixture.merge, "pod-1").await.unwrap(), 0);
    assert_eq!(fixture.state.take_back(fixture.merge, "pod-0").await.unwrap(), 1);
    let again = fixture.lease("pod-0").await;
    assert_eq!(again[0].epoch, dead[0].epoch + 1);
    // Should the former process live after all, it is refused.
    let late = fixture.state.checkpoint(fixture.merge, &[advance(&dead[0], 10)], &[], &[]).await.unwrap();
    assert!(late.is_empty());
}

#[tokio::test]
async fn a_failed_unit_waits_and_is_counted_until_it_makes_progress() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    for attempts in 0..3 {
        let units = fixture.lease("a").await;
        assert_eq!(units[0].attempts, attempts);
        let error = format!("attempt {attempts}: \0 shard 0 is red");
        assert!(fixture.state.fail_unit(units[0].id, units[0].epoch, &error, LEASE).await.unwrap());
        assert!(fixture.lease("a").await.is_empty(), "it waits");
        let totals = fixture.state.totals(fixture.merge).await.unwrap();
        assert_eq!((totals.copy.failing, totals.workers), (1, 0));
        assert_eq!(totals.copy.last_error.unwrap(), format!("attempt {attempts}: \u{FFFD} shard 0 is red"));
        fixture.let_leases_expire().await;
    }
    let units = fixture.lease("a").await;
    fixture.state.checkpoint(fixture.merge, &[advance(&units[0], 1)], &[], &[]).await.unwrap();
    let totals = fixture.state.totals(fixture.merge).await.unwrap();
    assert_eq!((totals.copy.failing, totals.copy.last_error), (0, None));
}

#[tokio::test]
async fn a_retry_ends_waits_and_touches_no_lease() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources([1, 2]).await;
    fixture.plan(UnitKind::Copy, &[target(sources[0], 20), target(sources[1], 10)], 100).await;
    let units = fixture.lease("a").await;
    fixture.state.fail_unit(units[0].id, units[0].epoch, "no", LEASE).await.unwrap();
    assert_eq!(fixture.state.retry_now(fixture.merge).await.unwrap(), 1);
    let again = fixture.lease("b").await;
    assert_eq!(again.iter().map(|unit| unit.id).collect::<Vec<_>>(), [units[0].id]);
}

#[tokio::test]
async fn waiting_sources_and_released_merges_lease_nothing() {
    let fixture = Fixture::new().await;
    let source = fixture.one_unit(100).await;
    fixture.state.set_source_state(&[source], SourceState::Waiting).await.unwrap();
    assert!(fixture.lease("a").await.is_empty());
    fixture.state.set_source_state(&[source], SourceState::Active).await.unwrap();
    fixture.state.release(fixture.merge).await.unwrap();
    assert!(fixture.lease("a").await.is_empty());
}

#[tokio::test]
async fn workers_leasing_at_once_never_share_a_unit_and_none_goes_idle() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources(1..=40).await;
    let targets: Vec<ShardTarget> = sources.iter().map(|id| target(*id, 100)).collect();
    fixture.plan(UnitKind::Copy, &targets, 1_000).await;
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (state, merge) = (fixture.state.clone(), fixture.merge);
            tokio::spawn(async move {
                // Wide limits to look at, narrow ones to take: 5 of 40.
                state
                    .lease_units(merge, UnitKind::Copy, &format!("w{n}"), LEASE, 1_000, 500)
                    .await
                    .unwrap()
                    .into_iter()
                    .map(|unit| unit.id)
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        let units = task.await.unwrap();
        assert_eq!(units.len(), 5);
        all.extend(units);
    }
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 40);
    assert_eq!(fixture.state.totals(fixture.merge).await.unwrap().workers, 8);
}

#[tokio::test]
async fn a_schema_that_vanished_is_missing() {
    let fixture = Fixture::new().await;
    fixture.database.run(&format!("DROP SCHEMA {} CASCADE", crate::fixture::SCHEMA)).await;
    let error = fixture.state.totals(fixture.merge).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Missing, false), "{error}");
}
