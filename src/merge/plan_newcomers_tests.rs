//! Collections that came after the verdict are looked for at the end, and in steps that are made for something else.
#![allow(clippy::unwrap_used)]

use super::super::observe::test_observation;
use super::super::valid::test_merge;
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

/// Completed at second 0, and looked at then, if at all.
fn completed(looked_at: Option<i64>) -> Observation {
    Observation {
        phase: Phase::Completed,
        completed_at: Some(at(0)),
        newcomers_looked_at: looked_at.map(at),
        ..test_observation(GraphMemo::Built)
    }
}

fn looks(looked_at: Option<i64>, now: i64) -> bool {
    let made = plan(&test_merge(), &completed(looked_at), at(now));
    assert_eq!(made.next, Next::Settled, "a step for nothing but a look");
    made.actions.contains(&Action::LookForNewcomers)
}

#[test]
fn the_first_look_is_at_once_and_no_other_one_sooner_than_after_five_minutes() {
    assert!(looks(None, 0));
    assert!(!looks(Some(0), 0) && !looks(Some(0), 299));
    assert!(looks(Some(0), 300));
}

#[test]
fn a_clock_that_is_set_back_keeps_no_look_away() {
    assert!(looks(Some(20), 10));
}

#[test]
fn nobody_looks_while_it_is_suspended_or_before_the_end() {
    let suspended = ValidMerge { suspend: true, ..test_merge() };
    let made = plan(&suspended, &completed(None), at(0));
    assert_eq!((made.actions, made.next), (vec![Action::RestWorkers], Next::Settled));
    for phase in Phase::STORED.into_iter().filter(|phase| *phase != Phase::Completed) {
        let seen = Observation { phase, ..completed(None) };
        let made = plan(&test_merge(), &seen, at(0));
        assert!(!made.actions.contains(&Action::LookForNewcomers), "{phase}: {made:?}");
    }
}
