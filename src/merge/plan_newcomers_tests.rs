//! Collections that came after the verdict are looked for every five minutes, for a day.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::super::observe::test_observation;
use super::super::valid::test_merge;
use super::*;

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;

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

fn planned(looked_at: Option<i64>, now: i64) -> (bool, Next) {
    let made = plan(&test_merge(), &completed(looked_at), at(now));
    (made.actions.contains(&Action::LookForNewcomers), made.next)
}

fn after(seconds: u64) -> Next {
    Next::After(Duration::from_secs(seconds))
}

#[test]
fn the_first_look_is_at_once_and_the_next_one_five_minutes_later() {
    assert_eq!(planned(None, 0), (true, after(300)));
    assert_eq!(planned(Some(0), 0), (false, after(300)));
    assert_eq!(planned(Some(0), 299), (false, after(1)));
    assert_eq!(planned(Some(0), 300), (true, after(300)));
    assert_eq!(planned(Some(-3 * MINUTE), 4 * DAY / 5), (true, after(300)));
}

#[test]
fn a_day_after_the_end_nobody_looks_any_more() {
    assert_eq!(planned(Some(DAY - 600), DAY - 300), (true, after(300)));
    // The next one would come too late.
    assert_eq!(planned(Some(DAY - 300), DAY - 200), (false, Next::Settled));
    assert_eq!(planned(None, DAY - 1), (true, after(300)));
    for now in [DAY, DAY + 1, 100 * DAY] {
        assert_eq!(planned(None, now), (false, Next::Settled));
    }
}

#[test]
fn a_clock_that_is_set_back_keeps_no_look_away_and_lets_none_go_on_for_longer() {
    assert_eq!(planned(Some(20 * MINUTE), 10 * MINUTE), (true, after(300)));
    assert_eq!(planned(None, -MINUTE), (true, after(300)));
    assert_eq!(planned(Some(0), -2 * DAY), (false, Next::Settled));
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

#[test]
fn what_is_left_to_be_done_for_writers_is_more_than_a_look() {
    let mut spec = test_merge();
    let mut seen = completed(None);
    seen.blocked_sources = 1;
    assert!(only_looks(&spec, &seen, at(0)), "they stay refused");
    spec.cutover.source_writes = SourceWrites::Allow;
    assert!(!only_looks(&spec, &seen, at(0)));
    seen.blocked_sources = 0;
    assert!(only_looks(&spec, &seen, at(0)));
    assert!(only_looks(&spec, &seen, at(100 * DAY)), "not even that");
    seen.phase = Phase::Failed;
    assert!(!only_looks(&spec, &seen, at(0)));
}
