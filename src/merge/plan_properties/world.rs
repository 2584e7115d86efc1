//! A small world: what the actions of a plan would change, and what else may happen.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{STEPS, is_sound};
use crate::merge::memo::{CutoverMemo, GraphMemo, VerdictMemo};
use crate::merge::observe::{Observation, test_observation};
use crate::merge::phase::Phase;
use crate::merge::plan::{Action, Next, Plan, plan};
use crate::merge::valid::{SourceWrites, ValidMerge, Verification};
use crate::state::UnitKind;

pub fn start() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

pub fn later(seconds: i64) -> Timestamp {
    start().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

pub fn verdict(positive: bool, basis: String) -> VerdictMemo {
    VerdictMemo {
        positive,
        collections: 1,
        unequal: u64::from(!positive),
        quarantined: 0,
        unknown_documents: 0,
        counted_only: false,
        message: "as it is".to_owned(),
        basis,
    }
}

/// What actions, workers, writers and servers change.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    pub seen: Observation,
    /// Operations of the sources, and up to where they are planned, copied and compared.
    pub end: u32,
    pub planned: u32,
    pub copied: u32,
    pub compared: u32,
    pub positive: bool,
    /// As a resolve would find it.
    pub is_index_unavailable: bool,
    pub aliases: Aliases,
}

/// What comes of the request that sets the aliases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aliases {
    Set,
    Refused,
    /// They may be set, and may not.
    Unanswered,
}

impl World {
    pub fn new(graph: GraphMemo, positive: bool) -> World {
        let seen = test_observation(graph);
        World {
            seen,
            end: 10,
            planned: 0,
            copied: 0,
            compared: 0,
            positive,
            is_index_unavailable: false,
            aliases: Aliases::Set,
        }
    }

    /// Each action leaves its trace, and done twice it leaves the same. False if it fails, which ends its list.
    pub fn act(&mut self, spec: &ValidMerge, action: &Action, now: Timestamp) -> bool {
        let unavailable = self.is_index_unavailable.then(|| "no primary".to_owned());
        let seen = &mut self.seen;
        match action {
            Action::PlanPass(UnitKind::Copy) | Action::PlanLastPass => {
                self.planned = self.end;
                seen.copy.open = u64::from(self.copied < self.planned);
                seen.pass_taken_at = Some(now);
                seen.cutover.last_pass_planned |= *action == Action::PlanLastPass;
            }
            Action::PlanPass(UnitKind::Verify) => {
                seen.verify.open = u64::from(self.compared < self.copied);
                seen.verify_behind = false;
            }
            Action::FollowDeletions => seen.keys_behind = false,
            Action::SwitchIndexOptions => {
                seen.graph = GraphMemo::Switched { marks: BTreeMap::new(), rounds: 0, flat: 0 };
            }
            Action::RewriteSegments => seen.graph = GraphMemo::Built,
            Action::SettleDestination => seen.destination.settled = true,
            // Only a process that comes late finds it handed over.
            Action::BeginCutover if seen.cutover.handed_over => {}
            Action::BeginCutover => {
                seen.cutover = CutoverMemo { started_at: Some(now), ..CutoverMemo::default() };
                seen.verdict = None;
            }
            Action::BlockSources => {
                seen.cutover.blocked = true;
                seen.blocked_sources = 1;
            }
            Action::ResolveSources => seen.unavailable = unavailable,
            Action::LetWorkersWrite => seen.workers_stopped = false,
            Action::ReconcileKeys => {
                seen.workers_stopped = unavailable.is_none();
                seen.cutover.keys_reconciled = unavailable.is_none();
                seen.unavailable = unavailable;
            }
            Action::Judge => {
                assert_eq!(seen.unavailable, None, "judged without an index that is only away");
                assert_eq!(
                    (self.copied, seen.copy.open),
                    (self.planned, 0),
                    "judged without everything copied"
                );
                // Where nobody refuses writes, what comes after the last pass is not covered.
                let is_all = self.planned == self.end || spec.cutover.source_writes == SourceWrites::Allow;
                assert!(is_all, "judged without the last writes");
                let all_compared = self.compared == self.copied;
                assert!(
                    all_compared || spec.verification == Verification::Counts,
                    "judged without comparison"
                );
                seen.verdict = Some(verdict(self.positive, spec.verdict_basis()));
            }
            Action::AbandonCutover(reason) => self.give_up(reason, now),
            Action::Finish if !spec.cutover.aliases.is_empty() => {
                let was_handed_over = std::mem::replace(&mut seen.cutover.handed_over, true);
                match self.aliases {
                    Aliases::Set => {}
                    Aliases::Refused if !was_handed_over => {
                        // Nothing leads to the destination yet.
                        self.give_up("an alias is refused", now);
                        return false;
                    }
                    Aliases::Refused | Aliases::Unanswered => return false,
                }
            }
            Action::UnblockSources => seen.blocked_sources = 0,
            Action::Retry => {
                self.compared = 0;
                seen.verify_behind = self.copied > 0;
                seen.cutover.retry_at = None;
                seen.cutover.keys_reconciled = false;
                if seen.phase == Phase::CuttingOver {
                    seen.verdict = None;
                }
                seen.retry_token.clone_from(&spec.retry_token);
            }
            Action::LookForNewcomers => seen.newcomers_looked_at = Some(now),
            Action::DeleteSource(_) | Action::ReconsiderKept => panic!("nobody asked for {action:?}"),
            Action::Enter(phase) => seen.phase = *phase,
            // The rest leaves no trace that this walk looks at.
            _ => {}
        }
        true
    }

    /// The attempt to cut over is over, and so is what was found out in it.
    fn give_up(&mut self, reason: &str, now: Timestamp) {
        self.seen.blocked_sources = 0;
        self.seen.cutover = CutoverMemo {
            retry_at: now.checked_add(SignedDuration::from_secs(30)).ok(),
            last_failure: Some(reason.to_owned()),
            ..CutoverMemo::default()
        };
        self.seen.verdict.take_if(|verdict| verdict.positive);
    }

    /// Workers do what is planned, whoever let them go.
    pub fn work(&mut self) {
        if self.seen.copy.open > 0 {
            self.copied = self.planned;
            self.seen.copy.open = 0;
            self.seen.verify_behind = true;
            self.seen.keys_behind = true;
        } else if self.seen.verify.open > 0 {
            self.compared = self.copied;
            self.seen.verify.open = 0;
        }
    }

    /// The next list, of which at most so many actions are done.
    pub fn step(&mut self, spec: &ValidMerge, now: Timestamp, most: usize) -> Plan {
        let made = plan(spec, &self.seen, now);
        is_sound(spec, &self.seen, &made);
        let was_handed_over = self.seen.cutover.handed_over;
        for action in made.actions.iter().take(most) {
            if !self.act(spec, action, now) {
                break;
            }
        }
        assert!(self.seen.cutover.handed_over || !was_handed_over, "applications may write there: {made:?}");
        made
    }

    pub fn is_over(&self) -> bool {
        matches!(self.seen.phase, Phase::Completed | Phase::Failed)
    }
}

/// What may happen between two steps.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Nothing,
    Work,
    Write,
    Wait(i64),
    Unassigned,
    Assigned,
    IndexUnavailable,
    IndexAvailable,
    Aliases(Aliases),
    /// A process wakes up that was paused when it was about to begin an attempt. In `Failed` it clears the verdict.
    LateBegin,
}

pub fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Nothing),
        6 => Just(Event::Work),
        3 => Just(Event::Write),
        2 => (1..200_i64).prop_map(Event::Wait),
        1 => Just(Event::Unassigned),
        1 => Just(Event::Assigned),
        1 => Just(Event::IndexUnavailable),
        1 => Just(Event::IndexAvailable),
        2 => select(vec![Aliases::Set, Aliases::Refused, Aliases::Unanswered]).prop_map(Event::Aliases),
        1 => Just(Event::LateBegin),
    ]
}

/// A world after some steps, each cut off somewhere, with something happening after each. In the end aliases are set: that
/// they are not is an error, and no wait of the plan.
pub fn wandered(spec: &ValidMerge, graph: GraphMemo, positive: bool, way: &[(usize, Event)]) -> (World, i64) {
    let mut world = World::new(graph, positive);
    let mut seconds = 0;
    for (most, event) in way {
        world.step(spec, later(seconds), *most);
        match event {
            Event::Nothing => {}
            Event::Work => world.work(),
            // A write that is refused does not happen.
            Event::Write => world.end += u32::from(world.seen.blocked_sources == 0),
            Event::Wait(more) => seconds += more,
            Event::Unassigned => world.seen.destination.serving = false,
            Event::Assigned => world.seen.destination.serving = true,
            Event::IndexUnavailable => world.is_index_unavailable = true,
            Event::IndexAvailable => world.is_index_unavailable = false,
            Event::Aliases(answer) => world.aliases = *answer,
            Event::LateBegin if world.seen.phase < Phase::Synced => {}
            Event::LateBegin => {
                world.act(spec, &Action::BeginCutover, later(seconds));
            }
        }
        seconds += 1;
    }
    world.aliases = Aliases::Set;
    (world, seconds)
}

pub fn any_way() -> impl Strategy<Value = Vec<(usize, Event)>> {
    vec((prop_oneof![4 => Just(usize::MAX), 1 => 0..4_usize], any_event()), 0..60)
}

/// At a moment that does not end: whether it comes to rest.
pub fn rests(world: &mut World, spec: &ValidMerge, now: Timestamp) -> bool {
    (0..STEPS).any(|_| {
        let before = world.clone();
        world.step(spec, now, usize::MAX);
        world.work();
        before == *world
    })
}

/// Undisturbed, with writers that rest where they are not refused: the steps until the end, or until it waits.
pub fn settles(world: &mut World, spec: &ValidMerge, seconds: i64) -> Option<Plan> {
    for step in 0..STEPS {
        let now = later(seconds + i64::try_from(step).unwrap());
        let made = world.step(spec, now, usize::MAX);
        let only_looks = made.actions.iter().all(|action| *action == Action::ReconcileKeys);
        let is_still = made.next == Next::Settled || (made.waiting.is_some() && only_looks);
        if is_still {
            return Some(made);
        }
        world.work();
    }
    None
}
