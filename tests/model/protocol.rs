//! The protocol as a state machine: one source, three chunks, two workers, one engine, one destination.
//!
//! What is the code's own: the rule of a checkpoint ([`judge`]), the soundness of a unit ([`is_sound`]), the borders
//! of units ([`cut`]) and the versions of copies, repairs and deletions ([`version`]). What is written down here a
//! second time is only what Elasticsearch does with a version, and in which order the engine and the workers act
//! (`src/merge/plan.rs`, `src/merge/act/keys.rs`, `src/merge/worker/verify.rs`).
//!
//! A worker that is paused is one whose next action does not come: every order of all actions is searched, so it may
//! wake up at any later moment, also after the end. A worker that dies leaves its prepared bulk behind, as a request
//! that is under way and arrives at any later moment. An answer that is not heard leaves the worker where it was.

use es_index_merge::merge::version::{self, Origin};
use es_index_merge::state::invariants::{Judgement, UnitFacts, cut, is_sound, judge};
use es_index_merge::state::{Advance, Counts, UnitKind};
use stateright::{Model, Property};

/// Chunks of the source at the start; each is one window of the first shard's log.
pub const KEYS: usize = 3;
/// Shards of the source. The second one is empty at first: only chunks that are inserted again come there.
pub const SHARDS: usize = 2;
/// Positions in one unit, so that the three windows are two units.
const SPLIT: i64 = 2;
/// As in `src/merge/worker/verify.rs`.
const REPAIRS: u8 = 2;
/// Only a write that came late makes the last comparison be made again, and only these can be late.
pub const MOST_REPEATED: u8 = 3;
/// More positions than a shard ever has here.
const WIDTH: usize = 8;

/// The rules of the protocol. A broken one must be noticed: see the tests.
#[allow(clippy::struct_excessive_bools)] // each rule holds or is broken, by itself
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A checkpoint carries the epoch of its lease.
    pub epochs_are_compared: bool,
    /// A write carries its version, and the destination takes only a greater one.
    pub versions_are_compared: bool,
    /// Each pass counts above the one before.
    pub passes_are_counted: bool,
    /// A window is checkpointed after its writes were acknowledged.
    pub acknowledged_first: bool,
    /// Extra keys are deleted above every write of the pass, not at the version that was found.
    pub deletions_are_above: bool,
    /// The alias that workers write through is taken away before the verdict.
    pub workers_are_stopped: bool,
    /// After that the destination is counted once more.
    pub counted_again: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        epochs_are_compared: true,
        versions_are_compared: true,
        passes_are_counted: true,
        acknowledged_first: true,
        deletions_are_above: true,
        workers_are_stopped: true,
        counted_again: true,
    };
}

/// What may go wrong, and how often; and what the application does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub updates: u8,
    pub deletions: u8,
    /// A deleted chunk is inserted again, on any shard.
    pub insertions: u8,
    /// A worker dies; what it sent may still arrive.
    pub crashes: u8,
    /// A lease runs out while its worker lives, and another takes the unit.
    pub takeovers: u8,
    /// An answer (of a bulk or of a checkpoint) is lost after the request was done.
    pub lost_answers: u8,
    /// The destination forgets a deletion, as after its restart.
    pub forgotten: u8,
}

impl Budget {
    pub const NONE: Self = Self {
        updates: 0,
        deletions: 0,
        insertions: 0,
        crashes: 0,
        takeovers: 0,
        lost_answers: 0,
        forgotten: 0,
    };
}

#[derive(Clone, Debug)]
pub struct Protocol {
    pub rules: Rules,
    pub budget: Budget,
}

/// One operation of the source; names the content of the chunk, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub shard: usize,
    pub position: i64,
}

impl Place {
    fn origin(self) -> Origin {
        Origin::new(number(self.shard), self.position)
    }
}

fn number(shard: usize) -> i32 {
    i32::try_from(shard).unwrap()
}

/// A chunk in the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    pub version: i64,
    /// `None`: never written, or deleted.
    pub content: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unit {
    pub kind: UnitKind,
    shard: usize,
    pass: i32,
    pub facts: UnitFacts,
    /// Which worker has the lease; not known to the protocol, which sees only `leased`.
    holder: Option<usize>,
}

/// The one live chunk of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hit {
    key: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    unit: usize,
    epoch: i64,
    cursor: i64,
}

/// A bulk of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Write {
    hit: Hit,
    version: i64,
    /// Also over the same version: a repair.
    or_equal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Worker {
    Idle,
    Leased(Lease),
    /// The window is read, and in copying the bulk is prepared.
    Read {
        lease: Lease,
        hit: Hit,
        attempt: u8,
    },
    /// Compared, different, and the repair is prepared.
    Repairing {
        lease: Lease,
        write: Write,
        attempt: u8,
    },
    /// Every chunk of the window is acknowledged, equal or in quarantine.
    Settled {
        lease: Lease,
        quarantined: bool,
    },
}

impl Worker {
    fn lease(self) -> Option<Lease> {
        match self {
            Self::Idle => None,
            Self::Leased(lease)
            | Self::Read { lease, .. }
            | Self::Repairing { lease, .. }
            | Self::Settled { lease, .. } => Some(lease),
        }
    }
}

/// How many documents the destination had when the verdict was made, and the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    positive: bool,
    documents: usize,
}

/// Where the engine is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Passes over a source that is written to.
    Following,
    /// The source has its write block.
    Blocked,
    /// The keys of both sides were compared: these are too much.
    Deleting {
        extra: Vec<(usize, i64)>,
        last: bool,
    },
    /// The verdict is made.
    Compared(Verdict),
    /// Workers can write no more.
    Stopped(Verdict),
    Judged(Verdict),
    Completed,
}

/// A bit for each position of each shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Places(u32);

impl Places {
    pub fn has(self, place: Place) -> bool {
        self.0 >> Self::bit(place) & 1 == 1
    }

    fn insert(&mut self, place: Place) -> bool {
        let is_new = !self.has(place);
        self.0 |= 1 << Self::bit(place);
        is_new
    }

    fn bit(place: Place) -> usize {
        place.shard * WIDTH + usize::try_from(place.position).unwrap()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub source: [Option<Place>; KEYS],
    /// The position of the next operation on each shard.
    ends: [i64; SHARDS],
    pub destination: [Slot; KEYS],
    pub units: Vec<Unit>,
    pub workers: [Worker; 2],
    /// The request of a worker that died.
    pub late: Option<Write>,
    pub stage: Stage,
    /// Of the last pass that was planned.
    pass: i32,
    copy_planned: [i64; SHARDS],
    verify_planned: [i64; SHARDS],
    keys_checked: [i64; SHARDS],
    left: Budget,
    /// Positions of accepted checkpoints.
    pub copied: Places,
    pub verified: Places,
    /// Positions whose chunk was put in quarantine.
    pub quarantined: Places,
    pub accepted_twice: bool,
    pub went_back: bool,
    pub moved_by_a_stranger: bool,
    /// How often the last comparison was made again.
    pub repeated: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Update(usize),
    Delete(usize),
    Insert {
        key: usize,
        shard: usize,
    },
    Plan(UnitKind),
    FollowDeletions,
    Block,
    CompareSides,
    DeleteExtra,
    StopWorkers,
    CountAgain,
    Finish,
    /// The destination forgets that this key was deleted.
    Forget(usize),
    TakeLease {
        worker: usize,
        unit: usize,
    },
    ReadWindow(usize),
    Send {
        worker: usize,
        heard: bool,
    },
    LookUp(usize),
    Checkpoint {
        worker: usize,
        heard: bool,
    },
    Die(usize),
    LateArrival,
}

impl State {
    /// The same state for each pair of states that differ in nothing that matters: which of the two workers is
    /// which, and the epoch of a closed unit that nobody refers to any more.
    fn normalize(&mut self) {
        for (number, unit) in self.units.iter_mut().enumerate().filter(|(_, unit)| !unit.facts.open) {
            if !self.workers.iter().any(|worker| worker.lease().is_some_and(|lease| lease.unit == number)) {
                unit.facts.epoch = 0;
            }
        }
        if self.workers[0] > self.workers[1] {
            self.workers.swap(0, 1);
            for unit in &mut self.units {
                unit.holder = unit.holder.map(|worker| 1 - worker);
            }
        }
    }

    fn may_write(&self, rules: Rules) -> bool {
        let is_stopped = matches!(self.stage, Stage::Stopped(_) | Stage::Judged(_) | Stage::Completed);
        !is_stopped || !rules.workers_are_stopped
    }

    /// What Elasticsearch does with a write.
    fn write(&mut self, rules: Rules, write: Write) {
        let slot = &mut self.destination[write.hit.key];
        let is_newer = write.version > slot.version || write.or_equal && write.version == slot.version;
        if is_newer || !rules.versions_are_compared {
            *slot = Slot { version: write.version, content: Some(write.hit.place) };
        }
    }

    fn next_place(&mut self, shard: usize) -> Place {
        self.ends[shard] += 1;
        Place { shard, position: self.ends[shard] - 1 }
    }

    fn live_at(&self, place: Place) -> Option<Hit> {
        let key = self.source.iter().position(|live| *live == Some(place))?;
        Some(Hit { key, place })
    }

    fn is_live(&self, key: usize) -> bool {
        self.source[key].is_some()
    }

    fn documents(&self) -> usize {
        self.destination.iter().filter(|slot| slot.content.is_some()).count()
    }

    /// The next act of the engine, as `plan` decides it; none while workers are at it.
    fn engine(&self, actions: &mut Vec<Action>) {
        if self.units.iter().any(|unit| unit.facts.open) {
            return;
        }
        let has_grown = self.copy_planned != self.ends;
        match &self.stage {
            Stage::Following | Stage::Blocked if self.verify_planned != self.copy_planned => {
                actions.push(Action::Plan(UnitKind::Verify));
            }
            Stage::Following | Stage::Blocked if self.keys_checked != self.copy_planned => {
                actions.push(Action::FollowDeletions);
            }
            Stage::Following => {
                if has_grown {
                    actions.push(Action::Plan(UnitKind::Copy));
                }
                if self.pass > 0 {
                    actions.push(Action::Block);
                }
            }
            Stage::Blocked if has_grown => actions.push(Action::Plan(UnitKind::Copy)),
            Stage::Blocked => actions.push(Action::CompareSides),
            Stage::Deleting { .. } => actions.push(Action::DeleteExtra),
            Stage::Compared(_) => actions.push(Action::StopWorkers),
            Stage::Stopped(_) => actions.push(Action::CountAgain),
            Stage::Judged(verdict) if verdict.positive => actions.push(Action::Finish),
            Stage::Judged(_) | Stage::Completed => {}
        }
    }

    fn plan(&mut self, rules: Rules, kind: UnitKind) {
        let (planned, ends) = match kind {
            UnitKind::Copy => {
                self.pass += i32::from(rules.passes_are_counted || self.pass == 0);
                (&mut self.copy_planned, self.ends)
            }
            UnitKind::Verify => (&mut self.verify_planned, self.copy_planned),
        };
        for (shard, (planned, end)) in planned.iter_mut().zip(ends).enumerate() {
            let from = std::mem::replace(planned, end);
            self.units.extend(cut(from, end, end - from, SPLIT).into_iter().map(|range| Unit {
                kind,
                shard,
                pass: self.pass,
                facts: UnitFacts {
                    from: range.from,
                    to: range.to,
                    cursor: range.from,
                    epoch: 0,
                    open: true,
                    leased: false,
                },
                holder: None,
            }));
        }
    }

    /// Whether every position since the last look is held by a live chunk: then nothing was deleted.
    fn is_dense(&self) -> bool {
        (0..SHARDS).all(|shard| {
            (self.keys_checked[shard]..self.copy_planned[shard])
                .all(|position| self.live_at(Place { shard, position }).is_some())
        })
    }

    /// Compares the keys; deletes what is too much in a step of its own.
    fn compare_keys(&mut self, last: bool) {
        let found = |key: usize| self.destination[key].content.is_some();
        // A document whose operation lives is not looked at: it must be that of its key.
        let lives = |key: usize| {
            let there = Origin::of(self.destination[key].version);
            self.source.iter().flatten().any(|place| Some(place.origin()) == there)
        };
        let extra = (0..KEYS).filter(|&key| found(key) && !lives(key) && !self.is_live(key));
        let extra = extra.map(|key| (key, self.destination[key].version)).collect();
        // A chunk that was written from one that lives no more, while another with its key does: compared again.
        let is_stale = (0..KEYS).any(|key| {
            let there = Origin::of(self.destination[key].version);
            let is_copied = |place: &Place| place.position < self.copy_planned[place.shard];
            found(key)
                && self.source[key].filter(is_copied).is_some_and(|place| Some(place.origin()) != there)
        });
        if is_stale && !last {
            self.verify_planned = [0; SHARDS];
            self.verified = Places::default();
        }
        self.stage = Stage::Deleting { extra, last };
    }

    fn delete_extra(&mut self, rules: Rules) {
        let Stage::Deleting { extra, last } = self.stage.clone() else { return };
        for &(key, found) in &extra {
            let version = if rules.deletions_are_above { version::of_deletion(self.pass) } else { found };
            let slot = &mut self.destination[key];
            if version > slot.version {
                *slot = Slot { version, content: None };
            }
        }
        if last {
            // As the code counts: what was found and kept.
            let kept = (0..KEYS).filter(|&key| self.is_live(key) && self.destination[key].content.is_some());
            self.compared(kept.count());
        } else {
            self.keys_checked = self.copy_planned;
            self.stage = Stage::Following;
        }
    }

    fn compared(&mut self, documents: usize) {
        let live = self.source.iter().flatten();
        let withheld = live.clone().filter(|place| self.quarantined.has(**place)).count();
        let positive = withheld == 0 && live.count() == documents;
        self.stage = Stage::Compared(Verdict { positive, documents });
    }

    fn checkpoint(&mut self, rules: Rules, worker: usize, lease: Lease, quarantined: bool, heard: bool) {
        let unit = &mut self.units[lease.unit];
        let epoch = if rules.epochs_are_compared { lease.epoch } else { unit.facts.epoch };
        let (from, to) = (lease.cursor, lease.cursor + 1);
        let advance = Advance { unit: 1, epoch, from, to, counts: Counts::default() };
        let judgement = judge(&unit.facts, &advance);
        if let Judgement::Accepted { done } = judgement {
            self.went_back |= to <= unit.facts.cursor;
            self.moved_by_a_stranger |= lease.epoch != unit.facts.epoch;
            unit.facts.cursor = to;
            unit.facts.open = !done;
            unit.facts.leased = !done;
            unit.holder = if done { None } else { unit.holder };
            let place = Place { shard: unit.shard, position: from };
            let accepted = match unit.kind {
                UnitKind::Copy => &mut self.copied,
                UnitKind::Verify => &mut self.verified,
            };
            self.accepted_twice |= !accepted.insert(place);
            if quarantined {
                self.quarantined.insert(place);
            }
        }
        let is_last = to == unit.facts.to;
        if heard {
            self.workers[worker] = match judgement {
                Judgement::Accepted { .. } | Judgement::Repeated if !is_last => {
                    Worker::Leased(Lease { cursor: to, ..lease })
                }
                Judgement::Accepted { .. } | Judgement::Repeated | Judgement::Refused => Worker::Idle,
            };
        }
    }

    /// Compares the chunk with the destination, as `src/merge/worker/verify.rs` does.
    fn look_up(&mut self, worker: usize, lease: Lease, hit: Hit, attempt: u8) {
        let found = self.destination[hit.key];
        let origin = Origin::of(found.version);
        let is_rival = |live: &Option<Place>| {
            live.is_some_and(|place| place != hit.place && Some(place.origin()) == origin)
        };
        let own =
            version::of_repair(self.units[lease.unit].pass, number(hit.place.shard), hit.place.position);
        let above = |version: i64| if version > own { version + 1 } else { own };
        let version = if found.content.is_some() { above(found.version) } else { own };
        self.workers[worker] = if found.content == Some(hit.place) {
            Worker::Settled { lease, quarantined: false }
        } else if attempt == REPAIRS || found.content.is_some() && is_rival(&self.source[hit.key]) {
            Worker::Settled { lease, quarantined: true }
        } else {
            Worker::Repairing { lease, write: Write { hit, version, or_equal: true }, attempt }
        };
    }

    /// The copy of a chunk that was read.
    fn copy(&self, lease: Lease, hit: Hit) -> Write {
        let version =
            version::of_copy(self.units[lease.unit].pass, number(hit.place.shard), hit.place.position);
        Write { hit, version, or_equal: false }
    }
}

impl Protocol {
    fn of_application(state: &State, actions: &mut Vec<Action>) {
        let left = &state.left;
        if !matches!(state.stage, Stage::Following | Stage::Deleting { last: false, .. }) {
            return;
        }
        for key in 0..KEYS {
            if state.is_live(key) {
                actions.extend((left.updates > 0).then_some(Action::Update(key)));
                actions.extend((left.deletions > 0).then_some(Action::Delete(key)));
            } else if left.insertions > 0 {
                actions.extend((0..SHARDS).map(|shard| Action::Insert { key, shard }));
            }
        }
    }

    fn of_worker(&self, state: &State, worker: usize, actions: &mut Vec<Action>) {
        let answers: &[bool] = if state.left.lost_answers > 0 { &[true, false] } else { &[true] };
        let send = answers.iter().map(|&heard| Action::Send { worker, heard });
        let checkpoint = answers.iter().map(|&heard| Action::Checkpoint { worker, heard });
        match state.workers[worker] {
            Worker::Idle => {
                for (number, unit) in state.units.iter().enumerate().filter(|(_, unit)| unit.facts.open) {
                    let is_free = match unit.holder {
                        None => true,
                        Some(other) => other != worker && state.left.takeovers > 0,
                    };
                    actions.extend(is_free.then_some(Action::TakeLease { worker, unit: number }));
                }
                return;
            }
            Worker::Leased(_) => actions.push(Action::ReadWindow(worker)),
            Worker::Read { lease, .. } => match state.units[lease.unit].kind {
                UnitKind::Copy => {
                    actions.extend(send);
                    if !self.rules.acknowledged_first {
                        actions.extend(checkpoint);
                    }
                }
                UnitKind::Verify => actions.push(Action::LookUp(worker)),
            },
            Worker::Repairing { .. } => actions.extend(send),
            Worker::Settled { .. } => actions.extend(checkpoint),
        }
        if state.left.crashes > 0 {
            actions.push(Action::Die(worker));
        }
    }

    fn of_dying(state: &mut State, worker: usize) {
        state.left.crashes -= 1;
        let prepared = match state.workers[worker] {
            Worker::Read { lease, hit, .. } if state.units[lease.unit].kind == UnitKind::Copy => {
                Some(state.copy(lease, hit))
            }
            Worker::Repairing { write, .. } => Some(write),
            _ => None,
        };
        state.late = state.late.or(prepared);
        state.workers[worker] = Worker::Idle;
        for unit in state.units.iter_mut().filter(|unit| unit.holder == Some(worker)) {
            // Its lease runs out by itself; until then it counts as leased.
            unit.holder = None;
        }
    }

    fn of_sending(&self, state: &mut State, worker: usize, heard: bool) {
        let (write, next) = match state.workers[worker] {
            Worker::Read { lease, hit, .. } => {
                (state.copy(lease, hit), Worker::Settled { lease, quarantined: false })
            }
            Worker::Repairing { lease, write, attempt } => {
                (write, Worker::Read { lease, hit: write.hit, attempt: attempt + 1 })
            }
            Worker::Idle | Worker::Leased(_) | Worker::Settled { .. } => return,
        };
        let may_write = state.may_write(self.rules);
        if may_write {
            state.write(self.rules, write);
        }
        state.left.lost_answers -= u8::from(!heard);
        if heard {
            // Without the alias the worker is refused, and ends.
            state.workers[worker] = if may_write { next } else { Worker::Idle };
        }
    }

    fn of_engine(&self, state: &mut State, action: Action) {
        match (action, state.stage.clone()) {
            (Action::FollowDeletions, _) if state.is_dense() => state.keys_checked = state.copy_planned,
            // In a blocked source it is the same, but that nothing changes meanwhile.
            (Action::FollowDeletions, Stage::Following) => state.compare_keys(false),
            (Action::FollowDeletions, _) => state.keys_checked = state.copy_planned,
            (Action::CompareSides, _) => {
                let live = state.source.iter().flatten();
                let withheld = live.clone().filter(|place| state.quarantined.has(**place)).count();
                if live.count() - withheld == state.documents() {
                    state.compared(state.documents());
                } else {
                    state.compare_keys(true);
                }
            }
            (Action::StopWorkers, Stage::Compared(verdict)) => state.stage = Stage::Stopped(verdict),
            (Action::CountAgain, Stage::Stopped(verdict)) => {
                let is_same = verdict.documents == state.documents() || !self.rules.counted_again;
                state.repeated = (state.repeated + u8::from(!is_same)).min(MOST_REPEATED + 1);
                state.stage = if is_same { Stage::Judged(verdict) } else { Stage::Blocked };
            }
            (Action::DeleteExtra, _) => state.delete_extra(self.rules),
            (Action::Block, _) => state.stage = Stage::Blocked,
            (Action::Finish, _) => state.stage = Stage::Completed,
            _ => {}
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut source = [None; KEYS];
        for (live, position) in source.iter_mut().zip(0..) {
            *live = Some(Place { shard: 0, position });
        }
        vec![State {
            source,
            ends: [i64::try_from(KEYS).unwrap(), 0],
            destination: [Slot::default(); KEYS],
            units: Vec::new(),
            workers: [Worker::Idle; 2],
            late: None,
            stage: Stage::Following,
            pass: 0,
            copy_planned: [0; SHARDS],
            verify_planned: [0; SHARDS],
            keys_checked: [0; SHARDS],
            left: self.budget,
            copied: Places::default(),
            verified: Places::default(),
            quarantined: Places::default(),
            accepted_twice: false,
            went_back: false,
            moved_by_a_stranger: false,
            repeated: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        Self::of_application(state, actions);
        state.engine(actions);
        for worker in 0..2 {
            self.of_worker(state, worker, actions);
        }
        actions.extend(state.late.map(|_| Action::LateArrival));
        let is_deleted = |slot: &Slot| slot.version > 0 && slot.content.is_none();
        let forgets = state.left.forgotten > 0;
        let forgotten = (0..KEYS).filter(|&key| forgets && is_deleted(&state.destination[key]));
        actions.extend(forgotten.map(Action::Forget));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Update(key) => {
                state.left.updates -= 1;
                let shard = state.source[key]?.shard;
                state.source[key] = Some(state.next_place(shard));
            }
            Action::Delete(key) => {
                state.left.deletions -= 1;
                let shard = state.source[key].take()?.shard;
                state.next_place(shard);
            }
            Action::Insert { key, shard } => {
                state.left.insertions -= 1;
                state.source[key] = Some(state.next_place(shard));
            }
            Action::Plan(kind) => state.plan(self.rules, kind),
            Action::FollowDeletions
            | Action::Block
            | Action::CompareSides
            | Action::DeleteExtra
            | Action::StopWorkers
            | Action::CountAgain
            | Action::Finish => self.of_engine(&mut state, action),
            Action::Forget(key) => {
                state.left.forgotten -= 1;
                state.destination[key] = Slot::default();
            }
            Action::TakeLease { worker, unit } => {
                let taken = &mut state.units[unit];
                state.left.takeovers -= u8::from(taken.holder.is_some());
                taken.holder = Some(worker);
                taken.facts.leased = true;
                taken.facts.epoch += 1;
                state.workers[worker] =
                    Worker::Leased(Lease { unit, epoch: taken.facts.epoch, cursor: taken.facts.cursor });
            }
            Action::ReadWindow(worker) => {
                let Worker::Leased(lease) = state.workers[worker] else { return None };
                let place = Place { shard: state.units[lease.unit].shard, position: lease.cursor };
                state.workers[worker] = match state.live_at(place) {
                    Some(hit) => Worker::Read { lease, hit, attempt: 0 },
                    None => Worker::Settled { lease, quarantined: false },
                };
            }
            Action::Send { worker, heard } => self.of_sending(&mut state, worker, heard),
            Action::LookUp(worker) => {
                let Worker::Read { lease, hit, attempt } = state.workers[worker] else { return None };
                state.look_up(worker, lease, hit, attempt);
            }
            Action::Checkpoint { worker, heard } => {
                let (lease, quarantined) = match state.workers[worker] {
                    Worker::Settled { lease, quarantined } => (lease, quarantined),
                    Worker::Read { lease, .. } => (lease, false),
                    Worker::Idle | Worker::Leased(_) | Worker::Repairing { .. } => return None,
                };
                state.left.lost_answers -= u8::from(!heard);
                state.checkpoint(self.rules, worker, lease, quarantined, heard);
            }
            Action::Die(worker) => Self::of_dying(&mut state, worker),
            Action::LateArrival => {
                let write = state.late.take()?;
                if state.may_write(self.rules) {
                    state.write(self.rules, write);
                }
            }
        }
        state.normalize();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::properties::all()
    }
}

/// Whether every unit that is stored can exist.
pub fn units_are_sound(state: &State) -> bool {
    state.units.iter().all(|unit| is_sound(&unit.facts))
}
