//! Properties of the plan over anything that can be seen, and over walks of a small world in which time, writers,
//! workers and servers do as they like.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;

use self::world::{World, any_way, later, rests, settles, start, verdict, wandered};
use super::memo::{CutoverMemo, GraphMemo};
use super::observe::{DeletionSeen, DestinationSeen, Observation, Walk};
use super::phase::Phase;
use super::plan::{Action, Next, Plan, help, plan};
use super::valid::{SourceWrites, ValidMerge, Verification, test_merge};
use crate::elastic::IndexName;

mod world;

/// Every reason of waiting.
const REASONS: [&str; 6] = [
    "UnitsFailing",
    "DestinationNotGreen",
    "CatchingUp",
    "CutoverHeld",
    "CutoverRetrying",
    "IndexUnavailable",
];
/// Steps within which a merge that nothing disturbs is at its end, or waits for what it names.
const STEPS: usize = 60;

fn alias() -> IndexName {
    IndexName::parse("chunks").unwrap()
}

fn any_spec() -> impl Strategy<Value = ValidMerge> {
    let token = select(vec!["", "again"]);
    let retention = proptest::option::of((0..4_000_u64).prop_map(Duration::from_secs));
    (any::<[bool; 5]>(), token, retention).prop_map(
        |([suspend, hold, blocks, full, aliases], token, retention)| {
            let mut spec = test_merge();
            spec.suspend = suspend;
            spec.cutover.hold = hold;
            spec.cutover.source_writes = if blocks { SourceWrites::Block } else { SourceWrites::Allow };
            spec.verification = if full { Verification::Full } else { Verification::Counts };
            spec.retry_token = token.to_owned();
            spec.cutover.delete_sources_after = retention;
            spec.cutover.aliases = if aliases { vec![alias()] } else { Vec::new() };
            spec
        },
    )
}

fn any_walk() -> impl Strategy<Value = Walk> {
    (0..3_u64, 0..3_u64).prop_map(|(open, failing)| Walk {
        open,
        failing: failing.min(open),
        last_error: (failing > 0).then(|| "no".to_owned()),
    })
}

fn any_moment() -> impl Strategy<Value = Option<Timestamp>> {
    proptest::option::of((-4_000..4_000_i64).prop_map(later))
}

fn any_graph() -> impl Strategy<Value = GraphMemo> {
    select(vec![
        GraphMemo::Direct,
        GraphMemo::Loading,
        GraphMemo::Switched { marks: BTreeMap::new(), rounds: 1, flat: 1 },
        GraphMemo::Built,
    ])
}

fn any_cutover() -> impl Strategy<Value = CutoverMemo> {
    (any_moment(), any_moment(), any::<[bool; 4]>()).prop_map(|(started_at, retry_at, flags)| CutoverMemo {
        started_at,
        retry_at,
        blocked: flags[0],
        last_pass_planned: flags[1],
        keys_reconciled: flags[2],
        handed_over: flags[3],
        ..CutoverMemo::default()
    })
}

fn any_observation() -> impl Strategy<Value = Observation> {
    let phase = select(Phase::STORED.into_iter().chain([Phase::Suspended]).collect::<Vec<_>>());
    let token = select(vec!["", "again"]);
    let judged =
        proptest::option::of((any::<bool>(), select(vec![test_merge().verdict_basis(), "old".into()])));
    let facts = (any::<[bool; 7]>(), 0..2_u64, 0..2_u64, any_moment(), any_moment(), token, judged);
    ((phase, any_walk(), any_walk()), any_graph(), any_cutover(), facts).prop_map(
        |(
            (phase, copy, verify),
            graph,
            cutover,
            (flags, merges_running, blocked_sources, pass, looked_at, token, judged),
        )| {
            Observation {
                phase,
                copy,
                verify,
                verify_behind: flags[0],
                keys_behind: flags[1],
                graph,
                destination: DestinationSeen {
                    settled: flags[2],
                    was_set_back: flags[5],
                    serving: flags[3],
                    merges_running,
                },
                cutover,
                verdict: judged.map(|(positive, basis)| verdict(positive, basis)),
                unavailable: flags[4].then(|| "no primary".to_owned()),
                workers_stopped: flags[6],
                blocked_sources,
                pass_taken_at: pass,
                copied_until: None,
                retry_token: token.to_owned(),
                completed_at: pass,
                newcomers_looked_at: looked_at,
                deletion: DeletionSeen {
                    remaining: blocked_sources,
                    next: (blocked_sources > 0).then_some(1),
                    ..DeletionSeen::default()
                },
            }
        },
    )
}

/// The phases that may follow one another.
fn may_follow(from: Phase, to: Phase) -> bool {
    use Phase::{
        Completed, Copying, CuttingOver, Failed, Indexing, Pending, Preparing, Suspended, Synced, Verifying,
    };
    matches!(
        (from, to),
        (Pending | Suspended, Preparing)
            | (Preparing, Copying)
            | (Copying, Indexing)
            | (Indexing, Verifying)
            | (Verifying | Failed, Synced)
            | (Synced, CuttingOver | Indexing)
            | (CuttingOver, Synced | Failed | Completed)
    )
}

/// A verdict rests on this.
fn everything_is_settled(spec: &ValidMerge, seen: &Observation) -> bool {
    let is_compared = spec.verification == Verification::Counts || !seen.verify_behind;
    let is_blocked = spec.cutover.source_writes == SourceWrites::Allow || seen.cutover.blocked;
    let nothing_is_open = seen.copy.open == 0 && seen.verify.open == 0;
    let attempt = &seen.cutover;
    is_compared && is_blocked && nothing_is_open && !seen.keys_behind && attempt.last_pass_planned
}

fn is_sound(spec: &ValidMerge, seen: &Observation, made: &Plan) {
    let actions = &made.actions;
    let has = |wanted: fn(&Action) -> bool| actions.iter().any(wanted);
    let entered: Vec<Phase> = actions
        .iter()
        .filter_map(|action| if let Action::Enter(phase) = action { Some(*phase) } else { None })
        .collect();
    assert!(entered.len() <= 1 && (entered.is_empty() || matches!(actions.last(), Some(Action::Enter(_)))));
    assert!(entered.iter().all(|phase| may_follow(seen.phase, *phase)), "{:?} to {entered:?}", seen.phase);
    let moves = actions.iter().any(Action::changes_what_is_seen);
    assert!(made.next != Next::Now || moves, "it would spin: {made:?}");
    assert!(made.waiting.as_ref().is_none_or(|waiting| REASONS.contains(&waiting.reason)));

    if has(|action| matches!(action, Action::Judge)) {
        assert!(seen.phase == Phase::CuttingOver && seen.verdict.is_none());
        assert!(everything_is_settled(spec, seen) && seen.cutover.keys_reconciled);
    }
    if has(|action| matches!(action, Action::ReconcileKeys)) {
        assert!(everything_is_settled(spec, seen));
    }
    if entered.contains(&Phase::CuttingOver) {
        assert!(seen.unavailable.is_none(), "writers would be refused for nothing");
    }
    let is_handed_over = seen.phase == Phase::CuttingOver && seen.cutover.handed_over;
    if is_handed_over {
        assert_eq!(*actions, [Action::Finish, Action::Enter(Phase::Completed)], "there is no way back");
        return;
    }
    if has(|action| matches!(action, Action::Finish)) || entered.contains(&Phase::Completed) {
        assert!(seen.verdict.as_ref().is_some_and(|verdict| verdict.positive));
    }
    if has(|action| matches!(action, Action::BlockSources)) {
        assert!(seen.phase == Phase::CuttingOver && spec.cutover.source_writes == SourceWrites::Block);
        assert!(seen.cutover.started_at.is_some(), "a block without an attempt has no time-out");
    }
    if made.waiting.as_ref().is_some_and(|waiting| waiting.reason == "CutoverRetrying") {
        let is_asked_for = seen.verdict.as_ref().is_some_and(|verdict| !verdict.positive);
        assert!(!is_asked_for, "somebody asked for another verdict, and waits: {made:?}");
    }
    let is_given_up = seen.cutover.started_at.is_none();
    if seen.phase == Phase::CuttingOver
        && !is_given_up
        && entered.iter().any(|phase| *phase != Phase::Completed)
    {
        assert!(has(|action| matches!(action, Action::AbandonCutover(_))), "blocks would stay: {made:?}");
    }
    if has(|action| matches!(action, Action::FollowDeletions)) {
        assert!(seen.copy.open == 0 && seen.verify.open == 0, "deletions are followed between passes");
    }
    if has(|action| matches!(action, Action::RunWorkers(_) | Action::FollowDeletions)) {
        assert!(!seen.workers_stopped, "what writes has nothing to write through");
    }
    let deletions = actions.iter().filter(|action| matches!(action, Action::DeleteSource(_))).count();
    if deletions > 0 {
        assert!(deletions == 1 && seen.phase == Phase::Completed && !spec.suspend);
        assert!(seen.verdict.as_ref().is_some_and(|verdict| verdict.positive));
        assert!(spec.cutover.delete_sources_after.is_some());
        assert_eq!(spec.cutover.source_writes, SourceWrites::Block);
    }
    if has(|action| matches!(action, Action::LookForNewcomers)) {
        assert!(seen.phase == Phase::Completed && !spec.suspend);
    }
    if made.next == Next::Settled && seen.blocked_sources > 0 {
        let is_kept = seen.phase == Phase::Completed && spec.cutover.source_writes == SourceWrites::Block;
        let are_served = has(|action| matches!(action, Action::UnblockSources | Action::AbandonCutover(_)));
        assert!(is_kept || are_served, "writers are refused at rest: {made:?}");
    }
    let is_over = matches!(seen.phase, Phase::Completed | Phase::Failed);
    if spec.suspend && !is_over {
        assert!(!has(|action| matches!(action, Action::RunWorkers(_) | Action::BlockSources)));
        assert_eq!(made.next, Next::Settled);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_seen_has_a_plan_that_is_sound_and_always_the_same(
        spec in any_spec(), seen in any_observation(), seconds in -4_000..4_000_i64
    ) {
        let made = plan(&spec, &seen, later(seconds));
        is_sound(&spec, &seen, &made);
        prop_assert_eq!(&made, &plan(&spec, &seen, later(seconds)));
        let helped = help(&spec, &seen);
        prop_assert!(!helped.actions.iter().any(Action::changes_what_is_seen), "{:?}", helped);
        prop_assert!(matches!(helped.next, Next::After(pause) if pause > Duration::ZERO));
    }

    #[test]
    fn from_wherever_it_is_it_comes_to_its_end_or_waits_for_what_it_names(
        spec in any_spec(), graph in any_graph(), positive: bool, way in any_way()
    ) {
        let (mut world, seconds) = wandered(&spec, graph, positive, &way);
        let Some(made) = settles(&mut world, &spec, seconds) else {
            return Err(TestCaseError::fail(format!("no end within {STEPS} steps: {world:?}")));
        };
        let is_named = made.waiting.is_some() || world.is_over() || spec.suspend;
        prop_assert!(is_named, "{:?} {:?}", made, world);
        // For an index that cannot be read writers wait until the attempt takes too long, and after the end for ever.
        let is_index_awaited = made.waiting.as_ref().is_some_and(|why| why.reason == "IndexUnavailable");
        let may_be_refused = match world.seen.phase {
            Phase::CuttingOver => is_index_awaited,
            phase => phase == Phase::Completed,
        };
        prop_assert!(may_be_refused || world.seen.blocked_sources == 0, "{:?} {:?}", made, world);
        // And from any wait to the end, as soon as nothing is in the way.
        let mut free = spec.clone();
        free.suspend = false;
        free.cutover.hold = false;
        free.cutover.timeout = Duration::from_hours(6);
        world.seen.destination.serving = true;
        (world.is_index_unavailable, world.seen.unavailable) = (false, None);
        if !world.is_over() {
            world.seen.cutover.retry_at = None;
            prop_assert!(settles(&mut world, &free, seconds + 100).is_some());
        }
        let expected = if world.positive { Phase::Completed } else { Phase::Failed };
        prop_assert_eq!(world.seen.phase, expected, "{:?}", world);
        let blocks = spec.cutover.source_writes == SourceWrites::Block;
        prop_assert_eq!(world.seen.blocked_sources > 0, blocks && expected == Phase::Completed);
    }

    #[test]
    fn a_list_that_breaks_off_anywhere_and_is_made_again_leads_to_the_same(
        spec in any_spec(), graph in any_graph(), positive: bool, way in any_way(), at in 0..5_usize
    ) {
        let (world, seconds) = wandered(&spec, graph, positive, &way);
        let (mut whole, mut broken) = (world.clone(), world);
        // The clock stands still, so that both see the same.
        let now = later(seconds);
        let made = broken.step(&spec, now, at);
        prop_assert!(rests(&mut whole, &spec, now) && rests(&mut broken, &spec, now), "{made:?}");
        prop_assert_eq!(broken, whole, "{:?}", made);
    }

    #[test]
    fn an_action_that_is_done_twice_is_done_once(
        spec in any_spec(), graph in any_graph(), positive: bool, way in any_way()
    ) {
        let (world, seconds) = wandered(&spec, graph, positive, &way);
        let now = later(seconds);
        let (mut once, mut twice) = (world.clone(), world);
        for action in plan(&spec, &once.seen.clone(), now).actions {
            once.act(&spec, &action, now);
            twice.act(&spec, &action, now);
            twice.act(&spec, &action, now);
        }
        prop_assert_eq!(once, twice);
    }
}

#[test]
fn a_process_that_dies_after_it_gave_a_cutover_up_leaves_no_source_blocked_again() {
    for (judged, next) in [(None, Phase::Synced), (Some(false), Phase::Failed), (Some(true), Phase::Synced)] {
        let spec = test_merge();
        let mut world = World::new(GraphMemo::Direct, true);
        world.seen.phase = Phase::CuttingOver;
        world.seen.verdict = judged.map(|positive| verdict(positive, spec.verdict_basis()));
        world.act(&spec, &Action::AbandonCutover("too long".to_owned()), start());
        let made = world.step(&spec, start(), usize::MAX);
        assert_eq!(made.actions, [Action::Enter(next)]);
        assert_eq!(world.seen.blocked_sources, 0);
    }
}

#[test]
fn a_process_that_dies_after_it_handed_the_destination_over_leaves_nothing_but_the_end_to_do() {
    let mut spec = test_merge();
    spec.cutover.aliases = vec![alias()];
    let mut world = World::new(GraphMemo::Direct, true);
    let finishes = |world: &World| plan(&spec, &world.seen, start()).actions.first() == Some(&Action::Finish);
    for _ in 0..STEPS {
        if finishes(&world) {
            break;
        }
        world.step(&spec, start(), usize::MAX);
        world.work();
    }
    world.step(&spec, start(), 1);
    assert!(world.seen.phase == Phase::CuttingOver && world.seen.cutover.handed_over, "{world:?}");
    // Neither what is asked for meanwhile nor the time leads back, nor a process that comes late.
    spec.suspend = true;
    "again".clone_into(&mut spec.retry_token);
    world.act(&spec, &Action::BeginCutover, later(3_000));
    world.step(&spec, later(4_000), usize::MAX);
    assert_eq!((world.seen.phase, world.seen.blocked_sources), (Phase::Completed, 1));
    assert_eq!(world.step(&spec, later(4_001), usize::MAX).next, Next::Settled);
}
