//! The plan against a small model of the world: it always gets to the end, also when the process dies between any
//! two actions, and it never skips what a verdict rests on.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::super::memo::{CutoverMemo, VerdictMemo};
use super::super::observe::{Walk, test_observation};
use super::super::valid::test_merge;
use super::*;

/// What the actions would change. Time goes on by a second with each step.
struct World {
    spec: ValidMerge,
    seen: Observation,
    now: Timestamp,
    /// Operations that the sources will still have, one at a time.
    writes: u32,
    /// Operations beyond the last planned pass.
    ahead: u32,
    /// Positions copied but not compared.
    uncompared: u32,
    compared_all_before_verdict: bool,
    /// What the verdict will be.
    positive: bool,
}

impl World {
    fn new(graph: GraphMemo, writes: u32, positive: bool) -> World {
        let seen = test_observation(graph);
        World {
            spec: test_merge(),
            seen,
            now: Timestamp::from_second(1_700_000_000).unwrap(),
            writes,
            ahead: 10,
            uncompared: 0,
            compared_all_before_verdict: true,
            positive,
        }
    }

    /// Executes at most `most` actions of the next plan, as a process that dies would.
    fn step(&mut self, most: usize) -> Plan {
        let plan = plan(&self.spec, &self.seen, self.now);
        for action in plan.actions.iter().take(most) {
            self.act(action);
        }
        self.now = self.now.checked_add(SignedDuration::from_secs(1)).unwrap();
        let writers_are_served = self.seen.blocked_sources == 0;
        if writers_are_served && self.writes > 0 {
            self.writes -= 1;
            self.ahead += 1;
        }
        plan
    }

    fn act(&mut self, action: &Action) {
        let seen = &mut self.seen;
        match action {
            Action::PrepareDestination | Action::ResolveSources | Action::RestWorkers | Action::Finish => {}
            Action::PlanPass(UnitKind::Copy) | Action::PlanLastPass => {
                seen.copy.open += u64::from(self.ahead > 0);
                self.ahead = 0;
                seen.pass_taken_at = Some(self.now);
                seen.cutover.last_pass_planned |= *action == Action::PlanLastPass;
            }
            Action::PlanPass(UnitKind::Verify) => {
                seen.verify.open += 1;
                seen.verify_behind = false;
            }
            Action::RunWorkers(UnitKind::Copy) => {
                assert!(!seen.workers_stopped, "workers have nothing to write through");
                seen.copy.open = 0;
                self.uncompared += 1;
                seen.verify_behind = true;
                seen.keys_behind = true;
            }
            Action::RunWorkers(UnitKind::Verify) => {
                seen.verify.open = 0;
                self.uncompared = 0;
            }
            Action::FollowDeletions => {
                assert_eq!(seen.copy.open + seen.verify.open, 0, "deletions are followed between passes");
                seen.keys_behind = false;
            }
            Action::SwitchIndexOptions => {
                seen.graph = GraphMemo::Switched { marks: BTreeMap::new(), rounds: 0, flat: 0 };
            }
            Action::RewriteSegments => seen.graph = GraphMemo::Built,
            Action::SettleDestination => seen.destination.settled = true,
            Action::BeginCutover => {
                seen.cutover = CutoverMemo { started_at: Some(self.now), ..CutoverMemo::default() };
                seen.verdict = None;
            }
            Action::BlockSources => {
                seen.cutover.blocked = true;
                seen.blocked_sources = 1;
            }
            Action::ReconcileKeys => {
                seen.cutover.keys_reconciled = true;
                seen.workers_stopped = true;
            }
            Action::LetWorkersWrite => seen.workers_stopped = false,
            Action::Judge => {
                self.compared_all_before_verdict &=
                    self.uncompared == 0 && self.ahead == 0 && !seen.keys_behind;
                seen.verdict = Some(VerdictMemo {
                    positive: self.positive,
                    collections: 1,
                    unequal: 0,
                    quarantined: 0,
                    unknown_documents: 0,
                    counted_only: false,
                    message: String::new(),
                    basis: self.spec.verdict_basis(),
                });
            }
            Action::AbandonCutover(_) => {
                seen.blocked_sources = 0;
                let retry_at = self.now.checked_add(SignedDuration::from_secs(30)).ok();
                seen.cutover = CutoverMemo { retry_at, ..CutoverMemo::default() };
            }
            Action::UnblockSources => seen.blocked_sources = 0,
            Action::Retry => {
                seen.verify.open += 1;
                self.uncompared += 1;
                seen.cutover.retry_at = None;
                seen.cutover.keys_reconciled = false;
                if seen.phase == Phase::CuttingOver {
                    seen.verdict = None;
                }
                seen.retry_token = self.spec.retry_token.clone();
            }
            Action::LookForNewcomers => seen.newcomers_looked_at = Some(self.now),
            Action::DeleteSource(_) | Action::ReconsiderKept => {
                panic!("sources are deleted though nobody asked for it")
            }
            Action::Enter(phase) => seen.phase = *phase,
        }
    }

    fn walk(&mut self, most_actions: &[usize]) -> Phase {
        for step in 0..2_000 {
            let most = most_actions.get(step).copied().unwrap_or(usize::MAX);
            self.step(most);
            if matches!(self.seen.phase, Phase::Completed | Phase::Failed) {
                return self.seen.phase;
            }
        }
        panic!("no end: {:?}", self.seen);
    }
}

fn graphs() -> impl Strategy<Value = GraphMemo> {
    prop_oneof![Just(GraphMemo::Direct), Just(GraphMemo::Loading)]
}

proptest! {
    #[test]
    fn gets_to_the_end_though_it_dies_between_any_two_actions(
        graph in graphs(),
        writes in 0_u32..200,
        deaths in proptest::collection::vec(0_usize..5, 0..120),
    ) {
        let mut world = World::new(graph, writes, true);
        prop_assert_eq!(world.walk(&deaths), Phase::Completed);
        prop_assert!(world.compared_all_before_verdict, "a verdict without everything compared");
        prop_assert!(world.seen.destination.settled);
        prop_assert!(matches!(world.seen.graph, GraphMemo::Direct | GraphMemo::Built));
    }

    #[test]
    fn a_new_retry_token_is_acted_upon_once_in_every_phase_and_before_the_verdict(
        graph in graphs(),
        at in 0_usize..40,
        deaths in proptest::collection::vec(0_usize..5, 0..60),
    ) {
        let mut world = World::new(graph, 0, true);
        for _ in 0..at {
            world.step(usize::MAX);
        }
        let is_over = world.seen.phase == Phase::Completed;
        world.spec.retry_token = "again".to_owned();
        prop_assert_eq!(world.walk(&deaths), Phase::Completed);
        prop_assert!(world.compared_all_before_verdict, "a verdict before the comparison that was asked for");
        prop_assert_eq!(world.seen.retry_token == "again", !is_over);
        prop_assert!(!world.step(usize::MAX).actions.contains(&Action::Retry));
    }

    #[test]
    fn a_plan_is_the_same_for_the_same_observation(graph in graphs(), writes in 0_u32..50, steps in 0_usize..40) {
        let mut world = World::new(graph, writes, true);
        for _ in 0..steps {
            world.step(usize::MAX);
        }
        prop_assert_eq!(plan(&world.spec, &world.seen, world.now), plan(&world.spec, &world.seen, world.now));
    }
}

#[test]
fn a_negative_verdict_lifts_the_blocks_and_ends_in_failed() {
    let mut world = World::new(GraphMemo::Direct, 0, false);
    assert_eq!(world.walk(&[]), Phase::Failed);
    assert_eq!(world.seen.blocked_sources, 0);
    assert_eq!(world.step(usize::MAX).next, Next::Settled);
}

#[test]
fn a_failed_merge_is_judged_again_at_once_when_the_tolerations_change() {
    for (positive, end) in [(true, Phase::Completed), (false, Phase::Failed)] {
        let mut world = World::new(GraphMemo::Direct, 0, false);
        world.walk(&[]);
        let paused_until = world.seen.cutover.retry_at.unwrap();
        world.positive = positive;
        world.spec.tolerations.max_quarantined = 5;
        assert_eq!(world.walk_from_failed(), end);
        assert!(world.now < paused_until, "it waited as after an attempt that was given up");
        assert_eq!(world.step(usize::MAX).next, Next::Settled);
    }
}

#[test]
fn what_leads_back_from_a_negative_verdict_is_no_reason_to_hurry_the_attempt_after_it() {
    let mut world = World::new(GraphMemo::Direct, 0, false);
    world.walk(&[]);
    world.spec.tolerations.max_quarantined = 5;
    while world.seen.phase != Phase::CuttingOver {
        world.step(usize::MAX);
    }
    world.now = world.now.checked_add(SignedDuration::from_hours(1)).unwrap();
    world.step(usize::MAX);
    assert_eq!(world.seen.phase, Phase::Synced, "it took too long");
    world.step(usize::MAX);
    let waiting = plan(&world.spec, &world.seen, world.now).waiting;
    assert_eq!(waiting.map(|waiting| waiting.reason), Some("CutoverRetrying"));
}

/// A process that was paused in an attempt of its own comes back, and clears the verdict of the one after it.
#[test]
fn a_failed_merge_that_has_lost_its_verdict_is_judged_again() {
    let mut world = World::new(GraphMemo::Direct, 0, false);
    world.walk(&[]);
    world.seen.verdict = None;
    world.positive = true;
    assert_eq!(world.walk_from_failed(), Phase::Completed);
}

#[test]
fn a_failed_merge_tries_again_with_a_new_retry_token_and_when_a_comparison_was_asked_for() {
    for ask in
        [(|world: &mut World| world.spec.retry_token = "again".to_owned()) as fn(&mut World), |world| {
            world.seen.verify.open = 1;
        }]
    {
        let mut world = World::new(GraphMemo::Direct, 0, false);
        world.walk(&[]);
        world.positive = true;
        ask(&mut world);
        // It dies between any two actions of the way back.
        for most in 0..4 {
            world.step(most);
        }
        assert_eq!(world.walk(&[]), Phase::Completed);
        assert_eq!(world.seen.retry_token, world.spec.retry_token);
    }
}

impl World {
    fn walk_from_failed(&mut self) -> Phase {
        self.step(usize::MAX);
        assert_eq!(self.seen.phase, Phase::Synced);
        self.walk(&[])
    }
}

#[test]
fn a_held_cutover_stays_synced_and_waits_without_spinning() {
    let mut world = World::new(GraphMemo::Direct, 0, true);
    world.spec.cutover.hold = true;
    let mut idle = 0;
    for _ in 0..200 {
        let plan = world.step(usize::MAX);
        if world.seen.phase == Phase::Synced && plan.actions.is_empty() {
            assert!(matches!(plan.next, Next::After(_)), "{plan:?}");
            idle += 1;
        }
    }
    assert_eq!(world.seen.phase, Phase::Synced);
    assert!(idle > 50, "passes without a pause: {idle}");
}

#[test]
fn a_merge_that_cannot_catch_up_says_so_and_one_whose_cutover_is_held_does_not() {
    for hold in [false, true] {
        let mut world = World::new(GraphMemo::Direct, 0, true);
        world.spec.cutover.hold = hold;
        world.seen.phase = Phase::Synced;
        world.seen.destination.settled = true;
        world.seen.copy.open = 1;
        world.seen.pass_taken_at = Some(world.now);
        let held = hold.then_some("CutoverHeld");
        let waiting = plan(&world.spec, &world.seen, world.now).waiting;
        assert_eq!(waiting.map(|waiting| waiting.reason), held);
        let late = world.now + world.spec.cutover.max_lag + Duration::from_secs(1);
        let reason =
            |world: &World| plan(&world.spec, &world.seen, late).waiting.map(|waiting| waiting.reason);
        assert_eq!(reason(&world), held.or(Some("CatchingUp")));
        // Also after an attempt that failed, once its pause is over.
        world.seen.cutover.retry_at = Some(late);
        assert_eq!(reason(&world), held.or(Some("CatchingUp")));
        world.seen.cutover.retry_at = Some(late + Duration::from_secs(1));
        assert_eq!(reason(&world), held.or(Some("CutoverRetrying")));
    }
}

#[test]
fn deletions_are_followed_after_each_pass_also_while_the_cutover_is_held() {
    for verification in [Verification::Full, Verification::Counts] {
        let mut world = World::new(GraphMemo::Direct, 50, true);
        world.spec.cutover.hold = true;
        world.spec.verification = verification;
        let mut followed = 0;
        for _ in 0..200 {
            let plan = world.step(usize::MAX);
            followed += plan.actions.iter().filter(|action| **action == Action::FollowDeletions).count();
            let pass_is_over = plan.actions.is_empty() && world.seen.phase == Phase::Synced;
            assert!(
                !pass_is_over || !world.seen.keys_behind,
                "a pass ended before its deletions were followed"
            );
        }
        assert!(followed > 1, "{verification:?}: {followed}");
    }
}

#[test]
fn suspending_a_cutover_gives_the_writers_back() {
    let mut world = World::new(GraphMemo::Direct, 0, true);
    while world.seen.phase != Phase::CuttingOver || world.seen.blocked_sources == 0 {
        world.step(usize::MAX);
    }
    world.spec.suspend = true;
    let plan = world.step(usize::MAX);
    assert_eq!(plan.next, Next::Settled);
    assert_eq!((world.seen.phase, world.seen.blocked_sources), (Phase::Synced, 0));
}

#[test]
fn a_cutover_that_takes_too_long_is_given_up() {
    let mut world = World::new(GraphMemo::Direct, 0, true);
    while world.seen.phase != Phase::CuttingOver {
        world.step(usize::MAX);
    }
    world.seen.unavailable = Some("no primary".to_owned());
    world.now = world.now.checked_add(SignedDuration::from_hours(1)).unwrap();
    let plan = world.step(usize::MAX);
    let reason = "not done within spec.cutover.timeout (300 s): no primary";
    assert!(plan.actions.contains(&Action::AbandonCutover(reason.to_owned())), "{plan:?}");
    assert_eq!((world.seen.phase, world.seen.blocked_sources), (Phase::Synced, 0));
}

#[test]
fn a_clock_that_is_set_back_keeps_no_writer_waiting_and_no_pass_away() {
    let mut world = World::new(GraphMemo::Direct, 0, true);
    world.spec.cutover.hold = true;
    while !world.step(usize::MAX).actions.is_empty() || world.seen.phase != Phase::Synced {}
    let back = |world: &mut World| world.now = world.now.checked_sub(SignedDuration::from_hours(24)).unwrap();
    back(&mut world);
    assert_eq!(world.seen.lag(world.now), Duration::MAX, "what was read a day from now says nothing");
    assert!(world.step(usize::MAX).actions.contains(&Action::PlanPass(UnitKind::Copy)));

    world.spec.cutover.hold = false;
    while world.seen.blocked_sources == 0 {
        world.step(usize::MAX);
    }
    back(&mut world);
    world.step(usize::MAX);
    assert_eq!((world.seen.phase, world.seen.blocked_sources), (Phase::Synced, 0));
    world.seen.cutover.retry_at = world.now.checked_add(SignedDuration::from_mins(5)).ok();
    let step = world.step(usize::MAX);
    assert!(step.actions.contains(&Action::PlanPass(UnitKind::Copy)), "a pass is due first: {step:?}");
    world.walk(&[]);
    back(&mut world);
    assert_eq!(world.walk(&[]), Phase::Completed);
}

#[test]
fn units_that_all_fail_are_reported_as_waiting() {
    let mut world = World::new(GraphMemo::Direct, 0, true);
    world.seen.phase = Phase::Copying;
    world.seen.copy = Walk { open: 2, failing: 2, last_error: Some("the server said no".to_owned()) };
    let waiting = plan(&world.spec, &world.seen, world.now).waiting.unwrap();
    assert_eq!(waiting.reason, "UnitsFailing");
    assert!(waiting.message.contains("the server said no"));
}
