//! Source indices are deleted one at a time, after the verdict and the retention, and until somebody says no.
#![allow(clippy::unwrap_used, clippy::panic)]

use jiff::SignedDuration;
use proptest::prelude::*;

use super::super::memo::VerdictMemo;
use super::super::observe::{DeletionSeen, DestinationSeen, test_observation};
use super::super::valid::test_merge;
use super::*;

const WEEK: Duration = Duration::from_hours(168);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn asking() -> ValidMerge {
    let mut spec = test_merge();
    spec.cutover.delete_sources_after = Some(WEEK);
    spec
}

/// Completed at second 0, with that many sources.
fn completed(sources: i64) -> Observation {
    let verdict = VerdictMemo {
        positive: true,
        collections: sources.unsigned_abs(),
        unequal: 0,
        quarantined: 0,
        unknown_documents: 0,
        counted_only: false,
        message: String::new(),
        basis: test_merge().verdict_basis(),
    };
    Observation {
        phase: Phase::Completed,
        destination: DestinationSeen { settled: true, serving: true, ..DestinationSeen::default() },
        verdict: Some(verdict),
        blocked_sources: sources.unsigned_abs(),
        pass_taken_at: Some(at(-10)),
        completed_at: Some(at(0)),
        deletion: DeletionSeen {
            remaining: sources.unsigned_abs(),
            next: Some(1),
            ..DeletionSeen::default()
        },
        ..test_observation(GraphMemo::Built)
    }
}

/// The sources that a plan deletes.
fn deleted(plan: &Plan) -> Vec<SourceId> {
    let source =
        |action: &Action| if let Action::DeleteSource(source) = action { Some(*source) } else { None };
    plan.actions.iter().filter_map(source).collect()
}

const DUE: i64 = 168 * 3600;

#[test]
fn nothing_is_deleted_before_its_time_and_the_step_waits_for_it() {
    for second in [0, 1, DUE - 1] {
        let seen = Observation { newcomers_looked_at: Some(at(second)), ..completed(3) };
        let plan = plan(&asking(), &seen, at(second));
        assert_eq!(plan.actions, [Action::RestWorkers]);
        let left = Duration::from_secs(u64::try_from(DUE - second).unwrap());
        assert_eq!(plan.next, Next::After(left));
    }
}

#[test]
fn then_they_go_one_at_a_time_until_none_is_left() {
    let mut seen = completed(3);
    for source in 1..=3 {
        let plan = plan(&asking(), &seen, at(DUE + source));
        assert_eq!(deleted(&plan), [source]);
        assert_eq!(plan.next, Next::Now);
        seen.deletion.deleted += 1;
        seen.deletion.remaining -= 1;
        seen.deletion.next = (source < 3).then_some(source + 1);
    }
    seen.newcomers_looked_at = Some(at(DUE));
    let plan = plan(&asking(), &seen, at(DUE + 10));
    assert_eq!((plan.actions, plan.next), (vec![Action::RestWorkers], Next::Settled));
}

#[test]
fn each_way_to_say_no_holds_from_the_next_step_on() {
    let no: [fn(&mut ValidMerge); 4] = [
        |spec| spec.cutover.delete_sources_after = None,
        |spec| spec.suspend = true,
        |spec| spec.cutover.delete_sources_after = Some(WEEK * 2),
        |spec| spec.cutover.source_writes = SourceWrites::Allow,
    ];
    for say in no {
        let mut seen = completed(2);
        assert_eq!(deleted(&plan(&asking(), &seen, at(DUE))).len(), 1);
        (seen.deletion.deleted, seen.deletion.remaining, seen.deletion.next) = (1, 1, Some(2));
        let mut spec = asking();
        say(&mut spec);
        let stopped = plan(&spec, &seen, at(DUE + 1));
        assert_eq!(deleted(&stopped), Vec::<SourceId>::new());
        assert_ne!(stopped.next, Next::Now);
        assert_eq!(deleted(&plan(&asking(), &seen, at(DUE + 2))), [2], "and yes again");
    }
}

#[test]
fn a_new_retry_token_has_those_that_were_kept_looked_at_again_once() {
    let mut seen = completed(2);
    seen.deletion = DeletionSeen { deleted: 1, kept: 1, ..DeletionSeen::default() };
    let mut spec = asking();
    assert_eq!(plan(&spec, &seen, at(DUE)).next, Next::Settled);
    spec.retry_token = "again".to_owned();
    assert!(plan(&spec, &seen, at(DUE)).actions.contains(&Action::ReconsiderKept));
    seen.retry_token = spec.retry_token.clone();
    seen.deletion = DeletionSeen { deleted: 1, remaining: 1, next: Some(2), ..DeletionSeen::default() };
    assert_eq!(deleted(&plan(&spec, &seen, at(DUE))), [2]);
}

fn phases() -> impl Strategy<Value = Phase> {
    proptest::sample::select(Phase::STORED.to_vec())
}

proptest! {
    #[test]
    fn never_without_the_verdict_the_end_the_block_and_the_wish(
        phase in phases(),
        positive in proptest::option::of(any::<bool>()),
        is_wanted in any::<bool>(),
        is_blocking in any::<bool>(),
        is_suspended in any::<bool>(),
        second in -10_i64..2 * DUE,
    ) {
        let mut spec = asking();
        spec.suspend = is_suspended;
        if !is_wanted {
            spec.cutover.delete_sources_after = None;
        }
        if !is_blocking {
            spec.cutover.source_writes = SourceWrites::Allow;
        }
        let mut seen = completed(2);
        seen.phase = phase;
        let given = seen.verdict.take();
        seen.verdict = given.and_then(|verdict| Some(VerdictMemo { positive: positive?, ..verdict }));
        let may = phase == Phase::Completed && positive == Some(true) && is_wanted && is_blocking && !is_suspended;
        let is_due = at(second).duration_since(at(0)) >= SignedDuration::from_secs(DUE);
        let many = deleted(&plan(&spec, &seen, at(second))).len();
        prop_assert_eq!(many, usize::from(may && is_due));
    }
}
