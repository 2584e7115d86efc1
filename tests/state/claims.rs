use std::collections::BTreeSet;

use es_index_merge::state::{Claim, NewMerge};
use serde_json::json;

use crate::fixture::{Fixture, LEASE, new_merge};

#[tokio::test]
async fn the_same_owner_gets_the_same_merge_each_time() {
    let fixture = Fixture::new().await;
    let again = fixture.state.claim(&new_merge("shop/albert", "opengatellm")).await.unwrap();
    let Claim::Ours(row) = again else { panic!("{again:?}") };
    assert_eq!(row.id, fixture.merge);
    assert_eq!((row.phase.as_str(), row.pass, row.memo), ("Pending", 0, json!({})));
}

#[tokio::test]
async fn a_second_owner_is_told_who_has_the_destination_until_it_is_released() {
    let fixture = Fixture::new().await;
    let other = new_merge("shop/berta", "opengatellm");
    let refused = fixture.state.claim(&other).await.unwrap();
    assert!(matches!(&refused, Claim::HeldBy { owner, .. } if owner == "shop/albert"), "{refused:?}");
    fixture.state.release(fixture.merge).await.unwrap();
    let granted = fixture.state.claim(&other).await.unwrap();
    assert!(matches!(&granted, Claim::Ours(row) if row.id != fixture.merge), "{granted:?}");
    assert!(fixture.state.merge(fixture.merge).await.unwrap().unwrap().released_at.is_some());
}

#[tokio::test]
async fn the_same_owner_with_another_identity_is_not_given_the_old_merge() {
    let fixture = Fixture::new().await;
    let anew = NewMerge { identity: "another".to_owned(), ..new_merge("shop/albert", "opengatellm") };
    let claim = fixture.state.claim(&anew).await.unwrap();
    assert!(matches!(&claim, Claim::OtherIdentity { held } if held.id == fixture.merge), "{claim:?}");
}

#[tokio::test]
async fn of_many_owners_claiming_at_once_exactly_one_wins() {
    let fixture = Fixture::new().await;
    let tasks = (0..12).map(|n| {
        let state = fixture.state.clone();
        tokio::spawn(async move { state.claim(&new_merge(&format!("shop/{n}"), "contested")).await.unwrap() })
    });
    let mut winners = 0;
    let mut told = BTreeSet::new();
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Claim::Ours(row) => {
                winners += 1;
                told.insert(row.owner);
            }
            Claim::HeldBy { owner, .. } => {
                told.insert(owner);
            }
            other @ Claim::OtherIdentity { .. } => panic!("{other:?}"),
        }
    }
    assert_eq!((winners, told.len()), (1, 1));
}

#[tokio::test]
async fn a_phase_is_entered_only_from_the_phase_it_was_decided_in() {
    let Fixture { database: _database, state, merge } = Fixture::new().await;
    assert!(state.enter_phase(merge, "Pending", "Copying").await.unwrap());
    assert!(!state.enter_phase(merge, "Pending", "Failed").await.unwrap());
    assert!(state.enter_phase(merge, "Copying", "Completed").await.unwrap());
    assert!(state.merge(merge).await.unwrap().unwrap().completed_at.is_some());
    assert!(state.enter_phase(merge, "Completed", "Copying").await.unwrap());
    let row = state.merge(merge).await.unwrap().unwrap();
    assert_eq!((row.phase.as_str(), row.completed_at), ("Copying", None));
    assert!(row.phase_since >= row.started_at);
}

#[tokio::test]
async fn remembers_the_memo_the_pass_and_the_retry_token() {
    let Fixture { database: _database, state, merge } = Fixture::new().await;
    let memo = json!({"destination": {"uuid": "abc"}, "big": 9_007_199_254_740_993_i64});
    let stored = state.edit_memo(merge, |_| Ok::<_, ()>(memo.clone())).await.unwrap();
    assert_eq!(stored, Ok(memo.clone()));
    assert_eq!(state.edit_memo(merge, |_| Err("cannot be read")).await.unwrap(), Err("cannot be read"));
    state.raise_pass(merge, 3).await.unwrap();
    state.set_retry_token(merge, "again").await.unwrap();
    let row = state.merge(merge).await.unwrap().unwrap();
    assert_eq!((row.memo, row.pass, row.retry_token.as_str()), (memo, 3, "again"));
}

#[tokio::test]
async fn no_edit_of_the_memo_undoes_another_one_however_many_are_made_at_once() {
    let Fixture { database: _database, state, merge } = Fixture::new().await;
    let edits: Vec<_> = (0..20)
        .map(|n| {
            let state = state.clone();
            tokio::spawn(async move {
                let edit = |mut memo: serde_json::Value| {
                    memo[n.to_string()] = json!(n);
                    Ok::<_, ()>(memo)
                };
                state.edit_memo(merge, edit).await.unwrap().unwrap();
            })
        })
        .collect();
    for edit in edits {
        edit.await.unwrap();
    }
    let memo = state.merge(merge).await.unwrap().unwrap().memo;
    assert_eq!(memo.as_object().unwrap().len(), 20);
}

#[tokio::test]
async fn one_process_at_a_time_decides_and_whoever_sleeps_too_long_is_told_so() {
    let fixture = Fixture::new().await;
    let (state, merge) = (&fixture.state, fixture.merge);
    assert!(state.take_step(merge, "a", LEASE).await.unwrap());
    assert!(state.take_step(merge, "a", LEASE).await.unwrap(), "its own lease is renewed");
    assert!(!state.take_step(merge, "b", LEASE).await.unwrap());
    fixture.sql("UPDATE merge SET stepper_until = '-infinity'").await;
    assert!(state.keep_step(merge, "a", LEASE).await.unwrap(), "nobody took it meanwhile");
    fixture.sql("UPDATE merge SET stepper_until = '-infinity'").await;
    assert!(state.take_step(merge, "b", LEASE).await.unwrap());
    assert!(!state.keep_step(merge, "a", LEASE).await.unwrap());
    state.end_step(merge, "a").await.unwrap();
    assert!(!state.take_step(merge, "a", LEASE).await.unwrap(), "it was not a's to give back");
    state.end_step(merge, "b").await.unwrap();
    assert!(state.take_step(merge, "a", LEASE).await.unwrap());
}

#[tokio::test]
async fn a_forgotten_merge_leaves_no_row_behind() {
    let fixture = Fixture::new().await;
    let source = fixture.one_unit(10).await;
    let units = fixture.lease("a").await;
    let row = crate::fixture::quarantined(&units[0], 3);
    let advance = crate::fixture::advance(&units[0], 10);
    fixture.state.checkpoint(fixture.merge, &[advance], &[row], &[]).await.unwrap();
    assert!(source > 0);
    fixture.state.forget(fixture.merge).await.unwrap();
    fixture.state.forget(fixture.merge).await.unwrap();
    assert!(fixture.state.merge(fixture.merge).await.unwrap().is_none());
    for table in ["source", "shard", "unit", "quarantine"] {
        let query = format!("SELECT count(*) FROM {}.{table}", crate::fixture::SCHEMA);
        assert_eq!(fixture.database.number(&query).await, 0, "{table}");
    }
}
